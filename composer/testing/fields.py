"""A Hypothesis strategy of parts: any declaration, with fields that it takes. No torch here."""

from __future__ import annotations

import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from composer.parts import Part, Timm
from composer.parts.fields import Choice, Whole

Strategy = st.SearchStrategy[Any]
P = TypeVar("P", bound=Part)

WHOLE = (1, 2, 3, 4, 6, 8, 16, 32)
"""Whole numbers that fields are tried with, where they admit them."""

NETWORKS = (
    "test_resnet",
    "test_convnext",
    "test_vit",
    "resnet18",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
)
"""Networks of timm that are small, and are of the kinds that there are: maps, channels last, tokens."""


class UndrawableError(TypeError):
    """A field of which too little is known. The text says what to do."""


def valid(part_class: type[P], **fields: Strategy) -> st.SearchStrategy[P]:
    """Parts of this class with fields that it takes; `fields` says how some of them are drawn, by name.

    The others are drawn by what is known of them: the default, the annotation, and the validator, where it is one of
    composer's or one of `attrs.validators` that lists values. A draw that the class refuses with ValueError or
    TypeError is no draw. Raises UndrawableError for a field without a default of which too little is known.
    """
    told = dict(fields)
    names = part_class.names
    if part_class.source is not None and "name" not in told:
        told["name"] = st.sampled_from(sorted(names) if names is not None else _networks(part_class))
    drawn = {
        name: told[name] if name in told else _values(part_class, field, hint)
        for name, field, hint in _declared(part_class)
        if names is None or name in told
    }

    @st.composite
    def made(draw: st.DrawFn) -> P | None:
        with suppress(ValueError, TypeError):
            return part_class(**{name: draw(strategy) for name, strategy in drawn.items()})
        return None

    return made().filter(lambda part: part is not None)  # type: ignore[return-value]


def declarations(part_class: type[P], most: int) -> tuple[P, ...]:
    """Unlike declarations of a part, the same every time: that of the defaults first, where there is one."""
    found: dict[P, None] = {}
    with suppress(TypeError, ValueError):
        found[part_class()] = None

    @settings(max_examples=5 * most, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(valid(part_class))
    def gather(part: P) -> None:
        if len(found) < most:
            found.setdefault(part)

    gather()
    return tuple(found)


def _networks(part_class: type[Part]) -> tuple[str, ...]:
    if issubclass(part_class, Timm):
        return NETWORKS
    raise UndrawableError(f"a {part_class.__name__} has no names to choose from: valid({part_class.__name__}, name=…)")


def _declared(part_class: type[Part]) -> list[tuple[str, attrs.Attribute[Any], Any]]:
    """The fields that a constructor takes, by the names that it has for them, each with its annotation."""
    try:
        hints = get_type_hints(part_class)
    except NameError:  # an annotation that is there for type checkers alone
        hints = {}
    fields: tuple[attrs.Attribute[Any], ...] = getattr(part_class, "__attrs_attrs__", ())
    return [(field.alias or field.name, field, hints.get(field.name, Any)) for field in fields if field.init]


def _values(part_class: type[Part], field: attrs.Attribute[Any], hint: Any) -> Strategy:
    """The default, and what the annotation and the validator admit besides."""
    known = _admitted(field.validator, hint)
    if field.default is attrs.NOTHING:
        if known is None:
            name = part_class.__name__
            raise UndrawableError(
                f"too little is known of {name}.{field.alias} to draw it: give it a default, or an annotation or a "
                f"validator that lists what it takes; or say valid({name}, {field.alias}=…)"
            )
        return known
    factory = getattr(field.default, "factory", None)
    default = st.just(field.default) if factory is None else st.builds(factory)
    return default if known is None or part_class.source is not None else default | known


def _admitted(validator: object, hint: Any) -> Strategy | None:
    """Values by a validator that lists them, or else by the annotation; None where neither says enough."""
    validators = getattr(validator, "_validators", (validator,))
    for one in validators:
        if isinstance(one, Choice):
            return st.sampled_from(one.known)
        options = getattr(one, "options", None)
        if isinstance(options, list | tuple | set | frozenset) and options:
            return st.sampled_from(sorted(options, key=repr))
    numbers = next((one for one in validators if isinstance(one, Whole)), None)
    return _of_type(hint, numbers)


def _of_type(hint: Any, numbers: Whole | None) -> Strategy | None:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = [_of_type(argument, numbers) for argument in arguments]
        known = [part for part in parts if part is not None]
        return st.one_of(known) if known else None
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (tuple, list) and arguments:
        entry = _of_type(arguments[0], numbers)
        return None if entry is None else st.lists(entry, min_size=1, max_size=4)
    return _PLAIN[hint](numbers) if hint in _PLAIN else None


def _whole(numbers: Whole | None) -> Strategy:
    if numbers is None:
        return st.sampled_from(WHOLE)
    admitted = [number for number in (*WHOLE, 0, -1, -2) if numbers.least <= number <= numbers.most]
    return st.sampled_from(admitted or [numbers.least])


_PLAIN: dict[Any, Callable[[Whole | None], Strategy]] = {
    int: _whole,
    bool: lambda _: st.booleans(),
    float: lambda _: st.sampled_from((0.0, 0.25, 0.5, 1.0)),
    type(None): lambda _: st.none(),
}
