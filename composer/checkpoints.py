"""Load weights from other people's checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import islice
from os import PathLike
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from composer.errors import Place, Problem, SpecError
from composer.layouts import format_count
from composer.model import Model
from composer.modules.base import COMPILED, map_unwrapped_names, unwrap
from composer.tensors import UnreadableError
from composer.tensors.files import open_tensors
from composer.tensors.matching import count_matches, list_names

MAX_LISTED_PREFIXES = 4


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


def load_weights(
    model: nn.Module, file: str | PathLike[str], *, prefix: str | None = None, ignore: Iterable[str] = ()
) -> Report:
    """Set the weights of a built model from a checkpoint: all of them, or none where anything does not fit.

    The file is one that composer.save wrote, another safetensors file, or one that torch.save wrote: a state dict, or a
    checkpoint that holds one, such as Lightning's. Only tensors are read; nothing in the file is imported or run. The
    names are those of the model, or TerraTorch's, behind any prefix that a wrapper adds (`model.`, `module.`). The
    prefix with most of the names is used, and tensors without it are set aside; `prefix` chooses where several fit.
    Floating-point numbers are cast to the precision of the model; integers must have the model's type.

    `ignore` lists names, or glob patterns (`head.*`), that may be missing, unexpected or of another shape: names of the
    model or of the file, with or without the prefix. Listed tensors that fit are set.

    Raises TypeError for a module that composer did not build. Raises SpecError, before any tensor is set, where the
    file is none of these, where several prefixes fit, and for everything that is missing, unexpected or does not fit.
    """
    if isinstance(ignore, str):
        raise ValueError(f"ignore must be a list of names or patterns (got {ignore!r})")
    built = unwrap_model(model, "load_weights")
    wanted = get_model_state(built)
    _check_writable(wanted, file)
    with convert_read_errors(file):
        tensors = open_tensors(file).tensors
    names = _NameMatcher(built, wanted, tensors)
    at = names.find_prefix(file) if prefix is None else f"{prefix.removesuffix('.')}." if prefix else ""
    report = _compare_names(names, at, wanted, tensors)
    _check_report(report, at, names, file, tuple(ignore))
    with torch.no_grad():
        for name, source in report.matched:
            try:
                wanted[name].copy_(tensors[source])
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:200]
                message = f"cannot be put into the model, whose {name} cannot be set ({reason})"
                raise build_weights_error(file, message, "build the model again") from error
    return report


def build_weights_error(file: str | PathLike[str], message: str, fix: str) -> SpecError:
    """Build the error for a file of weights; `message` continues its name."""
    return SpecError([Problem(code="weights", place=Place(file=str(file)), message=f"{message}.", fix=fix)])


@contextmanager
def convert_read_errors(file: str | PathLike[str]) -> Iterator[None]:
    """Raise SpecError that names the file where it cannot be read."""
    try:
        yield
    except UnreadableError as error:
        raise build_weights_error(file, str(error), error.fix) from error


def _check_writable(wanted: Mapping[str, Any], file: str | PathLike[str]) -> None:
    """Raise SpecError for a model that has no memory for all numbers, or one place for several of them."""
    for name, value in wanted.items():
        if not isinstance(value, Tensor):
            message = f"cannot be put into a model whose {name} holds extra state, not a tensor"
            raise build_weights_error(file, message, "let the module keep that state as a tensor: register_buffer")
        if value.is_meta:
            message = "cannot be put into a model on the meta device"
            raise build_weights_error(file, message, "build the model on the CPU")
        # What torch itself asks before it writes; here before any other tensor is set.
        if torch._debug_has_internal_overlap(value) == 1:
            message = f"cannot be put into a model whose {name} has several of its numbers in one place"
            raise build_weights_error(file, message, "give that tensor memory of its own: .clone()")


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
    """Return the state dict of a model, without the names that wrappers around its children add."""
    state = model.state_dict()
    plain = map_unwrapped_names(model, state)
    return {plain[name]: value for name, value in state.items()}


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


class _NameMatcher:
    """Match the names of a model's tensors with those of a file."""

    def __init__(self, model: Model, wanted: Iterable[str], tensors: Iterable[str]) -> None:
        # Not at the top: the core does not import composer.terratorch, except for these names.
        from composer.terratorch.translation import find_ignore_reason, list_tensor_names, normalize_tensor_name

        self.graph = model.graph
        self.find_ignore_reason = find_ignore_reason
        self.candidates = {
            key: tuple(
                dict.fromkeys(normalize_tensor_name(name) for name in (key, *list_tensor_names(self.graph, key)))
            )
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

    def find_prefix(self, file: str | PathLike[str]) -> str:
        """Return the prefix of most of the model's names. Raises SpecError where several fit equally well."""
        counts = count_matches(self.sources, {name for names in self.candidates.values() for name in names})
        most = max(counts.values(), default=0)
        first, *others = [prefix for prefix, count in counts.items() if count == most] or [""]
        # Two models have tensors of their own. One tensor may fit at several prefixes: `a.b.x`, as `b.x` behind `a.`.
        used = set(self.match(first).values())
        separate = (prefix for prefix in others if used.isdisjoint(self.match(prefix).values()))
        if rivals := list(islice(separate, MAX_LISTED_PREFIXES)):
            raise build_weights_error(
                file,
                f"has {format_count(most, 'tensor')} of this model behind each of several prefixes: "
                f"{', '.join(map(repr, (first, *rivals)))}",
                f"choose one: load_weights(model, file, prefix={first!r})",
            )
        return first


def _compare_names(
    names: _NameMatcher, prefix: str, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> Report:
    pairs = names.match(prefix)
    mismatched = {
        name: Mismatch(name, source, *kinds)
        for name, source in pairs.items()
        if len(set(kinds := _describe_mismatch(tensors[source], wanted[name]))) > 1
    }
    used = frozenset(pairs.values())
    reasons = {name: _find_ignore_reason(names, prefix, name) for name in tensors if name not in used}
    return Report(
        matched=tuple(pair for pair in pairs.items() if pair[0] not in mismatched),
        missing=tuple(name for name in wanted if name not in pairs),
        unexpected=tuple(name for name, reason in reasons.items() if reason is None),
        mismatched=tuple(mismatched.values()),
        set_aside=tuple((name, reason) for name, reason in reasons.items() if reason is not None),
    )


def _find_ignore_reason(names: _NameMatcher, prefix: str, source: str) -> str | None:
    """Return why a tensor of the file does not belong to the model, or None where it should."""
    name = names.plain.get(source, source)
    if not name.startswith(prefix):
        return f"not behind {prefix}"
    return names.find_ignore_reason(names.graph, name.removeprefix(prefix))


def _describe_mismatch(source: Tensor, wanted: Tensor) -> tuple[str, str]:
    """Describe both tensors, equal where they fit: the precision of floating-point numbers does not count."""
    kinds = [f"{str(tensor.dtype).removeprefix('torch.')} " for tensor in (source, wanted)]
    if source.is_floating_point() and wanted.is_floating_point():
        kinds = ["", ""]
    return f"{kinds[0]}{list(source.shape)}", f"{kinds[1]}{list(wanted.shape)}"


def _check_report(
    report: Report, prefix: str, names: _NameMatcher, file: str | PathLike[str], ignore: Sequence[str]
) -> None:
    """Raise SpecError, with a problem of each kind, for tensors without a partner that `ignore` does not list."""
    behind = f" behind {prefix}" if prefix else ""
    if not report.matched and not report.mismatched:
        raise build_weights_error(
            file,
            f"has no tensor of this model{behind}: {list_names([*names.sources.values()], 3) or 'nothing'} "
            f"in the file, and {list_names([*names.candidates], 3)} in the model",
            "give a checkpoint of this model; for an encoder alone: pretrained: FILE in the spec",
        )

    def is_listed(*candidates: str) -> bool:
        return any(fnmatchcase(name, pattern) for name in candidates for pattern in ignore)

    def strip_prefix(source: str) -> str:
        return names.plain.get(source, source).removeprefix(prefix)

    missing = {name: name for name in report.missing if not is_listed(name)}
    unexpected = {
        source: strip_prefix(source) for source in report.unexpected if not is_listed(source, strip_prefix(source))
    }
    mismatched = {
        str(mismatch): mismatch.name
        for mismatch in report.mismatched
        if not is_listed(mismatch.name, mismatch.source, strip_prefix(mismatch.source))
    }
    kinds = (
        (f"lacks {{}} of the model{behind}", missing),
        ("has {} that the model does not have", unexpected),
        ("has {} of another shape or type than the model's", mismatched),
    )
    if problems := [_build_tensor_problem(file, message, tensors) for message, tensors in kinds if tensors]:
        raise SpecError(problems)


def _build_tensor_problem(file: str | PathLike[str], message: str, names: Mapping[str, str]) -> Problem:
    """Build the problem of several tensors, grouped by node: `names` maps a description of each to its plain name."""
    groups: dict[str, list[str]] = {}
    for description, name in names.items():
        groups.setdefault(_find_place(name), []).append(description)
    listed = "; ".join(f"{len(group)} of {place} ({list_names(group, 3)})" for place, group in groups.items())
    plain = frozenset(names.values())
    patterns = ", ".join(f'"{place}{"" if place in plain else ".*"}"' for place in groups)
    return Problem(
        code="weights",
        place=Place(file=str(file)),
        message=f"{message.format(format_count(len(names), 'tensor'))}: {listed}.",
        got="; ".join(names),
        fix=f"give a checkpoint of this very model, or allow it: load_weights(model, file, ignore=[{patterns}])",
    )


def _find_place(name: str) -> str:
    """Return the place in the graph that a tensor's name begins with, in the model's names or in TerraTorch's."""
    return m[0] if (m := re.match(r"(?:necks?\.|aux\.[^.]+\.|aux_heads\.[^.]+\.)?[^.]+", name)) else name
