"""Count the parameters and bytes of a model, and stop a build that exceeds its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import local
from typing import Any

from attrs import define, frozen
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from composer.errors import Problem
from composer.graph import Node
from composer.inference import build_rejection_problem
from composer.limits import Limits
from composer.parts import Encoder, Part
from composer.parts.rules import Rejection, RejectionError
from composer.typed_graph import TypedGraph

MAX_MODULES = 4_096
"""Modules inside of one network. The largest networks of timm have some 1,800."""


LARGE_MODEL_BYTES = 2**29
"""Bytes that a model may come to before it is worth the while to count what the whole of it will come to."""


class AllocationLimitError(MemoryError):
    """What has been made of a model comes to more than there is memory for."""


class _RegistrationHooks(local):
    """What watches the modules that this thread makes: `children` for modules in modules, `tensors` for tensors."""

    def __init__(self) -> None:
        self.children: list[Callable[[nn.Module | None], None]] = []
        self.tensors: list[Callable[[Tensor | None], None]] = []


_REGISTRATION_HOOKS = _RegistrationHooks()


def _call_child_hooks(_: nn.Module, __: str, child: nn.Module | None) -> None:
    for watch in tuple(_REGISTRATION_HOOKS.children):
        watch(child)


def _call_tensor_hooks(_: nn.Module, __: str, tensor: Tensor | None) -> None:
    for watch in tuple(_REGISTRATION_HOOKS.tensors):
        watch(tensor)


# Registered once and for all: torch iterates over its hooks, and another thread that makes a module at the moment in
# which one is added or removed would fail.
register_module_module_registration_hook(_call_child_hooks)


register_module_parameter_registration_hook(_call_tensor_hooks)


register_module_buffer_registration_hook(_call_tensor_hooks)


@contextmanager
def _use_hook(watches: list[Any], watch: Callable[[Any], None]) -> Iterator[None]:
    watches.append(watch)
    try:
        yield
    finally:
        watches.remove(watch)


@contextmanager
def limit_modules() -> Iterator[None]:
    """Within it, a network of more than `MOST_MODULES` modules is stopped: whatever its constructor calls its depth.

    Raises RejectionError, time and again where a constructor catches it.
    """
    made = 0

    def count_child(child: nn.Module | None) -> None:
        nonlocal made
        made += child is not None
        if made > MAX_MODULES:
            raise RejectionError(_reject_module_count())

    with _use_hook(_REGISTRATION_HOOKS.children, count_child):
        yield


def _reject_module_count() -> Rejection:
    return Rejection(
        code="budget",
        kind="policy",
        expected=f"has at most {MAX_MODULES:,} modules",
        got="more of them from its options",
        repair="ask for a network that is less deep",
        about="options",
    )


@define
class _AllocationCounter:
    """The bytes that have been registered so far, and what is to be done when they come to so many."""

    large: int
    most: int | None
    enlarged: Callable[[], None]
    bytes: int = 0

    def add(self, tensor: Tensor | None) -> None:
        if tensor is None or tensor.is_meta:
            return
        before = self.bytes
        self.bytes += tensor.nbytes
        if before <= self.large < self.bytes:
            self.enlarged()
        if self.most is not None and self.bytes > self.most:
            raise AllocationLimitError(f"it comes to more than {self.most:,} bytes")


@contextmanager
def limit_bytes(
    most: int | None, enlarged: Callable[[], None] = lambda: None, large: int = LARGE_MODEL_BYTES
) -> Iterator[None]:
    """Within it, what modules hold is added up as it is registered, which is before numbers are put into it.

    Memory that nobody has written to takes none. `enlarged` is called once, where it comes to more than `large` bytes;
    where it comes to more than `most`, AllocationLimitError is raised.
    """
    with _use_hook(_REGISTRATION_HOOKS.tensors, _AllocationCounter(large, most, enlarged).add):
        yield


@frozen
class ResourceUsage:
    """The parameters of a node, and the bytes of those and of its buffers."""

    parameters: int = 0
    bytes: int = 0


def count_resources(modules: Mapping[str, nn.Module]) -> dict[str, ResourceUsage]:
    """What each node's module weighs; a tensor that several hold counts where it comes first."""
    seen: set[int] = set()
    weights = {}
    for node, held in modules.items():
        parameters = [tensor for tensor in held.parameters() if id(tensor) not in seen]
        buffers = [tensor for tensor in held.buffers() if id(tensor) not in seen]
        tensors = [*parameters, *buffers]
        seen |= {id(tensor) for tensor in tensors}
        weights[node] = ResourceUsage(
            sum(tensor.numel() for tensor in parameters),
            sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        )
    return weights


def find_limit_problems(typed: TypedGraph, weights: Mapping[str, ResourceUsage], limits: Limits) -> list[Problem]:
    """A problem for each limit that is exceeded, at the node that has most of what there is too much of."""
    problems = []
    parameters = {node: weight.parameters for node, weight in weights.items()}
    if limits.parameters is not None and sum(parameters.values()) > limits.parameters:
        problems.append(_build_limit_problem(typed, parameters, "parameters", f"{limits.parameters:,}", "{:,}"))
    sizes = {node: weight.bytes for node, weight in weights.items()}
    if limits.bytes is not None and sum(sizes.values()) > limits.bytes:
        problems.append(_build_limit_problem(typed, sizes, "bytes", f"{limits.bytes:,}", "{:,}"))
    return problems


def build_out_of_memory_problem(
    typed: TypedGraph, weights: Mapping[str, ResourceUsage], free: int | None, node: str
) -> Problem:
    """The problem of a model that there is not memory enough for, which came to light at `node`.

    It is told of the node that has most, where their `weights` are known.
    """
    heaviest = max(weights, key=lambda name: weights[name].bytes, default=node)
    total = sum(weight.bytes for weight in weights.values())
    there = "" if free is None else f", with {format_bytes(free)} free"
    got = (
        f"{format_bytes(weights[heaviest].bytes)} of the model's {format_bytes(total)}{there}" if weights else "no more"
    )
    refusal = Rejection(
        code="memory",
        kind="raises",
        expected="needs more memory than there is",
        got=got,
        repair=_suggest_smaller(typed, heaviest),
    )
    return _build_node_problem(typed, heaviest, refusal)


def format_bytes(count: int) -> str:
    """`9.4 GB` or `94.4 MB`, of a thousand million and of a million bytes."""
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"


def _build_limit_problem(typed: TypedGraph, counts: Mapping[str, int], what: str, most: str, form: str) -> Problem:
    heaviest = max(counts, key=lambda name: counts[name])
    total = sum(counts.values())
    refusal = Rejection(
        code="budget",
        kind="policy",
        expected=f"has most of the model's {what}, of which there may be {most}",
        got=f"{form.format(counts[heaviest])} of {form.format(total)}",
        repair=f"{_suggest_smaller(typed, heaviest)}, or allow as many",
    )
    return _build_node_problem(typed, heaviest, refusal)


def _build_node_problem(typed: TypedGraph, name: str, refusal: Rejection) -> Problem:
    node = _find_node(typed, name)
    assert isinstance(node.part, Part)
    return build_rejection_problem(typed.graph, node, node.part, refusal, typed.features)


def _suggest_smaller(typed: TypedGraph, name: str) -> str:
    return "choose a smaller network" if isinstance(_find_node(typed, name).part, Encoder) else "use fewer channels"


def _find_node(typed: TypedGraph, name: str) -> Node:
    return next(node for node in typed.order if node.name == name)
