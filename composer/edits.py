"""Fix the text of a spec: lines are changed where they stand, and comments are kept."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml
from attrs import frozen

from composer.errors import Edit, Fix, InsertNecks, Problem, SetField, SpecError
from composer.inference import infer
from composer.spec.reader import reads

MAX_ROUNDS = 10
"""The number of times that a spec is fixed and read again: one problem may hide another."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class EditError(ValueError):
    """An edit that cannot be made in a text as it stands."""


@frozen
class FixedSpec:
    """A spec with fixes applied, a line for each fix, a line for each that was not applied, and the problems left."""

    text: str
    applied: tuple[str, ...]
    skipped: tuple[str, ...]
    problems: tuple[Problem, ...]


def fix_text(text: str, name: str) -> FixedSpec:
    """Apply the fixes of the problems of a spec to its text, as far as they are edits and solve the problems."""
    applied: list[str] = []
    skipped: list[str] = []
    problems = _find_problems(text, name)
    for _ in range(MAX_ROUNDS):
        fixes = {(one.code, one.place.path): one.fix for one in problems if isinstance(one.fix, Fix)}
        if not fixes:
            break
        lines = [f"{path}: {fix}" for (_, path), fix in fixes.items()]
        try:
            fixed = apply_edits(text, [edit for fix in fixes.values() for edit in fix.edits])
            left = _find_problems(fixed, name)
            if any((problem.code, problem.place.path) in fixes or problem.code == "yaml" for problem in left):
                raise EditError("the edited text still has this problem")
        except EditError as error:
            skipped = [f"{line} ({error})" for line in lines]
            break
        applied += lines
        text, problems = fixed, left
    return FixedSpec(text, tuple(applied), tuple(skipped), problems)


def _find_problems(text: str, name: str) -> tuple[Problem, ...]:
    try:
        infer(reads(text, name=name))
    except SpecError as error:
        return error.problems
    return ()


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
    assert isinstance(root, yaml.MappingNode)  # the text is valid
    return root


def _find(node: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)


def _find_part(root: yaml.MappingNode, name: str) -> yaml.Node:
    """Return the YAML node of the part of a node of the graph, in either form."""
    nodes = _find(root, "nodes")
    found = _find_path(root, name) if nodes is None else _find(_find(nodes, name), "part")
    if found is None:
        raise EditError(f"{name} is not written in the spec")
    return found


def _find_path(root: yaml.Node, path: str) -> yaml.Node | None:
    """Return the node at a path such as `aux.a.decoder` or `necks[1]`."""
    found: yaml.Node | None = root
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        if key:
            found = _find(found, key)
        else:
            entries = found.value if isinstance(found, yaml.SequenceNode) else []
            found = entries[int(index)] if int(index) < len(entries) else None
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
    fields = part.value[0][1]
    if isinstance(fields, yaml.ScalarNode):  # `Name:` without fields
        return _replace(text, fields, f"{{{pair}}}")
    old = _find(fields, edit.name)
    return _add_entries(text, fields, [pair]) if old is None else _replace(text, old, edit.value)


def _add_entries(text: str, collection: yaml.CollectionNode, entries: Iterable[str]) -> str:
    """Return the text with more entries at the end of a mapping or a sequence."""
    if collection.flow_style or not collection.value:
        closing = collection.end_mark.index - 1
        added = ", ".join([*([""] if collection.value else []), *entries])
        return f"{text[:closing].rstrip()}{added}{text[closing:]}"
    dash = "- " if isinstance(collection, yaml.SequenceNode) else ""
    lines = [f"{' ' * collection.start_mark.column}{dash}{entry}" for entry in entries]
    return _insert_lines(text, _get_end(collection), lines)


def _insert_lines(text: str, after: int, lines: Iterable[str]) -> str:
    """Return the text with lines behind the one that has the position `after`."""
    end = text.find("\n", after)
    head, tail = (text, "") if end < 0 else (text[:end], text[end + 1 :])
    return "\n".join([head, *lines, tail])


def _insert_before(text: str, node: yaml.Node, entries: Iterable[str]) -> str:
    """Return the text with entries before one of a block or flow collection."""
    start = node.start_mark.index
    line = text.rfind("\n", 0, start) + 1
    lead = text[line:start]
    if lead.strip() in ("", "-"):
        return text[:line] + "".join(f"{lead}{entry}\n" for entry in entries) + text[line:]
    return text[:start] + "".join(f"{entry}, " for entry in entries) + text[start:]


def _insert_in_chain(text: str, root: yaml.MappingNode, edit: InsertNecks) -> str:
    necks = list(edit.parts)
    if necks[-1] == "IdentityDecoder":
        text = _add_key(text, root, "decoder", necks.pop(), behind=("necks", "encoder"))
        root = _compose(text)
    return _insert_necks(text, root, edit.before, necks) if necks else text


def _insert_necks(text: str, root: yaml.MappingNode, before: str, necks: list[str]) -> str:
    section = _find(root, "necks")
    if section is None:
        return _add_key(text, root, "necks", f"[{', '.join(necks)}]", behind=("encoder",))
    assert isinstance(section, yaml.SequenceNode)
    later = _find_path(root, before) if before.startswith("necks[") else None
    return _add_entries(text, section, necks) if later is None else _insert_before(text, later, necks)


def _add_key(text: str, root: yaml.MappingNode, key: str, value: str, behind: tuple[str, ...]) -> str:
    """Return the text with a key of the chain behind the first of `behind` that is there."""
    after = next(found for name in behind if (found := _find(root, name)) is not None)
    if root.flow_style:
        end = _get_end(after)
        return f"{text[:end]}, {key}: {value}{text[end:]}"
    return _insert_lines(text, _get_end(after), [f"{' ' * root.start_mark.column}{key}: {value}"])


def _insert_nodes(text: str, root: yaml.MappingNode, edit: InsertNecks) -> str:
    nodes = _find(root, "nodes")
    if not isinstance(nodes, yaml.MappingNode) or edit.names is None:
        raise EditError(f"{edit.before} is part of a chain, and these edits make it a graph")
    key, entry = next((key, entry) for key, entry in nodes.value if key.value == edit.before)
    sources = _find(entry, "from")
    options = sources.value if isinstance(sources, yaml.SequenceNode) else [sources]
    found = next((node for node in options if isinstance(node, yaml.ScalarNode) and node.value == edit.source), None)
    if found is None or found.start_mark.index < key.start_mark.index:  # behind an alias
        raise EditError(f"{edit.before} does not name {edit.source} in its inputs")
    source, entries = edit.source, []
    for name, part in zip(edit.names, edit.parts, strict=True):
        shown = part if re.fullmatch(r"[\w/.-]+", part) else f"{{{part}}}"
        entries.append(f"{name}: {{part: {shown}, from: {source}}}")
        source = name
    return _insert_before(_replace(text, found, source), key, entries)
