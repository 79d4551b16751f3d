"""Check which encoders and decoders fit together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import islice, takewhile
from typing import Any, Literal

from attrs import NOTHING, evolve, fields, frozen

from composer.adapters.mmseg.parts import Mmseg
from composer.adapters.smp.levels import build_levels
from composer.adapters.smp.parts import Smp
from composer.errors import SpecError
from composer.fixes import DETOUR_COST, list_level_choices
from composer.graph import Graph, chain
from composer.inference import Describe, infer
from composer.layouts import Features, Image
from composer.neck_paths import NeckPath, expand_paths
from composer.parts import (
    ASPPRegressionHead,
    ASPPSegmentationHead,
    Decoder,
    EmbeddingHead,
    EncoderInfo,
    IdentityDecoder,
    LinearDecoder,
    Neck,
    Part,
    ProbedEncoder,
    SelectIndices,
    Timm,
    UNetDecoder,
    get_part_name,
)
from composer.parts.base import contract
from composer.parts.rules import Rejection
from composer.parts.validators import MAX_LEVELS

DEFAULT_CLASSES = 2
"""How many classes a decoder predicts that predicts."""


MAX_WIDTH, MIN_WIDTH = 256, 16
"""Widths of a decoder with one for each level: smp's own defaults, halved from one to the next."""


def list_decoder_names(parts: Mapping[str, type[Part]]) -> tuple[str, ...]:
    """The names of the decoders among `parts`, of those that can be declared by their names alone."""
    return tuple(name for name, part in parts.items() if issubclass(part, Decoder) and not _has_unknown_fields(part))


def build_default_decoder(name: str, part: type[Part], features: Features) -> Decoder:
    """A decoder for these features: the defaults of its own, and as many widths as there are levels.

    Where a field has no default it has what is usual: two classes, 256 channels, an enlargement to the image's size.
    """
    given: dict[str, Any] = {} if part.source is None else {"name": name.partition("/")[2]}
    decoder: Decoder = part(**given, **_choose_fields(part, given.get("name"), features))  # type: ignore[assignment]
    return decoder


def _choose_fields(part: type[Part], name: str | None, features: Features) -> dict[str, Any]:
    if issubclass(part, UNetDecoder):
        return {"channels": compute_widths(len(features))}
    if issubclass(part, LinearDecoder):
        return {"num_classes": DEFAULT_CLASSES, "upsampling_size": _compute_upsampling(features)}
    if issubclass(part, ASPPSegmentationHead | ASPPRegressionHead):
        return {"channels": MAX_WIDTH}
    if issubclass(part, Mmseg):
        return {"num_classes": DEFAULT_CLASSES}
    if issubclass(part, Smp):
        return _choose_smp_fields(str(name), features)
    return {}


def _choose_smp_fields(name: str, features: Features) -> dict[str, Any]:
    if name in ("Unet", "UnetPlusPlus", "MAnet"):
        return {"decoder_channels": compute_widths(max(build_levels(Smp(name), features).depth, 1))}
    if name == "DPT":
        told = range(min(len(features), MAX_LEVELS))
        return {"decoder_intermediate_channels": tuple(min(256 * 2**level, 1024) for level in told)}
    return {}


def compute_widths(levels: int) -> tuple[int, ...]:
    """One width for each level, the deepest first: 256, 128, 64, 32, 16."""
    # Of more than a part may be told there is none to tell.
    return tuple(max(MAX_WIDTH // 2**level, MIN_WIDTH) for level in range(min(levels, MAX_LEVELS)))


def _compute_upsampling(features: Features) -> int:
    stride = features[-1].stride
    return 4 if stride is None else min(max(int(stride), 1), 64)


def _has_unknown_fields(part: type[Part]) -> bool:
    """Whether a part has fields that are to be given, and that nothing is known of here."""
    known = (UNetDecoder, LinearDecoder, ASPPSegmentationHead, ASPPRegressionHead, Mmseg, Smp)
    if issubclass(part, known):
        return False
    return any(field.default is NOTHING for field in fields(part))  # type: ignore[arg-type]


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
