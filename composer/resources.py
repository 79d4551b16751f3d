"""Count the parameters and bytes of a model, and stop a build that exceeds its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import local
from typing import Any

from attrs import frozen
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from composer.errors import Problem
from composer.graph import Node
from composer.inference import TypedGraph, build_rejection_problem
from composer.limits import Limits
from composer.parts import Encoder, Part
from composer.parts.rules import Rejection, RejectionError

MAX_MODULES = 4_096
"""The maximum number of modules in one network. The largest networks of timm have some 1,800."""

LARGE_MODEL_BYTES = 2**29
"""The size from which on the whole model is counted before it is built."""


class AllocationLimitError(MemoryError):
    """Raised during a build, where the model needs more memory than is available."""


class _RegistrationHooks(local):
    """The hooks of this thread, called for child modules and for tensors as they are registered."""

    def __init__(self) -> None:
        self.children: list[Callable[[nn.Module | None], None]] = []
        self.tensors: list[Callable[[Tensor | None], None]] = []


_REGISTRATION_HOOKS = _RegistrationHooks()


def _call_child_hooks(_: nn.Module, __: str, child: nn.Module | None) -> None:
    for hook in tuple(_REGISTRATION_HOOKS.children):
        hook(child)


def _call_tensor_hooks(_: nn.Module, __: str, tensor: Tensor | None) -> None:
    for hook in tuple(_REGISTRATION_HOOKS.tensors):
        hook(tensor)


# Registered once: torch iterates over its hooks, so adding or removing one would break a build in another thread.
register_module_module_registration_hook(_call_child_hooks)
register_module_parameter_registration_hook(_call_tensor_hooks)
register_module_buffer_registration_hook(_call_tensor_hooks)


@contextmanager
def _use_hook(hooks: list[Any], hook: Callable[[Any], None]) -> Iterator[None]:
    hooks.append(hook)
    try:
        yield
    finally:
        hooks.remove(hook)


@contextmanager
def limit_modules() -> Iterator[None]:
    """Stop the construction of a network of more than `MAX_MODULES` modules, as a context.

    Raises RejectionError, repeatedly where a constructor catches it.
    """
    count = 0

    def count_child(child: nn.Module | None) -> None:
        nonlocal count
        count += child is not None
        if count > MAX_MODULES:
            raise RejectionError(
                Rejection(
                    code="limit",
                    kind="policy",
                    expected=f"has at most {MAX_MODULES:,} modules",
                    got="more of them from its options",
                    fix="ask for a network that is less deep",
                    about="options",
                )
            )

    with _use_hook(_REGISTRATION_HOOKS.children, count_child):
        yield


@contextmanager
def limit_bytes(
    most: int | None, enlarged: Callable[[], None] = lambda: None, large: int = LARGE_MODEL_BYTES
) -> Iterator[None]:
    """Count the bytes of tensors as modules register them, as a context: that is before the memory is written to.

    Calls `enlarged` once above `large` bytes, and raises AllocationLimitError above `most` bytes.
    """
    total = 0

    def count_tensor(tensor: Tensor | None) -> None:
        nonlocal total
        if tensor is None or tensor.is_meta:
            return
        before, total = total, total + tensor.nbytes
        if before <= large < total:
            enlarged()
        if most is not None and total > most:
            raise AllocationLimitError(f"it comes to more than {most:,} bytes")

    with _use_hook(_REGISTRATION_HOOKS.tensors, count_tensor):
        yield


@frozen
class ResourceUsage:
    """The number of parameters of a node, and the bytes of its parameters and buffers."""

    parameters: int = 0
    bytes: int = 0


def count_resources(modules: Mapping[str, nn.Module]) -> dict[str, ResourceUsage]:
    """Return the usage of each node's module; a shared tensor counts for the first node."""
    seen: set[int] = set()
    usage = {}
    for node, network in modules.items():
        parameters = [tensor for tensor in network.parameters() if id(tensor) not in seen]
        buffers = [tensor for tensor in network.buffers() if id(tensor) not in seen]
        tensors = [*parameters, *buffers]
        seen |= {id(tensor) for tensor in tensors}
        usage[node] = ResourceUsage(
            sum(tensor.numel() for tensor in parameters),
            sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        )
    return usage


def find_limit_problems(typed: TypedGraph, usage: Mapping[str, ResourceUsage], limits: Limits) -> list[Problem]:
    """Return a problem for each exceeded limit, at the node with the largest share."""
    problems = []
    for resource, limit in (("parameters", limits.parameters), ("bytes", limits.bytes)):
        counts = {node: getattr(used, resource) for node, used in usage.items()}
        total = sum(counts.values())
        if limit is None or total <= limit:
            continue
        largest = max(counts, key=lambda name: counts[name])
        refusal = Rejection(
            code="limit",
            kind="policy",
            expected=f"has most of the model's {resource}, of which there may be {limit:,}",
            got=f"{counts[largest]:,} of {total:,}",
            fix=f"{_suggest_smaller(typed, largest)}, or allow as many",
        )
        problems.append(_build_node_problem(typed, largest, refusal))
    return problems


def build_out_of_memory_problem(
    typed: TypedGraph, usage: Mapping[str, ResourceUsage], free: int | None, node: str
) -> Problem:
    """Return the problem of a model that does not fit in memory, at its largest node, or at `node` without `usage`."""
    largest = max(usage, key=lambda name: usage[name].bytes, default=node)
    total = sum(used.bytes for used in usage.values())
    available = "" if free is None else f", with {_format_bytes(free)} free"
    share = f"{_format_bytes(usage[largest].bytes)} of the model's {_format_bytes(total)}" if usage else ""
    refusal = Rejection(
        code="limit",
        kind="raises",
        expected="needs more memory than there is",
        got=f"{share}{available}" if usage else "no more",
        fix=_suggest_smaller(typed, largest),
    )
    return _build_node_problem(typed, largest, refusal)


def _format_bytes(count: int) -> str:
    """Return `9.4 GB` or `94.4 MB`, in powers of 1000."""
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"


def _build_node_problem(typed: TypedGraph, name: str, refusal: Rejection) -> Problem:
    node = _find_node(typed, name)
    assert isinstance(node.part, Part)
    return build_rejection_problem(typed.graph, node, node.part, refusal, typed.features)


def _suggest_smaller(typed: TypedGraph, name: str) -> str:
    return "choose a smaller network" if isinstance(_find_node(typed, name).part, Encoder) else "use fewer channels"


def _find_node(typed: TypedGraph, name: str) -> Node:
    return next(node for node in typed.order if node.name == name)
