"""The laws that a contract and its module keep. Each checks one run, and raises LawError."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from attrs import evolve
from torch import Tensor, nn

from composer.parts import Encoder
from composer.testing.failures import ContractUncheckable, LawError, format_error, format_shapes
from composer.testing.runs import Run
from composer.testing.subjects import PlainNeck

GRADIENTS_LAW, REJECTIONS_LAW = "gradients", "refusals"
"""The laws with runs of their own: larger images, and rejected inputs."""


def check_shapes(run: Run) -> None:
    """Check that the outputs have the number and shapes of the contract, in eval and train mode."""
    for network, mode in _iter_modes(run):
        outputs = run.call(network, mode=mode)
        expected = [f.shape(run.batch, *run.size) for f in run.outputs.features]
        shapes = [tuple(x.shape) for x in outputs]
        if isinstance(run.part, PlainNeck):  # which promises only batch and channels
            shapes = [shape[::2] if len(shape) == 3 else shape[:2] for shape in shapes]
        if expected != shapes:
            what = f"{mode}its outputs differ from its contract"
            raise LawError(what, format_shapes(expected), format_shapes(shapes))
        taller = run.resize(2 * run.size[0], run.size[1]) if isinstance(run.part, PlainNeck) else None
        for index, (x, y) in enumerate(zip(outputs, taller.call(network) if taller else (), strict=False)):
            if x.dim() == 4 and x.shape[2] == y.shape[2] and x.shape[3] < y.shape[3]:
                raise LawError(f"feature {index} of its outputs has rows for columns (got {format_shapes([x.shape])})")


def _iter_modes(run: Run) -> Iterator[tuple[nn.Module, str]]:
    """Yield the module in eval mode, then in train mode, each with the beginning of a message."""
    network = run.build()
    yield network, ""
    if run.batch > 1:  # a norm cannot compute statistics of a single value
        yield network.train(), "in train mode "


def check_inputs_unchanged(run: Run) -> None:
    """Check that a run changes neither the lists of its inputs nor their tensors, in eval and train mode."""
    for network, mode in _iter_modes(run):
        tensors = run.draw_tensors()
        before, values = [list(levels) for levels in tensors], deepcopy(tensors)
        run.call(network, tensors, mode)
        if [list(map(id, levels)) for levels in tensors] != [list(map(id, levels)) for levels in before]:
            raise LawError(f"{mode}it changes the list of its inputs")
        for levels, copies in zip(tensors, values, strict=True):
            _compare(levels, copies, f"{mode}it changes an input tensor in place", tolerance=0)


def check_determinism(run: Run) -> None:
    """Check that in eval mode the same input gives the same outputs, also after a batch of another size."""
    network, larger = run.build(), evolve(run, batch=run.batch + 1)
    first = run.call(network)
    larger.call(network)
    _compare(first, run.call(network), "the same input gives other outputs the second time", tolerance=0)


def check_batching(run: Run) -> None:
    """Check that in eval mode the first and last image of a batch have the same output alone."""
    network = run.build()
    together = run.call(network)
    for index in (0, run.batch - 1):
        image = [
            [x.narrow(f.axes.split().index("b"), index, 1) for x, f in zip(levels, features, strict=True)]
            for levels, features in zip(run.draw_tensors(), run.inputs.all, strict=True)
        ]
        part = [x.narrow(axis, index, 1) for x, axis in zip(together, run.get_batch_axes(), strict=False)]
        _compare(part, run.call(network, image), f"image {index} of the batch gives another output alone")


def check_memory_format(run: Run) -> None:
    """Check that inputs that are channels-last or not contiguous in memory give the same outputs."""
    network = run.build()
    expected = run.call(network)
    formats: Mapping[str, Callable[[Tensor], Tensor]] = {
        "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
        "not contiguous": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    }
    for name, convert in formats.items():
        tensors = [list(map(convert, levels)) for levels in run.draw_tensors()]
        outputs = run.call(network, tensors, f"for an input {name} in memory ")
        _compare(expected, outputs, f"an input {name} in memory gives other outputs")


def check_forced_rejection(run: Run) -> None:
    """Check that inputs rejected as `raises` make the module raise; inputs rejected as `policy` do not."""
    assert run.rejection is not None
    reason = f"it {run.rejection.expected}"
    try:
        outputs = run.call(run.build())
    except (ContractUncheckable, LawError) as error:
        cause = error.__cause__ or error
        if run.rejection.kind == "policy":
            what = f"its contract rejects this input by policy ({reason}), but its module raises {format_error(cause)}"
            raise LawError(what) from cause
        return
    if run.rejection.kind == "raises":
        got = format_shapes(x.shape for x in outputs)
        raise LawError(f"its contract rejects this input as impossible ({reason}), but its module returns {got}")


# --- comparing outputs


def _compare(outputs: Sequence[Tensor], others: Sequence[Tensor], what: str, tolerance: float = 1e-3) -> None:
    """Raise LawError if shapes differ, or numbers by more than `tolerance` of the largest one."""
    shapes, other_shapes = ([tuple(x.shape) for x in tensors] for tensors in (outputs, others))
    if shapes != other_shapes:
        raise LawError(what, format_shapes(shapes), format_shapes(other_shapes))
    for index, (x, y) in enumerate(zip(outputs, others, strict=True)):
        if not torch.allclose(x, y, rtol=0, atol=tolerance * _compute_largest(x), equal_nan=True):
            gap = float((x.double() - y.double()).abs().nan_to_num(float("inf")).max())
            raise LawError(f"{what} (feature {index} differs by up to {gap:.3g})")


def _compute_largest(x: Tensor) -> float:
    """Return the largest finite magnitude, at least 1e-3."""
    return float(x.detach().double().nan_to_num(0, 0, 0).abs().max().clamp_min(1e-3))


# --- state


def check_state_unchanged(run: Run) -> None:
    """Check that in eval mode a run keeps weights, statistics, public attributes and torch's random state.

    It may fill caches (unsaved buffers, tensors, dicts, sets, private attributes), which a repeated run leaves as they
    are.
    """
    network, larger = run.build(), evolve(run, batch=run.batch + 1)
    random_state, (saved, _) = torch.get_rng_state(), _get_state(network)
    run.call(network)
    larger.call(network)
    _, caches = _get_state(network)
    larger.call(network)
    pairs = zip((saved, caches), _get_state(network), strict=True)
    if changes := [name for old, new in pairs for name in {**old, **new} if old.get(name) != new.get(name)]:
        raise LawError(f"runs in eval mode changed {', '.join(changes)}")
    if not torch.equal(torch.get_rng_state(), random_state):
        raise LawError("a run in eval mode changed torch's random state")


def _get_state(network: nn.Module) -> tuple[dict[str, object], dict[str, object]]:
    """Return fingerprints of what a run must keep (weights, public plain attributes) and of what may be a cache."""
    saved = network.state_dict()
    caches = {name: value for name, value in network.named_buffers() if name not in saved}
    for name, child in network.named_modules():
        for key in vars(child).keys() - vars(nn.Module()).keys():
            value = getattr(child, key)
            (saved if _is_persistent(key, value) else caches)[f"{name}.{key}".lstrip(".")] = value
    first, second = ({name: _compute_fingerprint(value) for name, value in state.items()} for state in (saved, caches))
    return first, second


def _is_persistent(name: str, value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and not any(isinstance(entry, Tensor | nn.Module) for entry in value)
    return not name.startswith("_") and (is_list or isinstance(value, bool | int | float | str | bytes | None))


def _compute_fingerprint(value: Any) -> object:
    """Return the type, shape and bytes of a tensor or an array, in which NaN equals NaN; the text of other values."""
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, list | tuple):
        return [_compute_fingerprint(entry) for entry in value]
    if isinstance(value, Tensor) and value.layout is torch.strided:
        bits = value.detach().contiguous().reshape(-1).view(torch.uint8)
        return value.dtype, value.shape, bits.numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    return re.sub(r" at 0x\w+", "", repr(value))


# --- precision

MAX_MEAN_ERROR = 0.1
"""Of the largest number: enough for the rounding of 8 bits, not for an overflow or a wrong scale."""


def check_precision(run: Run) -> None:
    """Check that in float64, bfloat16 and float16 the outputs have that type, and numbers near those of float64.

    The order of the numbers is not compared: a rounding may change the result of an argmax or a sort. All outputs have
    one scale: the only number of one may be a small difference of large ones. Runs with an even batch use bfloat16,
    those with an odd one float16.
    """
    low = torch.float16 if run.batch % 2 else torch.bfloat16
    exact = _call_in(run, torch.float64)
    try:
        outputs = _call_in(run, low)
    except LawError as error:
        if "not implemented for" in str(error):  # torch has no such kernel for this processor
            return
        raise
    largest = max(map(_compute_largest, exact), default=0)
    for pair in zip(exact, outputs, strict=True):
        x, y = (numbers.double().flatten().sort().values for numbers in pair)
        gap = torch.where(x.isfinite(), y - x, 0).abs().mean()
        if not torch.equal(x.isfinite(), y.isfinite()) or gap > MAX_MEAN_ERROR * largest:
            raise LawError(f"in {low} its outputs differ from those in torch.float64")


def _call_in(run: Run, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return the outputs of a module with weights and inputs of a type. Raises LawError if they have another."""
    outputs = run.call(run.build(dtype), run.draw_tensors(dtype), f"in {dtype} ")
    for x in outputs:
        if x.is_floating_point() and x.dtype is not dtype:
            raise LawError(f"in {dtype} its outputs have another type", str(dtype), str(x.dtype))
    return outputs


# --- gradients


def check_gradients(run: Run) -> None:
    """Check that every trainable parameter gets a gradient, and each output passes one to the inputs; all finite.

    What gets none is tried again with weights of the other sign, where other units pass a ReLU. Weights that are zero
    are set first, so that a branch scaled by zero counts. Outputs that do not depend on the inputs, and the inputs of
    an encoder, need no gradient.
    """
    missing = _find_missing_gradients(run)
    missing = missing and missing & _find_missing_gradients(run, sign=-1)
    if missing:
        raise LawError(f"no gradient reaches {', '.join(sorted(missing))}")


def _find_missing_gradients(run: Run, sign: int = 1) -> set[str]:
    """Return the parameters that no gradient reaches, and the inputs for each output from which none does."""
    network, noise = run.build(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(sign if weight.dim() > 1 else 1)
            weight[weight == 0] = 0.1 * torch.randn(int((weight == 0).sum()), generator=noise)
    weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    needs_inputs = not isinstance(run.part, Encoder)
    leaves = [[x.requires_grad_(needs_inputs) for x in levels] for levels in run.draw_tensors()]
    inputs = {f"input {index}": x for index, x in enumerate(chain(*leaves)) if needs_inputs}
    # Clones, as in a model: a module may write into what another has computed, but not into a leaf.
    outputs = run.call(network, [[x.clone() for x in levels] for levels in leaves], gradients=True)
    losses = [(x * torch.randn(x.shape, generator=noise)).sum() for x in outputs]
    unreached = [_list_unreached(loss, weights | inputs) for loss in losses]
    missing = weights.keys() & set.intersection(*unreached)
    for index, (x, y) in enumerate(zip(outputs, run.call(network, run.draw_tensors(seed=1)), strict=True)):
        if inputs and inputs.keys() <= unreached[index] and x.is_floating_point() and not torch.equal(x, y):
            missing.add(f"the inputs from feature {index} of its outputs")
    return missing


def _list_unreached(loss: Tensor, leaves: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the leaves whose gradient is zero. Raises LawError if one is not finite."""
    if not loss.requires_grad or not leaves:
        return set(leaves)
    gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
    reached = {name: x for name, x in zip(leaves, gradients, strict=True) if x is not None and x.any()}
    if broken := [name for name, x in reached.items() if not x.isfinite().all()]:
        raise LawError(f"the gradient of {', '.join(broken)} is not finite")
    return leaves.keys() - reached.keys()


LAWS: Mapping[str, Callable[[Run], None]] = MappingProxyType(
    {
        "shapes": check_shapes,
        "inputs": check_inputs_unchanged,
        "again": check_determinism,
        "itself": check_state_unchanged,
        "batch": check_batching,
        "memory": check_memory_format,
        "precision": check_precision,
        GRADIENTS_LAW: check_gradients,
        REJECTIONS_LAW: check_forced_rejection,
    }
)
"""The laws by name; the last one is for rejected inputs."""
