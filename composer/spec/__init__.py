"""YAML and graphs: read, reads, write, digest. No torch here."""

from __future__ import annotations

import os

from composer.graph import Graph, require_graph
from composer.parts import PART_REGISTRY
from composer.spec.parts import Parts
from composer.spec.reader import is_weights_file, parse_spec, read_embedded_spec
from composer.spec.yaml import read_text


def read(path: str | os.PathLike[str], *, parts: Parts = PART_REGISTRY) -> Graph:
    """The graph that a file describes, or a weights file that composer.save wrote. `parts` are those it may name.

    Raises SpecError with all the problems of the file at once, also where there is no such file.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"read takes the path of a file, and composer.reads a text (got {type(path).__name__})")
    if is_weights_file(path) and os.path.isfile(path):
        return reads(read_embedded_spec(path), name=f"{os.fsdecode(path)}: spec", parts=parts)
    return reads(read_text(path), name=os.fsdecode(path), parts=parts)


def reads(text: str, *, name: str | None = None, parts: Parts = PART_REGISTRY) -> Graph:
    """The graph that a text describes. `name` is what its problems call the file, and `parts` are those it may name.

    Raises SpecError with all the problems of the text at once.
    """
    if not isinstance(text, str):
        raise TypeError(f"reads takes a text, and composer.read the path of a file (got {type(text).__name__})")
    return parse_spec(text, name, parts)


def write(graph: Graph, *, parts: Parts = PART_REGISTRY) -> str:
    """The text that is read as `graph`: `reads(write(graph)) == graph`. `parts` are those that a text may name.

    Raises SpecError where there is no such text: a node holds a live module or a part that is not among `parts`,
    or the graph is none, because a name is repeated or unknown.
    """
    from composer.spec.writer import format_spec  # not at the top, nor the other: what only reads would wait for it

    require_graph(graph)
    return format_spec(graph, parts)


def digest(graph: Graph) -> str:
    """64 hexadecimal digits that stand for a graph: equal for equal graphs, and different for different ones.

    Equal is what `==` says, so the order of nodes counts, and the text a graph was read from does not. Raises
    SpecError where a node holds a live module, or a value that has no text.
    """
    from composer.spec.writer import compute_digest

    require_graph(graph)
    return compute_digest(graph)
