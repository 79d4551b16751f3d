"""Hypothesis strategies of features, declarations and graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from fractions import Fraction
from types import MappingProxyType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from composer.bands import BAND_SYNONYMS
from composer.encoder_info import describe
from composer.graph import Graph, Node, chain
from composer.layouts import MAP, ROUNDINGS, Feature, Features, Image
from composer.parts import DECODERS, HEADS, NECKS, AddFeatures, ConcatFeatures, EncoderInfo, Part, ProbedEncoder, Timm
from composer.parts.base import Channels, contract
from composer.parts.rules import ContractResult, Outputs, Rejection
from composer.parts.validators import Choice, IntRange
from composer.sizes import Padding
from composer.testing.failures import ContractUncheckable

# --- features

CHANNELS = (11, 13, 17, 19, 23, 29)
"""Primes that differ from every grid side and batch size drawn here, so that axes are not confused by accident."""

LAYOUTS = ("b c h w", "b h w c", "b n c", "b c", "b t c h w", "b c t h w", "b c n", "b w c h", "b t n c", "b t c")

STRIDES = tuple(map(Fraction, (1, 2, 4, 8, 16)))

OFFSETS = (0, 0, 5, 19, -1, -9)
"""Offsets of unpadded convolutions, and of levels that round up and down in turn; usually 0."""

MAX_PYRAMID_LEVELS = 5

SHAPES = ("flat", "pyramid", "bottleneck", "upside down")
"""How the strides of the levels of a stack follow each other; see `list_strides`."""


@st.composite
def features(
    draw: st.DrawFn, axes: str | None = None, stride: Fraction | None = None, channels: Sequence[int] = CHANNELS
) -> Feature:
    """Draw a feature of any layout, stride, rounding, prefix, frames and offset, or of these axes and this stride."""
    axes = axes or draw(st.sampled_from(LAYOUTS))
    grid: dict[str, Any] = {"stride": None}
    if {"n", "h"} & set(axes):
        stride = stride or draw(st.sampled_from(STRIDES))
        rounding = draw(st.sampled_from((ROUNDINGS[0], *ROUNDINGS)))
        # The offset of an exact grid is a multiple of the stride; a grid that is rounded up has none.
        offsets = {"floor": OFFSETS, "ceil": (0,), "exact": (*[0] * 7, 2 * stride)}[rounding]
        grid = {"stride": stride, "rounding": rounding, "offset": draw(st.sampled_from(offsets))}
    return Feature(
        channels=draw(st.sampled_from(channels)),
        axes=axes,
        prefix=draw(st.sampled_from((0, 1, 5))) if "n" in axes else 0,
        frames=draw(st.sampled_from((1, 3))) if {"n", "t"} & set(axes) else 1,
        **grid,
    )


@st.composite
def pyramids(draw: st.DrawFn, favourite: str = MAP) -> Features:
    """Draw the outputs of an encoder or a neck: a pyramid, a flat stack, a reversed pyramid, or unrelated features.

    Half of them have the layout `favourite`.
    """
    count = draw(st.sampled_from((1, 2, 3, 4, 4, 5)))
    shape = draw(st.sampled_from((*SHAPES[:2], *SHAPES, "jumble")))
    if shape == "jumble":
        return tuple(draw(features()) for _ in range(count))
    axes = draw(st.sampled_from((*[favourite] * len(LAYOUTS), *LAYOUTS)))
    first = draw(st.sampled_from((1, 2, 4) if count < MAX_PYRAMID_LEVELS else (1,)))
    return tuple(draw(features(axes=axes, stride=stride)) for stride in list_strides(shape, count, first))


def list_strides(shape: str, count: int, first: int) -> list[Fraction]:
    """Return the strides of `count` levels: doubling, equal, doubling up to the last, or halving."""
    strides = [Fraction(first * (1 if shape == "flat" else 2**level)) for level in range(count)]
    if shape == "bottleneck" and count > 1:
        strides[-1] = strides[-2]
    return strides[::-1] if shape == "upside down" else strides


@st.composite
def images(draw: st.DrawFn) -> Image:
    """Draw an input of a graph, with or without names of bands, frames and a fixed size."""
    channels = draw(st.sampled_from((3, 1, 2, 6, 12)))
    return Image(
        bands=draw(st.sampled_from((None, None, tuple(BAND_SYNONYMS)[:channels]))),
        channels=channels,
        frames=draw(st.sampled_from((None, None, 1, 2, 3))),
        stride=draw(st.sampled_from((1, 1, 2))),
        size=draw(st.sampled_from((None, None, (64, 64), (64, 96)))),
    )


# --- declarations

Strategy = st.SearchStrategy[Any]

FieldValues = Strategy | Sequence[Any]
"""The values of a field: a strategy, or a list to draw from."""

P = TypeVar("P", bound=Part)

VALUES_BY_TYPE: Mapping[Any, Sequence[Any]] = MappingProxyType(
    {
        bool: (False, True),
        float: (0.0, 0.25, 0.5, 1.0),
        int: (1, 2, 3, 4, 6, 8, 16, 32, 0, -1, -2),
        type(None): (None,),
    }
)
"""Values of a field by its annotation; integers only where its validator allows them."""

TIMM_NETWORKS = (
    *("test_resnet", "test_convnext", "test_vit"),
    *("resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"),
)
"""Small networks of every kind: maps, channels-last maps, tokens."""

REPEATABLE = settings(
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)
"""Settings of Hypothesis by which the same examples are drawn every time, whatever profile the user has loaded."""


def valid(part_class: type[P], **fields: FieldValues) -> st.SearchStrategy[P]:
    """Return a strategy of valid declarations of a class.

    `fields` gives some fields a strategy, or a list of values. Other fields are drawn from their default, annotation
    and validator (composer's own, or one of `attrs.validators` that lists values). Values that the class rejects with
    ValueError, TypeError or an assertion are skipped. Raises ContractUncheckable for a field without a default whose
    values are unknown, and TypeError for an unknown field, or one with an empty list.
    """
    own = {field.alias: field for field in getattr(part_class, "__attrs_attrs__", ()) if field.init}
    values = {name: _convert_values(part_class, own, name, chosen) for name, chosen in fields.items()}
    networks = part_class.names or (TIMM_NETWORKS if issubclass(part_class, Timm) else ())
    if networks:
        values.setdefault("name", st.sampled_from(sorted(networks)))
    hints: dict[str, Any] = {}
    with suppress(NameError):  # an annotation that is imported for type checkers only
        hints = get_type_hints(part_class)
    for name, field in own.items():
        # The other fields of a library's part keep their defaults, which depend on its name.
        if name not in values and (part_class.source is None or name == "name"):
            values[name] = _build_default_strategy(part_class, field, hints.get(field.name, Any))

    def construct(**values: Any) -> Any:
        with suppress(ValueError, TypeError, AssertionError):
            return part_class(**values)
        return None

    return st.builds(construct, **values).filter(lambda part: part is not None)


def sample_declarations(part_class: type[P], most: int, **fields: FieldValues) -> tuple[P, ...]:
    """Return up to `most` different declarations, always the same: the one with default values first, if it exists.

    Raises as `valid` does, and ContractUncheckable if the class rejects every draw.
    """
    parts: list[P] = []  # not a set: a field may hold a list

    @settings(REPEATABLE, max_examples=10 * most)
    @given(valid(part_class, **fields))
    def collect_part(part: P) -> None:
        if part not in parts:
            parts.append(part)

    try:
        collect_part()
    except Unsatisfiable:
        name = part_class.__name__
        what = f"{name} rejects all generated field values; pass others: valid({name}, …)"
        raise ContractUncheckable(what) from None
    return tuple(parts[:most])


def _convert_values(part_class: type[Part], known: Iterable[str], name: str, values: FieldValues) -> Strategy:
    if name not in known:
        raise TypeError(f"{part_class.__name__} has no field {name!r}: it has {', '.join(known) or 'none'}")
    if isinstance(values, st.SearchStrategy):
        return values
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise TypeError(f"{part_class.__name__}.{name} must be a list of values or a strategy (got {values!r})")
    return st.sampled_from(values)


def _build_default_strategy(part_class: type[Part], field: attrs.Attribute[Any], hint: Any) -> Strategy:
    """Return a strategy of the default and of the values that the validator and annotation list."""
    validators = getattr(field.validator, "_validators", (field.validator,))
    listed = [check.known if isinstance(check, Choice) else getattr(check, "options", None) for check in validators]
    options = next((found for found in listed if isinstance(found, list | tuple | Set) and found), None)
    numbers = next((check for check in validators if isinstance(check, IntRange)), IntRange())
    # Sorted, because the order of a set differs between runs.
    known = st.sampled_from(sorted(options, key=repr)) if options else _find_typed_values(hint, numbers)
    if field.default is attrs.NOTHING:
        if known is None:
            name = part_class.__name__
            raise ContractUncheckable(
                f"cannot generate values of {name}.{field.alias}: give the field a default, an annotation or a "
                f"validator that lists its values, or call valid({name}, {field.alias}=[…])"
            )
        return known
    factory = getattr(field.default, "factory", None)
    default = st.just(field.default) if factory is None else st.builds(factory)
    return default if known is None else default | known


def _find_typed_values(hint: Any, numbers: IntRange) -> Strategy | None:
    """Return a strategy of values of an annotation; None for one that lists none."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        parts = [_find_typed_values(argument, numbers) for argument in arguments]
        known = [part for part in parts if part is not None]
        return st.one_of(known) if known else None
    if origin in (tuple, list) and arguments:
        entry = _find_typed_values(arguments[0], numbers)
        return None if entry is None else st.lists(entry, min_size=1, max_size=4)
    values = arguments if origin is Literal else VALUES_BY_TYPE.get(hint, ())
    if hint is int:
        values = [number for number in values if numbers.holds(number)] or [numbers.least]
    return st.sampled_from(values) if values else None


# --- graphs

JOIN_NECKS = (ConcatFeatures, AddFeatures)

CHAIN_NECKS = tuple(part for part in NECKS if part not in JOIN_NECKS)

BRANCH = (DECODERS, HEADS)

MAX_PART_TRIES = 4
"""Parts drawn for a place until one accepts its inputs; the last one is kept in any case."""

PADDINGS = st.builds(
    Padding,
    mode=st.sampled_from(("reflect", "replicate", "zeros")),
    side=st.sampled_from(("both", "end")),
    multiple=st.sampled_from((1, 1, 32)),
)

RESCALES = st.sampled_from((True, False))  # booleans would shrink to False


@st.composite
def chains(draw: st.DrawFn) -> Graph:
    """Draw a chain: a timm encoder, necks, a decoder, a head, and sometimes an auxiliary head. Some are invalid."""
    image, encoder = draw(images()), draw(valid(Timm))
    necks = [CHAIN_NECKS] * draw(st.sampled_from((0, 0, 1, 2)))
    parts, trunk = _draw_parts(draw, necks, _infer(encoder, (image.feature,)))
    branch, _ = _draw_parts(draw, BRANCH, trunk)
    aux = {"early": _draw_parts(draw, BRANCH, trunk)[0]} if draw(st.sampled_from((False, False, False, True))) else {}
    return chain(encoder, *parts, *branch, aux=aux, input=image, padding=draw(PADDINGS), rescale=draw(RESCALES))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw a graph: two images, an encoder for each, a join, a decoder, and one or two heads. Some are invalid."""
    inputs = {"first": draw(images()), "second": draw(images())}
    encoder = draw(valid(Timm))
    encoders = {"one": encoder, "two": draw(st.just(encoder) | valid(Timm))}
    flows = [_infer(part, (image.feature,)) for part, image in zip(encoders.values(), inputs.values(), strict=True)]
    parts, _ = _draw_parts(draw, (JOIN_NECKS, *BRANCH), *flows)
    nodes = [Node("one", encoders["one"], "first"), Node("two", encoders["two"], "second")]
    nodes.append(Node("joined", parts[0], ("one", "two")))
    nodes += [Node(*place) for place in zip(("decoded", "head"), parts[1:], ("joined", "decoded"), strict=False)]
    if nodes[-1].name == "head" and draw(st.booleans()):
        nodes.append(attrs.evolve(nodes[-1], name="another"))
    outputs = [node.name for node in nodes[4:]] or ["decoded"]
    return Graph(inputs=inputs, nodes=nodes, outputs=outputs, padding=draw(PADDINGS), rescale=draw(RESCALES))


def _draw_parts(
    draw: st.DrawFn, kinds: Iterable[tuple[type[Part], ...]], *inputs: Features
) -> tuple[list[Part], Features]:
    """Draw one part after the other, usually such that each accepts its inputs, with the last known outputs."""
    parts: list[Part] = []
    for classes in kinds:
        if parts and parts[-1].includes_head:
            break
        for _ in range(MAX_PART_TRIES):
            part: Part = draw(st.sampled_from(classes).flatmap(valid))
            outputs = _infer(part, *inputs)
            if outputs:
                break
        parts.append(part)
        inputs = (outputs or inputs[0],)
    return parts, inputs[0]


def _infer(part: Part, *inputs: Features) -> Features:
    outcome = infer_part(part, *inputs)
    return outcome.features if isinstance(outcome, Outputs) else ()


def infer_part(part: Part, /, *inputs: Features, **named: Features) -> ContractResult:
    """Return the result of a part's contract; for an encoder of a library, of the one that is looked up."""
    declared = get_encoder_info(part, *inputs, **named) if isinstance(part, ProbedEncoder) else part
    return declared if isinstance(declared, Rejection) else contract(declared, *inputs, **named)


def get_encoder_info(part: ProbedEncoder, /, *inputs: Features, **named: Features) -> EncoderInfo | Rejection:
    """Return what is known of an encoder for these images."""
    images, by_name = [image for (image,) in inputs], {name: image for name, (image,) in named.items()}
    channels: Channels = tuple((name, image.channels) for name, image in by_name.items()) or images[0].channels
    return describe(part.copy_with_inputs(*images, **by_name), channels)
