"""Find the parts of a module, for the pytest plugin."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Sequence
from importlib import import_module
from inspect import get_annotations, isabstract
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from attrs import frozen

from composer.parts import Part
from composer.testing.checking import DEFAULT_EXAMPLES, ContractCheck
from composer.testing.failures import format_error, locate_error
from composer.testing.plain_necks import is_plain_neck

CHECKS_NAME = "composer_checks"
"""The name of a module's options of `check_contract`, by class."""

_SKIPPED_MODULES = re.compile(r"_|tests?$|test_|conftest$")


class NoPartsError(ValueError):
    """A module cannot be imported or has no parts. The text says what to do."""


@frozen
class DiscoveredPart:
    """A part or a plain neck: its name in a module, and how its class is checked."""

    module: str
    name: str
    check: ContractCheck


def find_parts(name: str, examples: int = DEFAULT_EXAMPLES) -> list[DiscoveredPart]:
    """Return the parts and plain necks of a module, each once, in order of definition.

    A package is searched, without its tests and private modules. Parts imported from other packages are left out.
    Raises NoPartsError.
    """
    modules = list(_iter_modules(_import_module(name)))
    found: dict[type[Any], tuple[str, str]] = {}
    for module in modules:
        for own, part in _iter_parts(module):
            found.setdefault(part, (module.__name__, own))
    if not found:
        raise NoPartsError(
            f"{name} has no parts: it needs a class derived from composer.Encoder, Neck, Decoder or Head, or a module "
            f"with process_channel_list"
        )
    checks = _collect_checks(modules, found, examples)
    return [DiscoveredPart(*place, checks[part]) for part, place in found.items()]


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


def _collect_checks(
    modules: Sequence[ModuleType], parts: Collection[type[Any]], examples: int
) -> dict[type[Any], ContractCheck]:
    """Return a check of each part, by the first of these modules, or of those that define them, with its options."""
    checks: dict[type[Any], ContractCheck] = {}
    homes = [sys.modules[part.__module__] for part in parts if part.__module__ in sys.modules]
    for module in dict.fromkeys([*modules, *homes]):
        try:
            for part, options in getattr(module, CHECKS_NAME, {}).items():
                checks.setdefault(part, ContractCheck(part, **{"examples": examples, **options}))
        except (AttributeError, TypeError, ValueError) as error:
            raise NoPartsError(f"{CHECKS_NAME} of {module.__name__}: {error}") from error
    return {part: ContractCheck(part, examples=examples) for part in parts} | checks
