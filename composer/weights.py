"""Save a model with its spec, and load it again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from composer.building import build
from composer.checkpoints import build_weights_error, convert_read_errors, get_model_state, load_weights, unwrap_model
from composer.files import resolve_target, write_atomically
from composer.inference import Describe
from composer.limits import Limits
from composer.model import Model, summarize_state
from composer.parts import PART_REGISTRY, EncoderInfo, Part
from composer.spec.reader import SPEC_KEY, reads
from composer.spec.writer import write
from composer.tensors.files import open_safetensors
from composer.tensors.matching import list_names

FROZEN_KEY = "composer.frozen"
"""The key of a file's metadata for the names of the frozen nodes, one a line."""

_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SAVED_FILE_HINT = "give a file that composer.save wrote"


def save(model: nn.Module, file: str | os.PathLike[str], *, parts: Mapping[str, type[Part]] = PART_REGISTRY) -> None:
    """Write the weights of `model` as safetensors, with its spec inside. `parts` are those that a spec may name.

    Wrappers of torch.compile, DataParallel and DistributedDataParallel are removed. The file also lists the frozen
    nodes. It is written whole or not at all; a link is followed.

    Raises TypeError for a module that composer did not build, SpecError where the graph has no text (it holds a live
    module) and where `load` would reject the tensors, and OSError where the file cannot be written, or is a device, a
    pipe or a folder.
    """
    built = unwrap_model(model, "save")
    target = resolve_target(file)
    spec = write(built.graph, parts=parts)
    wanted = get_model_state(built)
    _check_loadable(built, wanted, file)
    state = _ensure_own_storage(wanted)
    metadata = {"format": "pt", SPEC_KEY: spec} | ({FROZEN_KEY: "\n".join(built.frozen)} if built.frozen else {})
    try:
        write_atomically(target, lambda partial: save_file(state, partial, metadata=metadata))
    except SafetensorError as error:
        raise OSError(f"{target} cannot be written: {error}") from error


def load(
    file: str | os.PathLike[str],
    *,
    parts: Mapping[str, type[Part]] = PART_REGISTRY,
    describe: Describe | Mapping[Any, EncoderInfo] | None = None,
    limits: Limits | None = None,
) -> Model:
    """Return the model that `save` wrote, from its file alone: the spec is read and built, and every weight is set.

    The nodes that were frozen are frozen again. `parts` are those that the spec may name; `describe` and `limits` are
    those of `build`.

    Raises SpecError where `save` did not write the file, where the model is too large, and where its tensors are not
    exactly those of the model.
    """
    with convert_read_errors(file):
        saved = open_safetensors(file, _SAVED_FILE_HINT)
    text, frozen = saved.metadata.get(SPEC_KEY), saved.metadata.get(FROZEN_KEY)
    if text is None:
        fix = "build the model, then composer.load_weights"
        raise build_weights_error(file, "holds no spec, so it was not written by composer.save", fix)
    # Pretrained weights would be overwritten, and may no longer be available.
    graph = reads(text, name=f"{os.fspath(file)}: spec", parts=parts)
    model = build(graph, pretrained=False, describe=describe, limits=limits)
    # All of a model may be of half precision, or only its head.
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and name in saved.tensors and saved.tensors[name].dtype in _PRECISIONS:
            tensor.data = tensor.data.to(saved.tensors[name].dtype)
    load_weights(model, file, prefix="")
    if frozen is not None:
        try:
            model.freeze(*frozen.split("\n"))
        except ValueError as error:
            message = f"lists frozen nodes that the model does not have: {error}"
            raise build_weights_error(file, message, _SAVED_FILE_HINT) from error
    return model


def _check_loadable(model: Model, state: Mapping[str, Any], file: str | os.PathLike[str]) -> None:
    """Raise SpecError where `load` could not set this state in the model that the spec describes."""
    faults = {name: fault for name, value in state.items() if (fault := _find_fault(value)) is not None}
    if faults:
        reason, fix = next(iter(faults.values()))
        names = [name for name, fault in faults.items() if fault == (reason, fix)]
    else:
        current, built = summarize_state(state), model.built_state
        names = [name for name in current if name not in built]
        names += [name for name in built if current.get(name) != built[name]]
        reason = "not as the spec describes the model"
        hints = (hint for mark, hint in _UNDO_HINTS.items() if any(mark in name for name in names))
        fix = next(hints, _CHANGED_HINT)
    if names:
        raise build_weights_error(file, f"cannot be written because of {list_names(names, 3)} ({reason})", fix)


_CHANGED_HINT = "put the change into the spec, or save the weights alone: torch.save(model.state_dict(), file)"
_GATHER_HINT = (
    "gather it first: torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True, "
    "loaded into composer.build(model.graph)"
)
_UNDO_HINTS = {
    "lora_": "merge the adapters first: merge_and_unload()",
    ".parametrizations.": "remove them first: torch.nn.utils.parametrize.remove_parametrizations(layer, name)",
    "weight_g": "remove it first: torch.nn.utils.remove_weight_norm(layer)",
    "_mask": "make it permanent first: torch.nn.utils.prune.remove(layer, name)",
    "_flat_param": _GATHER_HINT,
}
"""How to undo common changes to a model, by a part of the names that its tensors then have."""


def _find_fault(value: Any) -> tuple[str, str] | None:
    """Return why a value of a state dict cannot be stored, and the next step, or None where it can."""
    if not isinstance(value, Tensor):
        return "extra state, not a tensor", "let the module keep that state as a tensor: register_buffer"
    if type(value) is not Tensor:
        name = type(value).__name__
        fix = _GATHER_HINT if name == "DTensor" else "save the model before it is converted, or a copy in plain tensors"
        return f"{name}, not a plain tensor", fix
    if value.layout is not torch.strided or value.is_quantized:
        return "sparse or quantised", "convert it first: tensor.to_dense(), or tensor.dequantize()"
    if value.is_meta:
        return "no numbers on the meta device", "build the model on the CPU"
    if value.dtype.is_floating_point and value.dtype not in _PRECISIONS:
        return str(value.dtype).removeprefix("torch."), "cast the model first: model.float()"
    return None


def _ensure_own_storage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as safetensors needs them: contiguous, and none sharing memory with another."""
    seen: set[int] = set()
    own = {}
    for name, tensor in state.items():
        pointer = tensor.untyped_storage().data_ptr()
        own[name] = tensor.detach().clone() if pointer in seen else tensor.detach().contiguous()
        seen.add(pointer)
    return own
