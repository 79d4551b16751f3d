"""Hypothesis strategies of features, declarations and graphs."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from fractions import Fraction
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
from attrs import evolve
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from composer.encoder_info import describe
from composer.graph import Graph, Node, chain
from composer.layouts import MAP, ROUNDINGS, Feature, Features, Image
from composer.parts import DECODERS, HEADS, NECKS, AddFeatures, ConcatFeatures, Part, Timm
from composer.parts.base import contract
from composer.parts.rules import ContractResult, Rejection
from composer.parts.validators import Choice, IntRange
from composer.sizes import Padding
from composer.testing.failures import format_error

CHANNELS = (11, 13, 17, 19, 23, 29)
"""Primes that no grid drawn here and no batch has, so that a channel is never taken for a row by accident."""


LAYOUTS = ("b c h w", "b h w c", "b n c", "b c", "b t c h w", "b c t h w", "b c n", "b w c h", "b t n c", "b t c")


STRIDES = tuple(map(Fraction, (1, 2, 4, 8, 16)))


OFFSETS = (0, 0, 5, 19, -1, -9)
"""What convolutions without padding, and levels that round in turn up and down, come to; mostly nothing."""


MAX_PYRAMID_LEVELS = 5


@st.composite
def features(
    draw: st.DrawFn, axes: str | None = None, stride: Fraction | None = None, channels: Sequence[int] = CHANNELS
) -> Feature:
    """One feature: of any layout, stride, rounding, prefix, frames and offset, or of the layout and stride given."""
    axes = axes or draw(st.sampled_from(LAYOUTS))
    names = axes.split()
    if "n" not in names and "h" not in names:
        frames = draw(st.sampled_from((1, 3))) if "t" in names else 1
        return Feature(channels=draw(st.sampled_from(channels)), axes=axes, stride=None, frames=frames)
    stride = stride or draw(st.sampled_from(STRIDES))
    rounding = draw(st.sampled_from((ROUNDINGS[0], *ROUNDINGS)))
    # A grid that is whole loses whole cells, and one that is rounded up none.
    some: Sequence[int | Fraction] = OFFSETS if rounding == "floor" else [*[0] * 7, 2 * stride]
    offset = 0 if rounding == "ceil" else draw(st.sampled_from(some))
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
    """What an encoder or a neck might give: a pyramid, a flat stack, a pyramid upside down, or a jumble.

    Half of them are of the layout `favourite`, the others of any.
    """
    count = draw(st.sampled_from((1, 2, 3, 4, 4, 5)))
    shape = draw(st.sampled_from(("pyramid", "pyramid", "flat", "flat", "bottleneck", "upside down", "jumble")))
    if shape == "jumble":
        return tuple(draw(features()) for _ in range(count))
    axes = draw(st.sampled_from((*[favourite] * len(LAYOUTS), *LAYOUTS)))
    first = draw(st.sampled_from((1, 2, 4) if count < MAX_PYRAMID_LEVELS else (1,)))
    return tuple(draw(features(axes=axes, stride=stride)) for stride in list_strides(shape, count, first))


def list_strides(shape: str, count: int, first: int) -> list[Fraction]:
    """The strides of so many levels: `pyramid`, `flat`, `bottleneck` (the last two alike), or `upside down`."""
    strides = [Fraction(first * (1 if shape == "flat" else 2**level)) for level in range(count)]
    if shape == "bottleneck" and count > 1:
        strides[-1] = strides[-2]
    return strides[::-1] if shape == "upside down" else strides


@st.composite
def images(draw: st.DrawFn) -> Image:
    """An input of a graph: of a few bands, with frames or without, and perhaps of one size."""
    return Image(
        channels=draw(st.sampled_from((3, 1, 2, 6, 12))),
        frames=draw(st.sampled_from((None, None, 1, 2, 3))),
        stride=draw(st.sampled_from((1, 1, 2))),
        size=draw(st.sampled_from((None, None, (64, 64), (64, 96)))),
    )


def replace_channels(feature: Feature, channels: int) -> Feature:
    """The same feature with other channels."""
    return evolve(feature, channels=channels)


Strategy = st.SearchStrategy[Any]


FieldValues = st.SearchStrategy[Any] | Iterable[Any]
"""How a field is drawn: a strategy, or the values that it is drawn from."""


P = TypeVar("P", bound=Part)


INTEGER_VALUES = (1, 2, 3, 4, 6, 8, 16, 32)
"""Whole numbers that fields are tried with, where they admit them."""


TIMM_NETWORKS = (
    "test_resnet",
    "test_convnext",
    "test_vit",
    "resnet18",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
)
"""Networks of timm that are small, and are of the kinds that there are: maps, channels last, tokens."""


REJECTING_ERRORS = (ValueError, TypeError, AssertionError)
"""What a class raises for fields that it does not take."""


class UndrawableError(TypeError):
    """A field of which too little is known. The text says what to do."""


def valid(part_class: type[P], **fields: FieldValues) -> st.SearchStrategy[P]:
    """Parts of this class with fields that it takes; `fields` says how some of them are drawn, by name.

    That is a strategy, or a list of values. The others are drawn by what is known of them: the default, the
    annotation, and the validator, where it is one of composer's or one of `attrs.validators` that lists values. A draw
    that the class refuses with ValueError, TypeError or an assertion is no draw. Raises UndrawableError for a field
    without a default of which too little is known, and TypeError for a field that there is not, or that has no values.
    """
    return _build_parts_strategy(part_class, fields, [])


def _build_parts_strategy(
    part_class: type[P], fields: Mapping[str, FieldValues], refused: list[Exception]
) -> st.SearchStrategy[P]:
    """As `valid`; what the class raises is put into `refused`."""
    ways = {name: _build_field_strategy(part_class, name, values) for name, values in fields.items()}
    names = part_class.names
    if part_class.source is not None and "name" not in ways:
        ways["name"] = st.sampled_from(sorted(names) if names is not None else _list_networks(part_class))
    drawn = {
        name: ways[name] if name in ways else _build_default_strategy(part_class, field, hint)
        for name, field, hint in _list_fields(part_class)
        if names is None or name in ways
    }

    @st.composite
    def draw_part(draw: st.DrawFn) -> P | None:
        values = {name: draw(strategy) for name, strategy in drawn.items()}
        try:
            return part_class(**values)
        except REJECTING_ERRORS as error:
            refused.append(error)
            return None

    return draw_part().filter(lambda part: part is not None)  # type: ignore[return-value]


def sample_declarations(part_class: type[P], most: int, **fields: FieldValues) -> tuple[P, ...]:
    """Unlike declarations of a part, the same every time: that of the defaults first, where there is one.

    Raises as `valid` does, and UndrawableError where the class takes none of what is drawn.
    """
    found: list[P] = []  # and no set: a field may be a list
    refused: list[Exception] = []
    with suppress(*REJECTING_ERRORS):
        found += [part_class()] if not fields else []

    @settings(max_examples=5 * most, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck), verbosity=Verbosity.normal, backend="hypothesis")  # fmt: skip
    @given(_build_parts_strategy(part_class, fields, refused))
    def collect_part(part: P) -> None:
        if len(found) < most and part not in found:
            found.append(part)

    try:
        collect_part()
    except Unsatisfiable as none:
        if not found:
            name = part_class.__name__
            raise UndrawableError(
                f"{name} takes none of the fields that were drawn (it raises {format_error(refused[-1])}); say what it takes, "
                f"valid({name}, …)"
            ) from none
    return tuple(found)


def list_unvaried_fields(part_class: type[Part], **fields: FieldValues) -> tuple[str, ...]:
    """The fields that every declaration leaves at their defaults, because nothing is known of them but those."""
    if part_class.source is not None:
        return ()
    declared = [one for one in _list_fields(part_class) if one[0] not in fields]
    return tuple(name for name, field, hint in declared if _find_known_values(field.validator, hint) is None)


def _build_field_strategy(part_class: type[Part], name: str, values: FieldValues) -> Strategy:
    known = [own for own, _, _ in _list_fields(part_class)]
    if name not in known:
        raise TypeError(f"{part_class.__name__} has no field {name!r}: it has {', '.join(known) or 'none'}")
    if isinstance(values, st.SearchStrategy):
        return values
    listed = [] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if isinstance(values, Set):
        listed.sort(key=repr)  # that the draws are the same every time
    if not listed:
        raise TypeError(f"{part_class.__name__}.{name}: a list of values is wanted, or a strategy (got {values!r})")
    return st.sampled_from(listed)


def _list_networks(part_class: type[Part]) -> tuple[str, ...]:
    if issubclass(part_class, Timm):
        return TIMM_NETWORKS
    raise UndrawableError(f"a {part_class.__name__} has no names to choose from: valid({part_class.__name__}, name=…)")


def _list_fields(part_class: type[Part]) -> list[tuple[str, attrs.Attribute[Any], Any]]:
    """The fields that a constructor takes, by the names that it has for them, each with its annotation."""
    try:
        hints = get_type_hints(part_class)
    except NameError:  # an annotation that is there for type checkers alone
        hints = {}
    fields: tuple[attrs.Attribute[Any], ...] = getattr(part_class, "__attrs_attrs__", ())
    return [(field.alias or field.name, field, hints.get(field.name, Any)) for field in fields if field.init]


def _build_default_strategy(part_class: type[Part], field: attrs.Attribute[Any], hint: Any) -> Strategy:
    """The default, and what the annotation and the validator admit besides."""
    known = _find_known_values(field.validator, hint)
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


def _find_known_values(validator: object, hint: Any) -> Strategy | None:
    """Values by a validator that lists them, or else by the annotation; None where neither says enough."""
    validators = getattr(validator, "_validators", (validator,))
    for one in validators:
        if isinstance(one, Choice):
            return st.sampled_from(one.known)
        options = getattr(one, "options", None)
        if isinstance(options, list | tuple | set | frozenset) and options:
            return st.sampled_from(sorted(options, key=repr))
    numbers = next((one for one in validators if isinstance(one, IntRange)), None)
    return _build_type_strategy(hint, numbers)


def _build_type_strategy(hint: Any, numbers: IntRange | None) -> Strategy | None:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = [_build_type_strategy(argument, numbers) for argument in arguments]
        known = [part for part in parts if part is not None]
        return st.one_of(known) if known else None
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (tuple, list) and arguments:
        entry = _build_type_strategy(arguments[0], numbers)
        return None if entry is None else st.lists(entry, min_size=1, max_size=4)
    return _STRATEGIES_BY_TYPE[hint](numbers) if hint in _STRATEGIES_BY_TYPE else None


def _build_integer_strategy(numbers: IntRange | None) -> Strategy:
    if numbers is None:
        return st.sampled_from(INTEGER_VALUES)
    admitted = [number for number in (*INTEGER_VALUES, 0, -1, -2) if numbers.least <= number <= numbers.most]
    return st.sampled_from(admitted or [numbers.least])


_STRATEGIES_BY_TYPE: dict[Any, Callable[[IntRange | None], Strategy]] = {
    int: _build_integer_strategy,
    bool: lambda _: st.booleans(),
    float: lambda _: st.sampled_from((0.0, 0.25, 0.5, 1.0)),
    type(None): lambda _: st.none(),
}


JOIN_NECKS = (ConcatFeatures, AddFeatures)


CHAIN_NECKS = tuple(part for part in NECKS if part not in JOIN_NECKS)


MAX_PART_TRIES = 4
"""How many parts are drawn for a place until one takes what is there: the last stays, whatever it says."""


PartClasses = tuple[type[Part], ...]


@st.composite
def chains(draw: st.DrawFn) -> Graph:
    """An encoder of timm, necks, a decoder, a head, and perhaps a head beside it. Not all of them are lawful."""
    image, encoder = draw(images()), draw(valid(Timm))
    parts: list[Part] = [encoder]
    flowing = _get_encoder_features(encoder, (image.feature,))
    for wanted in (CHAIN_NECKS,) * draw(st.sampled_from((0, 0, 1, 2))):
        flowing = _append(draw, parts, wanted, flowing)
    trunk = flowing
    flowing = _append(draw, parts, DECODERS, flowing)
    if not parts[-1].includes_head:
        _append(draw, parts, HEADS, flowing)
    aux = {}
    if draw(st.sampled_from((False, False, False, True))):
        branch: list[Part] = []
        given = _append(draw, branch, DECODERS, trunk)
        if not branch[-1].includes_head:
            _append(draw, branch, HEADS, given)
        aux["early"] = branch
    return chain(*parts, aux=aux, input=image, rescale=draw(st.sampled_from((True, False))), padding=draw(_PADDINGS))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Two images, an encoder for each, a join, a decoder, and one head or two. Not all of them are lawful."""
    encoder = draw(valid(Timm))
    other = draw(st.sampled_from((encoder, encoder, draw(valid(Timm)))))
    inputs = {"first": draw(images()), "second": draw(images())}
    one, two = (
        _get_encoder_features(encoder, (inputs["first"].feature,)),
        _get_encoder_features(other, (inputs["second"].feature,)),
    )
    join = draw(st.sampled_from(JOIN_NECKS))()
    nodes = [Node("one", encoder, "first"), Node("two", other, "second"), Node("joined", join, ("one", "two"))]
    joined = None if one is None or two is None else _get_features(contract(join, one, two))
    parts: list[Part] = []
    decoded = _append(draw, parts, DECODERS, joined)
    nodes.append(Node("decoded", parts[-1], "joined"))
    outputs = ["decoded"]
    if not parts[-1].includes_head:
        outputs = [f"head{index}" for index in range(draw(st.sampled_from((1, 1, 2))))]
        for name in outputs:
            _append(draw, parts, HEADS, decoded)
            nodes.append(Node(name, parts[-1], "decoded"))
    return Graph(
        inputs=inputs,
        nodes=nodes,
        outputs=outputs,
        rescale=draw(st.sampled_from((True, False))),
        padding=draw(_PADDINGS),
    )


_PADDINGS = st.builds(
    Padding,
    mode=st.sampled_from(("reflect", "replicate", "zeros")),
    side=st.sampled_from(("both", "end")),
    multiple=st.sampled_from((1, 1, 32)),
)


def _append(draw: st.DrawFn, parts: list[Part], wanted: PartClasses, flowing: Features | None) -> Features | None:
    """Draw a part of the wanted classes, mostly one that takes what flows; give what it gives, if that is known."""
    for _ in range(MAX_PART_TRIES):
        part: Part = draw(st.sampled_from(wanted).flatmap(valid))
        given = None if flowing is None else _get_features(contract(part, flowing))
        if given is not None or flowing is None:
            break
    parts.append(part)
    return given


def _get_encoder_features(encoder: Timm, image: tuple[Feature]) -> Features | None:
    facts = describe(encoder, image[0].channels)
    return None if isinstance(facts, Rejection) else _get_features(contract(facts, image))


def _get_features(outcome: ContractResult) -> Features | None:
    return None if isinstance(outcome, Rejection) else outcome.features
