"""Prefixes that wrappers put in front of the names in a checkpoint: `model.`, `module.`, `teacher.backbone.`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping


def count_matches(given: Collection[str], wanted: Collection[str]) -> Mapping[str, int]:
    """Return how many of the `wanted` names stand behind each prefix of the `given` ones, the most first.

    A prefix is empty or ends in a dot. Prefixes behind which none of the wanted names stands are left out. Equal
    counts are ordered by the length of the prefix, the shortest first.
    """
    names = frozenset(wanted)
    # A name may have millions of dots: no more of it is compared than may be one of the wanted names.
    longest = max(map(len, names), default=0)
    counts = Counter(
        prefix for name in given for prefix in _iter_candidate_prefixes(name, longest) if name[len(prefix) :] in names
    )
    return dict(sorted(counts.items(), key=lambda found: (-found[1], len(found[0]), found[0])))


def _iter_candidate_prefixes(name: str, longest: int) -> Iterator[str]:
    """The prefixes behind which at most `longest` characters are left."""
    first = len(name) - longest
    if first <= 0:
        yield ""
    at = name.find(".", max(0, first - 1))
    while at >= 0:
        yield name[: at + 1]
        at = name.find(".", at + 1)
