"""`show`: print the graph, shapes and parameter counts of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from composer.cli.check import build_outputs_table
from composer.cli.terminal import build_table, get_terminal_width, print_text, read_spec, render
from composer.errors import make_printable
from composer.graph import Node, Shared, get_module_path
from composer.inference import TypedGraph, infer
from composer.layouts import Features, format_count, get_layout_kind
from composer.parts import Part
from composer.parts.base import contract, get_part_name
from composer.parts.rules import Outputs, compute_implied_sizes
from composer.sizes import ANY_SIZE, SizeConstraint, intersect
from composer.spec.writer import dump, get_non_default_fields

if TYPE_CHECKING:
    from rich.table import Table

    from composer.model import Model
    from composer.tensors.matching import LoadedWeights

LABEL_WIDTH = 8
"""The width of the words before the figures: channels, stride, rounding, demands."""


def show(file: str) -> None:
    """Print the nodes of a graph, its inputs and sizes, and its outputs."""
    typed = infer(read_spec(file))
    print_text(render(_build_node_table(typed), "", _build_input_table(typed), "", build_outputs_table(typed)))


def _build_node_table(typed: TypedGraph) -> Table:
    """Build a table with a row for each node. Name and part share a column where the terminal is narrow."""
    from rich.console import Console

    wide = _fill_node_table(typed, wide=True)
    fits = Console(width=10_000).measure(wide).maximum <= get_terminal_width()
    return wide if fits else _fill_node_table(typed, wide=False)


def _fill_node_table(typed: TypedGraph, *, wide: bool) -> Table:
    from rich.text import Text

    table = build_table(gap=3)
    for title in ("node", "part") if wide else ("node and part",):
        table.add_column(title, overflow="fold", no_wrap=wide)
    table.add_column("gives", no_wrap=True)
    indent = "" if wide else "  "
    for number, (node, demand) in enumerate(zip(typed.order, list_size_demands(typed), strict=True)):
        if number:
            table.add_row()
        part, *fields = format_part(node.part)
        name, part_name = Text(node.name, "bold cyan"), Text(part, "bold")
        sources = Text("".join(f"\n{indent}← {source}" for source in _iter_sources(node)), "dim")
        arguments = Text("".join(f"\n{indent}{field}" for field in fields), "dim")
        if wide:
            cells = [Text.assemble(name, sources), Text.assemble(part_name, arguments)]
        else:
            cells = [Text.assemble(name, "  ", part_name, sources, arguments)]
        demands = Text(f"\n{'demands':<{LABEL_WIDTH}} {demand}", "yellow") if demand else Text()
        table.add_row(*cells, Text.assemble("\n".join(format_features(typed.features[node.name])), demands))
    return table


def _iter_sources(node: Node) -> Iterator[str]:
    yield from node.positional
    yield from (f"{name}={source}" for name, source in node.named)


def format_part(part: Part | Shared) -> list[str]:
    """Return a part's name and its fields that are not at their defaults, as a spec writes them: `channels: 256`."""
    if isinstance(part, Shared):
        return [f"share: {part.node}"]
    name = get_part_name(part)
    changed = get_non_default_fields(part, name, given={"name": name} if part.source is not None else None)
    return [name, *dump(changed).splitlines()]


def format_features(features: Features) -> list[str]:
    """Return the count and layout of features, then a line per property with a column per feature."""
    if not features:
        return ["nothing"]
    layouts = dict.fromkeys(f"{get_layout_kind(feature)} {feature.axes}" for feature in features)
    count = f"{len(features)} × " if len(features) > 1 else ""
    rows = [("channels", [str(f.channels) for f in features])]
    if any(f.stride is not None for f in features):
        rows.append(("stride", ["–" if f.stride is None else str(f.stride) for f in features]))
    if any(f.rounding != "exact" for f in features):
        rows.append(("rounding", ["–" if f.rounding == "exact" else f.rounding for f in features]))
    for name, default in (("offset", 0), ("prefix", 0), ("frames", 1)):
        if any(getattr(f, name) != default for f in features):
            rows.append((name, [str(getattr(f, name)) for f in features]))
    return [f"{count}{' and '.join(layouts)}", *_align_columns(rows)]


def _align_columns(rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Format each row as a line, its values in columns, six to a line; only once where they are all the same."""
    varied = [values for _, values in rows if len(set(values)) > 1]
    widths = [max(map(len, column)) for column in zip(*varied, strict=True)]
    lines = []
    for name, values in rows:
        if values not in varied:
            lines.append(f"{name:<{LABEL_WIDTH}} {values[0]}")
            continue
        cells = [value.rjust(width) for value, width in zip(values, widths, strict=True)]
        parts = ["  ".join(cells[start : start + 6]) for start in range(0, len(cells), 6)]
        lines += [f"{'' if number else name:<{LABEL_WIDTH}} {part}" for number, part in enumerate(parts)]
    return lines


def list_size_demands(typed: TypedGraph) -> list[str]:
    """Return for each node what it adds to the size constraints of the inputs and the nodes before it; mostly ""."""
    total = _intersect_constraints(
        ANY_SIZE,
        *(SizeConstraint(height=i.size[0], width=i.size[1]) for _, i in typed.graph.inputs if i.size is not None),
    )
    demands = []
    for node in typed.order:
        own = _compute_node_constraint(typed, node)
        both = _intersect_constraints(total, own)
        # Once both sides are fixed, nothing can be added.
        demands.append(_format_constraint(own) if both != total and None in (total.height, total.width) else "")
        total = both
    return demands


def _format_constraint(sizes: SizeConstraint) -> str:
    """Format only what is constrained: `multiple of 32`, `at least 64`, `square`."""
    if sizes.height is not None and sizes.width is not None:
        return str(sizes)
    rules = [f"multiple of {sizes.multiple}"] if sizes.multiple > 1 else []
    rules += [f"at least {sizes.least}"] if sizes.least > sizes.multiple else []
    rules += ["square"] if sizes.square else []
    rules += [f"{name} {side}" for name, side in (("height", sizes.height), ("width", sizes.width)) if side is not None]
    return ", ".join(rules)


def _compute_node_constraint(typed: TypedGraph, node: Node) -> SizeConstraint:
    owner = node.part.node if isinstance(node.part, Shared) else node.name
    part = typed.facts.get(owner) or next(other.part for other in typed.order if other.name == owner)
    named = {name: typed.features[source] for name, source in node.named}
    outcome = contract(part, *(typed.features[source] for source in node.positional), **named)
    sizes = outcome.sizes if isinstance(outcome, Outputs) else ANY_SIZE
    return _intersect_constraints(sizes, *(compute_implied_sizes(feature) for feature in typed.features[node.name]))


def _intersect_constraints(*sizes: SizeConstraint) -> SizeConstraint:
    both = intersect([("", constraint) for constraint in sizes])
    assert isinstance(both, SizeConstraint)  # infer has intersected them all
    return both


def _build_input_table(typed: TypedGraph) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    for number, (name, image) in enumerate(typed.graph.inputs):
        properties = [format_count(image.channels, "channel")]
        properties += [f"stride {image.stride}"] if image.stride != 1 else []
        properties += [format_count(image.frames, "frame")] if image.frames is not None else []
        table.add_row("inputs" if not number else "", f"{name}: {', '.join(properties)}")
    padding = typed.graph.padding
    side = "on both sides" if padding.side == "both" else "at the end"
    table.add_row("sizes", f"{typed.sizes}; other sizes are padded ({padding.mode}, {side})")
    return table


@frozen
class NodeSummary:
    """Counts of a node's module: parameters, trainable parameters, and bytes with its buffers."""

    node: str
    part: str
    parameters: int = 0
    trainable: int = 0
    bytes: int = 0


def summarize_nodes(model: Model) -> list[NodeSummary]:
    """Count each node, in order. A node that shares the module of another has counts of 0."""

    summaries = []
    for node in model.typed.order:
        if isinstance(node.part, Shared):
            summaries.append(NodeSummary(node.name, f"share: {node.part.node}"))
            continue
        module = model.get_submodule(".".join(get_module_path(node.name)))
        parameters = list(module.parameters())
        summaries.append(
            NodeSummary(
                node.name,
                get_part_name(node.part),
                sum(tensor.numel() for tensor in parameters),
                sum(tensor.numel() for tensor in parameters if tensor.requires_grad),
                sum(tensor.numel() * tensor.element_size() for tensor in [*parameters, *module.buffers()]),
            )
        )
    return summaries


def build_weights_table(summaries: list[NodeSummary]) -> Table:
    """Build a table of all nodes with a footer for their sums."""
    table = build_table(footer_style="bold", show_footer=True)
    total = NodeSummary(
        "total", "", *(sum(getattr(s, name) for s in summaries) for name in ("parameters", "trainable", "bytes"))
    )
    table.add_column("node", total.node, style="cyan", overflow="fold")
    table.add_column("part", overflow="fold")
    for heading, footer in zip(("parameters", "trainable", "memory"), _format_counts(total), strict=True):
        table.add_column(heading, footer, justify="right", no_wrap=True)
    for summary in summaries:
        table.add_row(summary.node, summary.part, *_format_counts(summary))
    return table


def _format_counts(summary: NodeSummary) -> tuple[str, str, str]:
    return f"{summary.parameters:,}", f"{summary.trainable:,}", f"{summary.bytes / 1e6:.1f} MB"


def summarize_weights(model: Model, seed: int, *, pretrained: bool) -> str:
    """Return a line on where the weights of a built model come from, and one for each weights file that was read."""
    loaded = model.loaded_weights
    unreported = ", ".join(
        node.name for node in model.graph.nodes if getattr(node.part, "pretrained", False) and node.name not in loaded
    )
    if not pretrained and unreported:
        return f"weights: random, seed {seed} (--no-pretrained: no pretrained weights for {unreported})"
    nodes = f"pretrained in {', '.join(loaded)}; " if loaded else ""
    # A part of another package may not report the weights that it loads.
    unknown = f"; {unreported} is pretrained, and does not report what it loaded" if unreported else ""
    line = f"weights: {nodes}random{' elsewhere' if loaded else ''}, seed {seed}{unknown}"
    return "\n".join([line, *(_summarize_weight_file(name, found) for name, found in loaded.items() if found.file)])


def _summarize_weight_file(name: str, weights: LoadedWeights) -> str:
    from composer.tensors.matching import list_names

    prefix = f", prefix {make_printable(weights.prefix)}" if weights.prefix else ""
    names = make_printable(list_names(weights.unused))
    aside = f"; {format_count(len(weights.unused), 'tensor')} left aside: {names}" if weights.unused else ""
    return f"{name}: {make_printable(weights.file or '')}{prefix}{aside}"
