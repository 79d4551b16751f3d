"""Read a spec into a graph."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from attrs import define, evolve, field

from composer.errors import Place, Problem, Source, SpecError, truncate_problems
from composer.graph import Graph, InputNames, Node, Shared, chain
from composer.graph_checks import find_structural_problems
from composer.layouts import Image, parse_height_and_width
from composer.parts import KINDS, PART_REGISTRY, Part
from composer.sizes import Padding
from composer.spec.names import Parts, find_class, get_fixed_fields
from composer.spec.schema import (
    BOOLEAN,
    NAME,
    SIDE_PAIR,
    Diagnostics,
    T,
    TooManyProblemsError,
    construct,
    get_key_name,
    is_misspelling,
    parse_value,
)
from composer.spec.yaml import (
    MappingNode,
    ScalarNode,
    SequenceNode,
    Tree,
    build_error,
    describe_value,
    parse_document,
    read_text,
)

SPEC_KEY = "composer.spec"
"""The metadata key of a weights file that holds the spec, as text."""

WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")

CHAIN_ONLY_KEYS = ("input", "encoder", "necks", "decoder", "head", "aux")
GRAPH_ONLY_KEYS = ("inputs", "nodes", "outputs", "auxiliary")
_COMMON_KEYS = ("rescale", "crop", "padding")
CHAIN_KEYS = (*CHAIN_ONLY_KEYS, *_COMMON_KEYS)
GRAPH_KEYS = (*GRAPH_ONLY_KEYS, *_COMMON_KEYS)
_REQUIRED_KEYS = {"inputs": "inputs: {image: {channels: 3}}", "nodes": "nodes: {NAME: {part: PART, from: NAME}}"}
_IMAGE = "the fields of an image, such as {channels: 3}"
_NODE_KEYS = ("part", "share", "from")
_BRANCH_KINDS = ("decoder", "head")


def read(path: str | os.PathLike[str], *, parts: Parts = PART_REGISTRY) -> Graph:
    """Read the graph in a spec file, or in a weights file that `composer.save` wrote.

    `parts` are the parts that the spec may name. Raises SpecError with all problems at once, a missing file included.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"read takes the path of a file, and composer.reads a text (got {type(path).__name__})")
    name = os.fsdecode(path)
    if is_weights_file(path) and os.path.isfile(path):
        return parse_spec(read_embedded_spec(path), f"{name}: spec", parts)
    return parse_spec(read_text(path), name, parts)


def reads(text: str, *, name: str | None = None, parts: Parts = PART_REGISTRY) -> Graph:
    """Read the graph in a text. `name` is the file named in its problems, and `parts` are the parts it may name.

    Raises SpecError with all problems at once.
    """
    if not isinstance(text, str):
        raise TypeError(f"reads takes a text, and composer.read the path of a file (got {type(text).__name__})")
    return parse_spec(text, name, parts)


def is_weights_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a path has the suffix of a weights file. Only a safetensors file can hold a spec."""
    return Path(os.fsdecode(path)).suffix.lower() in WEIGHTS_SUFFIXES


def read_embedded_spec(path: str | os.PathLike[str]) -> str:
    """Return the spec in a weights file. Raises SpecError if there is none or the file cannot be read."""
    # Not at the top: most specs are in files of their own.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(SPEC_KEY)
    except (OSError, ValueError, SafetensorError):
        text = None
    if text is None:
        fix = "give the YAML spec, or a file that composer.save wrote; `run` takes other weights with --weights FILE"
        raise build_error("file", "no spec was found in this weights file.", Place("", os.fsdecode(path)), fix)
    return str(text)


def parse_spec(text: str, file: str | None, parts: Parts) -> Graph:
    """Return the graph that `text` describes, with the position of every path in its `source`.

    Raises SpecError with the first hundred problems of the text, in its order.
    """
    tree, problems = parse_document(text, file)
    reader = _SpecReader(parts, Diagnostics(file))
    try:
        graph = reader.read_model(tree)
    except TooManyProblemsError:
        graph = None
    # A value that YAML already complained about has no meaning, so nothing else is reported at its position.
    reported = set(map(_get_position, problems))
    found = problems + [problem for problem in reader.diagnostics.problems if _get_position(problem) not in reported]
    if graph is not None:
        structural = (p for p in find_structural_problems(graph) if reader.is_reliable(p))
        found += truncate_problems(p for p in structural if not (problems and p.code == "unused"))
    if graph is None or found:
        raise SpecError(truncate_problems(sorted(found, key=_get_position)))
    return graph


def _get_position(problem: Problem) -> tuple[int, int]:
    return problem.place.line or 0, problem.place.column or 0


@define
class _SpecReader:
    """Reads the sections of one spec and reports all that is wrong to `diagnostics`.

    A part that cannot be read is replaced by a bare one, so that its name stays known. `unread` holds the paths whose
    references are not known, and `unknown` the keys of the file that are not known.
    """

    parts: Parts
    diagnostics: Diagnostics
    root: MappingNode = field(init=False)
    unread: set[str] = field(factory=set)
    unknown: Collection[str] = ()

    def is_reliable(self, problem: Problem) -> bool:
        """Return whether a structural problem remains, whatever the unread values are."""
        if problem.code == "unused":
            return not self.unread
        return problem.code != "reference" or problem.place.path not in self.unread

    def read_model(self, tree: Tree) -> Graph | None:
        """Read a whole file. Returns None if the names of its nodes are not known."""
        self.diagnostics.record("", tree)
        if not isinstance(tree, MappingNode):
            is_path = isinstance(tree, ScalarNode) and str(tree.value).endswith((".yaml", ".yml"))
            fix = "composer.read reads a file" if is_path else "describe a model: encoder: timm/resnet50"
            message = f"expected a mapping of keys (got {describe_value(tree)})."
            self.diagnostics.add("type", message, "", tree, fix=fix)
            return None
        self.root = tree
        names = tree.by_name
        is_graph = "nodes" in names or ("encoder" not in names and any(name in GRAPH_ONLY_KEYS for name in names))
        known, foreign = (GRAPH_KEYS, CHAIN_ONLY_KEYS) if is_graph else (CHAIN_KEYS, GRAPH_ONLY_KEYS)
        mixed = [key for key, _ in tree.pairs if key.value in foreign]
        if mixed:
            this, other = ("a graph", "a chain") if is_graph else ("a chain", "a graph")
            listed = ", ".join(str(key.value) for key in mixed)
            message = f"a file is a chain or a graph, and this one is {this}; keys of {other}: {listed}."
            first = str(mixed[0].value)
            meant = {"input": "did you mean inputs?", "inputs": "did you mean input?"}.get(first)
            self.diagnostics.add("key", message, first, mixed[0], meant or f"leave out what belongs to {other}")
        unknown = self.diagnostics.report_unknown("a model", "key", tree, known, "", ignored=foreign)
        # In a mixed file nothing is missing: it may be there in the words of the other form.
        self.unknown = [*known, *names] if mixed else unknown
        graph = self._read_graph() if is_graph else self._read_chain()
        source = Source(self.diagnostics.file, self.diagnostics.marks)
        return None if graph is None else evolve(graph, source=source)

    def _read_chain(self) -> Graph:
        root = self.root
        image, encoder = root.get("input"), root.get("encoder")
        if image is not None:
            self.diagnostics.record("image", image)
        if encoder is None:
            fix = "encoder: timm/resnet50"
            self.diagnostics.report_missing("encoder", self.unknown, "a chain needs an encoder.", "", root, fix)
        parts = [self._read_part(encoder, "encoder", "encoder")]
        for index, tree in enumerate(self._read_list("necks", "a list of necks")):
            parts.append(self._read_part(tree, f"necks[{index}]", "neck"))
        parts += [self._read_part(root.get(kind), kind, kind) for kind in _BRANCH_KINDS if root.get(kind) is not None]
        aux = {
            label: branch
            for label, tree in self._read_section("aux", "a mapping of names to branches")
            if (branch := tuple(self._iter_branch(label, tree)))
        }
        return chain(*parts, aux=aux, input=self._read_fields(Image(), image, "input", _IMAGE), **self._read_common())

    def _iter_branch(self, label: str, tree: Tree) -> Iterator[Part]:
        path = f"aux.{label}"
        expected = "a branch such as {decoder: FCNDecoder, head: RegressionHead}"
        branch = self.diagnostics.require(MappingNode, tree, path, expected, _suggest_mapping(tree, "decoder"))
        if branch is None:
            return
        names = branch.by_name
        unknown = self.diagnostics.report_unknown("a branch", "key", branch, _BRANCH_KINDS, path)
        if "decoder" not in names:
            fix = "add decoder: FCNDecoder"
            self.diagnostics.report_missing("decoder", unknown, "a branch needs a decoder.", path, branch, fix)
        for kind in _BRANCH_KINDS if "head" in names else names.keys() & {"decoder"}:
            yield self._read_part(names.get(kind), f"{path}.{kind}", kind)

    def _read_graph(self) -> Graph | None:
        for key, example in _REQUIRED_KEYS.items():
            if self.root.get(key) is None:
                message = f"a graph needs {key}."
                self.diagnostics.report_missing(key, self.unknown, message, "", self.root, f"add {example}")
        inputs = self._read_section("inputs", "names and images")
        graph = Graph(
            inputs=tuple((name, self._read_fields(Image(), tree, name, _IMAGE)) for name, tree in inputs),
            nodes=[self._read_node(name, tree) for name, tree in self._read_section("nodes", "names and nodes")],
            outputs=self._read_outputs(),
            auxiliary=tuple(self._iter_auxiliary()),
            **self._read_common(),
        )
        return graph if all(isinstance(self.root.get(key), MappingNode) for key in _REQUIRED_KEYS) else None

    def _read_outputs(self) -> list[str]:
        tree = self.root.get("outputs")
        if (tree is None and is_misspelling("outputs", self.unknown)) or not isinstance(tree, SequenceNode | None):
            self.unread.add("outputs")
        self._read_list("outputs", "a list of nodes")
        return self._read_names(tree, "outputs", "outputs") if isinstance(tree, SequenceNode) else []

    def _iter_auxiliary(self) -> Iterator[tuple[str, str]]:
        for label, tree in self._read_section("auxiliary", "names and nodes"):
            name = self._read_name(tree, f"auxiliary.{label}", f"auxiliary.{label}")
            if name is not None:
                yield label, name

    def _read_node(self, name: str, tree: Tree) -> Node:
        expected = "a node such as {part: FCNDecoder, from: NAME}"
        fix = _suggest_mapping(tree, "part", ", from: NAME")
        node = self.diagnostics.require(MappingNode, tree, name, expected, fix)
        if node is None:
            self.unread.add(name)
            return Node(name, Part(), ())
        unknown = self.diagnostics.report_unknown("a node", "key", node, _NODE_KEYS, name)
        return Node(name, self._read_node_part(name, node, unknown), self._read_sources(name, node, unknown))

    def _read_node_part(self, name: str, node: MappingNode, unknown: list[str]) -> Part | Shared:
        part, share = node.get("part"), node.get("share")
        if (part is None) == (share is None):
            self.unread.add(name)
            message = "a node has a part, or shares the part of another: one of the two."
            if part is not None:
                self.diagnostics.add("key", message, name, node, fix="leave one out")
            elif not is_misspelling("share", unknown):
                self.diagnostics.report_missing("part", unknown, message, name, node, "add part: PART")
        if share is None or part is not None:
            return self._read_part(part, name, None)
        self.diagnostics.record(name, share)
        owner = self._read_name(share, f"{name}.share", name)
        return Part() if owner is None else Shared(owner)

    def _read_sources(self, name: str, node: MappingNode, unknown: list[str]) -> InputNames:
        """Read the sources of a node: one name, several by position, or by name."""
        tree, path = node.get("from"), f"{name}.from"
        if tree is None:
            self.unread.add(name)
            message, fix = "a node needs from, which says what it takes.", "add from: NAME"
            self.diagnostics.report_missing("from", unknown, message, name, node, fix)
            return ()
        self.diagnostics.record(path, tree)
        if isinstance(tree, MappingNode):
            found = [(key, self._read_name(entry, f"{path}.{key}", name)) for key, entry in tree.by_name.items()]
            return tuple((key, source) for key, source in found if source is not None)
        if isinstance(tree, SequenceNode):
            return tuple(self._read_names(tree, path, name))
        source = self._read_name(tree, path, name)
        return () if source is None else (source,)

    def _read_names(self, tree: SequenceNode, path: str, owner: str) -> list[str]:
        names = [self._read_name(entry, f"{path}[{index}]", owner) for index, entry in enumerate(tree.entries)]
        return [name for name in names if name is not None]

    def _read_name(self, tree: Tree, path: str, owner: str) -> str | None:
        """Read the name of a node or an input. If it is not valid, the references of `owner` are not known."""
        name: str | None = parse_value(NAME, tree, path, self.diagnostics)
        if name is None:
            self.unread.add(owner)
        return name

    def _read_part(self, tree: Tree | None, path: str, kind: str | None) -> Part:
        """Read `Name` or `{Name: {field: value}}`; a part that is not valid is replaced by a bare one of its kind.

        `kind` is the only kind of part allowed here, or None for any.
        """
        part = None
        if tree is not None:
            self.diagnostics.record(path, tree)
            name, fields = self._read_name_and_fields(tree, path)
            cls = None if name is None else find_class(name, kind, self.parts, path, tree, self.diagnostics)
            if name is not None and cls is not None:
                fixed = get_fixed_fields(name, cls)
                part = construct(cls, name, fields, path, tree, self.diagnostics, fixed)
                part = part if kind is None or isinstance(part, KINDS[kind]) else None
        return part or (Part if kind is None else KINDS[kind])()

    def _read_name_and_fields(self, tree: Tree, path: str) -> tuple[str | None, MappingNode | None]:
        """Read the name of a part, None if it is not valid, and the mapping of its fields, None if there are none."""
        if isinstance(tree, ScalarNode) and isinstance(tree.value, str):
            return tree.value, None
        expected, fix, got = "the name of a part, or {Name: {field: value}}", None, None
        if isinstance(tree, MappingNode) and tree.pairs:
            key, fields = tree.pairs[0]
            first = get_key_name(key)
            if len(tree.pairs) > 1:
                names = list(tree.by_name)
                got = f"{len(names)} names: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}"
                fix = f"indent the fields under {first}: {{{first}: {{field: value}}}}"
            elif isinstance(fields, MappingNode):
                return first, fields
            elif isinstance(fields, ScalarNode) and fields.value is None:
                return first, None
            else:
                tree, expected = fields, f"the fields of {first} as a mapping"
        elif isinstance(tree, ScalarNode) and tree.value is None:
            fix = f"name the part, or leave {path} out"
        self.diagnostics.report_mismatch(expected, path, tree, fix, got)
        return None, None

    def _read_fields(self, default: T, tree: Tree | None, path: str, expected: str) -> T:
        """Read an instance of a class from a mapping of its fields; the default where it is not there or not valid."""
        fields = None if tree is None else self.diagnostics.require(MappingNode, tree, path, expected)
        return (fields and construct(type(default), path, fields, path, fields, self.diagnostics)) or default

    def _read_common(self) -> dict[str, Any]:
        """Read `rescale`, `crop` and `padding`, as arguments for a graph."""
        rescale, crop, padding = (self.root.get(key) for key in _COMMON_KEYS)
        sides = None if crop is None else parse_value(SIDE_PAIR, crop, "crop", self.diagnostics)
        try:
            sides = None if sides is None or None in sides else parse_height_and_width("crop", sides)
        except ValueError as error:
            self.diagnostics.add("value", f"{error}.", "crop", crop or self.root)
            sides = None
        return {
            "rescale": rescale is None or parse_value(BOOLEAN, rescale, "rescale", self.diagnostics) is not False,
            "crop": sides,
            "padding": self._read_fields(Padding(), padding, "padding", "a mapping such as {mode: reflect}"),
        }

    def _read_section(self, key: str, expected: str) -> Iterable[tuple[str, Tree]]:
        """Return the names and values under a key of the file, if it is there."""
        tree = self.root.get(key)
        section = None if tree is None else self.diagnostics.require(MappingNode, tree, key, expected)
        return section.by_name.items() if section else ()

    def _read_list(self, key: str, expected: str) -> Iterable[Tree]:
        """Return the entries of a list under a key of the file, if it is there."""
        tree = self.root.get(key)
        value = getattr(tree, "value", None)
        fix = f"write [{value}]" if isinstance(value, str) else "begin each with '- '"
        section = None if tree is None else self.diagnostics.require(SequenceNode, tree, key, expected, fix)
        return section.entries if section else ()


def _suggest_mapping(tree: Tree, key: str, rest: str = "") -> str | None:
    """Return the mapping to write instead of a name alone."""
    value = getattr(tree, "value", None)
    return f"write {{{key}: {value}{rest}}}" if isinstance(value, str) else None
