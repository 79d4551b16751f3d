"""TerraTorch's decoders and mmseg heads as parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.adapters.decoders import GROUPS as GN_GROUPS
from composer.adapters.mmseg.parts import MMSEG_HEAD_ARGUMENTS, UNSUPPORTED_HEADS, Mmseg
from composer.adapters.smp.parts import SMP_DECODER_ARGUMENTS, Smp
from composer.errors import suggest
from composer.parts import DECODERS as BUILT_IN_DECODERS
from composer.parts import Decoder
from composer.terratorch.calls import Arguments, Diagnostics, construct

_DECODER_NAMES = (
    "FCNDecoder UperNetDecoder UNetDecoder IdentityDecoder LinearDecoder MLPDecoder ASPPSegmentationHead "
    "ASPPRegressionHead"
)

DECODERS = {decoder.__name__: decoder for decoder in BUILT_IN_DECODERS if decoder.__name__ in _DECODER_NAMES.split()}
"""The decoders of TerraTorch 1.2.11 that its factory can build, and two whose head it overlooks."""

UNUSABLE_DECODERS = ("ASPPHead", "ASPPModule", "SatMAEHead", "smp_DPT", "DPT")
"""What TerraTorch registers beside them, and its factory cannot build, or not run."""

MMSEG_HEADS = (*MMSEG_HEAD_ARGUMENTS, *UNSUPPORTED_HEADS)
"""The heads of mmseg, with those that composer does not support."""


def build_decoder(
    full_name: str, arguments: Arguments, classes: Mapping[str, Any], report: Diagnostics
) -> Decoder | None:
    """Build the decoder that TerraTorch builds for a name; None, with a problem, where there is none.

    `classes` is the argument `num_classes` for a decoder that includes a head, where the number is known.
    """
    source, _, short = full_name.partition("_")
    own = short if source == "terratorch" else full_name
    named = short if source in ("smp", "mmseg") else full_name
    if own in UNUSABLE_DECODERS:
        message = f"TerraTorch's factory cannot make a model with {own}."
        report.add_problem(arguments.owner, message, "decoder: FCNDecoder", "part")
        return None
    if own in DECODERS:
        return construct(DECODERS[own], _prepare_arguments(own, arguments, classes, report), report)
    if source not in ("terratorch", "mmseg") and named in SMP_DECODER_ARGUMENTS:
        return _build_smp_decoder(named, arguments, report)
    if source not in ("terratorch", "smp") and named in MMSEG_HEADS:
        return _build_mmseg_head(named, arguments.replace(**classes), report)
    smp = (f"smp_{name}" for name in SMP_DECODER_ARGUMENTS)
    known = [*DECODERS, *smp, *(f"mmseg_{name}" for name in MMSEG_HEAD_ARGUMENTS)]
    message = f"TerraTorch has no decoder {full_name!r}."
    report.add_problem(arguments.owner, message, suggest(full_name, known), "part")
    return None


def _prepare_arguments(name: str, arguments: Arguments, classes: Mapping[str, Any], report: Diagnostics) -> Arguments:
    """Return the arguments of a decoder of TerraTorch as the part has them."""
    if name == "MLPDecoder":
        reason, fix = "the layer is as wide as the input", "MLPDecoder in a spec, which reads it"
        report.add_ignored(arguments, ("channels", "out_dim"), reason, fix)
        return arguments.replace(channels=None, out_dim=None)
    if name == "ASPPSegmentationHead":
        return arguments.replace(**classes).drop("in_channels")
    if name == "LinearDecoder" and "num_classes" not in arguments:
        return arguments.replace(**classes)
    if name in ("LinearDecoder", "ASPPRegressionHead"):
        message = f"TerraTorch puts a head behind {name}, which ends in a prediction already."
        report.add_note(arguments.owner, message, f"{name} without a head, in a spec")
        return arguments.replace(includes_head=False).drop("in_channels")
    return arguments


FIRST_MAP_SKIPPED = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer")
"""The decoders of smp that read other maps, the coarser ones, where the first map counts as level 0."""


def _build_smp_decoder(name: str, arguments: Arguments, report: Diagnostics) -> Decoder | None:
    """Build a decoder as smp's model does, which ignores unknown arguments and takes the first map for the image."""
    known = SMP_DECODER_ARGUMENTS[name]
    if "decoder_use_norm" in known:
        arguments = arguments.rename(decoder_use_batchnorm="decoder_use_norm")
    ignored = [argument for argument in arguments if argument not in known]
    for argument in ignored:
        fix = suggest(f"decoder_{argument}", (f"decoder_{other}" for other in known))
        report.add_ignored(arguments, [argument], f"smp's {name} has no such argument", fix)
    if name in FIRST_MAP_SKIPPED:
        message = "smp takes the first map for the image and never reads it; in TerraTorch it is the finest one."
        report.add_note(arguments.owner, message, f"smp/{name} without first_level: 0 uses it")
    return construct(Smp, arguments.drop(*ignored).replace(name=name, first_level=0), report, f"smp/{name}")


REQUIRED_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "ANNHead": ("channels", "project_channels"),
    "DAHead": ("channels", "pam_channels"),
    "DepthwiseSeparableASPPHead": ("channels", "c1_channels"),
    "EMAHead": ("channels", "ema_channels", "num_bases", "num_stages"),
    "ISAHead": ("channels", "isa_channels"),
    "SegmenterMaskTransformerHead": ("num_layers", "num_heads", "embed_dims"),
}
"""The arguments without a default in mmseg's class, where these are not `channels` alone."""

UNUSED_ARGUMENTS = (
    *("loss_decode", "loss_se_decode", "use_se_loss", "ignore_index", "sampler", "threshold", "boundary_threshold"),
    *("feature_strides", "c1_in_channels"),
)
"""Arguments of mmseg's losses, and those that repeat what is known of the maps."""

NORMS: Mapping[str | None, str | bool] = {None: False, "BN": "BN", "SyncBN": "BN", "GN": "GN"}


def _build_mmseg_head(name: str, arguments: Arguments, report: Diagnostics) -> Mmseg | None:
    """Build the head that TerraTorch builds: with mmseg's own defaults, which are a head without norms."""
    if name in UNSUPPORTED_HEADS:
        reason, instead = UNSUPPORTED_HEADS[name]
        message = f"mmseg's {name} cannot be had: {reason}."
        report.add_problem(arguments.owner, message, f"decoder: mmseg_{instead}", "part")
        return None
    missing = [argument for argument in REQUIRED_ARGUMENTS.get(name, ("channels",)) if argument not in arguments]
    for argument in missing:
        fix = f"{arguments.format_path(argument)}: {MMSEG_HEAD_ARGUMENTS[name][argument] or '…'}"
        report.add_problem(arguments.owner, f"mmseg's {name} needs {argument}.", fix, "key")
    arguments = arguments.drop(*UNUSED_ARGUMENTS)
    if name == "SegmenterMaskTransformerHead":
        # mmseg requires these too, and does not read them.
        arguments = arguments.drop("channels", "dropout_ratio", "align_corners")
    flat = _flatten_configs(name, arguments, report)
    return None if missing or flat is None else construct(Mmseg, flat.replace(name=name), report, f"mmseg's {name}")


def _flatten_configs(name: str, arguments: Arguments, report: Diagnostics) -> Arguments | None:
    """Replace norm, activation and factorisation, which are dicts in mmseg, by plain arguments."""
    norm, act = arguments.get("norm_cfg") or {"type": None}, arguments.get("act_cfg") or {}
    if not isinstance(norm, Mapping) or norm.get("type") not in NORMS or norm.get("num_groups", GN_GROUPS) != GN_GROUPS:
        message = f"a norm is BN, SyncBN, or GN in {GN_GROUPS} groups (got {norm!r})."
        report.add_problem(arguments.locate("norm_cfg"), message, f"{arguments.format_path('norm_cfg')}: {{type: BN}}")
        return None
    if not isinstance(act, Mapping):
        message = f"an activation has a type (got {act!r})."
        report.add_problem(arguments.locate("act_cfg"), message, f"{arguments.format_path('act_cfg')}: {{type: ReLU}}")
        return None
    # mmseg draws `rand_init` at every forward; here the bases are drawn once.
    plain: dict[str, Any] = {k: v for k, v in dict(arguments.get("ham_kwargs") or {}).items() if k != "rand_init"}
    if "norm" in MMSEG_HEAD_ARGUMENTS[name]:
        plain["norm"] = NORMS[norm.get("type")]
    if act:
        plain["act"] = act.get("type")
    if name == "STDCHead" and "num_convs" not in arguments:
        plain["num_convs"] = 2
    return arguments.drop("norm_cfg", "act_cfg", "ham_kwargs").replace(**plain)
