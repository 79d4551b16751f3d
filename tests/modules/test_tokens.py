"""The neck that makes vectors of tokens, against einops and by hand. B batch, C channels, N tokens, T frames."""

import pytest
import torch
from einops import rearrange, reduce
from torch import Tensor

from composer.layouts import MAP_PER_FRAME, TOKENS, TOKENS_PER_FRAME, Feature
from composer.modules.base import module
from composer.parts import AggregateTokens

HEIGHT, WIDTH = 64, 96


def tokens(channels=6, prefix=0, frames=1, axes=TOKENS):
    return Feature(channels=channels, stride=16, axes=axes, prefix=prefix, frames=frames)


MAP = Feature(channels=6, stride=16)

# What the tokens of a tensor are, prefix first: (b, tokens, c), or (b, t, tokens, c).
LAYOUTS = {
    "tokens": (tokens(prefix=5), "b n c -> b n c"),
    "frames-among-the-tokens": (tokens(prefix=5, frames=3), "b n c -> b n c"),
    "map": (MAP, "b c h w -> b (h w) c"),
    "tokens-per-frame": (tokens(prefix=5, frames=3, axes=TOKENS_PER_FRAME), "b t n c -> b t n c"),
    "map-per-frame": (
        Feature(channels=6, stride=16, axes=MAP_PER_FRAME, frames=3),
        "b t c h w -> b t (h w) c",
    ),
}
WITH_PREFIX = [name for name in LAYOUTS if LAYOUTS[name][0].prefix]


def fed(*features) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(f.shape(2, HEIGHT, WIDTH), dtype=torch.float64) for f in features]


def pooled(neck, *features):
    """What goes in, and what comes out."""
    given = fed(*features)
    return given, module(neck, features)(given)


@pytest.mark.parametrize("pooling", ["mean", "max", "min"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_is_pooled_prefix_and_grid(layout, pooling):
    feature, pattern = LAYOUTS[layout]

    (x,), (y,) = pooled(AggregateTokens(pooling=pooling), feature)

    torch.testing.assert_close(y, reduce(rearrange(x, pattern), "... n c -> ... c", pooling))


@pytest.mark.parametrize("pooling", ["mean", "max", "min"])
@pytest.mark.parametrize("layout", WITH_PREFIX)
def test_the_whole_prefix_is_dropped(layout, pooling):
    feature, _ = LAYOUTS[layout]

    (x,), (y,) = pooled(AggregateTokens(pooling=pooling, drop_cls=True), feature)

    torch.testing.assert_close(y, reduce(x[..., 5:, :], "... n c -> ... c", pooling))


@pytest.mark.parametrize(("pooling", "position"), [("cls", 0), (0, 0), (4, 4)], ids=["cls", "0", "4"])
@pytest.mark.parametrize("layout", WITH_PREFIX)
def test_a_token_of_the_prefix_is_taken_as_it_is(layout, pooling, position):
    feature, _ = LAYOUTS[layout]

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
    features = (tokens(4, prefix=1), MAP, tokens(8, prefix=5))

    given, out = pooled(AggregateTokens(indices=indices, pooling="max"), *features)

    expected = [given[0].amax(1), given[1].amax((2, 3)), given[2].amax(1)]
    assert [y.shape[1] for y in out] == [(4, 6, 8)[position] for position in positions]
    assert all(torch.equal(y, expected[position]) for y, position in zip(out, positions, strict=True))


@pytest.mark.parametrize("pooling", ["max", "min"])
def test_of_equal_tokens_one_has_the_gradient(pooling):
    x_BNC = torch.zeros(1, 24, 6, requires_grad=True)

    (y_BC,) = module(AggregateTokens(pooling=pooling), (tokens(),))([x_BNC])
    y_BC.sum().backward()

    assert sorted(x_BNC.grad[0, :, 0].tolist()) == [0] * 23 + [1]


def test_a_sequence_gives_the_mean_of_its_frames_only_where_they_are_among_the_tokens():
    per_frame, among = LAYOUTS["tokens-per-frame"][0], LAYOUTS["frames-among-the-tokens"][0]

    (_, _), (y_BTC, y_BC) = pooled(AggregateTokens(indices=[0, 1]), per_frame, among)

    assert (y_BTC.shape, y_BC.shape) == ((2, 3, 6), (2, 6))
