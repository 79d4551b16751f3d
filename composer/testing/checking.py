"""check_contract: check a part or a plain neck against the laws. find_parts: the parts of a module to check."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from inspect import get_annotations, isabstract
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from attrs import field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from composer.layouts import Feature, Features, IntRange
from composer.parts import Part, ProbedEncoder
from composer.parts.base import contract
from composer.testing.failures import (
    ContractUncheckable,
    ContractViolation,
    LawError,
    SkippedLawWarning,
    format_error,
    locate_error,
)
from composer.testing.laws import GRADIENTS_LAW, LAWS, REJECTIONS_LAW
from composer.testing.runs import Inputs, Run, seed_torch
from composer.testing.strategies import REPEATABLE, FieldValues, sample_declarations
from composer.testing.subjects import (
    PlainNeck,
    Subject,
    build_subject,
    generate_runs,
    is_plain_neck,
    list_enlarged_runs,
    sample_runs,
)

ALL_LAWS = tuple(LAWS)

DEFAULT_EXAMPLES = 16

MAX_DECLARATIONS = 6
"""Declarations of a class that are checked: the default one, and some with other fields."""

EXAMPLE_INPUTS = "inputs=[((Feature(channels=8),),)]"

InputsByRun = Iterable[Sequence[Features] | Mapping[str, Features]]
"""For each run a sequence of inputs, or a mapping by name; each input is a tuple of features."""


def _convert_laws(names: Any) -> tuple[str, ...]:
    laws = (names,) if isinstance(names, str) else tuple(names)
    for name in laws:
        if name not in ALL_LAWS:
            raise ValueError(f"unknown law {name!r}: the laws are {', '.join(ALL_LAWS)}")
    return laws


def _convert_inputs(runs: InputsByRun) -> tuple[Inputs, ...]:
    converted = []
    for run in runs:
        inputs = Inputs((), run) if isinstance(run, Mapping) else Inputs(tuple(run))
        if not all(isinstance(one, list | tuple) and set(map(type, one)) == {Feature} for one in inputs.all):
            expected = f"each run in inputs must hold a tuple of features for each input, as in {EXAMPLE_INPUTS}"
            raise TypeError(f"{expected} (got {run!r})")
        converted.append(inputs.map_features(lambda feature: feature))  # tuples of lists
    return tuple(converted)


@frozen
class ContractCheck:
    """A part with the options of `check_contract`, validated. Raises TypeError and ValueError for invalid ones."""

    part: Any
    inputs: tuple[Inputs, ...] = field(default=(), converter=_convert_inputs)
    laws: tuple[str, ...] = field(default=ALL_LAWS, converter=_convert_laws)
    without: tuple[str, ...] = field(default=(), converter=_convert_laws)
    examples: int = field(default=DEFAULT_EXAMPLES, validator=IntRange())
    arguments: Mapping[str, Any] = field(factory=dict)
    least: int = field(default=1, validator=IntRange())
    fields: Mapping[str, FieldValues] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        is_class, is_plain = isinstance(self.part, type), is_plain_neck(self.part)
        is_part = issubclass(self.part, Part) if is_class else isinstance(self.part, Part)
        if not is_part and not is_plain:
            message = "part must be a declaration, its class, or a neck with process_channel_list"
            raise TypeError(f"{message} (got {self.part!r})")
        applies = {"fields": is_part and is_class, "arguments": is_plain and is_class, "least": is_plain}
        for name, is_allowed in applies.items():
            if not is_allowed and getattr(self, name) not in ({}, 1):
                raise TypeError(f"option '{name}' does not apply to {self.part!r}")

    @property
    def checked_laws(self) -> tuple[str, ...]:
        """The laws to check; plain necks reject nothing, so they have no law of refusals."""
        without = (*self.without, REJECTIONS_LAW) if is_plain_neck(self.part) else self.without
        return tuple(law for law in self.laws if law not in without)

    @cached_property
    def subjects(self) -> tuple[Subject, ...]:
        """The declarations to check, or the plain neck, with their inputs.

        Declarations that accept nothing are left out if others accept something.
        """
        parts: Sequence[Part] = [self.part]
        if is_plain_neck(self.part):
            parts = [PlainNeck(self.part, self.arguments, self.least)]
        elif isinstance(self.part, type):
            parts = sample_declarations(self.part, MAX_DECLARATIONS, **self.fields)
        if not isinstance(parts[0], ProbedEncoder) and contract.dispatch(type(parts[0])) is contract.dispatch(object):
            name = type(parts[0]).__name__
            raise ContractUncheckable(f"{name} has no contract. Register one: @composer.contract.register({name})")
        subjects = [build_subject(part, self.inputs) for part in parts]
        return tuple(subject for subject in subjects if subject.accepted) or tuple(subjects[:1])

    def describe_inputs(self) -> str:
        """Return the first declaration, and what it accepts and does not accept."""
        subject, *others = self.subjects
        more = f" (and {len(others)} with other fields)" if others else ""
        return f"{subject.part!r}{more} {subject.summary}"

    def list_fixed_fields(self) -> list[str]:
        """Return the fields that have the same value in every declaration, and are not among the options."""
        own = [one for one in getattr(self.part, "__attrs_attrs__", ()) if one.init and one.alias not in self.fields]
        first, *others = [subject.part for subject in self.subjects]
        return [one.alias for one in own if all(getattr(first, one.name) == getattr(x, one.name) for x in others)]

    def check_law(self, law: str) -> str:
        """Check a law. Return why it was skipped, or an empty string. Raises as `check_contract` does."""
        first = self.subjects[0]
        if law == REJECTIONS_LAW:
            drawn = [sample_runs(subject.rejected) for subject in self.subjects if subject.rejected]
        elif not first.accepted:
            raise ContractUncheckable(
                f"cannot check {first.part!r}: {first.summary}; pass others, as in {EXAMPLE_INPUTS}"
            )
        elif law == GRADIENTS_LAW:
            drawn = [sample_runs(list_enlarged_runs(subject.accepted)) for subject in self.subjects]
        else:
            drawn = [generate_runs(subject.accepted) for subject in self.subjects]
        for runs in drawn:
            _check_runs(runs, law, self.examples)
        what = "no input that was tried is rejected as 'raises' or 'policy'; pass some that are, with the option inputs"
        return "" if drawn else f"{first.part!r}: law 'refusals' skipped: {what}"


def check_contract(
    part: Part | type[Part] | nn.Module | type[nn.Module],
    *,
    inputs: InputsByRun = (),
    laws: Iterable[str] = ALL_LAWS,
    without: Iterable[str] = (),
    examples: int = DEFAULT_EXAMPLES,
    arguments: Mapping[str, Any] = {},
    least: int = 1,
    fields: Mapping[str, FieldValues] = {},
) -> None:
    """Check a part against the laws: what its contract promises against what its module returns.

    `part` is a declaration; the class of one, of which a few declarations are drawn, as `valid` does, with `fields`;
    or a plain neck in TerraTorch's style, a module or its class, with `process_channel_list`. `arguments` are those of
    its class after the channels, and `least` is the smallest number of cells a side of its inputs.

        check_contract(Resize, fields={"mode": ["nearest", "bilinear"]})
        check_contract(TopTokens(count=4), inputs=[((Feature(channels=8, stride=16, axes="b n c"),),)])

    Each of the `laws` except those in `without` checks `examples` runs, the same every time, with generated inputs or
    those in `inputs`. Raises ContractViolation for the first law that is broken, with the smallest failing run;
    ContractUncheckable if the part accepts no inputs, its contract raises, its module cannot be built, or no values of
    a field are known. Warns with SkippedLawWarning if there are no rejections to check.
    """
    check = ContractCheck(part, inputs, laws, without, examples, arguments, least, fields)
    for law in check.checked_laws:
        if reason := check.check_law(law):
            warnings.warn(reason, SkippedLawWarning, stacklevel=2)


def _check_runs(runs: st.SearchStrategy[Run], law: str, examples: int) -> None:
    """Check a law on runs of a strategy. Raises ContractViolation for the smallest one that breaks it."""

    def check_run(run: Run) -> None:
        try:
            with seed_torch():
                LAWS[law](run)
        except LawError as error:
            lines = [f"{run.part!r} breaks the law '{law}': {error}.", f"  input     {run}", *error.details]
            raise ContractViolation(law, "\n".join(lines)) from error.__cause__

    try:
        settings(REPEATABLE, max_examples=examples)(given(runs)(check_run))()
    except (ContractViolation, ContractUncheckable) as error:
        vars(error).pop("__notes__", None)  # Hypothesis's; the text has all of it
        raise error.with_traceback(None) from error.__cause__


# --- the parts of a module


def find_parts(name: str, examples: int = DEFAULT_EXAMPLES) -> dict[str, ContractCheck]:
    """Return checks of the parts and plain necks of a module, by `module::name`, in order of definition.

    A package is searched, without its tests and private modules. Parts imported from other packages are left out. The
    options are those of the first module that has some for a part, in its `composer_checks`. Raises ValueError, with
    the next step, for a module that cannot be imported or has no parts.
    """
    modules = list(_iter_modules(_import_module(name)))
    found: dict[type[Any], str] = {}
    for module in modules:
        for own, part in _iter_parts(module):
            found.setdefault(part, f"{module.__name__}::{own}")
    if not found:
        raise ValueError(
            f"{name} has no parts: it needs a class derived from composer.Encoder, Neck, Decoder or Head, or a module "
            f"with process_channel_list"
        )
    homes = [sys.modules[part.__module__] for part in found if part.__module__ in sys.modules]
    options: dict[type[Any], Mapping[str, Any]] = {}
    for module in (*reversed(homes), *reversed(modules)):
        options |= getattr(module, "composer_checks", {})
    checks: dict[str, ContractCheck] = {}
    for part, place in found.items():
        try:
            checks[place] = ContractCheck(part, **{"examples": examples, **options.get(part, {})})
        except (TypeError, ValueError) as error:
            raise ValueError(f"composer_checks of {place}: {error}") from error
    return checks


def _import_module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
        hint = "; run pytest in its folder, or set PYTHONPATH" if missing else f"\n  at   {locate_error(error) or name}"
        raise ValueError(f"cannot import {name} (got {format_error(error)}){hint}") from error


def _iter_modules(module: ModuleType) -> Iterator[ModuleType]:
    yield module
    for info in iter_modules(getattr(module, "__path__", ())):
        if not re.match(r"_|tests?$|test_|conftest$", info.name):
            yield from _iter_modules(_import_module(f"{module.__name__}.{info.name}"))


def _iter_parts(module: ModuleType) -> Iterator[tuple[str, type[Any]]]:
    for name, thing in vars(module).items():
        is_own = isinstance(thing, type) and f"{thing.__module__}.".startswith(f"{module.__name__}.")
        if not is_own or name.startswith("_") or isabstract(thing):
            continue
        if is_plain_neck(thing) or (issubclass(thing, Part) and _is_attrs_class(thing)):
            yield name, thing


def _is_attrs_class(thing: type[Part]) -> bool:
    """Return whether a class is a part, not a base class of parts. Raises ValueError if `@frozen` was forgotten."""
    inherits = hasattr(thing, "__attrs_attrs__")
    if "__attrs_attrs__" in vars(thing) or thing.__subclasses__() or (inherits and not get_annotations(thing)):
        return inherits
    raise ValueError(
        f"{thing.__module__}.{thing.__qualname__} is a part, but not an attrs class: decorate it with @attrs.frozen, "
        f"or begin its name with an underscore"
    )
