"""Features, parts and sizes at random, small enough to run: what the law is tested on."""

from __future__ import annotations

from math import inf

import pytest
from attrs import evolve, frozen
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st

import composer
from composer.layouts import MAP, Feature
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
activations = st.sampled_from(("ReLU", "GELU", "SiLU", "LeakyReLU", "ELU", "Tanh", "Sigmoid", "Softplus", "Identity"))


@st.composite
def permutations(draw) -> list[int]:
    """An order of axes; now and then one that is none, or that moves the batch."""
    rank = draw(st.sampled_from((2, 3, 4, 4, 4, 5)))
    order = [0, *draw(st.permutations(range(1, rank)))]
    return draw(st.sampled_from((order, order, order, order[1:] + order[:1], [0] * rank)))


def aspp(part_class: type, **fields):
    """One of the ASPP heads, of one map or of several."""
    fields |= {
        "channels": widths,
        "dilations": st.sampled_from(((1, 6, 12, 18), (1,), (2, 3), ())),
        "align_corners": st.booleans(),
        "head_dropout_ratio": rates,
        "includes_head": st.booleans(),
    }
    positions = st.integers(-3, 3)
    several = {
        "in_index": st.lists(positions, min_size=1, max_size=3),
        "input_transform": st.just("resize_concat"),
    }
    return st.builds(part_class, in_index=positions, **fields) | st.builds(part_class, **several, **fields)


PARTS = {
    composer.SelectIndices: st.builds(
        composer.SelectIndices, indices=st.lists(st.integers(-4, 4), min_size=1, max_size=5)
    ),
    composer.PermuteDims: st.builds(composer.PermuteDims, new_order=permutations()),
    composer.InterpolateToPyramidal: st.builds(
        composer.InterpolateToPyramidal,
        scale_factor=st.sampled_from((1, 2, 3)),
        mode=st.sampled_from(("nearest", "nearest-exact", "bilinear", "bicubic", "area")),
    ),
    composer.MaxpoolToPyramidal: st.builds(composer.MaxpoolToPyramidal, kernel_size=st.sampled_from((1, 2, 3))),
    composer.ReshapeTokensToImage: st.builds(
        composer.ReshapeTokensToImage,
        remove_cls_token=st.sampled_from((True, True, False)),
        effective_time_dim=st.sampled_from((None, None, 1, 3)),
        h=st.sampled_from((None, None, 4)),
    ),
    composer.AddBottleneckLayer: st.builds(composer.AddBottleneckLayer),
    composer.LearnedInterpolateToPyramidal: st.builds(composer.LearnedInterpolateToPyramidal),
    composer.TemporalPooling: st.builds(
        composer.TemporalPooling,
        pooling=st.sampled_from(("mean", "max", "diff", "concat", "keep")),
        subset_lengths=st.sampled_from((None, None, [1, 2], [2, 1], [3], [1, 1, 1], [2, 2], [1])),
    ),
    composer.FeaturePyramidNetworkNeck: st.builds(composer.FeaturePyramidNetworkNeck, out_channel=widths),
    composer.AggregateTokens: st.builds(
        composer.AggregateTokens,
        pooling=st.sampled_from(("mean", "max", "min", "cls", 0, 1, 4)),
        indices=st.none() | st.integers(-3, 3) | st.lists(st.integers(-3, 3), min_size=1, max_size=4),
    )
    | st.builds(
        composer.AggregateTokens,
        pooling=st.sampled_from(("mean", "max", "min")),
        indices=st.none() | st.integers(-3, 3),
        drop_cls=st.just(True),
    ),
    composer.ConcatFeatures: st.builds(composer.ConcatFeatures),
    composer.AddFeatures: st.builds(composer.AddFeatures),
    composer.IdentityDecoder: st.builds(composer.IdentityDecoder, out_index=st.integers(-4, 4)),
    composer.FCNDecoder: st.builds(
        composer.FCNDecoder, channels=widths, num_convs=st.sampled_from((1, 2, 3)), in_index=st.integers(-3, 3)
    ),
    composer.UNetDecoder: st.builds(
        composer.UNetDecoder,
        channels=st.lists(widths, min_size=1, max_size=5),
        use_batchnorm=st.sampled_from(("batchnorm", "instancenorm", "identity", True, False)),
        attention_type=st.sampled_from((None, "scse")),
    ),
    composer.UperNetDecoder: st.builds(
        composer.UperNetDecoder,
        channels=widths,
        pool_scales=st.sampled_from(((1, 2, 3, 6), (1,), ())),
        align_corners=st.booleans(),
        scale_modules=st.booleans(),
    ),
    composer.ASPPSegmentationHead: aspp(composer.ASPPSegmentationHead, num_classes=widths),
    composer.ASPPRegressionHead: aspp(composer.ASPPRegressionHead, out_channels=widths),
    composer.LinearDecoder: st.builds(
        composer.LinearDecoder,
        num_classes=widths,
        upsampling_size=st.sampled_from((1, 2, 3)),
        in_index=st.integers(-3, 3),
        includes_head=st.booleans(),
    ),
    composer.MLPDecoder: st.builds(
        composer.MLPDecoder,
        channels=st.none() | widths,
        out_dim=st.none() | widths,
        activation=activations,
        out_index=st.integers(-3, 3),
    ),
    composer.SegmentationHead: st.builds(
        composer.SegmentationHead, num_classes=widths, channel_list=maybe_widths, dropout=rates
    ),
    composer.RegressionHead: st.builds(
        composer.RegressionHead,
        num_outputs=widths,
        final_act=st.none() | activations | st.just("Softmax"),
        learned_upscale_layers=st.sampled_from((0, 1, 2)),
        channel_list=maybe_widths,
        batch_norm=st.booleans(),
        dropout=rates,
    ),
    composer.ClassificationHead: st.builds(
        composer.ClassificationHead,
        num_classes=widths,
        dim_list=maybe_widths,
        dropout=rates,
        linear_after_pool=st.booleans(),
    ),
    composer.EmbeddingHead: st.builds(composer.EmbeddingHead),
    composer.ScalarHead: st.builds(
        composer.ScalarHead,
        num_outputs=widths,
        dim_list=maybe_widths,
        dropout=rates,
        linear_after_pool=st.booleans(),
    ),
}

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
