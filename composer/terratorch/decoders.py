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
from composer.parts.smp import ARGUMENTS as SMP_ARGUMENTS
from composer.parts.smp import Smp
from composer.problem import nearest
from composer.terratorch.arguments import Arguments, Ledger, declared
from composer.terratorch.mmseg import ARGUMENTS as MMSEG_ARGUMENTS
from composer.terratorch.mmseg import REFUSED as MMSEG_REFUSED
from composer.terratorch.mmseg import mmseg_head

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

UNUSABLE = {
    "ASPPHead": "a base class, which the factory cannot build",
    "ASPPModule": "a layer, which the factory cannot build",
    "SatMAEHead": "a head of masked autoencoders, which needs more than features",
    "smp_DPT": "a decoder that smp makes for an encoder of its own alone; composer's smp/DPT takes any ViT",
    "DPT": "a decoder that smp makes for an encoder of its own alone; composer's smp/DPT takes any ViT",
}
"""What TerraTorch registers beside them, and cannot build or run, each with the reason."""

SKIPPING = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer")
"""The decoders of smp that look at other maps, the coarser ones, where the first map counts as level 0."""


MMSEG_HEADS = (*MMSEG_ARGUMENTS, *MMSEG_REFUSED)
"""The heads of mmseg, with those that cannot be had."""


@frozen
class Request:
    """What a call says of one decoder: its arguments, and what it is to predict where it has a head of its own."""

    name: str
    path: str
    arguments: Arguments
    classes: int | None = None

    def with_classes(self, field: str) -> Arguments:
        """The arguments, with what is to be predicted under the name that the decoder has for it."""
        return self.arguments if self.classes is None else self.arguments.with_(**{field: self.classes})


def decoder_of(request: Request, ledger: Ledger) -> Decoder | None:
    """The decoder that TerraTorch would really have built; None, and a problem, where there is none."""
    source, _, short = request.name.partition("_")
    if source == "mmseg" and short in MMSEG_HEADS:
        return mmseg_head(short, request.path, request.with_classes("num_classes"), ledger)
    own = short if source == "terratorch" else request.name
    if own in UNUSABLE:
        ledger.refuse(request.path, f"{own} is {UNUSABLE[own]}.", "decoder: FCNDecoder", code="unknown")
        return None
    if source != "smp" and own in DECODERS:
        prepared = _PREPARED.get(own, _as_they_are)(request, ledger)
        return declared(DECODERS[own], prepared, ledger)
    named = short if source == "smp" else request.name
    if source != "terratorch" and named in SMP_ARGUMENTS:
        return _smp(named, request, ledger)
    if source not in ("terratorch", "smp") and request.name in MMSEG_HEADS:
        return mmseg_head(request.name, request.path, request.with_classes("num_classes"), ledger)
    known = [*DECODERS, *(f"smp_{name}" for name in SMP_ARGUMENTS), *(f"mmseg_{name}" for name in MMSEG_ARGUMENTS)]
    ledger.refuse(request.path, f"TerraTorch has no decoder {request.name!r}.", nearest(request.name, known), "unknown")
    return None


def _as_they_are(request: Request, _: Ledger) -> Arguments:
    return request.arguments


def _linear(request: Request, ledger: Ledger) -> Arguments:
    """TerraTorch adds a head to a decoder that has one; it cannot build this one unless told its classes twice."""
    if "num_classes" not in request.arguments:
        return request.with_classes("num_classes")
    ledger.note(
        request.arguments.path("num_classes"),
        "TerraTorch puts a head of its own behind this decoder, which ends in class scores already.",
        "LinearDecoder without decoder_num_classes gives the scores themselves",
    )
    return request.arguments.with_(includes_head=False)


def _aspp_segmentation(request: Request, _: Ledger) -> Arguments:
    return request.with_classes("num_classes").without("in_channels")


def _aspp_regression(request: Request, ledger: Ledger) -> Arguments:
    ledger.note(
        request.path,
        "TerraTorch puts a regression head behind this one, from its output to the output.",
        "decoder: {ASPPRegressionHead: …} without a head",
    )
    return request.arguments.with_(includes_head=False).without("in_channels")


def _mlp(request: Request, ledger: Ledger) -> Arguments:
    """TerraTorch ignores both widths: the hidden layer is as wide as input `out_index`, and the last."""
    for name in ("channels", "out_dim"):
        if name in request.arguments:
            ledger.note(
                request.arguments.path(name),
                f"TerraTorch ignores {name}; the layer is as wide as the input.",
                f"MLPDecoder: {{{name}: {request.arguments.get(name)}}} does what it says",
            )
    return request.arguments.with_(channels=None, out_dim=None)


_PREPARED: dict[str, Callable[[Request, Ledger], Arguments]] = {
    "LinearDecoder": _linear,
    "MLPDecoder": _mlp,
    "ASPPSegmentationHead": _aspp_segmentation,
    "ASPPRegressionHead": _aspp_regression,
}


def _smp(name: str, request: Request, ledger: Ledger) -> Decoder | None:
    """smp's model swallows what it does not know, and takes the first level for the image's own resolution."""
    arguments = request.arguments
    if "decoder_use_batchnorm" in arguments and "decoder_use_norm" in SMP_ARGUMENTS[name]:
        # smp's older name for the same.
        arguments = arguments.renamed(decoder_use_batchnorm="decoder_use_norm")
    swallowed = [given for given in arguments if given not in SMP_ARGUMENTS[name]]
    for given in swallowed:
        doubled = f"decoder_{given}"
        ledger.note(
            arguments.path(given),
            f"smp's decoder {name} has no argument {given!r}, and its model swallows it.",
            f"write decoder_{doubled}"
            if doubled in SMP_ARGUMENTS[name]
            else nearest(given, (f"decoder_{known}" for known in SMP_ARGUMENTS[name])),
        )
    if name in SKIPPING:
        ledger.note(
            request.path,
            "smp takes the first map for the image itself and never looks at it, and in TerraTorch it is the finest.",
            f"smp/{name} without first_level: 0 uses it",
        )
    prepared = arguments.without(*swallowed).with_(name=name, first_level=0)
    return declared(Smp, prepared, ledger, f"smp/{name}")
