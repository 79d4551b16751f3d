"""`run FILE`: a picture in, a picture out."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from composer.commands.feeding import Fed, feed
from composer.commands.interrupts import interrupts_held
from composer.commands.outfile import check_writable, write_whole
from composer.commands.pictures import drawn_size, input_panel, prediction_panel, sheet
from composer.commands.predictions import MOST_VALUES, Prediction, Scores, percent, predictions
from composer.commands.terminal import UsageError, graph_in, note, rendered, say
from composer.commands.weighing import provenance
from composer.graph import Shared
from composer.limits import Limits
from composer.parts import Part
from composer.problem import shown
from composer.typed import Typed

if TYPE_CHECKING:
    from composer.model import Model

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


@frozen(kw_only=True)
class Request:
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


def run(request: Request) -> None:
    """Predict on images, say what was done and found, and draw it. What can be refused is, before the model runs."""
    import composer

    out = None if request.out is None else check_writable(request.out, tuple(FORMATS), _read_files(request))
    typed = composer.infer(graph_in(request.file))
    _check(request, typed, out)
    inputs, size = feed(typed, request.images, request.bands, request.show_bands)
    note("building the model …")
    model, origin = _built(request, typed)
    note("running it …")
    found = _predicted(model, inputs)
    for one in inputs:
        say(f"{one.name}: {shown(one.file)}, {one.size}; {'; '.join(one.remarks)}")
    say(origin)
    for prediction in found:
        say(_told(prediction))
    if out is not None:
        drawn = [input_panel(one.name, one.picture, one.size, drawn_size(*size)) for one in inputs]
        drawn += [prediction_panel(prediction, drawn_size(*size)) for prediction in found]
        picture = BytesIO()
        sheet(drawn).save(picture, FORMATS[out.suffix.lower()], quality=95, subsampling=0)
        write_whole(out, lambda partial: partial.write_bytes(picture.getvalue()))
        say(f"wrote {shown(request.out or str(out))}")


def _read_files(request: Request) -> list[tuple[str, str]]:
    """The files that are read, each behind what it is. An image may be `NAME=FILE`, and a file may be called so."""
    images = [file for text in request.images for file in (text, text.partition("=")[2]) if file]
    weights = [] if request.weights is None else [("file of weights", request.weights)]
    return [("spec", request.file), *(("image", file) for file in images), *weights]


def _check(request: Request, typed: Typed, out: Path | None) -> None:
    if request.weights is not None and not _is_file(request.weights):
        raise UsageError(f"--weights: {request.weights} is no file; give one that composer.save wrote.")
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


def _built(request: Request, typed: Typed) -> tuple[Model, str]:
    with interrupts_held():
        from composer.building import build
        from composer.weights import restore

    if request.weights is None:
        model = build(typed, seed=request.seed, pretrained=request.pretrained, limits=request.limits)
        return model, provenance(model, request.seed, pretrained=request.pretrained)
    model = build(typed, seed=request.seed, pretrained=False, limits=request.limits)
    restore(model, request.weights)
    return model, f"weights: from {shown(request.weights)}"


def _predicted(model: Model, inputs: Sequence[Fed]) -> list[Prediction]:
    """What each end of the graph says: the outputs, then the auxiliary ones."""
    import torch

    images = {one.name: torch.from_numpy(one.values)[None] for one in inputs}
    try:
        with torch.inference_mode():
            out = model.eval()(images)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise UsageError("--image: there is not memory enough for an image of this size; crop it.") from error
        raise
    graph = model.graph
    ends = {graph.outputs[0]: out.output} if len(graph.outputs) == 1 else dict(out.output)
    ends |= {node: out.auxiliary_heads[label] for label, node in graph.auxiliary if node not in ends}
    found: list[Prediction] = []
    for name, tensor in ends.items():
        told = predictions(name, _part(model.typed, name), tensor[0].float().numpy())
        if len(told) > MOST_VALUES:
            note(f"{name} has {len(told)} values; the first {MOST_VALUES} are shown.")
        found += told[:MOST_VALUES]
    return found


def _part(typed: Typed, name: str) -> Part:
    parts = {node.name: node.part for node in typed.order}
    part = parts[name]
    owner = parts[part.node] if isinstance(part, Shared) else part
    assert isinstance(owner, Part)
    return owner


def _told(prediction: Prediction) -> str:
    if not isinstance(prediction, Scores):
        return str(prediction)
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(prediction.name)
    table.add_column("probability", justify="right")
    for index, probability in prediction.best:
        table.add_row(f"class {index}", percent(probability))
    return rendered(table)
