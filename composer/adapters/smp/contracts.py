"""Contracts of smp's decoders: a table of rules, read by one function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import partial
from itertools import pairwise
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Literal

from attrs import evolve, frozen

from composer.adapters.decoders import Call, Check, reject_argument, require_groups, require_known_arguments
from composer.adapters.smp.parts import Smp
from composer.layouts import MAP, TOKENS, Feature, Features, format_count
from composer.parts import rules
from composer.parts.base import contract
from composer.parts.rules import Outputs, Rejection
from composer.sizes import ANY_SIZE, SizeConstraint

Levels = tuple[int | None, ...]
"""The position of the feature at each level from 0 on; None for a level that is missing."""


@frozen
class Rule:
    """The contract of a decoder, which counts levels: level i has 1 / 2**i of the image's resolution.

    `select` returns the levels that it uses, and `infer` its output. It needs `count` features, or levels up to
    `depth`; without both it counts from the last. The strides of its maps are any (`maps`), decrease nowhere
    (`ordered`), double (`doubled`), or double with maps that match cell by cell (`joined`). `check` is its own rule.
    `unused` is the kind of the rejection if other features than the used ones are not maps; None accepts them.
    """

    select: Callable[[Levels], Levels]
    inputs: Literal["maps", "ordered", "doubled", "joined", "tokens"]
    infer: Callable[[Call], Outputs]
    check: Check = lambda _: None
    count: int = 0
    depth: int = 0
    unused: rules.Kind | None = "policy"


@contract.register(Smp)
def _(decoder: Smp, features: Features) -> rules.ContractResult:
    rule, call = RULES[decoder.name], build_call(decoder, features)
    require_layout, levels = LAYOUTS[rule.inputs], call.features
    return (
        require_known_arguments(call)
        or _require_levels(rule, call)
        or require_layout(call.maps)
        or (_require_joinable_maps(call.maps) if rule.inputs == "joined" else None)
        or _require_widths(call)
        or _require_scse_widths(call)
        or rule.check(call)
        # What follows runs in smp, so it comes after all that raises.
        or _require_unused(rule, require_layout(levels))
        or (rules.require_finest_first(levels) if rule.inputs in ("ordered", "doubled") else None)
        or (rules.require_doubling_strides(levels) if rule.inputs == "doubled" else None)
        or rule.infer(call)
    )


def build_call(decoder: Smp, features: Features) -> Call:
    """Return the decoder with its levels; the first is `first_level`, or follows from its stride if that is not set."""
    rule, first = RULES[decoder.name], decoder.first_level
    if first == 0 and all(map(rules.is_map, features[:2])) and [f.stride for f in features[:2]] == [1, 4]:
        # The image itself and no level 1, as Mix Transformers give them. No decoder uses the image's content.
        first, features = 2, features[1:]
    elif first is None:
        stride = features[0].stride if features else None
        # As smp does with encoders that begin at stride 4, such as ConvNeXt and Swin.
        first = 2 if stride is not None and stride > 2 else 1
    # A decoder that counts from the last map has no missing levels.
    first = first if rule.depth else 0
    levels = rule.select((*[None] * first, *range(len(features))))
    return Call(decoder, features, tuple(position for position in levels if position is not None), first)


def list_channels(call: Call) -> list[int]:
    """Return the channels of each level from 0 on; a level before the first has none."""
    return [0] * call.first + [f.channels for f in call.features]


def _get_depth(call: Call) -> int:
    """Return the number of the last level; smp calls it the depth of an encoder."""
    return len(list_channels(call)) - 1


def _require_levels(rule: Rule, call: Call) -> Rejection | None:
    count = rule.count or (rule.depth and rule.depth - call.first + 1)
    if len(call.features) >= count:
        return None
    expected, wanted = f"takes at least {format_count(count, 'map')}", "four levels or more"
    if rule.depth:
        expected, wanted = f"{expected} where the first is level {call.first}", "more levels"
    return Rejection(code="count", kind="raises", expected=expected, fix=rules.suggest_more_levels(wanted))


def _require_unused(rule: Rule, rejection: Rejection | None) -> Rejection | None:
    """Return the rejection of features that are not used with the kind that it has in the rule."""
    return evolve(rejection, kind=rule.unused) if rejection and rule.unused else None


def _require_grids(features: Features) -> Rejection | None:
    """Reject features that are neither tokens nor maps."""

    def is_grid(feature: Feature) -> bool:
        return rules.is_map(feature) or (feature.axes == TOKENS and feature.frames == 1)

    return rules.require_layout(features, is_grid, f'tokens "{TOKENS}" or maps "{MAP}", without frames')


LAYOUTS: Mapping[str, Callable[[Features], Rejection | None]] = {
    "maps": rules.require_maps,
    "ordered": rules.require_maps,
    "doubled": rules.require_pyramid_maps,
    "joined": rules.require_pyramid_maps,
    "tokens": _require_grids,
}


def _require_joinable_maps(used: Features) -> Rejection | None:
    """Reject maps that do not match the next one doubled: unlike strides that merely double, this raises in smp."""
    if rejection := rules.require_finest_first(used):
        return evolve(rejection, kind="raises")
    if not _is_doubling(rules.scale_stride(f.stride, 1) for f in used):
        return Rejection(code="stride", kind="raises", expected="takes maps whose stride doubles from one to the next")
    offsets = [rules.to_exact_grid(f).offset for f in used]
    if len(set(offsets)) == 1:
        return None
    return Rejection(
        code="stride",
        kind="raises",
        expected="takes maps of which each has exactly twice the cells of the next, so of one offset",
        got=f"offsets {', '.join(map(str, offsets))} at whole multiples of the strides",
        fix="use a decoder that brings each map to the size of the next finer one, such as UNetDecoder or smp/Unet",
    )


def _is_doubling(strides: Iterable[Fraction]) -> bool:
    """Return whether each stride is exactly twice the one before it."""
    return all(coarser == 2 * finer for finer, coarser in pairwise(strides))


def _require_widths(call: Call) -> Rejection | None:
    """Reject `decoder_channels` that are not one width, or one for each level below the last, as smp's default is."""
    name, depth = "decoder_channels", _get_depth(call)
    widths: Any = call.arguments.get(name)
    if not isinstance(call.defaults.get(name), tuple):
        single = not isinstance(widths, tuple)
        return None if single else reject_argument(name, "takes one width", widths, widths[-1], code="count")
    if not isinstance(widths, tuple):
        fixed = [max(256 // 2**level, 16) for level in range(depth)]
        return reject_argument(name, "takes a list of widths", widths, fixed, old=widths, code="count")
    if len(widths) == depth:
        return None
    expected = f"has {format_count(len(widths), 'width')} in decoder_channels, one for each level it climbs"
    got = f"{format_count(depth, 'level')} from the last map, level {depth}, to level 0"
    if len(widths) == depth - 1 and call.first == 1 and call.features[0].stride == 1:
        # The first map is at the image's resolution, so more likely level 0 than level 1.
        return evolve(reject_argument("first_level", expected, got, 0, code="count"), about=name)
    return reject_argument(name, expected, got, list(rules.fit_widths(widths, depth)), old=widths, code="count")


def _require_scse_widths(call: Call) -> Rejection | None:
    """Reject attention in a block so narrow that the squeeze leaves no channel; smp omits blocks of no channels."""
    if call.arguments.get("decoder_attention_type") is None:
        return None
    channels = list_channels(call)
    # The first block joins the last two maps. Later ones join what is as wide as the block before them.
    joined = sum(channels[-2:]) if len(channels) > 2 else 0
    # UnetPlusPlus has blocks between the levels too, as wide as these.
    between = channels[1:-2] if call.part.name == "UnetPlusPlus" else []
    narrow = [width for width in (*call.arguments["decoder_channels"], joined, *between) if 0 < width < 16]
    if not narrow:
        return None
    expected = "squeezes channels by 16 in each block with scse, so a block must have that many"
    return reject_argument("decoder_attention_type", expected, f"one of {min(narrow)}", None)


def _require_channels(is_valid: Callable[[int], bool], expected: str) -> Check:
    """Return the check that the channels of all used maps are valid."""
    return lambda call: None if all(is_valid(f.channels) for f in call.maps) else rules.reject_narrow_maps(expected)


def _require_upsampling_factor(call: Call) -> Rejection | None:
    """Reject a last map that cannot be enlarged to level 2 by a factor of one of smp's output strides."""
    fine, last = call.maps
    factors = (4, 2) if _get_depth(call) > 3 else (2,)
    factor = rules.scale_stride(last.stride, 1) / rules.scale_stride(fine.stride, 1)
    if factor in factors and rules.to_exact_grid(fine).offset == rules.to_exact_grid(last).offset:
        return None
    expected = f"enlarges the last map by {' or '.join(map(str, factors))}, to meet the map of level 2"
    return Rejection(code="stride", kind="raises", expected=expected)


def _require_max_depth(call: Call) -> Rejection | None:
    if _get_depth(call) <= 5:
        return None
    expected = "has gates for the levels up to 5, and would pass over those between them and the last"
    return Rejection(code="count", kind="policy", expected=expected, got=f"level {_get_depth(call)}")


def _emit(call: Call, grid: Feature, sizes: SizeConstraint = ANY_SIZE) -> Outputs:
    """Return a feature on a grid; its width is an argument, or a constant in smp's LinkNet."""
    names = ("decoder_channels", "decoder_segmentation_channels", "psp_out_channels", "decoder_fusion_channels")
    width = next((call.arguments[name] for name in names if name in call.arguments), 32)
    maps = 4 if call.arguments.get("decoder_merge_policy") == "cat" else 1
    channels = maps * int(width[-1] if isinstance(width, tuple) else width)
    return Outputs(features=[evolve(grid, channels=channels)], sizes=sizes)


def _infer_first_grid(call: Call) -> Outputs:
    return _emit(call, call.maps[0])


def _infer_exact_grid(call: Call) -> Outputs:
    """Return the grid of the first used map; the others are enlarged to it by whole factors, so all must be whole."""
    return _emit(call, rules.to_exact_grid(call.maps[0]), rules.compute_exact_multiple(*call.maps))


def _infer_level_0(call: Call) -> Outputs:
    """Return the grid of level 0: every map is doubled, so all must be whole."""
    finest = rules.to_exact_grid(call.maps[0])
    stride = rules.scale_stride(finest.stride, Fraction(1, 2 ** max(call.first, 1)))
    return _emit(call, evolve(finest, stride=stride), rules.compute_exact_multiple(*call.maps))


def _infer_unet(call: Call) -> Outputs:
    """Return the grid of level 0. Maps are resized to the next finer one; a missing level is twice the first map."""
    if call.first == 0:
        return _emit(call, call.features[0])
    return evolve(_infer_level_0(call), sizes=rules.compute_exact_multiple(call.maps[0]))


def _infer_pan(call: Call) -> Outputs:
    """Return the grid of the first used map, where the last can be halved three times."""
    return _emit(call, call.maps[0], rules.compute_min_cells(call.maps[-1], 8))


def _infer_segformer(call: Call) -> Outputs:
    """Return a grid of floor(h / 4) for a level 0 of height h, which is 1, 2 or 4 times that of the first map."""
    first = call.features[0]
    if call.first == 2:
        return _emit(call, first)
    out = evolve(first, stride=rules.scale_stride(first.stride, 4 // 2**call.first), rounding="floor")
    # floor(floor(x) / 2) = floor(x / 2), so a grid that rounds down still does; one that rounds up must be whole.
    whole = rules.compute_exact_multiple(first) if first.rounding == "ceil" else ANY_SIZE
    return _emit(call, out, rules.combine(whole, rules.compute_min_cells(out, 1)))


def _require_dpt_pyramid(call: Call) -> Rejection | None:
    """Reject widths or prefix tokens that are not one for each feature, and features that make no pyramid."""
    name, features = "decoder_intermediate_channels", call.features
    widths = call.arguments[name]
    if len(widths) != len(features):
        expected = f"has {format_count(len(widths), 'width')} in {name}, one for each feature"
        fixed = [(256, 512, 1024, 1024)[min(place, 3)] for place in range(len(features))]
        got = format_count(len(features), "feature")
        return reject_argument(name, expected, got, fixed, old=widths, code="count")
    if call.arguments["decoder_readout"] == "cat" and len({f.prefix > 0 for f in features}) > 1:
        expected = "puts a prefix token beside every cell's channels, so all features have one or none has"
        return reject_argument("decoder_readout", expected, None, "ignore", code="prefix")
    if any(rules.to_exact_grid(f).offset for f in features):
        # Resizing halves some grids and doubles others, so their offsets differ afterwards.
        expected = "takes features that cover the whole image, so of offset 0"
        fix = "choose an encoder that pads its convolutions"
        return Rejection(code="stride", kind="wrong_output", expected=expected, fix=fix)
    strides = _list_pyramid_strides(features)
    if _is_doubling(strides):
        return None
    return Rejection(
        code="stride",
        kind="raises",
        expected="makes a pyramid of features whose stride is 4, 8, 16 or another power of two",
        got=f"strides {', '.join(str(f.stride) for f in features)} become {', '.join(map(str, strides))}",
        fix="choose an encoder whose patches have 8, 16 or 32 pixels a side",
    )


def _list_pyramid_strides(features: Features) -> list[Fraction]:
    """Return the strides in DPT's pyramid: 2**(i + 2) for feature i, if smp's factor for it is exact.

    smp enlarges by a whole number or shrinks by one, which it computes from the feature's stride and cuts off.
    """
    ratios = [rules.scale_stride(f.stride, Fraction(1, 2 ** (place + 2))) for place, f in enumerate(features)]
    factors = [Fraction(int(ratio)) if ratio >= 1 else Fraction(1, int(1 / ratio)) for ratio in ratios]
    return [rules.scale_stride(f.stride, 1 / factor) for f, factor in zip(features, factors, strict=True)]


def _infer_dpt(call: Call) -> Outputs:
    """Return half the stride of the first map of the pyramid: each map is doubled and joined with the one before it."""
    pyramid = [Feature(channels=1, stride=stride) for stride in _list_pyramid_strides(call.features)]
    finest = evolve(pyramid[0], stride=rules.scale_stride(pyramid[0].stride, Fraction(1, 2)))
    return _emit(call, finest, rules.compute_exact_multiple(*call.features, *pyramid))


def _select_ends(levels: Levels) -> Levels:
    return levels[2:][:1] + levels[-1:]


_ALL, _FROM_1, _FROM_2, _LAST_FOUR, _LAST = (itemgetter(slice(start, None)) for start in (0, 1, 2, -4, -1))

_GROUPED = partial(require_groups, names=("decoder_segmentation_channels",))

_WIDE = _require_channels(lambda width: width >= 4, "quarters the channels of each map, so they need at least 4")

_QUARTERED = _require_channels(
    lambda width: width % 4 == 0, "splits the channels of the last map into quarters, so they must be a multiple of 4"
)

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "Unet": Rule(_FROM_1, "doubled", _infer_unet, depth=1, unused="wrong_output"),
        "UnetPlusPlus": Rule(_FROM_1, "joined", _infer_level_0, depth=2),
        "MAnet": Rule(_FROM_1, "joined", _infer_level_0, depth=1),
        "Linknet": Rule(_FROM_1, "joined", _infer_level_0, _WIDE, depth=1),
        "FPN": Rule(_LAST_FOUR, "joined", _infer_exact_grid, _GROUPED, count=4),
        "PSPNet": Rule(_LAST, "maps", _infer_first_grid, _QUARTERED, unused=None),
        "DeepLabV3": Rule(_LAST, "maps", _infer_first_grid, unused=None),
        "DeepLabV3Plus": Rule(_select_ends, "maps", _infer_exact_grid, _require_upsampling_factor, depth=3),
        "PAN": Rule(_FROM_2, "ordered", _infer_pan, _require_max_depth, depth=3),
        "UPerNet": Rule(_FROM_2, "ordered", _infer_first_grid, depth=3),
        "Segformer": Rule(_FROM_1, "ordered", _infer_segformer, depth=3, unused="wrong_output"),
        "DPT": Rule(_ALL, "tokens", _infer_dpt, _require_dpt_pyramid, unused=None),
    }
)
