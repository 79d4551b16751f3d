"""Weights in files: a model saved with its spec inside, and loaded from that alone. Tensors only, all or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from composer.building import build
from composer.limits import Limits
from composer.model import Model
from composer.parts import REGISTERED, Facts, Part
from composer.problem import Place, Problem, SpecError
from composer.text import reads, write
from composer.walking import Describe

SPEC = "composer.spec"
"""The key of a file's metadata under which the spec stands, as text."""

_OURS = "give a file that composer.save wrote"


def save(model: Model, file: str | os.PathLike[str], *, parts: Mapping[str, type[Part]] = REGISTERED) -> None:
    """Write the weights of `model` as safetensors, with its spec inside. `parts` are those that a spec may name.

    The file is written whole or not at all. Raises SpecError where the graph has no text (it holds a module of
    one's own), and OSError where the file cannot be written.
    """
    target = Path(file)
    spec = write(model.graph, parts=parts)
    unfinished = target.with_name(f".{target.name}.{token_hex(8)}")
    try:
        save_file(_own_storage(model.state_dict()), unfinished, metadata={"format": "pt", SPEC: spec})
        unfinished.replace(target)
    except SafetensorError as error:
        raise OSError(f"{target} cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


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
    with _opened(file) as tensors:
        text = (tensors.metadata() or {}).get(SPEC)
        precisions = _precisions(tensors)
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
    refuse_meta(wanted, file)
    given = tensors_of(file)
    faults = [*_unmatched(wanted, given), *_unlike(wanted, given)]
    if faults:
        more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise unfit(file, f"does not fit the model: {'; '.join(faults[:5])}{more}", "give the file of this very model")
    set_all([(tensor, given[name]) for name, tensor in wanted.items()])


def set_all(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Copy into the first of each pair the second. Interrupted, all are set before KeyboardInterrupt is raised.

    For a model that is half of one training and half of another looks like any other.
    """
    with torch.no_grad():
        try:
            _copy(pairs)
        except KeyboardInterrupt:
            _copy(pairs)
            raise


def _copy(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for tensor, numbers in pairs:
        tensor.copy_(numbers)


def _precisions(tensors: safe_open) -> dict[str, torch.dtype]:
    """The type of each floating-point tensor of a file."""
    names = tensors.keys()  # type: ignore[no-untyped-call]
    kinds = {name: tensors.get_slice(name).get_dtype() for name in names}  # type: ignore[no-untyped-call]
    return {name: _PRECISIONS[kind] for name, kind in kinds.items() if kind in _PRECISIONS}


def _take_precision(model: Model, precisions: Mapping[str, torch.dtype]) -> None:
    """Give each weight the precision that it was saved with, for all of a model may be half, or only its head."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(precisions.get(name, tensor.dtype))


_PRECISIONS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
"""safetensors' names of types, as torch's."""


def tensors_of(file: str | os.PathLike[str], repair: str = _OURS) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises SpecError, with `repair`, where it is no such file."""
    with _opened(file, repair) as tensors:
        try:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118, it is no dict
        except SafetensorError as error:
            raise unfit(file, f"is damaged ({error})", "save it again") from error


def _opened(file: str | os.PathLike[str], repair: str = _OURS) -> safe_open:
    if not Path(file).is_file():
        raise unfit(file, "is no file", "check the path")
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise unfit(file, f"is no safetensors file ({error})", repair) from error


def _unmatched(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Iterator[str]:
    for said, names in (("missing", wanted.keys() - given.keys()), ("unexpected", given.keys() - wanted.keys())):
        if names:
            listed = ", ".join(sorted(names)[:3])
            yield f"{len(names)} {said} ({listed}{', …' if len(names) > 3 else ''})"


def _unlike(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Iterator[str]:
    for name in sorted(wanted.keys() & given.keys()):
        if kind_of(given[name]) != kind_of(wanted[name]):
            yield f"{name} is {kind_of(given[name])} and must be {kind_of(wanted[name])}"


def kind_of(tensor: Tensor) -> str:
    """What a tensor is, in words: `float32 [64, 3, 7, 7]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _own_storage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: contiguous, and none sharing memory with another."""
    seen: set[int] = set()
    own = {}
    for name, tensor in state.items():
        pointer = tensor.untyped_storage().data_ptr()
        own[name] = tensor.detach().clone() if pointer in seen else tensor.detach().contiguous()
        seen.add(pointer)
    return own


def refuse_meta(wanted: Mapping[str, Tensor], file: str | os.PathLike[str]) -> None:
    """Raise SpecError for a model without memory: what is copied into that is gone, and nobody says so."""
    if any(tensor.is_meta for tensor in wanted.values()):
        raise unfit(file, "cannot be put into a model on the meta device", "build the model on the CPU")


def unfit(file: str | os.PathLike[str], message: str, repair: str) -> SpecError:
    """The error that says what is wrong with a file of weights."""
    return SpecError([Problem(code="weights", place=Place(file=str(file)), message=f"{message}.", repair=repair)])
