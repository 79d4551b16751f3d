"""`show` and `build`: print the graph of a model with its shapes, build it, and print its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

from composer.cli.check import format_output
from composer.cli.terminal import UsageError, build_table, check_writable, log, print_text, read_spec, render
from composer.errors import make_printable
from composer.graph import Shared, get_module_path
from composer.inference import TypedGraph, infer
from composer.layouts import describe_features, format_count, list_properties
from composer.limits import Limits
from composer.parts import Part
from composer.parts.base import get_part_name
from composer.process import delay_interrupts
from composer.sizes import ANY_SIZE
from composer.spec.reader import is_weights_file
from composer.spec.writer import dump, get_written_fields

if TYPE_CHECKING:
    from rich.table import Table

    from composer.model import Model


def show(file: str) -> None:
    """Print the nodes of a graph, its inputs and sizes, and its outputs."""
    typed = infer(read_spec(file))
    print_text(render(_build_node_table(typed), "", _build_summary_table(typed)))


def build_spec(file: str, *, save_to: str | None, **options: Any) -> None:
    """Build the model of a spec and print its size; `options` are those of `build_model`.

    Raises UsageError where `save_to` cannot be written.
    """
    out = None if save_to is None else check_writable(save_to, (".safetensors",), [("spec", file)])
    # Invalid specs are reported before torch is imported, which takes seconds.
    typed = infer(read_spec(file))
    log("building the model …")
    model, origin = build_model(typed, file, **options)
    print_text(f"{render(_build_weights_table(model), '', _build_summary_table(model.typed))}\n\n{origin}")
    if out is not None:
        from composer.weights import save

        try:
            save(model, out)
        except OSError as error:
            raise UsageError(f"{error}; choose another folder.") from error
        print_text(f"wrote {make_printable(str(save_to))}")


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
    with delay_interrupts():
        from composer.building import build
        from composer.weights import load, load_weights

    limits = Limits(parameters=max_parameters, bytes=max_memory)
    checked = None if limits == Limits() else limits
    if weights is None and is_weights_file(file):
        model = load(file, limits=checked)
        return model, f"weights: {format_count(len(model.state_dict()), 'tensor')} from {make_printable(file)}"
    with catch_warnings(record=True) as caught:
        simplefilter("always", UserWarning)
        model = build(typed, seed=seed, pretrained=pretrained and weights is None, limits=checked)
    for warning in caught:
        log(str(warning.message))
    if weights is None:
        return model, _describe_weights(model, seed, pretrained=pretrained)
    report = load_weights(model, weights)
    count = format_count(len(report.matched), "tensor")
    aside = _format_unused([name for name, _ in report.set_aside])
    return model, f"weights: {count} from {make_printable(weights)}{aside}"


def _build_node_table(typed: TypedGraph) -> Table:
    """Build a table with a row for each node: its name, part, inputs, arguments and features."""
    from rich.text import Text

    table = build_table("node", "gives", gap=3)
    for number, node in enumerate(typed.order):
        if number:
            table.add_row()
        part, *fields = format_part(node.part)
        sources = [*node.positional, *(f"{name}={source}" for name, source in node.named)]
        details = "".join(f"\n  {line}" for line in [*(f"← {source}" for source in sources), *fields])
        sizes = typed.node_sizes[node.name]
        demands = [] if sizes == ANY_SIZE else [f"demands {sizes}"]
        table.add_row(
            Text.assemble((node.name, "bold cyan"), (f"\n  {part}", "bold"), (details, "dim")),
            "\n".join([*list_properties(typed.features[node.name]), *demands]),
        )
    return table


def format_part(part: Part | Shared) -> list[str]:
    """Return a part's name and its fields that are not at their defaults, as a spec writes them: `channels: 256`."""
    if isinstance(part, Shared):
        return [f"share: {part.node}"]
    return [get_part_name(part), *dump(get_written_fields(part)).splitlines()]


def _build_summary_table(typed: TypedGraph) -> Table:
    """Build a table of the inputs of a graph, the image sizes that it takes, and its outputs."""
    from rich.table import Table

    inputs = []
    for name, image in typed.graph.inputs:
        bands = f": {', '.join(image.bands)}" if image.bands else ""
        inputs.append(f"{name}: {describe_features((image.feature,))}{bands}")
    padding = typed.graph.padding
    side = "on both sides" if padding.side == "both" else "at the end"
    labels = {node: f", auxiliary {label}" for label, node in typed.graph.auxiliary if node not in typed.graph.outputs}
    outputs = [f"{format_output(typed, end)}{labels.get(end, '')}" for end in dict.fromkeys(typed.ends)]
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="bold")
    table.add_row("inputs", "\n".join(inputs))
    table.add_row("sizes", f"{typed.sizes}; other sizes are padded ({padding.mode}, {side})")
    table.add_row("outputs", "\n".join(outputs))
    return table


def _build_weights_table(model: Model) -> Table:
    """Build a table of parameters, trainable parameters and memory of each node, and of all of them.

    A node that shares the module of another has counts of 0.
    """
    from composer.resources import count_resources

    owners = [node.name for node in model.typed.order if isinstance(node.part, Part)]
    modules = {name: model.get_submodule(".".join(get_module_path(name))) for name in owners}
    counts = {
        name: (used.parameters, sum(x.numel() for x in modules[name].parameters() if x.requires_grad), used.bytes)
        for name, used in count_resources(modules).items()
    }
    rows: list[tuple[str, str, tuple[int, ...]]] = [
        (node.name, format_part(node.part)[0], counts.get(node.name, (0, 0, 0))) for node in model.typed.order
    ]
    rows.append(("total", "", tuple(map(sum, zip(*counts.values(), strict=True)))))
    table = build_table("node", "part", "parameters", "trainable", "memory")
    for column in table.columns[2:]:
        column.justify, column.no_wrap = "right", True
    for name, part, (parameters, trainable, size) in rows:
        table.add_row(name, part, f"{parameters:,}", f"{trainable:,}", f"{size / 1e6:.1f} MB")
    table.rows[-2].end_section = True
    table.rows[-1].style = "bold"
    return table


def _describe_weights(model: Model, seed: int, *, pretrained: bool) -> str:
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
    lines = [f"weights: {nodes}random{' elsewhere' if loaded else ''}, seed {seed}{unknown}"]
    for name, found in loaded.items():
        pairs = zip(model.typed.encoder_infos[name].bands, found.kernels, strict=False)
        if new := ", ".join(band for band, kernel in pairs if kernel == "mean"):
            lines.append(f"{name}: no kernels for {new} in these weights; they begin with the mean of the others")
        if found.file:
            prefix = f", prefix {make_printable(found.prefix)}" if found.prefix else ""
            lines.append(f"{name}: {make_printable(found.file)}{prefix}{_format_unused(found.unused)}")
    return "\n".join(lines)


def _format_unused(names: Sequence[str]) -> str:
    from composer.tensors.matching import list_names

    count = format_count(len(names), "tensor")
    return f"; {count} left aside: {make_printable(list_names(names))}" if names else ""
