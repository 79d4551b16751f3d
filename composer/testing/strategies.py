"""Hypothesis strategies of features, declarations and graphs."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from fractions import Fraction
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st

from composer.encoder_info import describe
from composer.graph import Graph, Node, chain
from composer.layouts import MAP, ROUNDINGS, Feature, Features, Image
from composer.parts import DECODERS, HEADS, NECKS, AddFeatures, ConcatFeatures, Part, Timm
from composer.parts.base import contract
from composer.parts.rules import Outputs, Rejection
from composer.parts.validators import Choice, IntRange
from composer.sizes import Padding
from composer.testing.failures import format_error

# --- features

CHANNELS = (11, 13, 17, 19, 23, 29)
"""Primes that differ from every grid side and batch size drawn here, so that axes are not confused by accident."""

LAYOUTS = ("b c h w", "b h w c", "b n c", "b c", "b t c h w", "b c t h w", "b c n", "b w c h", "b t n c", "b t c")

STRIDES = tuple(map(Fraction, (1, 2, 4, 8, 16)))

OFFSETS = (0, 0, 5, 19, -1, -9)
"""Offsets of unpadded convolutions, and of levels that round up and down in turn; usually 0."""

MAX_PYRAMID_LEVELS = 5


@st.composite
def features(
    draw: st.DrawFn, axes: str | None = None, stride: Fraction | None = None, channels: Sequence[int] = CHANNELS
) -> Feature:
    """Draw a feature of any layout, stride, rounding, prefix, frames and offset, or of these axes and this stride."""
    axes = axes or draw(st.sampled_from(LAYOUTS))
    names = axes.split()
    if "n" not in names and "h" not in names:
        frames = draw(st.sampled_from((1, 3))) if "t" in names else 1
        return Feature(channels=draw(st.sampled_from(channels)), axes=axes, stride=None, frames=frames)
    stride = stride or draw(st.sampled_from(STRIDES))
    rounding = draw(st.sampled_from((ROUNDINGS[0], *ROUNDINGS)))
    # The offset of an exact grid is a multiple of the stride; a grid that is rounded up has none.
    offsets: Sequence[int | Fraction] = OFFSETS if rounding == "floor" else [*[0] * 7, 2 * stride]
    offset = 0 if rounding == "ceil" else draw(st.sampled_from(offsets))
    return Feature(
        channels=draw(st.sampled_from(channels)),
        axes=axes,
        stride=stride,
        rounding=rounding,
        offset=offset,
        prefix=draw(st.sampled_from((0, 1, 5))) if "n" in names else 0,
        frames=draw(st.sampled_from((1, 3))) if {"n", "t"} & set(names) else 1,
    )


@st.composite
def pyramids(draw: st.DrawFn, favourite: str = MAP) -> Features:
    """Draw the outputs of an encoder or a neck: a pyramid, a flat stack, a reversed pyramid, or unrelated features.

    Half of them have the layout `favourite`.
    """
    count = draw(st.sampled_from((1, 2, 3, 4, 4, 5)))
    shape = draw(st.sampled_from(("pyramid", "pyramid", "flat", "flat", "bottleneck", "upside down", "jumble")))
    if shape == "jumble":
        return tuple(draw(features()) for _ in range(count))
    axes = draw(st.sampled_from((*[favourite] * len(LAYOUTS), *LAYOUTS)))
    first = draw(st.sampled_from((1, 2, 4) if count < MAX_PYRAMID_LEVELS else (1,)))
    return tuple(draw(features(axes=axes, stride=stride)) for stride in list_strides(shape, count, first))


def list_strides(shape: str, count: int, first: int) -> list[Fraction]:
    """Return the strides of `count` levels: `pyramid`, `flat`, `bottleneck` (last two equal) or `upside down`."""
    strides = [Fraction(first * (1 if shape == "flat" else 2**level)) for level in range(count)]
    if shape == "bottleneck" and count > 1:
        strides[-1] = strides[-2]
    return strides[::-1] if shape == "upside down" else strides


@st.composite
def images(draw: st.DrawFn) -> Image:
    """Draw an input of a graph, with or without frames and a fixed size."""
    return Image(
        channels=draw(st.sampled_from((3, 1, 2, 6, 12))),
        frames=draw(st.sampled_from((None, None, 1, 2, 3))),
        stride=draw(st.sampled_from((1, 1, 2))),
        size=draw(st.sampled_from((None, None, (64, 64), (64, 96)))),
    )


# --- declarations

Strategy = st.SearchStrategy[Any]

FieldValues = st.SearchStrategy[Any] | Iterable[Any]
"""The values of a field: a strategy, or a list to draw from."""

P = TypeVar("P", bound=Part)

INTEGER_VALUES = (1, 2, 3, 4, 6, 8, 16, 32)

TIMM_NETWORKS = (
    *("test_resnet", "test_convnext", "test_vit"),
    *("resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"),
)
"""Small networks of every kind: maps, channels-last maps, tokens."""

REJECTING_ERRORS = (ValueError, TypeError, AssertionError)
"""Errors by which a class rejects its fields."""

REPEATABLE = settings(
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
    verbosity=Verbosity.normal,
    backend="hypothesis",
)
"""Settings of Hypothesis by which the same examples are drawn every time, whatever profile the user has loaded."""


class UndrawableError(TypeError):
    """No values can be generated for a field. The text says what to do."""


def valid(part_class: type[P], **fields: FieldValues) -> st.SearchStrategy[P]:
    """Return a strategy of valid declarations of a class.

    `fields` gives some fields a strategy, or a list of values. Other fields are drawn from their default, annotation
    and validator (composer's own, or one of `attrs.validators` that lists values). Values that the class rejects with
    ValueError, TypeError or an assertion are skipped. Raises UndrawableError for a field without a default whose
    values are unknown, and TypeError for an unknown field, or one with an empty list.
    """
    attempts = _generate_attempts(part_class, fields)
    return attempts.filter(lambda attempt: not isinstance(attempt, Exception))


def sample_declarations(part_class: type[P], most: int, **fields: FieldValues) -> tuple[P, ...]:
    """Return up to `most` different declarations, always the same: the one with default values first, if it exists.

    Raises as `valid` does, and UndrawableError if the class rejects every draw.
    """
    attempts: list[Any] = []
    with suppress(*REJECTING_ERRORS):
        attempts += [part_class()] if not fields else []

    @settings(REPEATABLE, max_examples=10 * most)
    @given(_generate_attempts(part_class, fields))
    def collect_attempt(attempt: Any) -> None:
        attempts.append(attempt)

    collect_attempt()
    parts = [attempt for attempt in attempts if not isinstance(attempt, Exception)]
    if not parts:
        name = part_class.__name__
        raise UndrawableError(
            f"{name} rejects all generated field values (it raises {format_error(attempts[-1])}); pass values that "
            f"it accepts: valid({name}, …)"
        )
    # Not a set: a field may hold a list.
    return tuple(part for index, part in enumerate(parts) if part not in parts[:index])[:most]


def list_unvaried_fields(part_class: type[Part], **fields: FieldValues) -> tuple[str, ...]:
    """Return the fields that keep their default in every declaration, because no other values are known."""
    if part_class.source is not None:
        return ()
    return tuple(
        name
        for name, field, hint in _list_fields(part_class)
        if name not in fields and _find_known_values(field.validator, hint) is None
    )


def _generate_attempts(part_class: type[P], fields: Mapping[str, FieldValues]) -> Strategy:
    """Return a strategy of declarations, and of the errors by which the class rejects other values."""
    own = _list_fields(part_class)
    chosen = {name: _convert_values(part_class, [own_name for own_name, _, _ in own], name, values)
              for name, values in fields.items()}  # fmt: skip
    names = part_class.names
    if part_class.source is not None and "name" not in chosen:
        chosen["name"] = st.sampled_from(sorted(names) if names is not None else _list_networks(part_class))
    strategies = {
        name: chosen[name] if name in chosen else _build_default_strategy(part_class, field, hint)
        for name, field, hint in own
        if names is None or name in chosen
    }

    def construct(**values: Any) -> P | Exception:
        try:
            return part_class(**values)
        except REJECTING_ERRORS as error:
            return error

    return st.builds(construct, **strategies)


def _convert_values(part_class: type[Part], known: Sequence[str], name: str, values: FieldValues) -> Strategy:
    if name not in known:
        raise TypeError(f"{part_class.__name__} has no field {name!r}: it has {', '.join(known) or 'none'}")
    if isinstance(values, st.SearchStrategy):
        return values
    listed = [] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if isinstance(values, Set):
        listed.sort(key=repr)  # the order of a set differs between runs
    if not listed:
        raise TypeError(f"{part_class.__name__}.{name} must be a list of values or a strategy (got {values!r})")
    return st.sampled_from(listed)


def _list_networks(part_class: type[Part]) -> tuple[str, ...]:
    if issubclass(part_class, Timm):
        return TIMM_NETWORKS
    raise UndrawableError(f"{part_class.__name__} needs a list of names: valid({part_class.__name__}, name=[…])")


def _list_fields(part_class: type[Part]) -> list[tuple[str, attrs.Attribute[Any], Any]]:
    """Return the constructor arguments of a class: name, attribute, annotation."""
    try:
        hints = get_type_hints(part_class)
    except NameError:  # an annotation that is imported for type checkers only
        hints = {}
    fields: tuple[attrs.Attribute[Any], ...] = getattr(part_class, "__attrs_attrs__", ())
    return [(field.alias or field.name, field, hints.get(field.name, Any)) for field in fields if field.init]


def _build_default_strategy(part_class: type[Part], field: attrs.Attribute[Any], hint: Any) -> Strategy:
    """Return a strategy of the default and of the values that the annotation and validator allow."""
    known = _find_known_values(field.validator, hint)
    if field.default is attrs.NOTHING:
        if known is None:
            name = part_class.__name__
            raise UndrawableError(
                f"cannot generate values of {name}.{field.alias}: give the field a default, an annotation or a "
                f"validator that lists its values, or call valid({name}, {field.alias}=[…])"
            )
        return known
    factory = getattr(field.default, "factory", None)
    default = st.just(field.default) if factory is None else st.builds(factory)
    return default if known is None or part_class.source is not None else default | known


def _find_known_values(validator: object, hint: Any) -> Strategy | None:
    """Return a strategy of the values that a validator lists, or the annotation; None if neither lists any."""
    validators = getattr(validator, "_validators", (validator,))
    for check in validators:
        options = check.known if isinstance(check, Choice) else getattr(check, "options", None)
        if isinstance(options, list | tuple | set | frozenset) and options:
            return st.sampled_from(sorted(options, key=repr) if isinstance(options, Set) else list(options))
    return _find_typed_values(hint, next((check for check in validators if isinstance(check, IntRange)), None))


def _find_typed_values(hint: Any, numbers: IntRange | None) -> Strategy | None:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = [_find_typed_values(argument, numbers) for argument in arguments]
        known = [part for part in parts if part is not None]
        return st.one_of(known) if known else None
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (tuple, list) and arguments:
        entry = _find_typed_values(arguments[0], numbers)
        return None if entry is None else st.lists(entry, min_size=1, max_size=4)
    if hint is int:
        return st.sampled_from(_list_integers(numbers))
    values: Sequence[Any] = {bool: (False, True), float: (0.0, 0.25, 0.5, 1.0), type(None): (None,)}.get(hint, ())
    return st.sampled_from(values) if values else None


def _list_integers(numbers: IntRange | None) -> Sequence[int]:
    if numbers is None:
        return INTEGER_VALUES
    allowed = [number for number in (*INTEGER_VALUES, 0, -1, -2) if numbers.least <= number <= numbers.most]
    return allowed or [numbers.least]


# --- graphs

JOIN_NECKS = (ConcatFeatures, AddFeatures)

CHAIN_NECKS = tuple(part for part in NECKS if part not in JOIN_NECKS)

MAX_PART_TRIES = 4
"""Parts drawn for a place until one accepts its inputs; the last one is kept in any case."""

GRAPH_SETTINGS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "rescale": st.sampled_from((True, False)),  # booleans would shrink to False
        "padding": st.builds(
            Padding,
            mode=st.sampled_from(("reflect", "replicate", "zeros")),
            side=st.sampled_from(("both", "end")),
            multiple=st.sampled_from((1, 1, 32)),
        ),
    }
)


@st.composite
def chains(draw: st.DrawFn) -> Graph:
    """Draw a chain: a timm encoder, necks, a decoder, a head, and sometimes an auxiliary head. Some are invalid."""
    image, encoder = draw(images()), draw(valid(Timm))
    parts: list[Part] = [encoder]
    trunk = _infer_encoder(encoder, image)
    for _ in range(draw(st.sampled_from((0, 0, 1, 2)))):
        neck, trunk = _draw_part(draw, CHAIN_NECKS, trunk)
        parts.append(neck)
    parts += _draw_branch(draw, trunk)
    aux = {"early": _draw_branch(draw, trunk)} if draw(st.sampled_from((False, False, False, True))) else {}
    return chain(*parts, aux=aux, input=image, **draw(GRAPH_SETTINGS))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw a graph: two images, an encoder for each, a join, a decoder, and one or two heads. Some are invalid."""
    encoder = draw(valid(Timm))
    other = draw(st.sampled_from((encoder, encoder, draw(valid(Timm)))))
    inputs = {"first": draw(images()), "second": draw(images())}
    join = draw(st.sampled_from(JOIN_NECKS))()
    trunk = _infer(join, _infer_encoder(encoder, inputs["first"]), _infer_encoder(other, inputs["second"]))
    decoder, *heads = _draw_branch(draw, trunk, draw(st.sampled_from((1, 1, 2))))
    nodes = [
        Node("one", encoder, "first"),
        Node("two", other, "second"),
        Node("joined", join, ("one", "two")),
        Node("decoded", decoder, "joined"),
        *(Node(f"head{index}", head, "decoded") for index, head in enumerate(heads)),
    ]
    outputs = [node.name for node in nodes[4:]] or ["decoded"]
    return Graph(inputs=inputs, nodes=nodes, outputs=outputs, **draw(GRAPH_SETTINGS))


def _draw_branch(draw: st.DrawFn, trunk: Features | None, head_count: int = 1) -> list[Part]:
    """Draw a decoder, and heads if it needs any."""
    decoder, decoded = _draw_part(draw, DECODERS, trunk)
    count = 0 if decoder.includes_head else head_count
    return [decoder, *(_draw_part(draw, HEADS, decoded)[0] for _ in range(count))]


def _draw_part(
    draw: st.DrawFn, classes: tuple[type[Part], ...], inputs: Features | None
) -> tuple[Part, Features | None]:
    """Draw a part, usually one that accepts the inputs, with its outputs, or None if they are not known."""
    for _ in range(MAX_PART_TRIES):
        part: Part = draw(st.sampled_from(classes).flatmap(valid))
        outputs = _infer(part, inputs)
        if outputs is not None or inputs is None:
            break
    return part, outputs


def _infer_encoder(encoder: Timm, image: Image) -> Features | None:
    info = describe(encoder, image.feature.channels)
    return None if isinstance(info, Rejection) else _infer(info, (image.feature,))


def _infer(part: object, *inputs: Features | None) -> Features | None:
    known = [features for features in inputs if features is not None]
    outcome = contract(part, *known) if len(known) == len(inputs) else None
    return outcome.features if isinstance(outcome, Outputs) else None
