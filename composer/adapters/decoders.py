"""Fields and argument checks that the decoders of smp and mmseg share.

Both libraries have one declaration for all their decoders. An argument of None has the library's default, and
`Part.defaults` lists the arguments of each decoder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from attrs import asdict, field

from composer.errors import suggest
from composer.parts.base import Part
from composer.parts.rules import Change, Kind, Rejection


def declare_argument(validator: Any) -> Any:
    """Return a keyword field whose default is None."""
    return field(default=None, validator=validator, kw_only=True)


def declare_list_argument(*validators: Any) -> Any:
    """Return a keyword field whose default is None, and which stores a list as a tuple."""
    return field(default=None, converter=_convert_list, validator=[*validators], kw_only=True)


def _convert_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def resolve_arguments(part: Part, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return `defaults` updated with every field that is set, whether the decoder has such an argument or not."""
    fields = asdict(part, recurse=False)  # type: ignore[arg-type]
    return {**defaults, **{name: value for name, value in fields.items() if name != "name" and value is not None}}


def require_known_arguments(part: Part, known: Iterable[str], ignored: Collection[str] = ()) -> Rejection | None:
    """Reject an argument that this decoder does not have; the library accepts those in `ignored` without effect."""
    for name, value in resolve_arguments(part, {}).items():
        if name not in known:
            return Rejection(
                code="argument",
                kind="wrong_output" if name in ignored else "raises",
                expected=f"has no argument {name}",
                got=format_value(value),
                repair=suggest(name, known),
                about=name,
            )
    return None


def format_value(value: Any) -> str:
    """Return a value as YAML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)


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
        got=None if got is None else format_value(got),
        repair=f"{name}: {'null' if instead is None else format_value(instead)}",
        change=Change(name, tuple(instead) if isinstance(instead, list) else instead, old),
        about=name,
    )


GROUPS = 32
"""The groups of a group norm: a constant in smp's FPN, and the number in mmseg's published configs."""


def require_group_multiple(name: str, width: int) -> Rejection | None:
    """Reject a width that a group norm cannot divide."""
    if width % GROUPS == 0:
        return None
    expected = f"normalises in {GROUPS} groups, so {name} must be a multiple of {GROUPS}"
    return reject_argument(name, expected, width, -(-width // GROUPS) * GROUPS)
