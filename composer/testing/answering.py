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
from composer.graph import Graph
from composer.libraries import LIBRARIES
from composer.limits import Limits
from composer.model import Model
from composer.problem import SpecError, shown
from composer.testing.watching import watched
from composer.typed import Typed

T = TypeVar("T")

SECONDS = 20.0
"""What reading a text and inferring its graph may take of one core; nearly all of it is the probe of a network."""

MOST_PARAMETERS = 3_000_000
MOST_NUMBERS = 20_000_000
"""What flows along all edges of a graph that is run; of larger ones it is only said that they are accepted."""

MOST_PRODUCTS = 4_000_000_000
"""Parameters times cells of the finest map: a bound of what a forward pass multiplies."""

_LACKING = {"install", "memory", "budget"}
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


def answered(text: str, *folders: str) -> Answer:
    """What composer makes of a text. It may write into `folders`. Raises WrongAnswerError where a law does not hold."""
    with watched(*folders) as opened:
        try:
            return _answered(text)
        finally:
            if opened:
                raise WrongAnswerError("nothing is opened or fetched", "; ".join(opened[:4]), opened[0])


def _answered(text: str) -> Answer:
    begun = time.process_time()
    graph = _asked("read", composer.reads, text)
    typed = graph if isinstance(graph, SpecError) else _asked("infer", composer.infer, graph)
    taken = time.process_time() - begun
    if taken > SECONDS:
        raise WrongAnswerError("read and infer are bounded in time", f"they took {taken:.1f} s")
    if isinstance(graph, SpecError):
        return Answer("refused", _codes(graph))
    _written(graph)
    if isinstance(typed, SpecError):
        return Answer("refused", _codes(typed))
    return _run(typed)


def _asked(law: str, function: Callable[..., T], *arguments: Any) -> T | SpecError:
    """What a function gives, or its SpecError, held to what one has to say."""
    try:
        return function(*arguments)
    except SpecError as error:
        lines = str(error)
        if not error.problems:
            raise WrongAnswerError("a SpecError has problems", law) from error
        for problem in error.problems:
            fields = (problem.code, problem.message.strip(), problem.place.line, shown(problem.message) in lines)
            if not all(fields):
                raise WrongAnswerError("a problem has a place and a message", repr(problem), problem.code) from error
        return error
    except Exception as error:
        raise _raised(law, error) from error


def _raised(law: str, error: Exception) -> WrongAnswerError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "composer" in frame.filename]
    where = f"{type(error).__name__} at {frames[-1].name}" if frames else type(error).__name__
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return WrongAnswerError(f"{law} raises nothing but a SpecError", said, where)


def _codes(error: SpecError) -> tuple[str, ...]:
    return tuple(sorted({problem.code for problem in error.problems}))


def _written(graph: Graph) -> None:
    """Writing and reading are inverse."""
    try:
        text = composer.write(graph)
        same = composer.reads(text)
        again = composer.write(same)
    except Exception as error:
        raise _raised("write", error) from error
    if same != graph or composer.digest(same) != composer.digest(graph):
        raise WrongAnswerError("what is written is read equal", text)
    if again != text:
        raise WrongAnswerError("what is written is written again alike", text)


def _run(typed: Typed) -> Answer:
    """Build a small graph, and hold a forward pass to what is inferred, at a size and at one that must be padded."""
    size = _size(typed)
    if not _installed(typed) or size is None:
        return Answer("accepted")
    try:
        model = composer.build(typed, seed=0, pretrained=False, limits=Limits(parameters=MOST_PARAMETERS))
    except SpecError as error:
        if set(_codes(error)) <= _LACKING:
            return Answer("accepted", _codes(error))
        raise WrongAnswerError("what is accepted builds", str(error), _codes(error)[0]) from error
    except Exception as error:
        raise _raised("build", error) from error
    cells = max((prod(f.shape(1, *size)) // f.channels for fs in typed.features.values() for f in fs), default=1)
    if cells * sum(p.numel() for p in model.parameters()) > MOST_PRODUCTS:
        return Answer("accepted")
    for height, width in {size, _unaligned(typed, size)}:
        _hold(model.eval(), height, width)
    return Answer("run")


def _installed(typed: Typed) -> bool:
    sources = {str(getattr(node.part, "source", None)) for node in typed.order}
    return all(LIBRARIES[source].installed() for source in sources if source in LIBRARIES)


def _size(typed: Typed) -> tuple[int, int] | None:
    """A small size that the graph takes, not square where it may be so; None where it is not small after all."""
    crop = typed.graph.crop or (1, 1)
    least = typed.sizes.nearest(*crop)
    if least is None:
        return None
    size = typed.sizes.nearest(least[0], least[1] + 1) or least
    numbers = sum(prod(f.shape(2, *size)) for fs in typed.features.values() for f in fs)
    return size if numbers <= MOST_NUMBERS else None


def _unaligned(typed: Typed, size: tuple[int, int]) -> tuple[int, int]:
    """A smaller size, that is padded into this one; where an input has not every pixel, a multiple of its stride."""
    strides = [image.stride for _, image in typed.graph.inputs]
    crop = typed.graph.crop or (1, 1)
    if any(stride.denominator != 1 or stride != 1 for stride in strides) or not typed.graph.rescale:
        return size
    return max(crop[0], size[0] - 1), max(crop[1], size[1] - 3)


def _hold(model: Model, height: int, width: int) -> None:
    typed = model.typed
    noise = torch.Generator().manual_seed(0)
    images = {n: torch.randn(i.feature.shape(2, height, width), generator=noise) for n, i in typed.graph.inputs}
    try:
        with torch.no_grad():
            out = model(images if len(images) > 1 else next(iter(images.values())))
    except Exception as error:
        if "allocate memory" in str(error):
            return
        raise _raised(f"forward at an admitted size ({height} × {width})", error) from error
    main = out.output if isinstance(out.output, dict) else {typed.graph.outputs[0]: out.output}
    given = main | {node: out.auxiliary_heads[label] for label, node in typed.graph.auxiliary}
    for end in typed.ends:
        promised = typed.shape(end, height, width)
        if _shape(given[end]) != promised:
            said = f"{end} is {_shape(given[end])} at {height} × {width}, and {promised} was inferred"
            raise WrongAnswerError("forward gives what was inferred", said, type(model).__name__)


def _shape(x: Any) -> Any:
    return tuple(map(_shape, x)) if isinstance(x, tuple) else ("b", *x.shape[1:])
