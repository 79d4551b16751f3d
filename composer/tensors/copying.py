"""Copy tensors of a file into a model, all or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from composer.errors import Place, Problem, SpecError
from composer.tensors.pickles import UnreadableError


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


PendingCopies = list[tuple[str, Tensor, Tensor]]
"""The name of a tensor, the tensor, and what it will be."""


def refuse_unwritable(wanted: Mapping[str, Any], file: str | PathLike[str]) -> None:
    """Raise SpecError for a model that cannot keep what is put into it.

    Whose state is not of tensors alone, or whose tensors have no memory, or several numbers in one place: what is
    copied there is gone, and nobody says so.
    """
    for name, value in wanted.items():
        if not isinstance(value, Tensor):
            raise build_weights_error(
                file,
                f"cannot be put into a model whose {name} holds extra state, which is no tensor",
                "let the module keep that state as a tensor: register_buffer",
            )
    if any(tensor.is_meta for tensor in wanted.values()):
        raise build_weights_error(file, "cannot be put into a model on the meta device", "build the model on the CPU")
    for name, tensor in wanted.items():
        if _has_overlap(tensor):
            raise build_weights_error(
                file,
                f"cannot be put into a model whose {name} has several of its numbers in one place",
                "give that tensor memory of its own: .clone()",
            )


def _has_overlap(tensor: Tensor) -> bool:
    """Whether two numbers of a tensor may be one in memory: it steps less far than what it steps over reaches."""
    if tensor.layout is not torch.strided or not tensor.numel():
        return False
    reach = 0
    for step, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length > 1 and step <= reach:
            return True
        reach += step * (length - 1)
    return False


def copy_all_or_nothing(waiting: PendingCopies, file: str | PathLike[str]) -> None:
    """Copy what each tensor will be into it. Where that fails, or Ctrl-C comes in between, all are as they were.

    For a model that is half of one training and half of another looks like any other. The list is emptied, so that
    what a tensor was takes the memory of what it became. Raises SpecError naming the tensor that cannot be set.
    """
    before: list[tuple[Tensor, Tensor]] = []
    name = ""
    with torch.no_grad():
        try:
            while waiting:
                name, tensor, numbers = waiting.pop()
                before.append((tensor, tensor.detach().to("cpu", copy=True)))
                tensor.copy_(numbers)
        except BaseException as error:
            _restore_tensors(before)
            if isinstance(error, MemoryError) or not isinstance(error, Exception):
                raise
            told = " ".join(str(error).split())[:200]
            raise build_weights_error(
                file, f"cannot be put into the model, whose {name} takes no numbers ({told})", "build the model anew"
            ) from error


def _restore_tensors(before: list[tuple[Tensor, Tensor]]) -> None:
    """Undo from the last to the first, also where Ctrl-C comes again: two names may be of one tensor."""
    while before:
        with suppress(KeyboardInterrupt):
            tensor, numbers = before[-1]
            # What could not be written to has not changed.
            with suppress(Exception):
                tensor.copy_(numbers)
            before.pop()
