"""Weights that TerraTorch trained, in a model of composer's: all of them, or none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from os import PathLike

from attrs import frozen
from torch import Tensor

from composer.feature import counted
from composer.model import Model
from composer.problem import Place, Problem, SpecError
from composer.tensors.files import opened
from composer.tensors.problems import unfit, unreadable_is_unfit
from composer.tensors.setting import Waiting, refuse_unwritable, set_all
from composer.tensors.stored import Stored, kind_of
from composer.terratorch.keys import cleaned, matched, plain_branch, reason_to_leave


@frozen
class Mismatch:
    """A tensor whose shape, or kind of numbers, is another in the file than in the model. Both are said in words."""

    name: str
    source: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.name} is {self.found} and must be {self.wanted}"


@frozen(kw_only=True)
class Report:
    """What became of a checkpoint.

    `matched` are pairs of a name in the model and the name in the file that its numbers came from. `missing` are
    names of the model's tensors that the file has not, `unexpected` are the file's that the model has not, and
    `mismatched` those that both have and that do not fit: of all three there are only those that the caller named.
    `set_aside` are names in the file and why no model has a place for them.
    """

    matched: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    set_aside: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        tensors = len(self.matched) + len(self.missing) + len(self.mismatched)
        were = "was" if 1 in (len(self.matched), tensors) else "were"
        lines = [f"{len(self.matched)} of {counted(tensors, 'tensor')} {were} set"]
        lines += [f"  missing in the file, left as it was: {name}" for name in self.missing]
        lines += [f"  not fitting, left as it was: {mismatch}" for mismatch in self.mismatched]
        lines += [f"  unexpected, left in the file: {name}" for name in self.unexpected]
        lines += [f"  set aside: {name} ({reason})" for name, reason in self.set_aside]
        return "\n".join(lines)


def load(model: Model, file: str | PathLike[str], *, ignore: Iterable[str] = ()) -> Report:
    """Set the weights of a model from a checkpoint of TerraTorch's, or of Lightning around it: all, or none at all.

    The file is of safetensors, or what torch.save wrote: a state dict, or a checkpoint that holds one. Tensors are
    all that is read of it; nothing in it is imported or run. The names are TerraTorch's, and are mapped by the places
    of the model's graph: `encoder`, `necks[i]`, `decoder`, `head`, `aux.NAME`. Floating-point numbers are cast to
    the precision that the model has; whole numbers must be of the model's kind.

    `ignore` names what may be left without a partner, or without one of its shape, by glob patterns (`head.*`) over
    the model's names and over the file's, with or without Lightning's `model.`. What is named and fits is set.

    Raises SpecError where the file is none of these, and for all else that is missing, unexpected or does not fit;
    the model is then as it was.
    """
    if isinstance(ignore, str):
        raise ValueError(f"ignore must be a list of names or patterns (got {ignore!r})")
    wanted = model.state_dict()
    refuse_unwritable(wanted, file)
    report, waiting = _read(model, wanted, file, tuple(ignore))
    set_all(waiting, file)
    return report


def _read(
    model: Model, wanted: Mapping[str, Tensor], file: str | PathLike[str], ignore: Sequence[str]
) -> tuple[Report, Waiting]:
    """What becomes of a file, and what the model's tensors will be: from here on only that holds the file's numbers."""
    with unreadable_is_unfit(file), opened(file) as found:
        report = _compare(model, wanted, found.tensors)
        _check(report, file, ignore)
        return report, [(name, wanted[name], found.tensors[source].read()) for name, source in report.matched]


def _compare(model: Model, wanted: Mapping[str, Tensor], given: Mapping[str, Stored]) -> Report:
    # Two names that come out alike are of two tensors, and only one of them can be meant.
    sources: dict[str, str] = {}
    for name in given:
        sources.setdefault(plain_branch(cleaned(name)), name)
    pairs = {name: sources[known_as] for name, known_as in matched(model.graph, wanted, sources).items()}
    unlike = [
        Mismatch(name, source, *said)
        for name, source in pairs.items()
        if len(set(said := _kinds(given[source], wanted[name]))) > 1
    ]
    left = {name: reason_to_leave(model.graph, plain_branch(cleaned(name))) for name in given.keys() - pairs.values()}
    return Report(
        matched=tuple(pair for pair in pairs.items() if pair[0] not in {mismatch.name for mismatch in unlike}),
        missing=tuple(name for name in wanted if name not in pairs),
        unexpected=tuple(name for name in given if name in left and left[name] is None),
        mismatched=tuple(unlike),
        set_aside=tuple((name, reason) for name in given if (reason := left.get(name)) is not None),
    )


def _kinds(given: Stored, wanted: Tensor) -> tuple[str, str]:
    """What each is, as far as it matters: the precision of floating-point numbers does not."""
    if given.dtype.is_floating_point and wanted.is_floating_point():
        return str(list(given.shape)), str(list(wanted.shape))
    return kind_of(given), kind_of(wanted)


def _check(report: Report, file: str | PathLike[str], ignore: Sequence[str]) -> None:
    """Raise SpecError, with a problem of each kind, for what is without a partner and is not named."""
    if not report.matched and not report.mismatched:
        raise unfit(file, "has no tensor of this model", "give a checkpoint of this model, trained by TerraTorch")
    missing = [name for name in report.missing if not _named([name], ignore)]
    unexpected = [name for name in report.unexpected if not _named([name, cleaned(name)], ignore)]
    unlike = [m for m in report.mismatched if not _named([m.name, m.source, cleaned(m.source)], ignore)]
    found = (
        ("lacks {} that the model has", {name: name for name in missing}),
        ("has {} that the model has not", {name: cleaned(name) for name in unexpected}),
        ("has {} of another shape or type than the model's", {str(m): m.name for m in unlike}),
    )
    problems = [_problem(file, what, names) for what, names in found if names]
    if problems:
        raise SpecError(problems)


def _named(names: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _problem(file: str | PathLike[str], what: str, names: Mapping[str, str]) -> Problem:
    """The problem of so many tensors, by the place of each: `names` are words for each of them, and its plain name."""
    groups: dict[str, list[str]] = {}
    for said, name in names.items():
        groups.setdefault(_place(name), []).append(said)
    count = f"{len(names)} tensor{'s' * (len(names) != 1)}"
    listed = "; ".join(f"{len(group)} of {place} ({', '.join(_first(group))})" for place, group in groups.items())
    patterns = ", ".join(f'"{place}{".*" * (place not in names.values())}"' for place in groups)
    return Problem(
        code="weights",
        place=Place(file=str(file)),
        message=f"{what.format(count)}: {listed}.",
        got="; ".join(names),
        repair=f"give a checkpoint of this very model, or allow it: ignore=[{patterns}]",
    )


def _place(name: str) -> str:
    """The place of the graph that a name begins with, in either's names."""
    found = _PLACE.match(name)
    return found[0] if found else name


_PLACE = re.compile(r"(?:necks?\.|aux\.[^.]+\.|aux_heads\.[^.]+\.)?[^.]+")


def _first(group: Sequence[str]) -> Iterator[str]:
    yield from group[:3]
    if len(group) > 3:
        yield "…"
