"""What necks that join branches give. No torch here."""

from __future__ import annotations

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import ContractResult, Outputs, Rejection, combine, compute_exact_multiple, to_exact_grid
from composer.feature import Feature, Features, describe_features, format_count
from composer.parts import AddFeatures, ConcatFeatures
from composer.sizes import ANY_SIZE


@contract.register(ConcatFeatures)
def _(neck: ConcatFeatures, *branches: Features) -> ContractResult:
    return _require_joinable(branches) or _join_branches(branches, concatenated=True)


@contract.register(AddFeatures)
def _(neck: AddFeatures, *branches: Features) -> ContractResult:
    refusal = _require_joinable(branches) or _require_equal_channels(branches)
    if refusal is None:
        return _join_branches(branches, concatenated=False)
    if refusal.code == "join" and any(map(_has_mixed_ranks, zip(*branches, strict=False))):
        # torch aligns axes from the last one on, so that the batch of one branch may meet the frames of another.
        return evolve(refusal, kind="wrong_output")
    # torch spreads a single channel or frame over the others, which nobody has asked for.
    spread = refusal.code in ("join", "channels") and all(map(_is_broadcastable, zip(*branches, strict=False)))
    return evolve(refusal, kind="policy") if spread else refusal


def _has_mixed_ranks(level: Features) -> bool:
    return len({len(f.axes.split()) for f in level}) > 1


def _is_broadcastable(level: Features) -> bool:
    """Whether torch would add features of different shapes up without an error."""
    grids = {(f.axes, f.stride, to_exact_grid(f).offset, f.prefix, 1 if "t" in f.axes else f.frames) for f in level}
    return len(grids) == 1 and all(
        len({*sizes} - {1}) <= 1 for sizes in ([f.channels for f in level], [f.frames for f in level])
    )


def _join_branches(branches: tuple[Features, ...], *, concatenated: bool) -> Outputs:
    joined = []
    sizes = ANY_SIZE
    for level in zip(*branches, strict=True):
        channels = sum(f.channels for f in level) if concatenated else level[0].channels
        # Maps that round differently are of one size where all are whole.
        alike = len({(f.rounding, f.offset) for f in level}) == 1
        joined.append(evolve(level[0] if alike else to_exact_grid(level[0]), channels=channels))
        sizes = sizes if alike else combine(sizes, compute_exact_multiple(*level))
    return Outputs(features=joined, sizes=sizes)


def _require_joinable(branches: tuple[Features, ...]) -> Rejection | None:
    if len(branches) < 2:
        return Rejection(
            code="inputs",
            kind="policy",
            expected="joins at least two inputs",
            got=format_count(len(branches), "input"),
            repair="write the model as nodes, and say what it joins: from: [one, other]",
        )
    for position, branch in enumerate(branches[1:], start=1):
        if len(branch) != len(branches[0]):
            return Rejection(
                code="count",
                kind="raises",
                expected=f"joins branches level by level, and its first input has {format_count(len(branches[0]), 'level')}",
                got=format_count(len(branch), "level"),
                repair=f"bring both to {format_count(min(len(branch), len(branches[0])), 'level')}, with SelectIndices, or "
                "with the out_indices or the depth of an encoder",
                input=position,
            )
        for level, (one, other) in enumerate(zip(branches[0], branch, strict=True)):
            if _get_grid_key(one) != _get_grid_key(other):
                return Rejection(
                    code="join",
                    kind="raises",
                    expected=f"joins level {level} with {describe_features((one,))}",
                    got=describe_features((other,)),
                    repair="give both branches the same layout, stride and offset at each level"
                    if one.offset or other.offset
                    else "give both branches the same layout and stride at each level",
                    input=position,
                )
    return None


def _get_grid_key(feature: Feature) -> tuple[object, ...]:
    """What two features have in common that can be joined, at the sizes at which both are whole."""
    return feature.axes, feature.stride, to_exact_grid(feature).offset, feature.prefix, feature.frames


def _require_equal_channels(branches: tuple[Features, ...]) -> Rejection | None:
    widths = [{f.channels for f in features} for features in zip(*branches, strict=True)]
    unequal = [level for level, found in enumerate(widths) if len(found) > 1]
    if not unequal:
        return None
    return Rejection(
        code="channels",
        kind="raises",
        expected=f"adds level {unequal[0]} up, so its channels must be equal",
        got=f"{', '.join(str(branch[unequal[0]].channels) for branch in branches)} channels",
        repair="join with ConcatFeatures",
    )
