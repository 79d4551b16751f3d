"""`run`: run a model on images and write what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from composer.cli.build import build_model
from composer.cli.inputs import PreparedInput, prepare_inputs
from composer.cli.pictures import build_input_panel, build_prediction_panel, compose_sheet, compute_drawn_size
from composer.cli.predictions import (
    MAX_VALUE_PANELS,
    ClassProbabilities,
    Prediction,
    decode_predictions,
    format_percent,
)
from composer.cli.terminal import UsageError, check_writable, log, print_text, read_spec, render, write_output_file
from composer.errors import make_printable
from composer.graph import Shared
from composer.limits import Limits
from composer.parts import Part
from composer.typed_graph import TypedGraph

if TYPE_CHECKING:
    from composer.model import Model


FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


@frozen(kw_only=True)
class RunRequest:
    """What is asked of `run`, as the command line has it."""

    file: str
    images: Sequence[str]
    out: str | None = None
    weights: str | None = None
    bands: Sequence[str] = ()
    show_bands: Sequence[str] = ()
    seed: int = 0
    pretrained: bool = True
    limits: Limits | None = None


def run(request: RunRequest) -> None:
    """Predict on images, say what was done and found, and draw it. What can be refused is, before the model runs."""
    import composer

    out = None if request.out is None else check_writable(request.out, tuple(FORMATS), _list_input_files(request))
    typed = composer.infer(read_spec(request.file))
    _check_request(request, typed, out)
    inputs, size = prepare_inputs(typed, request.images, request.bands, request.show_bands)
    log("building the model …")
    model, origin = build_model(
        typed,
        request.file,
        weights=request.weights,
        seed=request.seed,
        pretrained=request.pretrained,
        limits=request.limits,
    )
    log("running it …")
    found = _predict(model, inputs)
    for one in inputs:
        print_text(f"{one.name}: {make_printable(one.file)}, {one.size}; {'; '.join(one.remarks)}")
    print_text(origin)
    for prediction in found:
        print_text(_format_prediction(prediction))
    if out is not None:
        drawn = [build_input_panel(one.name, one.picture, one.size, compute_drawn_size(*size)) for one in inputs]
        drawn += [build_prediction_panel(prediction, compute_drawn_size(*size)) for prediction in found]
        picture = BytesIO()
        compose_sheet(drawn).save(picture, FORMATS[out.suffix.lower()], quality=95, subsampling=0)
        write_output_file(out, lambda partial: partial.write_bytes(picture.getvalue()))
        print_text(f"wrote {make_printable(request.out or str(out))}")


def _list_input_files(request: RunRequest) -> list[tuple[str, str]]:
    """The files that are read, each behind what it is. An image may be `NAME=FILE`, and a file may be called so."""
    images = [file for text in request.images for file in (text, text.partition("=")[2]) if file]
    weights = [] if request.weights is None else [("file of weights", request.weights)]
    return [("spec", request.file), *(("image", file) for file in images), *weights]


def _check_request(request: RunRequest, typed: TypedGraph, out: Path | None) -> None:
    if request.weights is not None and not _is_file(request.weights):
        raise UsageError(f"--weights: {request.weights} is no file; give a checkpoint of this model.")
    for end in typed.ends:
        if end in typed.embeddings:
            raise UsageError(
                f"{request.file}: {end} is an embedding, which no picture shows; in Python, "
                f"composer.build(composer.read({request.file!r}))(image) gives it."
            )
    maps = [end for end in typed.ends if typed.features[end][0].stride is not None]
    if out is None and maps:
        raise UsageError(f"-o: {maps[0]} is a map; say where to draw it, such as -o out.png.")


def _is_file(file: str) -> bool:
    try:
        return Path(file).is_file()
    except OSError:  # a name that is too long
        return False


def _predict(model: Model, inputs: Sequence[PreparedInput]) -> list[Prediction]:
    """What each end of the graph says: the outputs, then the auxiliary ones."""
    import torch

    images = {one.name: torch.from_numpy(one.values)[None] for one in inputs}
    try:
        with torch.inference_mode():
            # Images are in single precision, and weights in a file may be in another.
            out = model.float().eval()(images)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise UsageError("--image: there is not memory enough for an image of this size; crop it.") from error
        raise
    graph = model.graph
    ends = {graph.outputs[0]: out.output} if len(graph.outputs) == 1 else dict(out.output)
    ends |= {node: out.auxiliary_heads[label] for label, node in graph.auxiliary if node not in ends}
    found: list[Prediction] = []
    for name, tensor in ends.items():
        told = decode_predictions(name, _find_part(model.typed, name), tensor[0].float().numpy())
        if len(told) > MAX_VALUE_PANELS:
            log(f"{name} has {len(told)} values; the first {MAX_VALUE_PANELS} are shown.")
        found += told[:MAX_VALUE_PANELS]
    return found


def _find_part(typed: TypedGraph, name: str) -> Part:
    parts = {node.name: node.part for node in typed.order}
    part = parts[name]
    owner = parts[part.node] if isinstance(part, Shared) else part
    assert isinstance(owner, Part)
    return owner


def _format_prediction(prediction: Prediction) -> str:
    if not isinstance(prediction, ClassProbabilities):
        return str(prediction)
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(prediction.name)
    table.add_column("probability", justify="right")
    for index, probability in prediction.best:
        table.add_row(f"class {index}", format_percent(probability))
    return render(table)
