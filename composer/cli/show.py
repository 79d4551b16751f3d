"""`show`: print the graph, shapes and parameter counts of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from composer.cli.check import build_outputs_table
from composer.errors import make_printable
from composer.graph import Graph, Node, Shared
from composer.layouts import Features, format_count, get_layout_kind
from composer.parts import Part, get_part_name
from composer.parts.base import contract
from composer.parts.rules import Outputs, compute_implied_sizes
from composer.sizes import ANY_SIZE, SizeConstraint, intersect
from composer.spec.writer import dump, get_non_default_fields
from composer.typed_graph import TypedGraph

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

    from composer.model import Model
    from composer.tensors.matching import LoadedWeights


@frozen
class NodeSummary:
    """What the module of a node holds: parameters, how many of them are trained, and bytes with its buffers."""

    node: str
    part: str
    parameters: int = 0
    trainable: int = 0
    bytes: int = 0


def summarize_nodes(model: Model) -> list[NodeSummary]:
    """A `Weight` for each node, in order. A node that shares the module of another weighs nothing itself."""
    from composer.modules.layers import get_module_path

    weights = []
    for node in model.typed.order:
        if isinstance(node.part, Shared):
            weights.append(NodeSummary(node.name, f"share: {node.part.node}"))
            continue
        module = model.get_submodule(".".join(get_module_path(node.name)))
        parameters = list(module.parameters())
        tensors = [*parameters, *module.buffers()]
        weights.append(
            NodeSummary(
                node.name,
                get_part_name(node.part),
                sum(tensor.numel() for tensor in parameters),
                sum(tensor.numel() for tensor in parameters if tensor.requires_grad),
                sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            )
        )
    return weights


def build_weights_table(weights: list[NodeSummary]) -> RenderableType:
    """The weights of all nodes, and their sum."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="bold",
        footer_style="bold",
        show_footer=True,
        padding=(0, 2, 0, 0),
    )
    counts = [sum(side) for side in zip(*((w.parameters, w.trainable, w.bytes) for w in weights), strict=True)]
    table.add_column("node", "total", style="cyan", overflow="fold")
    table.add_column("part", overflow="fold")
    table.add_column("parameters", f"{counts[0]:,}", justify="right", no_wrap=True)
    table.add_column("trainable", f"{counts[1]:,}", justify="right", no_wrap=True)
    table.add_column("memory", format_megabytes(counts[2]), justify="right", no_wrap=True)
    for weight in weights:
        figures = (f"{weight.parameters:,}", f"{weight.trainable:,}", format_megabytes(weight.bytes))
        table.add_row(weight.node, weight.part, *figures)
    return table


def format_megabytes(count: int) -> str:
    """`94.4 MB`, of a million bytes each."""
    return f"{count / 1e6:.1f} MB"


def list_pretrained_nodes(graph: Graph) -> tuple[str, ...]:
    """The nodes whose part asks for weights that were published, or that stand in a file."""
    return tuple(node.name for node in graph.nodes if getattr(node.part, "pretrained", False))


def summarize_weights(model: Model, seed: int, *, pretrained: bool) -> str:
    """Where a built model's weights come from, and how to have the others. A line more for each file that was read."""
    loaded = model.loaded_weights
    asking = [name for name in list_pretrained_nodes(model.graph) if name not in loaded]
    if not pretrained and asking:
        nodes = ", ".join(asking)
        return f"weights: random, seed {seed} ({nodes} asks for pretrained ones; --no-pretrained leaves them out)"
    nodes = f"pretrained in {', '.join(loaded)}; " if loaded else ""
    # A part of another package need not report what it has loaded.
    unknown = f"; {', '.join(asking)} asks for pretrained ones and does not report them" if asking else ""
    line = f"weights: {nodes}random{' elsewhere' if loaded else ''}, seed {seed}{unknown}"
    return "\n".join([line, *(_summarize_weight_file(name, found) for name, found in loaded.items() if found.file)])


def _summarize_weight_file(name: str, found: LoadedWeights) -> str:
    from composer.tensors.matching import list_names

    behind = f", prefix {make_printable(found.prefix)}" if found.prefix else ""
    names = make_printable(list_names(found.unused))
    aside = f"; {format_count(len(found.unused), 'tensor')} left aside: {names}" if found.unused else ""
    return f"{name}: {make_printable(found.file or '')}{behind}{aside}"


LABEL_WIDTH = 8
"""The width of the words before the figures: channels, stride, rounding, demands."""


def render_typed_graph(typed: TypedGraph) -> tuple[RenderableType, ...]:
    """What `show` prints: the nodes, then what goes in and which sizes, and what comes out."""
    return _NodeTable(typed), "", _build_summary_table(typed), "", build_outputs_table(typed)


@frozen
class _NodeTable:
    """A row for each node: its name and part in columns of their own where there is room, in one where there is not."""

    typed: TypedGraph

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        wide = self._build_table(wide=True)
        fits = console.measure(wide, options=options.update(width=10_000)).maximum <= options.max_width
        yield wide if fits else self._build_table(wide=False)

    def _build_table(self, *, wide: bool) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
        for title in ("node", "part") if wide else ("node and part",):
            table.add_column(title, overflow="fold", no_wrap=wide)
        table.add_column("gives", no_wrap=True)
        for number, (node, demand) in enumerate(zip(self.typed.order, list_size_demands(self.typed), strict=True)):
            if number:
                table.add_row()
            part, *fields = format_part(node.part)
            name = Text(node.name, "bold cyan")
            part_name = Text(part, "bold")
            indent = "" if wide else "  "
            sources = Text("".join(f"\n{indent}← {source}" for source in _iter_sources(node)), "dim")
            told = Text("".join(f"\n{indent}{field}" for field in fields), "dim")
            if wide:
                cells = [Text.assemble(name, sources), Text.assemble(part_name, told)]
            else:
                cells = [Text.assemble(name, "  ", part_name, sources, told)]
            demanded = Text(f"\n{'demands':<{LABEL_WIDTH}} {demand}", "yellow") if demand else Text()
            table.add_row(*cells, Text.assemble("\n".join(format_features(self.typed.features[node.name])), demanded))
        return table


def _iter_sources(node: Node) -> Iterator[str]:
    yield from node.positional
    yield from (f"{name}={source}" for name, source in node.named)


def format_part(part: Part | Shared) -> list[str]:
    """A part's name, then each field that is not at its default, as a spec writes it: `channels: 256`."""
    if isinstance(part, Shared):
        return [f"share: {part.node}"]
    name = get_part_name(part)
    changed = get_non_default_fields(part, name, given={"name": name} if part.source is not None else None)
    return [name, *dump(changed).splitlines()]


def format_features(features: Features) -> list[str]:
    """What leaves a node, compactly: how many and of which layout; then a line per fact, a column per feature."""
    if not features:
        return ["nothing"]
    layouts = list(dict.fromkeys((get_layout_kind(feature), feature.axes) for feature in features))
    many = f"{len(features)} × " if len(features) > 1 else ""
    lines = [f"{many}{' and '.join(f'{what} {axes}' for what, axes in layouts)}"]
    rows = [("channels", [str(feature.channels) for feature in features])]
    if any(feature.stride is not None for feature in features):
        rows.append(("stride", ["–" if feature.stride is None else str(feature.stride) for feature in features]))
    if any(feature.rounding != "exact" for feature in features):
        rows.append(("rounding", ["–" if f.rounding == "exact" else f.rounding for f in features]))
    if any(feature.offset for feature in features):
        rows.append(("offset", [str(feature.offset) for feature in features]))
    if any(feature.prefix for feature in features):
        rows.append(("prefix", [str(feature.prefix) for feature in features]))
    if any(feature.frames > 1 for feature in features):
        rows.append(("frames", [str(feature.frames) for feature in features]))
    return lines + _align_columns(rows)


def _align_columns(rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Each fact on a line, its values in columns, six to a line; only once where they are all the same."""
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
    """For each node in order, what it adds to the sizes that were asked of the image before it; nothing for most."""
    met = _intersect_constraints(
        ANY_SIZE,
        *(SizeConstraint(height=i.size[0], width=i.size[1]) for _, i in typed.graph.inputs if i.size is not None),
    )
    told = []
    for node in typed.order:
        own = _compute_node_constraint(typed, node)
        both = _intersect_constraints(met, own)
        # Once both sides are fixed, there is nothing to add.
        told.append(_format_constraint(own) if both != met and None in (met.height, met.width) else "")
        met = both
    return told


def _format_constraint(sizes: SizeConstraint) -> str:
    """Only what is demanded: `multiple of 32`, `at least 64`, `square`."""
    if sizes.height is not None and sizes.width is not None:
        return str(sizes)
    asked = [f"multiple of {sizes.multiple}"] if sizes.multiple > 1 else []
    asked += [f"at least {sizes.least}"] if sizes.least > sizes.multiple else []
    asked += ["square"] if sizes.square else []
    asked += [f"{name} {side}" for name, side in (("height", sizes.height), ("width", sizes.width)) if side is not None]
    return ", ".join(asked)


def _compute_node_constraint(typed: TypedGraph, node: Node) -> SizeConstraint:
    owner = node.part.node if isinstance(node.part, Shared) else node.name
    part = typed.facts.get(owner) or next(other.part for other in typed.order if other.name == owner)
    named = {name: typed.features[source] for name, source in node.named}
    outcome = contract(part, *(typed.features[source] for source in node.positional), **named)
    asked = outcome.sizes if isinstance(outcome, Outputs) else ANY_SIZE
    return _intersect_constraints(asked, *(compute_implied_sizes(feature) for feature in typed.features[node.name]))


def _intersect_constraints(*sizes: SizeConstraint) -> SizeConstraint:
    met = intersect([("", one) for one in sizes])
    assert isinstance(met, SizeConstraint)  # infer has intersected them all
    return met


def _build_summary_table(typed: TypedGraph) -> RenderableType:
    from rich.table import Table

    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    for number, (name, image) in enumerate(typed.graph.inputs):
        facts = [format_count(image.channels, "channel")]
        facts += [f"stride {image.stride}"] if image.stride != 1 else []
        facts += [format_count(image.frames, "frame")] if image.frames is not None else []
        table.add_row("inputs" if not number else "", f"{name}: {', '.join(facts)}")
    padding = typed.graph.padding
    places = "on both sides" if padding.side == "both" else "at the end"
    table.add_row("sizes", f"{typed.sizes}; what is smaller or between is padded ({padding.mode}, {places})")
    return table
