"""What is wrong with a file of weights, as a problem."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

from composer.problem import Place, Problem, SpecError
from composer.tensors.unreadable import UnreadableError


def build_weights_error(file: str | PathLike[str], message: str, repair: str) -> SpecError:
    """The error that says what is wrong with a file of weights."""
    return SpecError([Problem(code="weights", place=Place(file=str(file)), message=f"{message}.", repair=repair)])


@contextmanager
def convert_read_errors(file: str | PathLike[str]) -> Iterator[None]:
    """What cannot be read of a file is raised as SpecError that names it."""
    try:
        yield
    except UnreadableError as error:
        raise build_weights_error(file, str(error), error.repair) from error
