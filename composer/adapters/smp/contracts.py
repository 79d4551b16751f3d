"""Contracts of smp's decoders: a table, read by one function, and the contract of DPT."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from itertools import pairwise
from operator import methodcaller
from types import MappingProxyType
from typing import Any, Literal

from attrs import evolve, frozen

from composer.adapters.rejections import reject_argument, require_group_multiple, require_known_arguments
from composer.adapters.smp.parts import SMP_DECODER_ARGUMENTS, Smp, resolve_smp_arguments
from composer.layouts import MAP, TOKENS, Feature, Features, format_count
from composer.parts.base import contract
from composer.parts.rules import (
    ContractResult,
    Kind,
    Outputs,
    Rejection,
    combine,
    compute_exact_multiple,
    compute_min_cells,
    fit_widths,
    is_map,
    reject_narrow_maps,
    require_doubling_strides,
    require_finest_first,
    require_layout,
    require_maps,
    require_pyramid_maps,
    scale_stride,
    suggest_more_levels,
    to_exact_grid,
)
from composer.sizes import ANY_SIZE

LINKNET_CHANNELS = 32
"""The output channels of LinkNet, a constant in smp's model."""

SCSE_REDUCTION = 16
"""The factor by which scse squeezes channels."""

MIN_PAN_CELLS = 8
"""PAN halves the last map three times."""


@frozen
class Levels:
    """The inputs of a decoder as smp counts them: level i has 1 / 2**i of the image's resolution.

    `features` begin with level `first`. The levels before it are missing, which smp supports: it never uses the
    content of level 0, and some encoders have no level 1.
    """

    first: int
    features: Features

    @property
    def depth(self) -> int:
        """The number of the last level; smp calls it the depth of an encoder."""
        return self.first + len(self.features) - 1

    def get_channels(self, level: int) -> int:
        """Return the channels of a level, or 0 for a missing one."""
        return self.features[level - self.first].channels if level >= self.first else 0

    def select_from(self, level: int) -> Features:
        """Return the features of `level` and of all coarser levels."""
        return self.features[max(level - self.first, 0) :]

    def select_last(self, count: int) -> Features:
        """Return the last features."""
        return self.features[-count:]

    def select_ends(self) -> Features:
        """Return the features of level 2, or the first one that is there, and of the last level."""
        return (self.select_from(2)[0], self.features[-1])


def build_levels(decoder: Smp, features: Features) -> Levels:
    """Return the features as levels; the first is `first_level`, or follows from its stride if that is not set."""
    if decoder.first_level == 0 and _is_level_1_missing(features):
        # No decoder uses the image's content, so it is dropped.
        return Levels(2, features[1:])
    if decoder.first_level is not None:
        return Levels(decoder.first_level, features)
    stride = features[0].stride if features else None
    # As smp does with encoders that begin at stride 4, such as ConvNeXt and Swin.
    return Levels(2 if stride is not None and stride > 2 else 1, features)


def _is_level_1_missing(features: Features) -> bool:
    """Return whether the image itself comes before a map of stride 4, as Mix Transformers emit them."""
    return len(features) > 1 and all(map(is_map, features[:2])) and [f.stride for f in features[:2]] == [1, 4]


def _is_doubling(strides: Iterable[Fraction]) -> bool:
    """Return whether each stride is exactly twice the one before it."""
    return all(coarser == 2 * finer for finer, coarser in pairwise(strides))


def _require_joinable_maps(used: Features) -> Rejection | None:
    """Reject maps that do not match the next one doubled: unlike strides that merely double, this raises in smp."""
    strides = [scale_stride(f.stride, 1) for f in used]
    if rejection := require_finest_first(used):
        return evolve(rejection, kind="raises")
    if not _is_doubling(strides):
        return Rejection(code="stride", kind="raises", expected="takes maps whose stride doubles from one to the next")
    offsets = [to_exact_grid(f).offset for f in used]
    if len(set(offsets)) == 1:
        return None
    return Rejection(
        code="stride",
        kind="raises",
        expected="takes maps of which each has exactly twice the cells of the next, so of one offset",
        got=f"offsets {', '.join(map(str, offsets))} at whole multiples of the strides",
        fix="use a decoder that brings each map to the size of the next finer one, such as UNetDecoder or smp/Unet",
    )


@frozen
class Call:
    """A decoder's arguments and inputs; `used` are the features that it computes with."""

    name: str
    arguments: Mapping[str, Any]
    levels: Levels
    used: Features

    @property
    def channels(self) -> int:
        """The channels of the output."""
        names = ("decoder_channels", "decoder_segmentation_channels", "psp_out_channels")
        width = next((self.arguments[name] for name in names if name in self.arguments), LINKNET_CHANNELS)
        maps = 4 if self.arguments.get("decoder_merge_policy") == "cat" else 1
        return maps * int(width[-1] if isinstance(width, tuple) else width)


@frozen
class Rule:
    """The contract of a decoder.

    `select` returns the features that it uses, and `infer` its output. It needs `count` features, and levels up to
    `depth`. Its strides are `any`, decrease nowhere (`ordered`), double (`doubled`), or double with maps that match
    cell by cell (`joined`). `checks` are further ones. `unused` is the kind of the rejection if other features than
    the used ones are not maps; None accepts them.
    """

    select: Callable[[Levels], Features]
    strides: Literal["any", "ordered", "doubled", "joined"]
    infer: Callable[[Call], Outputs]
    checks: tuple[Callable[[Call], Rejection | None], ...] = ()
    count: int = 0
    depth: int = 0
    unused: Kind | None = "policy"


@contract.register(Smp)
def _(decoder: Smp, features: Features) -> ContractResult:
    if rejection := require_known_arguments(decoder, decoder.defaults[decoder.name]):
        return rejection
    arguments = resolve_smp_arguments(decoder)
    if decoder.name == "DPT":
        return _infer_dpt(arguments, features)
    rule, levels = RULES[decoder.name], build_levels(decoder, features)
    if rejection := _require_levels(rule, levels):
        return rejection
    call = Call(decoder.name, arguments, levels, rule.select(levels))
    require_layout = require_pyramid_maps if rule.strides in ("doubled", "joined") else require_maps
    layout = require_layout(levels.features if rule.unused else call.used)
    if layout and not (call.used and all(map(is_map, call.used))):
        return layout
    if rule.strides == "joined" and (rejection := _require_joinable_maps(call.used)):
        return rejection
    for check in (_require_widths, _require_scse_widths, *rule.checks):
        if rejection := check(call):
            return rejection
    # What follows runs in smp, so it comes after all that raises.
    if layout and rule.unused:
        return evolve(layout, kind=rule.unused)
    ordered = rule.strides in ("ordered", "doubled")
    return (
        (require_finest_first(levels.features) if ordered else None)
        or (require_doubling_strides(levels.features) if rule.strides == "doubled" else None)
        or rule.infer(call)
    )


def _require_levels(rule: Rule, levels: Levels) -> Rejection | None:
    count = rule.count or rule.depth - levels.first + 1
    if len(levels.features) >= count:
        return None
    if rule.count:
        expected, wanted = f"takes at least {rule.count} maps", "four levels or more"
    else:
        expected = f"takes at least {format_count(count, 'map')} where the first is level {levels.first}"
        wanted = "more levels"
    return Rejection(code="count", kind="raises", expected=expected, fix=suggest_more_levels(wanted))


def _require_widths(call: Call) -> Rejection | None:
    """Reject `decoder_channels` that are not one width, or one for each level below the last, as smp's default is."""
    widths, levels = call.arguments.get("decoder_channels"), call.levels
    if not isinstance(SMP_DECODER_ARGUMENTS[call.name].get("decoder_channels"), tuple):
        if not isinstance(widths, tuple):
            return None
        return reject_argument("decoder_channels", "takes one width", widths, widths[-1], code="count")
    expected, got, fixed = "takes a list of widths", widths, [max(256 // 2**level, 16) for level in range(levels.depth)]
    if isinstance(widths, tuple):
        if len(widths) == levels.depth:
            return None
        fixed = list(fit_widths(widths, levels.depth))
        expected = f"has {format_count(len(widths), 'width')} in decoder_channels, one for each level it climbs"
        got = f"{format_count(levels.depth, 'level')} from the last map, level {levels.depth}, to level 0"
        if len(widths) == levels.depth - 1 and levels.first == 1 and levels.features[0].stride == 1:
            # The first map is at the image's resolution, so more likely level 0 than level 1.
            rejection = reject_argument("first_level", expected, got, 0, code="count")
            return evolve(rejection, about="decoder_channels")
    return reject_argument("decoder_channels", expected, got, fixed, old=widths, code="count")


def _require_scse_widths(call: Call) -> Rejection | None:
    """Reject attention in a block so narrow that the squeeze leaves no channel; smp omits blocks of no channels."""
    if call.arguments.get("decoder_attention_type") is None:
        return None
    levels = call.levels
    # The first block joins the last two maps. Later ones join what is as wide as the block before them.
    joined = levels.get_channels(levels.depth) + levels.get_channels(levels.depth - 1) if levels.depth > 1 else 0
    # UnetPlusPlus has blocks between the levels too, as wide as these.
    between = range(1, levels.depth - 1) if call.name == "UnetPlusPlus" else ()
    widths = (*call.arguments["decoder_channels"], joined, *map(levels.get_channels, between))
    narrow = [width for width in widths if 0 < width < SCSE_REDUCTION]
    if not narrow:
        return None
    expected = f"squeezes channels by {SCSE_REDUCTION} in each block with scse, so a block must have that many"
    return reject_argument("decoder_attention_type", expected, f"one of {min(narrow)}", None)


def _require_four_channels(call: Call) -> Rejection | None:
    narrow = any(f.channels < 4 for f in call.used)
    return reject_narrow_maps("quarters the channels of each map, so they need at least 4") if narrow else None


def _require_channel_quarters(call: Call) -> Rejection | None:
    if call.used[0].channels % 4 == 0:
        return None
    return reject_narrow_maps("splits the channels of the last map into quarters, so they must be a multiple of 4")


def _require_groups(call: Call) -> Rejection | None:
    return require_group_multiple("decoder_segmentation_channels", call.arguments["decoder_segmentation_channels"])


def _require_upsampling_factor(call: Call) -> Rejection | None:
    """Reject a last map that cannot be enlarged to level 2 by a factor of one of smp's output strides."""
    fine, last = call.used
    factor = scale_stride(last.stride, 1) / scale_stride(fine.stride, 1)
    fits = factor == 2 or (factor == 4 and call.levels.depth > 3)
    if fits and to_exact_grid(fine).offset == to_exact_grid(last).offset:
        return None
    expected = f"enlarges the last map by {'4 or 2' if call.levels.depth > 3 else '2'}, to meet the map of level 2"
    return Rejection(code="stride", kind="raises", expected=expected)


def _require_max_depth(call: Call) -> Rejection | None:
    if call.levels.depth <= 5:
        return None
    return Rejection(
        code="count",
        kind="policy",
        expected="has gates for the levels up to 5, and would pass over those between them and the last",
        got=f"level {call.levels.depth}",
    )


def _infer_first_grid(call: Call) -> Outputs:
    return Outputs(features=[evolve(call.used[0], channels=call.channels)])


def _infer_exact_grid(call: Call) -> Outputs:
    """Return the grid of the first used map; the others are enlarged to it by whole factors, so all must be whole."""
    first = evolve(to_exact_grid(call.used[0]), channels=call.channels)
    return Outputs(features=[first], sizes=compute_exact_multiple(*call.used))


def _infer_level_0(call: Call) -> Outputs:
    """Return the grid of level 0: every map is doubled, so all must be whole."""
    finest = to_exact_grid(call.used[0])
    stride = scale_stride(finest.stride, Fraction(1, 2 ** max(call.levels.first, 1)))
    out = evolve(finest, channels=call.channels, stride=stride)
    return Outputs(features=[out], sizes=compute_exact_multiple(*call.used))


def _infer_unet(call: Call) -> Outputs:
    """Return the grid of level 0. Maps are resized to the next finer one; a missing level is twice the first map."""
    if call.levels.first == 0:
        return Outputs(features=[evolve(call.levels.features[0], channels=call.channels)])
    return evolve(_infer_level_0(call), sizes=compute_exact_multiple(call.used[0]))


def _infer_pan(call: Call) -> Outputs:
    return evolve(_infer_first_grid(call), sizes=compute_min_cells(call.used[-1], MIN_PAN_CELLS))


def _infer_segformer(call: Call) -> Outputs:
    """Return a grid of floor(h / 4) for a level 0 of height h, which is 1, 2 or 4 times that of the first map."""
    first = evolve(call.levels.features[0], channels=call.channels)
    if call.levels.first == 2:
        return Outputs(features=[first])
    out = evolve(first, stride=scale_stride(first.stride, 4 // 2**call.levels.first), rounding="floor")
    # floor(floor(x) / 2) = floor(x / 2), so a grid that rounds down still does; one that rounds up must be whole.
    whole = compute_exact_multiple(first) if first.rounding == "ceil" else ANY_SIZE
    return Outputs(features=[out], sizes=combine(whole, compute_min_cells(out, 1)))


_LEVEL_1, _LEVEL_2 = methodcaller("select_from", 1), methodcaller("select_from", 2)

_LAST, _LAST_FOUR = methodcaller("select_last", 1), methodcaller("select_last", 4)

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "Unet": Rule(_LEVEL_1, "doubled", _infer_unet, depth=1, unused="wrong_output"),
        "UnetPlusPlus": Rule(_LEVEL_1, "joined", _infer_level_0, depth=2),
        "MAnet": Rule(_LEVEL_1, "joined", _infer_level_0, depth=1),
        "Linknet": Rule(_LEVEL_1, "joined", _infer_level_0, (_require_four_channels,), depth=1),
        "FPN": Rule(_LAST_FOUR, "joined", _infer_exact_grid, (_require_groups,), count=4),
        "PSPNet": Rule(_LAST, "any", _infer_first_grid, (_require_channel_quarters,), unused=None),
        "DeepLabV3": Rule(_LAST, "any", _infer_first_grid, unused=None),
        "DeepLabV3Plus": Rule(Levels.select_ends, "any", _infer_exact_grid, (_require_upsampling_factor,), depth=3),
        "PAN": Rule(_LEVEL_2, "ordered", _infer_pan, (_require_max_depth,), depth=3),
        "UPerNet": Rule(_LEVEL_2, "ordered", _infer_first_grid, depth=3),
        "Segformer": Rule(_LEVEL_1, "ordered", _infer_segformer, depth=3, unused="wrong_output"),
    }
)


def _infer_dpt(arguments: Mapping[str, Any], features: Features) -> ContractResult:
    """Return half the stride of the first map of DPT's pyramid.

    Map i of the pyramid is feature i, resized to the stride 2**(i + 2) by a factor that smp computes from the
    feature's stride. Each map is doubled and joined with the one before it. `decoder_readout` concatenates the first
    prefix token to every cell (cat), adds the tokens' mean to it (add), or ignores them.
    """
    widths = arguments["decoder_intermediate_channels"]
    defaults = (256, 512, 1024, 1024)
    if rejection := require_layout(features, _is_grid, f'tokens "{TOKENS}" or maps "{MAP}", without frames'):
        return rejection
    if len(widths) != len(features):
        return reject_argument(
            "decoder_intermediate_channels",
            f"has {format_count(len(widths), 'width')} in decoder_intermediate_channels, one for each feature",
            format_count(len(features), "feature"),
            [defaults[min(place, 3)] for place in range(len(features))],
            old=widths,
            code="count",
        )
    if arguments["decoder_readout"] == "cat" and len({f.prefix > 0 for f in features}) > 1:
        expected = "puts a prefix token beside every cell's channels, so all features have one or none has"
        return reject_argument("decoder_readout", expected, None, "ignore", code="prefix")
    if any(to_exact_grid(f).offset for f in features):
        # Resizing halves some grids and doubles others, so their offsets differ afterwards.
        return Rejection(
            code="stride",
            kind="wrong_output",
            expected="takes features that cover the whole image, so of offset 0",
            fix="choose an encoder that pads its convolutions",
        )
    strides = [scale_stride(f.stride, 1 / _compute_scale_factor(f, place)) for place, f in enumerate(features)]
    if not _is_doubling(strides):
        return Rejection(
            code="stride",
            kind="raises",
            expected="makes a pyramid of features whose stride is 4, 8, 16 or another power of two",
            got=f"strides {', '.join(str(f.stride) for f in features)} become {', '.join(map(str, strides))}",
            fix="choose an encoder whose patches have 8, 16 or 32 pixels a side",
        )
    pyramid = [Feature(channels=1, stride=stride) for stride in strides]
    out = Feature(channels=arguments["decoder_fusion_channels"], stride=strides[0] / 2)
    return Outputs(features=[out], sizes=compute_exact_multiple(*features, *pyramid))


def _compute_scale_factor(feature: Feature, place: int) -> Fraction:
    """Return the factor by which smp enlarges the feature at `place`: a whole number, or 1 / a whole number."""
    ratio = scale_stride(feature.stride, Fraction(1, 2 ** (place + 2)))
    return Fraction(int(ratio)) if ratio >= 1 else Fraction(1, int(1 / ratio))


def _is_grid(feature: Feature) -> bool:
    return is_map(feature) or (feature.axes == TOKENS and feature.frames == 1)
