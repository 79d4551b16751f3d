"""Match the tensors of a file with those of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

MAX_LISTED_NAMES = 5
"""How many of many names are listed."""


@frozen
class LoadedWeights:
    """The weights that an encoder was built with: all of its parameters and persistent buffers are set.

    `file` is the path of a file, or None for published weights. `prefix` stood in front of the names in the file, and
    `unused` are the names of the tensors in it that were left aside.
    """

    file: str | None = None
    prefix: str = ""
    unused: tuple[str, ...] = ()


def list_names(names: Sequence[str]) -> str:
    """The first of many names, each in full, and how many more there are."""
    more = f" and {len(names) - MAX_LISTED_NAMES:,} more" if len(names) > MAX_LISTED_NAMES else ""
    return f"{', '.join(names[:MAX_LISTED_NAMES])}{more}"


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


TensorState = Mapping[str, Tensor]


Convert = Callable[[dict[str, Tensor]], TensorState]
"""A library's conversion of a checkpoint into the names and shapes of its network. It may change the dict."""


MAX_PREFIX_DEPTH = 8
"""How many dots a prefix may have."""


MAX_PREFIXES = 16
"""How many prefixes are tried. More than two or three that hold a whole network are rare."""


class MismatchError(ValueError):
    """A checkpoint that does not fill a network, of which `fitting` tensors fit.

    `repair` is the next step, where there is a better one than usual.
    """

    def __init__(self, message: str, repair: str | None = None, fitting: int = 0) -> None:
        super().__init__(message)
        self.repair = repair
        self.fitting = fitting


@frozen
class Match:
    """The tensors of a checkpoint that fill a network, by the network's names.

    `prefix` stood in front of their names in the checkpoint, and `unused` are the names of its other tensors.
    """

    prefix: str
    tensors: TensorState
    unused: tuple[str, ...]

    def report(self, file: str) -> LoadedWeights:
        """Say what was loaded from a file."""
        return LoadedWeights(file, self.prefix.removesuffix("."), self.unused)

    def fill(self, wanted: TensorState) -> None:
        """Copy the tensors into those of the network."""
        with torch.no_grad():
            for name, tensor in wanted.items():
                if name in self.tensors:
                    tensor.copy_(self.tensors[name])


def match(
    given: TensorState,
    wanted: TensorState,
    convert: Convert = dict,
    *,
    prefix: str | None = None,
    optional: Callable[[str], bool] = lambda _: False,
) -> Match:
    """Find the tensors that fill `wanted`, the parameters and persistent buffers of a network, in a checkpoint.

    Plain names are tried first, then every prefix behind which there are enough tensors. Where `prefix` is given, no
    other is tried. What stands behind a prefix is converted before it is compared. Every wanted tensor must be there
    in its shape, except for integers and booleans (the network computes its indices and masks itself, and counters
    do not matter) and names that are `optional`.

    Raises MismatchError where no prefix fills the network, and where several do with different tensors.
    """
    needed = [name for name, tensor in wanted.items() if not (_is_computed(tensor) or optional(name))]
    drawn = torch.get_rng_state()

    def try_prefix(prefix: str) -> _Attempt:
        # What a conversion draws at random is the same each time, so that equal tensors are.
        torch.set_rng_state(drawn)
        return _try_prefix(given, wanted, needed, convert, prefix)

    if prefix is not None:
        return _require_match(try_prefix(f"{prefix}."), given, needed)
    plain = try_prefix("")
    prefixes = _find_prefixes(given, needed)
    if plain.match is not None and (all(name in given for name in needed) or _is_nested(prefixes)):
        return plain.match
    others = [try_prefix(other) for other in prefixes]
    complete = list(_drop_equal([one.match for one in others if one.match is not None]))
    # A conversion may strip a prefix too, and of two networks take the first.
    if plain.match is not None and not any(_is_same_state(plain.match.tensors, one.tensors) for one in complete):
        return plain.match
    if len(complete) == 1:
        return complete[0]
    if complete:
        listed = ", ".join(one.prefix[:-1] for one in complete)
        raise MismatchError(
            f"a whole network behind each of the prefixes {listed}",
            f"choose one: pretrained: {{file: FILE, prefix: {complete[0].prefix[:-1]}}}",
        )
    nearest = max([plain, *others], key=lambda one: one.fitting)
    raise MismatchError(nearest.describe(), fitting=nearest.fitting)


def _is_computed(tensor: Tensor) -> bool:
    """Whether a network has a tensor from its architecture: an index, a mask or a counter. Statistics are floats."""
    return not isinstance(tensor, nn.Parameter) and not (tensor.is_floating_point() or tensor.is_complex())


@frozen
class _Attempt:
    """How far the tensors behind a prefix fill a network: the match, or all that is wrong."""

    prefix: str
    match: Match | None = None
    fitting: int = 0
    needed: int = 0
    missing: Sequence[str] = ()
    unlike: Sequence[str] = ()
    unused: Sequence[str] = ()
    error: str | None = field(default=None, kw_only=True)

    def describe(self) -> str:
        """Say what does not fit, with names of both sides."""
        behind = f" behind the prefix {self.prefix[:-1]}" if self.prefix else ""
        if self.error is not None:
            return f"tensors{behind} that cannot be converted: {self.error}"
        nearest = ", the nearest" if self.prefix else ""
        said = [f"{self.fitting} of the {self.needed} tensors that the network needs{behind}{nearest}"]
        named = (("missing", self.missing), ("of another shape", self.unlike), ("not used", self.unused))
        return "; ".join([*said, *(f"{what}: {list_names(names)}" for what, names in named if names)])


def _try_prefix(
    given: TensorState, wanted: TensorState, needed: Sequence[str], convert: Convert, prefix: str
) -> _Attempt:
    behind = {name[len(prefix) :]: tensor for name, tensor in given.items() if name.startswith(prefix)}
    try:
        # A library may look elsewhere for what is empty.
        found = convert(dict(behind)) if behind else {}
    except MemoryError:
        raise
    except Exception as error:  # whatever a conversion raises for tensors that it does not know
        words = " ".join(str(error).split())
        fitting = sum(name in behind and _is_compatible(behind[name], wanted[name]) for name in needed)
        return _Attempt(prefix, fitting=fitting, error=f"{type(error).__name__}{f': {words}' if words else ''}")
    missing = [name for name in needed if name not in found]
    alike = {name: tensor for name, tensor in wanted.items() if name in found and _is_compatible(found[name], tensor)}
    unlike = [
        f"{name} {_describe_kind(found[name])} instead of {_describe_kind(tensor)}"
        for name, tensor in wanted.items()
        if name in found and name not in alike
    ]
    # Counters last, so that the names that a message lists are those of weights.
    unused = tuple(sorted(_list_unused(given, prefix, behind, found, wanted), key=_is_counter))
    fitting = sum(name in alike for name in needed)
    attempt = _Attempt(prefix, None, fitting, len(needed), missing, unlike, unused)
    if missing or unlike:
        return attempt
    return evolve(attempt, match=Match(prefix, {name: found[name] for name in alike}, unused))


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _is_compatible(given: Tensor, wanted: Tensor) -> bool:
    return given.shape == wanted.shape and _name_numbers(given) == _name_numbers(wanted)


def _name_numbers(tensor: Tensor) -> str:
    """What kind of numbers a tensor has. The precision does not matter."""
    return "complex number" if tensor.is_complex() else "float" if tensor.is_floating_point() else "integer"


def _describe_kind(tensor: Tensor) -> str:
    shape = str(list(tensor.shape))
    return shape if tensor.is_floating_point() else f"{shape} of {_name_numbers(tensor)}s"


def _list_unused(
    given: TensorState, prefix: str, behind: TensorState, found: TensorState, wanted: TensorState
) -> Iterator[str]:
    """The tensors that go nowhere. Where a conversion renamed some, those that it dropped cannot be told from those
    that it joined: then only what it left over is listed.
    """
    yield from (name for name in given if not name.startswith(prefix))
    left = behind if found.keys() <= behind.keys() else found
    yield from (f"{prefix}{name}" for name in left if not (name in found and name in wanted))


def _require_match(attempt: _Attempt, given: TensorState, needed: Collection[str]) -> Match:
    if attempt.match is not None:
        return attempt.match
    if not any(name.startswith(attempt.prefix) for name in given):
        known = _find_prefixes(given, needed)
        listed = f"; prefixes: {list_names([name[:-1] for name in known])}" if known else ""
        raise MismatchError(f"no name that begins with {attempt.prefix}; names: {list_names(list(given))}{listed}")
    raise MismatchError(attempt.describe().replace(", the nearest", "", 1), fitting=attempt.fitting)


def _find_prefixes(given: Iterable[str], needed: Collection[str]) -> list[str]:
    """The prefixes behind which a whole network may be, the likeliest first.

    A conversion may split tensors, but never so many that half as many as are needed would not do.
    """
    names = list(given)
    behind = Counter(prefix for name in names for prefix in _iter_prefixes(name))
    large = [prefix for prefix, count in behind.most_common() if 2 * count >= len(needed)]
    likely = [prefix for prefix in count_matches(names, needed) if prefix in frozenset(large)]
    return list(dict.fromkeys([*likely, *large]))[:MAX_PREFIXES]


def _iter_prefixes(name: str) -> Iterator[str]:
    at = 0
    for segment in name.split(".", MAX_PREFIX_DEPTH)[:-1][:MAX_PREFIX_DEPTH]:
        at += len(segment) + 1
        yield name[:at]


def _is_nested(prefixes: Iterable[str]) -> bool:
    """Whether each prefix continues the one before it: then no two networks stand beside each other."""
    ordered = sorted(prefixes, key=len)
    return all(longer.startswith(shorter) for shorter, longer in pairwise(ordered))


def _drop_equal(matches: Sequence[Match]) -> Iterator[Match]:
    """One match of each set of equal tensors: a conversion may strip a prefix too."""
    seen: list[Match] = []
    for one in matches:
        if not any(_is_same_state(one.tensors, other.tensors) for other in seen):
            seen.append(one)
            yield one


def _is_same_state(one: TensorState, other: TensorState) -> bool:
    """Whether all tensors are equal, and of one precision: torch compares no others."""
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]) for name, tensor in one.items()
    )
