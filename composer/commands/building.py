"""`build FILE`: the model, what it weighs and what it gives; with `--save`, its weights in a file."""

from __future__ import annotations

from composer.commands.models import build_model
from composer.commands.outfile import check_writable
from composer.commands.terminal import UsageError, log, print_text, read_spec, render
from composer.inference import infer
from composer.limits import Limits
from composer.problem import make_printable


def build_spec(file: str, *, save_to: str | None, seed: int, pretrained: bool, limits: Limits | None) -> None:
    """Build the model of a spec, and say what it comes to. Raises UsageError where `save_to` cannot be written."""
    out = None if save_to is None else check_writable(save_to, (".safetensors",), [("spec", file)])
    # Before torch is loaded, which takes seconds.
    typed = infer(read_spec(file))
    log("building the model …")
    model, origin = build_model(typed, file, seed=seed, pretrained=pretrained, limits=limits)
    from composer.commands.shapes import build_outputs_table
    from composer.commands.weighing import build_weights_table, summarize_nodes

    print_text(render(build_weights_table(summarize_nodes(model)), "", build_outputs_table(model.typed), ""))
    print_text(origin)
    if out is not None:
        from composer import save

        try:
            save(model, out)
        except OSError as error:
            raise UsageError(f"{error}; choose another folder.") from error
        print_text(f"wrote {make_printable(str(save_to))}")
