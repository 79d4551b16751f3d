"""Translate a call of TerraTorch's factory into a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from composer.errors import Problem, SpecError, suggest
from composer.graph import Graph, chain
from composer.layouts import Features
from composer.parts import EmbeddingHead, Neck, Part, ProbedEncoder, SelectIndices
from composer.terratorch.backbones import Backbone, Describe, build_named_backbone, build_necks, check_permutation
from composer.terratorch.calls import (
    EMBEDDING_TASK,
    HEADS,
    PIXEL_WISE,
    Arguments,
    Diagnostics,
    iter_auxiliary_heads,
    normalize_branch,
    route_arguments,
)
from composer.terratorch.decoders import BranchBuilder, DecoderBuilder

FACTORY_ARGUMENTS = (
    "task",
    "backbone",
    "decoder",
    "backbone_kwargs",
    "decoder_kwargs",
    "head_kwargs",
    "num_classes",
    "num_outputs",
    "necks",
    "aux_decoders",
    "rescale",
    "image_size_out",
    "peft_config",
)
"""The arguments that `build_model` has names for."""


@frozen
class Translation:
    """The graph of a call, and notes on what TerraTorch does with it that it does not say."""

    graph: Graph
    notes: tuple[Problem, ...] = field(converter=tuple[Problem, ...])
    branches: Mapping[str, str] = field(factory=dict)
    """What the call calls the branches that a graph cannot call so: `{"fcn_aux_1": "fcn-aux_1"}`."""


BackboneBuilder = Callable[[Any, Arguments, Diagnostics], Backbone | None]


@frozen(kw_only=True)
class ModuleBuilders:
    """What makes parts of live modules that are handed in. A config holds none."""

    backbone: BackboneBuilder | None = None
    decoder: DecoderBuilder | None = None


def translate(call: Mapping[str, Any], describe: Describe, modules: ModuleBuilders = ModuleBuilders()) -> Translation:
    """What `EncoderDecoderFactory().build_model(**call)` builds, as a graph.

    Raises SpecError, with all problems, where there is nothing that it could build, or nothing that would work. The
    path of a problem is that of the argument: `decoder_channels`, `necks[1].indices`.
    """
    ledger = Diagnostics()
    given, rest = _split_call(call)
    task = _resolve_task(given.get("task"), ledger)
    arguments, rest = route_arguments("backbone_", given.get("backbone_kwargs"), rest)
    backbone = _build_backbone(given.get("backbone"), arguments, ledger, describe, modules)
    if backbone is not None:
        check_permutation(arguments, _get_backbone_features(backbone, describe), ledger)
    necks = build_necks(given.get("necks"), ledger) or _get_fallback_necks(task, backbone, ledger)
    trunk, branches, rest = _build_branches(task, given, rest, ledger, modules)
    _check_all_used(rest, given, ledger)
    _check_output_size(task, given, ledger)
    ledger.close()
    assert backbone is not None
    try:
        graph = _build_graph(
            task, given, backbone, necks, trunk, {normalize_branch(name): parts for name, parts in branches.items()}
        )
    except ValueError as error:
        said = str(error).replace("crop", "image_size_out")
        ledger.add_problem(said.split(" ")[0], f"{said}.")
        raise SpecError(ledger.problems) from None
    return Translation(
        graph, ledger.notes, {normalize_branch(name): name for name in branches if normalize_branch(name) != name}
    )


def _check_all_used(rest: Mapping[str, Any], given: Mapping[str, Any], ledger: Diagnostics) -> None:
    for name in rest:
        beside = f"{name.partition('_')[0]}_kwargs"
        repair = (
            f"write it into {beside}"
            if given.get(beside)
            else suggest(name, FACTORY_ARGUMENTS, limit=len(FACTORY_ARGUMENTS))
        )
        ledger.add_problem(name, f"{name} was passed but not used.", repair, code="unused")


def _check_output_size(task: str, given: Mapping[str, Any], ledger: Diagnostics) -> None:
    """Note what is said of the size of an output that has none."""
    if task not in PIXEL_WISE:
        for name in ("rescale", "image_size_out"):
            if name in given and given[name] is not True:
                ledger.add_note(name, f"the output of {task} has no size, and TerraTorch ignores {name}.")


def _split_call(call: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    given = {name: call[name] for name in FACTORY_ARGUMENTS if name in call and not _is_empty(call[name])}
    return given, {name: value for name, value in call.items() if name not in FACTORY_ARGUMENTS}


def _is_empty(value: Any) -> bool:
    """Whether an argument asks for nothing: TerraTorch's embedding task passes `aux_decoders=[]`."""
    return value is None or (isinstance(value, list | tuple | Mapping) and not value)


def _resolve_task(task: Any, ledger: Diagnostics) -> str:
    name = task.lower() if isinstance(task, str) else task
    if name in HEADS:
        return str(name)
    ledger.add_problem("task", f"the factory has no task {task!r}.", suggest(str(task), HEADS), code="unknown")
    return "segmentation"


def _build_backbone(
    given: Any, arguments: Arguments, ledger: Diagnostics, describe: Describe, modules: ModuleBuilders
) -> Backbone | None:
    if isinstance(given, str):
        return build_named_backbone(given, arguments, ledger, describe)
    if given is not None and modules.backbone is not None:
        return modules.backbone(given, arguments, ledger)
    code = "missing" if given is None else "type"
    ledger.add_problem(
        "backbone", f"a backbone is the name of a network (got {given!r}).", "backbone: timm_resnet50", code
    )
    return None


def _get_fallback_necks(task: str, backbone: Backbone | None, ledger: Diagnostics) -> list[Neck]:
    """The necks for the hook of a backbone, which TerraTorch calls where no neck is given, but for embeddings."""
    if backbone is None or task == EMBEDDING_TASK:
        return []
    if any(isinstance(neck, SelectIndices) for neck in backbone.fallback):
        message = "the backbone's own hook hands on its last feature alone, and TerraTorch builds a decoder for all."
        ledger.add_note("backbone", message, "necks: [{name: ReshapeTokensToImage}] hands on all of them")
    return list(backbone.fallback)


def _get_backbone_features(backbone: Backbone, describe: Describe) -> Features:
    """What a backbone gives of a still."""
    encoder = backbone.encoder
    facts = describe(encoder, backbone.image.channels) if isinstance(encoder, ProbedEncoder) else encoder
    return getattr(facts, "features", ())


BuiltBranches = tuple[list[Part], dict[str, tuple[Part, ...]], dict[str, Any]]


def _build_branches(
    task: str, given: Mapping[str, Any], rest: dict[str, Any], ledger: Diagnostics, modules: ModuleBuilders
) -> BuiltBranches:
    """Decoder and head, the auxiliary branches, and the arguments that are left."""
    decoder = given.get("decoder")
    decoder_arguments, rest = route_arguments("decoder_", given.get("decoder_kwargs"), rest)
    head_arguments, rest = route_arguments("head_", given.get("head_kwargs"), rest)
    if task == EMBEDDING_TASK:
        unused = [name for name in ("decoder", "num_classes", "num_outputs", "aux_decoders") if name in given]
        unused += [arguments.path(name) for arguments in (decoder_arguments, head_arguments) for name in arguments]
        for path in unused:
            ledger.add_note(path, f"an embedding has no use for {path}, and TerraTorch drops it.")
        return [EmbeddingHead()], {}, rest
    if "num_classes" in given and "num_outputs" in given:
        ledger.add_problem(
            "num_outputs", "one of num_outputs and num_classes is given, not both.", "leave one out", "unused"
        )
        given = {name: value for name, value in given.items() if name != _SUPERFLUOUS[task]}
    if decoder is None:
        ledger.add_problem("decoder", f"{task} needs a decoder.", "decoder: FCNDecoder", code="missing")
        return [], {}, rest
    outputs = next(((name, given[name]) for name in ("num_outputs", "num_classes") if name in given), None)
    branches = BranchBuilder(task, outputs, head_arguments, ledger, modules.decoder)
    trunk = branches.build_trunk(decoder, decoder_arguments)
    heads = iter_auxiliary_heads(given.get("aux_decoders"), ledger)
    aux = {head["name"]: branches.auxiliary(head, path) for path, head in heads}
    return list(trunk), aux, rest


_SUPERFLUOUS = {
    "segmentation": "num_outputs",
    "classification": "num_outputs",
    "regression": "num_classes",
    "scalar_regression": "num_classes",
}
"""Of two names for how much is predicted, the one that is not the task's own."""


def _build_graph(
    task: str,
    given: Mapping[str, Any],
    backbone: Backbone,
    necks: list[Neck],
    trunk: list[Part],
    aux: Mapping[str, tuple[Part, ...]],
) -> Graph:
    pixel_wise = task in PIXEL_WISE
    return chain(
        backbone.encoder,
        *backbone.pooling,
        *necks,
        *trunk,
        aux=aux,
        input=backbone.image,
        rescale=given.get("rescale", True) if pixel_wise else True,
        crop=given.get("image_size_out") if pixel_wise else None,
        padding=backbone.padding,
    )
