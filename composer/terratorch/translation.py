"""Translate a call of TerraTorch's factory into a graph, and name its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import evolve, field, frozen

from composer.adapters.mmseg.parts import Mmseg
from composer.adapters.smp import translation as smp
from composer.errors import Problem, SpecError, suggest
from composer.graph import Graph, chain, get_module_path
from composer.inference import Describe
from composer.parts import EmbeddingHead, Encoder, Part, SelectIndices, TemporalPooling, Timm, UNetDecoder
from composer.terratorch.backbones import Backbone, build_necks
from composer.terratorch.branches import (
    EMBEDDING_TASK,
    HEADS,
    PIXEL_WISE,
    BranchBuilder,
    get_output_names,
    iter_auxiliary_heads,
    normalize_branch,
)
from composer.terratorch.calls import Arguments, Diagnostics, is_module, route_arguments
from composer.terratorch.named import IMAGE_ARGUMENTS, TERRATORCH_FIELDS, build_named_backbone

_COMPONENT_ARGUMENTS = ("backbone_kwargs", "decoder_kwargs", "head_kwargs")

FACTORY_ARGUMENTS = (
    *("task", "backbone", "decoder", "num_classes", "num_outputs", "necks", "aux_decoders"),
    *("rescale", "image_size_out", "peft_config", *_COMPONENT_ARGUMENTS),
)
"""The named arguments of `build_model`."""


@frozen
class Translation:
    """The graph of a call, and notes on where TerraTorch does otherwise than the call says.

    `branches` maps branches of the graph to the names that the call has for them, where a graph cannot hold those:
    `{"fcn_aux_1": "fcn-aux_1"}`.
    """

    graph: Graph
    notes: tuple[Problem, ...] = field(converter=tuple[Problem, ...])
    branches: Mapping[str, str] = field(factory=dict)


def translate(call: Mapping[str, Any], describe: Describe, report: Diagnostics | None = None) -> Translation:
    """Return the graph of the model that `EncoderDecoderFactory().build_model(**call)` builds.

    Raises SpecError, with all problems, where TerraTorch could not build a model, or not one that works. The path of a
    problem is that of the argument: `decoder_channels`, `necks[1].indices`. `report` may hold problems found before.
    """
    report = Diagnostics() if report is None else report
    named = _get_named_arguments(call, report)
    rest = {name: value for name, value in call.items() if name not in FACTORY_ARGUMENTS}
    task = str(named.get("task")).lower()
    if task not in HEADS:
        report.add_problem("task", f"the factory has no task {call.get('task')!r}.", suggest(task, HEADS), "part")
        task = "segmentation"
    arguments, rest = route_arguments("backbone_", "backbone", named.get("backbone_kwargs"), rest)
    report.origins |= {
        "encoder": arguments,
        "image": evolve(arguments, owner=arguments.locate("in_chans")),
        "padding": arguments,
        "crop": Arguments("image_size_out", ""),
        "rescale": Arguments("rescale", ""),
    }
    backbone = _build_backbone(named.get("backbone"), arguments, report, describe)
    pooling = () if backbone is None else backbone.pooling
    necks = build_necks(named.get("necks", ()), len(pooling), report)
    if not necks and backbone is not None and task != EMBEDDING_TASK:
        # TerraTorch calls the backbone's own hook where no neck is given.
        necks = list(backbone.fallback)
        if any(isinstance(neck, SelectIndices) for neck in necks):
            message = "the backbone's own hook hands on its last feature alone, and TerraTorch builds a decoder for all"
            report.add_note("backbone", f"{message}.", "necks: [{name: ReshapeTokensToImage}] hands on all of them")
    trunk, branches, rest = _build_branches(task, named, rest, report)
    for name in rest:
        kwargs = f"{name.partition('_')[0]}_kwargs"
        known = suggest(name, FACTORY_ARGUMENTS, limit=len(FACTORY_ARGUMENTS))
        # Other factories of TerraTorch take these without the prefix.
        if name in (*TERRATORCH_FIELDS, *IMAGE_ARGUMENTS, "merge_method"):
            is_timm = backbone is not None and isinstance(backbone.encoder, Timm)
            known = f"write backbone_{'in_chans' if is_timm and name == 'in_channels' else name}"
        fix = f"write it into {kwargs}" if named.get(kwargs) else known
        report.add_problem(name, f"{name} was passed but not used.", fix, "unused")
    output = Arguments("", "", {name: named[name] for name in ("rescale", "image_size_out") if name in named})
    if task not in PIXEL_WISE:
        unread = [name for name in output if output.get(name) is not True]
        report.add_ignored(output, unread, f"the output of {task} has no size")
        output = Arguments("", "")
    if output.get("rescale") is False and "image_size_out" in output:
        message = "TerraTorch keeps the centre of a map that is not rescaled, and composer returns all of it."
        report.add_note("image_size_out", message, "leave image_size_out out")
        output = output.drop("image_size_out")
    report.raise_problems()
    assert backbone is not None
    images = tuple(backbone.images.values())
    labels = {normalize_branch(name): name for name in branches}
    try:
        graph = chain(
            backbone.encoder,
            *pooling,
            *necks,
            *trunk,
            aux=dict(zip(labels, branches.values(), strict=True)),
            input=images[0][1],
            rescale=output.get("rescale", True),
            crop=output.get("image_size_out"),
            padding=backbone.padding,
        )
    except ValueError as error:
        message = str(error).replace("crop", "image_size_out")
        report.add_problem(message.split(" ")[0], f"{message}.")
        raise SpecError(report.problems) from None
    if len(images) > 1:
        sources = {modality: name for modality, (name, _) in backbone.images.items()}
        graph = evolve(graph, inputs=images, nodes=[evolve(graph.nodes[0], inputs=sources), *graph.nodes[1:]])
    return Translation(graph, report.notes, {label: name for label, name in labels.items() if label != name})


def _get_named_arguments(call: Mapping[str, Any], report: Diagnostics) -> dict[str, Any]:
    # An empty argument is an absent one: TerraTorch's embedding task passes `aux_decoders=[]`.
    empty = [name for name, value in call.items() if isinstance(value, list | tuple | Mapping) and not value]
    named = {name: call[name] for name in FACTORY_ARGUMENTS if call.get(name) is not None and name not in empty}
    for name in _COMPONENT_ARGUMENTS:
        if not isinstance(named.get(name, {}), Mapping):
            report.add_problem(name, f"{name} is a dict of arguments (got {named.pop(name)!r}).", code="type")
    return named


def _build_backbone(backbone: Any, arguments: Arguments, report: Diagnostics, describe: Describe) -> Backbone | None:
    if isinstance(backbone, str):
        return build_named_backbone(backbone, arguments, report, describe)
    if is_module(backbone) or isinstance(backbone, Encoder):
        from composer.terratorch.live import build_module_backbone

        return build_module_backbone(backbone, arguments, report)
    message = f"a backbone is the name of a network (got {backbone!r})."
    report.add_problem("backbone", message, "backbone: timm_resnet50", "key" if backbone is None else "type")
    return None


def _build_branches(
    task: str, named: Mapping[str, Any], rest: dict[str, Any], report: Diagnostics
) -> tuple[tuple[Part, ...], dict[str, tuple[Part, ...]], dict[str, Any]]:
    """Build decoder and head, and the auxiliary branches; return them, and the arguments that are left."""
    decoder_arguments, rest = route_arguments("decoder_", "decoder", named.get("decoder_kwargs"), rest)
    head_arguments, rest = route_arguments("head_", "task", named.get("head_kwargs"), rest)
    if task == EMBEDDING_TASK:
        unread = ("decoder", "num_classes", "num_outputs", "aux_decoders")
        dropped = Arguments("", "", {name: named[name] for name in unread if name in named})
        for unused in (dropped, decoder_arguments, head_arguments):
            report.add_ignored(unused, unused, "an embedding has no use for it")
        return (EmbeddingHead(),), {}, rest
    names = [name for name in get_output_names(task) if name in named]
    if len(names) == 2:
        report.add_problem("num_outputs", "num_classes is given too.", "leave one out", "unused")
    if "decoder" not in named:
        report.add_problem("decoder", f"{task} needs a decoder.", "decoder: FCNDecoder", "key")
        return (), {}, rest
    builder = BranchBuilder(task, (names[0], named[names[0]]) if names else None, head_arguments, report)
    trunk = builder.build_trunk(named["decoder"], decoder_arguments)
    heads = iter_auxiliary_heads(named.get("aux_decoders", ()), report)
    return trunk, {head.name: builder.build_auxiliary(path, head) for path, head in heads}, rest


UNUSED_ATTENTION = "TerraTorch's U-Net has an attention here that it never runs"
UNUSED_LAYER = "smp's DPT never runs the layers of its ViT behind the last block"
_PEFT_PREFIX = "base_model.model."


def normalize_tensor_name(name: str) -> str:
    """Return a name with the branches of the graph for auxiliary heads, and without the wrapper of old versions."""
    parts = [part for part in name.split(".") if part != "_timm_module"]
    before = ["", *parts[:-1]]
    return ".".join(
        normalize_branch(part) if parent == "aux_heads" else part for parent, part in zip(before, parts, strict=True)
    )


def list_tensor_names(graph: Graph, key: str) -> tuple[str, ...]:
    """Return the names that a model's tensor may have in a checkpoint of TerraTorch or smp, the likeliest first.

    `key` is its name in the state dict of the model, which it keeps where TerraTorch has no place for it.
    """
    nodes = {f"{'.'.join(get_module_path(node.name))}.": node for node in graph.nodes}
    path = max((path for path in nodes if key.startswith(path)), key=len, default=None)
    if path is None:
        return (key,)
    node, within = nodes[path], key.removeprefix(path)
    place = _find_terratorch_path(graph, node.name)
    if isinstance(node.part, Mmseg):
        # In TerraTorch's wrapper.
        return (f"{place}.decoder.{within}", f"{place}.{within}")
    plain = _iter_classifier_names(graph, node.name, within)
    if node.name != "encoder":
        return (f"{place}.{within}", *smp.list_tensor_names(node.part, within), *plain)
    return (*(f"{place}.{name}" for name in _iter_encoder_names(node.part, within)), *plain)


def _iter_classifier_names(graph: Graph, node: str, within: str) -> Iterator[str]:
    """Yield the names that a tensor has in a classifier of timm, where the model is one: an encoder with its head."""
    parts = {node.name: node.part for node in graph.nodes}
    is_classifier = isinstance(parts.get("encoder"), Timm) and isinstance(parts.get("head"), HEADS["classification"])
    if not is_classifier or "decoder" in parts:
        return
    if node == "encoder":
        yield within
    elif within.startswith("head.2."):
        yield from (within.replace("head.2", layer) for layer in ("head", "fc"))


def find_ignore_reason(graph: Graph, name: str) -> str | None:
    """Return why a tensor of a checkpoint has no place in any model of composer; None where it should have one."""
    for node in graph.nodes:
        if isinstance(node.part, UNetDecoder) and node.part.attention_type is not None:
            # smp makes an attention for the last block too, which takes no finer map to attend to.
            last = len(node.part.channels) - 1
            if name.startswith(f"{_find_terratorch_path(graph, node.name)}.decoder.blocks.{last}.attention1."):
                return UNUSED_ATTENTION
        if getattr(node.part, "name", None) == "DPT" and re.match(r"encoder\.model\.(?!blocks\.)", name):
            return UNUSED_LAYER
    return None


def _find_terratorch_path(graph: Graph, node: str) -> str:
    """Return the path of the module in TerraTorch's model that a node is."""
    kind, *rest = get_module_path(node)
    if kind == "necks" and len(rest) == 1:
        # TerraTorch pools frames inside the encoder, so that the neck that does so here does not count.
        before = [f"necks[{index}]" for index in range(int(rest[0]))]
        pooling = sum(isinstance(n.part, TemporalPooling) for n in graph.nodes if n.name in before)
        return f"neck.{int(rest[0]) - pooling}"
    if kind == "aux" and len(rest) == 2 and rest[1] in ("decoder", "head"):
        return f"aux_heads.{rest[0]}.{('decoder', 'head').index(rest[1])}"
    return ".".join((kind, *rest))


def _iter_encoder_names(part: Part | object, within: str) -> Iterator[str]:
    """Yield the names of an encoder's tensor inside PEFT's wrapper, TerraTorch's for frames or smp's, and timm's."""
    peft = _PEFT_PREFIX if within.startswith(_PEFT_PREFIX) else ""
    plain = within.removeprefix(peft)
    names = [plain]
    if isinstance(part, Timm) and not part.features_only:
        # TerraTorch always takes one of timm's wrappers. One keeps the network as it is; another its children, with
        # the stages of a sequence as children of its own; a third keeps the network, and listens to its layers.
        names += [f"model.{plain}", plain.replace(".", "_", 1), f"body.{plain}"]
    for outer in ("", "encoder.", "model."):
        for name in names:
            yield f"{peft}{outer}{name}"
