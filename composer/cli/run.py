"""`run`: run a model on images, and print and draw its predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, isqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from composer.adapters.mmseg.parts import Mmseg
from composer.cli.images import Array, PreparedInput, prepare_inputs
from composer.cli.show import build_model
from composer.cli.terminal import UsageError, check_file, check_writable, log, print_text, read_spec, write_output
from composer.errors import make_printable
from composer.graph import Shared
from composer.inference import TypedGraph, infer
from composer.layouts import format_count
from composer.parts import ASPPRegressionHead, Part, RegressionHead, ScalarHead

if TYPE_CHECKING:
    from composer.model import Model

COLOURS = ListedColormap(
    [colour for name in ("tab10", "Dark2", "Set2", "tab20b", "tab20c") for colour in color_sequences[name]]
)
"""The colours of the classes, in turn: first those that differ most."""

MAX_PRINTED, MAX_DRAWN = 5, 10
"""Classes and numbers of one prediction that are printed and drawn."""

PANEL_WIDTH = 6
"""The width of a picture in inches, with its legend."""

MAX_ASPECT = 20
"""The longer side of an image that is drawn with square pixels, in shorter sides."""


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
    path = None if out is None else check_writable(out, (".png",), _iter_input_files(file, images, weights))
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
        sheet = draw_sheet(inputs, predictions)
        write_output(out, path, lambda partial: sheet.savefig(partial, bbox_inches="tight"))
        print_text(f"wrote {make_printable(out)}")


def _iter_input_files(spec: str, images: Sequence[str], weights: str | None) -> Iterator[tuple[str, str]]:
    """Yield (kind, file) of all files that are read. An image may be NAME=FILE, and a file may be called `a=b`."""
    yield "spec", spec
    yield from (("image", file) for text in images for file in (text, text.partition("=")[2]) if file)
    if weights is not None:
        yield "file of weights", weights


def _check_outputs(file: str, typed: TypedGraph, out: str | None) -> None:
    for end in typed.ends:
        if end in typed.embeddings:
            raise UsageError(
                f"{file}: {end} is an embedding, which cannot be drawn; in Python, "
                f"composer.build(composer.read({file!r}))(image) returns it."
            )
        if out is None and typed.features[end][0].stride is not None:
            raise UsageError(f"-o: {end} is a map; say where to draw it, such as -o out.png.")


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
    parts = {node.name: node.part for node in graph.nodes}
    predictions: list[Prediction] = []
    for name, tensor in tensors.items():
        part = parts[name]
        owner = parts[part.node] if isinstance(part, Shared) else part
        assert isinstance(owner, Part)
        decoded = decode_predictions(name, owner, tensor[0].float().numpy())
        if len(decoded) > MAX_DRAWN:
            log(f"{name} has {len(decoded)} values for each pixel; the first {MAX_DRAWN} are shown.")
        predictions += decoded[:MAX_DRAWN]
    return predictions


def decode_predictions(name: str, part: Part, output: Array) -> list[Prediction]:
    """Decode the output of node `name`: (channels,) or (channels, height, width), without the batch.

    Vectors of heads are scores of classes, except those of a ScalarHead. Maps of regression heads are values, and so is
    the single map of a part without a head or of mmseg (its way to do regression). Other maps are scores of classes; a
    single one is the score of class 1 against class 0. Sigmoid and Softmax have made probabilities of them.
    """
    final_act = getattr(part, "final_act", None)
    other = 1 - output if final_act == "Sigmoid" else np.zeros_like(output)
    scores = np.concatenate([other, output]) if len(output) == 1 else output
    if output.ndim == 1:
        if not part.includes_head or isinstance(part, ScalarHead):
            return [Prediction(name, output)]
        if final_act in ("Sigmoid", "Softmax"):
            return [Prediction(name, scores, len(scores))]
        powers = np.exp(scores - scores.max(), dtype=np.float64)
        return [Prediction(name, powers / powers.sum(), len(scores))]
    is_single_value = len(output) == 1 and (not part.includes_head or isinstance(part, Mmseg))
    if isinstance(part, RegressionHead | ASPPRegressionHead) or is_single_value:
        names = [name] if len(output) == 1 else [f"{name}[{index}]" for index in range(len(output))]
        return [Prediction(*pair) for pair in zip(names, output, strict=True)]
    return [Prediction(name, scores.argmax(axis=0), len(scores))]


@frozen(eq=False)
class Prediction:
    """The answer of a model for each pixel (height, width) or of the whole image (count,).

    `values` are numbers; of `classes`, they are the index for each pixel, or the probabilities for the whole image.
    """

    name: str
    values: Array
    classes: int | None = None

    def __str__(self) -> str:
        """`head: 3 of 10 classes: class 2 61.0%, …`, `height: 0.2 to 31.5, mean 12.7` or `biomass: [0] 31.5, …`."""
        is_map = self.values.ndim == 2
        if is_map and self.classes is None:
            return f"{self.name}: {self._format_range()}"
        texts = [text for _, _, text in self.rank()]
        more = [f"and {len(texts) - MAX_PRINTED} more"] if len(texts) > MAX_PRINTED else []
        count = f"{len(texts)} of {format_count(self.classes or 0, 'class', 'classes')}: " if is_map else ""
        return f"{self.name}: {count}{', '.join([*texts[:MAX_PRINTED], *more])}"

    def rank(self) -> list[tuple[int, float, str]]:
        """Return the index, share or probability, and text of each class, largest first; or each number as it is."""
        if self.classes is None:
            return [(index, number, f"[{index}] {number:.4g}") for index, number in enumerate(self.values.tolist())]
        shares = self.values if self.values.ndim == 1 else np.bincount(self.values.ravel()) / self.values.size
        order = np.argsort(-shares, kind="stable").tolist()
        return [(index, shares[index], f"class {index} {shares[index]:.1%}") for index in order if shares[index]]

    def _format_range(self) -> str:
        finite = self.values[np.isfinite(self.values)].astype(np.float64)
        others = self.values.size - finite.size
        texts = [f"{finite.min():.4g} to {finite.max():.4g}, mean {finite.mean():.4g}"] if finite.size else []
        texts += [f"{format_count(others, 'pixel')} not finite"] if others else []
        return ", ".join(texts)

    def draw(self, axes: Axes) -> None:
        """Draw classes with a legend of the largest, numbers with a colour bar, and those of the image as bars."""
        if self.values.ndim == 2 and self.classes is None:
            image = _draw_map(axes, np.ma.masked_invalid(self.values))
            axes.figure.colorbar(image, ax=axes, shrink=0.8)
        elif self.values.ndim == 2:
            _draw_map(axes, self.values % COLOURS.N, cmap=COLOURS, vmin=0, vmax=COLOURS.N - 1, interpolation="nearest")
            ranked = self.rank()
            handles = [Patch(color=COLOURS(index % COLOURS.N), label=text) for index, _, text in ranked[:MAX_DRAWN]]
            title = f"{MAX_DRAWN} of {len(ranked)} classes" if len(ranked) > MAX_DRAWN else None
            axes.legend(handles=handles, title=title, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        else:
            _, numbers, texts = zip(*self.rank()[:MAX_DRAWN], strict=True)
            axes.barh(texts, np.nan_to_num(numbers, posinf=0, neginf=0))
            axes.invert_yaxis()


def draw_sheet(inputs: Sequence[PreparedInput], predictions: Sequence[Prediction]) -> Figure:
    """Draw inputs and predictions side by side: up to three in a row, more in a grid."""
    count = len(inputs) + len(predictions)
    columns = count if count <= 3 else isqrt(count - 1) + 1
    rows = ceil(count / columns)
    height, width = inputs[0].picture.shape[:2]
    panel_height = min(max(height / width, 0.5), 2) * PANEL_WIDTH
    figure = Figure(figsize=(columns * PANEL_WIDTH, rows * panel_height), layout="compressed")
    all_axes = [figure.add_subplot(rows, columns, number) for number in range(1, count + 1)]
    for axes, image in zip(all_axes, inputs, strict=False):
        axes.set_title(image.name)
        _draw_map(axes, image.picture)
    for axes, prediction in zip(all_axes[len(inputs) :], predictions, strict=True):
        axes.set_title(prediction.name)
        prediction.draw(axes)
    return figure


def _draw_map(axes: Axes, values: Array, **options: Any) -> Any:
    """Draw an image without its ticks; one that is too narrow to be seen is stretched."""
    shorter, longer = sorted(values.shape[:2])
    axes.set_axis_off()
    return axes.imshow(values, aspect="auto" if longer > MAX_ASPECT * shorter else "equal", **options)
