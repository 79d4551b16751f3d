"""The law, part by part: what a contract promises is what a forward pass gives, and what it refuses fails or lies."""

from __future__ import annotations

import traceback
from collections import Counter
from fractions import Fraction
from inspect import signature
from itertools import combinations
from math import prod
from pathlib import Path

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

import composer
from composer.parts.rules import Outputs, Rejection, compute_exact_multiple, compute_implied_sizes, to_exact_grid
from composer.sizes import SizeConstraint, intersect
from tests.law.strategies import ACCEPTED, PARTS, REFUSED, draw_examples, draw_more, inputs_for, parts_for, sides

RULES = {
    composer.SelectIndices: {("index", "raises")},
    composer.PermuteDims: {("value", "raises"), ("value", "policy")},
    composer.InterpolateToPyramidal: {("layout", "wrong_output"), ("layout", "policy")},
    composer.MaxpoolToPyramidal: {("layout", "wrong_output"), ("layout", "policy")},
    composer.ReshapeTokensToImage: {
        ("layout", "raises"),
        ("prefix", "raises"),
        ("frames", "raises"),
        ("value", "policy"),
    },
    composer.AddBottleneckLayer: {("layout", "raises"), ("channels", "raises")},
    composer.LearnedInterpolateToPyramidal: {
        ("layout", "raises"),
        ("count", "raises"),
        ("channels", "raises"),
    },
    composer.TemporalPooling: {("layout", "raises"), ("frames", "raises"), ("count", "raises")},
    composer.FeaturePyramidNetworkNeck: {("layout", "raises"), ("index", "policy")},
    composer.AggregateTokens: {
        ("index", "raises"),
        ("layout", "raises"),
        ("prefix", "wrong_output"),
        ("prefix", "policy"),
    },
    composer.ConcatFeatures: {("inputs", "policy"), ("count", "raises"), ("join", "raises")},
    composer.AddFeatures: {
        ("inputs", "policy"),
        ("count", "raises"),
        ("join", "raises"),
        ("join", "wrong_output"),
        ("join", "policy"),
        ("channels", "raises"),
        ("channels", "policy"),
    },
    composer.IdentityDecoder: {("index", "raises")},
    composer.FCNDecoder: {("index", "raises"), ("layout", "raises")},
    composer.UNetDecoder: {
        ("layout", "raises"),
        ("count", "raises"),
        ("index", "policy"),
        ("stride", "policy"),
    },
    composer.UperNetDecoder: {
        ("layout", "raises"),
        ("index", "policy"),
        ("count", "raises"),
        ("channels", "raises"),
    },
    composer.ASPPSegmentationHead: {("index", "raises"), ("layout", "raises")},
    composer.ASPPRegressionHead: {("index", "raises"), ("layout", "raises")},
    composer.LinearDecoder: {("index", "raises"), ("layout", "raises")},
    composer.MLPDecoder: {("layout", "raises"), ("index", "raises"), ("stride", "raises")},
    composer.SegmentationHead: {("layout", "raises"), ("count", "raises")},
    composer.RegressionHead: {("layout", "raises"), ("count", "raises")},
    composer.ClassificationHead: {("layout", "raises"), ("count", "raises")},
    composer.EmbeddingHead: {("count", "policy")},
    composer.ScalarHead: {("layout", "raises"), ("count", "raises")},
}
"""Every rule by which each part refuses, and its kind. One never drawn fails the test, and so does one not listed."""


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("part_class", PARTS, ids=lambda part_class: part_class.__name__)
def test_a_part_keeps_its_promise_and_refuses_with_cause(part_class):
    check_rules(cases(part_class), RULES[part_class], RARE.get(part_class, set()))


@st.composite
def cases(draw, part_class):
    """A part of a class, and what it is fed."""
    inputs = draw(inputs_for(part_class))
    return draw(parts_for(part_class, inputs)), inputs


def check_rules(cases, rules, rare=frozenset()):
    """Hold parts and their inputs to the law, and see that each of the rules is met, and no other but a rare one."""
    drawn = Counter()

    @draw_examples(400)
    @given(cases, sides)
    def holds(case, size):
        part, inputs = case
        outcome = composer.contract(part, *inputs)
        if not isinstance(outcome, Rejection):
            if drawn["accepted", "cpu"] < ACCEPTED:
                drawn["accepted", check_promise(size, part, inputs, outcome)] += 1
            return
        rule = (outcome.code, outcome.kind)
        assert rule in rules | rare, rule
        if drawn[*rule, SHOWN_BY[outcome.kind]] < REFUSED:
            drawn[*rule, check_refusal(size, part, inputs, outcome)] += 1

    wanted = {("accepted", "cpu"), *((code, kind, SHOWN_BY[kind]) for code, kind in rules)}
    holds()
    draw_more(holds, lambda: wanted <= drawn.keys())

    assert wanted <= drawn.keys(), drawn


RARE = {composer.LearnedInterpolateToPyramidal: {("layout", "wrong_output"), ("layout", "policy")}}
"""Rules that need the third or the fourth feature alone to be no map, which only the soak draws often enough."""

SHOWN_BY = {"raises": "raised", "wrong_output": "ran", "policy": "ran"}
"""What a refusal must have done when forced: always, but for one that lies, which may raise for some inputs."""


def check_promise(size, part, inputs, promise):
    """At a size that inputs, outputs and part admit, the shapes of a forward pass are those that were promised.

    Gives the device: the CPU where tensors are small, because transposed convolutions take any channels elsewhere.
    """
    edges = [feature for features in (*inputs, promise.features) for feature in features]
    sizes = intersect([("part", promise.sizes), *(("edge", compute_implied_sizes(f)) for f in edges)])
    assert isinstance(sizes, SizeConstraint), "a promise that no image size can keep"
    height, width = choose_size(size, sizes)

    device = "cpu" if sum(prod(f.shape(BATCH, height, width)) for f in edges) <= FEW else "meta"

    out = forced(part, inputs, height, width, device)

    assert [tuple(x.shape) for x in out] == [f.shape(BATCH, height, width) for f in promise.features]
    return device


def check_refusal(size, part, inputs, refusal):
    """Forced through, a refusal of each kind shows that it was right. Gives what happened: it raised or it ran."""
    edges = [feature for features in inputs for feature in features]
    sizes = intersect([("edge", compute_exact_multiple(f)) for f in edges])
    height, width = choose_size(
        size,
        sizes,
        cells=room(part, inputs) * max([1, *(int(f.stride) for f in edges if f.stride)])
        + max([0, *(int(to_exact_grid(f).offset) for f in edges)]),
    )
    lengths = {length for f in edges for length in grid(f, height, width)}
    if refusal.code == "layout":  # frames may be taken for channels too
        lengths |= {f.frames for f in edges if "t" in f.axes}
    by_chance = lengths & {*(f.channels for f in edges), BATCH} or coincide(edges, height, width)
    if by_chance or add_up(part, inputs[0] if inputs else (), height, width):
        return "by chance"
    try:
        # The meta device lets a convolution have channels that are not its own; interpolation needs no values.
        device = "meta" if isinstance(part, composer.InterpolateToPyramidal | composer.MaxpoolToPyramidal) else "cpu"
        out = [tuple(x.shape) for x in forced(part, inputs, height, width, device)]
    except Exception as error:
        assert refusal.kind in ("raises", "wrong_output"), f"{refusal} is no {refusal.kind}: {error!r}"
        assert not raised_by_us(error), f"{refusal} is impossible by a guard of our own making: {error!r}"
        return "raised"
    # A token of the grid has the shape of one of the prefix; that it is another is a matter of values.
    asked = None if refusal.code == "prefix" else asked_for(part, inputs, height, width)
    assert refusal.kind != "raises", f"{refusal} ran, and gave {out}"
    assert refusal.kind == "policy" or out != asked, f"{refusal} gave what was asked for, {out}"
    return "ran"


def coincide(edges, height, width):
    """Whether unlike grids, one with an offset, meet at this size alone: as they are, or enlarged by a power of two."""
    grids = {(f.stride, to_exact_grid(f).offset): (f.cells(height), f.cells(width)) for f in edges if f.stride}
    pairs = [pair for pair in combinations(grids.items(), 2) if any(offset for (_, offset), _ in pair)]
    return any(
        Fraction(one, other) in POWERS and one * stride != other * second
        for ((stride, _), sides), ((second, _), others) in pairs
        for one, other in zip(sides, others, strict=True)
        if other
    )


POWERS = [Fraction(2) ** power for power in range(-5, 6)]


def add_up(part, features, height, width):
    """Whether maps of another layout, joined, have by chance as many entries as channels where channels are wanted."""
    chosen = [features[at] for at in getattr(part, "positions", ()) if -len(features) <= at < len(features)]
    if all(f.axes.split()[1] == "c" for f in chosen):
        return False
    return sum(f.shape(BATCH, height, width)[1] for f in chosen) == sum(f.channels for f in chosen)


def raised_by_us(error):
    """Whether a statement of composer's raised this, rather than torch or Python on composer's behalf."""
    deepest = traceback.extract_tb(error.__traceback__)[-1]
    return Path(deepest.filename).is_relative_to(COMPOSER) and deepest.line.startswith(("raise", "assert"))


COMPOSER = Path(composer.__file__).parent
BATCH = 3
FEW = 100_000
"""How many numbers the CPU computes with at most."""


def room(part, inputs):
    """Cells per side that leave at least two after all pooling, and one where smp halves a grid up to three times."""
    if isinstance(part, composer.Smp) and part.name in ("PAN", "Segformer"):
        return 8
    return 2 * (part.kernel_size ** (len(inputs[0]) - 1) if isinstance(part, composer.MaxpoolToPyramidal) else 1)


def choose_size(size, sizes, cells=1):
    """An admitted image size, of which the sides may differ, with at least `cells` pixels per side."""
    least = -(-max(sizes.least, cells) // sizes.multiple)
    height, width = ((least + more) * sizes.multiple for more in size)
    return sizes.height or height, sizes.width or width


def grid(feature, height, width):
    """The lengths of the axes on which the grid lies: rows and columns, and the tokens where it is laid out as such."""
    if feature.stride is None:
        return ()
    shape = dict(zip(feature.axes.split(), feature.shape(BATCH, height, width), strict=True))
    return (feature.cells(height), feature.cells(width), *([shape["n"]] if "n" in shape else []))


def forced(part, inputs, height, width, device="meta"):
    """What the module gives for tensors of the inputs' shapes, whatever the contract says."""
    with torch.device(device):
        module = composer.module(part, *inputs).eval()
        tensors = [[torch.zeros(f.shape(BATCH, height, width)) for f in features] for features in inputs]
        needs_size = "image_size" in signature(module.forward).parameters
        with torch.no_grad():
            return module(*tensors, **({"image_size": (height, width)} if needs_size else {}))


def asked_for(part, inputs, height, width):
    """What a refused part was asked for, where it is refused because it would run and give something else."""
    match part:
        case composer.InterpolateToPyramidal(scale_factor=factor):
            scales = [factor**power for power in range(len(inputs[0]), 0, -1)]
            return [
                scaled(f, height, width, lambda side, s=s: side * s) for f, s in zip(inputs[0], scales, strict=True)
            ]
        case composer.MaxpoolToPyramidal(kernel_size=kernel):
            scales = [kernel**power for power in range(len(inputs[0]))]
            return [
                scaled(f, height, width, lambda side, s=s: side // s) for f, s in zip(inputs[0], scales, strict=True)
            ]
    return None


def scaled(feature, height, width, change):
    """The shape of a feature whose grid has changed, in whatever layout it is."""
    if feature.stride is None:
        return feature.shape(BATCH, height, width)
    rows, columns = (change(feature.cells(side)) for side in (height, width))
    unit = evolve(feature, stride=1, rounding="exact", offset=0)
    return unit.shape(BATCH, rows, columns)


def test_the_law_can_fail():
    """A promise that is wrong by one channel is caught."""
    part, inputs = composer.SelectIndices(indices=[0]), ((composer.Feature(channels=11, stride=4),),)
    lie = Outputs(features=[composer.Feature(channels=12, stride=4)])

    with pytest.raises(AssertionError):
        check_promise((0, 0), part, inputs, lie)
