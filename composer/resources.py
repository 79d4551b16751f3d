"""Count the parameters and bytes of a model, and stop a build that exceeds its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from attrs import frozen
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from composer.errors import SpecError
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


Watcher = Callable[[nn.Module | Tensor], None]
"""A function that is called with each child module and tensor that a module registers."""

_WATCHERS: ContextVar[tuple[Watcher, ...]] = ContextVar("watchers", default=())
"""The watchers of this thread."""


def _call_watchers(_: nn.Module, __: str, child: nn.Module | Tensor | None) -> None:
    if child is not None:
        for watcher in _WATCHERS.get():
            watcher(child)


# Registered once: torch iterates over its hooks, so adding or removing one would break a build in another thread.
register_module_module_registration_hook(_call_watchers)
register_module_parameter_registration_hook(_call_watchers)
register_module_buffer_registration_hook(_call_watchers)


@contextmanager
def _use_watcher(watcher: Watcher) -> Iterator[None]:
    token = _WATCHERS.set((*_WATCHERS.get(), watcher))
    try:
        yield
    finally:
        _WATCHERS.reset(token)


def limit_modules() -> AbstractContextManager[None]:
    """Stop the construction of a network of more than `MAX_MODULES` modules, as a context.

    Raises RejectionError, repeatedly where a constructor catches it.
    """
    count = 0

    def count_child(child: nn.Module | Tensor) -> None:
        nonlocal count
        count += isinstance(child, nn.Module)
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

    return _use_watcher(count_child)


def limit_bytes(
    most: int | None, check_size: Callable[[], None] = lambda: None, large: int = LARGE_MODEL_BYTES
) -> AbstractContextManager[None]:
    """Count the bytes of tensors as modules register them, as a context: that is before the memory is written to.

    Calls `check_size` once above `large` bytes, and raises AllocationLimitError above `most` bytes.
    """
    total = 0

    def count_tensor(tensor: nn.Module | Tensor) -> None:
        nonlocal total
        if isinstance(tensor, nn.Module) or tensor.is_meta:
            return
        before, total = total, total + tensor.nbytes
        if before <= large < total:
            check_size()
        if most is not None and total > most:
            raise AllocationLimitError(f"it comes to more than {most:,} bytes")

    return _use_watcher(count_tensor)


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
        tensors = [x for x in (*network.parameters(), *network.buffers()) if id(x) not in seen]
        seen |= set(map(id, tensors))
        parameters = sum(x.numel() for x in tensors if isinstance(x, nn.Parameter))
        usage[node] = ResourceUsage(parameters, sum(x.numel() * x.element_size() for x in tensors))
    return usage


def raise_rejections(typed: TypedGraph, rejections: Iterable[tuple[str, Rejection]]) -> None:
    """Raise SpecError for all rejections, each of a node by its name; nothing where there are none."""
    nodes = {node.name: node for node in typed.order}
    problems = []
    for name, rejection in rejections:
        part = nodes[name].part
        assert isinstance(part, Part)
        problems.append(build_rejection_problem(typed.graph, nodes[name], part, rejection, typed.features))
    if problems:
        raise SpecError(problems)


def require_limits(typed: TypedGraph, usage: Mapping[str, ResourceUsage], limits: Limits) -> None:
    """Raise SpecError with a problem for each exceeded limit, at the node with the largest share."""
    rejections = []
    for resource in ("parameters", "bytes"):
        counts = {node: getattr(used, resource) for node, used in usage.items()}
        limit, total = getattr(limits, resource), sum(counts.values())
        if limit is not None and total > limit:
            largest = max(counts, key=lambda name: counts[name])
            expected = f"has most of the model's {resource}, of which there may be {limit:,}"
            got, fix = f"{counts[largest]:,} of {total:,}", f"{_suggest_smaller(typed, largest)}, or allow as many"
            rejections.append((largest, Rejection(code="limit", kind="policy", expected=expected, got=got, fix=fix)))
    raise_rejections(typed, rejections)


def reject_memory(
    typed: TypedGraph, usage: Mapping[str, ResourceUsage], free: int | None, node: str
) -> tuple[str, Rejection]:
    """Reject a model that does not fit in memory, at its largest node, or at `node` without `usage`."""
    largest = max(usage, key=lambda name: usage[name].bytes, default=node)
    total = sum(used.bytes for used in usage.values())
    available = "" if free is None else f", with {_format_bytes(free)} free"
    share = f"{_format_bytes(usage[largest].bytes)} of the model's {_format_bytes(total)}" if usage else ""
    return largest, Rejection(
        code="limit",
        expected="needs more memory than there is",
        got=f"{share}{available}" if usage else "no more",
        fix=_suggest_smaller(typed, largest),
    )


def _format_bytes(count: int) -> str:
    """Return `9.4 GB` or `94.4 MB`, in powers of 1000."""
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"


def _suggest_smaller(typed: TypedGraph, name: str) -> str:
    part = next(node.part for node in typed.order if node.name == name)
    return "choose a smaller network" if isinstance(part, Encoder) else "use fewer channels"
