"""A model for a command: built from a spec, with the weights that were asked for, and a line about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from composer.commands.interrupts import guard_from_interrupts
from composer.commands.weighing import summarize_weights
from composer.feature import format_count
from composer.graph import Graph
from composer.limits import Limits
from composer.problem import make_printable
from composer.text.embedded import is_weights_file
from composer.typed import TypedGraph

if TYPE_CHECKING:
    from composer.model import Model


def build_model(
    graph: Graph | TypedGraph,
    file: str,
    *,
    weights: str | None = None,
    seed: int = 0,
    pretrained: bool = True,
    limits: Limits | None = None,
) -> tuple[Model, str]:
    """Build the model whose spec is in `file`, and say in a line where its weights come from.

    That is `weights`, or `file` itself where composer.save wrote it, or what the spec and `seed` say.
    """
    with guard_from_interrupts():
        from composer.building import build
        from composer.checkpoints import load_weights
        from composer.weights import load

    if weights is not None:
        model = build(graph, seed=seed, pretrained=False, limits=limits)
        report = load_weights(model, weights)
        origin = f"weights: {format_count(len(report.matched), 'tensor')} from {make_printable(weights)}"
        if report.set_aside:
            names = ", ".join(make_printable(name) for name, _ in report.set_aside[:3])
            more = ", …" if len(report.set_aside) > 3 else ""
            origin += f"; {len(report.set_aside)} left aside ({names}{more})"
        return model, origin
    if is_weights_file(file):
        model = load(file, limits=limits)
        return model, f"weights: {format_count(len(model.state_dict()), 'tensor')} from {make_printable(file)}"
    model = build(graph, seed=seed, pretrained=pretrained, limits=limits)
    return model, summarize_weights(model, seed, pretrained=pretrained)
