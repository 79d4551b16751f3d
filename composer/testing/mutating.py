"""Hypothesis strategies of spoilt texts: a spec with a few edits of its characters, or of its tree. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

from composer.catalogue import names
from composer.parts import PARTS
from composer.problem import SpecError
from composer.testing.spelling import Data, spellings
from composer.text.declaring import fields_of
from composer.text.document import document
from composer.text.forms import CHAIN, GRAPH
from composer.text.tree import Mapping, Scalar, Tree
from composer.text.tree import Sequence as Entries

SIGNS = ("\n", " ", ":", "-", "{", "}", "[", "]", ",", "&a ", "*a", "<<: *a", "#", "'", '"', "|\n", ">", "!!int ", "? ")
STRAY = (
    "\t",
    "\x00",
    "\x85",
    "\u2028",
    "\ufeff",
    "\ud800",
    "é",
    "\u202e",
    "🙂",
    "%YAML 1.1\n",
    "%TAG ! x\n",
    "---\n",
    "...\n",
)

VALUES: tuple[Data, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 64, 65, 2**16, 2**20, 2**31, 2**63, -(2**63), 10**39, 10**41),
    *(0.5, -0.0, 1e308, 1e-320, float("inf"), float("nan"), "", " ", "64", "no", "é", "\u202e", "{}", "<<", "a" * 300),
    *([], {}, [[]], {"": None}, [0], [None], {"part": "FCNDecoder", "from": "image"}, [1] * 70),
)
"""What stands in the place of something else: of another type, too large, or nothing."""

_EXTREME = 33
"""Deeper than a spec may nest."""


def mutated(*texts: str) -> st.SearchStrategy[str]:
    """One of `texts` with one to four edits, of its tree or of its characters."""
    return _mutated(texts)


@st.composite
def _mutated(draw: st.DrawFn, texts: Sequence[str]) -> str:
    text = draw(st.sampled_from(texts))
    other = draw(st.sampled_from(texts))
    for _ in range(draw(st.sampled_from((1, 1, 2, 4)))):
        trees = [tree for tree in (_data(text), _data(other)) if isinstance(tree, dict)]
        if len(trees) > 1 and draw(st.booleans()):
            text = draw(spellings(_edited(draw, *trees)))
        else:
            text = draw(st.sampled_from(_OF_CHARACTERS))(draw, text, other)
    return text


# --- characters


def _inserted(draw: st.DrawFn, text: str, _: str) -> str:
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.sampled_from((*SIGNS, *STRAY))) + text[at:]


def _deleted(draw: st.DrawFn, text: str, _: str) -> str:
    start, end = _slice(draw, text)
    return text[:start] + text[end:]


def _flipped(draw: st.DrawFn, text: str, _: str) -> str:
    at = draw(st.integers(0, max(0, len(text) - 1)))
    return text[:at] + chr(ord(text[at]) ^ 2 ** draw(st.integers(0, 6))) + text[at + 1 :] if text else "x"


def _doubled(draw: st.DrawFn, text: str, _: str) -> str:
    start, end = _slice(draw, text)
    times = draw(st.sampled_from((2, 2, 3, 60)))
    return text[:start] + text[start:end] * times + text[end:]


def _spliced(draw: st.DrawFn, text: str, other: str) -> str:
    start, end = _slice(draw, other)
    at = draw(st.integers(0, len(text)))
    return text[:at] + other[start:end] + text[at:]


def _lines(draw: st.DrawFn, text: str, other: str) -> str:
    """Lines of both, in turn."""
    lines = text.splitlines(keepends=True)
    at = draw(st.integers(0, len(lines)))
    more = other.splitlines(keepends=True)
    start, end = sorted((draw(st.integers(0, len(more))), draw(st.integers(0, len(more)))))
    return "".join((*lines[:at], *more[start:end], *lines[at:]))


_OF_CHARACTERS: tuple[Callable[[st.DrawFn, str, str], str], ...] = (
    *(_deleted, _inserted, _flipped, _doubled, _spliced, _lines),
)


def _slice(draw: st.DrawFn, text: str) -> tuple[int, int]:
    start = draw(st.integers(0, len(text)))
    return start, min(len(text), start + draw(st.sampled_from((1, 1, 2, 5, 20, 100))))


# --- trees


def _edited(draw: st.DrawFn, data: dict[str, Data], other: dict[str, Data]) -> dict[str, Data]:
    """The data with one edit, at a place that is drawn."""
    holder, key = draw(st.sampled_from(list(_places(data))))
    draw(st.sampled_from(_OF_TREES))(draw, holder, key, other)
    return data


def _places(data: Data) -> Iterator[tuple[Any, Any]]:
    """Every place of a tree, as what holds it and where in there."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in list(pairs):
        yield data, key
        yield from _places(value)


def _dropped(_: st.DrawFn, holder: Any, key: Any, __: Data) -> None:
    del holder[key]
    if not holder and isinstance(holder, dict):
        holder["encoder"] = None


def _replaced(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    holder[key] = draw(st.sampled_from(VALUES))


def _renamed(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    if isinstance(holder, dict):
        holder[draw(st.sampled_from(_KEYS) | st.just(f"{key}s") | st.just(str(key)[:-1]))] = holder.pop(key)


def _added(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    if isinstance(holder[key], dict):
        holder[key][draw(st.sampled_from(_KEYS))] = draw(st.sampled_from(VALUES))


def _moved(draw: st.DrawFn, holder: Any, key: Any, other: Data) -> None:
    """What stands somewhere in the other spec, or in this one."""
    source, place = draw(st.sampled_from(list(_places(other))))
    holder[key] = source[place]


def _swapped(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    """With another entry of the same list or mapping."""
    beside = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
    holder[key], holder[beside] = holder[beside], holder[key]


def _nested(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    for _depth in range(draw(st.sampled_from((1, 2, 5, _EXTREME)))):
        holder[key] = [holder[key]] if draw(st.booleans()) else {draw(st.sampled_from(_KEYS)): holder[key]}


def _repeated(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    if isinstance(holder, list):
        holder[key:key] = [holder[key]] * draw(st.sampled_from((1, 1, 2, 5, 70, 3000)))


def _another_part(draw: st.DrawFn, holder: Any, key: Any, _: Data) -> None:
    """The name of another part, for one of which the fields stay."""
    name = draw(st.sampled_from(_PARTS) | st.sampled_from(_NETWORKS))
    if isinstance(holder, dict) and isinstance(holder[key], dict):
        holder[name] = holder.pop(key)
    else:
        holder[key] = name


_OF_TREES = (_replaced, _dropped, _renamed, _added, _moved, _swapped, _nested, _repeated, _another_part, _another_part)

_KEYS = tuple(
    dict.fromkeys([*CHAIN, *GRAPH, "part", "share", "from", "<<", *(f for p in PARTS.values() for f in fields_of(p))])
)
_PARTS = tuple(name for name in PARTS if not name.endswith("/"))
_NETWORKS = tuple(f"timm/{name}" for name in names())


def _data(text: str) -> Data:
    """What a text says, as Python has it; None of one that is no YAML."""
    try:
        tree, _ = document(text)
    except SpecError:
        return None
    return _plain(tree)


def _plain(tree: Tree) -> Data:
    if isinstance(tree, Scalar):
        return tree.value
    if isinstance(tree, Entries):
        return [_plain(entry) for entry in tree.entries]
    assert isinstance(tree, Mapping)
    return {str(key.value): _plain(value) for key, value in tree.pairs}
