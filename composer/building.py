"""Build a typed graph into a torch module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import index
from typing import Any, Literal, get_args

from torch import nn

from composer.encoder_info import import_adapter
from composer.graph import Graph, Node, Shared
from composer.inference import Describe, TypedGraph, infer
from composer.layouts import Features
from composer.limits import Limits, get_free_memory
from composer.model import Model
from composer.modules.base import SeededGenerator, module, use_default_device
from composer.modules.encoders import find_mismatch
from composer.parts import Custom, EncoderInfo, Part, ProbedEncoder
from composer.parts.rules import Rejection, RejectionError, drop_frames
from composer.resources import (
    AllocationLimitError,
    ResourceUsage,
    count_resources,
    limit_bytes,
    raise_rejections,
    reject_memory,
    require_limits,
)

Device = Literal["cpu", "meta"]


def build(
    graph: Graph | TypedGraph,
    *,
    seed: int = 0,
    pretrained: bool = True,
    verify: bool = False,
    device: Device = "cpu",
    describe: Describe | Mapping[Any, EncoderInfo] | None = None,
    limits: Limits | None = None,
) -> Model:
    """Build a graph into a torch module on the CPU, in train mode.

    Equal graphs and seeds give bit-equal weights: a build draws from a generator of its own, and torch's global one is
    neither seeded nor drawn from, except by a constructor that calls `torch.manual_seed` itself. Builds may run in
    threads, inside of each other and after a fork. With `pretrained=False` all weights are random. `verify` runs each
    encoder of another library once on a small image and compares its features with the inferred ones. With
    `device="meta"` the model has shapes but no weights, and takes no memory.

    With `limits` the model is counted on the meta device first, and rejected if it exceeds them. A model that exceeds
    the free memory is rejected too; it is counted as soon as half a gigabyte of it is allocated.

    Raises ValueError for a `seed` outside 0 to 2**63 - 1 and for another `device`, and TypeError for other types.
    Raises SpecError for an invalid graph, one that exceeds the limits or the memory, pretrained weights that cannot be
    loaded, and an encoder whose features differ from the declared or inferred ones.
    """
    typed = graph if isinstance(graph, TypedGraph) else infer(graph, describe)
    weighted = pretrained and device == "cpu"
    modules = build_modules(typed, seed=seed, pretrained=weighted, device=device, limits=limits)
    if verify:
        raise_rejections(typed, _iter_wrong_encoders(typed, modules))
    return Model(typed, modules)


def build_modules(
    typed: TypedGraph, *, seed: int = 0, pretrained: bool = True, device: Device = "cpu", limits: Limits | None = None
) -> dict[str, nn.Module]:
    """Build the modules of a typed graph, by node. Arguments and errors are those of `build`."""
    _check_options(seed, device, limits)
    # First, so that numbers drawn during an import do not come from the seeded generator.
    raise_rejections(typed, _iter_missing_libraries(typed))
    free = get_free_memory()

    def check_free_memory() -> None:
        if free is not None and sum(used.bytes for used in _estimate_resources(typed).values()) > free:
            raise AllocationLimitError

    if limits is not None:
        require_limits(typed, _estimate_resources(typed), limits)
    elif device == "cpu" and any(getattr(node.part, "options", ()) for node in typed.order):
        # Options may make a constructor allocate memory before it creates a tensor.
        with _translate_memory_errors(typed, typed.order[0], free):
            check_free_memory()
    made = {}
    with SeededGenerator(index(seed)), use_default_device(device), limit_bytes(free, check_free_memory):
        for node in _list_owner_nodes(typed):
            with _translate_memory_errors(typed, node, free):
                made[node.name] = _build_module(typed, node, pretrained=pretrained)
    if limits is not None:
        # Once more, for modules that the meta device cannot make, and for weights that were loaded.
        require_limits(typed, count_resources(made), limits)
    return made


def _check_options(seed: object, device: object, limits: object) -> None:
    if not _is_seed(seed):
        raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1 (got {seed!r})")
    if device not in get_args(Device):
        raise ValueError(f"device must be 'cpu' or 'meta' (got {device!r}); a model is moved to others: model.to(…)")
    if limits is not None and not isinstance(limits, Limits):
        raise TypeError(f"limits must be composer.Limits (got {limits!r})")


def _is_seed(value: Any) -> bool:
    """Return True for an integer that torch accepts as a seed; numpy's integers count."""
    try:
        return not isinstance(value, bool) and 0 <= index(value) < 2**63
    except TypeError:
        return False


def _iter_missing_libraries(typed: TypedGraph) -> Iterator[tuple[str, Rejection]]:
    """Import the libraries of foreign parts, and yield a rejection for each node whose library cannot be imported."""
    for node in typed.order:
        source = None if isinstance(node.part, Shared) else node.part.source
        if source is not None and (rejection := import_adapter(source)) is not None:
            yield node.name, rejection


def _iter_wrong_encoders(typed: TypedGraph, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Rejection]]:
    """Run every probed encoder once, and yield a rejection for each whose features differ from the inferred ones."""
    for name, info in typed.encoder_infos.items():
        if name in modules and (mismatch := find_mismatch(modules[name], info)):
            expected, got = f"{mismatch[0]}, as inferred", mismatch[1]
            fix = "install the version of its library that was inferred from, or pass its features with describe="
            yield name, Rejection(code="features", kind="wrong_output", expected=expected, got=got, fix=fix)


def _list_owner_nodes(typed: TypedGraph) -> list[Node]:
    """Return the nodes that have their own module."""
    return [node for node in typed.order if not isinstance(node.part, Shared)]


def _estimate_resources(typed: TypedGraph) -> dict[str, ResourceUsage]:
    """Count the parameters and bytes of each node, as far as the meta device can make its module."""
    made = {}
    with SeededGenerator(), use_default_device("meta"):
        for node in _list_owner_nodes(typed):
            # A constructor may read values, which the meta device does not have. A custom module exists already.
            with suppress(Exception):
                own = node.part.module if isinstance(node.part, Custom) else None
                made[node.name] = own or _build_module(typed, node, pretrained=False)
    return count_resources({name: held for name, held in made.items() if isinstance(held, nn.Module)})


def _build_module(typed: TypedGraph, node: Node, *, pretrained: bool) -> nn.Module:
    """Build the module of a node for the features of its inputs."""
    part = node.part
    assert not isinstance(part, Shared)
    inputs = [_get_input_features(typed, node, source) for source in node.positional]
    named: dict[str, Any] = {name: _get_input_features(typed, node, source) for name, source in node.named}
    if isinstance(part, ProbedEncoder):
        named |= {"info": typed.encoder_infos[node.name], "pretrained": pretrained}
    if module.dispatch(type(part)) is module.dispatch(object):
        raise_rejections(typed, [(node.name, _reject_unregistered_part(part))])
    try:
        built: nn.Module = module(part, *inputs, **named)
    except RejectionError as error:
        raise_rejections(typed, [(node.name, error.rejection)])
        raise
    except Exception as error:
        error.add_note(f"while building {node.name}")
        raise
    return built


def _get_input_features(typed: TypedGraph, node: Node, source: str) -> Features:
    """Return the features that a node's module gets from a source: those of one frame if it runs on each."""
    features = typed.features[source]
    return tuple(map(drop_frames, features)) if node.name in typed.per_frame else features


def _reject_unregistered_part(part: Part) -> Rejection:
    fix = f"register one: @composer.module.register({type(part).__name__})"
    return Rejection(code="part", kind="raises", expected="has no module", got="a class not registered", fix=fix)


@contextmanager
def _translate_memory_errors(typed: TypedGraph, node: Node, free: int | None) -> Iterator[None]:
    """Turn out-of-memory errors into a SpecError at the node that needs most memory."""
    try:
        yield
    except Exception as error:
        if not (isinstance(error, MemoryError) or "allocate memory" in str(error)):
            raise
        raise_rejections(typed, [reject_memory(typed, _estimate_resources(typed), free, node.name)])
