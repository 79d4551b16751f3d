"""`run`: run a model on images, and draw its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from composer.cli.build import build_model
from composer.cli.inputs import PreparedInput, prepare_inputs
from composer.cli.pictures import InputImage, Prediction, decode_predictions, draw_sheet
from composer.cli.terminal import UsageError, check_file, check_writable, log, print_text, read_spec, write_output
from composer.errors import make_printable
from composer.graph import Shared
from composer.inference import TypedGraph, infer
from composer.parts import Part

if TYPE_CHECKING:
    from composer.model import Model

MAX_VALUE_MAPS = 4
"""Maps of values that are shown of one output; a message names the number of all."""


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
    path = None if out is None else check_writable(out, (".png",), _list_input_files(file, images, weights))
    typed = infer(read_spec(file))
    if weights is not None:
        check_file(weights)
    _check_outputs(file, typed, out)
    inputs = prepare_inputs(typed, images, bands, show_bands)
    log("building the model …")
    model, origin = build_model(typed, file, weights=weights, **options)
    log("running it …")
    predictions = _predict(model, inputs)
    print_text("\n".join([*(make_printable(str(image)) for image in inputs), origin, *map(str, predictions)]))
    if out is not None and path is not None:
        panels = [InputImage(image.name, image.picture) for image in inputs]
        sheet = draw_sheet([*panels, *predictions], *inputs[0].picture.shape[:2])
        write_output(out, path, lambda partial: sheet.savefig(partial, bbox_inches="tight"))
        print_text(f"wrote {make_printable(out)}")


def _list_input_files(spec: str, images: Sequence[str], weights: str | None) -> list[tuple[str, str]]:
    """List (kind, file) of all files that are read. An image may be NAME=FILE, and a file may be called `a=b`."""
    files = [file for text in images for file in (text, text.partition("=")[2]) if file]
    checkpoint = [] if weights is None else [("file of weights", weights)]
    return [("spec", spec), *(("image", file) for file in files), *checkpoint]


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
