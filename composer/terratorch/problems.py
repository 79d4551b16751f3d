"""Map problems of a translated graph to the arguments of its call."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from attrs import evolve, field, frozen

from composer.errors import Place, Problem
from composer.graph import Graph, Node, Shared
from composer.parts import Encoder, TemporalPooling
from composer.parts.base import get_part_name
from composer.parts.rules import compute_implied_sizes
from composer.terratorch.backbones import NECKS
from composer.terratorch.calls import (
    NUM_CLASSES,
    NUM_OUTPUTS,
    Diagnostics,
    get_head_fields,
    iter_enclosing_paths,
    normalize_branch,
)
from composer.typed_graph import TypedGraph


@frozen
class _Origin:
    """The arguments that made a node, likeliest first: prefixes of its fields' arguments, and its own arguments."""

    prefixes: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


_HEAD = _Origin(("head_", "head_kwargs.", ""), ("task",))

_ORIGINS = {
    "encoder": _Origin(("backbone_", "backbone_kwargs."), ("backbone",)),
    "decoder": _Origin(("decoder_", "decoder_kwargs."), ("decoder",)),
    "head": _HEAD,
    "image": _Origin((), ("backbone_in_chans", "backbone_kwargs.in_chans", "backbone")),
    "crop": _Origin((), ("image_size_out",)),
    "rescale": _Origin((), ("rescale",)),
    "padding": _Origin((), ("backbone",)),
}

_POOLING = _Origin(
    ("backbone_temporal_", "backbone_kwargs.temporal_"),
    ("backbone_temporal_pooling", "backbone_kwargs.temporal_pooling", "backbone"),
)

_NODE = r"necks\[(?P<neck>\d+)\]|aux\.(?P<branch>[^.]+)\.(?P<part>decoder|head)|\w+"

_PATH = re.compile(rf"(?P<node>{_NODE})\.?(?P<field>.*)")

_FIELD_IN_REPAIR = re.compile(r"(?:(?<=leave )|(?<=use )|(?<=set )|^)\w+(?=: | out\b| from )")

_CHANNELS_REPAIR = re.compile(r"input: \{channels: (\d+)\}")

_NECKS_REPAIR = re.compile(r"necks: \[(.*)\]")

_NECK_IN_REPAIR = re.compile(r"([A-Z]\w+)(?:: \{(.*?)\})?(?:, (?=[A-Z])|$)")


@frozen
class FactoryCall:
    """A call of the factory, and the graph that was made of it."""

    arguments: Mapping[str, Any]
    graph: Graph
    report: Diagnostics = field(factory=Diagnostics)

    def map_problem(self, problem: Problem) -> Problem:
        """Return a problem of the graph with the place of the argument that caused it, and a fix in arguments.

        Where a field has no argument of its own, the place is that of the node's argument.
        """
        path = problem.place.path
        found = _PATH.match(path)
        if found is None:
            return evolve(problem, place=self.report.locate(""))
        origin = self._find_origin(found)
        paths = set(_iter_argument_paths("", self.arguments))
        names = [*iter_enclosing_paths(found["field"].removeprefix("options."))]
        candidates = [*(f"{prefix}{name}" for prefix in origin.prefixes for name in names), *origin.arguments]
        fix = problem.fix and "; ".join(
            self._map_fix(found["node"], origin, paths, line) for line in str(problem.fix).split("; ")
        )
        place = self.report.locate(next((path for path in candidates if path in paths), ""))
        return evolve(problem, place=place, fix=fix)

    def _find_origin(self, path: re.Match[str]) -> _Origin:
        if path["neck"]:
            position = int(path["neck"]) - self._count_backbone_necks()
            neck = f"necks[{position}]"
            return _POOLING if position < 0 else _Origin((f"{neck}.",), (neck,))
        if path["part"] == "decoder":
            heads = [get_head_fields(head) or {} for head in self.arguments.get("aux_decoders") or ()]
            labels = [normalize_branch(str(head.get("name"))) for head in heads]
            head = f"aux_decoders[{labels.index(path['branch'])}]"
            return _Origin((f"{head}.decoder_args.decoder_",), (f"{head}.decoder",))
        # Auxiliary heads are made with the arguments of the main head.
        return _HEAD if path["part"] else _ORIGINS.get(path["node"], _Origin())

    def _count_backbone_necks(self) -> int:
        """Count the first necks of the graph, those that are not necks of the call."""
        necks = sum(node.name.startswith("necks[") for node in self.graph.nodes)
        return max(necks - len(self.arguments.get("necks") or ()), 0)

    def _map_fix(self, name: str, origin: _Origin, paths: set[str], fix: str) -> str:
        if necks := _NECKS_REPAIR.fullmatch(fix):
            return self._format_necks(necks[1])
        if fix.startswith("encoder."):
            return f"{self._prefix_backbone()}{fix.removeprefix('encoder.')}"
        if channels := _CHANNELS_REPAIR.fullmatch(fix):
            return f"{self._prefix_backbone()}in_chans: {channels[1]}"
        fix = fix.replace("leave crop out", "leave image_size_out out")
        fix = fix.replace("head: EmbeddingHead", "task: embedding_generation")
        part = next((node.part for node in self.graph.nodes if node.name == name), None)
        if part is None or not origin.prefixes:
            return fix
        fields = attrs.fields_dict(type(part))  # type: ignore[arg-type]
        # A component's own dict is in use where it is given.
        owned = (prefix for prefix in origin.prefixes if prefix.partition(".")[0] in paths)
        prefix = next(owned, origin.prefixes[0])

        def add_prefix(match: re.Match[str]) -> str:
            if match[0] not in fields or (origin is _HEAD and match[0] in (NUM_CLASSES, NUM_OUTPUTS)):
                return match[0]
            return f"{prefix}{match[0]}"

        return _FIELD_IN_REPAIR.sub(add_prefix, fix)

    def _prefix_backbone(self) -> str:
        return "backbone_kwargs." if self.arguments.get("backbone_kwargs") else "backbone_"

    def _format_necks(self, spec: str) -> str:
        """Return necks of a spec as those of a call, which pools frames by an argument of the backbone."""
        necks = [(name, fields) for name, fields in _NECK_IN_REPAIR.findall(spec) if name != TemporalPooling.__name__]
        if any(name not in NECKS for name, _ in necks):
            return f"necks: [{spec}], in a spec"
        dicts = [f"{{name: {name}{', ' * bool(fields)}{fields}}}" for name, fields in necks]
        pools = TemporalPooling.__name__ in spec and not self._count_backbone_necks()
        pooling = [f"{self._prefix_backbone()}temporal_pooling: mean"] if pools else []
        return "; ".join([*pooling, *([f"necks: [{', '.join(dicts)}]"] if dicts else [])])


def _iter_argument_paths(path: str, value: Any) -> Iterator[str]:
    """Yield the path of every argument that is not None, and of everything in its value."""
    if isinstance(value, list | tuple):
        inner = [(f"{path}[{position}]", entry) for position, entry in enumerate(value)]
    else:
        within = f"{path}." if path else ""
        inner = [(f"{within}{name}", entry) for name, entry in (get_head_fields(value) or {}).items()]
    for name, entry in inner:
        if entry is not None:
            yield name
            yield from _iter_argument_paths(name, entry)


def find_padding_note(typed: TypedGraph) -> Problem | None:
    """Return a note on the node that needs images padded which TerraTorch does not pad; None where there is none.

    TerraTorch pads for patches alone. Where maps do not cover whole cells, it stretches the results of a part.
    """
    sizes, multiple = typed.sizes, typed.graph.padding.multiple
    if any(facts.patch for facts in typed.facts.values()):
        return None
    node, need = "encoder", f"the network takes images of {sizes.height} × {sizes.width}"
    if sizes.height is None or "encoder" not in typed.facts:
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
    if node.name in typed.facts:
        multiples.append(typed.facts[node.name].sizes.multiple)
    elif not isinstance(node.part, Shared):
        multiples.append(typed.node_sizes[node.name].multiple)
    return max(multiples)
