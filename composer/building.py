"""Build a typed graph into a torch module."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
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
from composer.modules.encoders import build_for_bands, find_mismatch, has_repeated_kernels
from composer.parts import Custom, EncoderInfo, ProbedEncoder
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

    Warns where weights of RGB are repeated for an image of more channels without names.

    With `limits` the model is counted on the meta device first, and rejected if it exceeds them. A model that exceeds
    the free memory is rejected too; it is counted as soon as half a gigabyte of it is allocated.

    Raises ValueError for a `seed` outside 0 to 2**63 - 1 and for another `device`, and TypeError for other types.
    Raises SpecError for an invalid graph, one that exceeds the limits or the memory, pretrained weights that cannot be
    loaded, and an encoder whose features differ from the declared or inferred ones.
    """
    typed = graph if isinstance(graph, TypedGraph) else infer(graph, describe)
    modules = build_modules(typed, seed=seed, pretrained=pretrained, device=device, limits=limits)
    if verify:
        raise_rejections(typed, _iter_wrong_encoders(typed, modules))
    model = Model(typed, modules)
    loaded = model.loaded_weights.keys() & modules.keys() & typed.encoder_infos.keys()
    repeated = [n for n in loaded if has_repeated_kernels(modules[n], typed.encoder_infos[n].channels)]
    for problem in typed.find_bands_warnings(repeated):
        warnings.warn(problem.format("warning"), stacklevel=2)
    return model


def build_modules(
    typed: TypedGraph, *, seed: int = 0, pretrained: bool = True, device: Device = "cpu", limits: Limits | None = None
) -> dict[str, nn.Module]:
    """Build the modules of a typed graph, by node. Arguments and errors are those of `build`."""
    _check_options(seed, device, limits)
    # First, so that numbers drawn during an import do not come from the seeded generator.
    raise_rejections(typed, _iter_missing_libraries(typed))
    owners = [node for node in typed.order if not isinstance(node.part, Shared)]
    free = get_free_memory()

    @cache
    def count() -> dict[str, ResourceUsage]:
        return _count_on_meta(typed, owners)

    def check_free_memory() -> None:
        if free is not None and sum(used.bytes for used in count().values()) > free:
            raise AllocationLimitError

    if limits is not None:
        require_limits(typed, count(), limits)
    made: dict[str, nn.Module] = {}
    node = owners[0]
    try:
        if device == "cpu" and any(getattr(node.part, "options", ()) for node in owners):
            # Options may make a constructor allocate memory before it creates a tensor.
            check_free_memory()
        with SeededGenerator(index(seed)), use_default_device(device), limit_bytes(free, check_free_memory):
            for node in owners:
                made[node.name] = _build_module(typed, node, pretrained=pretrained and device == "cpu")
    except Exception as error:
        if not (isinstance(error, MemoryError) or "allocate memory" in str(error)):
            raise
        raise_rejections(typed, [reject_memory(typed, count(), free, node.name)])
    if limits is not None:
        # Once more, for modules that the meta device cannot make, and for weights that were loaded.
        require_limits(typed, count_resources(made), limits)
    return made


def _check_options(seed: Any, device: object, limits: object) -> None:
    try:
        # numpy's integers count.
        is_seed = not isinstance(seed, bool) and 0 <= index(seed) < 2**63
    except TypeError:
        is_seed = False
    if not is_seed:
        raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1 (got {seed!r})")
    if device not in get_args(Device):
        raise ValueError(f"device must be 'cpu' or 'meta' (got {device!r}); a model is moved to others: model.to(…)")
    if limits is not None and not isinstance(limits, Limits):
        raise TypeError(f"limits must be composer.Limits (got {limits!r})")


def _iter_missing_libraries(typed: TypedGraph) -> Iterator[tuple[str, Rejection]]:
    """Import the libraries of foreign parts, and yield a rejection for each node whose library cannot be imported."""
    for node in typed.order:
        source = None if isinstance(node.part, Shared) else node.part.source
        if source is not None and (rejection := import_adapter(source)) is not None:
            yield node.name, rejection


def _count_on_meta(typed: TypedGraph, owners: list[Node]) -> dict[str, ResourceUsage]:
    """Count the parameters and bytes of each node, as far as the meta device can make its module."""
    made: dict[str, nn.Module] = {}
    with SeededGenerator(), use_default_device("meta"):
        for node in owners:
            # A constructor may read values, which the meta device does not have. A custom module exists already.
            with suppress(Exception):
                own = node.part.module if isinstance(node.part, Custom) else None
                made[node.name] = own or _build_module(typed, node, pretrained=False)
    return count_resources({name: network for name, network in made.items() if isinstance(network, nn.Module)})


def _build_module(typed: TypedGraph, node: Node, *, pretrained: bool) -> nn.Module:
    """Build the module of a node for the features of its inputs: those of one frame if it runs on each."""
    part = node.part
    assert not isinstance(part, Shared)
    if module.dispatch(type(part)) is module.dispatch(object):
        fix = f"register one: @composer.module.register({type(part).__name__})"
        expected, got = "has no module", "a class not registered"
        unknown = Rejection(code="part", expected=expected, got=got, fix=fix)
        raise_rejections(typed, [(node.name, unknown)])

    def get_features(source: str) -> Features:
        features = typed.features[source]
        return tuple(map(drop_frames, features)) if node.name in typed.per_frame else features

    images = [get_features(source) for source in node.positional]
    named: dict[str, Any] = {name: get_features(source) for name, source in node.named}
    create: Callable[..., nn.Module] = module
    if isinstance(part, ProbedEncoder):
        info = typed.encoder_infos[node.name]
        named |= {"info": info, "pretrained": pretrained}
        if info.bands and part.weights_bands and pretrained and part.pretrained:  # type: ignore[attr-defined]
            create = build_for_bands
    try:
        built = create(part, *images, **named)
    except RejectionError as error:
        raise_rejections(typed, [(node.name, error.rejection)])
        raise
    except Exception as error:
        error.add_note(f"while building {node.name}")
        raise
    return built


def _iter_wrong_encoders(typed: TypedGraph, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Rejection]]:
    """Run every probed encoder once, and yield a rejection for each whose features differ from the inferred ones."""
    for name, info in typed.encoder_infos.items():
        if name in modules and (mismatch := find_mismatch(modules[name], info)):
            expected, got = f"{mismatch[0]}, as inferred", mismatch[1]
            fix = "install the version of its library that was inferred from, or pass its features with describe="
            yield name, Rejection(code="features", kind="wrong_output", expected=expected, got=got, fix=fix)
