"""Encoders that no decoder can tell apart, so that one stands for all. No torch here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from attrs import evolve

from composer.contracts import Rejection
from composer.feature import Image
from composer.mending import list_level_choices
from composer.pairing.cells import PairResult, select_levels
from composer.parts import EncoderInfo, ProbedEncoder, Timm
from composer.walking import Describe


def group_equivalent(encoders: Iterable[ProbedEncoder], describe: Describe) -> tuple[tuple[ProbedEncoder, ...], ...]:
    """The encoders in groups that give the same, by themselves and when they are asked for other levels.

    One without facts is a group of its own. The groups stand in the order of their first encoders.
    """
    groups: dict[Hashable, list[ProbedEncoder]] = {}
    for encoder in encoders:
        groups.setdefault(_compute_encoder_key(encoder, describe), []).append(encoder)
    return tuple(map(tuple, groups.values()))


def _compute_encoder_key(encoder: ProbedEncoder, describe: Describe) -> Hashable:
    facts = describe(encoder, Image().channels)
    if isinstance(facts, Rejection):
        return encoder
    others = list_level_choices(encoder, facts) if isinstance(encoder, Timm) else ()
    given = [describe(select_levels(encoder, levels), facts.channels) for levels in others]
    return type(encoder), tuple(_extract_info_key(one) for one in (facts, *given))


def _extract_info_key(facts: EncoderInfo | Rejection) -> Hashable:
    """What decides on the pairs: not what weights expect, nor what a constructor is told."""
    if isinstance(facts, Rejection):
        return facts
    return facts.features, facts.sizes, facts.levels, dict(facts.arguments).get("out_indices")


def copy_for_encoder(encoder: ProbedEncoder, cell: PairResult) -> PairResult:
    """The cell of an encoder that is like that of `cell`."""
    return evolve(cell, encoder=select_levels(encoder, cell.levels))
