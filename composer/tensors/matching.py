"""Match the tensors of a file with those of a network or a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, pairwise

import torch
from attrs import frozen
from torch import Tensor, nn

from composer.graph import Graph
from composer.layouts import format_count

MAX_LISTED_NAMES = 5
MAX_PREFIX_DEPTH = 8  # dots in a prefix
MAX_LISTED_PREFIXES = 4
MAX_PREFIXES = 16  # prefixes that are tried; more than two or three with a whole network are rare

TensorState = Mapping[str, Tensor]
Convert = Callable[[dict[str, Tensor]], TensorState]
"""A library's conversion of a checkpoint into the names and shapes of its network. It may change the dict."""


@frozen
class LoadedWeights:
    """The weights that an encoder was built with: all of its parameters and persistent buffers are set.

    `file` is the path of a file, or None for published weights. `prefix` is what the names in the file begin with, and
    `unused` are the names of its tensors that were not loaded. `kernels` has the band of the weights whose kernel each
    channel of the image got, or `mean`, that of all of them; it is empty where the first layer is as in the weights.
    """

    file: str | None = None
    prefix: str = ""
    unused: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()


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
    prefixes = _find_prefixes(tensors, needed)
    if prefix is not None:
        _require_prefix(f"{prefix}.", tensors, prefixes)
        return _match_behind(f"{prefix}.", tensors, wanted, needed, convert)
    random_state = torch.get_rng_state()
    found: list[Match] = []
    failed: list[MismatchError] = []
    for tried in ("", *prefixes):
        # A conversion may draw random numbers; equal tensors must stay equal.
        torch.set_rng_state(random_state)
        try:
            found.append(_match_behind(tried, tensors, wanted, needed, convert, ", the nearest"))
        except MismatchError as error:
            failed.append(error)
        if not tried and found and (all(name in tensors for name in needed) or _is_nested(prefixes)):
            return found[0]
    if not found:
        raise max(failed, key=lambda error: error.fitting)
    return _choose_match(found)


def _is_computed(tensor: Tensor) -> bool:
    """Return whether a tensor is an index, a mask or a counter, which depends on the architecture only."""
    return not isinstance(tensor, nn.Parameter) and not (tensor.is_floating_point() or tensor.is_complex())


def _match_behind(
    prefix: str, tensors: TensorState, wanted: TensorState, needed: Sequence[str], convert: Convert, nearest: str = ""
) -> Match:
    """Return the converted tensors behind a prefix. Raises MismatchError, with names of both sides, for unfit ones."""
    behind = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    place = f" behind the prefix {prefix[:-1]}" if prefix else ""
    try:
        # A library may look elsewhere for weights where there are none.
        converted = convert(dict(behind)) if behind else {}
    except MemoryError:
        raise
    except Exception as error:  # whatever a conversion raises for unknown tensors
        words = " ".join(str(error).split())
        fitting = sum(name in behind and _is_compatible(behind[name], wanted[name]) for name in needed)
        reason = f"{type(error).__name__}{f': {words}' if words else ''}"
        raise MismatchError(f"tensors{place} that cannot be converted: {reason}", fitting=fitting) from error
    # Where a conversion renamed tensors, those that it dropped cannot be told from those that it joined with others.
    rest = behind if converted.keys() <= behind.keys() else converted
    unused = [name for name in tensors if not name.startswith(prefix)]
    unused += [f"{prefix}{name}" for name in rest if not (name in wanted and name in converted)]
    # Counters last, so that a message lists names of weights.
    unused.sort(key=lambda name: name.endswith("num_batches_tracked"))
    missing = [name for name in needed if name not in converted]
    mismatched = {
        name: f"{name} {_describe_tensor(converted[name])} instead of {_describe_tensor(tensor)}"
        for name, tensor in wanted.items()
        if name in converted and not _is_compatible(converted[name], tensor)
    }
    if missing or mismatched:
        fitting = len([name for name in needed if name in converted and name not in mismatched])
        counted = f"{fitting} of the {len(needed)} tensors that the network needs{place}{place and nearest}"
        groups = (("missing", missing), ("of another shape", [*mismatched.values()]), ("not used", unused))
        listed = (f"; {what}: {list_names(names)}" for what, names in groups if names)
        raise MismatchError(f"{counted}{''.join(listed)}", fitting=fitting)
    return Match(prefix, {name: converted[name] for name in wanted if name in converted}, tuple(unused))


def _is_compatible(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and _get_number_kind(found) == _get_number_kind(wanted)


def _get_number_kind(tensor: Tensor) -> str:
    return "complex number" if tensor.is_complex() else "float" if tensor.is_floating_point() else "integer"


def _describe_tensor(tensor: Tensor) -> str:
    return f"{list(tensor.shape)}{'' if tensor.is_floating_point() else f' of {_get_number_kind(tensor)}s'}"


def _choose_match(found: Sequence[Match]) -> Match:
    """Return the plain names, or the only match behind a prefix. Raises MismatchError for several different ones."""
    different: list[Match] = []
    for candidate in found:
        # A conversion may strip a prefix too, and select the first of two networks.
        if candidate.prefix and not any(_is_same_state(candidate, other) for other in different):
            different.append(candidate)
    plain = found[0]
    if not plain.prefix and not any(_is_same_state(plain, other) for other in different):
        return plain
    if len(different) == 1:
        return different[0]
    listed = ", ".join(other.prefix[:-1] for other in different)
    raise MismatchError(
        f"a whole network behind each of the prefixes {listed}",
        f"choose one: pretrained: {{file: FILE, prefix: {different[0].prefix[:-1]}}}",
    )


def _is_same_state(match: Match, other: Match) -> bool:
    """Return whether all tensors are equal, and of one precision, as torch.equal requires."""
    return match.tensors.keys() == other.tensors.keys() and all(
        tensor.dtype == other.tensors[name].dtype and torch.equal(tensor, other.tensors[name])
        for name, tensor in match.tensors.items()
    )


def _require_prefix(prefix: str, names: Collection[str], prefixes: Sequence[str]) -> None:
    """Raise MismatchError, with the prefixes that there are, where no name begins with the one that was chosen."""
    if not any(name.startswith(prefix) for name in names):
        listed = f"; prefixes: {list_names([name[:-1] for name in prefixes])}" if prefixes else ""
        raise MismatchError(f"no name that begins with {prefix}; names: {list_names(list(names))}{listed}")


def _find_prefixes(names: Collection[str], needed: Collection[str]) -> list[str]:
    """Return the prefixes behind which a whole network may be, the likeliest first.

    A conversion may split tensors, but a file has at least half as many as are needed.
    """
    counts = Counter(prefix for name in names for prefix in _iter_prefixes(name) if prefix)
    large = {prefix: None for prefix, count in counts.most_common() if 2 * count >= len(needed)}
    likely = [prefix for prefix in count_matches(names, needed) if prefix in large]
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


@frozen
class Mismatch:
    """A tensor whose shape or number type differs between the file and the model, with a description of both."""

    name: str
    source: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.name} is {self.found} and must be {self.wanted}"


@frozen(kw_only=True)
class Report:
    """The result of loading a checkpoint.

    `matched` are pairs of a name in the model and the name in the file whose numbers it has. `missing` are names of the
    model that are not in the file, `unexpected` are names of the file that are not in the model, and `mismatched` are
    in both and do not fit: all three hold only names that `ignore` allows. `set_aside` are names in the file that do
    not belong to this model, each with the reason.
    """

    matched: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    set_aside: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        tensors = len(self.matched) + len(self.missing) + len(self.mismatched)
        were = "was" if 1 in (len(self.matched), tensors) else "were"
        lines = [f"{len(self.matched)} of {format_count(tensors, 'tensor')} {were} set"]
        lines += [f"  missing in the file, left as it was: {name}" for name in self.missing]
        lines += [f"  not fitting, left as it was: {mismatch}" for mismatch in self.mismatched]
        lines += [f"  unexpected, left in the file: {name}" for name in self.unexpected]
        lines += [f"  set aside: {name} ({reason})" for name, reason in self.set_aside]
        return "\n".join(lines)


def match_names(candidates: Mapping[str, Sequence[str]], names: Iterable[str]) -> dict[str, str]:
    """Map each key to the first of its candidates that is in `names`; no name is used twice."""
    free = set(names)
    matched: dict[str, str] = {}
    # By rank, so that an exact name of one key wins over an alternative of another.
    for rank in range(max(map(len, candidates.values()), default=0)):
        for key, options in candidates.items():
            if key not in matched and rank < len(options) and options[rank] in free:
                matched[key] = options[rank]
                free.remove(options[rank])
    return {key: matched[key] for key in candidates if key in matched}


class NameMatcher:
    """Match the names of a model's tensors, its own and TerraTorch's, with those of a file."""

    def __init__(self, graph: Graph, wanted: Iterable[str], tensors: Iterable[str]) -> None:
        # Not at the top: the core does not import composer.terratorch, except for these names.
        from composer.modules.base import COMPILED
        from composer.terratorch.translation import find_ignore_reason, list_tensor_names, normalize_tensor_name

        self.find_ignore_reason = partial(find_ignore_reason, graph)
        self.candidates = {
            key: tuple(dict.fromkeys(map(normalize_tensor_name, (key, *list_tensor_names(graph, key)))))
            for key in wanted
        }
        # Of two names that become equal, the first is used.
        self.sources: dict[str, str] = {}
        for name in tensors:
            plain = ".".join(part for part in name.split(".") if part != COMPILED)
            self.sources.setdefault(normalize_tensor_name(plain), name)
        self.plain = {source: name for name, source in self.sources.items()}

    def match(self, prefix: str) -> dict[str, str]:
        """Map each name of the model that the file has behind `prefix` to the name in the file."""
        behind = {name.removeprefix(prefix): source for name, source in self.sources.items() if name.startswith(prefix)}
        return {key: behind[name] for key, name in match_names(self.candidates, behind).items()}

    def find_prefix(self) -> str:
        """Return the prefix of most of the model's names. Raises MismatchError where several fit equally well."""
        counts = count_matches(self.sources, {name for names in self.candidates.values() for name in names})
        most = max(counts.values(), default=0)
        first, *others = [prefix for prefix, count in counts.items() if count == most] or [""]
        # Two models have tensors of their own. One tensor may fit at several prefixes: `a.b.x`, as `b.x` behind `a.`.
        used = set(self.match(first).values())
        separate = (prefix for prefix in others if used.isdisjoint(self.match(prefix).values()))
        if rivals := list(islice(separate, MAX_LISTED_PREFIXES)):
            raise MismatchError(
                f"has {format_count(most, 'tensor')} of this model behind each of several prefixes: "
                f"{', '.join(map(repr, (first, *rivals)))}",
                f"choose one: load_weights(model, file, prefix={first!r})",
            )
        return first

    def compare(self, prefix: str, wanted: TensorState, tensors: TensorState) -> Report:
        """Return which tensors of a model and of a file belong together, and which do not."""
        pairs = self.match(prefix)
        mismatched = {
            name: Mismatch(name, source, *kinds)
            for name, source in pairs.items()
            if len(set(kinds := _describe_mismatch(tensors[source], wanted[name]))) > 1
        }
        used = frozenset(pairs.values())
        reasons = {name: self._find_reason(prefix, name) for name in tensors if name not in used}
        return Report(
            matched=tuple(pair for pair in pairs.items() if pair[0] not in mismatched),
            missing=tuple(name for name in wanted if name not in pairs),
            unexpected=tuple(name for name, reason in reasons.items() if reason is None),
            mismatched=tuple(mismatched.values()),
            set_aside=tuple((name, reason) for name, reason in reasons.items() if reason is not None),
        )

    def _find_reason(self, prefix: str, source: str) -> str | None:
        """Return why a tensor of the file does not belong to the model, or None where it should."""
        name = self.plain.get(source, source)
        return self.find_ignore_reason(name.removeprefix(prefix)) if name.startswith(prefix) else f"not behind {prefix}"


def _describe_mismatch(source: Tensor, wanted: Tensor) -> tuple[str, str]:
    """Describe both tensors, equal where they fit: the precision of floating-point numbers does not count."""
    kinds = [f"{str(tensor.dtype).removeprefix('torch.')} " for tensor in (source, wanted)]
    if source.is_floating_point() and wanted.is_floating_point():
        kinds = ["", ""]
    return f"{kinds[0]}{list(source.shape)}", f"{kinds[1]}{list(wanted.shape)}"
