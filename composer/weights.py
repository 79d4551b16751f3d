"""Save a model with its spec, load it again, and load weights from other people's checkpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from os import PathLike
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from composer.building import build
from composer.errors import Place, Problem, SpecError
from composer.files import resolve_target, write_atomically
from composer.inference import Describe, infer
from composer.layouts import format_count
from composer.limits import Limits
from composer.model import Model, summarize_state
from composer.modules.base import map_unwrapped_names, unwrap
from composer.parts import PART_REGISTRY, EncoderInfo, Part
from composer.spec.reader import SPEC_KEY, reads
from composer.spec.writer import write
from composer.tensors.files import TensorFile, UnreadableError, open_tensors
from composer.tensors.matching import MismatchError, NameMatcher, Report, list_names

FROZEN_KEY = "composer.frozen"
"""The key of a file's metadata for the names of the frozen nodes, one a line."""

_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save(model: nn.Module, file: str | PathLike[str], *, parts: Mapping[str, type[Part]] = PART_REGISTRY) -> None:
    """Write the weights of `model` as safetensors, with its spec inside. `parts` are those that a spec may name.

    Wrappers of torch.compile, DataParallel and DistributedDataParallel are removed. The file also lists the frozen
    nodes. It is written whole or not at all; a link is followed.

    Raises TypeError for a module that composer did not build, SpecError where the graph has no text (it holds a live
    module) and where `load` would reject the tensors, and OSError where the file cannot be written, or is a device, a
    pipe or a folder.
    """
    built = _unwrap_model(model, "save")
    target = resolve_target(file)
    spec = write(built.graph, parts=parts)
    state = _get_model_state(built)
    _raise_faults(file, "written", {name: _find_fault(value, saved=True) for name, value in state.items()})
    current, expected = summarize_state(state), built.built_state
    changed = [name for name in current if name not in expected]
    changed += [name for name in expected if current.get(name) != expected[name]]
    fix = next((hint for mark, hint in _UNDO_HINTS.items() if any(mark in name for name in changed)), _CHANGED_HINT)
    _raise_faults(file, "written", dict.fromkeys(changed, ("not as the spec describes the model", fix)))
    metadata = {"format": "pt", SPEC_KEY: spec} | ({FROZEN_KEY: "\n".join(built.frozen)} if built.frozen else {})
    own = _ensure_own_storage(state)
    try:
        write_atomically(target, lambda partial: save_file(own, partial, metadata=metadata))
    except SafetensorError as error:
        raise OSError(f"{target} cannot be written: {error}") from error


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

_Fault = tuple[str, str]
"""Why a tensor of a model cannot be saved or set, and the next step."""


def _find_fault(value: Any, *, saved: bool) -> _Fault | None:
    """Return why a value of a state dict cannot be saved, or else set, or None where it can."""
    if not isinstance(value, Tensor):
        return "extra state, not a tensor", "let the module keep that state as a tensor: register_buffer"
    if saved and type(value) is not Tensor:
        name = type(value).__name__
        fix = _GATHER_HINT if name == "DTensor" else "save the model before it is converted, or a copy in plain tensors"
        return f"{name}, not a plain tensor", fix
    if saved and (value.layout is not torch.strided or value.is_quantized):
        return "sparse or quantised", "convert it first: tensor.to_dense(), or tensor.dequantize()"
    if value.is_meta:
        return "no numbers on the meta device", "build the model on the CPU"
    if saved and value.is_floating_point() and value.dtype not in _PRECISIONS:
        return str(value.dtype).removeprefix("torch."), "cast the model first: model.float()"
    # What torch itself asks before it writes; here before any other tensor is set.
    if not saved and torch._debug_has_internal_overlap(value) == 1:
        return "several of its numbers in one place", "give that tensor memory of its own: .clone()"
    return None


def _raise_faults(file: str | PathLike[str], action: str, faults: Mapping[str, _Fault | None]) -> None:
    """Raise SpecError for the first fault, with the names of all tensors that have it."""
    if (first := next(filter(None, faults.values()), None)) is not None:
        names = list_names([name for name, fault in faults.items() if fault == first], 3)
        raise _build_error(file, f"cannot be {action} because of {names} ({first[0]})", first[1])


def _ensure_own_storage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as safetensors needs them: contiguous, and none sharing memory with another."""
    seen: set[int] = set()
    own = {}
    for name, tensor in state.items():
        pointer = tensor.untyped_storage().data_ptr()
        own[name] = tensor.detach().clone() if pointer in seen else tensor.detach().contiguous()
        seen.add(pointer)
    return own


def load(
    file: str | PathLike[str],
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
    saved = _open_tensors(file)
    text, frozen = saved.metadata.get(SPEC_KEY), saved.metadata.get(FROZEN_KEY)
    if text is None:
        fix = "build the model, then composer.load_weights"
        raise _build_error(file, "holds no spec, so it was not written by composer.save", fix)
    graph = reads(text, name=f"{os.fspath(file)}: spec", parts=parts)
    typed = infer(graph, describe)
    # Pretrained weights and random ones would be overwritten.
    with _SkipRandomWeights():
        model = build(typed, pretrained=False, limits=limits)
    # All of a model may be of half precision, or only its head.
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and name in saved.tensors and saved.tensors[name].dtype in _PRECISIONS:
            tensor.data = tensor.data.to(saved.tensors[name].dtype)
    _set_weights(model, saved, file, prefix="")
    if frozen is not None:
        try:
            model.freeze(*frozen.split("\n"))
        except ValueError as error:
            message = f"lists frozen nodes that the model does not have: {error}"
            raise _build_error(file, message, "give a file that composer.save wrote") from error
    return model


class _SkipRandomWeights(TorchFunctionMode):
    """A context in which no parameter is drawn: most of the time of a build, where each is set afterwards."""

    SKIPPED = frozenset(
        ("uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "trunc_normal_", "xavier_uniform_",
         "xavier_normal_", "kaiming_uniform_", "kaiming_normal_")
    )  # fmt: skip

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the tensor as it is where `func` would draw it."""
        named = kwargs or {}
        tensor = args[0] if args else named.get("tensor")
        skipped = isinstance(tensor, nn.Parameter) and getattr(func, "__name__", "") in self.SKIPPED
        return tensor if skipped else func(*args, **named)


def load_weights(
    model: nn.Module, file: str | PathLike[str], *, prefix: str | None = None, ignore: Iterable[str] = ()
) -> Report:
    """Set the weights of a built model from a checkpoint: all of them, or none where anything does not fit.

    The file is one that composer.save wrote, another safetensors file, or one that torch.save wrote: a state dict, or a
    checkpoint that holds one, such as Lightning's; or a list of shards, `*.index.json`. Only tensors are read; nothing
    in the file is imported or run. The names are those of the model, or TerraTorch's, behind any prefix that a wrapper
    adds (`model.`, `module.`). The prefix with most of the names is used, and tensors without it are set aside;
    `prefix` chooses where several fit. Floating-point numbers are cast to the precision of the model; integers must
    have the model's type.

    `ignore` lists names, or glob patterns (`head.*`), that may be missing, unexpected or of another shape: names of the
    model or of the file, with or without the prefix. Listed tensors that fit are set.

    Raises TypeError for a module that composer did not build. Raises SpecError, before any tensor is set, where the
    file is none of these, where several prefixes fit, and for everything that is missing, unexpected or does not fit.
    """
    if isinstance(ignore, str):
        raise ValueError(f"ignore must be a list of names or patterns (got {ignore!r})")
    return _set_weights(_unwrap_model(model, "load_weights"), _open_tensors(file), file, prefix, tuple(ignore))


def _set_weights(
    model: Model, opened: TensorFile, file: str | PathLike[str], prefix: str | None, ignore: Sequence[str] = ()
) -> Report:
    wanted, tensors = _get_model_state(model), opened.tensors
    faults = {name: _find_fault(value, saved=False) for name, value in wanted.items()}
    _raise_faults(file, "put into the model", faults)
    names = NameMatcher(model.graph, wanted, tensors)
    if prefix is None:
        try:
            at = names.find_prefix()
        except MismatchError as error:
            raise _build_error(file, str(error), str(error.fix)) from error
    else:
        at = f"{prefix.removesuffix('.')}." if prefix else ""
    report = names.compare(at, wanted, tensors)
    _check_report(report, at, names, file, ignore)
    with torch.no_grad():
        for name, source in report.matched:
            try:
                wanted[name].copy_(tensors[source])
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:200]
                message = f"cannot be put into the model, whose {name} cannot be set ({reason})"
                raise _build_error(file, message, "build the model again") from error
    return report


def _build_error(file: str | PathLike[str], message: str, fix: str) -> SpecError:
    """Build the error for a file of weights; `message` continues its name."""
    return SpecError([Problem(code="weights", place=Place(file=str(file)), message=f"{message}.", fix=fix)])


def _open_tensors(file: str | PathLike[str]) -> TensorFile:
    """Open a file. Raises SpecError that names it where it cannot be read."""
    try:
        return open_tensors(file)
    except UnreadableError as error:
        raise _build_error(file, str(error), error.fix) from error


def _unwrap_model(module: nn.Module, function: str) -> Model:
    """Return the model inside all wrappers around `module`. Raises TypeError where there is none, for `function`."""
    model = unwrap(module)
    if isinstance(model, Model):
        return model
    kind = type(model).__name__
    inside = model.named_modules() if isinstance(model, nn.Module) else ()
    found = next((name for name, child in inside if isinstance(child, Model)), None)
    advice = f"a {kind}" if found is None else f"a {kind}, which holds one: give its {found}"
    raise TypeError(f"composer.{function} takes a model that composer.build made (got {advice})")


def _get_model_state(model: Model) -> dict[str, Tensor]:
    """Return the state dict of a model, without the names that wrappers around its children add."""
    state = model.state_dict()
    plain = map_unwrapped_names(model, state)
    return {plain[name]: value for name, value in state.items()}


def _check_report(
    report: Report, prefix: str, names: NameMatcher, file: str | PathLike[str], ignore: Sequence[str]
) -> None:
    """Raise SpecError, with a problem of each kind, for tensors without a partner that `ignore` does not list."""
    behind = f" behind {prefix}" if prefix else ""
    if not report.matched and not report.mismatched:
        raise _build_error(
            file,
            f"has no tensor of this model{behind}: {list_names([*names.sources.values()], 3) or 'nothing'} "
            f"in the file, and {list_names([*names.candidates], 3)} in the model",
            "give a checkpoint of this model; for an encoder alone: pretrained: FILE in the spec",
        )

    def is_listed(*candidates: str) -> bool:
        return any(fnmatchcase(name, pattern) for name in candidates for pattern in ignore)

    def strip_prefix(source: str) -> str:
        return names.plain.get(source, source).removeprefix(prefix)

    missing = {name: name for name in report.missing if not is_listed(name)}
    unexpected = {
        source: strip_prefix(source) for source in report.unexpected if not is_listed(source, strip_prefix(source))
    }
    mismatched = {
        str(mismatch): mismatch.name
        for mismatch in report.mismatched
        if not is_listed(mismatch.name, mismatch.source, strip_prefix(mismatch.source))
    }
    kinds = (
        (f"lacks {{}} of the model{behind}", missing),
        ("has {} that the model does not have", unexpected),
        ("has {} of another shape or type than the model's", mismatched),
    )
    if problems := [_build_tensor_problem(file, message, tensors) for message, tensors in kinds if tensors]:
        raise SpecError(problems)


def _build_tensor_problem(file: str | PathLike[str], message: str, names: Mapping[str, str]) -> Problem:
    """Build the problem of several tensors, grouped by node: `names` maps a description of each to its plain name."""
    groups: dict[str, list[str]] = {}
    for description, name in names.items():
        groups.setdefault(_find_place(name), []).append(description)
    listed = "; ".join(f"{len(group)} of {place} ({list_names(group, 3)})" for place, group in groups.items())
    plain = frozenset(names.values())
    patterns = ", ".join(f'"{place}{"" if place in plain else ".*"}"' for place in groups)
    return Problem(
        code="weights",
        place=Place(file=str(file)),
        message=f"{message.format(format_count(len(names), 'tensor'))}: {listed}.",
        got="; ".join(names),
        fix=f"give a checkpoint of this very model, or allow it: load_weights(model, file, ignore=[{patterns}])",
    )


def _find_place(name: str) -> str:
    """Return the place in the graph that a tensor's name begins with, in the model's names or in TerraTorch's."""
    return m[0] if (m := re.match(r"(?:necks?\.|aux\.[^.]+\.|aux_heads\.[^.]+\.)?[^.]+", name)) else name
