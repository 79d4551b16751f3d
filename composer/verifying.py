"""Holding a built encoder to its facts: one small image, run once. B batch, C channels, T frames, H and W pixels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from composer.contracts.rules import Rejection, compute_implied_sizes
from composer.modules.custom import use_eval_mode
from composer.modules.generators import SeededGenerator
from composer.parts import EncoderInfo, Part
from composer.problem import SpecError
from composer.refused import build_rejection_problem
from composer.sizes import SizeConstraint, intersect
from composer.typed import TypedGraph


def verify_encoders(typed: TypedGraph, modules: Mapping[str, nn.Module]) -> None:
    """Run every encoder that facts are known of, in eval mode and without gradients; it is left as it was.

    Raises SpecError for all that give something else than their facts say.
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
    except Exception as error:  # whatever a network raises that is not as it was
        return _reject_mismatch(
            f"take an image of {height} × {width}", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        )
    if given == promised:
        return None
    return _reject_mismatch(
        f"give {_format_shapes(promised)} for an image of {height} × {width}", _format_shapes(given)
    )


def find_small_size(facts: EncoderInfo) -> tuple[int, int]:
    """A small size that an encoder takes; where it may be so, not square, to tell rows from columns."""
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
        code="facts",
        kind="wrong_output",
        expected=f"must {expected}, by what is known of it",
        got=got,
        repair="install the version of its library that its facts are of, or hand in its facts with describe=",
    )
