"""Validators and converters for the fields of declarations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import Attribute, frozen

from composer.layouts import Choice as Choice
from composer.layouts import IntRange as IntRange
from composer.layouts import validate_bool

ACTIVATIONS = ("ReLU", "GELU", "SiLU", "LeakyReLU", "ELU", "Tanh", "Sigmoid", "Softplus", "Identity")
"""Activations that a part may name, by torch's names. The list is closed: no other name is looked up."""

FINAL_ACTIVATIONS = (*ACTIVATIONS, "Softmax", "LogSoftmax")
MAX_CHANNELS = 65_536
MAX_LEVELS = 64

MAX_IN_OPTIONS = 65_536
"""The maximum of a whole number among the options of a foreign constructor, and of the sum of a list of them."""

MAX_DEPTH = 32
"""The maximum nesting depth of an option or a spec, counted through aliases. A graph needs eight."""


def _validate_rate(_: object, attribute: Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{attribute.name} must be a number from 0 up to, but not including, 1 (got {value!r})")


def _validate_non_empty(_: object, attribute: Attribute[Any], value: Any) -> None:
    if isinstance(value, tuple) and not value:
        raise ValueError(f"{attribute.name} must have at least one entry")


@frozen
class ForbiddenKeys:
    """Validate that options do not hold certain names: `barred` maps each to the reason."""

    barred: Mapping[str, str]

    def __call__(self, _: object, attribute: Attribute[Any], value: Any) -> None:
        for name, _value in value:
            if name in self.barred:
                raise ValueError(f"{attribute.name} must not hold {name!r}: {self.barred[name]}")


def _validate_bounded_options(_: object, attribute: Attribute[Any], value: Any) -> None:
    """Reject whole numbers in options that are so large that a constructor runs for minutes: any may be a depth."""
    for name, option in value:
        number = max(measure_value(option))
        if number > MAX_IN_OPTIONS:
            kind = "a list" if isinstance(option, tuple) else "a mapping"
            what = "a whole number of" if isinstance(option, int) else f"{kind} that comes to"
            got = option if type(option) is int else number
            rule = f"{what} at most {MAX_IN_OPTIONS:,} in {name}"
            raise ValueError(f"{attribute.name} must hold {rule} (got {got:,})")


def measure_value(value: Any) -> tuple[int, int]:
    """Return the sum of the absolute whole numbers in a value, and the number of its entries at all depths."""
    if isinstance(value, tuple | list | FrozenDict):
        sizes = [measure_value(entry) for entry in (value.values() if isinstance(value, FrozenDict) else value)]
        return sum(number for number, _ in sizes), len(value) + sum(entries for _, entries in sizes)
    return (abs(value) if type(value) is int else 0), 0


CHANNELS = IntRange(1, MAX_CHANNELS)
OPTIONAL_CHANNELS = IntRange(1, MAX_CHANNELS, optional=True)
INDEX = IntRange(-MAX_LEVELS, MAX_LEVELS - 1)
OPTIONAL_INDEX = IntRange(-MAX_LEVELS, MAX_LEVELS - 1, optional=True)
FRAME_COUNT = IntRange(1, 1024, optional=True)
RATE = _validate_rate
NON_EMPTY = _validate_non_empty
BOUNDED_OPTIONS = _validate_bounded_options
BOOL = validate_bool


def convert_int_list(values: Iterable[int]) -> tuple[int, ...]:
    """Convert a list into a tuple. Raises ValueError for anything but a list or tuple."""
    if not isinstance(values, list | tuple):
        raise ValueError(f"a list of whole numbers is needed (got {values!r})")
    return tuple(values)


def convert_optional_int_list(values: Iterable[int] | None) -> tuple[int, ...] | None:
    """Convert a list into a tuple, and keep None. Raises ValueError for other values."""
    return None if values is None else convert_int_list(values)


class FrozenDict(dict[str, Any]):
    """A dict that cannot be changed and can be hashed, with its keys in order."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(sorted(values.items()))

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        return type(self), (dict(self),)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("the options of a part cannot be changed: make another part, with attrs.evolve")

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = clear = setdefault = _refuse


Options = tuple[tuple[str, Any], ...]
"""Arguments for a foreign constructor, frozen: (name, value) pairs, sorted by name."""


def to_keyword_arguments(values: Options) -> dict[str, Any]:
    """Return options as keyword arguments. Inner mappings become plain dicts, which the callee may change."""
    return {name: _unfreeze_value(value) for name, value in values}


def _unfreeze_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_unfreeze_value, value))
    return {name: _unfreeze_value(entry) for name, entry in value.items()} if isinstance(value, FrozenDict) else value


def convert_options(values: Mapping[str, Any] | Options) -> Options:
    """Convert a mapping of plain values into `Options`: sorted pairs with tuples for lists and frozen mappings.

    Raises ValueError for values that are not plain, because they cannot be written to a file.
    """
    pairs = tuple(values.items()) if isinstance(values, Mapping) else values
    if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise ValueError(f"options map names to plain values (got {values!r})")
    if not all(isinstance(name, str) for name, _ in pairs):
        raise ValueError("options are named by strings")
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ValueError(f"options are named once each (got {', '.join(sorted(name for name, _ in pairs))})")
    return tuple((name, _freeze_value(name, options[name])) for name in sorted(options))


def _freeze_value(name: str, value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"option {name} must nest at most {MAX_DEPTH} deep")
    if isinstance(value, list | tuple):
        return tuple(_freeze_value(name, entry, depth + 1) for entry in value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"option {name} must have strings as keys (got {list(value)!r})")
        return FrozenDict({key: _freeze_value(name, entry, depth + 1) for key, entry in value.items()})
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"option {name} must be a plain value, a list or a mapping of them (got {value!r})")
