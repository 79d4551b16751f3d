"""Decoders with their heads, by task: the trunk of a call, and its auxiliary branches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import Attribute, evolve, field, frozen

from composer.parts import (
    ClassificationHead,
    Decoder,
    EmbeddingHead,
    Head,
    Part,
    RegressionHead,
    ScalarHead,
    SegmentationHead,
)
from composer.parts.validators import FINAL_ACTIVATIONS
from composer.terratorch.calls import Arguments, Diagnostics, construct, is_module, route_arguments
from composer.terratorch.decoders import build_decoder

if TYPE_CHECKING:
    from torch import nn

HEADS: dict[str, type[Head]] = {
    "segmentation": SegmentationHead,
    "regression": RegressionHead,
    "classification": ClassificationHead,
    "scalar_regression": ScalarHead,
    "embedding_generation": EmbeddingHead,
}
"""The head of each task."""

PIXEL_WISE = ("segmentation", "regression")

EMBEDDING_TASK = "embedding_generation"

NUM_CLASSES, NUM_OUTPUTS = "num_classes", "num_outputs"


def _validate_name(_: object, __: Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= 60 or "." in value:
        raise ValueError(f"name must have from 1 to 60 characters, and no dot (got {value!r})")


def _convert_arguments(value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"decoder_args must be a dict of arguments (got {value!r})")
    return value or {}


@frozen
class AuxiliaryHead:
    """An auxiliary branch: its name, its decoder, and arguments of both that begin with `decoder_` and `head_`."""

    name: str = field(validator=_validate_name)
    decoder: str | nn.Module
    decoder_args: Mapping[str, Any] = field(default=None, converter=_convert_arguments)


def normalize_branch(name: str) -> str:
    """Return the name of an auxiliary head in a graph: `fcn-aux_1` becomes `fcn_aux_1`, and `_x` becomes `aux_x`.

    TerraTorch accepts any name without a dot; a node's name is letters, digits and _, and begins with a letter.
    """
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain[:1].isalpha() else f"aux{'' if plain.startswith('_') else '_'}{plain}"


def iter_auxiliary_heads(entries: Any, report: Diagnostics) -> Iterator[tuple[str, AuxiliaryHead]]:
    """Yield the path and the fields of each valid auxiliary head: dicts, or objects of TerraTorch's class or ours.

    No two have the same name in the graph.
    """
    if not isinstance(entries, list | tuple):
        report.add_problem("aux_decoders", f"auxiliary heads are a list (got {entries!r}).", code="type")
        return
    labels = set()
    for position, entry in enumerate(entries):
        path, names = f"aux_decoders[{position}]", ("name", "decoder", "decoder_args")
        is_dict = isinstance(entry, Mapping)
        values = dict(entry) if is_dict else {name: getattr(entry, name) for name in names if hasattr(entry, name)}
        head = construct(AuxiliaryHead, Arguments(path, f"{path}.", values), report, "an auxiliary head")
        if head is None:
            continue
        label = normalize_branch(head.name)
        if label in labels:
            # TerraTorch keeps the last head of a name, and builds the others for nothing.
            message = f"there is an auxiliary head {label!r} already."
            report.add_problem(f"{path}.name", message, "choose another name", "node")
            continue
        labels.add(label)
        yield path, head


@frozen
class BranchBuilder:
    """Build the decoders and heads of one call. `outputs` is its argument for the number of predicted values."""

    task: str
    outputs: tuple[str, Any] | None
    head: Arguments
    report: Diagnostics

    def build_trunk(self, decoder: Any, arguments: Arguments) -> tuple[Part, ...]:
        """Build the decoder of a call and, unless it includes one, the head."""
        if self.outputs is not None and self.head.get(*self.outputs) != self.outputs[1]:
            name, value = self.outputs
            self.report.add_ignored(self.head, [name], f"{name}: {value} is given beside it")
        return self._build_branch("", decoder, arguments, self.head)

    def build_auxiliary(self, path: str, head: AuxiliaryHead) -> tuple[Part, ...]:
        """Build an auxiliary branch. Its head gets the arguments of the main one, as in TerraTorch."""
        within = f"{path}.decoder_args."
        arguments, rest = route_arguments("decoder_", f"{path}.decoder", None, head.decoder_args, within)
        own, rest = route_arguments("head_", path, None, rest, within)
        for name in rest:
            message = f"{name} was passed but not used: an argument begins with decoder_ or head_."
            self.report.add_problem(f"{within}{name}", message, f"write decoder_{name}", "unused")
        parts = self._build_branch(f"aux.{normalize_branch(head.name)}.", head.decoder, arguments, own)
        if len(parts) == 2:
            fix = f"aux: {{{head.name}: {{head: …}}}} has arguments of its own"
            self.report.add_ignored(own, own, "auxiliary heads get the arguments of the main head", fix)
        return parts

    def _build_branch(self, branch: str, decoder: Any, arguments: Arguments, own: Arguments) -> tuple[Part, ...]:
        """Build a decoder and perhaps a head, for which the branch itself has the arguments `own`."""
        head = self.head
        if self.outputs is not None:
            name, value = self.outputs
            head = evolve(head.replace(**{name: value}), paths={**head.paths, name: name})
        self.report.origins |= {f"{branch}decoder": arguments, f"{branch}head": head}
        part = self._build_decoder(decoder, arguments)
        if part is not None and part.includes_head:
            label = decoder if isinstance(decoder, str) else type(decoder).__name__
            for name in own:
                message = f"{label} includes a head, so there is none for {name}."
                self.report.add_problem(own.locate(name), message, "leave it out", "unused")
            return (part,)
        built = build_head(self.task, head, self.report)
        return tuple(entry for entry in (part, built) if entry is not None)

    def _build_decoder(self, decoder: Any, arguments: Arguments) -> Decoder | None:
        if isinstance(decoder, str):
            classes = {} if self.outputs is None else {NUM_CLASSES: self.outputs[1]}
            return build_decoder(decoder, arguments, classes, self.report)
        if not is_module(decoder):
            message = f"a decoder is the name of one, or a module (got {decoder!r})."
            self.report.add_problem(arguments.owner, message, "decoder: FCNDecoder", "type")
            return None
        from composer.terratorch.live import ModuleDecoder

        self.report.add_ignored(arguments, arguments, "the decoder is made already")
        includes_head = bool(getattr(decoder, "includes_head", False))
        if includes_head:
            message = "TerraTorch puts a head of its own behind this decoder, although it says that it includes one."
            self.report.add_note(arguments.owner, message)
        return ModuleDecoder(decoder, includes_head=includes_head)


def get_output_names(task: str) -> tuple[str, str]:
    """Return the task's own argument for the number of predicted values, and the argument of the other tasks."""
    regression = task in ("regression", "scalar_regression")
    return (NUM_OUTPUTS, NUM_CLASSES) if regression else (NUM_CLASSES, NUM_OUTPUTS)


def build_head(task: str, arguments: Arguments, report: Diagnostics) -> Head | None:
    """Build the head that TerraTorch builds for these arguments; None, with problems, where they are invalid."""
    name, other = get_output_names(task)
    if task == "scalar_regression" and name not in arguments:
        arguments = arguments.rename(**{other: name})
    if other in arguments and name not in arguments:
        fix = f"{name}: {arguments.get(other)}"
        report.add_problem(arguments.locate(other), f"{task} takes {name}, not {other}.", fix, "unused")
        return None
    if name not in arguments and task != "regression":
        report.add_problem(name, f"{task} needs {name}.", "say how many are to be predicted", "key")
        return None
    if task == "regression":
        arguments = _prepare_regression(arguments, report)
    return construct(HEADS[task], arguments, report)


def _prepare_regression(arguments: Arguments, report: Diagnostics) -> Arguments:
    if arguments.get("batch_norm") is False:
        fix = "RegressionHead: {batch_norm: false} does what it says"
        report.add_ignored(arguments, ["batch_norm"], "the head is built with batch norm", fix)
    arguments = arguments.drop("batch_norm")
    if arguments.get("final_act") is None:
        return arguments.drop("final_act")
    return arguments.replace(final_act=_parse_activation(arguments, report))


def _parse_activation(arguments: Arguments, report: Diagnostics) -> str | None:
    """Return the name of an activation: a path, `torch.nn.Sigmoid`, or a module. Nothing is imported."""
    act: Any = arguments.get("final_act")
    path = act if isinstance(act, str) else f"{type(act).__module__}.{type(act).__name__}"
    home, _, name = path.rpartition(".")
    known = (home == "torch.nn" or home.startswith("torch.nn.modules.")) and name in FINAL_ACTIVATIONS
    # A module with arguments of its own shows them. Softmax is over the channels.
    if known and (isinstance(act, str) or repr(act) in (repr(type(act)()), "Softmax(dim=1)")):
        return name
    message = f"final_act is torch.nn.X (got {act!r}); nothing is imported or called by its name."
    fix = f"choose one of {', '.join(FINAL_ACTIVATIONS)}, or apply the function to the model's output"
    report.add_problem(arguments.locate("final_act"), message, fix)
    return None
