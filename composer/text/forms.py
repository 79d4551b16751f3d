"""The two forms of a text: a chain, and a graph of named nodes. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

from composer.graph import Graph, Inputs, Node, Shared, chain
from composer.parts import Part
from composer.text.annotations import NAME
from composer.text.findings import misspelled, named
from composer.text.sections import Draft, Reader
from composer.text.tree import Mapping, Sequence, Tree
from composer.text.wanted import take

CHAIN_ONLY = ("input", "encoder", "necks", "decoder", "head", "aux")
GRAPH_ONLY = ("inputs", "nodes", "outputs", "auxiliary")
CHAIN = (*CHAIN_ONLY, "rescale", "crop", "padding")
GRAPH = (*GRAPH_ONLY, "rescale", "crop", "padding")


def chain_form(reader: Reader, written: list[str]) -> Draft:
    """The chain `encoder → necks → decoder → head`, with `aux` beside it. `written` are keys that nobody knows."""
    root = reader.root
    image, encoder = root.get("input"), root.get("encoder")
    if image is not None:
        reader.findings.mark("image", image)
    if encoder is None and not misspelled("encoder", written):
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
        if (branch := tuple(_branch(reader, label, tree)))
    }
    return Draft(chain(*parts, aux=aux, input=reader.image(image, "input"), **reader.common()))


def _branch(reader: Reader, label: str, tree: Tree) -> Iterator[Part]:
    path = f"aux.{label}"
    expected = "a branch such as {decoder: FCNDecoder, head: RegressionHead}"
    pairs = reader.pairs(tree, path, expected, _wrapped(tree, "decoder"))
    kinds = dict(pairs)
    unknown = [key for key, _ in getattr(tree, "pairs", ()) if key.value not in ("decoder", "head")]
    reader.findings.keys("a branch", "key", unknown, ("decoder", "head"), path)
    if "decoder" in kinds:
        yield reader.part(kinds["decoder"], f"{path}.decoder", "decoder")
    elif isinstance(tree, Mapping) and not misspelled("decoder", map(named, unknown)):
        reader.findings.add("missing", "a branch needs a decoder.", path, tree, repair="add decoder: FCNDecoder")
    if "head" in kinds:
        if "decoder" not in kinds:
            yield reader.part(None, f"{path}.decoder", "decoder")
        yield reader.part(kinds["head"], f"{path}.head", "head")


_NEEDED = {"inputs": "inputs: {image: {channels: 3}}", "nodes": "nodes: {NAME: {part: PART, from: NAME}}"}
_NODE = ("part", "share", "from")


def graph_form(reader: Reader, written: list[str]) -> Draft:
    """A graph of named nodes. `written` are keys that nobody knows."""
    root = reader.root
    for key, example in _NEEDED.items():
        if root.get(key) is None and not misspelled(key, written):
            reader.findings.add("missing", f"a graph needs {key}.", "", root, repair=f"add {example}")
    unread: set[str] = set()
    graph = Graph(
        inputs=tuple((name, reader.image(tree, name)) for name, tree in reader.section("inputs", "names and images")),
        nodes=[_node(reader, name, tree, unread) for name, tree in reader.section("nodes", "names and nodes")],
        outputs=_outputs(reader, written, unread),
        auxiliary=tuple(_auxiliary(reader, unread)),
        **reader.common(),
    )
    known = all(isinstance(root.get(key), Mapping) for key in _NEEDED)
    return Draft(graph if known else None, unread)


def _outputs(reader: Reader, written: list[str], unread: set[str]) -> list[str]:
    tree = reader.root.get("outputs")
    if (tree is None and misspelled("outputs", written)) or not isinstance(tree, Sequence | None):
        unread.add("outputs")
    entries = reader.entries("outputs", "a list of nodes")
    return [
        name
        for index, entry in enumerate(entries)
        if (name := _name(reader, entry, f"outputs[{index}]", "outputs", unread)) is not None
    ]


def _auxiliary(reader: Reader, unread: set[str]) -> Iterator[tuple[str, str]]:
    for label, tree in reader.section("auxiliary", "names and nodes"):
        name = _name(reader, tree, f"auxiliary.{label}", f"auxiliary.{label}", unread)
        if name is not None:
            yield label, name


def _node(reader: Reader, name: str, tree: Tree, unread: set[str]) -> Node:
    if not isinstance(tree, Mapping):
        unread.add(name)
        reader.findings.mark(name, tree)
        repair = _wrapped(tree, "part", f", from: {reader.an_input}")
        reader.mismatch(tree, name, "a node such as {part: FCNDecoder, from: NAME}", repair)
        return Node(name, Part(), ())
    unknown = [key for key, _ in tree.pairs if key.value not in _NODE]
    reader.findings.keys("a node", "key", unknown, _NODE, name)
    written = [named(key) for key in unknown]
    return Node(name, _what(reader, name, tree, written, unread), _sources(reader, name, tree, written, unread))


def _what(reader: Reader, name: str, node: Mapping, written: list[str], unread: set[str]) -> Part | Shared:
    """The part of a node, or the node whose part it shares."""
    part, share = node.get("part"), node.get("share")
    if (part is None) == (share is None):
        unread.add(name)
        if part is not None or not any(misspelled(key, written) for key in ("part", "share")):
            code, at, repair = ("missing", node, "add part: PART") if part is None else ("key", node, "leave one out")
            message = "a node has a part, or shares the part of another: one of the two."
            reader.findings.add(code, message, name, at, repair=repair)
    if share is None or part is not None:
        reader.findings.mark(name, node)
        return reader.part(part, name, None)
    reader.findings.mark(name, share)
    owner = _name(reader, share, f"{name}.share", name, unread)
    return Part() if owner is None else Shared(owner)


def _sources(reader: Reader, name: str, node: Mapping, written: list[str], unread: set[str]) -> Inputs:
    """What a node takes: one name, several by position, or by name."""
    tree, path = node.get("from"), f"{name}.from"
    if tree is None:
        unread.add(name)
        if not misspelled("from", written):
            message = "a node needs from, which says what it takes."
            reader.findings.add("missing", message, name, node, repair=f"add from: {reader.an_input}")
        return ()
    reader.findings.mark(path, tree)
    if isinstance(tree, Mapping):
        pairs = [(named(key), _name(reader, entry, f"{path}.{named(key)}", name, unread)) for key, entry in tree.pairs]
        return tuple((argument, source) for argument, source in pairs if source is not None)
    entries: list[tuple[str, Tree]] = [(path, tree)]
    if isinstance(tree, Sequence):
        entries = [(f"{path}[{index}]", entry) for index, entry in enumerate(tree.entries)]
    names = [_name(reader, entry, where, name, unread) for where, entry in entries]
    return tuple(source for source in names if source is not None)


def _wrapped(tree: Tree, key: str, rest: str = "") -> str | None:
    """What to write where a name stands alone."""
    value = getattr(tree, "value", None)
    return f"write {{{key}: {value}{rest}}}" if isinstance(value, str) else None


def _name(reader: Reader, tree: Tree, path: str, owner: str, unread: set[str]) -> str | None:
    """The name of a node or input. What `owner` refers to is not known where it cannot be read."""
    name: str | None = take(NAME, tree, path, reader.findings)
    if name is None:
        unread.add(owner)
    return name
