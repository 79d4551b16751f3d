"""TemporalPooling, and tokens per frame laid out, against formulas written out. B batch, T frames, N tokens."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from torch import Tensor

from composer.layouts import Feature
from composer.modules.base import module
from composer.parts.base import contract
from composer.parts.necks import ReshapeTokensToImage
from composer.parts.tokens import TemporalPooling

pytestmark = pytest.mark.usefixtures("exact")

FRAMES = 5
HEIGHT, WIDTH = 12, 20
LAYOUTS = {
    "b t c h w": Feature(channels=3, stride=4, axes="b t c h w", frames=FRAMES),
    "b t n c": Feature(channels=3, stride=4, axes="b t n c", prefix=2, frames=FRAMES),
    "b t h w c": Feature(channels=3, stride=4, axes="b t h w c", frames=FRAMES),
    "b t c": Feature(channels=3, stride=None, axes="b t c", frames=FRAMES),
    "b c t h w": Feature(channels=3, stride=4, axes="b c t h w", frames=FRAMES),
    "b c n t": Feature(channels=3, stride=4, axes="b c n t", frames=FRAMES),
}


def average(frames):
    return sum(frames) / len(frames)


POOLINGS = {
    "mean": average,
    "max": lambda frames: torch.stack(frames).amax(0),
    "diff": lambda frames: frames[0] - frames[1],
    "concat": lambda frames: torch.cat(frames, dim=-1),
    "keep": lambda frames: torch.stack(frames, dim=1),
}
"""What is made of frames `(b, …, c)`, the channels last."""

SUBSETS = {"all": None, "two": [2, 3], "one": [5], "each": [1] * 5}


def expected(x: Tensor, axes: str, pooling: str, lengths: list[int] | None) -> Tensor:
    """The frames one by one, channels last, pooled and put back into the layout."""
    rest = [axis for axis in axes.split() if axis not in "btc"]
    frames = list(rearrange(x, f"{axes} -> t b {' '.join(rest)} c"))
    if lengths is not None:
        starts = [sum(lengths[:index]) for index in range(len(lengths))]
        frames = [average(frames[start : start + count]) for start, count in zip(starts, lengths, strict=True)]
    pooled = POOLINGS[pooling](frames)
    kept = pooling == "keep"
    order = axes if kept else " ".join(axis for axis in axes.split() if axis != "t")
    return rearrange(pooled, f"b {'t ' if kept else ''}{' '.join(rest)} c -> {order}")


@pytest.mark.parametrize("axes", LAYOUTS)
@pytest.mark.parametrize("subsets", SUBSETS)
@pytest.mark.parametrize("pooling", [pooling for pooling in POOLINGS if pooling != "diff"])
def test_frames_are_pooled_in_any_layout(pooling, subsets, axes):
    check(TemporalPooling(pooling=pooling, subset_lengths=SUBSETS[subsets]), LAYOUTS[axes])


@pytest.mark.parametrize("axes", LAYOUTS)
def test_a_difference_is_of_the_first_and_the_second_subset(axes):
    check(TemporalPooling(pooling="diff", subset_lengths=[2, 3]), LAYOUTS[axes])


def check(neck, feature):
    x = torch.randn(feature.shape(2, HEIGHT, WIDTH))
    before = x.clone()
    lengths = None if neck.subset_lengths is None else list(neck.subset_lengths)

    (given,) = module(neck, (feature,))([x])

    (promised,) = contract(neck, (feature,)).features
    wanted = expected(x, feature.axes, neck.pooling, lengths)
    assert given.shape == wanted.shape == promised.shape(2, HEIGHT, WIDTH)
    assert torch.allclose(given, wanted)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("subsets", "channels"), [("all", 15), ("two", 6), ("one", 3)])
def test_the_channels_of_frames_one_after_the_other_are_counted_after_the_subsets(subsets, channels):
    neck = TemporalPooling(pooling="concat", subset_lengths=SUBSETS[subsets])
    (promised,) = contract(neck, (LAYOUTS["b t n c"],)).features
    assert promised == Feature(channels=channels, stride=4, axes="b n c", prefix=2)


@pytest.mark.parametrize(("subsets", "frames"), [("all", 5), ("two", 2)])
def test_frames_that_are_kept_are_counted_after_the_subsets(subsets, frames):
    neck = TemporalPooling(pooling="keep", subset_lengths=SUBSETS[subsets])
    (promised,) = contract(neck, (LAYOUTS["b c t h w"],)).features
    assert promised == Feature(channels=3, stride=4, axes="b c t h w", frames=frames)


def test_rounding_and_layout_are_those_of_each_feature():
    features = (
        Feature(channels=3, stride=5, axes="b t h w c", rounding="ceil", frames=2),
        Feature(channels=4, stride=None, axes="b t c", frames=3),
    )
    assert contract(TemporalPooling(), features).features == (
        Feature(channels=3, stride=5, axes="b h w c", rounding="ceil"),
        Feature(channels=4, stride=None, axes="b c"),
    )


def test_a_map_one_cell_wide_stays_a_map():
    feature = Feature(channels=3, stride=4, axes="b t c h w", frames=2)
    x = torch.randn(2, 2, 3, 5, 1)
    (given,) = module(TemporalPooling(), (feature,))([x])
    assert torch.equal(given, x.mean(1))


def test_of_equal_frames_the_maximum_teaches_one():
    feature = Feature(channels=1, stride=None, axes="b t c", frames=3)
    x = torch.zeros(1, 3, 1, requires_grad=True)
    (given,) = module(TemporalPooling(pooling="max"), (feature,))([x])
    given.sum().backward()
    assert sorted(x.grad.flatten().tolist()) == [0, 0, 1]


@pytest.mark.parametrize("prefix", [0, 2])
def test_tokens_of_each_frame_are_laid_out(prefix):
    feature = Feature(channels=3, stride=4, axes="b t n c", prefix=prefix, frames=FRAMES)
    maps_BTCHW = torch.randn(2, FRAMES, 3, 3, 5)
    x_BTNC = torch.cat([torch.full((2, FRAMES, prefix, 3), -7.0), rearrange(maps_BTCHW, "b t c h w -> b t (h w) c")], 2)

    (given,) = module(ReshapeTokensToImage(), (feature,))([x_BTNC], image_size=(HEIGHT, WIDTH))

    assert torch.equal(given, maps_BTCHW)
    assert given.is_contiguous()


def test_maps_of_each_frame_pass_through_a_reshape_untouched():
    x_BTCHW = torch.randn(2, FRAMES, 3, 3, 5)
    (given,) = module(ReshapeTokensToImage(), (LAYOUTS["b t c h w"],))([x_BTCHW], image_size=(HEIGHT, WIDTH))
    assert given is x_BTCHW


@pytest.mark.parametrize("frames", [4, 6])
def test_other_frames_than_stated_do_not_fit(frames):
    neck = module(ReshapeTokensToImage(effective_time_dim=FRAMES), (LAYOUTS["b t n c"],))
    with pytest.raises(RuntimeError, match="Shape mismatch"):
        neck([torch.zeros(2, frames, 17, 3)], image_size=(HEIGHT, WIDTH))
