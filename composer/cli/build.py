"""`build`: build a model, and print its size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from composer.cli.show import build_summary_table, build_weights_table, summarize_weights
from composer.cli.terminal import (
    UsageError,
    check_writable,
    guard_from_interrupts,
    log,
    print_text,
    read_spec,
    render,
)
from composer.errors import make_printable
from composer.inference import TypedGraph, infer
from composer.layouts import format_count
from composer.limits import Limits
from composer.spec.reader import is_weights_file

if TYPE_CHECKING:
    from composer.model import Model


def build_model(
    typed: TypedGraph,
    file: str,
    *,
    weights: str | None = None,
    seed: int = 0,
    pretrained: bool = True,
    max_parameters: int | None = None,
    max_memory: int | None = None,
) -> tuple[Model, str]:
    """Build the model whose spec is in `file`; return it with a line that says where its weights come from.

    The weights are those of the file `weights`, of `file` itself where composer.save wrote it, or as the spec and
    `seed` say. `max_memory` is in bytes.
    """
    with guard_from_interrupts():
        from composer.building import build
        from composer.tensors.matching import list_names
        from composer.weights import load, load_weights

    no_limits = max_parameters is None and max_memory is None
    limits = None if no_limits else Limits(parameters=max_parameters, bytes=max_memory)
    if weights is not None:
        model = build(typed, seed=seed, pretrained=False, limits=limits)
        report = load_weights(model, weights)
        origin = f"weights: {format_count(len(report.matched), 'tensor')} from {make_printable(weights)}"
        if report.set_aside:
            names = make_printable(list_names([name for name, _ in report.set_aside], 3))
            origin += f"; {len(report.set_aside)} left aside ({names})"
        return model, origin
    if is_weights_file(file):
        model = load(file, limits=limits)
        return model, f"weights: {format_count(len(model.state_dict()), 'tensor')} from {make_printable(file)}"
    model = build(typed, seed=seed, pretrained=pretrained, limits=limits)
    return model, summarize_weights(model, seed, pretrained=pretrained)


def build_spec(file: str, *, save_to: str | None, **options: Any) -> None:
    """Build the model of a spec and print its size; `options` are those of `build_model`.

    Raises UsageError where `save_to` cannot be written.
    """
    out = None if save_to is None else check_writable(save_to, (".safetensors",), [("spec", file)])
    # Invalid specs are reported before torch is imported, which takes seconds.
    typed = infer(read_spec(file))
    log("building the model …")
    model, origin = build_model(typed, file, **options)
    print_text(f"{render(build_weights_table(model), '', build_summary_table(model.typed))}\n\n{origin}")
    if out is not None:
        from composer.weights import save

        try:
            save(model, out)
        except OSError as error:
            raise UsageError(f"{error}; choose another folder.") from error
        print_text(f"wrote {make_printable(str(save_to))}")
