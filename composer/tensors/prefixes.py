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
    longest = max(map(len, names), default=0)
    counts = Counter(prefix for name in given for prefix in _prefixes_of(name, longest) if name[len(prefix) :] in names)
    return dict(sorted(counts.items(), key=lambda found: (-found[1], len(found[0]), found[0])))


def _prefixes_of(name: str, longest: int) -> Iterator[str]:
    """The prefixes in front of at most `longest` letters: a hostile name may have a million dots."""
    if len(name) <= longest:
        yield ""
    start = max(len(name) - longest - 1, 0)
    yield from (name[: at + 1] for at in range(start, len(name)) if name[at] == ".")
