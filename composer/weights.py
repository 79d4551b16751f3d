"""Weights in files: a model saved with its spec inside, and loaded from that alone. Tensors only, all or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from composer.building import build
from composer.limits import Limits
from composer.model import Model
from composer.parts import REGISTERED, Facts, Part
from composer.tensors.files import opened_safetensors
from composer.tensors.problems import unfit, unreadable_is_unfit
from composer.tensors.setting import refuse_unwritable, set_all
from composer.tensors.stored import Stored, kind_of
from composer.text import reads, write
from composer.walking import Describe
from composer.writing import replaceable, write_whole

SPEC = "composer.spec"
"""The key of a file's metadata under which the spec stands, as text."""

_OURS = "give a file that composer.save wrote"


def save(model: Model, file: str | os.PathLike[str], *, parts: Mapping[str, type[Part]] = REGISTERED) -> None:
    """Write the weights of `model` as safetensors, with its spec inside. `parts` are those that a spec may name.

    The file is written whole or not at all; a link is followed. Raises SpecError where the graph has no text (it
    holds a module of one's own) and where the state is not of tensors alone, and OSError where the file cannot be
    written, or is a device, a pipe or a folder.
    """
    target = replaceable(file)
    spec = write(model.graph, parts=parts)
    wanted = model.state_dict()
    for name, value in wanted.items():
        if not isinstance(value, Tensor):
            repair = "let the module keep that state as a tensor: register_buffer"
            raise unfit(file, f"cannot keep {name}, which is extra state and no tensor", repair)
    state = _own_storage(wanted)
    try:
        write_whole(target, lambda partial: save_file(state, partial, metadata={"format": "pt", SPEC: spec}))
    except SafetensorError as error:
        raise OSError(f"{target} cannot be written: {error}") from error


def load(
    file: str | os.PathLike[str],
    *,
    parts: Mapping[str, type[Part]] = REGISTERED,
    describe: Describe | Mapping[Any, Facts] | None = None,
    limits: Limits | None = None,
) -> Model:
    """The model that `save` wrote, from its file alone: the spec is read, inferred and built, and every weight set.

    `parts` are those that the spec may name, `describe` is what `infer` asks for facts, and `limits` are what the
    model may come to.

    Raises SpecError where the file is no such file, where the model is too large, and where its tensors are not
    exactly those of the model.
    """
    with unreadable_is_unfit(file), opened_safetensors(file, _OURS) as found:
        text = found.metadata.get(SPEC)
        precisions = {name: stored.dtype for name, stored in found.tensors.items() if stored.dtype in _PRECISIONS}
    if text is None:
        raise unfit(
            file, "holds no spec, so it was not written by composer.save", "build the model, then composer.restore"
        )
    # What the weights were before they were trained is of no interest, and may be gone from where it came.
    graph = reads(text, name=f"{file}: spec", parts=parts)
    model = build(graph, pretrained=False, describe=describe, limits=limits)
    _take_precision(model, precisions)
    restore(model, file)
    return model


def restore(model: nn.Module, file: str | os.PathLike[str]) -> None:
    """Set every weight of `model` from a safetensors file: all of them, or none where anything does not fit.

    Raises SpecError naming what is missing, unexpected, or of another shape or type, and for a model on the meta
    device, which keeps nothing.
    """
    wanted = model.state_dict()
    refuse_unwritable(wanted, file)
    with unreadable_is_unfit(file), opened_safetensors(file, _OURS) as found:
        faults = [*_unmatched(wanted, found.tensors), *_unlike(wanted, found.tensors)]
        if faults:
            more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
            message = f"does not fit the model: {'; '.join(faults[:5])}{more}"
            raise unfit(file, message, "give the file of this very model")
        waiting = [(name, tensor, found.tensors[name].read()) for name, tensor in wanted.items()]
    set_all(waiting, file)


_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _take_precision(model: Model, precisions: Mapping[str, torch.dtype]) -> None:
    """Give each weight the precision that it was saved with, for all of a model may be half, or only its head."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(precisions.get(name, tensor.dtype))


def _unmatched(wanted: Mapping[str, Tensor], given: Mapping[str, Stored]) -> Iterator[str]:
    for what, names in (("missing", wanted.keys() - given.keys()), ("unexpected", given.keys() - wanted.keys())):
        if names:
            listed = ", ".join(sorted(names)[:3])
            yield f"{len(names)} {what} ({listed}{', …' if len(names) > 3 else ''})"


def _unlike(wanted: Mapping[str, Tensor], given: Mapping[str, Stored]) -> Iterator[str]:
    for name in sorted(wanted.keys() & given.keys()):
        if kind_of(given[name]) != kind_of(wanted[name]):
            yield f"{name} is {kind_of(given[name])} and must be {kind_of(wanted[name])}"


def _own_storage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: contiguous, and none sharing memory with another."""
    seen: set[int] = set()
    own = {}
    for name, tensor in state.items():
        pointer = tensor.untyped_storage().data_ptr()
        own[name] = tensor.detach().clone() if pointer in seen else tensor.detach().contiguous()
        seen.add(pointer)
    return own
