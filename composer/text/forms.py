"""The two forms of a text: a chain, and a graph of named nodes. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

from composer.graph import Graph, InputNames, Node, Shared, chain
from composer.parts import Part
from composer.text.annotations import NAME
from composer.text.findings import get_key_name, is_misspelling
from composer.text.sections import PartialGraph, SectionReader
from composer.text.tree import MappingNode, SequenceNode, Tree
from composer.text.wanted import parse_value

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
