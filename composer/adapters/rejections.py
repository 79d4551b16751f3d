"""Rejections that several adapters share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from composer.errors import suggest
from composer.layouts import format_count
from composer.parts.base import Channels
from composer.parts.rules import Kind, Rejection, RejectionError


def reject_network(expected: str, got: str, fix: str, kind: Kind = "raises") -> Rejection:
    """Reject a network as a whole, whatever its arguments."""
    return Rejection(code="part", kind=kind, expected=expected, got=got, fix=fix)


def reject_all_sizes(channels: Channels, got: str, arguments: Iterable[str]) -> Rejection:
    """Reject a network that ran at none of the image sizes tried; `got` is the error, or what it emitted."""
    fed = format_count(channels, "input channel") if isinstance(channels, int) else "these images"
    return reject_network(f"runs at no image size tried with {fed}", got, suggest_arguments(arguments))


def suggest_arguments(arguments: Iterable[str]) -> str:
    """Return the next step for a network that fails with these arguments of the declaration, or without any."""
    named = ", ".join(arguments)
    return f"correct or leave out {named}" if named else "choose another network"


def reject_option(expected: str, got: str, fix: str) -> Rejection:
    """Reject an option that the network would ignore or misread."""
    return Rejection(code="argument", kind="wrong_output", expected=expected, got=got, fix=fix, about="options")


def reject_unknown_option(expected: str, name: str, known: Iterable[str], library: str) -> Rejection:
    """Reject an option that the library would ignore. `library` is its name and version."""
    return reject_option(expected, library, suggest(name, known))


def normalize_indices(
    out_indices: tuple[int, ...], count: int, noun: str = "level", kind_of_order: Kind = "wrong_output"
) -> tuple[int, ...] | Rejection:
    """Return the indices counted from 0; a rejection where one is out of range or they are not in ascending order."""
    indices = pick_indices(out_indices, count, noun)
    if isinstance(indices, Rejection) or list(indices) == sorted(set(indices)):
        return indices
    return Rejection(
        code="index",
        kind=kind_of_order,
        expected=f"gives its {noun}s in its own order, each once",
        got=f"out_indices {list(out_indices)}",
        fix=f"out_indices: {sorted(set(indices))}, and SelectIndices for another order",
        about="out_indices",
    )


def pick_indices(out_indices: tuple[int, ...], count: int, noun: str = "level") -> tuple[int, ...] | Rejection:
    """Return the indices counted from 0, in any order; a rejection where one is out of range."""
    for position, index in enumerate(out_indices):
        if not -count <= index < count:
            return Rejection(
                code="index",
                kind="raises",
                expected=f"has {noun}s 0 to {count - 1}",
                got=f"{noun} {index}",
                fix=f"use out_indices from {-count} to {count - 1}",
                about=f"out_indices[{position}]",
            )
    return tuple(index % count for index in out_indices)


@contextmanager
def convert_errors(reject: Callable[[Exception], Rejection]) -> Iterator[None]:
    """Turn whatever a library raises inside into a RejectionError; MemoryError and RejectionError pass unchanged."""
    try:
        yield
    except (RejectionError, MemoryError):
        raise
    except Exception as error:
        raise RejectionError(reject(error)) from error
