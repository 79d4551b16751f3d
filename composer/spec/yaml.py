"""Parse YAML into a tree of values with line and column."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from itertools import chain, takewhile
from typing import Any, NamedTuple, NoReturn

import yaml
from attrs import define, field

from composer.errors import MAX_PROBLEMS, Place, Problem, SpecError, truncate_problems
from composer.parts.validators import MAX_DEPTH

MAX_SPEC_BYTES = 2**20
"""Size of a spec in bytes. Models take hundreds."""

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
# libyaml takes time that grows with the square of the number of these.
_TAG_DIRECTIVE = re.compile("(?:\\A\ufeff?|[\n\r\x85\u2028\u2029])%TAG")
# A key with its value, or one whose value begins on the next line. No path looks like that.
_SPEC_START = re.compile(r"\s*[A-Za-z]+:(\s|$)")


def build_error(code: str, message: str, place: Place, fix: str | None = None) -> SpecError:
    """Build the error for a single problem."""
    return SpecError([Problem(code=code, message=message, place=place, fix=fix)])


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file. Raises SpecError if it cannot be read, is too large, or is not UTF-8."""
    name = os.fsdecode(path)
    try:
        with open(name, "rb") as file:
            data = file.read(MAX_SPEC_BYTES + 1)
    except (OSError, ValueError) as error:
        if "\n" in name or _SPEC_START.match(name):
            start = name.strip().partition("\n")[0][:64]
            message = f"expected the path of a file (got a text that begins with {start!r})."
            raise build_error("file", message, Place(), "use composer.reads for a text") from None
        reason = getattr(error, "strerror", None) or str(error)
        raise build_error("file", f"the file cannot be read: {reason}.", Place("", name)) from None
    return decode_text(data, name)


def decode_text(data: bytes, file: str | None = None) -> str:
    """Decode the bytes of a spec. Raises SpecError if there are too many, or they are not UTF-8."""
    _check_size(data, file)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"the text is not UTF-8 (got the byte 0x{data[error.start]:02x})."
        place = _compute_place(data[: error.start].decode(), file)
        raise build_error("yaml", message, place, "save it as UTF-8") from None


def _check_size(data: bytes, file: str | None) -> None:
    if len(data) > MAX_SPEC_BYTES:
        raise build_error("limit", f"a spec has at most {MAX_SPEC_BYTES:,} bytes.", Place("", file, 1, 1))


def _check_characters(text: str, file: str | None) -> None:
    """Raise SpecError for characters that YAML forbids, and for directives that libyaml is slow to read."""
    if match := _UNPRINTABLE.search(text):
        message = f"the character {match[0]!r} is not allowed in a spec."
    elif match := _TAG_DIRECTIVE.search(text):
        message = "tags are not supported (got the directive %TAG)."
    else:
        return
    raise build_error("yaml", message, _compute_place(text[: match.start()], file), "leave it out")


def _compute_place(before: str, file: str | None) -> Place:
    lines = _LINE_END.split(before)
    return Place("", file, len(lines), len(lines[-1].removeprefix("\ufeff")) + 1)


ScalarValue = str | int | float | bool | None

MAX_DIGITS = 40
"""Digits of an integer: more than any field takes, and few enough to convert quickly."""

_CONSTANTS: dict[str, ScalarValue] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_CONSTANT_SPELLINGS = {"None": "null", "True": "true", "False": "false", "inf": ".inf", "-inf": "-.inf", "nan": ".nan"}
_INTEGER_PATTERN = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_BASES = {"0o": 8, "0x": 16}
_FLOAT_PATTERN = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
# Strings that need no quotes in any position. Narrower than YAML's own rule, and simple.
_UNQUOTED = re.compile(r"(?:\w|/|\.{1,2}/|~/)(?:[\w/.+@=-]| (?! ))*(?<! )")
_ESCAPED = re.compile("[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


def parse_scalar(text: str) -> ScalarValue:
    """Return the value of a scalar without quotes, by the core schema of YAML 1.2: `no` is a string, `010` is ten.

    Raises ValueError for an integer of more than `MAX_DIGITS` digits.
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _INTEGER_PATTERN.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a whole number has at most {MAX_DIGITS} digits (got {len(text):,}).")
        base = _BASES.get(text[:2])
        return int(text[2:], base) if base else int(text)
    return float(text) if _FLOAT_PATTERN.fullmatch(text) else text


def format_scalar(value: ScalarValue) -> str:
    """Return the scalar that is read as `value`, with quotes only where they are necessary."""
    if not isinstance(value, str):
        return _CONSTANT_SPELLINGS.get(repr(value), repr(value))
    if _UNQUOTED.fullmatch(value) and not _INTEGER_PATTERN.fullmatch(value) and parse_scalar(value) is value:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)


class ScalarNode(NamedTuple):
    """A string, number, boolean or null."""

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
    """Keys and values, in order. Keys are strings and unique."""

    pairs: tuple[tuple[ScalarNode, Tree], ...]
    line: int
    column: int

    @property
    def by_name(self) -> dict[str, Tree]:
        """The values by their keys."""
        return {str(key.value): value for key, value in self.pairs}

    def get(self, name: str) -> Tree | None:
        """Return the value of a key, or None if there is no such key."""
        return next((value for key, value in self.pairs if key.value == name), None)


Tree = ScalarNode | SequenceNode | MappingNode


def describe_value(tree: Tree) -> str:
    """Describe a value in the words that follow `got`: `'64', a string`."""
    if isinstance(tree, SequenceNode):
        return f"a list of {len(tree.entries)}"
    if isinstance(tree, MappingNode):
        return "a mapping"
    value = tree.value
    if value is None or isinstance(value, bool):
        return format_scalar(value)
    if not isinstance(value, str):
        return f"{value!r}, a {'whole number' if isinstance(value, int) else 'number'}"
    return f"{value if len(value) <= 60 else value[:57] + '...'!r}, a string"


MAX_TREE_NODES = 20_000
"""Values in a file. Each use of an alias counts as all the values it stands for."""

# libyaml is fifteen times as fast; PyYAML can be built without it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Position = tuple[int, int]
"""A line and a column, counted from 1."""

Pairs = dict[str, tuple[ScalarNode, Tree]]
"""The keys and values of a mapping, by the text of the key."""


@define
class _TreeBuilder:
    """Builds a tree from the events of a YAML parser, and counts depth and nodes before it descends.

    The events are read directly because `yaml.compose` loses where an alias is used and which tags are written, and
    reads the whole file before a limit can stop it. `problems` collects what reading can go on from.
    """

    file: str | None
    as_pyyaml: bool
    events: Iterator[Any]
    problems: list[Problem] = field(factory=list)
    # None while the value of an anchor is being built.
    anchors: dict[str, Tree | None] = field(factory=dict)
    nodes: int = 0
    incomplete: bool = False

    def build_document(self) -> Tree | None:
        """Build the only document of a file."""
        root: Tree | None = None
        for event in self.events:
            if isinstance(event, yaml.NodeEvent):
                root = self._build_tree(event, 0)
            elif isinstance(event, yaml.DocumentStartEvent) and root is not None:
                at = _get_position(event.start_mark)
                self.fail("yaml", "a file holds one document; a second one begins here.", at)
        return root

    def _build_tree(self, event: Any, depth: int) -> Tree:
        """Build the value that starts with `event`, inside of `depth` lists and mappings."""
        at = _get_position(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return self._resolve_alias(event.anchor, depth, at)
        is_scalar = isinstance(event, yaml.ScalarEvent)
        self._count_node(depth if is_scalar else depth + 1, at)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._report("yaml", f"tags are not supported (got {tag}).", at, "leave the tag out")
        if event.anchor:
            self.anchors[event.anchor] = None
        tree: Tree
        if is_scalar:
            tree = ScalarNode(self._resolve_scalar(event, at), *at, bool(event.style))
        elif isinstance(event, yaml.MappingStartEvent):
            tree = MappingNode(self._build_pairs(depth + 1), *at)
        else:
            inner = iter(lambda: next(self.events), None)
            starts = takewhile(lambda event: not isinstance(event, yaml.SequenceEndEvent), inner)
            tree = SequenceNode(tuple(self._build_tree(start, depth + 1) for start in starts), *at)
        if event.anchor:
            self.anchors[event.anchor] = tree
        return tree

    def _resolve_scalar(self, event: Any, at: Position) -> ScalarValue:
        if not event.style:
            try:
                return parse_scalar(event.value)
            except ValueError as error:
                self._report("limit", str(error), at)
        return str(event.value)

    def _build_pairs(self, depth: int) -> tuple[tuple[ScalarNode, Tree], ...]:
        pairs: Pairs = {}
        merged: Pairs = {}
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key, value = self._build_tree(event, depth), self._build_tree(next(self.events), depth)
            at = (key.line, key.column)
            if not isinstance(key, ScalarNode) or not isinstance(key.value, str):
                self.incomplete = True
                self._report("yaml", f"a key is a string (got {describe_value(key)}).", at)
            elif key.value == "<<" and not key.quoted and not merged:
                merged = self._merge_pairs(value, at)
            else:
                self._add_pair(pairs, key, value)
        return tuple({**{name: pair for name, pair in merged.items() if name not in pairs}, **pairs}.values())

    def _add_pair(self, pairs: Pairs, key: ScalarNode, value: Tree) -> None:
        """Add a pair; of a repeated key the first value counts, or the last one as PyYAML reads it."""
        name = str(key.value)
        first = pairs.pop(name, None) if self.as_pyyaml else pairs.get(name)
        if first is not None and self.as_pyyaml:
            message = f"the key {name!r} is repeated: this value replaces the one on line {first[0].line}."
            self._report("key", message, (key.line, key.column))
        elif first is not None:
            message = f"the key {name!r} is here for the second time; the first is on line {first[0].line}."
            self._report("key", message, (key.line, key.column), "leave one of them out")
        pairs.setdefault(name, (key, value))

    def _merge_pairs(self, value: Tree, at: Position) -> Pairs:
        """Return the pairs that a mapping takes from the value of its merge key; earlier sources win."""
        sources = value.entries if isinstance(value, SequenceNode) else (value,)
        mappings = [source for source in sources if isinstance(source, MappingNode)]
        if self.as_pyyaml and mappings and len(mappings) == len(sources):
            merged: Pairs = {}
            for key, entry in chain(*(mapping.pairs for mapping in mappings)):
                merged.setdefault(str(key.value), (key, entry))
            return merged
        self.incomplete = True
        message = "merge keys (<<) are not supported."
        if self.as_pyyaml:
            message = f"a merge key (<<) takes a mapping, or a list of them (got {describe_value(value)})."
        self._report("yaml", message, at, "write the keys out")
        return {}

    def _resolve_alias(self, name: Any, depth: int, at: Position) -> Tree:
        if name not in self.anchors:
            self.fail("yaml", f"there is no anchor &{name} before this alias.", at)
        tree = self.anchors[name]
        if tree is None:
            self.fail("yaml", f"the alias *{name} refers to a value that contains it.", at, "write it out")
        # Every value that an alias stands for counts, because aliases of aliases multiply.
        for inner in _iter_depths(tree, depth):
            self._count_node(inner, at)
        return tree

    def _count_node(self, depth: int, at: Position) -> None:
        self.nodes += 1
        if self.nodes > MAX_TREE_NODES:
            rule = f"a file has at most {MAX_TREE_NODES:,} values, counting what each alias stands for."
            self.fail("limit", rule, at)
        if depth > MAX_DEPTH:
            self.fail("limit", f"lists and mappings nest at most {MAX_DEPTH} deep.", at)

    def fail(self, code: str, message: str, at: Position, fix: str | None = None) -> NoReturn:
        """Raise SpecError with all problems, the last of which ends the reading."""
        self._report(code, message, at, fix)
        raise SpecError(self.problems)

    def _report(self, code: str, message: str, at: Position, fix: str | None = None) -> None:
        place = Place("", self.file, *at)
        self.problems.append(Problem(code=code, message=message, place=place, fix=fix))
        if len(self.problems) > MAX_PROBLEMS:
            raise SpecError(truncate_problems(self.problems))


def _iter_depths(tree: Tree, depth: int) -> Iterator[int]:
    """Yield the depths of a value inside of `depth` lists and mappings, and of all that it holds."""
    if isinstance(tree, ScalarNode):
        yield depth
        return
    yield depth + 1
    for child in tree.entries if isinstance(tree, SequenceNode) else chain(*tree.pairs):
        yield from _iter_depths(child, depth + 1)


def parse_document(text: str, file: str | None = None, *, as_pyyaml: bool = False) -> tuple[Tree, list[Problem]]:
    """Return the tree of a text, and the problems beside it: repeated keys, tags, integers with too many digits.

    With `as_pyyaml`, merge keys (`<<: *defaults`) work as in YAML 1.1, and the last value of a repeated key counts.
    Raises SpecError if there is no complete tree: invalid YAML, an empty file, an exceeded limit, a key that is not a
    string, or a merge key without `as_pyyaml`.
    """
    _check_size(text.encode(errors="surrogatepass"), file)
    _check_characters(text, file)
    # PyYAML's parsers return None after the last event; yaml.parse asks twice for each.
    builder = _TreeBuilder(file, as_pyyaml, iter(_LOADER(text).get_event, None))
    try:
        root = builder.build_document()
    except SpecError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML's own parser raises the latter two for an escape that is not a character.
        reason, mark = getattr(error, "problem", None) or str(error), getattr(error, "problem_mark", None)
        if mark and "exceeded max" in reason:
            # Newer versions of libyaml read ahead to a limit of 1,000. Ours is exceeded in the text before that place.
            return parse_document(text[: mark.index], file, as_pyyaml=as_pyyaml)
        builder.fail("yaml", f"{reason}.", _get_position(mark))
    if root is None or (isinstance(root, ScalarNode) and root.value is None):
        builder.fail("key", "the file is empty.", (1, 1), "describe a model: encoder: timm/resnet50")
    if builder.incomplete:
        raise SpecError(builder.problems)
    return root, builder.problems


def _get_position(mark: Any) -> Position:
    # yaml's marks count from 0.
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)
