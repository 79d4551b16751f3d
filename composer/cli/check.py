"""`check`: print the problems of specs, or what they compute."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve, frozen

from composer.cli.terminal import UsageError, log, print_text, read_spec
from composer.errors import Fix, Problem, SpecError, make_printable
from composer.layouts import Feature, Rounding
from composer.typed_graph import Shape, TypedGraph

if TYPE_CHECKING:
    from rich.console import RenderableType


EXAMPLE_SIDE = 224
"""A side of the example image, rounded up to what the graph takes."""


UNALIGNED_SIZE = (225, 300)
"""An example that most graphs have to pad."""


def build_outputs_table(typed: TypedGraph) -> RenderableType:
    """The shape of every output, for an image or two."""
    from rich import box
    from rich.table import Table

    sizes = list(iter_example_sizes(typed))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("output")
    for size in sizes:
        padded = typed.sizes.compute_padded_size(*size)
        assert padded is not None
        inside = f"\npadded to {padded[0]} × {padded[1]}" if padded != size else ""
        table.add_column(f"image of {size[0]} × {size[1]}{inside}")
    labels = {node: f" ({label}, auxiliary)" for label, node in typed.graph.auxiliary}
    for end in dict.fromkeys(typed.ends):
        note = labels.get(end, "") if end not in typed.graph.outputs else ""
        shapes = (to_shapes(typed, end, typed.shape(end, *size)) for size in sizes)
        table.add_row(f"{end}{note}", *("\n".join(map(format_shape, each)) for each in shapes))
    return table


def iter_example_sizes(typed: TypedGraph) -> Iterator[tuple[int, int]]:
    """Sizes to show the outputs' shapes for: one that the graph takes, and where it may be, one that is padded."""
    whole = typed.sizes.compute_padded_size(EXAMPLE_SIDE, EXAMPLE_SIDE) or typed.sizes.compute_padded_size(1, 1)
    assert whole is not None
    yield whole
    if typed.sizes.compute_padded_size(*UNALIGNED_SIZE) is not None:
        yield UNALIGNED_SIZE


def to_shapes(typed: TypedGraph, end: str, shape: Any) -> tuple[Shape, ...]:
    """The shapes of an embedding; a tuple of one, for another output."""
    return shape if end in typed.embeddings else (shape,)


def format_shape(shape: Shape) -> str:
    """`(b, 10, 288, 512)`."""
    return f"({', '.join(map(str, shape))})"


def compute_symbolic_shape(typed: TypedGraph, end: str) -> Shape | tuple[Shape, ...]:
    """The shape of an output for an image of `H` by `W` pixels: `("b", 10, "H", "W")`, or `"ceil(H/4)"` for cells.

    For an embedding a tuple of shapes, `(("b", 64, "H/4", "W/4"), …)`, where `H` and `W` count the padded image.
    """
    if end in typed.embeddings:
        return tuple(map(_compute_embedding_shape, typed.features[end]))
    return _compute_output_shape(typed, *typed.features[end])


def _compute_embedding_shape(feature: Feature) -> Shape:
    symbols: dict[str, str | int] = {"b": "b", "c": feature.channels, "t": feature.frames}
    if feature.stride is not None:
        symbols["h"], symbols["w"] = (_format_cell_count(feature, side, feature.rounding) for side in "HW")
        frames = [str(feature.frames)] if feature.frames > 1 and "t" not in feature.axes else []
        grid = "*".join([*frames, str(symbols["h"]), str(symbols["w"])])
        symbols["n"] = f"{feature.prefix}+{grid}" if feature.prefix else grid
    return tuple(symbols[axis] for axis in feature.axes.split())


def _compute_output_shape(typed: TypedGraph, feature: Feature) -> Shape:
    if feature.stride is None:
        return ("b", feature.channels)
    if typed.is_rescaled(feature) or (feature.stride == 1 and not feature.offset):
        return ("b", feature.channels, "H", "W")
    without = evolve(feature, offset=0)
    lost = -ceil(feature.offset / feature.stride)
    return (
        "b",
        feature.channels,
        *(_format_cell_count(without, side, "ceil") + (f"{lost:+}" if lost else "") for side in "HW"),
    )


def _format_cell_count(feature: Feature, side: str, rounding: Rounding) -> str:
    assert feature.stride is not None
    above, below = feature.stride.denominator, feature.stride.numerator
    many = "" if above == 1 else str(above)
    if feature.offset:
        side = f"({side}{'-' if feature.offset > 0 else '+'}{abs(feature.offset)})"
    if below == 1:
        return f"{many}{side}"
    return f"{many}{side}/{below}" if rounding == "exact" else f"{rounding}({many}{side}/{below})"


@frozen
class Report:
    """What was found out about one file: a typed graph, or problems, or why it could not be read."""

    file: str
    typed: TypedGraph | None = None
    problems: tuple[Problem, ...] = ()
    unreadable: str | None = None

    @property
    def code(self) -> int:
        """The exit code that this file asks for."""
        return 2 if self.unreadable else 1 if self.problems else 0

    def __str__(self) -> str:
        """`specs/a.yaml: ok  head (b, 10, H, W); multiple of 32, at least 32, any shape`, or the problems."""
        if self.typed is None:
            return "\n".join(map(str, self.problems))
        ends = ", ".join(_format_end(self.typed, end) for end in dict.fromkeys(self.typed.ends))
        return f"{make_printable(self.file)}: ok  {ends}; {self.typed.sizes}"

    def as_data(self) -> dict[str, Any]:
        """The same for programs."""
        from composer.spec import digest

        typed = self.typed
        problems = [_dump_problem(problem) for problem in self.problems]
        if self.unreadable:
            problems = [_dump_problem(Problem(code="file", message=self.unreadable)) | {"file": self.file}]
        return {
            "file": self.file,
            "ok": typed is not None,
            "digest": None if typed is None else digest(typed.graph),
            "sizes": None if typed is None else asdict(typed.sizes),
            "outputs": {}
            if typed is None
            else {end: compute_symbolic_shape(typed, end) for end in typed.graph.outputs},
            "auxiliary": {}
            if typed is None
            else {name: compute_symbolic_shape(typed, end) for name, end in typed.graph.auxiliary},
            "problems": problems,
        }


def _format_end(typed: TypedGraph, end: str) -> str:
    shapes = " ".join(map(format_shape, to_shapes(typed, end, compute_symbolic_shape(typed, end))))
    return f"{end} {shapes}{' of the padded image' if end in typed.embeddings else ''}"


def check(files: Sequence[str], form: str) -> int:
    """Report on every file, in `form` text or json. Returns the exit code: 2 where a file cannot be read."""
    reports = []
    for file in files:
        report = build_report(file)
        reports.append(report)
        if form == "text":
            (log if report.unreadable else print_text)(report.unreadable or str(report))
    if form == "json":
        print_text(json.dumps([report.as_data() for report in reports], indent=2, ensure_ascii=False))
    return max(report.code for report in reports)


def build_report(file: str) -> Report:
    """What there is to say about one file."""
    from composer.inference import infer

    try:
        return Report(file, infer(read_spec(file)))
    except UsageError as error:
        return Report(file, unreadable=str(error))
    except SpecError as error:
        return Report(file, problems=error.problems)


def _dump_problem(problem: Problem) -> dict[str, Any]:
    place = problem.place
    return {
        "code": problem.code,
        "path": place.path,
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "message": problem.message,
        "expected": problem.expected,
        "got": problem.got,
        "repair": None if problem.repair is None else str(problem.repair),
        "edits": _dump_edits(problem.repair),
    }


def _dump_edits(repair: str | Fix | None) -> list[dict[str, Any]]:
    """Return the edits of a fix for programs: `{"edit": "SetField", "node": "decoder", …}`."""
    edits = repair.edits if isinstance(repair, Fix) else ()
    return [{"edit": type(edit).__name__, **asdict(edit)} for edit in edits]
