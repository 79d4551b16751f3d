"""What the two forms of a text share: sections of names, images, parts, and how images are padded. No torch here."""

from __future__ import annotations

from collections.abc import Sequence as Entries
from typing import Any

from attrs import define, field, frozen

from composer.feature import Image, height_and_width
from composer.graph import Graph
from composer.parts import KINDS, Part
from composer.problem import Problem
from composer.sizes import Padding
from composer.text.annotations import SIDES, TRUTH
from composer.text.declaring import declared
from composer.text.findings import Findings, named
from composer.text.naming import part
from composer.text.suggesting import Parts
from composer.text.tree import Mapping, Sequence, Tree, described
from composer.text.wanted import take


@define
class Draft:
    """A graph as far as it could be read: where a part could not be, a bare one stands, so that names are known.

    `unread` holds the paths whose references are not known. `graph` is None where that holds for all.
    """

    graph: Graph | None = None
    unread: set[str] = field(factory=set)

    def trusts(self, problem: Problem) -> bool:
        """Whether a problem of the structure holds, whatever stands in the places that could not be read."""
        if problem.code == "unused":
            return not self.unread
        return problem.code != "reference" or problem.place.path not in self.unread


@frozen
class Reader:
    """Reads the sections of one text. All that is wrong is put down in `findings`."""

    root: Mapping
    parts: Parts
    findings: Findings

    def part(self, tree: Tree | None, path: str, kind: str | None) -> Part:
        """A part; a bare one of its kind where there is none that can be read."""
        made = None if tree is None else part(tree, path, kind, self.parts, self.findings)
        return made or (Part if kind is None else KINDS[kind])()

    def image(self, tree: Tree | None, path: str) -> Image:
        """An input; the default where there is none."""
        if tree is None:
            return Image()
        self.findings.mark(path, tree)
        if isinstance(tree, Mapping):
            return declared(Image, path, tree, path, tree, self.findings) or Image()
        self.mismatch(tree, path, "the fields of an image, such as {channels: 3}")
        return Image()

    def section(self, key: str, expected: str) -> tuple[tuple[str, Tree], ...]:
        """The names and values under a key of the file; nothing where the key is not there."""
        tree = self.root.get(key)
        return () if tree is None else self.pairs(tree, key, expected)

    def pairs(self, tree: Tree, path: str, expected: str, repair: str | None = None) -> tuple[tuple[str, Tree], ...]:
        """The names and values of a mapping."""
        self.findings.mark(path, tree)
        if not isinstance(tree, Mapping):
            self.mismatch(tree, path, expected, repair)
            return ()
        return tuple((named(key), value) for key, value in tree.pairs)

    def entries(self, key: str, expected: str) -> Entries[Tree]:
        """The entries of a list under a key of the file; nothing where the key is not there."""
        tree = self.root.get(key)
        if tree is None:
            return ()
        self.findings.mark(key, tree)
        if isinstance(tree, Sequence):
            return tree.entries
        value = getattr(tree, "value", None)
        self.mismatch(tree, key, expected, f"write [{value}]" if isinstance(value, str) else "begin each with '- '")
        return ()

    @property
    def an_input(self) -> str:
        """The name of an input, for a repair."""
        inputs = self.root.get("inputs")
        return named(inputs.pairs[0][0]) if isinstance(inputs, Mapping) and inputs.pairs else "NAME"

    def mismatch(self, tree: Tree, path: str, expected: str, repair: str | None = None) -> None:
        """Put down that a value is not even of the right shape."""
        got = described(tree)
        message = f"expected {expected} (got {got})."
        self.findings.add("type", message, path, tree, expected=expected, got=got, repair=repair)

    def common(self) -> dict[str, Any]:
        """`rescale`, `crop` and `padding`, as arguments for a graph."""
        given: dict[str, Any] = {}
        rescale, crop, padding = (self.root.get(key) for key in ("rescale", "crop", "padding"))
        if rescale is not None:
            given["rescale"] = take(TRUTH, rescale, "rescale", self.findings) is not False
        if crop is not None:
            given["crop"] = self._crop(crop)
        if isinstance(padding, Mapping):
            self.findings.mark("padding", padding)
            made = declared(Padding, "padding", padding, "padding", padding, self.findings)
            given["padding"] = made or Padding()
        elif padding is not None:
            self.mismatch(padding, "padding", "a mapping such as {mode: reflect}")
        return given

    def _crop(self, tree: Tree) -> tuple[int, int] | None:
        sides = take(SIDES, tree, "crop", self.findings)
        try:
            return None if sides is None or None in sides else height_and_width("crop", sides)
        except ValueError as error:
            self.findings.add("value", f"{error}.", "crop", tree)
            return None
