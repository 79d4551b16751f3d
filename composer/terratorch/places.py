"""Where the arguments of a call stand in a config, and which of them a node of the graph was made of. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from attrs import define, evolve, field

from composer.problem import Place, Problem
from composer.text.tree import Mapping as Pairs
from composer.text.tree import Sequence, Tree

_SECTIONS = {"image": "backbone_in_chans", "crop": "image_size_out", "rescale": "rescale", "padding": "backbone"}
"""What stands in a graph beside its nodes, and the argument that says it."""

_NECK = re.compile(r"necks\[(\d+)\](.*)")
_AUX = re.compile(r"aux\.([^.]+)\.?(.*)")


@define
class Places:
    """The place of each argument: `marks` has those that the config spells out, and `""` is that of them all."""

    file: str | None
    marks: dict[str, Place] = field(factory=dict)

    def mark(self, argument: str, path: str, key: Tree, value: Tree | None = None) -> None:
        """Remember that an argument stands at `path`, with all that its value holds. Keys are what is pointed at."""
        self.marks[argument] = Place(path, self.file, key.line, key.column)
        if isinstance(value, Pairs):
            for name, inner in value.pairs:
                self.mark(f"{argument}.{name.value}", f"{path}.{name.value}", name, inner)
        if isinstance(value, Sequence):
            for position, inner in enumerate(value.entries):
                self.mark(f"{argument}[{position}]", f"{path}[{position}]", inner, inner)

    def place(self, argument: str) -> Place:
        """The place of an argument; of what encloses it, where the config does not spell it out."""
        enclosing = argument
        while enclosing and enclosing not in self.marks:
            enclosing = enclosing[: max(enclosing.rfind("."), enclosing.rfind("["), 0)]
        place = self.marks[enclosing]
        rest = argument[len(enclosing) :]
        joint = "." if rest and rest[0] not in ".[" else ""
        return evolve(place, path=f"{place.path}{joint}{rest}")

    def of_argument(self, problem: Problem) -> Problem:
        """A problem of a call, at its place in the config."""
        return evolve(problem, place=self.place(problem.place.path))

    def of_node(self, problem: Problem, pooled: int, auxiliary: Mapping[str, int]) -> Problem:
        """A problem of the graph of a call, at the place of the argument that the node or its field was made of.

        The first `pooled` necks pool frames, and no neck of the call; `auxiliary` gives the position of each auxiliary
        head. Where a field has no argument of its own, the place is that of what encloses it.
        """
        candidates = _arguments_of(problem.place.path, pooled, auxiliary)
        chosen = next((one for one in candidates if one in self.marks), "")
        return evolve(problem, place=self.marks[chosen])


def _arguments_of(path: str, pooled: int, auxiliary: Mapping[str, int]) -> Iterator[str]:
    """The arguments that may have made what stands at a path of the graph, the likeliest first."""
    if neck := _NECK.fullmatch(path):
        position = int(neck[1]) - pooled
        if position < 0:
            yield from ("backbone_temporal_pooling", "backbone_kwargs.temporal_pooling", "backbone")
            return
        yield from _enclosing(f"necks[{position}]{neck[2]}")
    elif branch := _AUX.fullmatch(path):
        yield from _of_branch(branch[2], f"aux_decoders[{auxiliary.get(branch[1], 0)}]")
    elif path.split(".")[0] in _SECTIONS:
        yield _SECTIONS[path.split(".")[0]]
        yield "backbone"
    else:
        yield from _of_trunk(path)


def _of_trunk(path: str) -> Iterator[str]:
    node, _, fields = path.partition(".")
    argument = "backbone" if node == "encoder" else node
    name = fields.removeprefix("options.")
    if name:
        yield from _enclosing(f"{argument}_{name}")
        yield from _enclosing(f"{argument}_kwargs.{name}")
    if node == "head":
        # The task chooses the head; how much it predicts is said beside it.
        yield from (*_enclosing(name), "task")
    yield argument


def _of_branch(path: str, argument: str) -> Iterator[str]:
    if path.startswith("head"):
        # The main head's arguments are those of the auxiliary ones too.
        yield from _of_trunk(path)
    _, _, fields = path.partition(".")
    if fields:
        yield from _enclosing(f"{argument}.decoder_args.decoder_{fields.removeprefix('options.')}")
    yield from _enclosing(f"{argument}.decoder")


def _enclosing(path: str) -> Iterator[str]:
    """A path, then each that encloses it."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
