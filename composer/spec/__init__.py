"""Read and write graphs as YAML, and compute their digests."""

from __future__ import annotations

import os

from composer.graph import Graph, require_graph
from composer.parts import PART_REGISTRY
from composer.spec.parts import Parts
from composer.spec.reader import is_weights_file, parse_spec, read_embedded_spec
from composer.spec.yaml import read_text


def read(path: str | os.PathLike[str], *, parts: Parts = PART_REGISTRY) -> Graph:
    """Read the graph in a spec file, or in a weights file that `composer.weights.save` wrote.

    `parts` are the parts that the spec may name. Raises SpecError with all problems at once, a missing file included.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"read takes the path of a file, and composer.reads a text (got {type(path).__name__})")
    name = os.fsdecode(path)
    if is_weights_file(path) and os.path.isfile(path):
        return parse_spec(read_embedded_spec(path), f"{name}: spec", parts)
    return parse_spec(read_text(path), name, parts)


def reads(text: str, *, name: str | None = None, parts: Parts = PART_REGISTRY) -> Graph:
    """Read the graph in a text. `name` is the file named in its problems, and `parts` are the parts it may name.

    Raises SpecError with all problems at once.
    """
    if not isinstance(text, str):
        raise TypeError(f"reads takes a text, and composer.read the path of a file (got {type(text).__name__})")
    return parse_spec(text, name, parts)


def write(graph: Graph, *, parts: Parts = PART_REGISTRY) -> str:
    """Return a graph as text: `reads(write(graph)) == graph`. `parts` are the parts that the text may name.

    Raises SpecError if there is no such text: a node holds a live module or a part that is not among `parts`, or the
    graph is not valid because a name is repeated or unknown.
    """
    from composer.spec.writer import format_spec  # not at the top: reading does not need it

    require_graph(graph)
    return format_spec(graph, parts)


def digest(graph: Graph) -> str:
    """Return 64 hexadecimal digits that are equal for equal graphs and different for different ones.

    The order of nodes counts, as in `==`; the text that a graph was read from does not. Raises SpecError for a node
    that holds a live module or another value that cannot be written in a spec.
    """
    from composer.spec.writer import compute_digest  # not at the top: reading does not need it

    require_graph(graph)
    return compute_digest(graph)
