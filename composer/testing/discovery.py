"""Find the parts of a module."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from inspect import get_annotations, isabstract
from pathlib import PurePath
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from attrs import frozen

from composer.parts import Part
from composer.testing.checking import DEFAULT_EXAMPLES, Options
from composer.testing.checking import parse_options as options_told
from composer.testing.failures import format_error, locate_error
from composer.testing.modules import is_plain_neck

CHECKS_NAME = "composer_checks"
"""The name in a module of what is told of its parts: options of `check_contract`, by class."""


_SKIPPED_MODULES = re.compile(r"_|tests?$|test_|conftest$")
"""Modules of a package that are its own affair."""


class NoPartsError(ValueError):
    """A module that cannot be imported, or in which there is no part. The text says what to do."""


@frozen
class DiscoveredPart:
    """A part, or a plain neck, and what its module tells of it."""

    part: type[Any]
    options: Options


def find_parts(name: str, examples: int = DEFAULT_EXAMPLES) -> dict[str, dict[str, DiscoveredPart]]:
    """The parts of a module, and its plain necks, by their names and in the order in which they are defined.

    They stand under the name of their module: of a package all modules are looked through, but those whose names begin
    with an underscore and its tests. Those that a module imports from another package are another's. Raises
    NoPartsError.
    """
    modules = list(_walk_modules(_import_module(name)))
    parts: dict[str, dict[str, type[Any]]] = {}
    seen: set[type[Any]] = set()
    for module in modules:
        parts[module.__name__] = {own: part for own, part in _iter_parts(module) if part not in seen}
        seen.update(parts[module.__name__].values())
    if not seen:
        raise NoPartsError(
            f"{name} has no parts: a class that derives from composer.Encoder, Neck, Decoder or Head, or a module with "
            f"process_channel_list"
        )
    options = _collect_options(modules, seen, examples)
    usual = Options(examples=examples)
    return {
        module: {own: DiscoveredPart(part, options.get(part, usual)) for own, part in several.items()}
        for module, several in parts.items()
        if several
    }


def _import_module(name: str) -> ModuleType:
    if not all(piece.isidentifier() for piece in name.split(".")) or name.endswith(".py"):
        meant = ".".join(PurePath(name.removesuffix(".py")).parts)
        raise NoPartsError(f"{name!r} is not the name of a module{f'; did you mean {meant}?' if meant else ''}")
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
        todo = (
            "; run pytest where it can be, or set PYTHONPATH" if missing else f"\n  at   {locate_error(error) or name}"
        )
        raise NoPartsError(f"{name} cannot be imported (got {format_error(error)}){todo}") from error


def _walk_modules(module: ModuleType) -> Iterator[ModuleType]:
    """A module; of a package those in it too."""
    yield module
    for one in iter_modules(getattr(module, "__path__", ())):
        if not _SKIPPED_MODULES.match(one.name):
            yield from _walk_modules(_import_module(f"{module.__name__}.{one.name}"))


def _iter_parts(module: ModuleType) -> Iterator[tuple[str, type[Any]]]:
    home, seen = module.__name__, set()
    for name, thing in vars(module).items():
        if not isinstance(thing, type) or isabstract(thing) or name.startswith("_") or thing in seen:
            continue
        own = thing.__module__ == home or thing.__module__.startswith(f"{home}.")
        if own and (_is_part_class(thing) or is_plain_neck(thing)):
            seen.add(thing)
            yield name, thing


def _is_part_class(thing: type[Any]) -> bool:
    """Whether a class is a part. Raises NoPartsError for one that is none because `@frozen` was forgotten."""
    if not issubclass(thing, Part):
        return False
    if "__attrs_attrs__" in vars(thing):
        return True
    inherits = hasattr(thing, "__attrs_attrs__")
    if thing.__subclasses__() or (inherits and not get_annotations(thing)):
        return inherits  # what others derive from; or another name for the same fields
    kind = next(base.__name__ for base in thing.__mro__ if base.__module__ == Part.__module__)
    raise NoPartsError(
        f"{thing.__module__}.{thing.__qualname__} derives from composer.{kind} and is no attrs class, so that "
        f"it has no fields: write @attrs.frozen above it, or begin its name with an underscore"
    )


def _collect_options(modules: Sequence[ModuleType], parts: set[type[Any]], examples: int) -> dict[type[Any], Options]:
    """What modules tell of parts, and those in which the parts are defined; the first has the word."""
    options: dict[type[Any], Options] = {}
    homes = [sys.modules[part.__module__] for part in parts if part.__module__ in sys.modules]
    for module in dict.fromkeys([*modules, *homes]):
        checks = getattr(module, CHECKS_NAME, {})
        where = f"{CHECKS_NAME} of {module.__name__}"
        if not isinstance(checks, Mapping):
            raise NoPartsError(f"{where} must be a mapping of parts to options (got {checks!r})")
        for part, said in checks.items():
            if part not in parts and module not in modules:
                continue
            if part not in parts:
                raise NoPartsError(
                    f"{where} names {getattr(part, '__name__', repr(part))}, which is no part that is found"
                )
            try:
                options.setdefault(part, options_told(said, examples))
            except (TypeError, ValueError) as error:
                raise NoPartsError(f"{where}, {part.__name__}: {error}") from error
    return options
