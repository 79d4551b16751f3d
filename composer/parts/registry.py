"""Find and import the parts of other packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, lru_cache
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING

from composer.errors import format_error
from composer.parts.base import Part
from composer.process import guard_import

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


ENTRY_POINT_GROUP = "composer.parts"
"""The group of the entry points: `Name = "package.module:Class"`, or `source/ = …` for all names of a source."""


class UnusableError(Exception):
    """A registered part that cannot be loaded. `fix` is the fix."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def list_part_names(part: type[Part]) -> tuple[str, ...]:
    """Return the names of a part in a spec: its own, those of its source, or its whole source (`timm/`)."""
    if part.source is None:
        return (part.__name__,)
    return (f"{part.source}/",) if part.names is None else tuple(f"{part.source}/{name}" for name in part.names)


class PartTable(Mapping[str, type[Part]]):
    """Parts by name: built-in ones, and those of foreign libraries, which are imported when one is looked up."""

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
    """The built-in parts, and those that installed packages register, by their names in a spec.

    A package is imported when one of its parts is looked up by name; a built-in part is never replaced. Raises
    UnusableError for a registered part that cannot be loaded.
    """

    def __init__(self, builtin: Mapping[str, type[Part]]) -> None:
        self._builtin = builtin

    def __getitem__(self, name: str) -> type[Part]:
        builtin = self._builtin.get(name)
        return _load_class(name) if builtin is None else builtin

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or any(entry.name == name for entry in _list_entry_points())

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._builtin, *(entry.name for entry in _list_entry_points())]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def find_names(self, classes: Iterable[type[Part]]) -> dict[type[Part], str]:
        """Return the name of each of `classes` in a spec. Only the packages that define them are imported."""
        names = {part: name for name, part in self._builtin.items()}
        packages = {part.__module__.partition(".")[0] for part in classes if part not in names}
        for entry in _list_entry_points() if packages else ():
            if entry.module.partition(".")[0] in packages:
                with suppress(UnusableError):
                    names.setdefault(self[entry.name], entry.name)
        return names


def _list_entry_points() -> tuple[EntryPoint, ...]:
    """Return the entry points of all installed packages, read anew after an installation or a removal."""
    return _load_entry_points(tuple((folder, _get_modified_time(folder)) for folder in sys.path))


@lru_cache(maxsize=1)
def _load_entry_points(_folders: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    # Imported late: it takes a tenth of the time of a check, and built-in parts do not need it.
    from importlib.metadata import entry_points

    # Cached, because each lookup takes hundredths of a second.
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _get_modified_time(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def _load_class(name: str) -> type[Part]:
    """Return the class that a package registers under a name. Raises KeyError where none does."""
    entries = [entry for entry in _list_entry_points() if entry.name == name]
    if not entries:
        raise KeyError(name)
    by = sorted(entry.module.partition(".")[0] if entry.dist is None else entry.dist.name for entry in entries)
    if len({entry.value for entry in entries}) > 1:
        raise UnusableError(
            f"{name} is registered by {' and by '.join(by)}.", f"uninstall all but one of {', '.join(by)}"
        )
    try:
        with guard_import():
            part = entries[0].load()
    except Exception as error:
        raise UnusableError(
            f"{name} is registered by {by[0]}, which cannot be imported (got {format_error(error)}).",
            f"pip install --force-reinstall {by[0]}",
        ) from error
    if not (isinstance(part, type) and issubclass(part, Part)):
        raise UnusableError(
            f"{name} is registered by {by[0]} as {entries[0].value}, which is not a part.",
            "register a class that derives from composer.Encoder, Neck, Decoder or Head",
        )
    return part
