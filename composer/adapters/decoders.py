"""Decoders of foreign libraries: each library has tables of arguments and rules, and one function reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from attrs import NOTHING, Attribute, asdict, field, fields, frozen
from attrs.validators import optional

from composer.errors import suggest
from composer.layouts import Features
from composer.parts.base import Decoder
from composer.parts.rules import Change, Kind, Rejection
from composer.parts.validators import BOOL
from composer.spec.writer import format_value


class TableDecoder(Decoder):
    """A decoder whose name selects its arguments from a table.

    `table` has the arguments of each name, each with its default, or NOTHING for that of the field. The library accepts
    the arguments in `ignored` without effect.
    """

    __slots__ = ()
    table: ClassVar[Mapping[str, Mapping[str, Any]]]
    ignored: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    name: str

    @classmethod
    def __attrs_init_subclass__(cls) -> None:
        own = {one.name: one.metadata.get("default") for one in fields(cls)}  # type: ignore[arg-type]
        cls.defaults = MappingProxyType(
            {
                name: {key: own[key] if default is NOTHING else default for key, default in arguments.items()}
                for name, arguments in cls.table.items()
            }
        )


def list_arguments(names: str, **defaults: Any) -> dict[str, Any]:
    """Return a row of a table: arguments by name, with defaults for those that do not have the field's own."""
    return {**dict.fromkeys(names.split(), NOTHING), **defaults}


def declare_argument(default: Any, *validators: Any, converter: Any = None) -> Any:
    """Return a keyword field for a library's argument, where None stands for the default in the table."""
    metadata = {"default": default}
    return field(default=None, converter=converter, validator=[*validators], kw_only=True, metadata=metadata)


def declare_flag(*, default: bool) -> Any:
    """Return the same for an argument that is true or false."""
    return declare_argument(default, optional(BOOL))


def declare_list_argument(default: Any, *validators: Any) -> Any:
    """Return the same for an argument that may be a list, which is stored as a tuple."""
    return declare_argument(default, *validators, converter=_convert_list)


def _convert_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def require_length(count: int, noun: str) -> Any:
    """Return the validator of a list of `count` entries, which `noun` describes."""

    def validate(_: object, attribute: Attribute[Any], value: Any) -> None:
        if value is not None and (type(value) is not tuple or len(value) != count):
            raise ValueError(f"{attribute.name} must be {noun} (got {value!r})")

    return validate


@frozen
class Call:
    """A decoder with its inputs, and the positions of those that it computes with.

    `first` is the level of the first input, for a library that counts levels from the image's resolution. `arguments`
    are the defaults, updated with those that are set, whether the decoder has such an argument or not.
    """

    part: TableDecoder
    features: Features
    positions: tuple[int, ...]
    first: int = 0
    arguments: Mapping[str, Any] = field(init=False)

    @arguments.default
    def _resolve_arguments(self) -> dict[str, Any]:
        values = asdict(self.part, recurse=False)  # type: ignore[arg-type]
        set_values = {name: value for name, value in values.items() if name != "name" and value is not None}
        return {**self.defaults, **set_values}

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The arguments that the decoder has, with their defaults."""
        return self.part.defaults[self.part.name]

    @property
    def maps(self) -> Features:
        """The inputs that the decoder computes with, in the order of `positions`."""
        return tuple(self.features[position] for position in self.positions)


Check = Callable[[Call], Rejection | None]


def require_known_arguments(call: Call) -> Rejection | None:
    """Reject an argument that the decoder does not have."""
    unknown = next((name for name in call.arguments if name not in call.defaults), None)
    if unknown is None:
        return None
    return Rejection(
        code="argument",
        kind="wrong_output" if unknown in call.part.ignored.get(call.part.name, ()) else "raises",
        expected=f"has no argument {unknown}",
        got=format_value(call.arguments[unknown]),
        fix=suggest(unknown, call.defaults),
        about=unknown,
    )


def reject_argument(
    name: str,
    expected: str,
    got: object,
    instead: object,
    *,
    old: object = None,
    code: str = "channels",
    kind: Kind = "raises",
) -> Rejection:
    """Return the rejection of an argument that would be accepted if it was `instead`, and not `old`."""
    return Rejection(
        code=code,
        kind=kind,
        expected=expected,
        got=got if got is None or isinstance(got, str) else format_value(got),
        change=Change(name, tuple(instead) if isinstance(instead, list) else instead, old),
        about=name,
    )


GROUPS = 32
"""The groups of a group norm: a constant in smp's FPN, and the number in mmseg's published configs."""


def require_groups(call: Call, names: Iterable[str]) -> Rejection | None:
    """Reject a width of these names that a group norm cannot divide."""
    arguments = call.arguments
    name = next((name for name in names if arguments.get(name, 0) % GROUPS), None)
    if name is None:
        return None
    expected = f"normalises in {GROUPS} groups, so {name} must be a multiple of {GROUPS}"
    return reject_argument(name, expected, arguments[name], -(-arguments[name] // GROUPS) * GROUPS)
