"""TerraTorch's decoders in terms of composer's, looked up in its order: its own, then smp's and mmseg's. No torch."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from composer.parts import (
    ASPPRegressionHead,
    ASPPSegmentationHead,
    Decoder,
    FCNDecoder,
    IdentityDecoder,
    LinearDecoder,
    MLPDecoder,
    UNetDecoder,
    UperNetDecoder,
)
from composer.parts.smp import SMP_DECODER_ARGUMENTS as SMP_ARGUMENTS
from composer.parts.smp import Smp
from composer.problem import suggest
from composer.terratorch.arguments import Arguments, Diagnostics, construct_part
from composer.terratorch.mmseg import MMSEG_HEAD_ARGUMENTS as MMSEG_ARGUMENTS
from composer.terratorch.mmseg import UNSUPPORTED_HEADS as MMSEG_REFUSED
from composer.terratorch.mmseg import build_mmseg_head

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
