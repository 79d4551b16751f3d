"""From text to a tree of values, each with its line and column. No torch here.

The text is data and stays data: it is read from libyaml's events, one after the other, and tags mean nothing. Merge
keys do where the caller says so. What makes readers of YAML slow or brings them down (depth, size, aliases that
multiply) is bounded while the events pass by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import yaml
from attrs import define, field

from composer.parts.fields import MAX_DEPTH
from composer.problem import MAX_PROBLEMS, Place, Problem, SpecError, truncate_problems
from composer.text.characters import refuse_characters
from composer.text.scalars import ScalarValue, parse_scalar
from composer.text.tree import MappingNode, ScalarNode, SequenceNode, Tree, describe_value

MAX_TREE_NODES = 20_000
"""Values in a file, where each use of an alias counts all that it stands for."""

# libyaml is fifteen times as fast; PyYAML can be built without it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Position = tuple[int, int]
"""A line and a column."""


@define
class _OpenCollection:
    """A list or mapping that is being read: `key` is the one whose value comes next, `height` how deep it nests."""

    at: Position
    anchor: str | None
    is_mapping: bool
    nodes_before: int
    items: list[Tree] = field(factory=list)
    pairs: list[tuple[ScalarNode, Tree]] = field(factory=list)
    key: Tree | None = None
    lines: dict[str, int] = field(factory=dict)
    merged: tuple[MappingNode, ...] = ()
    height: int = 1


@define
class _TreeBuilder:
    """A tree while its events pass by. What can be passed over is put down in `problems`; the rest is raised."""

    file: str | None
    as_pyyaml: bool = False
    problems: list[Problem] = field(factory=list)
    stack: list[_OpenCollection] = field(factory=list)
    anchors: dict[str, tuple[Tree, int, int] | None] = field(factory=dict)
    nodes: int = 0
    documents: int = 0
    incomplete: bool = False
    root: Tree | None = None

    def document(self, _: yaml.DocumentStartEvent, at: Position) -> None:
        self.documents += 1
        if self.documents > 1:
            self.fail("yaml", "a file holds one document; a second one begins here.", at)

    def scalar(self, event: yaml.ScalarEvent, at: Position) -> None:
        self._count_nodes(1, at)
        value: ScalarValue = event.value
        if event.tag is not None:
            self._report_tag(event.tag, at)
        if not event.style:
            try:
                value = parse_scalar(event.value)
            except ValueError as error:
                self._report("limit", str(error), at)
        scalar = ScalarNode(value, *at, bool(event.style))
        if event.anchor:
            self.anchors[event.anchor] = scalar, 1, 0
        self._insert(scalar, 0)

    def start(self, event: yaml.CollectionStartEvent, at: Position) -> None:
        self._count_nodes(1, at)
        if event.tag is not None:
            self._report_tag(event.tag, at)
        if event.anchor:
            self.anchors[event.anchor] = None
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        self.stack.append(_OpenCollection(at, event.anchor, is_mapping, self.nodes - 1))
        self._check_depth(0, at)

    def end(self, _: yaml.CollectionEndEvent, __: Position) -> None:
        done = self.stack.pop()
        tree = (
            MappingNode(_merge_pairs(done), *done.at) if done.is_mapping else SequenceNode(tuple(done.items), *done.at)
        )
        if done.anchor:
            self.anchors[done.anchor] = tree, self.nodes - done.nodes_before, done.height
        self._insert(tree, done.height)

    def alias(self, event: yaml.AliasEvent, at: Position) -> None:
        name = event.anchor
        if name not in self.anchors:
            self.fail("yaml", f"there is no anchor &{name} before this alias.", at)
        anchored = self.anchors[name]
        if anchored is None:
            self.fail("yaml", f"the alias *{name} stands inside of what it stands for.", at, "write it out")
        tree, nodes, height = anchored
        self._count_nodes(nodes, at)
        self._check_depth(height, at)
        self._insert(tree, height)

    def _insert(self, tree: Tree, height: int) -> None:
        if not self.stack:
            self.root = tree
            return
        parent = self.stack[-1]
        if height >= parent.height:
            parent.height = height + 1
        if not parent.is_mapping:
            parent.items.append(tree)
        elif parent.key is None:
            parent.key = tree
        else:
            self._add_pair(parent, parent.key, tree)
            parent.key = None

    def _add_pair(self, parent: _OpenCollection, key: Tree, value: Tree) -> None:
        at = (key.line, key.column)
        if not isinstance(key, ScalarNode) or not isinstance(key.value, str):
            self.incomplete = True
            self._report("yaml", f"a key is a string (got {describe_value(key)}).", at)
        elif key.value == "<<" and not key.quoted and not parent.merged:
            self._handle_merge_key(parent, key, value)
        elif key.value in parent.lines:
            self._handle_repeated_key(parent, key, value, at)
        else:
            parent.lines[key.value] = key.line
            parent.pairs.append((key, value))

    def _handle_repeated_key(self, parent: _OpenCollection, key: ScalarNode, value: Tree, at: Position) -> None:
        name, before = str(key.value), parent.lines[str(key.value)]
        if not self.as_pyyaml:
            message = f"the key {name!r} is here for the second time; the first is on line {before}."
            self._report("repeated", message, at, "leave one of them out")
            return
        self._report("repeated", f"the key {name!r} is repeated: this value replaces the one on line {before}.", at)
        parent.lines[name] = key.line
        parent.pairs = [pair for pair in parent.pairs if pair[0].value != name] + [(key, value)]

    def _handle_merge_key(self, parent: _OpenCollection, key: ScalarNode, value: Tree) -> None:
        sources = value.entries if isinstance(value, SequenceNode) else (value,)
        mappings = tuple(one for one in sources if isinstance(one, MappingNode))
        if self.as_pyyaml and mappings and len(mappings) == len(sources):
            parent.merged = mappings
            return
        self.incomplete = True
        said = f"a merge key (<<) takes a mapping, or a list of them (got {describe_value(value)})."
        refused = said if self.as_pyyaml else "merge keys (<<) mean nothing here."
        self._report("yaml", refused, (key.line, key.column), "write the keys out")

    def _count_nodes(self, nodes: int, at: Position) -> None:
        self.nodes += nodes
        if self.nodes > MAX_TREE_NODES:
            rule = f"a file has at most {MAX_TREE_NODES:,} values, counting what each alias stands for."
            self.fail("limit", rule, at)

    def _check_depth(self, height: int, at: Position) -> None:
        if len(self.stack) + height > MAX_DEPTH:
            self.fail("limit", f"lists and mappings nest at most {MAX_DEPTH} deep.", at)

    def _report_tag(self, tag: str, at: Position) -> None:
        written = tag.replace("tag:yaml.org,2002:", "!!")
        self._report("yaml", f"tags mean nothing here (got {written}).", at, "leave the tag out")

    def _report(self, code: str, message: str, at: Position, repair: str | None = None) -> None:
        place = Place("", self.file, *at)
        self.problems.append(Problem(code=code, message=message, place=place, repair=repair))
        if len(self.problems) > MAX_PROBLEMS:
            raise SpecError(truncate_problems(self.problems))

    def fail(self, code: str, message: str, at: Position, repair: str | None = None) -> NoReturn:
        self._report(code, message, at, repair)
        raise SpecError(self.problems)


_EVENT_HANDLERS: dict[type[yaml.Event], Callable[[_TreeBuilder, Any, Position], None]] = {
    yaml.DocumentStartEvent: _TreeBuilder.document,
    yaml.ScalarEvent: _TreeBuilder.scalar,
    yaml.SequenceStartEvent: _TreeBuilder.start,
    yaml.MappingStartEvent: _TreeBuilder.start,
    yaml.SequenceEndEvent: _TreeBuilder.end,
    yaml.MappingEndEvent: _TreeBuilder.end,
    yaml.AliasEvent: _TreeBuilder.alias,
}


def parse_document(text: str, file: str | None = None, *, as_pyyaml: bool = False) -> tuple[Tree, list[Problem]]:
    """The tree of `text`, and the problems that can be passed over: a repeated key, a tag, a number that is too long.

    With `as_pyyaml`, a mapping takes what it lacks from those of its merge key (`<<: *defaults`), the first ones before
    the rest, as YAML 1.1 has it, and of a repeated key the last value. Raises SpecError where there is no tree or
    something is left out of it: no YAML, an empty file, an exceeded limit, a key that is no string, without
    `as_pyyaml` a merge key.
    """
    refuse_characters(text, file)
    growing = _TreeBuilder(file, as_pyyaml)
    try:
        _read_events(growing, text, _LOADER)
    except SpecError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: what the slower reader says of an escape that is no character.
        said = getattr(error, "problem", None) or str(error)
        mark = getattr(error, "problem_mark", None)
        if mark is not None:
            _refuse_deep_nesting(text[: mark.index], file, as_pyyaml=as_pyyaml)
        growing.fail("yaml", f"{said}.", _get_position(mark))
    if growing.root is None or (isinstance(growing.root, ScalarNode) and growing.root.value is None):
        growing.fail("missing", "the file is empty.", (1, 1), "describe a model: encoder: timm/resnet50")
    if growing.incomplete:
        raise SpecError(growing.problems)
    return growing.root, growing.problems


def _read_events(growing: _TreeBuilder, text: str, loader: Any) -> None:
    for event in yaml.parse(text, Loader=loader):
        take = _EVENT_HANDLERS.get(type(event))
        if take is not None:
            take(growing, event, _get_position(event.start_mark))


def _refuse_deep_nesting(text: str, file: str | None, *, as_pyyaml: bool) -> None:
    """Raise SpecError if lists and mappings nest too deep before the end of `text`, where libyaml gave up.

    libyaml reads up to 1,024 characters ahead of its events, and newer versions have a nesting limit of their own
    (1,000). They can reach it before the event that exceeds ours. PyYAML's own reader has none.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH:
        try:
            _read_events(_TreeBuilder(file, as_pyyaml), text, yaml.SafeLoader)
        except SpecError:
            raise
        except (yaml.YAMLError, ValueError):
            return


def _merge_pairs(done: _OpenCollection) -> tuple[tuple[ScalarNode, Tree], ...]:
    """The pairs of a mapping, behind those that it lacks and takes from others."""
    taken: dict[str, tuple[ScalarNode, Tree]] = {}
    for mapping in done.merged:
        for key, value in mapping.pairs:
            if str(key.value) not in done.lines:
                taken.setdefault(str(key.value), (key, value))
    return (*taken.values(), *done.pairs)


def _get_position(mark: Any) -> Position:
    """yaml's marks count from 0."""
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)
