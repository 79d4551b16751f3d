"""Check which encoders and decoders fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import Any, Literal

from attrs import NOTHING, evolve, fields, frozen

from composer.adapters.mmseg.parts import Mmseg
from composer.adapters.smp.parts import Smp
from composer.errors import SpecError
from composer.fixes import DETOUR_COST, apply_change, list_level_choices
from composer.graph import Graph, chain
from composer.inference import Describe, run_inference
from composer.layouts import Features, Image
from composer.neck_paths import NeckPath, expand_paths
from composer.parts import (
    ASPPRegressionHead,
    ASPPSegmentationHead,
    Decoder,
    EmbeddingHead,
    IdentityDecoder,
    LinearDecoder,
    Neck,
    Part,
    ProbedEncoder,
    SelectIndices,
    Timm,
    UNetDecoder,
)
from composer.parts.base import contract
from composer.parts.rules import Rejection

Verdict = Literal["fits", "necks", "refused"]

REQUIRED_FIELDS: Mapping[type[Part], Mapping[str, Any]] = {
    UNetDecoder: {"channels": (256,)},
    LinearDecoder: {"num_classes": 2, "upsampling_size": 4},
    ASPPSegmentationHead: {"channels": 256},
    ASPPRegressionHead: {"channels": 256},
    Mmseg: {"num_classes": 2},
}
"""The fields without a default, with usual values. Several widths are fitted to the features."""

DEFAULT_LEVELS = 4
"""Levels that a path keeps if it can: decoders of several levels usually get four."""

MAX_CHANGES = 2
"""Changes of a path: two necks, or a neck and other levels of the encoder."""

MAX_FOLLOWED_PATHS = 6
"""Paths per decoder that are inferred whole: the first ones may be ruled out by image sizes."""


@frozen(kw_only=True)
class PairResult:
    """An encoder and a decoder, with the necks and encoder levels that join them.

    `decoder` is declared for the features that reach it. A rejected pair has `because`, the message of the decoder for
    the encoder's own features. `direct` is False where necks or levels were changed.
    """

    encoder: ProbedEncoder
    decoder: Decoder
    necks: tuple[Neck, ...] = ()
    because: str | None = None
    direct: bool = True

    @property
    def verdict(self) -> Verdict:
        """`fits` as they are, with `necks` or other levels, or `refused`."""
        if self.because is not None:
            return "refused"
        return "fits" if self.direct else "necks"

    @property
    def levels(self) -> tuple[int, ...] | None:
        """The levels of the encoder, where they are not its own choice."""
        return self.encoder.out_indices if isinstance(self.encoder, Timm) else None

    @property
    def graph(self) -> Graph:
        """The pair as a graph, valid or not; decoders that do not predict end in an EmbeddingHead."""
        last = () if self.decoder.includes_head or isinstance(self.decoder, IdentityDecoder) else (EmbeddingHead(),)
        return chain(self.encoder, *self.necks, self.decoder, *last)


def evaluate_pairs(
    encoder: ProbedEncoder, decoders: Mapping[str, type[Part]], describe: Describe
) -> tuple[PairResult, ...]:
    """Pair an encoder of three bands with each of `decoders`, in their order.

    Each pair gets the shortest path that keeps enough levels, and of paths as short the cheapest.
    """
    info = describe(encoder, Image().channels)
    starts = [] if isinstance(info, Rejection) else [NeckPath(0, 0.0, (), info.features)]
    if isinstance(encoder, Timm) and not isinstance(info, Rejection):
        for indices in list_level_choices(encoder, info):
            other = describe(_select_levels(encoder, indices), info.channels)
            if not isinstance(other, Rejection):
                starts.append(NeckPath(1, DETOUR_COST, (), other.features, indices))
    paths = list(takewhile(lambda path: path.length <= MAX_CHANGES, expand_paths(starts, MAX_CHANGES)))
    return tuple(_evaluate_pair(encoder, name, part, paths, describe) for name, part in decoders.items())


def _evaluate_pair(
    encoder: ProbedEncoder, name: str, part: type[Part], paths: Sequence[NeckPath], describe: Describe
) -> PairResult:
    features = paths[0].features if paths else (Image().feature,)  # any would do where those of the encoder are unknown
    direct = PairResult(encoder=encoder, decoder=build_default_decoder(name, part, features))
    problem = _find_problem(direct.graph, describe)
    if problem is None:
        return direct
    for path in _iter_candidate_paths(name, part, paths):
        decoder = build_default_decoder(name, part, path.features)
        levels = _select_levels(encoder, path.levels)
        pair = PairResult(encoder=levels, decoder=decoder, necks=path.necks, direct=False)
        if _find_problem(pair.graph, describe) is None:
            return pair
    return evolve(direct, because=problem)


def _select_levels(encoder: ProbedEncoder, levels: tuple[int, ...] | None) -> ProbedEncoder:
    """Set out_indices of an encoder of timm; None keeps its own choice."""
    return evolve(encoder, out_indices=levels) if isinstance(encoder, Timm) and levels is not None else encoder


def _find_problem(graph: Graph, describe: Describe) -> str | None:
    """Return the message of a graph's first problem. Fixes are not searched, as `infer` does, which takes longer."""
    try:
        run_inference(graph, describe).to_typed_graph()
    except SpecError as error:
        return error.problems[0].message
    return None


def _iter_candidate_paths(name: str, part: type[Part], paths: Sequence[NeckPath]) -> Iterator[NeckPath]:
    """Yield paths that keep enough levels, then others, as far as the decoder accepts them.

    A decoder of any number of maps would accept one of several, but a U-Net over one map is not a U-Net.
    """
    if not paths:
        return
    most = max(len(path.features) for path in paths if not path.necks)
    for levels in (min(DEFAULT_LEVELS, most), min(2, len(paths[0].features))):
        accepted = (
            path
            for path in paths[1:]
            if _count_levels(path) >= levels
            and not isinstance(contract(build_default_decoder(name, part, path.features), path.features), Rejection)
        )
        yield from islice(accepted, MAX_FOLLOWED_PATHS)


def _count_levels(path: NeckPath) -> int:
    """Return how many different levels a path keeps throughout."""
    selected = [len(neck.indices) for neck in path.necks if isinstance(neck, SelectIndices)]
    return min([len(path.features), *selected])


def list_decoder_names(parts: Mapping[str, type[Part]]) -> tuple[str, ...]:
    """List the decoders among `parts` that `build_default_decoder` can build."""
    return tuple(name for name, part in parts.items() if issubclass(part, Decoder) and _has_defaults(part))


def _has_defaults(part: type[Part]) -> bool:
    given = {"name", *REQUIRED_FIELDS.get(part, {})}
    return all(field.default is not NOTHING or field.name in given for field in fields(part))  # type: ignore[arg-type]


def build_default_decoder(name: str, part: type[Part], features: Features) -> Decoder:
    """Build a decoder for these features with its defaults, and one width per level.

    Required fields get usual values: two classes, 256 channels, upsampling to the image's size.
    """
    given = dict(REQUIRED_FIELDS.get(part, {}))
    if part.source is not None:
        given["name"] = name.partition("/")[2]
    if issubclass(part, LinearDecoder) and (stride := features[-1].stride):
        given["upsampling_size"] = min(max(int(stride), 1), 64)
    decoder = part(**given)
    assert isinstance(decoder, Decoder)
    if not isinstance(decoder, UNetDecoder | Smp):
        return decoder
    result = contract(decoder, features)
    change = result.change if isinstance(result, Rejection) and result.code == "count" else None
    return apply_change(decoder, change) or decoder
