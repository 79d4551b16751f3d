"""Apply edits to the text of a spec: lines are changed where they stand, and comments are kept."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

from composer.errors import Edit, InsertNecks, SetField

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class EditError(ValueError):
    """An edit that cannot be made in a text as it stands."""


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """Return the text of a valid YAML spec with edits applied one after the other.

    Raises EditError for an edit whose node is not in the text, or whose form the text cannot express.
    """
    for edit in edits:
        root = _compose(text)
        if isinstance(edit, SetField):
            text = _set_field(text, _find_part(root, edit.node), edit)
        elif edit.names is None:
            text = _insert_in_chain(text, root, edit)
        else:
            text = _insert_nodes(text, root, edit)
    return text


def _compose(text: str) -> yaml.MappingNode:
    root = yaml.compose(text, Loader=_LOADER)
    if not isinstance(root, yaml.MappingNode):
        raise EditError("the spec is not a mapping")
    return root


def _find(node: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)


def _find_part(root: yaml.MappingNode, name: str) -> yaml.Node:
    """Return the YAML node of the part of a node of the graph, in either form."""
    nodes = _find(root, "nodes")
    if nodes is not None:
        entry = _find(nodes, name)
        found = None if entry is None else _find(entry, "part")
    else:
        found = _find_path(root, name)
    if found is None:
        raise EditError(f"{name} is not written in the spec")
    return found


def _find_path(root: yaml.Node, path: str) -> yaml.Node | None:
    """Return the node at a path such as `aux.a.decoder` or `necks[1]`."""
    found: yaml.Node | None = root
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        if found is None:
            return None
        if key:
            found = _find(found, key)
        else:
            inside = isinstance(found, yaml.SequenceNode) and int(index) < len(found.value)
            found = found.value[int(index)] if inside else None
    return found


def _get_end(node: yaml.Node) -> int:
    """Return where a node ends. The end of a block is that of its last entry: its mark is behind what follows."""
    if not isinstance(node, yaml.CollectionNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _get_end(last[1] if isinstance(last, tuple) else last)


def _replace(text: str, node: yaml.Node, new: str) -> str:
    start = node.start_mark.index
    lead = "" if start == 0 or text[start - 1] in " \n[{(" else " "
    return text[:start] + lead + new + text[_get_end(node) :]


def _set_field(text: str, part: yaml.Node, edit: SetField) -> str:
    pair = f"{edit.name}: {edit.value}"
    if isinstance(part, yaml.ScalarNode):
        return _replace(text, part, f"{{{part.value}: {{{pair}}}}}")
    name, fields = part.value[0]
    if isinstance(fields, yaml.ScalarNode):  # `Name:` without fields
        return _replace(text, fields, f"{{{pair}}}") if fields.value else _insert_after_key(text, name, f"{{{pair}}}")
    old = _find(fields, edit.name)
    if old is not None:
        return _replace(text, old, edit.value)
    return _add_entry(text, fields, pair)


def _insert_after_key(text: str, key: yaml.Node, value: str) -> str:
    colon = text.index(":", key.end_mark.index)
    return f"{text[: colon + 1]} {value}{text[colon + 1 :]}"


def _add_entry(text: str, collection: yaml.CollectionNode, entry: str) -> str:
    """Return the text with one more entry at the end of a mapping or a sequence."""
    if collection.flow_style or not collection.value:
        closing = collection.end_mark.index - 1
        return f"{text[:closing].rstrip()}{', ' if collection.value else ''}{entry}{text[closing:]}"
    return _insert_line(text, _get_end(collection), _get_indent(collection), entry)


def _get_indent(collection: yaml.CollectionNode) -> int:
    return int(collection.start_mark.column)


def _insert_line(text: str, after: int, indent: int, line: str) -> str:
    """Return the text with a line behind the one that has the position `after`."""
    end = text.find("\n", after)
    head, tail = (text, "") if end < 0 else (text[:end], text[end + 1 :])
    return f"{head}\n{' ' * indent}{line}\n{tail}"


def _insert_before(text: str, node: yaml.Node, entry: str) -> str:
    """Return the text with an entry before one of a block or flow collection."""
    start = node.start_mark.index
    line = text.rfind("\n", 0, start) + 1
    if text[line:start].strip() in ("", "-"):
        return f"{text[:line]}{text[line:start]}{entry}\n{text[line:]}"
    return f"{text[:start]}{entry}, {text[start:]}"


def _insert_in_chain(text: str, root: yaml.MappingNode, edit: InsertNecks) -> str:
    necks = list(edit.parts)
    if necks[-1] == "IdentityDecoder":
        text = _add_key(text, root, "decoder", necks.pop(), behind=("necks", "encoder"))
        root = _compose(text)
    return _insert_necks(text, root, edit.before, necks) if necks else text


def _insert_necks(text: str, root: yaml.MappingNode, before: str, necks: list[str]) -> str:
    entry = _find(root, "necks")
    if entry is None:
        return _add_key(text, root, "necks", f"[{', '.join(necks)}]", behind=("encoder",))
    assert isinstance(entry, yaml.SequenceNode)
    later = _find_path(root, before) if before.startswith("necks[") else None
    is_flow = entry.flow_style or not entry.value
    for neck in necks if later is None else reversed(necks):
        text = (
            _add_entry(text, entry, neck if is_flow else f"- {neck}")
            if later is None
            else _insert_before(text, later, neck)
        )
        root = _compose(text)
        entry = _find(root, "necks")
        assert isinstance(entry, yaml.SequenceNode)
        later = None if later is None else _find_path(root, before)
    return text


def _add_key(text: str, root: yaml.MappingNode, key: str, value: str, behind: tuple[str, ...]) -> str:
    """Return the text with a key of the chain behind the first of `behind` that is there."""
    after = next(found for name in behind if (found := _find(root, name)) is not None)
    if root.flow_style:
        end = _get_end(after)
        return f"{text[:end]}, {key}: {value}{text[end:]}"
    return _insert_line(text, _get_end(after), _get_indent(root), f"{key}: {value}")


def _insert_nodes(text: str, root: yaml.MappingNode, edit: InsertNecks) -> str:
    nodes = _find(root, "nodes")
    if not isinstance(nodes, yaml.MappingNode) or edit.names is None:
        raise EditError(f"{edit.before} is part of a chain, and these edits make it a graph")
    source = edit.source
    for name, part in zip(edit.names, edit.parts, strict=True):
        shown = part if re.fullmatch(r"[\w/.-]+", part) else f"{{{part}}}"
        text = _insert_before(text, _find_key(text, edit.before), f"{name}: {{part: {shown}, from: {source}}}")
        source = name
    entry = _find(_find(_compose(text), "nodes"), edit.before)
    sources = None if entry is None else _find(entry, "from")
    options = sources.value if isinstance(sources, yaml.SequenceNode) else [sources]
    found = next((node for node in options if isinstance(node, yaml.ScalarNode) and node.value == edit.source), None)
    if found is None:
        raise EditError(f"{edit.before} does not name {edit.source} in its inputs")
    return _replace(text, found, source)


def _find_key(text: str, name: str) -> yaml.Node:
    nodes = _find(_compose(text), "nodes")
    assert isinstance(nodes, yaml.MappingNode)
    key: yaml.Node = next(key for key, _ in nodes.value if key.value == name)
    return key
