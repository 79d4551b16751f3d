"""A Hypothesis strategy of mutated texts: specs with a few edits of their characters or their tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

from composer.adapters.timm.catalogue import list_networks
from composer.errors import SpecError
from composer.parts import PARTS
from composer.spec.reader import CHAIN_KEYS, GRAPH_KEYS
from composer.spec.schema import get_fields
from composer.spec.yaml import MappingNode, SequenceNode, Tree, parse_document
from tests.fuzz.yaml_styles import Data, generate_yaml_styles

TOKENS = (
    *(*"\n :-{}[],#'\">", "&a ", "*a", "<<: *a", "|\n", "!!int ", "? "),
    *(*"\t\x00\x85\u2028\ufeff\ud800é\u202e🙂", "%YAML 1.1\n", "%TAG ! x\n", "---\n", "...\n"),
)
"""What means something in YAML, and what is not allowed in it."""

EDGE_VALUES: tuple[Data, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 64, 65, 2**16, 2**20, 2**31, 2**63, -(2**63), 10**39, 10**41),
    *(0.5, -0.0, 1e308, 1e-320, float("inf"), float("nan"), "", " ", "64", "no", "é", "\u202e", "{}", "<<", "a" * 300),
    *([], {}, [[]], {"": None}, [0], [None], {"part": "FCNDecoder", "from": "image"}, [1] * 70),
)
"""Replacements of a value: of another type, too large, or nothing."""

EXCESSIVE_DEPTH = 33
"""Deeper than a spec may nest."""

FIELDS = [field for part in PARTS.values() for field in get_fields(part)]
KEYS = tuple(dict.fromkeys([*CHAIN_KEYS, *GRAPH_KEYS, "part", "share", "from", "<<", *FIELDS]))
NAMES = tuple(name for name in PARTS if not name.endswith("/"))
NETWORKS = tuple(f"timm/{name}" for name in list_networks())


def generate_mutations(*texts: str) -> st.SearchStrategy[str]:
    """Return a strategy of `texts` with one to four edits."""
    return _generate_mutated_text(texts)


@st.composite
def _generate_mutated_text(draw: st.DrawFn, texts: Sequence[str]) -> str:
    text, other = draw(st.sampled_from(texts)), draw(st.sampled_from(texts))
    for _ in range(draw(st.sampled_from((1, 1, 2, 4)))):
        trees = [tree for tree in (_parse_data(text), _parse_data(other)) if isinstance(tree, dict)]
        if len(trees) > 1 and draw(st.booleans()):
            holder, key = draw(st.sampled_from(list(_iter_places(trees[0]))))
            _edit_tree(draw, holder, key, trees[1])
            text = draw(generate_yaml_styles(trees[0]))
        else:
            text = _edit_characters(draw, text, other)
    return text


def _edit_characters(draw: st.DrawFn, text: str, other: str) -> str:
    """Replace a part of a text by nothing, by a token, by a part of another text, or by itself several times."""
    old, new = _draw_slice(draw, text), _draw_slice(draw, other)
    kept = text[old]
    edits = ["", draw(st.sampled_from(TOKENS)), other[new], kept * draw(st.sampled_from((2, 3, 60)))]
    edits += [chr(ord(kept[0]) ^ 2 ** draw(st.integers(0, 6))) + kept[1:]] if kept else []
    return text[: old.start] + draw(st.sampled_from(edits)) + text[old.stop :]


def _draw_slice(draw: st.DrawFn, text: str) -> slice:
    start = draw(st.integers(0, len(text)))
    return slice(start, min(len(text), start + draw(st.sampled_from((0, 1, 1, 2, 5, 20, 100)))))


def _edit_tree(draw: st.DrawFn, holder: Any, key: Any, other: Data) -> None:
    """Change the entry of a list or a mapping in place."""
    value = holder[key]
    edit = draw(st.sampled_from(("replace", "remove", "rename", "add", "copy", "wrap", "repeat", "part", "part")))
    if edit == "replace":
        holder[key] = draw(st.sampled_from(EDGE_VALUES))
    elif edit == "remove":
        _remove_entry(holder, key)
    elif edit == "rename" and isinstance(holder, dict):
        holder[draw(st.sampled_from(KEYS) | st.just(f"{key}s") | st.just(str(key)[:-1]))] = holder.pop(key)
    elif edit == "add" and isinstance(value, dict):
        value[draw(st.sampled_from(KEYS))] = draw(st.sampled_from(EDGE_VALUES))
    elif edit == "copy":
        source, place = draw(st.sampled_from(list(_iter_places(other))))
        holder[key] = source[place]
    elif edit == "wrap":
        for _ in range(draw(st.sampled_from((1, 2, 5, EXCESSIVE_DEPTH)))):
            holder[key] = [holder[key]] if draw(st.booleans()) else {draw(st.sampled_from(KEYS)): holder[key]}
    elif edit == "repeat" and isinstance(holder, list):
        holder[key:key] = [value] * draw(st.sampled_from((1, 1, 2, 5, 70, 3000)))
    elif edit == "part":
        _replace_part(holder, key, draw(st.sampled_from(NAMES) | st.sampled_from(NETWORKS)))


def _replace_part(holder: Any, key: Any, name: str) -> None:
    """Name another part; it keeps the fields of the old one."""
    if isinstance(holder, dict) and isinstance(holder[key], dict):
        holder[name] = holder.pop(key)
    else:
        holder[key] = name


def _remove_entry(holder: Any, key: Any) -> None:
    del holder[key]
    if not holder and isinstance(holder, dict):
        holder["encoder"] = None


def _iter_places(data: Data) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a tree, as its container and its key."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in list(pairs):
        yield data, key
        yield from _iter_places(value)


def _parse_data(text: str) -> Data:
    """Return the data of a text; None if it is not YAML."""
    try:
        return to_plain_data(parse_document(text)[0])
    except SpecError:
        return None


def to_plain_data(tree: Tree) -> Data:
    """Return a tree as Python has it."""
    if isinstance(tree, MappingNode):
        return {str(key.value): to_plain_data(value) for key, value in tree.pairs}
    return [to_plain_data(entry) for entry in tree.entries] if isinstance(tree, SequenceNode) else tree.value
