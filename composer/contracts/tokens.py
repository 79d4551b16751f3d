"""What the neck that makes vectors of tokens gives. No torch here."""

from __future__ import annotations

from composer.contracts.dispatch import contract
from composer.contracts.rules import ContractResult, Outputs, Rejection, require_indices
from composer.feature import MAP, MAP_PER_FRAME, TOKENS, TOKENS_PER_FRAME, Feature, Features
from composer.parts import AggregateTokens

GRID_LAYOUTS = (TOKENS, MAP, TOKENS_PER_FRAME, MAP_PER_FRAME)


@contract.register(AggregateTokens)
def _(neck: AggregateTokens, features: Features) -> ContractResult:
    if refusal := require_indices(features, neck.positions, "indices"):
        return refusal
    chosen = tuple(features[index] for index in neck.positions)
    return (
        _require_grids(chosen, features)
        or _require_prefix_token(neck, chosen)
        or _require_droppable_prefix(neck, chosen)
        or Outputs(features=[_build_vector(feature) for feature in chosen])
    )


def _require_grids(chosen: Features, features: Features) -> Rejection | None:
    """Refuse other layouts: whatever axis comes last but one would be taken for the tokens."""
    wrong = [feature for feature in chosen if feature.axes not in GRID_LAYOUTS]
    if not wrong:
        return None
    return Rejection(
        code="layout",
        kind="wrong_output",
        expected=f'takes tokens "{TOKENS}", maps "{MAP}", or either per frame',
        repair=_suggest_necks_to_grids(wrong[0], features),
    )


def _suggest_necks_to_grids(wrong: Feature, features: Features) -> str | None:
    """What turns a feature into one of the layouts that are pooled."""
    if wrong.stride is None:
        return "leave this neck out: a vector has nothing to be pooled"
    if len({feature.axes for feature in features}) > 1:
        # A permutation is of all features.
        return None
    axes = wrong.axes.split()
    grid = next(grid.split() for grid in GRID_LAYOUTS if set(grid) == set(wrong.axes))
    return f"necks: [PermuteDims: {{new_order: {[axes.index(axis) for axis in grid]}}}]"


def _require_prefix_token(neck: AggregateTokens, chosen: Features) -> Rejection | None:
    """Refuse to take a token of the grid for one of the prefix: at another size it would stand elsewhere."""
    token = 0 if neck.pooling == "cls" else neck.pooling
    prefix = min(feature.prefix for feature in chosen)
    if isinstance(token, str) or token < prefix:
        return None
    asked = "the class token" if neck.pooling == "cls" else f"token {token} of the prefix"
    return Rejection(
        code="prefix",
        kind="wrong_output",
        expected=f"takes {asked}, which not every feature at indices has",
        repair=f"use a pooling from 0 to {prefix - 1}" if prefix > 1 else "pooling: cls" if prefix else "pooling: mean",
        about="pooling",
    )


def _require_droppable_prefix(neck: AggregateTokens, chosen: Features) -> Rejection | None:
    if not neck.drop_cls or all(feature.prefix for feature in chosen):
        return None
    return Rejection(
        code="prefix",
        kind="policy",
        expected="drops the prefix, which not every feature at indices has",
        repair="drop_cls: false",
        about="drop_cls",
    )


def _build_vector(feature: Feature) -> Feature:
    if "t" in feature.axes:
        return Feature(channels=feature.channels, stride=None, axes="b t c", frames=feature.frames)
    return Feature(channels=feature.channels, stride=None, axes="b c")
