"""A Hypothesis strategy of mutated texts: specs with a few edits of their characters or their tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

from composer.adapters.timm.catalogue import list_networks
from composer.errors import SpecError
from composer.parts import PARTS
from composer.spec.reader import CHAIN_KEYS, GRAPH_KEYS
from composer.spec.schema import get_fields
from composer.spec.yaml import MappingNode, ScalarNode, Tree, parse_document
from composer.spec.yaml import SequenceNode as Entries
from tests.fuzz.yaml_styles import Data, generate_yaml_styles

YAML_TOKENS = (*"\n :-{}[],#'\">", "&a ", "*a", "<<: *a", "|\n", "!!int ", "? ")

STRAY_CHARACTERS = (*"\t\x00\x85\u2028\ufeff\ud800é\u202e🙂", "%YAML 1.1\n", "%TAG ! x\n", "---\n", "...\n")

EDGE_VALUES: tuple[Data, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 64, 65, 2**16, 2**20, 2**31, 2**63, -(2**63), 10**39, 10**41),
    *(0.5, -0.0, 1e308, 1e-320, float("inf"), float("nan"), "", " ", "64", "no", "é", "\u202e", "{}", "<<", "a" * 300),
    *([], {}, [[]], {"": None}, [0], [None], {"part": "FCNDecoder", "from": "image"}, [1] * 70),
)
"""Replacements of a value: of another type, too large, or nothing."""

_EXCESSIVE_DEPTH = 33
"""Deeper than a spec may nest."""


def generate_mutations(*texts: str) -> st.SearchStrategy[str]:
    """Return a strategy of `texts` with one to four edits."""
    return _generate_mutated_text(texts)


@st.composite
def _generate_mutated_text(draw: st.DrawFn, texts: Sequence[str]) -> str:
    text = draw(st.sampled_from(texts))
    other = draw(st.sampled_from(texts))
    for _ in range(draw(st.sampled_from((1, 1, 2, 4)))):
        trees = [tree for tree in (_parse_data(text), _parse_data(other)) if isinstance(tree, dict)]
        if len(trees) > 1 and draw(st.booleans()):
            text = draw(generate_yaml_styles(_apply_tree_edit(draw, *trees)))
        else:
            text = draw(st.sampled_from(_TEXT_EDITS))(draw, text, other)
    return text


# --- characters


def _insert_token(draw: st.DrawFn, text: str, _: str) -> str:
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.sampled_from((*YAML_TOKENS, *STRAY_CHARACTERS))) + text[at:]


def _remove_slice(draw: st.DrawFn, text: str, _: str) -> str:
    start, end = _pick_slice(draw, text)
    return text[:start] + text[end:]


def _replace_bit(draw: st.DrawFn, text: str, _: str) -> str:
    at = draw(st.integers(0, max(0, len(text) - 1)))
    return text[:at] + chr(ord(text[at]) ^ 2 ** draw(st.integers(0, 6))) + text[at + 1 :] if text else "x"


def _repeat_slice(draw: st.DrawFn, text: str, _: str) -> str:
    start, end = _pick_slice(draw, text)
    times = draw(st.sampled_from((2, 2, 3, 60)))
    return text[:start] + text[start:end] * times + text[end:]


def _insert_slice(draw: st.DrawFn, text: str, other: str) -> str:
    start, end = _pick_slice(draw, other)
    at = draw(st.integers(0, len(text)))
    return text[:at] + other[start:end] + text[at:]


def _merge_lines(draw: st.DrawFn, text: str, other: str) -> str:
    lines = text.splitlines(keepends=True)
    at = draw(st.integers(0, len(lines)))
    more = other.splitlines(keepends=True)
    start, end = sorted((draw(st.integers(0, len(more))), draw(st.integers(0, len(more)))))
    return "".join((*lines[:at], *more[start:end], *lines[at:]))


_TEXT_EDITS: tuple[Callable[[st.DrawFn, str, str], str], ...] = (
    *(_remove_slice, _insert_token, _replace_bit),
    *(_repeat_slice, _insert_slice, _merge_lines),
)


def _pick_slice(draw: st.DrawFn, text: str) -> tuple[int, int]:
    start = draw(st.integers(0, len(text)))
    return start, min(len(text), start + draw(st.sampled_from((1, 1, 2, 5, 20, 100))))


# --- trees


def _apply_tree_edit(draw: st.DrawFn, data: dict[str, Data], other: dict[str, Data]) -> dict[str, Data]:
    holder, key = draw(st.sampled_from(list(_iter_places(data))))
    draw(st.sampled_from(_TREE_EDITS))(draw, holder, key, other)
    return data


def _iter_places(data: Data) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a tree, as its container and its key."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in list(pairs):
        yield data, key
        yield from _iter_places(value)


def _remove_entry(_: st.DrawFn, holder: Any, key: Any, __: Data) -> None:
    del holder[key]
    if not holder and isinstance(holder, dict):
        holder["encoder"] = None


def _replace_entry(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    holder[key] = draw(st.sampled_from(EDGE_VALUES))


def _rename_key(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    if isinstance(holder, dict):
        holder[draw(st.sampled_from(_KEYS) | st.just(f"{key}s") | st.just(str(key)[:-1]))] = holder.pop(key)


def _add_key(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    if isinstance(holder[key], dict):
        holder[key][draw(st.sampled_from(_KEYS))] = draw(st.sampled_from(EDGE_VALUES))


def _copy_entry(draw: st.DrawFn, holder: Any, key: Any, other: Data) -> None:
    source, place = draw(st.sampled_from(list(_iter_places(other))))
    holder[key] = source[place]


def _swap_entries(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    beside = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
    holder[key], holder[beside] = holder[beside], holder[key]


def _wrap_entry(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    for _depth in range(draw(st.sampled_from((1, 2, 5, _EXCESSIVE_DEPTH)))):
        holder[key] = [holder[key]] if draw(st.booleans()) else {draw(st.sampled_from(_KEYS)): holder[key]}


def _repeat_entry(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    if isinstance(holder, list):
        holder[key:key] = [holder[key]] * draw(st.sampled_from((1, 1, 2, 5, 70, 3000)))


def _replace_part(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    """Rename a part and keep its fields."""
    name = draw(st.sampled_from(_PART_NAMES) | st.sampled_from(_NETWORK_NAMES))
    if isinstance(holder, dict) and isinstance(holder[key], dict):
        holder[name] = holder.pop(key)
    else:
        holder[key] = name


_TREE_EDITS = (
    *(_replace_entry, _remove_entry, _rename_key, _add_key, _copy_entry),
    *(_swap_entries, _wrap_entry, _repeat_entry, _replace_part, _replace_part),
)

_KEYS = tuple(
    dict.fromkeys(
        [*CHAIN_KEYS, *GRAPH_KEYS, "part", "share", "from", "<<", *(f for p in PARTS.values() for f in get_fields(p))]
    )
)

_PART_NAMES = tuple(name for name in PARTS if not name.endswith("/"))

_NETWORK_NAMES = tuple(f"timm/{name}" for name in list_networks())


def _parse_data(text: str) -> Data:
    """Return the data of a text; None if it is not YAML."""
    try:
        tree, _ = parse_document(text)
    except SpecError:
        return None
    return _to_plain_data(tree)


def _to_plain_data(tree: Tree) -> Data:
    if isinstance(tree, ScalarNode):
        return tree.value
    if isinstance(tree, Entries):
        return [_to_plain_data(entry) for entry in tree.entries]
    assert isinstance(tree, MappingNode)
    return {str(key.value): _to_plain_data(value) for key, value in tree.pairs}
