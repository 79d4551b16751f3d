"""What necks give. No torch here."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import (
    Outcome,
    Promise,
    Refusal,
    at_least,
    both,
    index_in,
    is_map,
    maps_only,
    scaled,
    towards_maps,
    whole,
)
from composer.feature import MAP, TOKENS, Feature, Features, counted, sentence
from composer.parts import (
    AddBottleneckLayer,
    AddFeatures,
    ConcatFeatures,
    InterpolateToPyramidal,
    LearnedInterpolateToPyramidal,
    MaxpoolToPyramidal,
    PermuteDims,
    ReshapeTokensToImage,
    SelectIndices,
)
from composer.sizes import ANY, Sizes


@contract.register(SelectIndices)
def _(neck: SelectIndices, features: Features) -> Outcome:
    return index_in(features, neck.indices, "indices") or Promise(features=[features[i] for i in neck.indices])


@contract.register(PermuteDims)
def _(neck: PermuteDims, features: Features) -> Outcome:
    rank = len(neck.new_order)
    if sorted(neck.new_order) != list(range(rank)) or any(len(f.axes.split()) != rank for f in features):
        return Refusal(
            code="axes",
            kind="impossible",
            expected=f"takes features of {rank} axes, each named once in new_order {list(neck.new_order)}",
            about="new_order",
        )
    if any(f.axes.split()[neck.new_order[0]] != "b" for f in features):
        return Refusal(
            code="batch",
            kind="policy",
            expected="leaves the batch in front, because every other part takes it there",
            got=f"new_order {list(neck.new_order)}",
            repair="begin new_order with 0",
            about="new_order",
        )
    return Promise(features=[_permuted(feature, neck.new_order) for feature in features])


def _permuted(feature: Feature, order: tuple[int, ...]) -> Feature:
    axes = feature.axes.split()
    return evolve(feature, axes=" ".join(axes[axis] for axis in order))


@contract.register(InterpolateToPyramidal)
def _(neck: InterpolateToPyramidal, features: Features) -> Outcome:
    factors = [neck.scale_factor**exponent for exponent in range(len(features), 0, -1)]
    return _scalable(features, factors) or Promise(
        features=[_exact(f, Fraction(1, factor)) for f, factor in zip(features, factors, strict=True)],
        sizes=whole(*features),
    )


def _scalable(features: Features, factors: list[int]) -> Refusal | None:
    """Refuse what is no map: torch would scale whatever axes come last. Scaling by 1 would do no harm."""
    harmful = any(not is_map(f) and factor > 1 for f, factor in zip(features, factors, strict=True))
    return maps_only(features, "lies" if harmful else "policy")


def _exact(feature: Feature, by: Fraction) -> Feature:
    return evolve(feature, stride=scaled(feature.stride, by), rounding="exact")


@contract.register(MaxpoolToPyramidal)
def _(neck: MaxpoolToPyramidal, features: Features) -> Outcome:
    kernels = [neck.kernel_size**exponent for exponent in range(len(features))]
    if refusal := _scalable(features, kernels):
        return refusal
    sizes = ANY
    pooled = []
    for feature, kernel in zip(features, kernels, strict=True):
        out, demand = _pooled(feature, kernel)
        pooled.append(out)
        sizes = both(sizes, demand)
    return Promise(features=pooled, sizes=sizes)


def _pooled(feature: Feature, kernel: int) -> tuple[Feature, Sizes]:
    """A map after max-pooling by `kernel`, rounding down.

    floor(floor(x) / k) = floor(x / k), so a map that rounds down goes on doing so; one that rounds up has to be whole.
    """
    if kernel == 1:
        return feature, ANY
    out = evolve(feature, stride=scaled(feature.stride, kernel), rounding="floor")
    return out, both(whole(feature) if feature.rounding == "ceil" else ANY, at_least(out, 1))


@contract.register(ReshapeTokensToImage)
def _(neck: ReshapeTokensToImage, features: Features) -> Outcome:
    wrong_layout = _tokens_or_maps(features)
    if wrong_layout:
        return wrong_layout
    tokens = [feature for feature in features if not is_map(feature)]
    return (
        _prefix_removed(neck, tokens)
        or _frames_as_stated(neck, tokens)
        or _rows_as_stated(neck, tokens)
        or Promise(features=[_gridded(f) for f in features], sizes=_rows(neck, tokens))
    )


def _tokens_or_maps(features: Features) -> Refusal | None:
    if features and all(f.axes in (TOKENS, MAP) for f in features):
        return None
    repair = towards_maps(features)
    return Refusal(
        code="layout",
        kind="impossible",
        expected=f'takes tokens "{TOKENS}", or maps "{MAP}", which pass through',
        repair=None if repair == "necks: [ReshapeTokensToImage]" else repair,
    )


def _prefix_removed(neck: ReshapeTokensToImage, tokens: list[Feature]) -> Refusal | None:
    if neck.remove_cls_token or not any(f.prefix for f in tokens):
        return None
    return Refusal(
        code="prefix",
        kind="impossible",
        expected="lays tokens out on a grid, where prefix tokens have no place",
        repair="remove_cls_token: true",
        about="remove_cls_token",
    )


def _frames_as_stated(neck: ReshapeTokensToImage, tokens: list[Feature]) -> Refusal | None:
    stated = neck.effective_time_dim
    if stated is None or all(f.frames == stated for f in tokens):
        return None
    frames = max(f.frames for f in tokens)
    return Refusal(
        code="frames",
        kind="impossible",
        expected=f"is told that tokens have {counted(stated, 'frame')}",
        repair=f"effective_time_dim: {frames}",
        about="effective_time_dim",
    )


def _rows_as_stated(neck: ReshapeTokensToImage, tokens: list[Feature]) -> Refusal | None:
    heights = {scaled(f.stride, neck.h or 1) for f in tokens}
    if neck.h is None or (len(heights) < 2 and all(height.denominator == 1 for height in heights)):
        return None
    return Refusal(
        code="rows",
        kind="policy",
        expected=f"is told that every grid has {counted(neck.h, 'row')}, which no one image height gives",
        repair="leave h out: the grid is known without it",
        about="h",
    )


def _rows(neck: ReshapeTokensToImage, tokens: list[Feature]) -> Sizes:
    """Sizes at which the grid is whole, and has the rows that are stated."""
    if neck.h is None or not tokens:
        return whole(*tokens)
    return Sizes(multiple=whole(*tokens).multiple, height=int(scaled(tokens[0].stride, neck.h)))


def _gridded(feature: Feature) -> Feature:
    if is_map(feature):
        return feature
    return Feature(channels=feature.channels * feature.frames, stride=feature.stride, rounding=feature.rounding)


@contract.register(AddBottleneckLayer)
def _(neck: AddBottleneckLayer, features: Features) -> Outcome:
    if refusal := maps_only(features[-1:]):
        return refusal
    last = features[-1]
    if last.channels < 2:
        return _too_narrow("halves the channels of the last map, so it needs at least 2")
    return Promise(features=[*features, evolve(last, channels=last.channels // 2)])


def _too_narrow(expected: str) -> Refusal:
    return Refusal(code="channels", kind="impossible", expected=expected)


@contract.register(LearnedInterpolateToPyramidal)
def _(neck: LearnedInterpolateToPyramidal, features: Features) -> Outcome:
    if refusal := maps_only(features):
        return refusal
    if len(features) != 4:
        return Refusal(
            code="count",
            kind="impossible",
            expected="takes exactly four maps",
            repair=_four_levels(len(features)),
        )
    first, second, third, fourth = features
    if first.channels < 4 or second.channels < 2:
        return _too_narrow("quarters the channels of the first map and halves the second's, so they need 4 and 2")
    pooled, least = _pooled(fourth, 2)
    return Promise(
        features=(
            evolve(_exact(first, Fraction(1, 4)), channels=first.channels // 4),
            evolve(_exact(second, Fraction(1, 2)), channels=second.channels // 2),
            third,
            pooled,
        ),
        sizes=both(whole(first, second), least),
    )


def _four_levels(count: int) -> str:
    if count > 4:
        return f"necks: [SelectIndices: {{indices: {[round(i * (count - 1) / 3) for i in range(4)]}}}]"
    return "choose four levels with the encoder's out_indices"


@contract.register(ConcatFeatures)
def _(neck: ConcatFeatures, *branches: Features) -> Outcome:
    return _joinable(branches) or _joined(branches, concatenated=True)


@contract.register(AddFeatures)
def _(neck: AddFeatures, *branches: Features) -> Outcome:
    refusal = _joinable(branches) or _equal_channels(branches)
    if refusal is None:
        return _joined(branches, concatenated=False)
    # torch spreads a single channel or frame over the others, which nobody has asked for.
    spread = refusal.code in ("join", "channels") and all(map(_spreads, zip(*branches, strict=True)))
    return evolve(refusal, kind="policy") if spread else refusal


def _spreads(level: Features) -> bool:
    """Whether torch would add features of different shapes up without an error."""
    grids = {(f.axes, f.stride, f.prefix, 1 if "t" in f.axes else f.frames) for f in level}
    return len(grids) == 1 and all(
        len({*sizes} - {1}) <= 1 for sizes in ([f.channels for f in level], [f.frames for f in level])
    )


def _joined(branches: tuple[Features, ...], *, concatenated: bool) -> Promise:
    joined = []
    sizes = ANY
    for level in zip(*branches, strict=True):
        channels = sum(f.channels for f in level) if concatenated else level[0].channels
        # Maps that round differently are of one size where all are whole.
        alike = len({f.rounding for f in level}) == 1
        joined.append(evolve(level[0], channels=channels, rounding=level[0].rounding if alike else "exact"))
        sizes = sizes if alike else both(sizes, whole(*level))
    return Promise(features=joined, sizes=sizes)


def _joinable(branches: tuple[Features, ...]) -> Refusal | None:
    if len(branches) < 2:
        return Refusal(
            code="inputs", kind="policy", expected="joins at least two inputs", got=counted(len(branches), "input")
        )
    for position, branch in enumerate(branches[1:], start=1):
        if len(branch) != len(branches[0]):
            return Refusal(
                code="count",
                kind="impossible",
                expected=f"joins branches level by level, and its first input has {counted(len(branches[0]), 'level')}",
                got=counted(len(branch), "level"),
                repair="choose the same number of levels with out_indices or SelectIndices",
                input=position,
            )
        for level, (one, other) in enumerate(zip(branches[0], branch, strict=True)):
            if (one.axes, one.stride, one.prefix, one.frames) != (other.axes, other.stride, other.prefix, other.frames):
                return Refusal(
                    code="join",
                    kind="impossible",
                    expected=f"joins level {level} with {sentence((one,))}",
                    got=sentence((other,)),
                    repair="give both branches the same layout and stride at each level",
                    input=position,
                )
    return None


def _equal_channels(branches: tuple[Features, ...]) -> Refusal | None:
    widths = [{f.channels for f in features} for features in zip(*branches, strict=True)]
    unequal = [level for level, found in enumerate(widths) if len(found) > 1]
    if not unequal:
        return None
    return Refusal(
        code="channels",
        kind="impossible",
        expected=f"adds level {unequal[0]} up, so its channels must be equal",
        got=f"{', '.join(str(branch[unequal[0]].channels) for branch in branches)} channels",
        repair="join with ConcatFeatures",
    )
