"""What necks that join branches give. No torch here."""

from __future__ import annotations

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import Outcome, Promise, Refusal, both, exactly, whole
from composer.feature import Feature, Features, counted, sentence
from composer.parts import AddFeatures, ConcatFeatures
from composer.sizes import ANY


@contract.register(ConcatFeatures)
def _(neck: ConcatFeatures, *branches: Features) -> Outcome:
    return _joinable(branches) or _joined(branches, concatenated=True)


@contract.register(AddFeatures)
def _(neck: AddFeatures, *branches: Features) -> Outcome:
    refusal = _joinable(branches) or _equal_channels(branches)
    if refusal is None:
        return _joined(branches, concatenated=False)
    if refusal.code == "join" and any(map(_of_unlike_rank, zip(*branches, strict=False))):
        # torch aligns axes from the last one on, so that the batch of one branch may meet the frames of another.
        return evolve(refusal, kind="lies")
    # torch spreads a single channel or frame over the others, which nobody has asked for.
    spread = refusal.code in ("join", "channels") and all(map(_spreads, zip(*branches, strict=False)))
    return evolve(refusal, kind="policy") if spread else refusal


def _of_unlike_rank(level: Features) -> bool:
    return len({len(f.axes.split()) for f in level}) > 1


def _spreads(level: Features) -> bool:
    """Whether torch would add features of different shapes up without an error."""
    grids = {(f.axes, f.stride, exactly(f).offset, f.prefix, 1 if "t" in f.axes else f.frames) for f in level}
    return len(grids) == 1 and all(
        len({*sizes} - {1}) <= 1 for sizes in ([f.channels for f in level], [f.frames for f in level])
    )


def _joined(branches: tuple[Features, ...], *, concatenated: bool) -> Promise:
    joined = []
    sizes = ANY
    for level in zip(*branches, strict=True):
        channels = sum(f.channels for f in level) if concatenated else level[0].channels
        # Maps that round differently are of one size where all are whole.
        alike = len({(f.rounding, f.offset) for f in level}) == 1
        joined.append(evolve(level[0] if alike else exactly(level[0]), channels=channels))
        sizes = sizes if alike else both(sizes, whole(*level))
    return Promise(features=joined, sizes=sizes)


def _joinable(branches: tuple[Features, ...]) -> Refusal | None:
    if len(branches) < 2:
        return Refusal(
            code="inputs",
            kind="policy",
            expected="joins at least two inputs",
            got=counted(len(branches), "input"),
            repair="write the model as nodes, and say what it joins: from: [one, other]",
        )
    for position, branch in enumerate(branches[1:], start=1):
        if len(branch) != len(branches[0]):
            return Refusal(
                code="count",
                kind="impossible",
                expected=f"joins branches level by level, and its first input has {counted(len(branches[0]), 'level')}",
                got=counted(len(branch), "level"),
                repair=f"bring both to {counted(min(len(branch), len(branches[0])), 'level')}, with SelectIndices, or "
                "with the out_indices or the depth of an encoder",
                input=position,
            )
        for level, (one, other) in enumerate(zip(branches[0], branch, strict=True)):
            if _grid(one) != _grid(other):
                return Refusal(
                    code="join",
                    kind="impossible",
                    expected=f"joins level {level} with {sentence((one,))}",
                    got=sentence((other,)),
                    repair="give both branches the same layout, stride and offset at each level"
                    if one.offset or other.offset
                    else "give both branches the same layout and stride at each level",
                    input=position,
                )
    return None


def _grid(feature: Feature) -> tuple[object, ...]:
    """What two features have in common that can be joined, at the sizes at which both are whole."""
    return feature.axes, feature.stride, exactly(feature).offset, feature.prefix, feature.frames


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
