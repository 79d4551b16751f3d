"""Features, parts and sizes at random, small enough to run: what the law is tested on."""

from __future__ import annotations

from math import inf

import pytest
from attrs import evolve, fields_dict, frozen
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st

import composer
from composer.layouts import MAP, Feature
from composer.parts import DECODERS, NECKS
from composer.parts import HEADS as HEAD_CLASSES
from composer.testing import valid
from composer.testing.strategies import CHANNELS
from composer.testing.strategies import features as features
from composer.testing.strategies import pyramids as levels


def replace_channels(feature: Feature, channels: int) -> Feature:
    """The same feature with other channels."""
    return evolve(feature, channels=channels)


@frozen
class Run:
    """How a law is run: how much is drawn, and how often each outcome of a contract is seen in a forward pass.

    Drawing costs little, running a module much.
    """

    settings: settings
    accepted: float = inf
    refused: float = inf


def runs(examples: int) -> list:
    """Every time the same examples, so that what was drawn is drawn; and a soak of random ones."""
    common = {"deadline": None, "suppress_health_check": list(HealthCheck)}
    short = settings(max_examples=examples, derandomize=True, database=None, **common)
    soak = settings(max_examples=10 * examples, **common)
    return [
        pytest.param(Run(short, accepted=12, refused=4), id="short"),
        pytest.param(Run(soak), id="soak", marks=pytest.mark.slow),
    ]


def draw_more(holds, is_complete, attempts: int = 12) -> None:
    """Run a property with other seeds until it has drawn all that it must be tried with.

    Which examples a seed stands for changes with the version of Hypothesis.
    """
    for number in range(attempts):
        if is_complete():
            return
        seed(number)(holds)()


sides = st.tuples(st.integers(0, 3), st.integers(0, 3))
"""The size of an image: how far each side is above the least that is admitted, in steps of what it must divide by."""


@st.composite
def sizes(draw, stride: int = 1) -> composer.SizeConstraint:
    """What an encoder may ask of an image of this stride: often nothing, and mostly what a pyramid could meet."""
    sides = st.none() | st.sampled_from((64 // stride, 64 // stride, 32 // stride, 30 // stride))
    fixed = {"height": sides, "width": sides}
    square = {"square": st.just(True)}
    grid = {"multiple": st.sampled_from((1, 2, 3, 3, 16)), "least": st.sampled_from((1, 24))}
    asked = draw(st.sampled_from(({}, {}, {}, fixed, square, square | grid, grid, fixed | square | grid)))
    return composer.SizeConstraint(**{name: draw(values) for name, values in asked.items()})


widths = st.sampled_from((1, 2, 6, 16))
maybe_widths = st.none() | st.lists(widths, max_size=2)
rates = st.sampled_from((0.0, 0.3))


@st.composite
def permutations(draw) -> list[int]:
    """An order of axes; now and then one that is none, or that moves the batch."""
    rank = draw(st.sampled_from((2, 3, 4, 4, 4, 5)))
    order = [0, *draw(st.permutations(range(1, rank)))]
    return draw(st.sampled_from((order, order, order, order[1:] + order[:1], [0] * rank)))


VALUES = {
    **dict.fromkeys(("channels", "num_classes", "num_outputs", "out_channels", "out_channel"), widths),
    **dict.fromkeys(("channel_list", "dim_list"), maybe_widths),
    **dict.fromkeys(("dropout", "head_dropout_ratio"), rates),
    **dict.fromkeys(("in_index", "out_index"), st.integers(-3, 3)),
    **dict.fromkeys(("scale_factor", "kernel_size", "num_convs", "upsampling_size"), (1, 2, 3)),
    "out_dim": st.none() | widths,
    "remove_cls_token": (True, True, False),
    "effective_time_dim": (None, None, 1, 3),
    "h": (None, None, 4),
    "learned_upscale_layers": (0, 1, 2),
    "upsampling": (1, 1, 2, 3),
    "pool_scales": ((1, 2, 3, 6), (1,), ()),
    "dilations": ((1, 6, 12, 18), (1,), (2, 3), ()),
    "subset_lengths": (None, None, [1, 2], [2, 1], [3], [1, 1, 1], [2, 2], [1]),
}
"""Values of fields that are small enough to run; other fields are drawn from their validators."""

positions = st.integers(-3, 3)
several = st.lists(positions, min_size=1, max_size=3)
OWN_VALUES = {
    composer.SelectIndices: {"indices": st.lists(st.integers(-4, 4), min_size=1, max_size=5)},
    composer.PermuteDims: {"new_order": permutations()},
    composer.AggregateTokens: {
        "pooling": ("mean", "max", "min", "cls", 0, 1, 4),
        "indices": st.none() | positions | several,
        "drop_cls": (False, False, False, True),
    },
    composer.UNetDecoder: {"channels": st.lists(widths, min_size=1, max_size=5)},
    composer.SegmentationHead: {"kernel_size": (1, 3)},
    composer.MLPDecoder: {"channels": st.none() | widths},
    composer.ASPPSegmentationHead: {"in_index": positions | several},
    composer.ASPPRegressionHead: {"in_index": positions | several},
}


def draw_part(part_class: type):
    """Parts of a class with values that are small enough to run."""
    common = {name: values for name, values in VALUES.items() if name in fields_dict(part_class)}
    return valid(part_class, **common | OWN_VALUES.get(part_class, {}))


PARTS = {part: draw_part(part) for part in (*NECKS, *DECODERS, *HEAD_CLASSES)}

HEADS = (composer.SegmentationHead, composer.RegressionHead, composer.ClassificationHead, composer.ScalarHead)
"""The heads that take one feature."""
JOINS = (composer.ConcatFeatures, composer.AddFeatures)


@st.composite
def branches(draw) -> tuple[tuple[Feature, ...], ...]:
    """Inputs for a join: mostly alike but for their channels and rounding, now and then not, or spread by torch."""
    first = draw(levels(draw(st.sampled_from(("b c h w", "b c h w", "b t c h w")))))
    count = draw(st.sampled_from((1, 2, 2, 2, 3)))
    others = []
    for _ in range(count - 1):
        like = draw(st.sampled_from(("same", "widths", "single", "frame", "frameless", "strides", "other")))
        if like == "other":
            others.append(draw(levels()))
        elif like == "same":
            others.append(first)
        elif like == "single":
            others.append(tuple(replace_channels(f, 1) for f in first))
        elif like == "frame":
            others.append(tuple(evolve(f, frames=1) for f in first))
        elif like == "frameless":
            others.append(tuple(evolve(f, frames=1, axes=f.axes.replace(" t", "")) for f in first))
        elif like == "strides":
            others.append(tuple(f if f.stride is None else evolve(f, stride=f.stride * 2) for f in first))
        else:
            others.append(tuple(replace_channels(f, draw(st.sampled_from((1, *CHANNELS)))) for f in first))
    return (first, *others)


@st.composite
def parts_for(draw, part_class: type, inputs: tuple[tuple[Feature, ...], ...]):
    """A part of this class.

    A U-Net has mostly as many widths as maps, and a permutation leads often to maps, or neither got any further.
    """
    part = draw(PARTS[part_class])
    if part_class is composer.UNetDecoder and inputs[0] and draw(st.integers(0, 3)):
        count = len(inputs[0])
        return evolve(part, channels=draw(st.lists(widths, min_size=count, max_size=count)))
    if part_class is composer.PermuteDims and inputs[0] and draw(st.booleans()):
        axes = inputs[0][0].axes.split()
        return evolve(part, new_order=[axes.index(axis) for axis in MAP.split() if axis in axes])
    return part


FAVOURITES = {
    composer.ReshapeTokensToImage: ("b n c", "b n c", "b t n c"),
    composer.TemporalPooling: ("b t c h w", "b t n c", "b c t h w"),
    composer.AggregateTokens: ("b n c", "b n c", "b t n c", "b c h w", "b t c h w"),
}
"""The layouts that a part is mostly given, where they are not maps."""


NARROWING = (composer.AddBottleneckLayer, composer.LearnedInterpolateToPyramidal, composer.UperNetDecoder)
"""Parts that leave a fraction of the channels, of which there may be none."""


@st.composite
def inputs_for(draw, part_class: type) -> tuple[tuple[Feature, ...], ...]:
    """Inputs that a part of this class may or may not take."""
    if part_class in JOINS:
        return draw(branches())
    given = draw(levels(draw(st.sampled_from(FAVOURITES.get(part_class, ("b c h w",))))))
    if part_class is composer.EmbeddingHead and draw(st.integers(0, 5)) == 0:
        given = ()
    if part_class in NARROWING and draw(st.integers(0, 5)) == 0:
        given = tuple(replace_channels(f, 1) for f in given)
    return (given[:1],) if part_class in HEADS and draw(st.integers(0, 3)) else (given,)
