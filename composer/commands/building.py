"""`build FILE`: the model, what it weighs and what it gives; with `--save`, its weights in a file."""

from __future__ import annotations

from composer.commands.interrupts import interrupts_held
from composer.commands.outfile import check_writable
from composer.commands.terminal import UsageError, graph_in, note, rendered, say
from composer.limits import Limits
from composer.problem import shown


def build_spec(file: str, *, save_to: str | None, seed: int, pretrained: bool, limits: Limits | None) -> None:
    """Build the model of a spec, and say what it comes to. Raises UsageError where `save_to` cannot be written."""
    out = None if save_to is None else check_writable(save_to, (".safetensors",), [("spec", file)])
    graph = graph_in(file)
    note("building the model …")
    with interrupts_held():
        from composer import build
    from composer.commands.shapes import outputs_table
    from composer.commands.weighing import provenance, weigh, weights_table

    model = build(graph, seed=seed, pretrained=pretrained, limits=limits)
    say(rendered(weights_table(weigh(model)), "", outputs_table(model.typed), ""))
    say(provenance(model, seed, pretrained=pretrained))
    if out is not None:
        from composer import save

        try:
            save(model, out)
        except OSError as error:
            raise UsageError(f"{error}; choose another folder.") from error
        say(f"wrote {shown(str(save_to))}")
