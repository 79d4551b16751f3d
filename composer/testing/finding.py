"""The parts of a module: what a module defines, or brings from its own package, that can be held to the laws."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from inspect import isabstract
from types import ModuleType

from torch import nn

from composer.parts import Part
from composer.testing.plain import is_plain


class NoPartsError(ValueError):
    """A module that cannot be imported, or in which there is no part. The text says what to do."""


def parts_in(name: str) -> dict[str, type[Part] | type[nn.Module]]:
    """The parts of a module, and its plain necks, by their names and in the order in which they are defined.

    Those that it imports from another package are another's. Raises NoPartsError.
    """
    try:
        module = import_module(name)
    except Exception as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise NoPartsError(
            f"{name} cannot be imported (got {told}); run pytest where it can be, or set PYTHONPATH"
        ) from error
    found = dict(_found(module))
    if not found:
        raise NoPartsError(
            f"{name} has no parts: a class that derives from composer.Encoder, Neck, Decoder or Head, or a module with "
            f"process_channel_list"
        )
    return found


def _found(module: ModuleType) -> Iterator[tuple[str, type[Part] | type[nn.Module]]]:
    home = module.__name__
    for name, thing in vars(module).items():
        if not isinstance(thing, type) or isabstract(thing) or name.startswith("_"):
            continue
        own = thing.__module__ == home or thing.__module__.startswith(f"{home}.")
        if own and ((issubclass(thing, Part) and hasattr(thing, "__attrs_attrs__")) or is_plain(thing)):
            yield name, thing
