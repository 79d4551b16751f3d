"""Which arguments of a call a node of its graph was made of, or a field of the node. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_SECTION_ARGUMENTS = {
    "image": "backbone_in_chans",
    "crop": "image_size_out",
    "rescale": "rescale",
    "padding": "backbone",
}
"""What stands in a graph beside its nodes, and the argument that says it."""

NECK_PATTERN = re.compile(r"necks\[(\d+)\](.*)")
AUX_PATTERN = re.compile(r"aux\.([^.]+)\.?(.*)")


def iter_source_arguments(path: str, pooled: int, auxiliary: Mapping[str, int]) -> Iterator[str]:
    """The arguments that may have made what stands at a path of the graph, the likeliest first.

    The first `pooled` necks pool frames, and are no neck of the call; `auxiliary` gives the position of each auxiliary
    head by the name of its branch.
    """
    if neck := NECK_PATTERN.fullmatch(path):
        position = int(neck[1]) - pooled
        if position < 0:
            yield from ("backbone_temporal_pooling", "backbone_kwargs.temporal_pooling", "backbone")
            return
        yield from _iter_enclosing_paths(f"necks[{position}]{neck[2]}")
    elif branch := AUX_PATTERN.fullmatch(path):
        yield from _iter_branch_arguments(branch[2], f"aux_decoders[{auxiliary.get(branch[1], 0)}]")
    elif path.split(".")[0] in _SECTION_ARGUMENTS:
        yield _SECTION_ARGUMENTS[path.split(".")[0]]
        yield "backbone"
    else:
        yield from _iter_trunk_arguments(path)


def _iter_trunk_arguments(path: str) -> Iterator[str]:
    node, _, fields = path.partition(".")
    argument = "backbone" if node == "encoder" else node
    name = fields.removeprefix("options.")
    if name:
        yield from _iter_enclosing_paths(f"{argument}_{name}")
        yield from _iter_enclosing_paths(f"{argument}_kwargs.{name}")
    if node == "head":
        # The task chooses the head; how much it predicts is said beside it.
        yield from (*_iter_enclosing_paths(name), "task")
    yield argument


def _iter_branch_arguments(path: str, argument: str) -> Iterator[str]:
    if path.startswith("head"):
        # The main head's arguments are those of the auxiliary ones too.
        yield from _iter_trunk_arguments(path)
    _, _, fields = path.partition(".")
    if fields:
        yield from _iter_enclosing_paths(f"{argument}.decoder_args.decoder_{fields.removeprefix('options.')}")
    yield from _iter_enclosing_paths(f"{argument}.decoder")


def _iter_enclosing_paths(path: str) -> Iterator[str]:
    """A path, then each that encloses it."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
