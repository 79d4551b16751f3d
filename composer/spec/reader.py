"""Read a spec into a graph."""

from __future__ import annotations

import os
from collections.abc import Iterator
from collections.abc import Sequence as Entries
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen

from composer.errors import Place, Problem, SpecError, truncate_problems
from composer.graph import Graph, InputNames, Node, Shared, chain
from composer.layouts import Image, parse_height_and_width
from composer.parts import KINDS, Part
from composer.sizes import Padding
from composer.spec.parts import Parts, construct, resolve_part
from composer.spec.schema import (
    BOOLEAN,
    NAME,
    SIDE_PAIR,
    Diagnostics,
    TooManyProblemsError,
    get_key_name,
    is_misspelling,
    parse_value,
)
from composer.spec.yaml import MappingNode, ScalarNode, SequenceNode, Tree, describe_value, parse_document
from composer.structure import find_structural_problems

SPEC_KEY = "composer.spec"
"""The key of a file's metadata under which the spec is, as text."""


WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
"""How the names of weights files end."""


def is_weights_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a path has the name of a weights file, of which only the first kind can hold a spec."""
    return Path(os.fsdecode(path)).suffix.lower() in WEIGHTS_SUFFIXES


def read_embedded_spec(path: str | os.PathLike[str]) -> str:
    """Return the spec in a weights file. Raises SpecError where there is none, or the file cannot be read."""
    # Not at the top: most specs are in files of their own.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(SPEC_KEY)
    except (OSError, ValueError, SafetensorError):
        text = None
    if text is None:
        message = "no spec was found in this weights file."
        repair = "give the YAML spec, or a file that composer.save wrote; `run` takes other weights with --weights FILE"
        raise SpecError([Problem(code="file", message=message, place=Place("", os.fsdecode(path)), repair=repair)])
    return str(text)


@define
class PartialGraph:
    """A graph as far as it could be read: where a part could not be, a bare one stands, so that names are known.

    `unread` holds the paths whose references are not known. `graph` is None where that holds for all.
    """

    graph: Graph | None = None
    unread: set[str] = field(factory=set)

    def is_reliable(self, problem: Problem) -> bool:
        """Whether a problem of the structure holds, whatever stands in the places that could not be read."""
        if problem.code == "unused":
            return not self.unread
        return problem.code != "reference" or problem.place.path not in self.unread


@frozen
class SectionReader:
    """Reads the sections of one text. All that is wrong is put down in `findings`."""

    root: MappingNode
    parts: Parts
    findings: Diagnostics

    def part(self, tree: Tree | None, path: str, kind: str | None) -> Part:
        """A part; a bare one of its kind where there is none that can be read."""
        made = None if tree is None else resolve_part(tree, path, kind, self.parts, self.findings)
        return made or (Part if kind is None else KINDS[kind])()

    def image(self, tree: Tree | None, path: str) -> Image:
        """An input; the default where there is none."""
        if tree is None:
            return Image()
        self.findings.mark(path, tree)
        if isinstance(tree, MappingNode):
            return construct(Image, path, tree, path, tree, self.findings) or Image()
        self.report_mismatch(tree, path, "the fields of an image, such as {channels: 3}")
        return Image()

    def section(self, key: str, expected: str) -> tuple[tuple[str, Tree], ...]:
        """The names and values under a key of the file; nothing where the key is not there."""
        tree = self.root.get(key)
        return () if tree is None else self.pairs(tree, key, expected)

    def pairs(self, tree: Tree, path: str, expected: str, repair: str | None = None) -> tuple[tuple[str, Tree], ...]:
        """The names and values of a mapping."""
        self.findings.mark(path, tree)
        if not isinstance(tree, MappingNode):
            self.report_mismatch(tree, path, expected, repair)
            return ()
        return tuple((get_key_name(key), value) for key, value in tree.pairs)

    def entries(self, key: str, expected: str) -> Entries[Tree]:
        """The entries of a list under a key of the file; nothing where the key is not there."""
        tree = self.root.get(key)
        if tree is None:
            return ()
        self.findings.mark(key, tree)
        if isinstance(tree, SequenceNode):
            return tree.entries
        value = getattr(tree, "value", None)
        self.report_mismatch(
            tree, key, expected, f"write [{value}]" if isinstance(value, str) else "begin each with '- '"
        )
        return ()

    @property
    def an_input(self) -> str:
        """The name of an input, for a repair."""
        inputs = self.root.get("inputs")
        return get_key_name(inputs.pairs[0][0]) if isinstance(inputs, MappingNode) and inputs.pairs else "NAME"

    def report_mismatch(self, tree: Tree, path: str, expected: str, repair: str | None = None) -> None:
        """Put down that a value is not even of the right shape."""
        got = describe_value(tree)
        message = f"expected {expected} (got {got})."
        self.findings.add("type", message, path, tree, expected=expected, got=got, repair=repair)

    def parse_common(self) -> dict[str, Any]:
        """`rescale`, `crop` and `padding`, as arguments for a graph."""
        given: dict[str, Any] = {}
        rescale, crop, padding = (self.root.get(key) for key in ("rescale", "crop", "padding"))
        if rescale is not None:
            given["rescale"] = parse_value(BOOLEAN, rescale, "rescale", self.findings) is not False
        if crop is not None:
            given["crop"] = self._parse_crop(crop)
        if isinstance(padding, MappingNode):
            self.findings.mark("padding", padding)
            made = construct(Padding, "padding", padding, "padding", padding, self.findings)
            given["padding"] = made or Padding()
        elif padding is not None:
            self.report_mismatch(padding, "padding", "a mapping such as {mode: reflect}")
        return given

    def _parse_crop(self, tree: Tree) -> tuple[int, int] | None:
        sides = parse_value(SIDE_PAIR, tree, "crop", self.findings)
        try:
            return None if sides is None or None in sides else parse_height_and_width("crop", sides)
        except ValueError as error:
            self.findings.add("value", f"{error}.", "crop", tree)
            return None


CHAIN_ONLY_KEYS = ("input", "encoder", "necks", "decoder", "head", "aux")


GRAPH_ONLY_KEYS = ("inputs", "nodes", "outputs", "auxiliary")


CHAIN_KEYS = (*CHAIN_ONLY_KEYS, "rescale", "crop", "padding")


GRAPH_KEYS = (*GRAPH_ONLY_KEYS, "rescale", "crop", "padding")


def parse_chain(reader: SectionReader, written: list[str]) -> PartialGraph:
    """The chain `encoder → necks → decoder → head`, with `aux` beside it. `written` are keys that nobody knows."""
    root = reader.root
    image, encoder = root.get("input"), root.get("encoder")
    if image is not None:
        reader.findings.mark("image", image)
    if encoder is None and not is_misspelling("encoder", written):
        reader.findings.add("missing", "a chain needs an encoder.", "", root, repair="encoder: timm/resnet50")
    necks = reader.entries("necks", "a list of necks")
    parts = [
        reader.part(encoder, "encoder", "encoder"),
        *(reader.part(tree, f"necks[{index}]", "neck") for index, tree in enumerate(necks)),
    ]
    parts += [reader.part(tree, kind, kind) for kind in ("decoder", "head") if (tree := root.get(kind)) is not None]
    aux = {
        label: branch
        for label, tree in reader.section("aux", "a mapping of names to branches")
        if (branch := tuple(_parse_branch(reader, label, tree)))
    }
    return PartialGraph(chain(*parts, aux=aux, input=reader.image(image, "input"), **reader.parse_common()))


def _parse_branch(reader: SectionReader, label: str, tree: Tree) -> Iterator[Part]:
    path = f"aux.{label}"
    expected = "a branch such as {decoder: FCNDecoder, head: RegressionHead}"
    pairs = reader.pairs(tree, path, expected, _suggest_mapping(tree, "decoder"))
    kinds = dict(pairs)
    unknown = [key for key, _ in getattr(tree, "pairs", ()) if key.value not in ("decoder", "head")]
    reader.findings.keys("a branch", "key", unknown, ("decoder", "head"), path)
    if "decoder" in kinds:
        yield reader.part(kinds["decoder"], f"{path}.decoder", "decoder")
    elif isinstance(tree, MappingNode) and not is_misspelling("decoder", map(get_key_name, unknown)):
        reader.findings.add("missing", "a branch needs a decoder.", path, tree, repair="add decoder: FCNDecoder")
    if "head" in kinds:
        if "decoder" not in kinds:
            yield reader.part(None, f"{path}.decoder", "decoder")
        yield reader.part(kinds["head"], f"{path}.head", "head")


_REQUIRED_KEYS = {"inputs": "inputs: {image: {channels: 3}}", "nodes": "nodes: {NAME: {part: PART, from: NAME}}"}


_NODE_KEYS = ("part", "share", "from")


def parse_graph(reader: SectionReader, written: list[str]) -> PartialGraph:
    """A graph of named nodes. `written` are keys that nobody knows."""
    root = reader.root
    for key, example in _REQUIRED_KEYS.items():
        if root.get(key) is None and not is_misspelling(key, written):
            reader.findings.add("missing", f"a graph needs {key}.", "", root, repair=f"add {example}")
    unread: set[str] = set()
    graph = Graph(
        inputs=tuple((name, reader.image(tree, name)) for name, tree in reader.section("inputs", "names and images")),
        nodes=[_parse_node(reader, name, tree, unread) for name, tree in reader.section("nodes", "names and nodes")],
        outputs=_parse_outputs(reader, written, unread),
        auxiliary=tuple(_parse_auxiliary(reader, unread)),
        **reader.parse_common(),
    )
    known = all(isinstance(root.get(key), MappingNode) for key in _REQUIRED_KEYS)
    return PartialGraph(graph if known else None, unread)


def _parse_outputs(reader: SectionReader, written: list[str], unread: set[str]) -> list[str]:
    tree = reader.root.get("outputs")
    if (tree is None and is_misspelling("outputs", written)) or not isinstance(tree, SequenceNode | None):
        unread.add("outputs")
    entries = reader.entries("outputs", "a list of nodes")
    return [
        name
        for index, entry in enumerate(entries)
        if (name := _parse_name(reader, entry, f"outputs[{index}]", "outputs", unread)) is not None
    ]


def _parse_auxiliary(reader: SectionReader, unread: set[str]) -> Iterator[tuple[str, str]]:
    for label, tree in reader.section("auxiliary", "names and nodes"):
        name = _parse_name(reader, tree, f"auxiliary.{label}", f"auxiliary.{label}", unread)
        if name is not None:
            yield label, name


def _parse_node(reader: SectionReader, name: str, tree: Tree, unread: set[str]) -> Node:
    if not isinstance(tree, MappingNode):
        unread.add(name)
        reader.findings.mark(name, tree)
        repair = _suggest_mapping(tree, "part", f", from: {reader.an_input}")
        reader.report_mismatch(tree, name, "a node such as {part: FCNDecoder, from: NAME}", repair)
        return Node(name, Part(), ())
    unknown = [key for key, _ in tree.pairs if key.value not in _NODE_KEYS]
    reader.findings.keys("a node", "key", unknown, _NODE_KEYS, name)
    written = [get_key_name(key) for key in unknown]
    return Node(
        name, _parse_node_part(reader, name, tree, written, unread), _parse_sources(reader, name, tree, written, unread)
    )


def _parse_node_part(
    reader: SectionReader, name: str, node: MappingNode, written: list[str], unread: set[str]
) -> Part | Shared:
    """The part of a node, or the node whose part it shares."""
    part, share = node.get("part"), node.get("share")
    if (part is None) == (share is None):
        unread.add(name)
        if part is not None or not any(is_misspelling(key, written) for key in ("part", "share")):
            code, at, repair = ("missing", node, "add part: PART") if part is None else ("key", node, "leave one out")
            message = "a node has a part, or shares the part of another: one of the two."
            reader.findings.add(code, message, name, at, repair=repair)
    if share is None or part is not None:
        reader.findings.mark(name, node)
        return reader.part(part, name, None)
    reader.findings.mark(name, share)
    owner = _parse_name(reader, share, f"{name}.share", name, unread)
    return Part() if owner is None else Shared(owner)


def _parse_sources(
    reader: SectionReader, name: str, node: MappingNode, written: list[str], unread: set[str]
) -> InputNames:
    """What a node takes: one name, several by position, or by name."""
    tree, path = node.get("from"), f"{name}.from"
    if tree is None:
        unread.add(name)
        if not is_misspelling("from", written):
            message = "a node needs from, which says what it takes."
            reader.findings.add("missing", message, name, node, repair=f"add from: {reader.an_input}")
        return ()
    reader.findings.mark(path, tree)
    if isinstance(tree, MappingNode):
        pairs = [
            (get_key_name(key), _parse_name(reader, entry, f"{path}.{get_key_name(key)}", name, unread))
            for key, entry in tree.pairs
        ]
        return tuple((argument, source) for argument, source in pairs if source is not None)
    entries: list[tuple[str, Tree]] = [(path, tree)]
    if isinstance(tree, SequenceNode):
        entries = [(f"{path}[{index}]", entry) for index, entry in enumerate(tree.entries)]
    names = [_parse_name(reader, entry, where, name, unread) for where, entry in entries]
    return tuple(source for source in names if source is not None)


def _suggest_mapping(tree: Tree, key: str, rest: str = "") -> str | None:
    """What to write where a name stands alone."""
    value = getattr(tree, "value", None)
    return f"write {{{key}: {value}{rest}}}" if isinstance(value, str) else None


def _parse_name(reader: SectionReader, tree: Tree, path: str, owner: str, unread: set[str]) -> str | None:
    """The name of a node or input. What `owner` refers to is not known where it cannot be read."""
    name: str | None = parse_value(NAME, tree, path, reader.findings)
    if name is None:
        unread.add(owner)
    return name


def parse_spec(text: str, file: str | None, parts: Parts) -> Graph:
    """The graph that `text` describes, with the place of every path in its `source`.

    Raises SpecError with all the problems of the text, in its order; of more than a hundred, with the first ones.
    """
    tree, problems = parse_document(text, file)
    findings = Diagnostics(file)
    try:
        draft = _parse_root(tree, parts, findings)
    except TooManyProblemsError:
        draft = PartialGraph()
    # What the document was complained of has no meaning, so that nothing else is to be said of it.
    taken = {(problem.place.line, problem.place.column) for problem in problems}
    found = problems + [p for p in findings.problems if (p.place.line, p.place.column) not in taken]
    if draft.graph is not None:
        doubtful = bool(problems)
        structural = (p for p in find_structural_problems(draft.graph) if draft.is_reliable(p))
        found += truncate_problems(p for p in structural if not (doubtful and p.code == "unused"))
    if found:
        raise SpecError(truncate_problems(sorted(found, key=_get_sort_key)))
    assert draft.graph is not None
    return draft.graph


def _get_sort_key(problem: Problem) -> tuple[int, int]:
    return problem.place.line or 0, problem.place.column or 0


def _parse_root(root: Tree, parts: Parts, findings: Diagnostics) -> PartialGraph:
    findings.mark("", root)
    if not isinstance(root, MappingNode):
        is_path = isinstance(root, ScalarNode) and str(root.value).endswith((".yaml", ".yml"))
        repair = "composer.read reads a file" if is_path else "describe a model: encoder: timm/resnet50"
        findings.add("type", f"expected a mapping of keys (got {describe_value(root)}).", "", root, repair=repair)
        return PartialGraph()
    keys = [key for key, _ in root.pairs]
    names = [get_key_name(key) for key in keys]
    is_graph = "nodes" in names or ("encoder" not in names and any(name in GRAPH_ONLY_KEYS for name in names))
    known, foreign = (GRAPH_KEYS, CHAIN_ONLY_KEYS) if is_graph else (CHAIN_KEYS, GRAPH_ONLY_KEYS)
    mixed = [key for key in keys if key.value in foreign]
    if mixed:
        _refuse_mixed_forms(mixed, known, findings)
    findings.keys("a model", "key", [key for key in keys if key.value not in (*known, *foreign)], known, "")
    form = parse_graph if is_graph else parse_chain
    # Where the forms are mixed, nothing is missing: it may be there in the other form's words.
    written = [*known, *names] if mixed else [name for name in names if name not in known]
    draft = form(SectionReader(root, parts, findings), written)
    return draft if draft.graph is None else PartialGraph(evolve(draft.graph, source=findings.source), draft.unread)


def _refuse_mixed_forms(mixed: list[ScalarNode], known: tuple[str, ...], findings: Diagnostics) -> None:
    this, other = ("a graph", "a chain") if known is GRAPH_KEYS else ("a chain", "a graph")
    names = [get_key_name(key) for key in mixed]
    verb = "belongs" if len(names) == 1 else "belong"
    message = f"a file is a chain or a graph, and this one is {this}: {', '.join(names)} {verb} to {other}."
    meant = {"input": "inputs", "inputs": "input"}.get(names[0])
    repair = f"did you mean {meant}?" if meant else f"leave out what belongs to {other}"
    findings.add("key", message, names[0], mixed[0], repair=repair)
