"""The law, part by part: what a contract promises is what a forward pass gives, and what it refuses fails or lies."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from attrs import evolve
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import composer
from composer.contracts import Promise, Refusal
from composer.contracts.rules import needed, whole
from composer.sizes import Sizes, intersect
from tests.law.strategies import PARTS, inputs_for, parts_for, runs

RULES = {
    composer.SelectIndices: {"index"},
    composer.PermuteDims: {"axes", "batch"},
    composer.InterpolateToPyramidal: {"layout"},
    composer.MaxpoolToPyramidal: {"layout"},
    composer.ReshapeTokensToImage: {"layout", "prefix", "frames", "rows"},
    composer.AddBottleneckLayer: {"layout", "channels"},
    composer.LearnedInterpolateToPyramidal: {"layout", "count", "channels"},
    composer.ConcatFeatures: {"inputs", "count", "join"},
    composer.AddFeatures: {"inputs", "count", "join", "channels"},
    composer.IdentityDecoder: {"index"},
    composer.FCNDecoder: {"index", "layout"},
    composer.UNetDecoder: {"layout", "count", "order", "stride"},
    composer.UperNetDecoder: {"layout", "order"},
    composer.LinearDecoder: {"index", "layout"},
    composer.MLPDecoder: {"layout", "index", "stride"},
    composer.SegmentationHead: {"layout", "count"},
    composer.RegressionHead: {"layout", "count"},
    composer.ClassificationHead: {"layout", "count"},
}
"""Every rule by which each part refuses. A rule that is never drawn fails the test, and so does one not listed."""


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("part_class", PARTS, ids=lambda part_class: part_class.__name__)
@pytest.mark.parametrize("run", runs(300))
def test_a_part_keeps_its_promise_and_refuses_with_cause(part_class, run):
    drawn: Counter[str] = Counter()

    @run
    @given(st.data())
    def holds(data):
        inputs = data.draw(inputs_for(part_class), label="inputs")
        part = data.draw(parts_for(part_class, inputs), label="part")
        outcome = composer.contract(part, *inputs)
        if isinstance(outcome, Refusal):
            drawn[outcome.code] += 1
            check_refusal(data, part, inputs, outcome)
        else:
            drawn["accepted"] += 1
            check_promise(data, part, inputs, outcome)

    holds()

    assert set(drawn) == RULES[part_class] | {"accepted"}


def check_promise(data, part, inputs, promise):
    """At a size that inputs, outputs and part admit, the shapes of a forward pass are those that were promised."""
    edges = [feature for features in (*inputs, promise.features) for feature in features]
    sizes = intersect([("part", promise.sizes), *(("edge", needed(f)) for f in edges)])
    assert isinstance(sizes, Sizes), "a promise that no image size can keep"
    height, width = draw_size(data, sizes)

    out = forced(part, inputs, height, width)

    assert [tuple(x.shape) for x in out] == [f.shape(BATCH, height, width) for f in promise.features]


def check_refusal(data, part, inputs, refusal):
    """Forced through, a refusal of each kind shows that it was right."""
    edges = [feature for features in inputs for feature in features]
    sizes = intersect([("edge", whole(f)) for f in edges])
    height, width = draw_size(data, sizes, cells=2 * max([1, *(int(f.stride) for f in edges if f.stride)]))
    assume(len({*(f.channels for f in edges), BATCH} & {side for f in edges for side in grid(f, height, width)}) == 0)
    try:
        # The meta device lets a convolution have channels that are not its own; interpolation needs no values.
        device = "meta" if isinstance(part, composer.InterpolateToPyramidal) else "cpu"
        out = [tuple(x.shape) for x in forced(part, inputs, height, width, device)]
    except Exception as error:
        # Anything but what torch and Python raise would be a guard of our own making.
        assert refusal.kind in ("impossible", "lies"), f"{refusal} is no {refusal.kind}: {error!r}"
    else:
        asked = asked_for(part, inputs, height, width)
        assert refusal.kind != "impossible", f"{refusal} ran, and gave {out}"
        assert refusal.kind == "policy" or out != asked, f"{refusal} gave what was asked for, {out}"


BATCH = 3


def draw_size(data, sizes, cells=1):
    """An admitted image size, of which the sides may differ, with at least `cells` pixels per side."""
    least = -(-max(sizes.least, cells) // sizes.multiple)
    sides = st.integers(least, least + 3).map(lambda count: count * sizes.multiple)
    return sizes.height or data.draw(sides, label="height"), sizes.width or data.draw(sides, label="width")


def grid(feature, height, width):
    return () if feature.stride is None else (feature.cells(height), feature.cells(width))


def forced(part, inputs, height, width, device="meta"):
    """What the module gives for tensors of the inputs' shapes, whatever the contract says."""
    with torch.device(device):
        module = composer.module(part, *inputs).eval()
        tensors = [[torch.empty(f.shape(BATCH, height, width)) for f in features] for features in inputs]
        needs_size = isinstance(part, composer.ReshapeTokensToImage)
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
    rows, columns = (change(side) for side in grid(feature, height, width))
    unit = evolve(feature, stride=1, rounding="exact")
    return unit.shape(BATCH, rows, columns)


def test_the_law_can_fail():
    """A promise that is wrong by one channel is caught."""
    part, inputs = composer.SelectIndices(indices=[0]), ((composer.Feature(channels=11, stride=4),),)
    lie = Promise(features=[composer.Feature(channels=12, stride=4)])

    @settings(max_examples=1, deadline=None)
    @given(st.data())
    def holds(data):
        check_promise(data, part, inputs, lie)

    with pytest.raises(AssertionError):
        holds()
