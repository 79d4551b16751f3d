"""Build a typed graph into a torch module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import index
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from composer.encoder_info import import_adapter
from composer.errors import SpecError
from composer.graph import Graph, Node, Shared
from composer.inference import Describe, TypedGraph, build_rejection_problem, infer
from composer.layouts import Features
from composer.limits import Limits, get_free_memory
from composer.model import Model
from composer.modules.base import SeededGenerator, module, use_default_device
from composer.modules.encoders import use_eval_mode
from composer.parts import Custom, EncoderInfo, Part, ProbedEncoder
from composer.parts.rules import Rejection, RejectionError, compute_implied_sizes, drop_frames
from composer.resources import (
    AllocationLimitError,
    ResourceUsage,
    build_out_of_memory_problem,
    count_resources,
    find_limit_problems,
    limit_bytes,
)
from composer.sizes import SizeConstraint, intersect


def verify_encoders(typed: TypedGraph, modules: Mapping[str, nn.Module]) -> None:
    """Run every probed encoder once, in eval mode and without gradients; its state is left as it was.

    Raises SpecError for all encoders whose features differ from what was inferred.
    """
    problems = []
    for node in typed.order:
        if node.name in typed.facts and node.name in modules:
            assert isinstance(node.part, Part)
            refusal = _find_mismatch(modules[node.name], typed.facts[node.name])
            if refusal is not None:
                problems.append(build_rejection_problem(typed.graph, node, node.part, refusal, typed.features))
    if problems:
        raise SpecError(problems)


def _find_mismatch(network: nn.Module, facts: EncoderInfo) -> Rejection | None:
    height, width = find_small_size(facts)
    promised = [feature.shape(1, height, width) for feature in facts.features]
    try:
        given = _measure_output_shapes(network, facts, height, width)
    except Exception as error:  # whatever a changed network raises
        return _reject_mismatch(
            f"take an image of {height} × {width}", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        )
    if given == promised:
        return None
    return _reject_mismatch(
        f"give {_format_shapes(promised)} for an image of {height} × {width}", _format_shapes(given)
    )


def find_small_size(facts: EncoderInfo) -> tuple[int, int]:
    """Return a small image size that an encoder accepts, not square if possible, so that swapped axes show."""
    sizes = intersect(
        [("sizes", facts.sizes), *(("features", compute_implied_sizes(feature)) for feature in facts.features)]
    )
    assert isinstance(sizes, SizeConstraint), "facts that no image size meets"
    least = sizes.compute_padded_size(1, 1)
    assert least is not None
    return sizes.compute_padded_size(least[0], 2 * least[1]) or least


def _measure_output_shapes(network: nn.Module, facts: EncoderInfo, height: int, width: int) -> list[tuple[int, ...]]:
    like = next(network.parameters(), torch.empty(0))
    frames = [] if facts.frames is None else [facts.frames]

    def create_image(channels: int) -> Tensor:
        return torch.zeros(1, channels, *frames, height, width, dtype=like.dtype, device=like.device)

    images = (
        {name: create_image(channels) for name, channels in facts.inputs}
        if facts.inputs
        else create_image(facts.channels)
    )
    with torch.no_grad(), SeededGenerator(), use_eval_mode(network):
        out = network(images)
    return [tuple(x.shape) for x in ([out] if isinstance(out, Tensor) else out)]


def _format_shapes(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(" × ".join(map(str, shape)) for shape in shapes)


def _reject_mismatch(expected: str, got: str) -> Rejection:
    return Rejection(
        code="features",
        kind="wrong_output",
        expected=f"must {expected}, by what is known of it",
        got=got,
        fix="install the version of its library that its facts are of, or hand in its facts with describe=",
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
    told = pretrained and device == "cpu"
    modules = build_modules(typed, seed=seed, pretrained=told, device=device, limits=limits)
    if verify:
        verify_encoders(typed, modules)
    return Model(typed, modules)


def build_modules(
    typed: TypedGraph, *, seed: int = 0, pretrained: bool = True, device: Device = "cpu", limits: Limits | None = None
) -> dict[str, nn.Module]:
    """Build the modules of a typed graph, by node. Arguments and errors are those of `build`."""
    _check_options(seed, device, limits)
    # First, so that numbers drawn during an import do not come from the seeded generator.
    _load_adapters(typed)
    if limits is not None:
        _check_limits(typed, _estimate_resources(typed), limits)
    free = get_free_memory()
    if limits is None and device == "cpu" and any(getattr(node.part, "options", ()) for node in typed.order):
        # Options may make a constructor allocate memory before it creates a tensor.
        with _translate_memory_errors(typed, typed.order[0], free):
            _check_free_memory(typed, free)
    with (
        SeededGenerator(index(seed)),
        use_default_device(device),
        limit_bytes(free, lambda: _check_free_memory(typed, free)),
    ):
        made = {}
        for node in _list_owner_nodes(typed):
            with _translate_memory_errors(typed, node, free):
                made[node.name] = _build_module(typed, node, pretrained=pretrained)
    if limits is not None:
        # Once more, for modules that the meta device cannot make, and for weights that were loaded.
        _check_limits(typed, count_resources(made), limits)
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


def _list_owner_nodes(typed: TypedGraph) -> list[Node]:
    """Return the nodes that have their own module."""
    return [node for node in typed.order if not isinstance(node.part, Shared)]


def _check_limits(typed: TypedGraph, weights: Mapping[str, ResourceUsage], limits: Limits) -> None:
    problems = find_limit_problems(typed, weights, limits)
    if problems:
        raise SpecError(problems)


def _check_free_memory(typed: TypedGraph, free: int | None) -> None:
    """Raise AllocationLimitError if the whole model needs more bytes than are free."""
    if free is not None and sum(weight.bytes for weight in _estimate_resources(typed).values()) > free:
        raise AllocationLimitError


def _estimate_resources(typed: TypedGraph) -> dict[str, ResourceUsage]:
    """Count the parameters and bytes of each node, as far as the meta device can make its module."""
    made = {}
    with SeededGenerator(), use_default_device("meta"):
        for node in _list_owner_nodes(typed):
            try:
                # A custom module exists already.
                made[node.name] = (
                    node.part.module if isinstance(node.part, Custom) else _build_module(typed, node, pretrained=False)
                )
            except Exception:  # noqa: S112, a constructor that reads values, which the meta device does not have
                continue
    return count_resources({name: held for name, held in made.items() if isinstance(held, nn.Module)})


def _load_adapters(typed: TypedGraph) -> None:
    """Import the libraries of foreign parts. Raises SpecError for all that cannot be imported."""
    problems = []
    for node in typed.order:
        part = node.part
        if isinstance(part, Shared) or part.source is None:
            continue
        refusal = import_adapter(part.source)
        if refusal is not None:
            problems.append(build_rejection_problem(typed.graph, node, part, refusal, typed.features))
    if problems:
        raise SpecError(problems)


def _build_module(typed: TypedGraph, node: Node, *, pretrained: bool) -> nn.Module:
    """Build the module of a node for the features of its inputs."""
    part = node.part
    assert not isinstance(part, Shared)
    inputs = [_get_input_features(typed, node, source) for source in node.positional]
    named: dict[str, Any] = {name: _get_input_features(typed, node, source) for name, source in node.named}
    if module.dispatch(type(part)) is module.dispatch(object):
        raise SpecError(
            [build_rejection_problem(typed.graph, node, part, _reject_unregistered_part(part), typed.features)]
        )
    if isinstance(part, ProbedEncoder):
        named |= {"facts": typed.facts[node.name], "pretrained": pretrained}
    try:
        built: nn.Module = module(part, *inputs, **named)
        return built
    except RejectionError as refused:
        raise SpecError(
            [build_rejection_problem(typed.graph, node, part, refused.refusal, typed.features)]
        ) from refused
    except Exception as error:
        error.add_note(f"while building {node.name}")
        raise


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
        if not _is_memory_error(error):
            raise
        raise SpecError([build_out_of_memory_problem(typed, _estimate_resources(typed), free, node.name)]) from error


def _is_memory_error(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
