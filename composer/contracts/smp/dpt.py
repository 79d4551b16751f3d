"""What smp's DPT gives: tokens of one stride become a pyramid inside, and one map. No torch here."""

from __future__ import annotations

from fractions import Fraction

from composer.contracts.rules import Outcome, Promise, Refusal, exactly, is_map, only, scaled, whole
from composer.contracts.smp.levels import doubles
from composer.feature import MAP, TOKENS, Feature, Features, counted
from composer.parts import Smp
from composer.parts.smp import arguments


def dpt(decoder: Smp, features: Features) -> Outcome:
    """Level i + 2 is made of feature i, by a factor that follows from its stride; each is doubled and meets the next.

    Prefix tokens go into the map by `decoder_readout`: the first of them beside every cell's channels (cat), their
    mean added to every cell (add), or not at all (ignore).
    """
    told = arguments(decoder)
    if refusal := (
        only(features, _is_grid, f'tokens "{TOKENS}" or maps "{MAP}", without frames')
        or _a_width_each(told["decoder_intermediate_channels"], features)
        or (_one_prefix(features) if told["decoder_readout"] == "cat" else None)
        or _no_offset(features)
    ):
        return refusal
    pyramid = tuple(
        Feature(channels=1, stride=scaled(f.stride, 1 / growth(f, place))) for place, f in enumerate(features)
    )
    out = Feature(channels=told["decoder_fusion_channels"], stride=scaled(pyramid[0].stride, Fraction(1, 2)))
    return _uneven(features, pyramid) or Promise(features=[out], sizes=whole(*features, *pyramid))


def growth(feature: Feature, place: int) -> Fraction:
    """By how much smp enlarges the feature at `place` so that its stride be 2**(place + 2): a whole number, or 1 / one.

    Where the ratio is neither, smp cuts its fraction off.
    """
    ratio = scaled(feature.stride, Fraction(1, 2 ** (place + 2)))
    return Fraction(int(ratio)) if ratio >= 1 else Fraction(1, int(1 / ratio))


def _is_grid(feature: Feature) -> bool:
    return is_map(feature) or (feature.axes == TOKENS and feature.frames == 1)


def _a_width_each(channels: tuple[int, ...], features: Features) -> Refusal | None:
    if len(channels) == len(features):
        return None
    default = (256, 512, 1024, 1024)
    return Refusal(
        code="count",
        kind="impossible",
        expected=f"has {counted(len(channels), 'width')} in decoder_intermediate_channels, one for each feature",
        got=counted(len(features), "feature"),
        repair=f"decoder_intermediate_channels: {[default[min(place, 3)] for place in range(len(features))]}",
        about="decoder_intermediate_channels",
    )


def _one_prefix(features: Features) -> Refusal | None:
    if len({f.prefix > 0 for f in features}) == 1:
        return None
    return Refusal(
        code="prefix",
        kind="impossible",
        expected="puts a prefix token beside every cell's channels, so all features have one or none has",
        repair="decoder_readout: ignore",
        about="decoder_readout",
    )


def _no_offset(features: Features) -> Refusal | None:
    """Refuse grids that lose cells at the borders: what is made of them shrinks some of them and doubles others."""
    if not any(exactly(f).offset for f in features):
        return None
    return Refusal(
        code="offset",
        kind="lies",
        expected="takes features that cover the whole image, so of offset 0",
        repair="choose an encoder that pads its convolutions",
    )


def _uneven(features: Features, pyramid: Features) -> Refusal | None:
    strides = [scaled(f.stride, 1) for f in pyramid]
    if doubles(strides):
        return None
    return Refusal(
        code="stride",
        kind="impossible",
        expected="makes a pyramid of features whose stride is 4, 8, 16 or another power of two",
        got=f"strides {', '.join(str(f.stride) for f in features)} become {', '.join(map(str, strides))}",
        repair="choose an encoder whose patches have 8, 16 or 32 pixels a side",
    )
