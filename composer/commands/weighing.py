"""`build FILE`: a model made, and what it weighs, node by node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from composer.feature import format_count
from composer.graph import Graph, Shared
from composer.loaded import LoadedWeights, list_names
from composer.parts import get_part_name
from composer.problem import make_printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from composer.model import Model


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
    from composer.modules.containers import get_module_path

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
    behind = f", prefix {make_printable(found.prefix)}" if found.prefix else ""
    names = make_printable(list_names(found.unused))
    aside = f"; {format_count(len(found.unused), 'tensor')} left aside: {names}" if found.unused else ""
    return f"{name}: {make_printable(found.file or '')}{behind}{aside}"
