"""Contracts of smp's decoders: a table of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal

from attrs import evolve, field, frozen

from composer.adapters.decoders import Call, Grid, Rule, apply_rule, infer_first_grid, reject_argument, require_groups
from composer.adapters.smp.parts import Smp
from composer.layouts import MAP, TOKENS, Feature, Features, format_count
from composer.parts import rules
from composer.parts.base import contract
from composer.sizes import ANY_SIZE


@frozen
class SmpRule(Rule):
    """The contract of a decoder, which counts levels: level i has 1 / 2**i of the image's resolution.

    `take` returns the positions of the features that it uses, from the level of the first and their number. It needs
    `count` features, or levels up to `depth`; with 0, it counts from the last. Their strides are `any`, decrease
    nowhere (`ordered`), double (`doubled`), or double with maps that match cell by cell (`joined`). `unused` is the
    kind of the rejection if other features than the used ones are not maps; None accepts them.
    """

    take: Callable[[int, int], Iterable[int]] = field(kw_only=True)
    strides: Literal["any", "ordered", "doubled", "joined"] = field(default="any", kw_only=True)
    count: int = field(default=0, kw_only=True)
    depth: int = field(default=0, kw_only=True)
    unused: rules.Kind | None = field(default="policy", kw_only=True)


@contract.register(Smp)
def _(decoder: Smp, features: Features) -> rules.ContractResult:
    call, rule = build_call(decoder, features), SMP_RULES[decoder.name]
    checks = (_require_levels, _require_used_maps, _require_widths, _require_scse_widths)
    # What the last two reject runs in smp, so they come after all that raises.
    return apply_rule(rule, call, (*checks, *rule.checks, _require_unused_maps, _require_strides), _compute_width(call))


def build_call(decoder: Smp, features: Features) -> Call:
    """Return the decoder with its levels; the first is `first_level`, or follows from its stride if that is not set."""
    rule, first = SMP_RULES[decoder.name], decoder.first_level
    if first == 0 and all(map(rules.is_map, features[:2])) and [f.stride for f in features[:2]] == [1, 4]:
        # The image itself and no level 1, as Mix Transformers give them. No decoder uses the image's content.
        first, features = 2, features[1:]
    elif first is None:
        stride = features[0].stride if features else None
        # As smp does with encoders that begin at stride 4, such as ConvNeXt and Swin.
        first = 2 if stride is not None and stride > 2 else 1
    # A decoder that counts from the last map has no missing levels.
    first = first if rule.depth else 0
    return Call(decoder, features, tuple(rule.take(first, len(features))), first)


def list_channels(call: Call) -> list[int]:
    """Return the channels of each level from 0 on; a level before the first has none."""
    return [0] * call.first + [f.channels for f in call.features]


def _compute_width(call: Call) -> int:
    """Return the channels of the output; those of LinkNet are a constant in smp's model."""
    names = ("decoder_channels", "decoder_segmentation_channels", "psp_out_channels", "decoder_fusion_channels")
    width = next((call.arguments[name] for name in names if name in call.arguments), 32)
    maps = 4 if call.arguments.get("decoder_merge_policy") == "cat" else 1
    return maps * int(width[-1] if isinstance(width, tuple) else width)


def _require_levels(call: Call) -> rules.Rejection | None:
    """Reject fewer features than a decoder needs, or than lead to the level that it needs."""
    rule = SMP_RULES[call.part.name]
    count = rule.count or (rule.depth and rule.depth - call.first + 1)
    if len(call.features) >= count:
        return None
    where, wanted = (
        ("", "four levels or more") if rule.count else (f" where the first is level {call.first}", "more levels")
    )
    expected = f"takes at least {format_count(count, 'map')}{where}"
    return rules.Rejection(code="count", kind="raises", expected=expected, fix=rules.suggest_more_levels(wanted))


def _require_layout(call: Call, features: Features) -> rules.Rejection | None:
    if call.part.name == "DPT":
        return rules.require(features, _is_grid, f'tokens "{TOKENS}" or maps "{MAP}", without frames')
    doubling = SMP_RULES[call.part.name].strides in ("doubled", "joined")
    return rules.require_pyramid_maps(features) if doubling else rules.require_maps(features)


def _require_used_maps(call: Call) -> rules.Rejection | None:
    """Reject used features that are not maps, or do not match where the decoder joins them."""
    joined = SMP_RULES[call.part.name].strides == "joined"
    return _require_layout(call, call.maps) or (_require_joinable_maps(call.maps) if joined else None)


def _require_unused_maps(call: Call) -> rules.Rejection | None:
    unused = SMP_RULES[call.part.name].unused
    if unused is None or not (rejection := _require_layout(call, call.features)):
        return None
    return evolve(rejection, kind=unused)


def _require_strides(call: Call) -> rules.Rejection | None:
    strides = SMP_RULES[call.part.name].strides
    if strides in ("ordered", "doubled") and (rejection := rules.require_finest_first(call.features)):
        return rejection
    return rules.require_doubling_strides(call.features) if strides == "doubled" else None


def _is_doubling(strides: Iterable[Fraction]) -> bool:
    """Return whether each stride is exactly twice the one before it."""
    return all(coarser == 2 * finer for finer, coarser in pairwise(strides))


def _require_joinable_maps(used: Features) -> rules.Rejection | None:
    """Reject maps that do not match the next one doubled: unlike strides that merely double, this raises in smp."""
    if rejection := rules.require_finest_first(used):
        return evolve(rejection, kind="raises")
    if not _is_doubling(rules.scale_stride(f.stride, 1) for f in used):
        return rules.Rejection(
            code="stride", kind="raises", expected="takes maps whose stride doubles from one to the next"
        )
    offsets = [rules.to_exact_grid(f).offset for f in used]
    if len(set(offsets)) == 1:
        return None
    return rules.Rejection(
        code="stride",
        kind="raises",
        expected="takes maps of which each has exactly twice the cells of the next, so of one offset",
        got=f"offsets {', '.join(map(str, offsets))} at whole multiples of the strides",
        fix="use a decoder that brings each map to the size of the next finer one, such as UNetDecoder or smp/Unet",
    )


def _require_widths(call: Call) -> rules.Rejection | None:
    """Reject `decoder_channels` that are not one width, or one for each level below the last, as smp's default is."""
    name, depth = "decoder_channels", len(list_channels(call)) - 1
    widths: Any = call.arguments.get(name)
    if not isinstance(call.part.defaults[call.part.name].get(name), tuple):
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


SCSE_REDUCTION = 16
"""The factor by which scse squeezes channels."""


def _require_scse_widths(call: Call) -> rules.Rejection | None:
    """Reject attention in a block so narrow that the squeeze leaves no channel; smp omits blocks of no channels."""
    if call.arguments.get("decoder_attention_type") is None:
        return None
    channels = list_channels(call)
    # The first block joins the last two maps. Later ones join what is as wide as the block before them.
    joined = sum(channels[-2:]) if len(channels) > 2 else 0
    # UnetPlusPlus has blocks between the levels too, as wide as these.
    between = channels[1:-2] if call.part.name == "UnetPlusPlus" else []
    widths = (*call.arguments["decoder_channels"], joined, *between)
    narrow = [width for width in widths if 0 < width < SCSE_REDUCTION]
    if not narrow:
        return None
    expected = f"squeezes channels by {SCSE_REDUCTION} in each block with scse, so a block must have that many"
    return reject_argument("decoder_attention_type", expected, f"one of {min(narrow)}", None)


def _require_four_channels(call: Call) -> rules.Rejection | None:
    narrow = any(f.channels < 4 for f in call.maps)
    return rules.reject_narrow_maps("quarters the channels of each map, so they need at least 4") if narrow else None


def _require_channel_quarters(call: Call) -> rules.Rejection | None:
    if call.maps[0].channels % 4 == 0:
        return None
    return rules.reject_narrow_maps(
        "splits the channels of the last map into quarters, so they must be a multiple of 4"
    )


def _require_upsampling_factor(call: Call) -> rules.Rejection | None:
    """Reject a last map that cannot be enlarged to level 2 by a factor of one of smp's output strides."""
    fine, last = call.maps
    factors = (2, 4) if len(list_channels(call)) > 4 else (2,)
    factor = rules.scale_stride(last.stride, 1) / rules.scale_stride(fine.stride, 1)
    if factor in factors and rules.to_exact_grid(fine).offset == rules.to_exact_grid(last).offset:
        return None
    expected = f"enlarges the last map by {' or '.join(map(str, reversed(factors)))}, to meet the map of level 2"
    return rules.Rejection(code="stride", kind="raises", expected=expected)


def _require_max_depth(call: Call) -> rules.Rejection | None:
    depth = len(list_channels(call)) - 1
    if depth <= 5:
        return None
    expected = "has gates for the levels up to 5, and would pass over those between them and the last"
    return rules.Rejection(code="count", kind="policy", expected=expected, got=f"level {depth}")


def _infer_exact_grid(call: Call) -> Grid:
    """Return the grid of the first used map; the others are enlarged to it by whole factors, so all must be whole."""
    return rules.to_exact_grid(call.maps[0]), rules.compute_exact_multiple(*call.maps)


def _infer_level_0(call: Call) -> Grid:
    """Return the grid of level 0: every map is doubled, so all must be whole."""
    finest, sizes = _infer_exact_grid(call)
    return evolve(finest, stride=rules.scale_stride(finest.stride, Fraction(1, 2 ** max(call.first, 1)))), sizes


def _infer_unet(call: Call) -> Grid:
    """Return the grid of level 0. Maps are resized to the next finer one; a missing level is twice the first map."""
    if call.first == 0:
        return call.features[0], ANY_SIZE
    return _infer_level_0(call)[0], rules.compute_exact_multiple(call.maps[0])


def _infer_pan(call: Call) -> Grid:
    """Return the grid of the first used map; the last is halved three times."""
    return call.maps[0], rules.compute_min_cells(call.maps[-1], 8)


def _infer_segformer(call: Call) -> Grid:
    """Return a grid of floor(h / 4) for a level 0 of height h, which is 1, 2 or 4 times that of the first map."""
    first = call.features[0]
    if call.first == 2:
        return first, ANY_SIZE
    out = evolve(first, stride=rules.scale_stride(first.stride, 4 // 2**call.first), rounding="floor")
    # floor(floor(x) / 2) = floor(x / 2), so a grid that rounds down still does; one that rounds up must be whole.
    whole = rules.compute_exact_multiple(first) if first.rounding == "ceil" else ANY_SIZE
    return out, rules.combine(whole, rules.compute_min_cells(out, 1))


def _is_grid(feature: Feature) -> bool:
    return rules.is_map(feature) or (feature.axes == TOKENS and feature.frames == 1)


def _require_dpt_inputs(call: Call) -> rules.Rejection | None:
    """Reject widths or prefix tokens that are not one for each feature, and maps that make no pyramid."""
    features, widths = call.features, call.arguments["decoder_intermediate_channels"]
    if len(widths) != len(features):
        expected = f"has {format_count(len(widths), 'width')} in decoder_intermediate_channels, one for each feature"
        fixed = [(256, 512, 1024, 1024)[min(place, 3)] for place in range(len(features))]
        got = format_count(len(features), "feature")
        return reject_argument("decoder_intermediate_channels", expected, got, fixed, old=widths, code="count")
    if call.arguments["decoder_readout"] == "cat" and len({f.prefix > 0 for f in features}) > 1:
        expected = "puts a prefix token beside every cell's channels, so all features have one or none has"
        return reject_argument("decoder_readout", expected, None, "ignore", code="prefix")
    if any(rules.to_exact_grid(f).offset for f in features):
        # Resizing halves some grids and doubles others, so their offsets differ afterwards.
        expected = "takes features that cover the whole image, so of offset 0"
        fix = "choose an encoder that pads its convolutions"
        return rules.Rejection(code="stride", kind="wrong_output", expected=expected, fix=fix)
    strides = _list_pyramid_strides(features)
    if _is_doubling(strides):
        return None
    return rules.Rejection(
        code="stride",
        kind="raises",
        expected="makes a pyramid of features whose stride is 4, 8, 16 or another power of two",
        got=f"strides {', '.join(str(f.stride) for f in features)} become {', '.join(map(str, strides))}",
        fix="choose an encoder whose patches have 8, 16 or 32 pixels a side",
    )


def _list_pyramid_strides(features: Features) -> list[Fraction]:
    """Return the strides of DPT's pyramid: of feature i, 2**(i + 2), as far as smp's factor is exact.

    smp enlarges by a whole number, or shrinks by one, which it cuts off.
    """
    strides = []
    for place, feature in enumerate(features):
        ratio = rules.scale_stride(feature.stride, Fraction(1, 2 ** (place + 2)))
        factor = Fraction(int(ratio)) if ratio >= 1 else Fraction(1, int(1 / ratio))
        strides.append(rules.scale_stride(feature.stride, 1 / factor))
    return strides


def _infer_dpt(call: Call) -> Grid:
    """Return half the stride of the first map of the pyramid: each map is doubled and joined with the one before it."""
    pyramid = [Feature(channels=1, stride=stride) for stride in _list_pyramid_strides(call.features)]
    first = evolve(pyramid[0], stride=rules.scale_stride(pyramid[0].stride, Fraction(1, 2)))
    return first, rules.compute_exact_multiple(*call.features, *pyramid)


def _require_fpn_groups(call: Call) -> rules.Rejection | None:
    return require_groups(call, ["decoder_segmentation_channels"])


def _take_from(level: int) -> Callable[[int, int], Iterable[int]]:
    return lambda first, count: range(max(level - first, 0), count)


def _take_last(number: int) -> Callable[[int, int], Iterable[int]]:
    return lambda _, count: range(max(count - number, 0), count)


def _take_ends(first: int, count: int) -> Iterable[int]:
    """Return the positions of level 2, or the first one that is there, and of the last level."""
    return max(2 - first, 0), count - 1


SMP_RULES: Mapping[str, SmpRule] = MappingProxyType(
    {
        "Unet": SmpRule(_infer_unet, take=_take_from(1), strides="doubled", depth=1, unused="wrong_output"),
        "UnetPlusPlus": SmpRule(_infer_level_0, take=_take_from(1), strides="joined", depth=2),
        "MAnet": SmpRule(_infer_level_0, take=_take_from(1), strides="joined", depth=1),
        "Linknet": SmpRule(_infer_level_0, (_require_four_channels,), take=_take_from(1), strides="joined", depth=1),
        "FPN": SmpRule(_infer_exact_grid, (_require_fpn_groups,), take=_take_last(4), strides="joined", count=4),
        "PSPNet": SmpRule(infer_first_grid, (_require_channel_quarters,), take=_take_last(1), unused=None),
        "DeepLabV3": SmpRule(infer_first_grid, take=_take_last(1), unused=None),
        "DeepLabV3Plus": SmpRule(_infer_exact_grid, (_require_upsampling_factor,), take=_take_ends, depth=3),
        "PAN": SmpRule(_infer_pan, (_require_max_depth,), take=_take_from(2), strides="ordered", depth=3),
        "UPerNet": SmpRule(infer_first_grid, take=_take_from(2), strides="ordered", depth=3),
        "Segformer": SmpRule(_infer_segformer, take=_take_from(1), strides="ordered", depth=3, unused="wrong_output"),
        "DPT": SmpRule(_infer_dpt, (_require_dpt_inputs,), take=_take_from(0), unused=None),
    }
)
