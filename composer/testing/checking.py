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
from types import MappingProxyType, ModuleType
from typing import Any

import torch
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
from composer.testing.inputs import Inputs
from composer.testing.laws import GRADIENTS_LAW, LAWS, REJECTIONS_LAW
from composer.testing.runs import Run
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

NO_REJECTIONS = (
    "law 'refusals' skipped: no input that was tried is rejected as 'raises' or 'policy'; pass some that are, with the "
    "option inputs"
)

NOTHING_CHOSEN: Mapping[str, Any] = MappingProxyType({})


def _convert_laws(names: Any) -> tuple[str, ...]:
    laws = (names,) if isinstance(names, str) else tuple(names)
    for name in laws:
        if name not in ALL_LAWS:
            raise ValueError(f"unknown law {name!r}: the laws are {', '.join(ALL_LAWS)}")
    return laws


def _convert_inputs(runs: InputsByRun) -> tuple[Inputs, ...]:
    return tuple(map(_convert_run, runs))


def _convert_run(run: Any) -> Inputs:
    names = tuple(run) if isinstance(run, Mapping) else ()
    several = [run[name] for name in names] or list(run)
    if not all(isinstance(features, list | tuple) and set(map(type, features)) == {Feature} for features in several):
        raise TypeError(
            f"each run in inputs must hold a tuple of features for each input, as in {EXAMPLE_INPUTS} (got {run!r})"
        )
    return Inputs(tuple(map(tuple, several)), names)


@frozen
class ContractCheck:
    """A part with the options of `check_contract`, validated. Raises TypeError and ValueError for invalid ones."""

    part: Any
    inputs: tuple[Inputs, ...] = field(default=(), converter=_convert_inputs)
    laws: tuple[str, ...] = field(default=ALL_LAWS, converter=_convert_laws)
    without: tuple[str, ...] = field(default=(), converter=_convert_laws)
    examples: int = field(default=DEFAULT_EXAMPLES, validator=IntRange())
    arguments: Mapping[str, Any] = NOTHING_CHOSEN
    least: int = field(default=1, validator=IntRange())
    fields: Mapping[str, FieldValues] = NOTHING_CHOSEN

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
        """The laws to check."""
        return tuple(law for law in self.laws if law not in self.without)

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
        first, *others = [subject.part for subject in self.subjects]
        names = [one.name for one in getattr(self.part, "__attrs_attrs__", ()) if one.init]
        fixed = [name for name in names if all(getattr(first, name) == getattr(other, name) for other in others)]
        return [name for name in fixed if name not in self.fields]

    def check_law(self, law: str) -> str:
        """Check a law. Return why it was skipped, or an empty string. Raises as `check_contract` does."""
        first = self.subjects[0]
        if law == REJECTIONS_LAW:
            drawn = [sample_runs(subject.rejected) for subject in self.subjects if subject.rejected]
        elif not first.accepted:
            what = f"it accepts none of the inputs that were tried ({first.reason})"
            raise ContractUncheckable(f"cannot check {first.part!r}: {what}; pass others, as in {EXAMPLE_INPUTS}")
        elif law == GRADIENTS_LAW:
            drawn = [sample_runs(list_enlarged_runs(subject.accepted)) for subject in self.subjects]
        else:
            drawn = [generate_runs(subject) for subject in self.subjects]
        for runs in drawn:
            _check_runs(runs, law, self.examples)
        return "" if drawn or isinstance(first.part, PlainNeck) else f"{first.part!r}: {NO_REJECTIONS}"


def check_contract(
    part: Part | type[Part] | nn.Module | type[nn.Module],
    *,
    inputs: InputsByRun = (),
    laws: Iterable[str] = ALL_LAWS,
    without: Iterable[str] = (),
    examples: int = DEFAULT_EXAMPLES,
    arguments: Mapping[str, Any] = NOTHING_CHOSEN,
    least: int = 1,
    fields: Mapping[str, FieldValues] = NOTHING_CHOSEN,
) -> None:
    """Check a part against the laws: what its contract promises against what its module returns.

    `part` is a declaration; the class of one, of which a few declarations are drawn, as `valid` does, with `fields`;
    or a plain neck in TerraTorch's style, a module or its class, with `process_channel_list`. `arguments` are those of
    its class after the channels, and `least` is the smallest number of cells a side of its inputs.

        check_contract(Resize, fields={"mode": ["nearest", "bilinear"]})
        check_contract(TopTokens(count=4), inputs=[((Feature(channels=8, stride=16, axes="b n c"),),)])
        check_contract(PlainNeck, arguments={"out_channels": 8}, without=["precision"])

    Each of the `laws` except those in `without` checks `examples` runs, the
    same every time, with generated inputs or those in `inputs`. Raises ContractViolation for the first law that is
    broken, with the smallest failing run; ContractUncheckable if the part accepts no inputs, its contract raises, its
    module cannot be built, or no values of a field are known. Warns with SkippedLawWarning if there are no rejections
    to check.
    """
    check = ContractCheck(part, inputs, laws, without, examples, arguments, least, fields)
    for law in check.checked_laws:
        if reason := check.check_law(law):
            warnings.warn(reason, SkippedLawWarning, stacklevel=2)


def _check_runs(runs: st.SearchStrategy[Run], law: str, examples: int) -> None:
    """Check a law on runs of a strategy. Raises ContractViolation for the smallest one that breaks it."""

    def check_run(run: Run) -> None:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
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

CHECKS_NAME = "composer_checks"
"""The name of a module's options of `check_contract`, by class."""

_SKIPPED_MODULES = re.compile(r"_|tests?$|test_|conftest$")


class NoPartsError(ValueError):
    """A module cannot be imported or has no parts. The text says what to do."""


def find_parts(name: str, examples: int = DEFAULT_EXAMPLES) -> dict[str, ContractCheck]:
    """Return checks of the parts and plain necks of a module, by `module::name`, in order of definition.

    A package is searched, without its tests and private modules. Parts imported from other packages are left out. The
    options are those of the first module that has some for a part. Raises NoPartsError.
    """
    modules = list(_iter_modules(_import_module(name)))
    found: dict[type[Any], str] = {}
    for module in modules:
        for own, part in _iter_parts(module):
            found.setdefault(part, f"{module.__name__}::{own}")
    if not found:
        raise NoPartsError(
            f"{name} has no parts: it needs a class derived from composer.Encoder, Neck, Decoder or Head, or a module "
            f"with process_channel_list"
        )
    checks: dict[type[Any], ContractCheck] = {}
    homes = [sys.modules[part.__module__] for part in found if part.__module__ in sys.modules]
    for module in dict.fromkeys([*modules, *homes]):
        try:
            for part, options in getattr(module, CHECKS_NAME, {}).items():
                checks.setdefault(part, ContractCheck(part, **{"examples": examples, **options}))
        except (AttributeError, TypeError, ValueError) as error:
            raise NoPartsError(f"{CHECKS_NAME} of {module.__name__}: {error}") from error
    return {place: checks.get(part) or ContractCheck(part, examples=examples) for part, place in found.items()}


def _import_module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
        hint = "; run pytest in its folder, or set PYTHONPATH" if missing else f"\n  at   {locate_error(error) or name}"
        raise NoPartsError(f"cannot import {name} (got {format_error(error)}){hint}") from error


def _iter_modules(module: ModuleType) -> Iterator[ModuleType]:
    yield module
    for info in iter_modules(getattr(module, "__path__", ())):
        if not _SKIPPED_MODULES.match(info.name):
            yield from _iter_modules(_import_module(f"{module.__name__}.{info.name}"))


def _iter_parts(module: ModuleType) -> Iterator[tuple[str, type[Any]]]:
    for name, thing in vars(module).items():
        if not isinstance(thing, type) or isabstract(thing) or name.startswith("_"):
            continue
        is_own = f"{thing.__module__}.".startswith(f"{module.__name__}.")
        if is_own and (_is_part_class(thing) or is_plain_neck(thing)):
            yield name, thing


def _is_part_class(thing: type[Any]) -> bool:
    """Return whether a class is a part. Raises NoPartsError if `@frozen` was forgotten."""
    if not issubclass(thing, Part):
        return False
    if "__attrs_attrs__" in vars(thing):
        return True
    inherits = hasattr(thing, "__attrs_attrs__")
    if thing.__subclasses__() or (inherits and not get_annotations(thing)):
        return inherits  # a base class, or another name for the same fields
    raise NoPartsError(
        f"{thing.__module__}.{thing.__qualname__} is a part, but not an attrs class: decorate it with @attrs.frozen, "
        f"or begin its name with an underscore"
    )
