"""Load weights from other people's checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from os import PathLike

from attrs import frozen
from torch import Tensor, nn

from composer.errors import Place, Problem, SpecError
from composer.layouts import format_count
from composer.model import Model
from composer.modules.encoders import COMPILED, map_unwrapped_names, unwrap
from composer.tensors.archives import StoredTensor, describe_tensor
from composer.tensors.copying import (
    PendingCopies,
    build_weights_error,
    convert_read_errors,
    copy_all_or_nothing,
    refuse_unwritable,
)
from composer.tensors.files import open_tensors
from composer.tensors.matching import count_matches

MAX_LISTED_PREFIXES = 4
"""How many of the other prefixes an error lists."""


@frozen
class Mismatch:
    """A tensor with another shape, or another kind of numbers, in the file than in the model. Both are described."""

    name: str
    source: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.name} is {self.found} and must be {self.wanted}"


@frozen(kw_only=True)
class Report:
    """What became of the tensors of a checkpoint.

    `matched` are pairs of a name in the model and the name in the file that its numbers came from. `missing` are names
    of the model that are not in the file, `unexpected` are names of the file that are not in the model, and
    `mismatched` are in both and do not fit: of all three there are only those that `ignore` allowed. `set_aside` are
    names in the file that do not belong to this model, each with the reason.
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


def load_weights(
    model: nn.Module, file: str | PathLike[str], *, prefix: str | None = None, ignore: Iterable[str] = ()
) -> Report:
    """Set the weights of a built model from a checkpoint: all of them, or none where anything does not fit.

    The file is what composer.save wrote, another safetensors file, or what torch.save wrote: a state dict, or a
    checkpoint that holds one, such as Lightning's. Only tensors are read; nothing in the file is imported or run. The
    names are those of the model, or TerraTorch's, behind any prefix that a wrapper put in front of them (`model.`,
    `module.`). The prefix with most of the names is taken, and what is not behind it is set aside; `prefix` chooses
    where several fit. Floating-point numbers are cast to the precision of the model; whole numbers must be of the
    model's kind.

    `ignore` lists names, or glob patterns (`head.*`), that may be missing, unexpected or of another shape: names of the
    model or of the file, with or without the prefix. What is listed and fits is set.

    Raises TypeError for a module that composer did not build. Raises SpecError where the file is none of these, where
    several prefixes fit, and for all else that is missing, unexpected or does not fit; the model is then as it was.
    """
    if isinstance(ignore, str):
        raise ValueError(f"ignore must be a list of names or patterns (got {ignore!r})")
    built = unwrap_model(model, "load_weights")
    wanted = get_model_state(built)
    refuse_unwritable(wanted, file)
    report, waiting = _read_checkpoint(built, wanted, file, prefix, tuple(ignore))
    copy_all_or_nothing(waiting, file)
    return report


def unwrap_model(module: nn.Module, function: str) -> Model:
    """Return the model inside all wrappers around `module`. Raises TypeError where there is none, for `function`."""
    model = unwrap(module)
    if isinstance(model, Model):
        return model
    kind = type(model).__name__
    inside = model.named_modules() if isinstance(model, nn.Module) else ()
    found = next((name for name, child in inside if isinstance(child, Model)), None)
    advice = f"a {kind}" if found is None else f"a {kind}, which holds one: give its {found}"
    raise TypeError(f"composer.{function} takes a model that composer.build made (got {advice})")


def get_model_state(model: Model) -> dict[str, Tensor]:
    """The state dict of a model, without the names that wrappers around its children add."""
    state = model.state_dict()
    plain = map_unwrapped_names(model, state)
    return {plain[name]: value for name, value in state.items()}


def _read_checkpoint(
    model: Model, wanted: Mapping[str, Tensor], file: str | PathLike[str], prefix: str | None, ignore: Sequence[str]
) -> tuple[Report, PendingCopies]:
    """The report on a file, and what the model's tensors will be: after this only that holds the file's numbers."""
    with convert_read_errors(file), open_tensors(file) as found:
        names = _NameMatcher(model, wanted, found.tensors)
        at = names.find_prefix(file) if prefix is None else _as_prefix(prefix)
        report = _compare_names(names, at, wanted, found.tensors)
        _check_report(report, at, names, file, ignore)
        return report, [(name, wanted[name], found.tensors[source].read()) for name, source in report.matched]


def _as_prefix(prefix: str) -> str:
    return f"{prefix.removesuffix('.')}." if prefix else ""


def match_names(candidates: Mapping[str, Sequence[str]], given: Iterable[str]) -> dict[str, str]:
    """Map each key to the first of its candidates that is given; no given name is used twice."""
    free = set(given)
    found: dict[str, str] = {}
    # Each round takes the next likely names, so that an exact name goes before one that may be meant.
    for rank in range(max(map(len, candidates.values()), default=0)):
        for key, names in candidates.items():
            if key not in found and rank < len(names) and names[rank] in free:
                found[key] = names[rank]
                free.remove(names[rank])
    return {key: found[key] for key in candidates if key in found}


class _NameMatcher:
    """The names of a model's tensors and those in a file, and which belongs to which."""

    def __init__(self, model: Model, wanted: Iterable[str], given: Iterable[str]) -> None:
        # Not at the top: TerraTorch's names are known to a later stage, and are needed here alone.
        from composer.terratorch.checkpoints import find_ignore_reason, list_tensor_names, normalize_tensor_name

        self.graph = model.graph
        self.reason_to_leave = find_ignore_reason
        self.iter_candidates = {
            key: tuple(
                dict.fromkeys(normalize_tensor_name(name) for name in (key, *list_tensor_names(self.graph, key)))
            )
            for key in wanted
        }
        # Two names that become equal are of two tensors, and only one of them can be meant.
        self.sources: dict[str, str] = {}
        for name in given:
            self.sources.setdefault(normalize_tensor_name(_strip_compiled(name)), name)
        self.plain = {source: name for name, source in self.sources.items()}

    def match(self, prefix: str) -> dict[str, str]:
        """Map each name of the model that the file has behind `prefix` to the name in the file; none is used twice."""
        behind = {name.removeprefix(prefix): source for name, source in self.sources.items() if name.startswith(prefix)}
        return {key: behind[name] for key, name in match_names(self.iter_candidates, behind).items()}

    def find_prefix(self, file: str | PathLike[str]) -> str:
        """The prefix behind which most of the model's names are. Raises SpecError where several fit equally well."""
        counts = count_matches(self.sources, {name for names in self.iter_candidates.values() for name in names})
        most = max(counts.values(), default=0)
        first, *others = [prefix for prefix, count in counts.items() if count == most] or [""]
        # Two models have tensors of their own. One tensor may fit at several prefixes: `a.b.x`, as `b.x` behind `a.`.
        used = set(self.match(first).values())
        rivals = list(
            islice((prefix for prefix in others if used.isdisjoint(self.match(prefix).values())), MAX_LISTED_PREFIXES)
        )
        if rivals:
            raise build_weights_error(
                file,
                f"has {format_count(most, 'tensor')} of this model behind each of several prefixes: "
                f"{', '.join(map(repr, (first, *rivals)))}",
                f"choose one: load_weights(model, file, prefix={first!r})",
            )
        return first


def _strip_compiled(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != COMPILED)


def _compare_names(
    names: _NameMatcher, prefix: str, wanted: Mapping[str, Tensor], given: Mapping[str, StoredTensor]
) -> Report:
    pairs = names.match(prefix)
    unlike = {
        name: Mismatch(name, source, *kinds)
        for name, source in pairs.items()
        if len(set(kinds := _describe_mismatch(given[source], wanted[name]))) > 1
    }
    used = frozenset(pairs.values())
    left = {name: _find_ignore_reason(names, prefix, name) for name in given if name not in used}
    return Report(
        matched=tuple(pair for pair in pairs.items() if pair[0] not in unlike),
        missing=tuple(name for name in wanted if name not in pairs),
        unexpected=tuple(name for name, reason in left.items() if reason is None),
        mismatched=tuple(unlike.values()),
        set_aside=tuple((name, reason) for name, reason in left.items() if reason is not None),
    )


def _find_ignore_reason(names: _NameMatcher, prefix: str, source: str) -> str | None:
    """Why a tensor of the file does not belong to this model; None where it should have a place in it."""
    name = names.plain.get(source, source)
    if not name.startswith(prefix):
        return f"not behind {prefix}"
    return names.reason_to_leave(names.graph, name.removeprefix(prefix))


def _describe_mismatch(given: StoredTensor, wanted: Tensor) -> tuple[str, str]:
    """What each is, as far as it matters: the precision of floating-point numbers does not."""
    if given.dtype.is_floating_point and wanted.is_floating_point():
        return str(list(given.shape)), str(list(wanted.shape))
    return describe_tensor(given), describe_tensor(wanted)


def _check_report(
    report: Report, prefix: str, names: _NameMatcher, file: str | PathLike[str], ignore: Sequence[str]
) -> None:
    """Raise SpecError, with a problem of each kind, for what has no partner and is not listed."""
    behind = f" behind {prefix}" if prefix else ""
    if not report.matched and not report.mismatched:
        raise build_weights_error(
            file,
            f"has no tensor of this model{behind}: {_list_examples(names.sources.values())} in the file, "
            f"and {_list_examples(names.iter_candidates)} in the model",
            "give a checkpoint of this model; for an encoder alone: pretrained: FILE in the spec",
        )
    missing = [name for name in report.missing if not _is_listed([name], ignore)]
    unexpected = {
        source: name
        for source in report.unexpected
        if not _is_listed([source, name := names.plain.get(source, source).removeprefix(prefix)], ignore)
    }
    unlike = [
        mismatch
        for mismatch in report.mismatched
        if not _is_listed([mismatch.name, source := mismatch.source, names.plain[source].removeprefix(prefix)], ignore)
    ]
    found = (
        (f"lacks {{}} of the model{behind}", {name: name for name in missing}),
        ("has {} that the model does not have", unexpected),
        ("has {} of another shape or type than the model's", {str(m): m.name for m in unlike}),
    )
    problems = [_build_tensor_problem(file, what, wrong) for what, wrong in found if wrong]
    if problems:
        raise SpecError(problems)


def _list_examples(names: Iterable[str]) -> str:
    first, *more = list(names) or ["nothing"]
    return f"{', '.join((first, *more[:2]))}{', …' if len(more) > 2 else ''}"


def _is_listed(names: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _build_tensor_problem(file: str | PathLike[str], what: str, names: Mapping[str, str]) -> Problem:
    """The problem of several tensors, by the place of each: `names` maps a description of each to its plain name."""
    groups: dict[str, list[str]] = {}
    for description, name in names.items():
        groups.setdefault(_find_place(name), []).append(description)
    listed = "; ".join(
        f"{len(group)} of {place} ({', '.join(_iter_first_names(group))})" for place, group in groups.items()
    )
    patterns = ", ".join(f'"{place}{".*" * (place not in names.values())}"' for place in groups)
    return Problem(
        code="weights",
        place=Place(file=str(file)),
        message=f"{what.format(format_count(len(names), 'tensor'))}: {listed}.",
        got="; ".join(names),
        repair=f"give a checkpoint of this very model, or allow it: load_weights(model, file, ignore=[{patterns}])",
    )


def _find_place(name: str) -> str:
    """The place of the graph that a name begins with, in the model's names or in TerraTorch's."""
    found = _PLACE_PATTERN.match(name)
    return found[0] if found else name


_PLACE_PATTERN = re.compile(r"(?:necks?\.|aux\.[^.]+\.|aux_heads\.[^.]+\.)?[^.]+")


def _iter_first_names(group: Sequence[str]) -> Iterator[str]:
    yield from group[:3]
    if len(group) > 3:
        yield "…"
