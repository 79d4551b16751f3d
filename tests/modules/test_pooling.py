"""Pooling of frames and tokens against formulas written out. B batch, C channels, N tokens, T frames."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange, reduce
from torch import Tensor

from composer.layouts import MAP_PER_FRAME, TOKENS, TOKENS_PER_FRAME, Feature
from composer.modules.base import module
from composer.parts.base import contract
from composer.parts.necks import ReshapeTokensToImage
from composer.parts.tokens import AggregateTokens, TemporalPooling

pytestmark = pytest.mark.usefixtures("exact")

FRAMES = 5
HEIGHT, WIDTH = 64, 96
LAYOUTS = {
    "b t c h w": Feature(channels=3, stride=16, axes="b t c h w", frames=FRAMES),
    "b t n c": Feature(channels=3, stride=16, axes="b t n c", prefix=2, frames=FRAMES),
    "b t h w c": Feature(channels=3, stride=16, axes="b t h w c", frames=FRAMES),
    "b t c": Feature(channels=3, stride=None, axes="b t c", frames=FRAMES),
    "b c t h w": Feature(channels=3, stride=16, axes="b c t h w", frames=FRAMES),
    "b c n t": Feature(channels=3, stride=16, axes="b c n t", frames=FRAMES),
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


def test_rounding_and_layout_are_those_of_each_feature():
    features = (
        Feature(channels=3, stride=5, axes="b t h w c", rounding="ceil", frames=2),
        Feature(channels=4, stride=None, axes="b t c", frames=3),
    )
    assert contract(TemporalPooling(), features).features == (
        Feature(channels=3, stride=5, axes="b h w c", rounding="ceil"),
        Feature(channels=4, stride=None, axes="b c"),
    )


def test_of_equal_frames_the_maximum_teaches_one():
    feature = Feature(channels=1, stride=None, axes="b t c", frames=3)
    x = torch.zeros(1, 3, 1, requires_grad=True)
    (given,) = module(TemporalPooling(pooling="max"), (feature,))([x])
    given.sum().backward()
    assert sorted(x.grad.flatten().tolist()) == [0, 0, 1]


@pytest.mark.parametrize("prefix", [0, 2])
def test_tokens_of_each_frame_are_laid_out(prefix):
    feature = Feature(channels=3, stride=16, axes="b t n c", prefix=prefix, frames=FRAMES)
    maps_BTCHW = torch.randn(2, FRAMES, 3, 4, 6)
    x_BTNC = torch.cat([torch.full((2, FRAMES, prefix, 3), -7.0), rearrange(maps_BTCHW, "b t c h w -> b t (h w) c")], 2)

    (given,) = module(ReshapeTokensToImage(), (feature,))([x_BTNC], image_size=(HEIGHT, WIDTH))

    assert torch.equal(given, maps_BTCHW)
    assert given.is_contiguous()


def sequence(channels=6, prefix=0, frames=1, axes=TOKENS):
    return Feature(channels=channels, stride=16, axes=axes, prefix=prefix, frames=frames)


CELLS = Feature(channels=6, stride=16)

# What the tokens of a tensor are, prefix first: (b, tokens, c), or (b, t, tokens, c).
GRIDS = {
    "tokens": (sequence(prefix=5), "b n c -> b n c"),
    "frames-among-the-tokens": (sequence(prefix=5, frames=3), "b n c -> b n c"),
    "map": (CELLS, "b c h w -> b (h w) c"),
    "tokens-per-frame": (sequence(prefix=5, frames=3, axes=TOKENS_PER_FRAME), "b t n c -> b t n c"),
    "map-per-frame": (
        Feature(channels=6, stride=16, axes=MAP_PER_FRAME, frames=3),
        "b t c h w -> b t (h w) c",
    ),
}
WITH_PREFIX = [name for name in GRIDS if GRIDS[name][0].prefix]


def fed(*features) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(f.shape(2, HEIGHT, WIDTH), dtype=torch.float64) for f in features]


def pooled(neck, *features):
    """What goes in, and what comes out."""
    given = fed(*features)
    return given, module(neck, features)(given)


@pytest.mark.parametrize("pooling", ["mean", "max", "min"])
@pytest.mark.parametrize("layout", GRIDS)
def test_everything_is_pooled_prefix_and_grid(layout, pooling):
    feature, pattern = GRIDS[layout]

    (x,), (y,) = pooled(AggregateTokens(pooling=pooling), feature)

    torch.testing.assert_close(y, reduce(rearrange(x, pattern), "... n c -> ... c", pooling))


@pytest.mark.parametrize("pooling", ["mean", "max", "min"])
@pytest.mark.parametrize("layout", WITH_PREFIX)
def test_the_whole_prefix_is_dropped(layout, pooling):
    feature, _ = GRIDS[layout]

    (x,), (y,) = pooled(AggregateTokens(pooling=pooling, drop_cls=True), feature)

    torch.testing.assert_close(y, reduce(x[..., 5:, :], "... n c -> ... c", pooling))


@pytest.mark.parametrize(("pooling", "position"), [("cls", 0), (0, 0), (4, 4)], ids=["cls", "0", "4"])
@pytest.mark.parametrize("layout", WITH_PREFIX)
def test_a_token_of_the_prefix_is_taken_as_it_is(layout, pooling, position):
    feature, _ = GRIDS[layout]

    (x,), (y,) = pooled(AggregateTokens(pooling=pooling), feature)

    assert torch.equal(y, x[..., position, :])


@pytest.mark.parametrize(
    ("indices", "positions"),
    [
        pytest.param(None, [2], id="none-is-the-last"),
        pytest.param(0, [0], id="0-is-the-first"),
        pytest.param(-2, [1], id="from-the-end"),
        pytest.param([2, 0, 2], [2, 0, 2], id="in-order-and-repeated"),
    ],
)
def test_one_vector_for_each_index_with_its_own_channels(indices, positions):
    features = (sequence(4, prefix=1), CELLS, sequence(8, prefix=5))

    given, out = pooled(AggregateTokens(indices=indices, pooling="max"), *features)

    expected = [given[0].amax(1), given[1].amax((2, 3)), given[2].amax(1)]
    assert [y.shape[1] for y in out] == [(4, 6, 8)[position] for position in positions]
    assert all(torch.equal(y, expected[position]) for y, position in zip(out, positions, strict=True))


@pytest.mark.parametrize("pooling", ["max", "min"])
def test_of_equal_tokens_one_has_the_gradient(pooling):
    x_BNC = torch.zeros(1, 24, 6, requires_grad=True)

    (y_BC,) = module(AggregateTokens(pooling=pooling), (sequence(),))([x_BNC])
    y_BC.sum().backward()

    assert sorted(x_BNC.grad[0, :, 0].tolist()) == [0] * 23 + [1]
