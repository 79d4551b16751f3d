"""Which network is asked for, and which of its levels. No torch here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from composer.contracts.rules import Rejection
from composer.problem import suggest


def reject_unknown_network(name: str, version: str, names: Sequence[str]) -> Rejection:
    """A name that `version` of timm does not know; `names` are those that may have been meant."""
    plain = strip_hub(name).removeprefix("timm/")
    return Rejection(
        code="network",
        kind="raises",
        expected="is not a network of timm",
        got=version,
        repair=f"did you mean timm/{plain}?"
        if plain.partition(".")[0] in names and plain != name
        else suggest(plain, names),
    )


def reject_unknown_tag(name: str, version: str, tags: Sequence[str]) -> Rejection:
    """A name whose network `version` of timm knows, and whose tag it does not; `tags` are those that it knows."""
    network, _, tag = name.partition(".")
    known = f"use one of its tags: {', '.join(tags)}; or none: " if tags else "leave the tag out: "
    return Rejection(
        code="network",
        kind="raises",
        expected=f"has no weights with the tag {tag}",
        got=version,
        repair=f"{known}timm/{network}",
    )


def strip_hub(name: str) -> str:
    """Return a name without the address of the Hugging Face Hub before it: `timm/resnet50.a1_in1k`."""
    return re.sub(r"^(hf[-_]hub:|hf://|(https?://)?(huggingface\.co|hf\.co)/)", "", name)


def normalize_indices(out_indices: tuple[int, ...], count: int) -> tuple[int, ...] | Rejection:
    """The levels asked for of `count`, counted from 0; refused where one is not there, or they are out of order."""
    for position, index in enumerate(out_indices):
        if not -count <= index < count:
            return _reject_level(position, index, count)
    indices = tuple(index % count for index in out_indices)
    if list(indices) != sorted(set(indices)):
        return _reject_order(out_indices, sorted(set(indices)))
    return indices


def _reject_level(position: int, index: int, count: int) -> Rejection:
    return Rejection(
        code="index",
        kind="raises",
        expected=f"has levels 0 to {count - 1}",
        got=f"level {index}",
        repair=f"use out_indices from {-count} to {count - 1}",
        about=f"out_indices[{position}]",
    )


def _reject_order(out_indices: tuple[int, ...], ordered: list[int]) -> Rejection:
    return Rejection(
        code="order",
        kind="wrong_output",
        expected="gives its levels in its own order, each once",
        got=f"out_indices {list(out_indices)}",
        repair=f"out_indices: {ordered}, and SelectIndices for another order",
        about="out_indices",
    )
