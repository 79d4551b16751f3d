"""The laws that a contract and its module keep."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from composer.parts.rules import Rejection
from composer.testing.failures import ContractViolation, format_error, format_tensor_shape, format_worst_difference
from composer.testing.runs import Case, build_network, build_violation, list_enlarged_cases, run_case, run_checked
from composer.testing.subjects import draw_in_blocks

Law = Callable[[Case], None]


def check_shapes(case: Case) -> None:
    """Check that the outputs have the number and shapes of the contract, in eval and train mode."""
    network = build_network(case)
    run_checked(case, network)
    if case.batch > 1:  # a norm cannot compute statistics of a single value
        with torch.random.fork_rng(devices=[]):
            run_checked(case, network.train(), "in train mode ")


def check_inputs_unchanged(case: Case) -> None:
    """Check that a run changes neither the lists of its inputs nor their tensors, in eval and train mode."""
    network = build_network(case)
    _compare_inputs(case, network)
    if case.batch > 1:
        with torch.random.fork_rng(devices=[]):
            _compare_inputs(case, network.train(), "in train mode ")


def _compare_inputs(case: Case, network: nn.Module, mode: str = "") -> None:
    tensors = case.draw_tensors()
    lists, values = [list(levels) for levels in tensors], deepcopy(tensors)
    run_case(case, "inputs", network, tensors, mode=mode)
    for levels, before, numbers in zip(tensors, lists, values, strict=True):
        if list(map(id, levels)) != list(map(id, before)):
            raise build_violation(case, "inputs", f"{mode}it changes the list of its inputs")
        if not all(map(torch.equal, levels, numbers)):
            raise build_violation(case, "inputs", f"{mode}it changes an input tensor in place")


def check_determinism(case: Case) -> None:
    """Check that in eval mode the same input gives the same outputs, also after a batch of another size."""
    network, larger = build_network(case), evolve(case, batch=case.batch + 1)
    first = run_case(case, "again", network, case.draw_tensors())
    run_case(larger, "again", network, larger.draw_tensors())
    second = run_case(case, "again", network, case.draw_tensors())
    if not _are_close(first, second, tolerance=0):
        details = format_worst_difference(("first", first), ("second", second))
        raise build_violation(case, "again", "the same input gives other outputs the second time", details)


def check_state_unchanged(case: Case) -> None:
    """Check that in eval mode a run keeps weights, statistics, public attributes and torch's random state.

    It may fill caches (unsaved buffers, tensors, dicts, sets, private attributes), which a repeated run leaves as they
    are.
    """
    network, larger = build_network(case), evolve(case, batch=case.batch + 1)
    random_state, saved = torch.get_rng_state(), get_state(network, persistent=True)
    for run in (case, larger):
        run_case(run, "itself", network, run.draw_tensors())
    caches = get_state(network, persistent=False)
    run_case(larger, "itself", network, larger.draw_tensors())
    changes = list_changes(saved, get_state(network, persistent=True))
    changes += list_changes(caches, get_state(network, persistent=False))
    if changes:
        raise build_violation(case, "itself", f"runs in eval mode changed {', '.join(changes)}")
    if not torch.equal(torch.get_rng_state(), random_state):
        raise build_violation(case, "itself", "a run in eval mode changed torch's random state")


def check_batching(case: Case) -> None:
    """Check that in eval mode the first and last image of a batch have the same output alone."""
    if case.batch == 1:
        return
    network = build_network(case)
    together = run_case(case, "batch", network, case.draw_tensors())
    axes = [f.axes.split().index("b") for f in case.outputs.features]
    for index in (0, case.batch - 1):
        image = [
            [x.narrow(f.axes.split().index("b"), index, 1) for x, f in zip(levels, features, strict=True)]
            for levels, features in zip(case.draw_tensors(), case.inputs.all, strict=True)
        ]
        alone = run_case(case, "batch", network, image)
        part = [x.narrow(axis, index, 1) for x, axis in zip(together, axes, strict=False)]
        if not _are_close(part, alone):
            details = format_worst_difference(("in the batch", part), ("alone", alone))
            raise build_violation(case, "batch", f"image {index} of the batch gives another output alone", details)


def check_memory_format(case: Case) -> None:
    """Check that inputs that are channels-last or not contiguous in memory give the same outputs."""
    network = build_network(case)
    expected = run_case(case, "memory", network, case.draw_tensors())
    for name, convert in (("channels last", _to_channels_last), ("not contiguous", _to_noncontiguous)):
        tensors = [[convert(x) for x in levels] for levels in case.draw_tensors()]
        out = run_case(case, "memory", network, tensors, mode=f"for an input {name} in memory ")
        if not _are_close(expected, out):
            details = format_worst_difference(("contiguous", expected), (name, out))
            raise build_violation(case, "memory", f"an input {name} in memory gives other outputs", details)


def _to_channels_last(x: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.dim()]) if x.dim() in formats else x


def _to_noncontiguous(x: Tensor) -> Tensor:
    return torch.stack([x, x], dim=-1)[..., 0]


def _are_close(outputs: Sequence[Tensor], others: Sequence[Tensor], tolerance: float = 1e-3) -> bool:
    """Return whether shapes are equal, and numbers within `tolerance` of the largest one."""
    return len(outputs) == len(others) and all(
        x.shape == y.shape and torch.allclose(x, y, rtol=0, atol=tolerance * _compute_largest(x), equal_nan=True)
        for x, y in zip(outputs, others, strict=True)
    )


def _compute_largest(x: Tensor) -> float:
    finite = x[x.isfinite()].abs()
    return float(finite.detach().max().clamp_min(1e-3)) if finite.numel() else 1.0


def check_forced_rejection(case: Case) -> None:
    """Check that inputs rejected as `raises` make the module raise; inputs rejected as `policy` do not."""
    assert isinstance(case.outcome, Rejection)
    reason = f"it {case.outcome.expected}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # e.g. of parameters without elements
            out = case.call(case.build(), case.draw_tensors())
    except Exception as error:
        if case.outcome.kind == "policy":
            what = f"its contract rejects this input by policy ({reason}), but its module raises {format_error(error)}"
            raise build_violation(case, "refusals", what) from error
        return
    if case.outcome.kind == "raises":
        got = ", ".join(format_tensor_shape(tuple(x.shape)) for x in out)
        what = f"its contract rejects this input as impossible ({reason}), but its module returns {got}"
        raise build_violation(case, "refusals", what)


# --- precision

LOW_PRECISION_TYPES = (torch.float16, torch.bfloat16)

MAX_RELATIVE_ERROR = 0.2
"""Of the largest number: enough for the rounding of 8 bits, not for an overflow or a wrong scale."""

MAX_FAR_SHARE = 0.1
"""Share of the numbers that may differ more, where a rounding changes which token or cell is chosen."""


def check_precision(case: Case) -> None:
    """Check that in float64, bfloat16 and float16 the outputs have that type, and numbers near those of float64.

    The order of the numbers is not compared: a rounding may change the result of an argmax or a sort. Runs with an even
    batch use bfloat16, those with an odd one float16.
    """
    double = build_network(case, torch.float64)
    exact = run_case(case, "precision", double, case.draw_tensors(torch.float64))
    _check_output_types(case, exact, exact, torch.float64)
    if any(bool(x.isnan().any()) for x in exact):
        raise build_violation(case, "precision", "in float64 its outputs contain NaN")
    dtype = LOW_PRECISION_TYPES[(case.batch + 1) % 2]
    name = str(dtype).removeprefix("torch.")
    try:
        with HalfPrecisionEmulation():
            out = run_case(case, "precision", build_network(case, dtype), case.draw_tensors(dtype), mode=f"in {name} ")
    except ContractViolation as error:
        if "not implemented for" in str(error):  # torch has no such kernel for this processor
            return
        raise
    _check_output_types(case, out, exact, dtype)
    if len(out) != len(exact) or not all(map(_is_near, exact, out)):
        details = format_worst_difference(("float64", exact), (name, out))
        raise build_violation(case, "precision", f"in {name} its outputs differ from those in float64", details)


def _check_output_types(case: Case, out: Sequence[Tensor], exact: Sequence[Tensor], dtype: torch.dtype) -> None:
    for x, reference in zip(out, exact, strict=False):
        expected = dtype if reference.is_floating_point() else reference.dtype
        if x.dtype is not expected:
            names = [str(one).removeprefix("torch.") for one in (dtype, expected, x.dtype)]
            what = "for {} inputs it must return {} (got {})".format(*names)
            raise build_violation(case, "precision", what)


def _is_near(exact: Tensor, x: Tensor) -> bool:
    if x.shape != exact.shape:
        return False
    exact, x = exact.double().flatten().sort().values, x.double().flatten().sort().values
    if not torch.equal(x.isfinite(), exact.isfinite()):
        return False
    far = ~(((x - exact).abs() <= MAX_RELATIVE_ERROR * _compute_largest(exact)) | (x == exact))
    return int(far.sum()) <= MAX_FAR_SHARE * x.numel()


_PRODUCTS = {F.linear, *(getattr(F, f"conv{kind}{count}d") for kind in ("", "_transpose") for count in (1, 2, 3))}


class HalfPrecisionEmulation(TorchFunctionMode):
    """Compute convolutions and linear layers of halves in single precision and round, as devices do.

    Processors without kernels for halves take thirty times as long.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)] if func in _PRODUCTS else []
        dtypes = {x.dtype for x in tensors}
        if len(dtypes) == 1 and dtypes < {torch.bfloat16, torch.float16}:
            named = {name: _to_single(x) for name, x in kwargs.items()}
            return func(*map(_to_single, args), **named).to(tensors[0].dtype)
        return func(*args, **kwargs)


def _to_single(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) else x


# --- gradients

GRADIENT_SEEDS = 4
"""Seeds of weights and inputs for each larger image."""


def check_gradients(case: Case) -> None:
    """Check that every trainable parameter gets a gradient, and each output passes one to the inputs; all finite.

    A gradient that is zero is tried again with other weights and inputs, and on a larger image with more levels, frames
    and channels. Weights are perturbed first, so that a branch scaled by zero counts. Outputs that do not depend on
    the inputs, and the inputs of an encoder, need no gradient.
    """
    missing: set[str | int] = {key for key, flows in _find_gradients(case, 0).items() if not flows}
    missing -= _list_constant_outputs(case) if any(isinstance(key, int) for key in missing) else set()
    if not missing:
        return
    retries = [(case, 1), *((larger, seed) for larger in list_enlarged_cases(case) for seed in range(GRADIENT_SEEDS))]
    for other, seed in retries:
        flows_again = _find_gradients(other, seed)
        missing = {key for key in missing if not flows_again.get(key, False)}
        if not missing:
            return
    names = ", ".join(sorted(key for key in missing if isinstance(key, str)))
    if names:
        raise build_violation(case, "gradients", f"no gradient reaches {names}")
    outputs = " and ".join(map(str, sorted(key for key in missing if isinstance(key, int))))
    raise build_violation(case, "gradients", f"no gradient reaches the inputs from feature {outputs} of its outputs")


def _find_gradients(case: Case, seed: int) -> dict[str | int, bool]:
    """Return whether a gradient other than zero reaches each parameter, and the inputs from each output (by index)."""
    network = _add_noise(build_network(case, seed=seed), seed)
    leaves = [
        [x.requires_grad_(case.subject.has_input_gradients) for x in levels] for levels in case.draw_tensors(seed=seed)
    ]
    inputs = [x for levels in leaves for x in levels if x.requires_grad]
    # Clones, as in a model: a module may write into what another has computed, but not into a leaf.
    tensors = [[x.clone() for x in levels] for levels in leaves]
    out = run_case(case, "gradients", network, tensors, gradients=True)
    noise = torch.Generator().manual_seed(seed)
    terms = [(x * torch.randn(x.shape, generator=noise)).sum() for x in out]
    weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    if weights and not any(term.requires_grad for term in terms):
        raise build_violation(case, "gradients", "no output depends on its parameters")
    flows: dict[str | int, bool] = {}
    for index, (x, term) in enumerate(zip(out, terms, strict=True)):
        if inputs and x.is_floating_point():
            flows[index] = any(_compute_gradients(case, term, inputs, ["an input"] * len(inputs)))
    reached = _compute_gradients(case, torch.stack(terms).sum(), list(weights.values()), list(weights))
    return flows | dict(zip(weights, reached, strict=True))


def _compute_gradients(case: Case, loss: Tensor, leaves: Sequence[Tensor], names: Sequence[str]) -> list[bool]:
    """Return which leaves get a gradient other than zero. Raises ContractViolation if one is not finite."""
    if not loss.requires_grad or not leaves:
        return [False] * len(leaves)
    gradients = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is not None and not gradient.isfinite().all():
            raise build_violation(case, "gradients", f"the gradient of {name} is not finite")
    return [gradient is not None and bool(gradient.any()) for gradient in gradients]


def _list_constant_outputs(case: Case) -> set[int]:
    """Return the indices of outputs that are the same for other inputs."""
    network = _add_noise(build_network(case), 0)
    first, second = (run_case(case, "gradients", network, case.draw_tensors(seed=seed)) for seed in (0, 1))
    return {index for index, (x, y) in enumerate(zip(first, second, strict=True)) if torch.equal(x, y)}


def _add_noise(network: nn.Module, seed: int) -> nn.Module:
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad(), draw_in_blocks():
        for weight in network.parameters():
            weight.add_(torch.empty_like(weight).normal_(generator=noise), alpha=0.1)
    return network


# --- state

MAX_STATE_DEPTH = 6
"""Depth to which nested containers are compared."""

_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))

_PLAIN_TYPES = (bool, int, float, str, bytes, type(None))


def get_state(network: nn.Module, *, persistent: bool) -> dict[str, Any]:
    """Return comparable values of the state, by name: either what a run must keep, or what may be a cache.

    Persistent are the `state_dict`, and public attributes that hold plain values or lists of them. Other attributes and
    unsaved buffers may be caches.
    """
    saved = network.state_dict()
    buffers = {name: value for name, value in network.named_buffers() if name not in saved}
    state = dict(saved) if persistent else buffers
    state |= {name: value for name, value in _iter_attributes(network) if _is_persistent(name, value) is persistent}
    return {name: _to_comparable(value) for name, value in state.items()}


def list_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of the values that differ, have appeared or are gone."""
    return [
        name if name in before and name in after else f"{name} (which {'appeared' if name in after else 'is gone'})"
        for name in dict.fromkeys((*before, *after))
        if name not in before or name not in after or before[name] != after[name]
    ]


def _iter_attributes(network: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, child in network.named_modules():
        for key, value in vars(child).items():
            if key not in _MODULE_ATTRIBUTES:
                yield f"{name}.{key}".lstrip("."), value


def _is_persistent(name: str, value: Any) -> bool:
    if name.rpartition(".")[2].startswith("_"):
        return False
    if isinstance(value, list | tuple):
        return not any(isinstance(entry, Tensor | nn.Module) for entry in value)
    return isinstance(value, _PLAIN_TYPES)


def _to_comparable(value: Any, depth: int = 0) -> Any:
    """Return a value that is equal for equal contents, NaN included; None for objects of unknown kinds."""
    if isinstance(value, Tensor):
        if is_lazy(value) or value.layout is not torch.strided or value.is_meta or value.is_quantized:
            return "lazy" if is_lazy(value) else str(value)
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return value.dtype, tuple(value.shape), flat.view(torch.uint8).numpy().tobytes()
    if isinstance(value, _PLAIN_TYPES):
        return type(value), repr(value)
    if hasattr(value, "tobytes") and hasattr(value, "shape"):  # an array
        return type(value), value.shape, str(value.dtype), value.tobytes()
    if depth == MAX_STATE_DEPTH:
        return None
    if isinstance(value, Mapping):
        return type(value), tuple((repr(key), _to_comparable(entry, depth + 1)) for key, entry in value.items())
    if isinstance(value, set | frozenset):
        return type(value), frozenset(_to_comparable(entry, depth + 1) for entry in value)
    if isinstance(value, list | tuple):
        return type(value), tuple(_to_comparable(entry, depth + 1) for entry in value)
    return None


LAWS: Mapping[str, Law] = MappingProxyType(
    {
        "shapes": check_shapes,
        "inputs": check_inputs_unchanged,
        "again": check_determinism,
        "itself": check_state_unchanged,
        "batch": check_batching,
        "memory": check_memory_format,
        "precision": check_precision,
        "gradients": check_gradients,
    }
)
"""The laws for accepted inputs, by name."""

REJECTIONS_LAW = "refusals"
"""The law for rejected inputs: `check_forced_rejection`."""
