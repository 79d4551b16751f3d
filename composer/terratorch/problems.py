"""Map problems of a translated graph to the arguments of its call."""

from __future__ import annotations

from attrs import evolve

from composer.errors import Edit, Fix, Place, Problem, SetField
from composer.graph import Graph, Node, Shared
from composer.inference import TypedGraph
from composer.neck_paths import format_part
from composer.parts import Encoder, Part, TemporalPooling
from composer.parts.base import get_part_name
from composer.parts.rules import compute_implied_sizes
from composer.terratorch.calls import Arguments, Diagnostics

SPEC_KEYS = ("decoder", "encoder", "from", "head", "input", "necks", "rescale")
"""Keys of a spec with which a fix may begin, and which are not fields of a part."""


def map_problem(problem: Problem, report: Diagnostics, graph: Graph) -> Problem:
    """Return a problem of the graph with the place of the argument that caused it, and a fix in arguments.

    Where a field has no argument of its own, the place is that of the node's argument.
    """
    found = report.find_origin(problem.place.path)
    if found is None:
        return evolve(problem, place=report.locate(""))
    origin, path = found
    if isinstance(problem.fix, Fix):
        fix: str | None = "; ".join(_format_edit(edit, report, graph) for edit in problem.fix.edits)
    else:
        fix = problem.fix and format_fix(problem.fix, origin)
    return evolve(problem, place=report.locate(path), fix=fix)


def format_fix(fix: str, origin: Arguments) -> str:
    """Return a fix that begins with a field, `channels: [8]`, with the argument for that field."""
    name, colon, value = fix.partition(": ")
    is_field = colon and name.isidentifier() and name not in SPEC_KEYS
    return f"{origin.format_path(name)}: {value}" if is_field else fix


def _format_edit(edit: Edit, report: Diagnostics, graph: Graph) -> str:
    if isinstance(edit, SetField):
        return f"{report.origins[edit.node].format_path(edit.name)}: {edit.value}"
    # Frames are pooled by the backbone in TerraTorch.
    pooling = TemporalPooling.__name__
    if edit.parts == (pooling,):
        return f"{report.origins['encoder'].format_path('temporal_pooling')}: mean"
    nodes = [node for node in graph.nodes if node.name.startswith("necks[")]
    parts = [format_part(node.part) for node in nodes if isinstance(node.part, Part)]
    at = [*(node.name for node in nodes), edit.before].index(edit.before)
    necks = (part.partition(": {") for part in (*parts[:at], *edit.parts, *parts[at:]))
    dicts = [f"{{name: {name}, {fields}" if fields else f"{{name: {name}}}" for name, _, fields in necks]
    return f"necks: [{', '.join(neck for neck in dicts if pooling not in neck)}]"


def find_padding_note(typed: TypedGraph) -> Problem | None:
    """Return a note on the node that needs images padded which TerraTorch does not pad; None where there is none.

    TerraTorch pads for patches alone. Where maps do not cover whole cells, it stretches the results of a part.
    """
    sizes, multiple = typed.sizes, typed.graph.padding.multiple
    if any(info.patch for info in typed.encoder_infos.values()):
        return None
    if sizes.height is not None and "encoder" in typed.encoder_infos:
        node, need = "encoder", f"the network takes images of {sizes.height} × {sizes.width}"
    else:
        needy = (node for node in typed.order if _compute_required_multiple(typed, node) > multiple)
        found = next(needy, None) if sizes.multiple > multiple else None
        if found is None:
            return None
        owner = "the network" if isinstance(found.part, Encoder | Shared) else get_part_name(found.part)
        node, need = found.name, f"{owner} needs sides that are multiples of {sizes.multiple}"
    message = (
        f"{need}: others are padded, and cropped. TerraTorch feeds them as they are, and gives other numbers or fails."
    )
    return Problem(code="note", message=message, place=Place(node))


def _compute_required_multiple(typed: TypedGraph, node: Node) -> int:
    """Return the multiple that a node alone requires of the sides of images."""
    multiples = [compute_implied_sizes(feature).multiple for feature in typed.features[node.name]]
    if node.name in typed.encoder_infos:
        multiples.append(typed.encoder_infos[node.name].sizes.multiple)
    elif not isinstance(node.part, Shared):
        multiples.append(typed.node_sizes[node.name].multiple)
    return max(multiples)
