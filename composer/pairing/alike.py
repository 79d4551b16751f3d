"""Encoders that no decoder can tell apart, so that one stands for all. No torch here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from attrs import evolve

from composer.contracts import Refusal
from composer.feature import Image
from composer.mending import other_levels
from composer.pairing.cells import Cell, asked
from composer.parts import Facts, Probed, Timm
from composer.walking import Describe


def alike(encoders: Iterable[Probed], describe: Describe) -> tuple[tuple[Probed, ...], ...]:
    """The encoders in groups that give the same, by themselves and when they are asked for other levels.

    One without facts is a group of its own. The groups stand in the order of their first encoders.
    """
    groups: dict[Hashable, list[Probed]] = {}
    for encoder in encoders:
        groups.setdefault(_given(encoder, describe), []).append(encoder)
    return tuple(map(tuple, groups.values()))


def _given(encoder: Probed, describe: Describe) -> Hashable:
    facts = describe(encoder, Image().channels)
    if isinstance(facts, Refusal):
        return encoder
    others = other_levels(encoder, facts) if isinstance(encoder, Timm) else ()
    given = [describe(asked(encoder, levels), facts.channels) for levels in others]
    return type(encoder), tuple(_seen(one) for one in (facts, *given))


def _seen(facts: Facts | Refusal) -> Hashable:
    """What decides on the pairs: not what weights expect, nor what a constructor is told."""
    if isinstance(facts, Refusal):
        return facts
    return facts.features, facts.sizes, facts.levels, dict(facts.arguments).get("out_indices")


def of(encoder: Probed, cell: Cell) -> Cell:
    """The cell of an encoder that is like that of `cell`."""
    return evolve(cell, encoder=asked(encoder, cell.levels))
