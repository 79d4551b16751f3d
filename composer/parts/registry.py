"""Parts that other packages register by entry points."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING

from composer.isolation import guard_import
from composer.parts.base import Part

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


ENTRY_POINT_GROUP = "composer.parts"
"""The group of the entry points: `Name = "package.module:Class"`, or `source/ = …` for all names of a source."""


class UnusableError(Exception):
    """A registered part that cannot be had. `repair` is what would mend it."""

    def __init__(self, message: str, repair: str) -> None:
        super().__init__(message)
        self.repair = repair


def list_part_names(part: type[Part]) -> tuple[str, ...]:
    """Return the names by which a spec may name a part: its own, those of its source, or all of its source (`timm/`)."""
    if part.source is None:
        return (part.__name__,)
    return (f"{part.source}/",) if part.names is None else tuple(f"{part.source}/{name}" for name in part.names)


class PartTable(Mapping[str, type[Part]]):
    """Parts by name: those given, and those of foreign libraries, whose package is imported when one is looked up."""

    def __init__(self, parts: Iterable[type[Part]], sources: Mapping[str, str]) -> None:
        self._parts = {name: part for part in parts for name in list_part_names(part)}
        self._sources = sources

    def __getitem__(self, name: str) -> type[Part]:
        source, slash, _ = name.partition("/")
        if slash and source in self._sources:
            return _load_source(self._sources[source])[name]
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return chain(self._parts, *(_load_source(package) for package in self._sources.values()))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@cache
def _load_source(package: str) -> dict[str, type[Part]]:
    parts: tuple[type[Part], ...] = import_module(package).PARTS
    return {name: part for part in parts for name in list_part_names(part)}


class PartRegistry(Mapping[str, type[Part]]):
    """The built-in parts, and those that installed packages register, by the names that a text has for them.

    A package is imported when one of its parts is asked for by name, and not before; a built-in part is never
    replaced. Raises UnusableError for a part that is registered and cannot be had.
    """

    def __init__(self, builtin: Mapping[str, type[Part]]) -> None:
        self._builtin = builtin

    def __getitem__(self, name: str) -> type[Part]:
        found = self._builtin.get(name)
        if found is not None:
            return found
        entries = [entry for entry in _list_entry_points() if entry.name == name]
        if not entries:
            raise KeyError(name)
        return _load_class(entries)

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or any(entry.name == name for entry in _list_entry_points())

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._builtin, *(entry.name for entry in _list_entry_points())]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def find_names(self, classes: Iterable[type[Part]]) -> dict[type[Part], str]:
        """What a text calls each of `classes`. Only packages that one of them may be of are imported."""
        names = {part: name for name, part in self._builtin.items()}
        packages = {part.__module__.partition(".")[0] for part in classes if part not in names}
        for entry in _list_entry_points() if packages else ():
            if entry.module.partition(".")[0] in packages:
                with suppress(UnusableError):
                    names.setdefault(self[entry.name], entry.name)
        return names


def _list_entry_points() -> tuple[EntryPoint, ...]:
    """The entry points of all that is installed now."""
    return _load_entry_points(tuple((folder, _get_modified_time(folder)) for folder in sys.path))


@lru_cache(maxsize=1)
def _load_entry_points(_folders: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    # Loading it takes a tenth of the time that a check may take, and built-in parts are known without.
    from importlib.metadata import entry_points

    # Asked for each part that a text names, it would take hundredths of a second each time.
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _get_modified_time(folder: str) -> int:
    """When something was last installed into a folder, or taken away from it."""
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def _load_class(entries: list[EntryPoint]) -> type[Part]:
    name, by = entries[0].name, sorted(_get_distribution_name(entry) for entry in entries)
    if len({entry.value for entry in entries}) > 1:
        raise UnusableError(
            f"{name} is registered by {' and by '.join(by)}.", f"uninstall all but one of {', '.join(by)}"
        )
    try:
        with guard_import():
            found = entries[0].load()
    except Exception as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no reason given'}"
        raise UnusableError(
            f"{name} is registered by {by[0]}, which cannot be imported (got {told}).",
            f"pip install --force-reinstall {by[0]}",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Part)):
        raise UnusableError(
            f"{name} is registered by {by[0]} as {entries[0].value}, which is no part.",
            "register a class that derives from composer.Encoder, Neck, Decoder or Head",
        )
    return found


def _get_distribution_name(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module.partition(".")[0]
