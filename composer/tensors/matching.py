"""Match the tensors of a file with those of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

MAX_LISTED_NAMES = 5
MAX_PREFIX_DEPTH = 8  # dots in a prefix
MAX_PREFIXES = 16  # prefixes that are tried; more than two or three with a whole network are rare

TensorState = Mapping[str, Tensor]
Convert = Callable[[dict[str, Tensor]], TensorState]
"""A library's conversion of a checkpoint into the names and shapes of its network. It may change the dict."""


@frozen
class LoadedWeights:
    """The weights that an encoder was built with: all of its parameters and persistent buffers are set.

    `file` is the path of a file, or None for published weights. `prefix` is what the names in the file begin with, and
    `unused` are the names of its tensors that were not loaded.
    """

    file: str | None = None
    prefix: str = ""
    unused: tuple[str, ...] = ()


def list_names(names: Sequence[str], limit: int = MAX_LISTED_NAMES) -> str:
    """Return the first of many names, each in full, and how many more there are."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}"


def count_matches(names: Collection[str], wanted: Collection[str]) -> Mapping[str, int]:
    """Return how many of the `wanted` names are behind each prefix of `names`, the most first.

    A prefix is empty or ends in a dot, of which it has at most `MAX_PREFIX_DEPTH`. Prefixes without a wanted name are
    left out. Equal counts are ordered by the length of the prefix, the shortest first.
    """
    needed = frozenset(wanted)
    counts = Counter(prefix for name in names for prefix in _iter_prefixes(name) if name[len(prefix) :] in needed)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], len(item[0]), item[0])))


class MismatchError(ValueError):
    """A checkpoint does not fill a network; `fitting` of its tensors fit.

    `fix` is the next step, where there is a better one than usual.
    """

    def __init__(self, message: str, fix: str | None = None, fitting: int = 0) -> None:
        super().__init__(message)
        self.fix = fix
        self.fitting = fitting


@frozen
class Match:
    """The tensors of a checkpoint that fill a network, by the network's names.

    `prefix` is what their names in the checkpoint begin with, and `unused` are the names of its other tensors.
    """

    prefix: str
    tensors: TensorState
    unused: tuple[str, ...]

    def report(self, file: str) -> LoadedWeights:
        """Return what was loaded from a file."""
        return LoadedWeights(file, self.prefix.removesuffix("."), self.unused)

    def fill(self, wanted: TensorState) -> None:
        """Copy the tensors into those of the network."""
        with torch.no_grad():
            for name, tensor in wanted.items():
                if name in self.tensors:
                    tensor.copy_(self.tensors[name])


def match(
    tensors: TensorState,
    wanted: TensorState,
    convert: Convert = dict,
    *,
    prefix: str | None = None,
    optional: Callable[[str], bool] = lambda _: False,
) -> Match:
    """Find the tensors that fill `wanted`, the parameters and persistent buffers of a network, in a checkpoint.

    Plain names are tried first, then every prefix behind which there are enough tensors; with `prefix`, only that.
    The tensors behind a prefix are converted before they are compared. Every wanted tensor must be there in its shape,
    except for integers and booleans, which the network computes itself (indices, masks) or does not need (counters),
    and names that are `optional`.

    Raises MismatchError where no prefix fills the network, and where several do with different tensors.
    """
    needed = [name for name, tensor in wanted.items() if not (_is_computed(tensor) or optional(name))]
    random_state = torch.get_rng_state()

    def try_prefix(prefix: str) -> _Attempt:
        # A conversion may draw random numbers; equal tensors must stay equal.
        torch.set_rng_state(random_state)
        return _try_prefix(tensors, wanted, needed, convert, prefix)

    prefixes = _find_prefixes(tensors, needed)
    if prefix is not None:
        return _require_match(try_prefix(f"{prefix}."), tensors, prefixes)
    plain = try_prefix("")
    if plain.match is not None and (all(name in tensors for name in needed) or _is_nested(prefixes)):
        return plain.match
    others = [try_prefix(other) for other in prefixes]
    complete = _drop_equal([attempt.match for attempt in others if attempt.match is not None])
    # A conversion may strip a prefix too, and select the first of two networks.
    if plain.match is not None and not any(_is_same_state(plain.match, other) for other in complete):
        return plain.match
    if len(complete) == 1:
        return complete[0]
    if complete:
        listed = ", ".join(other.prefix[:-1] for other in complete)
        raise MismatchError(
            f"a whole network behind each of the prefixes {listed}",
            f"choose one: pretrained: {{file: FILE, prefix: {complete[0].prefix[:-1]}}}",
        )
    nearest = max([plain, *others], key=lambda attempt: attempt.fitting)
    raise MismatchError(nearest.describe(), fitting=nearest.fitting)


def _is_computed(tensor: Tensor) -> bool:
    """Return whether a tensor is an index, a mask or a counter, which depends on the architecture only."""
    return not isinstance(tensor, nn.Parameter) and not (tensor.is_floating_point() or tensor.is_complex())


@frozen
class _Attempt:
    """The result of trying a prefix: a match, or everything that is wrong."""

    prefix: str
    match: Match | None = None
    fitting: int = 0
    needed: int = 0
    missing: Sequence[str] = ()
    mismatched: Sequence[str] = ()
    unused: Sequence[str] = ()
    error: str | None = field(default=None, kw_only=True)

    def describe(self, nearest: str = ", the nearest") -> str:
        """Describe what does not fit, with names of both sides."""
        behind = f" behind the prefix {self.prefix[:-1]}" if self.prefix else ""
        if self.error is not None:
            return f"tensors{behind} that cannot be converted: {self.error}"
        counted = f"{self.fitting} of the {self.needed} tensors that the network needs{behind}{behind and nearest}"
        groups = (("missing", self.missing), ("of another shape", self.mismatched), ("not used", self.unused))
        return "; ".join([counted, *(f"{what}: {list_names(names)}" for what, names in groups if names)])


def _try_prefix(
    tensors: TensorState, wanted: TensorState, needed: Sequence[str], convert: Convert, prefix: str
) -> _Attempt:
    behind = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    try:
        # A library may look elsewhere for weights where there are none.
        converted = convert(dict(behind)) if behind else {}
    except MemoryError:
        raise
    except Exception as error:  # whatever a conversion raises for unknown tensors
        words = " ".join(str(error).split())
        fitting = sum(name in behind and _is_compatible(behind[name], wanted[name]) for name in needed)
        return _Attempt(prefix, fitting=fitting, error=f"{type(error).__name__}{f': {words}' if words else ''}")
    missing = [name for name in needed if name not in converted]
    pairs = {name: (converted[name], tensor) for name, tensor in wanted.items() if name in converted}
    compatible = [name for name, pair in pairs.items() if _is_compatible(*pair)]
    mismatched = [
        f"{name} {_describe_tensor(found)} instead of {_describe_tensor(tensor)}"
        for name, (found, tensor) in pairs.items()
        if not _is_compatible(found, tensor)
    ]
    # Where a conversion renamed tensors, those that it dropped cannot be told from those that it joined with others.
    rest = behind if converted.keys() <= behind.keys() else converted
    unused = [name for name in tensors if not name.startswith(prefix)]
    unused += [f"{prefix}{name}" for name in rest if name not in pairs]
    # Counters last, so that a message lists names of weights.
    unused.sort(key=lambda name: name.endswith("num_batches_tracked"))
    fitting = len(frozenset(needed).intersection(compatible))
    attempt = _Attempt(prefix, None, fitting, len(needed), missing, mismatched, tuple(unused))
    if missing or mismatched:
        return attempt
    return evolve(attempt, match=Match(prefix, {name: converted[name] for name in compatible}, tuple(unused)))


def _is_compatible(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and _get_number_kind(found) == _get_number_kind(wanted)


def _get_number_kind(tensor: Tensor) -> str:
    return "complex number" if tensor.is_complex() else "float" if tensor.is_floating_point() else "integer"


def _describe_tensor(tensor: Tensor) -> str:
    return f"{list(tensor.shape)}{'' if tensor.is_floating_point() else f' of {_get_number_kind(tensor)}s'}"


def _require_match(attempt: _Attempt, tensors: TensorState, prefixes: Sequence[str]) -> Match:
    if attempt.match is not None:
        return attempt.match
    if not any(name.startswith(attempt.prefix) for name in tensors):
        listed = f"; prefixes: {list_names([name[:-1] for name in prefixes])}" if prefixes else ""
        raise MismatchError(f"no name that begins with {attempt.prefix}; names: {list_names(list(tensors))}{listed}")
    raise MismatchError(attempt.describe(nearest=""), fitting=attempt.fitting)


def _find_prefixes(names: Collection[str], needed: Collection[str]) -> list[str]:
    """Return the prefixes behind which a whole network may be, the likeliest first.

    A conversion may split tensors, but a file has at least half as many as are needed.
    """
    counts = Counter(prefix for name in names for prefix in _iter_prefixes(name) if prefix)
    large = [prefix for prefix, count in counts.most_common() if 2 * count >= len(needed)]
    enough = frozenset(large)
    likely = [prefix for prefix in count_matches(names, needed) if prefix in enough]
    return list(dict.fromkeys([*likely, *large]))[:MAX_PREFIXES]


def _iter_prefixes(name: str) -> Iterator[str]:
    at = 0
    yield ""
    for segment in name.split(".", MAX_PREFIX_DEPTH)[:-1]:
        at += len(segment) + 1
        yield name[:at]


def _is_nested(prefixes: Iterable[str]) -> bool:
    """Return whether each prefix continues the one before it, so that there is one network at most."""
    return all(longer.startswith(shorter) for shorter, longer in pairwise(sorted(prefixes, key=len)))


def _drop_equal(matches: Sequence[Match]) -> list[Match]:
    """Return the first of each set of matches with equal tensors: a conversion may strip a prefix too."""
    different: list[Match] = []
    for candidate in matches:
        if not any(_is_same_state(candidate, other) for other in different):
            different.append(candidate)
    return different


def _is_same_state(match: Match, other: Match) -> bool:
    """Return whether all tensors are equal, and of one precision, as torch.equal requires."""
    return match.tensors.keys() == other.tensors.keys() and all(
        tensor.dtype == other.tensors[name].dtype and torch.equal(tensor, other.tensors[name])
        for name, tensor in match.tensors.items()
    )
