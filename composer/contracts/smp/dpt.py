"""What smp's DPT gives: tokens of one stride become a pyramid inside, and one map. No torch here."""

from __future__ import annotations

from fractions import Fraction

from composer.contracts.rules import (
    ContractResult,
    Outputs,
    Rejection,
    compute_exact_multiple,
    is_map,
    require,
    scale_stride,
    to_exact_grid,
)
from composer.contracts.smp.levels import is_doubling
from composer.feature import MAP, TOKENS, Feature, Features, format_count
from composer.parts import Smp
from composer.parts.smp import resolve_smp_arguments


def infer_dpt(decoder: Smp, features: Features) -> ContractResult:
    """Level i + 2 is made of feature i, by a factor that follows from its stride; each is doubled and meets the next.

    Prefix tokens go into the map by `decoder_readout`: the first of them beside every cell's channels (cat), their
    mean added to every cell (add), or not at all (ignore).
    """
    told = resolve_smp_arguments(decoder)
    if refusal := (
        require(features, _is_grid, f'tokens "{TOKENS}" or maps "{MAP}", without frames')
        or _require_width_per_feature(told["decoder_intermediate_channels"], features)
        or (_require_uniform_prefix(features) if told["decoder_readout"] == "cat" else None)
        or _require_zero_offset(features)
    ):
        return refusal
    pyramid = tuple(
        Feature(channels=1, stride=scale_stride(f.stride, 1 / compute_scale_factor(f, place)))
        for place, f in enumerate(features)
    )
    out = Feature(channels=told["decoder_fusion_channels"], stride=scale_stride(pyramid[0].stride, Fraction(1, 2)))
    return _require_dpt_strides(features, pyramid) or Outputs(
        features=[out], sizes=compute_exact_multiple(*features, *pyramid)
    )


def compute_scale_factor(feature: Feature, place: int) -> Fraction:
    """By how much smp enlarges the feature at `place` so that its stride be 2**(place + 2): a whole number, or 1 / one.

    Where the ratio is neither, smp cuts its fraction off.
    """
    ratio = scale_stride(feature.stride, Fraction(1, 2 ** (place + 2)))
    return Fraction(int(ratio)) if ratio >= 1 else Fraction(1, int(1 / ratio))


def _is_grid(feature: Feature) -> bool:
    return is_map(feature) or (feature.axes == TOKENS and feature.frames == 1)


def _require_width_per_feature(channels: tuple[int, ...], features: Features) -> Rejection | None:
    if len(channels) == len(features):
        return None
    default = (256, 512, 1024, 1024)
    return Rejection(
        code="count",
        kind="raises",
        expected=f"has {format_count(len(channels), 'width')} in decoder_intermediate_channels, one for each feature",
        got=format_count(len(features), "feature"),
        repair=f"decoder_intermediate_channels: {[default[min(place, 3)] for place in range(len(features))]}",
        about="decoder_intermediate_channels",
    )


def _require_uniform_prefix(features: Features) -> Rejection | None:
    if len({f.prefix > 0 for f in features}) == 1:
        return None
    return Rejection(
        code="prefix",
        kind="raises",
        expected="puts a prefix token beside every cell's channels, so all features have one or none has",
        repair="decoder_readout: ignore",
        about="decoder_readout",
    )


def _require_zero_offset(features: Features) -> Rejection | None:
    """Refuse grids that lose cells at the borders: what is made of them shrinks some of them and doubles others."""
    if not any(to_exact_grid(f).offset for f in features):
        return None
    return Rejection(
        code="offset",
        kind="wrong_output",
        expected="takes features that cover the whole image, so of offset 0",
        repair="choose an encoder that pads its convolutions",
    )


def _require_dpt_strides(features: Features, pyramid: Features) -> Rejection | None:
    strides = [scale_stride(f.stride, 1) for f in pyramid]
    if is_doubling(strides):
        return None
    return Rejection(
        code="stride",
        kind="raises",
        expected="makes a pyramid of features whose stride is 4, 8, 16 or another power of two",
        got=f"strides {', '.join(str(f.stride) for f in features)} become {', '.join(map(str, strides))}",
        repair="choose an encoder whose patches have 8, 16 or 32 pixels a side",
    )
