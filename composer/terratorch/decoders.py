"""TerraTorch's decoders and mmseg heads as parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from composer.adapters.mmseg.contracts import GN_GROUPS
from composer.adapters.mmseg.parts import MMSEG_HEAD_ARGUMENTS as MMSEG_ARGUMENTS
from composer.adapters.mmseg.parts import MMSEG_HEAD_ARGUMENTS as MMSEG_HEAD_ARGUMENTS
from composer.adapters.mmseg.parts import UNSUPPORTED_HEADS as MMSEG_REFUSED
from composer.adapters.mmseg.parts import UNSUPPORTED_HEADS as UNSUPPORTED_HEADS
from composer.adapters.mmseg.parts import Mmseg
from composer.adapters.smp.parts import SMP_DECODER_ARGUMENTS as SMP_ARGUMENTS
from composer.adapters.smp.parts import Smp
from composer.errors import suggest
from composer.parts import (
    ASPPRegressionHead,
    ASPPSegmentationHead,
    Decoder,
    FCNDecoder,
    IdentityDecoder,
    LinearDecoder,
    MLPDecoder,
    Part,
    UNetDecoder,
    UperNetDecoder,
)
from composer.terratorch.calls import Arguments, Diagnostics, build_head, construct_part, route_arguments

REQUIRED_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "ANNHead": ("channels", "project_channels"),
    "DAHead": ("channels", "pam_channels"),
    "DepthwiseSeparableASPPHead": ("channels", "c1_channels"),
    "EMAHead": ("channels", "ema_channels", "num_bases", "num_stages"),
    "ISAHead": ("channels", "isa_channels"),
    "SegmenterMaskTransformerHead": ("num_layers", "num_heads", "embed_dims"),
}
"""What mmseg's class has no default for, where that is more than `channels`."""


LOSS_ARGUMENTS = ("loss_decode", "loss_se_decode", "ignore_index", "sampler", "threshold", "boundary_threshold")
"""Arguments of mmseg's losses, which TerraTorch never asks for."""


INFERRED_ARGUMENTS = ("feature_strides", "c1_in_channels")
"""Arguments that say of the maps what is known of them."""


NORMS = {"BN": "BN", "SyncBN": "BN", "GN": "GN"}


def build_mmseg_head(name: str, path: str, arguments: Arguments, ledger: Diagnostics) -> Mmseg | None:
    """The head that TerraTorch makes: with mmseg's own defaults, which are a head without norms."""
    if name in UNSUPPORTED_HEADS:
        reason, instead = UNSUPPORTED_HEADS[name]
        ledger.add_problem(
            path, f"mmseg's {name} cannot be had: {reason}.", f"decoder: mmseg_{instead}", code="unknown"
        )
        return None
    for needed in REQUIRED_ARGUMENTS.get(name, ("channels",)):
        if needed not in arguments:
            ledger.add_problem(
                path, f"mmseg's {name} needs {needed}.", f"decoder_{needed}: {_suggest_value(name, needed)}", "missing"
            )
            return None
    if name in ("EncHead", "DAHead") and arguments.get("use_se_loss", True):
        ledger.add_note(
            path, f"TerraTorch fails on {name}, which gives several outputs; here it gives the first of them."
        )
    plain = arguments.without(*LOSS_ARGUMENTS, *INFERRED_ARGUMENTS, "use_se_loss", *_list_unused_arguments(name))
    prepared = _flatten_configs(name, plain, ledger)
    return None if prepared is None else construct_part(Mmseg, prepared.replace(name=name), ledger, f"mmseg's {name}")


def _suggest_value(name: str, argument: str) -> Any:
    usual = MMSEG_HEAD_ARGUMENTS[name][argument]
    return 12 if usual is None and argument == "num_heads" else 768 if usual is None else usual


def _list_unused_arguments(name: str) -> tuple[str, ...]:
    # mmseg demands these too, and makes nothing of them.
    return ("channels", "dropout_ratio", "align_corners") if name == "SegmenterMaskTransformerHead" else ()


def _flatten_configs(name: str, arguments: Arguments, ledger: Diagnostics) -> Arguments | None:
    """Norm, activation and factorisation, which mmseg has as dicts."""
    norm = arguments.get("norm_cfg")
    act = arguments.get("act_cfg")
    if norm is not None and not _is_norm(norm):
        said = f"a norm is BN, SyncBN, or GN in {GN_GROUPS} groups (got {norm!r})."
        ledger.add_problem(arguments.path("norm_cfg"), said, "decoder_norm_cfg: {type: BN}")
        return None
    if act is not None and not isinstance(act, Mapping):
        said = f"an activation has a type (got {act!r})."
        ledger.add_problem(arguments.path("act_cfg"), said, "decoder_act_cfg: {type: ReLU}")
        return None
    told: dict[str, Any] = (
        {"norm": False if norm is None else NORMS[norm["type"]]} if "norm" in MMSEG_HEAD_ARGUMENTS[name] else {}
    )
    told |= {} if act is None else {"act": act.get("type")}
    told |= {"num_convs": 2} if name == "STDCHead" and "num_convs" not in arguments else {}
    # What it draws at every forward in mmseg is drawn once here.
    ham = {key: value for key, value in dict(arguments.get("ham_kwargs") or {}).items() if key != "rand_init"}
    return arguments.without("norm_cfg", "act_cfg", "ham_kwargs").replace(**told, **ham)


def _is_norm(norm: Any) -> bool:
    return isinstance(norm, Mapping) and norm.get("type") in NORMS and norm.get("num_groups", GN_GROUPS) == GN_GROUPS


DECODERS: dict[str, type[Decoder]] = {
    decoder.__name__: decoder
    for decoder in (
        FCNDecoder,
        UperNetDecoder,
        UNetDecoder,
        IdentityDecoder,
        LinearDecoder,
        MLPDecoder,
        ASPPSegmentationHead,
        ASPPRegressionHead,
    )
}
"""The decoders of TerraTorch 1.2.11 that its factory can build, and two whose head it overlooks."""


UNUSABLE_DECODERS = {
    "ASPPHead": "a base class, which the factory cannot build",
    "ASPPModule": "a layer, which the factory cannot build",
    "SatMAEHead": "a head of masked autoencoders, which needs more than features",
    "smp_DPT": "a decoder that smp makes for an encoder of its own alone; composer's smp/DPT takes any ViT",
    "DPT": "a decoder that smp makes for an encoder of its own alone; composer's smp/DPT takes any ViT",
}
"""What TerraTorch registers beside them, and cannot build or run, each with the reason."""


FIRST_MAP_SKIPPED = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer")
"""The decoders of smp that look at other maps, the coarser ones, where the first map counts as level 0."""


MMSEG_HEADS = (*MMSEG_ARGUMENTS, *MMSEG_REFUSED)
"""The heads of mmseg, with those that cannot be had."""


@frozen
class DecoderRequest:
    """What a call says of one decoder: its arguments, and what it is to predict where it has a head of its own."""

    name: str
    path: str
    arguments: Arguments
    classes: int | None = None

    def add_classes(self, field: str) -> Arguments:
        """The arguments, with what is to be predicted under the name that the decoder has for it."""
        return self.arguments if self.classes is None else self.arguments.replace(**{field: self.classes})


def build_decoder(request: DecoderRequest, ledger: Diagnostics) -> Decoder | None:
    """The decoder that TerraTorch would really have built; None, and a problem, where there is none."""
    source, _, short = request.name.partition("_")
    if source == "mmseg" and short in MMSEG_HEADS:
        return build_mmseg_head(short, request.path, request.add_classes("num_classes"), ledger)
    own = short if source == "terratorch" else request.name
    if own in UNUSABLE_DECODERS:
        ledger.add_problem(request.path, f"{own} is {UNUSABLE_DECODERS[own]}.", "decoder: FCNDecoder", code="unknown")
        return None
    if source != "smp" and own in DECODERS:
        prepared = _DECODER_PREPARERS.get(own, _get_arguments)(request, ledger)
        return construct_part(DECODERS[own], prepared, ledger)
    named = short if source == "smp" else request.name
    if source != "terratorch" and named in SMP_ARGUMENTS:
        return _build_smp_decoder(named, request, ledger)
    if source not in ("terratorch", "smp") and request.name in MMSEG_HEADS:
        return build_mmseg_head(request.name, request.path, request.add_classes("num_classes"), ledger)
    known = [*DECODERS, *(f"smp_{name}" for name in SMP_ARGUMENTS), *(f"mmseg_{name}" for name in MMSEG_ARGUMENTS)]
    ledger.add_problem(
        request.path, f"TerraTorch has no decoder {request.name!r}.", suggest(request.name, known), "unknown"
    )
    return None


def _get_arguments(request: DecoderRequest, _: Diagnostics) -> Arguments:
    return request.arguments


def _prepare_linear(request: DecoderRequest, ledger: Diagnostics) -> Arguments:
    """TerraTorch adds a head to a decoder that has one; it cannot build this one unless told its classes twice."""
    if "num_classes" not in request.arguments:
        return request.add_classes("num_classes")
    ledger.add_note(
        request.arguments.path("num_classes"),
        "TerraTorch puts a head of its own behind this decoder, which ends in class scores already.",
        "LinearDecoder without decoder_num_classes gives the scores themselves",
    )
    return request.arguments.replace(includes_head=False)


def _prepare_aspp_segmentation(request: DecoderRequest, _: Diagnostics) -> Arguments:
    return request.add_classes("num_classes").without("in_channels")


def _prepare_aspp_regression(request: DecoderRequest, ledger: Diagnostics) -> Arguments:
    ledger.add_note(
        request.path,
        "TerraTorch puts a regression head behind this one, from its output to the output.",
        "decoder: {ASPPRegressionHead: …} without a head",
    )
    return request.arguments.replace(includes_head=False).without("in_channels")


def _prepare_mlp(request: DecoderRequest, ledger: Diagnostics) -> Arguments:
    """TerraTorch ignores both widths: the hidden layer is as wide as input `out_index`, and the last."""
    for name in ("channels", "out_dim"):
        if name in request.arguments:
            ledger.add_note(
                request.arguments.path(name),
                f"TerraTorch ignores {name}; the layer is as wide as the input.",
                f"MLPDecoder: {{{name}: {request.arguments.get(name)}}} does what it says",
            )
    return request.arguments.replace(channels=None, out_dim=None)


_DECODER_PREPARERS: dict[str, Callable[[DecoderRequest, Diagnostics], Arguments]] = {
    "LinearDecoder": _prepare_linear,
    "MLPDecoder": _prepare_mlp,
    "ASPPSegmentationHead": _prepare_aspp_segmentation,
    "ASPPRegressionHead": _prepare_aspp_regression,
}


def _build_smp_decoder(name: str, request: DecoderRequest, ledger: Diagnostics) -> Decoder | None:
    """smp's model swallows what it does not know, and takes the first level for the image's own resolution."""
    arguments = request.arguments
    if "decoder_use_batchnorm" in arguments and "decoder_use_norm" in SMP_ARGUMENTS[name]:
        # smp's older name for the same.
        arguments = arguments.rename(decoder_use_batchnorm="decoder_use_norm")
    swallowed = [given for given in arguments if given not in SMP_ARGUMENTS[name]]
    for given in swallowed:
        doubled = f"decoder_{given}"
        ledger.add_note(
            arguments.path(given),
            f"smp's decoder {name} has no argument {given!r}, and its model swallows it.",
            f"write decoder_{doubled}"
            if doubled in SMP_ARGUMENTS[name]
            else suggest(given, (f"decoder_{known}" for known in SMP_ARGUMENTS[name])),
        )
    if name in FIRST_MAP_SKIPPED:
        ledger.add_note(
            request.path,
            "smp takes the first map for the image itself and never looks at it, and in TerraTorch it is the finest.",
            f"smp/{name} without first_level: 0 uses it",
        )
    prepared = arguments.without(*swallowed).replace(name=name, first_level=0)
    return construct_part(Smp, prepared, ledger, f"smp/{name}")


DecoderBuilder = Callable[[Any, str, Diagnostics], Decoder | None]
"""What makes a part of a module that is handed in at a path."""


@frozen
class BranchBuilder:
    """Makes them for one call. `outputs` is how many values are to be predicted, and its name in the call."""

    task: str
    outputs: tuple[str, Any] | None
    head: Arguments
    ledger: Diagnostics
    live: DecoderBuilder | None

    def build_trunk(self, decoder: Any, arguments: Arguments) -> tuple[Part, ...]:
        """The decoder of a call and, unless it ends in a prediction, the head."""
        if self.outputs is not None:
            name, value = self.outputs
            if self.head.get(name, value) != value:
                self.ledger.add_note(
                    self.head.path(name), f"TerraTorch takes {name}: {value}, which is given beside it."
                )
        return self._build_branch(decoder, "decoder", arguments, self.head)

    def auxiliary(self, head: Mapping[str, Any], path: str) -> tuple[Part, ...]:
        """A branch beside the trunk. Its head is made with the arguments of the main one, as in TerraTorch."""
        within = f"{path}.decoder_args"
        arguments, rest = route_arguments("decoder_", None, head["decoder_args"], within)
        own, rest = route_arguments("head_", None, rest, within)
        for name in rest:
            message = f"{name} was passed but not used: an argument begins with decoder_ or head_."
            self.ledger.add_problem(f"{within}.{name}", message, f"write decoder_{name}", code="unused")
        parts = self._build_branch(head["decoder"], f"{path}.decoder", arguments, own)
        for name in own if len(parts) == 2 else ():
            self.ledger.add_note(
                own.path(name),
                f"TerraTorch makes auxiliary heads with the arguments of the main head, and ignores head_{name}.",
                f"aux: {{{head['name']}: {{head: …}}}} has arguments of its own",
            )
        return parts

    def _build_branch(self, decoder: Any, path: str, arguments: Arguments, stated: Arguments) -> tuple[Part, ...]:
        """A decoder and perhaps a head, of which the caller says what is `stated`."""
        made = self._build_decoder(decoder, path, arguments)
        if made is None or not made.includes_head:
            after = build_head(self.task, self._add_outputs(), self.ledger)
            return () if made is None else (made,) if after is None else (made, after)
        known_as = decoder if isinstance(decoder, str) else type(decoder).__name__
        for name in stated:
            message = f"{known_as} includes a head, so there is none for {name}."
            self.ledger.add_problem(stated.path(name), message, "leave it out", "unused")
        return (made,)

    def _add_outputs(self) -> Arguments:
        return self.head if self.outputs is None else self.head.add_with_path(*self.outputs, path=self.outputs[0])

    def _build_decoder(self, decoder: Any, path: str, arguments: Arguments) -> Decoder | None:
        if isinstance(decoder, str):
            classes = None if self.outputs is None else self.outputs[1]
            return build_decoder(DecoderRequest(decoder, path, arguments, classes), self.ledger)
        if decoder is None or self.live is None:
            self.ledger.add_problem(
                path, f"a decoder is the name of one (got {decoder!r}).", "decoder: FCNDecoder", "type"
            )
            return None
        for name in arguments:
            self.ledger.add_note(arguments.path(name), f"TerraTorch ignores {name}: the decoder is made already.")
        return self.live(decoder, path, self.ledger)
