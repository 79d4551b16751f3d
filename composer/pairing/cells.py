"""One encoder beside every decoder: whether they fit, with which necks, or why not. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, takewhile
from typing import Literal

from attrs import evolve, frozen

from composer.contracts import Rejection, contract
from composer.feature import Image
from composer.graph import Graph, chain
from composer.inference import infer
from composer.mending import DETOUR_COST, list_level_choices
from composer.pairing.columns import build_default_decoder
from composer.parts import (
    Decoder,
    EmbeddingHead,
    EncoderInfo,
    IdentityDecoder,
    Neck,
    Part,
    ProbedEncoder,
    SelectIndices,
    Timm,
    get_part_name,
)
from composer.problem import SpecError
from composer.walking import Describe
from composer.ways import NeckPath, expand_paths

Verdict = Literal["fits", "necks", "refused"]
VERDICTS: tuple[Verdict, ...] = ("fits", "necks", "refused")

DEFAULT_LEVELS = 4
"""What decoders of several levels are usually given: so many are kept where it takes no long way."""

MAX_CHANGES = 2
"""How many changes are tried: two necks, or a neck and other levels. Longer ways there are, and none that one takes."""

MAX_FOLLOWED_PATHS = 6
"""How many ways to a decoder are followed up: the sizes that they leave may rule out the first."""


@frozen(kw_only=True)
class PairResult:
    """An encoder and a decoder: `fits` as they are, with `necks` or other levels of the encoder, or `refused`.

    `decoder` is what stands at the end, as it was declared for the features that reach it. A refused pair has
    `because`, what the decoder says of the encoder's own features; and `decoder` as it was declared for those.
    """

    encoder: ProbedEncoder
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


def evaluate_pairs(
    encoder: ProbedEncoder, decoders: Mapping[str, type[Part]], describe: Describe
) -> tuple[PairResult, ...]:
    """The cells of an encoder, which is fed three bands: one for each of `decoders`, in their order.

    For each the shortest way is taken that keeps enough levels, and of those as short the cheapest: of two changes at
    most. `describe` is asked for the encoder's facts.
    """
    facts = describe(encoder, Image().channels)
    if isinstance(facts, Rejection):
        return tuple(_build_unknown_pair(encoder, name, part, facts) for name, part in decoders.items())
    short = takewhile(
        lambda way: way.length <= MAX_CHANGES, expand_paths(_iter_start_paths(encoder, facts, describe), MAX_CHANGES)
    )
    ways = _CachedPaths(short)
    return tuple(_evaluate_pair(encoder, name, part, facts, ways, describe) for name, part in decoders.items())


class _CachedPaths:
    """What an iterator gives, for several to read: each way is looked for once, and no further than somebody asks."""

    def __init__(self, ways: Iterator[NeckPath]) -> None:
        self._ways, self._count_frames = ways, list[NeckPath]()

    def __iter__(self) -> Iterator[NeckPath]:
        at = 0
        while True:
            if at == len(self._count_frames):
                self._count_frames.extend(islice(self._ways, 1))
            if at == len(self._count_frames):
                return
            yield self._count_frames[at]
            at += 1


def _iter_start_paths(encoder: ProbedEncoder, facts: EncoderInfo, describe: Describe) -> Iterator[NeckPath]:
    """What an encoder gives by itself, and for one of timm what it gives when it is asked for other levels."""
    yield NeckPath(0, 0.0, (), facts.features)
    if isinstance(encoder, Timm):
        for indices in list_level_choices(encoder, facts):
            given = describe(select_levels(encoder, indices), facts.channels)
            if isinstance(given, EncoderInfo):
                yield NeckPath(1, DETOUR_COST, (), given.features, indices)


def select_levels(encoder: ProbedEncoder, levels: tuple[int, ...] | None) -> ProbedEncoder:
    """An encoder as it is asked for levels; None are its own choice, and those of timm alone are asked for others."""
    return evolve(encoder, out_indices=levels) if isinstance(encoder, Timm) and levels is not None else encoder


def _evaluate_pair(
    encoder: ProbedEncoder,
    name: str,
    part: type[Part],
    facts: EncoderInfo,
    ways: Iterable[NeckPath],
    describe: Describe,
) -> PairResult:
    for way in _iter_candidate_paths(name, part, facts, ways):
        decoder = build_default_decoder(name, part, way.features)
        cell = PairResult(
            encoder=select_levels(encoder, way.levels), decoder=decoder, necks=way.necks, direct=way.length == 0
        )
        if _is_valid_graph(cell.graph, describe):
            return cell
    return _build_rejected_pair(encoder, build_default_decoder(name, part, facts.features), describe)


def _iter_candidate_paths(
    name: str, part: type[Part], facts: EncoderInfo, ways: Iterable[NeckPath]
) -> Iterator[NeckPath]:
    """The ways to a decoder: none at all, then those that keep enough levels, then the others.

    A decoder that takes any number of maps would be content with one of several, and then it is no longer what it is:
    a U-Net over one map is none.
    """

    def is_accepted(way: NeckPath) -> bool:
        return not isinstance(contract(build_default_decoder(name, part, way.features), way.features), Rejection)

    yield from filter(is_accepted, islice(ways, 1))
    enough = min(DEFAULT_LEVELS, facts.levels or len(facts.features))
    for levels in (enough, min(2, len(facts.features))):
        yield from islice((way for way in ways if _has_levels(way, levels) and is_accepted(way)), MAX_FOLLOWED_PATHS)


def _has_levels(way: NeckPath, levels: int) -> bool:
    """Whether so many levels are left all the way: one that is copied is none more."""
    picked = [len(neck.indices) for neck in way.necks if isinstance(neck, SelectIndices)]
    return min([len(way.features), *picked]) >= levels


def _is_valid_graph(graph: Graph, describe: Describe) -> bool:
    try:
        infer(graph, describe)
    except SpecError:
        return False
    return True


def _build_rejected_pair(encoder: ProbedEncoder, decoder: Decoder, describe: Describe) -> PairResult:
    direct = PairResult(encoder=encoder, decoder=decoder)
    try:
        infer(direct.graph, describe)
    except SpecError as error:
        return evolve(direct, because=error.problems[0].message)
    raise AssertionError(f"{get_part_name(encoder)} fits {get_part_name(decoder)}, and was not found to")


def _build_unknown_pair(encoder: ProbedEncoder, name: str, part: type[Part], refusal: Rejection) -> PairResult:
    because = f"{get_part_name(encoder)} {refusal.expected} (got {refusal.got})."
    # Of what is not known, as if it were the image itself.
    return PairResult(encoder=encoder, decoder=build_default_decoder(name, part, (Image().feature,)), because=because)
