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

from composer.parts.fields import MOST_DEPTH
from composer.problem import MOST_PROBLEMS, Place, Problem, SpecError, told
from composer.text.characters import refuse_characters
from composer.text.scalars import Value, resolved
from composer.text.tree import Mapping, Scalar, Sequence, Tree, described

MOST_NODES = 20_000
"""Values in a file, where each use of an alias counts all that it stands for."""

# libyaml is fifteen times as fast; PyYAML can be built without it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

At = tuple[int, int]
"""A line and a column."""


@define
class _Open:
    """A list or mapping that is being read: `key` is the one whose value comes next, `height` how deep it nests."""

    at: At
    anchor: str | None
    is_mapping: bool
    nodes_before: int
    items: list[Tree] = field(factory=list)
    pairs: list[tuple[Scalar, Tree]] = field(factory=list)
    key: Tree | None = None
    lines: dict[str, int] = field(factory=dict)
    merged: tuple[Mapping, ...] = ()
    height: int = 1


@define
class _Growing:
    """A tree while its events pass by. What can be passed over is put down in `problems`; the rest is raised."""

    file: str | None
    as_pyyaml: bool = False
    problems: list[Problem] = field(factory=list)
    stack: list[_Open] = field(factory=list)
    anchors: dict[str, tuple[Tree, int, int] | None] = field(factory=dict)
    nodes: int = 0
    documents: int = 0
    incomplete: bool = False
    root: Tree | None = None

    def document(self, _: yaml.DocumentStartEvent, at: At) -> None:
        self.documents += 1
        if self.documents > 1:
            self.give_up("yaml", "a file holds one document; a second one begins here.", at)

    def scalar(self, event: yaml.ScalarEvent, at: At) -> None:
        self._count(1, at)
        value: Value = event.value
        if event.tag is not None:
            self._tag(event.tag, at)
        if not event.style:
            try:
                value = resolved(event.value)
            except ValueError as error:
                self._complain("limit", str(error), at)
        scalar = Scalar(value, *at, bool(event.style))
        if event.anchor:
            self.anchors[event.anchor] = scalar, 1, 0
        self._put(scalar, 0)

    def start(self, event: yaml.CollectionStartEvent, at: At) -> None:
        self._count(1, at)
        if event.tag is not None:
            self._tag(event.tag, at)
        if event.anchor:
            self.anchors[event.anchor] = None
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        self.stack.append(_Open(at, event.anchor, is_mapping, self.nodes - 1))
        self._nest(0, at)

    def end(self, _: yaml.CollectionEndEvent, __: At) -> None:
        done = self.stack.pop()
        tree = Mapping(_merged(done), *done.at) if done.is_mapping else Sequence(tuple(done.items), *done.at)
        if done.anchor:
            self.anchors[done.anchor] = tree, self.nodes - done.nodes_before, done.height
        self._put(tree, done.height)

    def alias(self, event: yaml.AliasEvent, at: At) -> None:
        name = event.anchor
        if name not in self.anchors:
            self.give_up("yaml", f"there is no anchor &{name} before this alias.", at)
        anchored = self.anchors[name]
        if anchored is None:
            self.give_up("yaml", f"the alias *{name} stands inside of what it stands for.", at, "write it out")
        tree, nodes, height = anchored
        self._count(nodes, at)
        self._nest(height, at)
        self._put(tree, height)

    def _put(self, tree: Tree, height: int) -> None:
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
            self._pair(parent, parent.key, tree)
            parent.key = None

    def _pair(self, parent: _Open, key: Tree, value: Tree) -> None:
        at = (key.line, key.column)
        if not isinstance(key, Scalar) or not isinstance(key.value, str):
            self.incomplete = True
            self._complain("yaml", f"a key is a string (got {described(key)}).", at)
        elif key.value == "<<" and not key.quoted and not parent.merged:
            self._merge(parent, key, value)
        elif key.value in parent.lines:
            self._repeat(parent, key, value, at)
        else:
            parent.lines[key.value] = key.line
            parent.pairs.append((key, value))

    def _repeat(self, parent: _Open, key: Scalar, value: Tree, at: At) -> None:
        name, before = str(key.value), parent.lines[str(key.value)]
        if not self.as_pyyaml:
            message = f"the key {name!r} is here for the second time; the first is on line {before}."
            self._complain("repeated", message, at, "leave one of them out")
            return
        self._complain("repeated", f"the key {name!r} is repeated: this value replaces the one on line {before}.", at)
        parent.lines[name] = key.line
        parent.pairs = [pair for pair in parent.pairs if pair[0].value != name] + [(key, value)]

    def _merge(self, parent: _Open, key: Scalar, value: Tree) -> None:
        sources = value.entries if isinstance(value, Sequence) else (value,)
        mappings = tuple(one for one in sources if isinstance(one, Mapping))
        if self.as_pyyaml and mappings and len(mappings) == len(sources):
            parent.merged = mappings
            return
        self.incomplete = True
        said = f"a merge key (<<) takes a mapping, or a list of them (got {described(value)})."
        refused = said if self.as_pyyaml else "merge keys (<<) mean nothing here."
        self._complain("yaml", refused, (key.line, key.column), "write the keys out")

    def _count(self, nodes: int, at: At) -> None:
        self.nodes += nodes
        if self.nodes > MOST_NODES:
            rule = f"a file has at most {MOST_NODES:,} values, counting what each alias stands for."
            self.give_up("limit", rule, at)

    def _nest(self, height: int, at: At) -> None:
        if len(self.stack) + height > MOST_DEPTH:
            self.give_up("limit", f"lists and mappings nest at most {MOST_DEPTH} deep.", at)

    def _tag(self, tag: str, at: At) -> None:
        written = tag.replace("tag:yaml.org,2002:", "!!")
        self._complain("yaml", f"tags mean nothing here (got {written}).", at, "leave the tag out")

    def _complain(self, code: str, message: str, at: At, repair: str | None = None) -> None:
        place = Place("", self.file, *at)
        self.problems.append(Problem(code=code, message=message, place=place, repair=repair))
        if len(self.problems) > MOST_PROBLEMS:
            raise SpecError(told(self.problems))

    def give_up(self, code: str, message: str, at: At, repair: str | None = None) -> NoReturn:
        self._complain(code, message, at, repair)
        raise SpecError(self.problems)


_TAKEN_BY: dict[type[yaml.Event], Callable[[_Growing, Any, At], None]] = {
    yaml.DocumentStartEvent: _Growing.document,
    yaml.ScalarEvent: _Growing.scalar,
    yaml.SequenceStartEvent: _Growing.start,
    yaml.MappingStartEvent: _Growing.start,
    yaml.SequenceEndEvent: _Growing.end,
    yaml.MappingEndEvent: _Growing.end,
    yaml.AliasEvent: _Growing.alias,
}


def document(text: str, file: str | None = None, *, as_pyyaml: bool = False) -> tuple[Tree, list[Problem]]:
    """The tree of `text`, and the problems that can be passed over: a repeated key, a tag, a number that is too long.

    With `as_pyyaml`, a mapping takes what it lacks from those of its merge key (`<<: *defaults`), the first ones before
    the rest, as YAML 1.1 has it, and of a repeated key the last value. Raises SpecError where there is no tree or
    something is left out of it: no YAML, an empty file, an exceeded limit, a key that is no string, without
    `as_pyyaml` a merge key.
    """
    refuse_characters(text, file)
    growing = _Growing(file, as_pyyaml)
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
        growing.give_up("yaml", f"{said}.", _after(mark))
    if growing.root is None or (isinstance(growing.root, Scalar) and growing.root.value is None):
        growing.give_up("missing", "the file is empty.", (1, 1), "describe a model: encoder: timm/resnet50")
    if growing.incomplete:
        raise SpecError(growing.problems)
    return growing.root, growing.problems


def _read_events(growing: _Growing, text: str, loader: Any) -> None:
    for event in yaml.parse(text, Loader=loader):
        take = _TAKEN_BY.get(type(event))
        if take is not None:
            take(growing, event, _after(event.start_mark))


def _refuse_deep_nesting(text: str, file: str | None, *, as_pyyaml: bool) -> None:
    """Raise SpecError if lists and mappings nest too deep before the end of `text`, where libyaml gave up.

    libyaml reads up to 1,024 characters ahead of its events, and newer versions have a nesting limit of their own
    (1,000). They can reach it before the event that exceeds ours. PyYAML's own reader has none.
    """
    if text.count("[") + text.count("{") > MOST_DEPTH:
        try:
            _read_events(_Growing(file, as_pyyaml), text, yaml.SafeLoader)
        except SpecError:
            raise
        except (yaml.YAMLError, ValueError):
            return


def _merged(done: _Open) -> tuple[tuple[Scalar, Tree], ...]:
    """The pairs of a mapping, behind those that it lacks and takes from others."""
    taken: dict[str, tuple[Scalar, Tree]] = {}
    for mapping in done.merged:
        for key, value in mapping.pairs:
            if str(key.value) not in done.lines:
                taken.setdefault(str(key.value), (key, value))
    return (*taken.values(), *done.pairs)


def _after(mark: Any) -> At:
    """yaml's marks count from 0."""
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)
