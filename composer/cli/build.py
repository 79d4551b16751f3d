"""`build` and `run`: build a model, print its size, and run it on images."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.cli.inputs import PreparedInput, prepare_inputs
from composer.cli.predictions import MAX_VALUE_MAPS, Prediction, compose_sheet, compute_drawn_size, decode_predictions
from composer.cli.show import summarize_weights
from composer.cli.terminal import (
    UsageError,
    check_writable,
    guard_from_interrupts,
    log,
    print_text,
    read_spec,
    render,
    write_output_file,
)
from composer.errors import make_printable
from composer.graph import Shared
from composer.inference import TypedGraph, infer
from composer.layouts import format_count
from composer.limits import Limits
from composer.parts import Part
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
        from composer.checkpoints import load_weights
        from composer.weights import load

    no_limits = max_parameters is None and max_memory is None
    limits = None if no_limits else Limits(parameters=max_parameters, bytes=max_memory)
    if weights is not None:
        model = build(typed, seed=seed, pretrained=False, limits=limits)
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
    from composer.cli.check import build_outputs_table
    from composer.cli.show import build_weights_table, summarize_nodes

    print_text(render(build_weights_table(summarize_nodes(model)), "", build_outputs_table(model.typed), ""))
    print_text(origin)
    if out is not None:
        from composer.weights import save

        try:
            save(model, out)
        except OSError as error:
            raise UsageError(f"{error}; choose another folder.") from error
        print_text(f"wrote {make_printable(str(save_to))}")


FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def run(
    file: str,
    *,
    images: Sequence[str],
    out: str | None,
    weights: str | None,
    bands: Sequence[str],
    show_bands: Sequence[str],
    **options: Any,
) -> None:
    """Predict on images, and print and draw the predictions; `options` are those of `build_model`.

    Raises UsageError for wrong arguments, before the model is built.
    """
    path = None if out is None else check_writable(out, tuple(FORMATS), _list_input_files(file, images, weights))
    typed = infer(read_spec(file))
    if weights is not None and not _is_file(weights):
        raise UsageError(f"--weights: {weights} is not a file; give a checkpoint of this model.")
    _check_outputs(file, typed, out)
    inputs, size = prepare_inputs(typed, images, bands, show_bands)
    log("building the model …")
    model, origin = build_model(typed, file, weights=weights, **options)
    log("running it …")
    predictions = _predict(model, inputs)
    for image in inputs:
        height, width = image.picture.shape[:2]
        remarks = "; ".join(image.remarks)
        print_text(f"{image.name}: {make_printable(image.file)}, {height} high, {width} wide; {remarks}")
    print_text(origin)
    for prediction in predictions:
        print_text(str(prediction))
    if path is not None:
        sheet = compose_sheet([(image.name, image.picture) for image in inputs], predictions, compute_drawn_size(*size))
        picture = BytesIO()
        sheet.save(picture, FORMATS[path.suffix.lower()], quality=95, subsampling=0)
        write_output_file(path, lambda partial: partial.write_bytes(picture.getvalue()))
        print_text(f"wrote {make_printable(str(out))}")


def _list_input_files(spec: str, images: Sequence[str], weights: str | None) -> list[tuple[str, str]]:
    """List (kind, file) of all files that are read. An image may be NAME=FILE, and a file may be called `a=b`."""
    files = [file for text in images for file in (text, text.partition("=")[2]) if file]
    checkpoint = [] if weights is None else [("file of weights", weights)]
    return [("spec", spec), *(("image", file) for file in files), *checkpoint]


def _is_file(file: str) -> bool:
    try:
        return Path(file).is_file()
    except OSError:  # a name that is too long
        return False


def _check_outputs(file: str, typed: TypedGraph, out: str | None) -> None:
    for end in typed.ends:
        if end in typed.embeddings:
            raise UsageError(
                f"{file}: {end} is an embedding, which cannot be drawn; in Python, "
                f"composer.build(composer.read({file!r}))(image) returns it."
            )
    maps = [end for end in typed.ends if typed.features[end][0].stride is not None]
    if out is None and maps:
        raise UsageError(f"-o: {maps[0]} is a map; say where to draw it, such as -o out.png.")


def _predict(model: Model, inputs: Sequence[PreparedInput]) -> list[Prediction]:
    """Run the model; return the predictions of its outputs, then those of its auxiliary outputs."""
    import torch

    images = {image.name: torch.from_numpy(image.values)[None] for image in inputs}
    try:
        with torch.inference_mode():
            # Images are float32, and the weights of a file may have another type.
            result = model.float().eval()(images)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise UsageError("--image: out of memory for an image of this size; crop it.") from error
        raise
    graph = model.graph
    tensors = {graph.outputs[0]: result.output} if len(graph.outputs) == 1 else dict(result.output)
    tensors |= {node: result.auxiliary_heads[label] for label, node in graph.auxiliary if node not in tensors}
    predictions: list[Prediction] = []
    for name, tensor in tensors.items():
        decoded = decode_predictions(name, _find_part(model.typed, name), tensor[0].float().numpy())
        if len(decoded) > MAX_VALUE_MAPS:
            log(f"{name} has {len(decoded)} values; the first {MAX_VALUE_MAPS} are shown.")
        predictions += decoded[:MAX_VALUE_MAPS]
    return predictions


def _find_part(typed: TypedGraph, name: str) -> Part:
    parts = {node.name: node.part for node in typed.order}
    part = parts[name]
    owner = parts[part.node] if isinstance(part, Shared) else part
    assert isinstance(owner, Part)
    return owner
