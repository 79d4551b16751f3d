"""A call of TerraTorch's factory as a graph. No torch here.

The graph is what TerraTorch would really have built, number for number. Where that is not what the call seems to say,
a note names the place, and the option of composer's that does what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from composer.graph import Graph, chain
from composer.parts import Decoder, Head, Neck, Part
from composer.problem import Problem, SpecError, nearest
from composer.terratorch.arguments import Arguments, Ledger, routed
from composer.terratorch.backbones import Backbone, Describe, timm_backbone
from composer.terratorch.decoders import Request, decoder_of
from composer.terratorch.heads import EMBEDDING, HEADS, PIXEL_WISE, head_of
from composer.terratorch.necks import necks_of

KNOWN = (
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


LiveBackbone = Callable[[Any, Arguments, Ledger], Backbone | None]
LiveDecoder = Callable[[Any], Decoder]


@frozen(kw_only=True)
class Modules:
    """What makes parts of live modules that are handed in. A config holds none."""

    backbone: LiveBackbone | None = None
    decoder: LiveDecoder | None = None


def translate(call: Mapping[str, Any], describe: Describe, modules: Modules = Modules()) -> Translation:
    """What `EncoderDecoderFactory().build_model(**call)` builds, as a graph.

    Raises SpecError, with all problems, where there is nothing that it could build, or nothing that would work. The
    path of a problem is that of the argument: `decoder_channels`, `necks[1].indices`.
    """
    ledger = Ledger()
    given, rest = _split(call)
    task = _task(given.get("task"), ledger)
    arguments, rest = routed("backbone_", given.get("backbone_kwargs"), rest)
    backbone = _backbone(given.get("backbone"), arguments, ledger, describe, modules)
    necks = necks_of(given.get("necks"), ledger)
    trunk, aux, rest = _ends(task, given, rest, ledger, modules)
    for name in rest:
        ledger.refuse(name, f"{name} was passed but not used.", nearest(name, KNOWN), code="unused")
    ledger.close()
    assert backbone is not None
    try:
        return Translation(_graph(task, given, backbone, necks, trunk, aux), ledger.notes)
    except ValueError as error:
        name = "image_size_out" if str(error).startswith("crop") else str(error).split(" ")[0]
        ledger.refuse(name, f"{error}.", code="value")
        raise SpecError(ledger.problems) from None


def _split(call: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    given = {name: call[name] for name in KNOWN if name in call and call[name] is not None}
    return given, {name: value for name, value in call.items() if name not in KNOWN}


def _task(task: Any, ledger: Ledger) -> str:
    name = task.lower() if isinstance(task, str) else task
    if name in HEADS:
        return str(name)
    ledger.refuse("task", f"the factory has no task {task!r}.", nearest(str(task), HEADS), code="unknown")
    return "segmentation"


def _backbone(
    given: Any, arguments: Arguments, ledger: Ledger, describe: Describe, modules: Modules
) -> Backbone | None:
    if isinstance(given, str):
        name = given.removeprefix("timm_")
        return timm_backbone(name, "backbone", arguments, ledger, describe)
    if given is not None and modules.backbone is not None:
        return modules.backbone(given, arguments, ledger)
    ledger.refuse("backbone", f"a backbone is the name of a network (got {given!r}).", code="missing")
    return None


Ends = tuple[list[Part], dict[str, tuple[Part, ...]], dict[str, Any]]


def _ends(task: str, given: Mapping[str, Any], rest: dict[str, Any], ledger: Ledger, modules: Modules) -> Ends:
    """Decoder and head, the auxiliary branches, and the arguments that are left."""
    decoder = given.get("decoder")
    decoder_arguments, rest = routed("decoder_", given.get("decoder_kwargs"), rest)
    head_arguments, rest = routed("head_", given.get("head_kwargs"), rest)
    if task == EMBEDDING:
        for path in ("decoder", "num_classes", "num_outputs", "aux_decoders"):
            if path in given:
                ledger.note(path, f"an embedding has no use for {path}, and TerraTorch drops it.")
        head = head_of(task, Arguments("task"), ledger)
        return [part for part in [head] if part is not None], {}, rest
    if given.get("num_classes") is not None and given.get("num_outputs") is not None:
        ledger.refuse("num_outputs", "one of num_outputs and num_classes is given, not both.", "leave one out")
    if decoder is None:
        ledger.refuse("decoder", f"{task} needs a decoder.", "decoder: FCNDecoder", code="missing")
        return [], {}, rest
    branch = _Branch(task, given, ledger, modules)
    head_arguments = branch.with_outputs(head_arguments)
    trunk = branch.parts(decoder, "decoder", decoder_arguments, head_arguments)
    aux = {
        str(entry.get("name")): branch.auxiliary(entry, f"aux_decoders[{position}]", head_arguments)
        for position, entry in enumerate(_entries(given.get("aux_decoders"), ledger))
    }
    return list(trunk), aux, rest


def _entries(given: Sequence[Any] | None, ledger: Ledger) -> list[Mapping[str, Any]]:
    """Auxiliary heads as mappings: TerraTorch's class has the same three names."""
    found: list[Mapping[str, Any]] = []
    for position, entry in enumerate(given or ()):
        as_mapping = (
            dict(entry)
            if isinstance(entry, Mapping)
            else {name: getattr(entry, name, None) for name in ("name", "decoder", "decoder_args")}
        )
        path = f"aux_decoders[{position}]"
        for name in as_mapping:
            if name not in ("name", "decoder", "decoder_args"):
                ledger.refuse(f"{path}.{name}", f"an auxiliary head has no {name!r}.", "put it into decoder_args")
        for name in ("name", "decoder"):
            if as_mapping.get(name) is None:
                ledger.refuse(path, f"an auxiliary head needs a {name}.", code="missing")
        found.append(as_mapping)
    return found


@frozen
class _Branch:
    """Makes decoders and heads for a task, for the trunk and beside it."""

    task: str
    given: Mapping[str, Any]
    ledger: Ledger
    modules: Modules

    @property
    def outputs(self) -> int | None:
        """How many values are to be predicted."""
        return self.given.get("num_outputs") or self.given.get("num_classes")

    def with_outputs(self, head: Arguments) -> Arguments:
        """The arguments of a head, with the number of outputs under the name that the caller used."""
        key = "num_outputs" if self.given.get("num_outputs") is not None else "num_classes"
        return head if self.outputs is None else head.with_(**{key: self.outputs})

    def parts(self, decoder: Any, path: str, arguments: Arguments, head: Arguments) -> tuple[Part, ...]:
        """A decoder and, unless it ends in a prediction, a head."""
        made = self._decoder(decoder, path, arguments)
        if made is None:
            return ()
        if not made.includes_head:
            after: Head | None = head_of(self.task, head, self.ledger)
            return (made,) if after is None else (made, after)
        for name in head:
            if name not in ("num_classes", "num_outputs"):
                self.ledger.refuse(
                    head.path(name), f"{decoder} includes a head, so there is none for {name}.", "leave it out"
                )
        return (made,)

    def auxiliary(self, entry: Mapping[str, Any], path: str, head: Arguments) -> tuple[Part, ...]:
        """A branch beside the trunk. Its head is made with the arguments of the main one, as in TerraTorch."""
        within = f"{path}.decoder_args"
        arguments, rest = routed("decoder_", None, entry.get("decoder_args") or {}, within)
        own, rest = routed("head_", None, rest, within)
        for name in rest:
            self.ledger.refuse(f"{within}.{name}", f"{name} was passed but not used.", code="unused")
        for name in own:
            self.ledger.note(
                own.path(name),
                f"TerraTorch makes auxiliary heads with the arguments of the main head, and ignores head_{name}.",
                f"aux: {{{entry.get('name')}: {{head: …}}}} has arguments of its own",
            )
        return self.parts(entry.get("decoder"), f"{path}.decoder", arguments, head)

    def _decoder(self, decoder: Any, path: str, arguments: Arguments) -> Decoder | None:
        if isinstance(decoder, str):
            return decoder_of(Request(decoder, path, arguments, self.outputs), self.ledger)
        if decoder is not None and self.modules.decoder is not None:
            for name in arguments:
                self.ledger.refuse(
                    arguments.path(name), f"{name} was passed but not used: the decoder is made already."
                )
            return self.modules.decoder(decoder)
        if decoder is not None:
            self.ledger.refuse(path, f"a decoder is the name of one (got {decoder!r}).")
        return None


def _graph(
    task: str,
    given: Mapping[str, Any],
    backbone: Backbone,
    necks: list[Neck],
    trunk: list[Part],
    aux: Mapping[str, tuple[Part, ...]],
) -> Graph:
    pixel_wise = task in PIXEL_WISE
    # TerraTorch calls the hook of a backbone where no neck is given, but for embeddings.
    necks = necks or list(() if task == EMBEDDING else backbone.fallback)
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
