"""Whatever a text says: read and infer end with a graph or a SpecError, and what is accepted builds and is as inferred.

B batch, C channels, H and W pixels.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from math import prod
from typing import Any, TypeVar

import torch
from attrs import frozen

import composer
from composer.encoder_info import LIBRARIES
from composer.errors import SpecError, make_printable
from composer.graph import Graph
from composer.limits import Limits
from composer.model import Model
from composer.typed_graph import TypedGraph
from tests.fuzz.watching import record_audit_events

T = TypeVar("T")


MAX_SECONDS = 20.0
"""What reading a text and inferring its graph may take of one core; nearly all of it is the probe of a network."""


MAX_PARAMETERS = 3_000_000


MAX_EDGE_ELEMENTS = 20_000_000
"""What flows along all edges of a graph that is run; of larger ones it is only said that they are accepted."""


MAX_MULTIPLICATIONS = 4_000_000_000
"""Parameters times cells of the finest map: a bound of what a forward pass multiplies."""


_ENVIRONMENT_CODES = {"install", "memory", "budget"}
"""Why a graph that is accepted may not be built, through no fault of its own."""


class WrongAnswerError(AssertionError):
    """A text for which something does not hold. `law` is what, and `mark` tells causes apart."""

    def __init__(self, law: str, said: str, mark: str = "") -> None:
        super().__init__(f"{law}: {said}")
        self.law, self.mark = law, mark


@frozen
class Answer:
    """What became of a text: `refused` when it was read or inferred, `accepted`, or `run`; and the rules it broke."""

    verdict: str
    codes: tuple[str, ...] = ()


def evaluate_text(text: str, *folders: str) -> Answer:
    """What composer makes of a text. It may write into `folders`. Raises WrongAnswerError where a law does not hold."""
    with record_audit_events(*folders) as opened:
        try:
            return _evaluate_unwatched(text)
        finally:
            if opened:
                raise WrongAnswerError("nothing is opened or fetched", "; ".join(opened[:4]), opened[0])


def _evaluate_unwatched(text: str) -> Answer:
    begun = time.process_time()
    graph = _call_checked("read", composer.reads, text)
    typed = graph if isinstance(graph, SpecError) else _call_checked("infer", composer.infer, graph)
    taken = time.process_time() - begun
    if taken > MAX_SECONDS:
        raise WrongAnswerError("read and infer are bounded in time", f"they took {taken:.1f} s")
    if isinstance(graph, SpecError):
        return Answer("refused", _list_codes(graph))
    _check_round_trip(graph)
    if isinstance(typed, SpecError):
        return Answer("refused", _list_codes(typed))
    return _check_model(typed)


def _call_checked(law: str, function: Callable[..., T], *arguments: Any) -> T | SpecError:
    """What a function gives, or its SpecError, held to what one has to say."""
    try:
        return function(*arguments)
    except SpecError as error:
        lines = str(error)
        if not error.problems:
            raise WrongAnswerError("a SpecError has problems", law) from error
        for problem in error.problems:
            fields = (
                problem.code,
                problem.message.strip(),
                problem.place.line,
                make_printable(problem.message) in lines,
            )
            if not all(fields):
                raise WrongAnswerError("a problem has a place and a message", repr(problem), problem.code) from error
        return error
    except Exception as error:
        raise _build_wrong_answer(law, error) from error


def _build_wrong_answer(law: str, error: Exception) -> WrongAnswerError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "composer" in frame.filename]
    where = f"{type(error).__name__} at {frames[-1].name}" if frames else type(error).__name__
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return WrongAnswerError(f"{law} raises nothing but a SpecError", said, where)


def _list_codes(error: SpecError) -> tuple[str, ...]:
    return tuple(sorted({problem.code for problem in error.problems}))


def _check_round_trip(graph: Graph) -> None:
    """Writing and reading are inverse."""
    try:
        text = composer.write(graph)
        same = composer.reads(text)
        again = composer.write(same)
    except Exception as error:
        raise _build_wrong_answer("write", error) from error
    if same != graph or composer.digest(same) != composer.digest(graph):
        raise WrongAnswerError("what is written is read equal", text)
    if again != text:
        raise WrongAnswerError("what is written is written again alike", text)


def _check_model(typed: TypedGraph) -> Answer:
    """Build a small graph, and hold a forward pass to what is inferred, at a size and at one that must be padded."""
    size = _find_small_size(typed)
    if not _are_libraries_installed(typed) or size is None:
        return Answer("accepted")
    try:
        model = composer.build(typed, seed=0, pretrained=False, limits=Limits(parameters=MAX_PARAMETERS))
    except SpecError as error:
        if set(_list_codes(error)) <= _ENVIRONMENT_CODES:
            return Answer("accepted", _list_codes(error))
        raise WrongAnswerError("what is accepted builds", str(error), _list_codes(error)[0]) from error
    except Exception as error:
        raise _build_wrong_answer("build", error) from error
    cells = max((prod(f.shape(1, *size)) // f.channels for fs in typed.features.values() for f in fs), default=1)
    if cells * sum(p.numel() for p in model.parameters()) > MAX_MULTIPLICATIONS:
        return Answer("accepted")
    for height, width in {size, _find_unaligned_size(typed, size)}:
        _check_forward(model.eval(), height, width)
    return Answer("run")


def _are_libraries_installed(typed: TypedGraph) -> bool:
    sources = {str(getattr(node.part, "source", None)) for node in typed.order}
    return all(LIBRARIES[source].is_installed() for source in sources if source in LIBRARIES)


def _find_small_size(typed: TypedGraph) -> tuple[int, int] | None:
    """A small size that the graph takes, not square where it may be so; None where it is not small after all."""
    crop = typed.graph.crop or (1, 1)
    least = typed.sizes.compute_padded_size(*crop)
    if least is None:
        return None
    size = typed.sizes.compute_padded_size(least[0], least[1] + 1) or least
    numbers = sum(prod(f.shape(2, *size)) for fs in typed.features.values() for f in fs)
    return size if numbers <= MAX_EDGE_ELEMENTS else None


def _find_unaligned_size(typed: TypedGraph, size: tuple[int, int]) -> tuple[int, int]:
    """A smaller size, that is padded into this one; where an input has not every pixel, a multiple of its stride."""
    strides = [image.stride for _, image in typed.graph.inputs]
    crop = typed.graph.crop or (1, 1)
    if any(stride.denominator != 1 or stride != 1 for stride in strides) or not typed.graph.rescale:
        return size
    return max(crop[0], size[0] - 1), max(crop[1], size[1] - 3)


def _check_forward(model: Model, height: int, width: int) -> None:
    typed = model.typed
    noise = torch.Generator().manual_seed(0)
    images = {n: torch.randn(i.feature.shape(2, height, width), generator=noise) for n, i in typed.graph.inputs}
    try:
        with torch.no_grad():
            out = model(images if len(images) > 1 else next(iter(images.values())))
    except Exception as error:
        if "allocate memory" in str(error):
            return
        raise _build_wrong_answer(f"forward at an admitted size ({height} × {width})", error) from error
    main = out.output if isinstance(out.output, dict) else {typed.graph.outputs[0]: out.output}
    given = main | {node: out.auxiliary_heads[label] for label, node in typed.graph.auxiliary}
    for end in typed.ends:
        promised = typed.shape(end, height, width)
        if _get_shape(given[end]) != promised:
            said = f"{end} is {_get_shape(given[end])} at {height} × {width}, and {promised} was inferred"
            raise WrongAnswerError("forward gives what was inferred", said, type(model).__name__)


def _get_shape(x: Any) -> Any:
    return tuple(map(_get_shape, x)) if isinstance(x, tuple) else ("b", *x.shape[1:])
