"""The oracle: any text ends with a graph or a SpecError, in time and without side effects, and a valid one runs.

A small valid graph is built, and a forward pass is compared with what was inferred.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from math import prod
from typing import Any, TypeVar

import timm  # noqa: F401, before events are recorded: its import starts programs, as torch's does
import torch

import composer
from composer.encoder_info import LIBRARIES
from composer.errors import SpecError, make_printable
from composer.graph import Graph
from tests.bounded import limit_seconds
from tests.fuzz.audit import record_audit_events

T = TypeVar("T")

MAX_SECONDS = 20.0
"""CPU seconds to read a text and infer its graph; nearly all of them go into the probe of a network."""

MAX_PARAMETERS = 3_000_000
MAX_NUMBERS = 20_000_000
"""The numbers that flow along all edges of a graph that is run; larger ones are only read and inferred."""

MAX_PRODUCTS = 4_000_000_000
"""Parameters times cells of the finest map: a bound of the multiplications of a forward pass."""

_NOT_BUILDABLE = {"install", "limit"}
"""Codes for which a valid graph may not be built here."""


class WrongAnswerError(AssertionError):
    """A text for which a law does not hold."""

    def __init__(self, law: str, details: str) -> None:
        super().__init__(f"{law}: {details}")


def evaluate_text(text: str, *folders: str) -> tuple[str, ...] | None:
    """Return the codes of the problems of a text, or None if it is valid.

    composer may write to `folders`. Raises WrongAnswerError if a law does not hold.
    """
    with record_audit_events(*folders) as opened:
        try:
            return _evaluate_unrecorded(text)
        finally:
            if opened:
                raise WrongAnswerError("nothing is opened or fetched", "; ".join(opened[:4]))


def _evaluate_unrecorded(text: str) -> tuple[str, ...] | None:
    with limit_seconds(MAX_SECONDS):
        graph = _call_checked("read", composer.reads, text)
        typed = graph if isinstance(graph, SpecError) else _call_checked("infer", composer.infer, graph)
    if not isinstance(graph, SpecError):
        _check_round_trip(graph)
    if isinstance(typed, SpecError):
        return _list_codes(typed)
    _check_model(typed)
    return None


def _list_codes(error: SpecError) -> tuple[str, ...]:
    return tuple(sorted({problem.code for problem in error.problems}))


def _call_checked(law: str, function: Callable[..., T], *arguments: Any) -> T | SpecError:
    """Return the result of a function or its SpecError, whose problems are checked."""
    try:
        return function(*arguments)
    except SpecError as error:
        if not error.problems:
            raise WrongAnswerError("a SpecError has problems", law) from error
        for problem in error.problems:
            is_shown = make_printable(problem.message) in str(error)
            if not (problem.code and problem.message.strip() and problem.place.line and is_shown):
                raise WrongAnswerError("a problem has a place and a message", repr(problem)) from error
        return error
    except WrongAnswerError:
        raise
    except Exception as error:
        raise _build_wrong_answer(law, error) from error


def _build_wrong_answer(law: str, error: Exception) -> WrongAnswerError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "composer" in frame.filename]
    place = f" in {frames[-1].name}" if frames else ""
    details = f"{type(error).__name__}{place}: {' '.join(str(error).split())[:300]}"
    return WrongAnswerError(f"{law} raises nothing but a SpecError", details)


def _check_round_trip(graph: Graph) -> None:
    try:
        text = composer.write(graph)
        same = composer.reads(text)
        again = composer.write(same)
    except Exception as error:
        raise _build_wrong_answer("write", error) from error
    if same != graph or composer.digest(same) != composer.digest(graph):
        raise WrongAnswerError("a written graph is read equal", text)
    if again != text:
        raise WrongAnswerError("an equal graph is written alike", text)


def _check_model(typed: composer.TypedGraph) -> None:
    """Build a small graph, and compare forward passes with what was inferred, with padding and without."""
    size = _find_small_size(typed)
    if not _has_libraries(typed) or size is None:
        return
    try:
        model = composer.build(typed, pretrained=False, limits=composer.Limits(parameters=MAX_PARAMETERS))
    except SpecError as error:
        if set(_list_codes(error)) <= _NOT_BUILDABLE:
            return
        raise WrongAnswerError("a valid graph builds", str(error)) from error
    except Exception as error:
        raise _build_wrong_answer("build", error) from error
    cells = max((prod(f.shape(1, *size)) // f.channels for fs in typed.features.values() for f in fs), default=1)
    if cells * sum(parameter.numel() for parameter in model.parameters()) <= MAX_PRODUCTS:
        for height, width in {size, _find_padded_size(typed, size)}:
            _check_forward(model.eval(), height, width)


def _has_libraries(typed: composer.TypedGraph) -> bool:
    sources = {str(getattr(node.part, "source", None)) for node in typed.order}
    return all(LIBRARIES[source].is_installed() for source in sources if source in LIBRARIES)


def _find_small_size(typed: composer.TypedGraph) -> tuple[int, int] | None:
    """Return a small size that the graph takes, not square if possible; None if even that is large."""
    least = typed.sizes.compute_padded_size(*(typed.graph.crop or (1, 1)))
    if least is None:
        return None
    size = typed.sizes.compute_padded_size(least[0], least[1] + 1) or least
    numbers = sum(prod(f.shape(2, *size)) for fs in typed.features.values() for f in fs)
    return size if numbers <= MAX_NUMBERS else None


def _find_padded_size(typed: composer.TypedGraph, size: tuple[int, int]) -> tuple[int, int]:
    """Return a smaller size that is padded to this one; this one if an input does not have every pixel."""
    if any(image.stride != 1 for _, image in typed.graph.inputs) or not typed.graph.rescale:
        return size
    crop = typed.graph.crop or (1, 1)
    return max(crop[0], size[0] - 1), max(crop[1], size[1] - 3)


def _check_forward(model: composer.Model, height: int, width: int) -> None:
    typed = model.typed
    noise = torch.Generator().manual_seed(0)
    images = {n: torch.randn(i.feature.shape(2, height, width), generator=noise) for n, i in typed.graph.inputs}
    try:
        with torch.no_grad():
            out = model(images if len(images) > 1 else next(iter(images.values())))
    except Exception as error:
        if "allocate memory" in str(error):
            return
        raise _build_wrong_answer(f"forward at {height} × {width}", error) from error
    main = out.output if isinstance(out.output, dict) else {typed.graph.outputs[0]: out.output}
    outputs = main | {node: out.auxiliary_heads[label] for label, node in typed.graph.auxiliary}
    for end in typed.ends:
        if _get_shape(outputs[end]) != typed.shape(end, height, width):
            details = f"{end} is {_get_shape(outputs[end])}, and {typed.shape(end, height, width)} was inferred"
            raise WrongAnswerError("forward gives what was inferred", details)


def _get_shape(x: Any) -> Any:
    return tuple(map(_get_shape, x)) if isinstance(x, tuple) else ("b", *x.shape[1:])
