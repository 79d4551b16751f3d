"""Holding a built encoder to its facts: one small image, run once. B batch, C channels, T frames, H and W pixels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from composer.contracts.rules import Refusal, needed
from composer.modules.custom import in_eval_mode
from composer.modules.generators import OwnGenerator
from composer.parts import Facts, Part
from composer.problem import SpecError
from composer.refused import problem_of
from composer.sizes import Sizes, intersect
from composer.typed import Typed


def hold_to_facts(typed: Typed, modules: Mapping[str, nn.Module]) -> None:
    """Run every encoder that facts are known of, in eval mode and without gradients; it is left as it was.

    Raises SpecError for all that give something else than their facts say.
    """
    problems = []
    for node in typed.order:
        if node.name in typed.facts and node.name in modules:
            assert isinstance(node.part, Part)
            refusal = _untrue(modules[node.name], typed.facts[node.name])
            if refusal is not None:
                problems.append(problem_of(typed.graph, node, node.part, refusal, typed.features))
    if problems:
        raise SpecError(problems)


def _untrue(network: nn.Module, facts: Facts) -> Refusal | None:
    height, width = small_size(facts)
    promised = [feature.shape(1, height, width) for feature in facts.features]
    try:
        given = _shapes(network, facts, height, width)
    except Exception as error:  # whatever a network raises that is not as it was
        return _refusal(
            f"take an image of {height} × {width}", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        )
    if given == promised:
        return None
    return _refusal(f"give {_listed(promised)} for an image of {height} × {width}", _listed(given))


def small_size(facts: Facts) -> tuple[int, int]:
    """A small size that an encoder takes; where it may be so, not square, to tell rows from columns."""
    sizes = intersect([("sizes", facts.sizes), *(("features", needed(feature)) for feature in facts.features)])
    assert isinstance(sizes, Sizes), "facts that no image size meets"
    least = sizes.nearest(1, 1)
    assert least is not None
    return sizes.nearest(least[0], 2 * least[1]) or least


def _shapes(network: nn.Module, facts: Facts, height: int, width: int) -> list[tuple[int, ...]]:
    like = next(network.parameters(), torch.empty(0))
    frames = [] if facts.frames is None else [facts.frames]

    def image(channels: int) -> Tensor:
        return torch.zeros(1, channels, *frames, height, width, dtype=like.dtype, device=like.device)

    images = {name: image(channels) for name, channels in facts.inputs} if facts.inputs else image(facts.channels)
    with torch.no_grad(), OwnGenerator(), in_eval_mode(network):
        out = network(images)
    return [tuple(x.shape) for x in ([out] if isinstance(out, Tensor) else out)]


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(" × ".join(map(str, shape)) for shape in shapes)


def _refusal(expected: str, got: str) -> Refusal:
    return Refusal(
        code="facts",
        kind="lies",
        expected=f"must {expected}, by what is known of it",
        got=got,
        repair="install the version of its library that its facts are of, or hand in its facts with describe=",
    )
