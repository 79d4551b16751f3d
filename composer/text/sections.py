"""What the two forms of a text share: sections of names, images, parts, and how images are padded. No torch here."""

from __future__ import annotations

from collections.abc import Sequence as Entries
from typing import Any

from attrs import define, field, frozen

from composer.feature import Image, parse_height_and_width
from composer.graph import Graph
from composer.parts import KINDS, Part
from composer.problem import Problem
from composer.sizes import Padding
from composer.text.annotations import BOOLEAN, SIDE_PAIR
from composer.text.declaring import construct
from composer.text.findings import Diagnostics, get_key_name
from composer.text.naming import resolve_part
from composer.text.suggesting import Parts
from composer.text.tree import MappingNode, SequenceNode, Tree, describe_value
from composer.text.wanted import parse_value


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
