"""Parse YAML into a tree of values with line and column."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import yaml
from attrs import define, field

from composer.errors import MAX_PROBLEMS, Place, Problem, SpecError, truncate_problems
from composer.parts.validators import MAX_DEPTH

MAX_SPEC_BYTES = 2**20
"""The size of a text. Models are described in hundreds of bytes."""


_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")


# A key with its value, or one whose value begins on the next line. No path looks like that.
_SPEC_START = re.compile(r"\s*[A-Za-z]+:(\s|$)")


_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


# libyaml takes time that grows with the square of the number of these.
_TAG_DIRECTIVE = re.compile("(?:\\A\ufeff?|[\n\r\x85\u2028\u2029])%TAG")


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of the file at `path`. Raises SpecError where there is none, and where it is too large or no UTF-8."""
    name = os.fsdecode(path)
    try:
        with open(name, "rb") as file:
            data = file.read(MAX_SPEC_BYTES + 1)
    except (OSError, ValueError) as error:
        if "\n" in name or _SPEC_START.match(name):
            began = name.strip().partition("\n")[0][:64]
            message = f"expected the path of a file (got a text that begins with {began!r})."
            raise SpecError([Problem(code="file", message=message, repair="use composer.reads for a text")]) from None
        reason = getattr(error, "strerror", None) or str(error)
        message = f"the file cannot be read: {reason}."
        raise SpecError([Problem(code="file", message=message, place=Place("", name))]) from None
    return decode_text(data, name)


def decode_text(data: bytes, file: str | None = None) -> str:
    """The text of a file. Raises SpecError for one that is too large, and for bytes that are no UTF-8."""
    if len(data) > MAX_SPEC_BYTES:
        _refuse_size(file)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"the text is not UTF-8 (got the byte 0x{data[error.start]:02x})."
        place = _compute_place(data[: error.start].decode(), file)
        raise SpecError([Problem(code="yaml", message=message, place=place, repair="save it as UTF-8")]) from None


def refuse_characters(text: str, file: str | None) -> None:
    """Raise SpecError for a text that is too large, or holds what libyaml stumbles over."""
    if len(text) > MAX_SPEC_BYTES or len(text.encode(errors="surrogatepass")) > MAX_SPEC_BYTES:
        _refuse_size(file)
    if match := _UNPRINTABLE.search(text):
        message = f"the character {match[0]!r} cannot stand in a text."
    elif match := _TAG_DIRECTIVE.search(text):
        message = "tags mean nothing here (got the directive %TAG)."
    else:
        return
    place = _compute_place(text[: match.start()], file)
    raise SpecError([Problem(code="yaml", message=message, place=place, repair="leave it out")])


def _refuse_size(file: str | None) -> NoReturn:
    message = f"a text has at most {MAX_SPEC_BYTES:,} bytes."
    raise SpecError([Problem(code="limit", message=message, place=Place("", file, 1, 1))])


def _compute_place(before: str, file: str | None) -> Place:
    lines = _LINE_END.split(before)
    return Place("", file, len(lines), len(lines[-1].removeprefix("\ufeff")) + 1)


ScalarValue = str | int | float | bool | None


MAX_DIGITS = 40
"""Digits of a whole number: more than any field takes, and few enough that none is slow to read."""


_WORDS: dict[str, ScalarValue] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


_INTEGER_PATTERN = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")


_BASES = {"0o": 8, "0x": 16}


_FLOAT_PATTERN = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


_CONSTANT_SPELLINGS = {"None": "null", "True": "true", "False": "false", "inf": ".inf", "-inf": "-.inf", "nan": ".nan"}


_UNQUOTED = re.compile(r"(?:\w|/|\.{1,2}/|~/)(?:[\w/.+@=-]| (?! ))*(?<! )")
"""Strings that mean themselves without quotes, wherever they stand. Narrower than YAML's own rule, and simple."""


_ESCAPED = re.compile("[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


def parse_scalar(text: str) -> ScalarValue:
    """The value of a scalar without quotes: `no` is a string, `010` is ten, `1e-1` a number.

    Raises ValueError for a whole number of more than `MOST_DIGITS` digits.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _INTEGER_PATTERN.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a whole number has at most {MAX_DIGITS} digits (got {len(text):,}).")
        base = _BASES.get(text[:2])
        return int(text[2:], base) if base else int(text)
    return float(text) if _FLOAT_PATTERN.fullmatch(text) else text


def format_scalar(value: ScalarValue) -> str:
    """The scalar that is read as `value`: with quotes only where it would be something else without."""
    if not isinstance(value, str):
        return _CONSTANT_SPELLINGS.get(repr(value), repr(value))
    if _UNQUOTED.fullmatch(value) and _is_plain_string(value):
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)


def _is_plain_string(text: str) -> bool:
    try:
        return parse_scalar(text) is text
    except ValueError:
        return False


class ScalarNode(NamedTuple):
    """A string, number, truth value or null."""

    value: ScalarValue
    line: int
    column: int
    quoted: bool = False


class SequenceNode(NamedTuple):
    """A list."""

    entries: tuple[Tree, ...]
    line: int
    column: int


class MappingNode(NamedTuple):
    """Keys and values, in order; keys are strings, and no key is there twice."""

    pairs: tuple[tuple[ScalarNode, Tree], ...]
    line: int
    column: int

    def get(self, key: str) -> Tree | None:
        """The value of a key; None where there is no such key."""
        return next((value for name, value in self.pairs if name.value == key), None)


Tree = ScalarNode | SequenceNode | MappingNode


def describe_value(tree: Tree) -> str:
    """A value as it is named after `got`: `'64', a string`."""
    if isinstance(tree, SequenceNode):
        return f"a list of {len(tree.entries)}"
    if isinstance(tree, MappingNode):
        return "a mapping"
    value = tree.value
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if not isinstance(value, str):
        return f"{value!r}, a {'whole number' if isinstance(value, int) else 'number'}"
    return f"{value if len(value) <= 60 else value[:57] + '...'!r}, a string"


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
