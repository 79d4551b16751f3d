"""What the neck that makes vectors of tokens gives. No torch here."""

from __future__ import annotations

from composer.contracts.dispatch import contract
from composer.contracts.rules import Outcome, Promise, Refusal, index_in
from composer.feature import MAP, MAP_PER_FRAME, TOKENS, TOKENS_PER_FRAME, Feature, Features
from composer.parts import AggregateTokens

GRIDS = (TOKENS, MAP, TOKENS_PER_FRAME, MAP_PER_FRAME)


@contract.register(AggregateTokens)
def _(neck: AggregateTokens, features: Features) -> Outcome:
    if refusal := index_in(features, neck.positions, "indices"):
        return refusal
    chosen = tuple(features[index] for index in neck.positions)
    return (
        _grids_only(chosen, features)
        or _token_of_the_prefix(neck, chosen)
        or _prefix_to_drop(neck, chosen)
        or Promise(features=[_vector(feature) for feature in chosen])
    )


def _grids_only(chosen: Features, features: Features) -> Refusal | None:
    """Refuse other layouts: whatever axis comes last but one would be taken for the tokens."""
    wrong = [feature for feature in chosen if feature.axes not in GRIDS]
    if not wrong:
        return None
    return Refusal(
        code="layout",
        kind="lies",
        expected=f'takes tokens "{TOKENS}", maps "{MAP}", or either per frame',
        repair=_towards_grids(wrong[0], features),
    )


def _towards_grids(wrong: Feature, features: Features) -> str | None:
    """What turns a feature into one of the layouts that are pooled."""
    if wrong.stride is None:
        return "leave this neck out: a vector has nothing to be pooled"
    if len({feature.axes for feature in features}) > 1:
        # A permutation is of all features.
        return None
    axes = wrong.axes.split()
    grid = next(grid.split() for grid in GRIDS if set(grid) == set(wrong.axes))
    return f"necks: [PermuteDims: {{new_order: {[axes.index(axis) for axis in grid]}}}]"


def _token_of_the_prefix(neck: AggregateTokens, chosen: Features) -> Refusal | None:
    """Refuse to take a token of the grid for one of the prefix: at another size it would stand elsewhere."""
    token = 0 if neck.pooling == "cls" else neck.pooling
    prefix = min(feature.prefix for feature in chosen)
    if isinstance(token, str) or token < prefix:
        return None
    asked = "the class token" if neck.pooling == "cls" else f"token {token} of the prefix"
    return Refusal(
        code="prefix",
        kind="lies",
        expected=f"takes {asked}, which not every feature at indices has",
        repair=f"use a pooling from 0 to {prefix - 1}" if prefix > 1 else "pooling: cls" if prefix else "pooling: mean",
        about="pooling",
    )


def _prefix_to_drop(neck: AggregateTokens, chosen: Features) -> Refusal | None:
    if not neck.drop_cls or all(feature.prefix for feature in chosen):
        return None
    return Refusal(
        code="prefix",
        kind="policy",
        expected="drops the prefix, which not every feature at indices has",
        repair="drop_cls: false",
        about="drop_cls",
    )


def _vector(feature: Feature) -> Feature:
    if "t" in feature.axes:
        return Feature(channels=feature.channels, stride=None, axes="b t c", frames=feature.frames)
    return Feature(channels=feature.channels, stride=None, axes="b c")
