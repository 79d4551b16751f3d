"""What a model weighs node by node, and what is said of one that is too heavy."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen
from torch import nn

from composer.contracts.rules import Rejection
from composer.graph import Node
from composer.limits import Limits
from composer.parts import Encoder, Part
from composer.problem import Problem
from composer.refused import build_rejection_problem
from composer.typed import TypedGraph


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
