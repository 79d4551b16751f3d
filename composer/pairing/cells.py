"""One encoder beside every decoder: whether they fit, with which necks, or why not. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, takewhile
from typing import Literal

from attrs import evolve, frozen

from composer.contracts import Refusal, contract
from composer.feature import Image
from composer.graph import Graph, chain
from composer.inference import infer
from composer.mending import ASIDE, other_levels
from composer.pairing.columns import declared
from composer.parts import (
    Decoder,
    EmbeddingHead,
    Facts,
    IdentityDecoder,
    Neck,
    Part,
    Probed,
    SelectIndices,
    Timm,
    part_name,
)
from composer.problem import SpecError
from composer.walking import Describe
from composer.ways import Way, reached

Verdict = Literal["fits", "necks", "refused"]
VERDICTS: tuple[Verdict, ...] = ("fits", "necks", "refused")

USUAL_LEVELS = 4
"""What decoders of several levels are usually given: so many are kept where it takes no long way."""

LONGEST = 2
"""How many changes are tried: two necks, or a neck and other levels. Longer ways there are, and none that one takes."""

MOST = 6
"""How many ways to a decoder are followed up: the sizes that they leave may rule out the first."""


@frozen(kw_only=True)
class Cell:
    """An encoder and a decoder: `fits` as they are, with `necks` or other levels of the encoder, or `refused`.

    `decoder` is what stands at the end, as it was declared for the features that reach it. A refused pair has
    `because`, what the decoder says of the encoder's own features; and `decoder` as it was declared for those.
    """

    encoder: Probed
    decoder: Decoder
    necks: tuple[Neck, ...] = ()
    because: str | None = None
    direct: bool = True

    @property
    def verdict(self) -> Verdict:
        """What becomes of the pair."""
        if self.because is not None:
            return "refused"
        return "fits" if self.direct else "necks"

    @property
    def levels(self) -> tuple[int, ...] | None:
        """The levels that the encoder is asked for, where they are not its own choice."""
        return self.encoder.out_indices if isinstance(self.encoder, Timm) else None

    @property
    def graph(self) -> Graph:
        """The pair as a graph, whether it fits or not: of a decoder that does not predict the features leave it."""
        last = () if self.decoder.includes_head or isinstance(self.decoder, IdentityDecoder) else (EmbeddingHead(),)
        return chain(self.encoder, *self.necks, self.decoder, *last)


def row(encoder: Probed, decoders: Mapping[str, type[Part]], describe: Describe) -> tuple[Cell, ...]:
    """The cells of an encoder, which is fed three bands: one for each of `decoders`, in their order.

    For each the shortest way is taken that keeps enough levels, and of those as short the cheapest: of two changes at
    most. `describe` is asked for the encoder's facts.
    """
    facts = describe(encoder, Image().channels)
    if isinstance(facts, Refusal):
        return tuple(_without_facts(encoder, name, part, facts) for name, part in decoders.items())
    short = takewhile(lambda way: way.length <= LONGEST, reached(_starts(encoder, facts, describe), LONGEST))
    ways = _Kept(short)
    return tuple(_cell(encoder, name, part, facts, ways, describe) for name, part in decoders.items())


class _Kept:
    """What an iterator gives, for several to read: each way is looked for once, and no further than somebody asks."""

    def __init__(self, ways: Iterator[Way]) -> None:
        self._ways, self._seen = ways, list[Way]()

    def __iter__(self) -> Iterator[Way]:
        at = 0
        while True:
            if at == len(self._seen):
                self._seen.extend(islice(self._ways, 1))
            if at == len(self._seen):
                return
            yield self._seen[at]
            at += 1


def _starts(encoder: Probed, facts: Facts, describe: Describe) -> Iterator[Way]:
    """What an encoder gives by itself, and for one of timm what it gives when it is asked for other levels."""
    yield Way(0, 0.0, (), facts.features)
    if isinstance(encoder, Timm):
        for indices in other_levels(encoder, facts):
            given = describe(asked(encoder, indices), facts.channels)
            if isinstance(given, Facts):
                yield Way(1, ASIDE, (), given.features, indices)


def asked(encoder: Probed, levels: tuple[int, ...] | None) -> Probed:
    """An encoder as it is asked for levels; None are its own choice, and those of timm alone are asked for others."""
    return evolve(encoder, out_indices=levels) if isinstance(encoder, Timm) and levels is not None else encoder


def _cell(encoder: Probed, name: str, part: type[Part], facts: Facts, ways: Iterable[Way], describe: Describe) -> Cell:
    for way in _worth_a_try(name, part, facts, ways):
        decoder = declared(name, part, way.features)
        cell = Cell(encoder=asked(encoder, way.levels), decoder=decoder, necks=way.necks, direct=way.length == 0)
        if _lawful(cell.graph, describe):
            return cell
    return _refused(encoder, declared(name, part, facts.features), describe)


def _worth_a_try(name: str, part: type[Part], facts: Facts, ways: Iterable[Way]) -> Iterator[Way]:
    """The ways to a decoder: none at all, then those that keep enough levels, then the others.

    A decoder that takes any number of maps would be content with one of several, and then it is no longer what it is:
    a U-Net over one map is none.
    """

    def accepted(way: Way) -> bool:
        return not isinstance(contract(declared(name, part, way.features), way.features), Refusal)

    yield from filter(accepted, islice(ways, 1))
    enough = min(USUAL_LEVELS, facts.levels or len(facts.features))
    for levels in (enough, min(2, len(facts.features))):
        yield from islice((way for way in ways if _keeps(way, levels) and accepted(way)), MOST)


def _keeps(way: Way, levels: int) -> bool:
    """Whether so many levels are left all the way: one that is copied is none more."""
    picked = [len(neck.indices) for neck in way.necks if isinstance(neck, SelectIndices)]
    return min([len(way.features), *picked]) >= levels


def _lawful(graph: Graph, describe: Describe) -> bool:
    try:
        infer(graph, describe)
    except SpecError:
        return False
    return True


def _refused(encoder: Probed, decoder: Decoder, describe: Describe) -> Cell:
    direct = Cell(encoder=encoder, decoder=decoder)
    try:
        infer(direct.graph, describe)
    except SpecError as error:
        return evolve(direct, because=error.problems[0].message)
    raise AssertionError(f"{part_name(encoder)} fits {part_name(decoder)}, and was not found to")


def _without_facts(encoder: Probed, name: str, part: type[Part], refusal: Refusal) -> Cell:
    because = f"{part_name(encoder)} {refusal.expected} (got {refusal.got})."
    # Of what is not known, as if it were the image itself.
    return Cell(encoder=encoder, decoder=declared(name, part, (Image().feature,)), because=because)
