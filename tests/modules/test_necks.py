"""What necks compute beside einops and torch; beside TerraTorch's own, decoders and heads too, in tests/peers."""

import pytest
import torch
from einops import rearrange, reduce
from torch.nn import functional as F

import composer
from composer.layouts import Feature

pytestmark = pytest.mark.usefixtures("exact")

HEIGHT, WIDTH = 64, 96
"""Of an image that is not square, so that a grid cannot be guessed from a number of tokens."""

GRID = {"h": HEIGHT // 16, "w": WIDTH // 16}


def level(channels=6, stride=16, axes="b c h w", **rest):
    return Feature(channels=channels, stride=stride, axes=axes, **rest)


PYRAMID = (level(4, 8), level(6, 16), level(8, 32))


def feed(neck, *branches):
    """The tensors of each input, and what the neck makes of them."""
    tensors = [[torch.randn(f.shape(2, HEIGHT, WIDTH)) for f in features] for features in branches]
    named = {"image_size": (HEIGHT, WIDTH)} if isinstance(neck, composer.ReshapeTokensToImage) else {}
    return tensors, composer.module(neck, *branches).eval()(*tensors, **named)


FRAMES = {"frames": 5}
PATTERNS = {
    "tokens": (composer.ReshapeTokensToImage(), level(axes="b n c"), "b (h w) c -> b c h w"),
    "tokens behind a prefix": (
        composer.ReshapeTokensToImage(),
        level(axes="b n c", prefix=5),
        "b (h w) c -> b c h w",
    ),
    "frames among the tokens": (
        composer.ReshapeTokensToImage(),
        level(axes="b n c", prefix=1, frames=3),
        "b (t h w) c -> b (t c) h w",
    ),
    "tokens of each frame": (
        composer.ReshapeTokensToImage(),
        level(axes="b t n c", prefix=2, frames=3),
        "b t (h w) c -> b t c h w",
    ),
    "order": (composer.PermuteDims(new_order=(0, 2, 3, 1)), level(), "b c h w -> b h w c"),
    "mean of maps": (composer.AggregateTokens(), level(), "b c h w -> b c", "mean"),
    "mean of all tokens": (composer.AggregateTokens(), level(axes="b n c", prefix=0), "b n c -> b c", "mean"),
    "minimum without the prefix": (
        composer.AggregateTokens(pooling="min", drop_cls=True),
        level(axes="b n c", prefix=5),
        "b n c -> b c",
        "min",
    ),
    "maximum in each frame": (
        composer.AggregateTokens(pooling="max"),
        level(axes="b t c h w", frames=3),
        "b t c h w -> b t c",
        "max",
    ),
    "mean of frames": (composer.TemporalPooling(), level(axes="b c t h w", **FRAMES), "b c t h w -> b c h w", "mean"),
    "maximum of frames": (
        composer.TemporalPooling(pooling="max"),
        level(axes="b t c", stride=None, **FRAMES),
        "b t c -> b c",
        "max",
    ),
    "frames side by side": (
        composer.TemporalPooling(pooling="concat"),
        level(axes="b t h w c", **FRAMES),
        "b t h w c -> b h w (t c)",
    ),
}


@pytest.mark.parametrize("case", PATTERNS.values(), ids=PATTERNS)
def test_a_layout_is_that_of_einops(case):
    neck, feature, pattern, *reduction = case

    ((x,),), (y,) = feed(neck, (feature,))

    drops = feature.prefix and ("h w" in pattern or getattr(neck, "drop_cls", False))
    cells = x[..., feature.prefix :, :] if drops else x
    sizes = GRID if "(h w)" in pattern or "(t h w)" in pattern else {}
    assert torch.allclose(
        y, reduce(cells, pattern, *reduction, **sizes) if reduction else rearrange(cells, pattern, **sizes)
    )


@pytest.mark.parametrize(("pooling", "position"), [("cls", 0), (4, 4)])
def test_a_token_of_the_prefix_is_taken_as_it_is(pooling, position):
    ((x,),), (y,) = feed(composer.AggregateTokens(pooling=pooling), (level(axes="b n c", prefix=5),))

    assert torch.equal(y, x[:, position])


def test_one_vector_for_each_index():
    (x,), (last, first) = feed(composer.AggregateTokens(indices=[-1, 0], pooling="max"), PYRAMID)

    assert torch.equal(last, x[2].amax((2, 3)))
    assert torch.equal(first, x[0].amax((2, 3)))


@pytest.mark.parametrize("pooling", ["max", "min"])
def test_of_equal_tokens_one_has_the_gradient(pooling):
    x_BNC = torch.zeros(1, 24, 6, requires_grad=True)

    composer.module(composer.AggregateTokens(pooling=pooling), (level(axes="b n c"),))([x_BNC])[0].sum().backward()

    assert sorted(x_BNC.grad[0, :, 0].tolist()) == [0] * 23 + [1]


SUBSETS = {"mean": lambda one, other: (one + other) / 2, "diff": torch.sub, "keep": lambda *each: torch.stack(each, 1)}


@pytest.mark.parametrize("pooling", SUBSETS)
def test_subsets_of_frames_are_averaged_first(pooling):
    neck = composer.TemporalPooling(pooling=pooling, subset_lengths=[2, 3])

    ((x,),), (y,) = feed(neck, (level(axes="b t n c", prefix=2, **FRAMES),))

    torch.testing.assert_close(y, SUBSETS[pooling](x[:, :2].mean(1), x[:, 2:].mean(1)))


def test_select_gives_the_tensors_themselves_in_the_order_asked_for():
    (x,), y = feed(composer.SelectIndices(indices=(1, 0, -1, 1)), PYRAMID)

    assert [id(one) for one in y] == [id(x[place]) for place in (1, 0, 2, 1)]


JOINS = {
    "maps": (composer.ConcatFeatures(), "b c h w", lambda xs: torch.cat(xs, 1)),
    "tokens": (composer.ConcatFeatures(), "b n c", lambda xs: torch.cat(xs, 2)),
    "maps of frames": (composer.ConcatFeatures(), "b t c h w", lambda xs: torch.cat(xs, 2)),
    "sum": (composer.AddFeatures(), "b c h w", sum),
}


@pytest.mark.parametrize(("neck", "axes", "join"), JOINS.values(), ids=JOINS)
def test_branches_are_joined_level_by_level(neck, axes, join):
    x, y = feed(neck, *[(level(axes=axes), level(axes=axes, stride=8))] * 3)

    torch.testing.assert_close(list(y), [join(one) for one in zip(*x, strict=True)])


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area", "bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [1, 3])
def test_interpolation_is_torchs(mode, factor):
    (x,), y = feed(composer.InterpolateToPyramidal(scale_factor=factor, mode=mode), PYRAMID)

    sizes = [[side * factor**power for side in one.shape[2:]] for one, power in zip(x, (3, 2, 1), strict=True)]
    expected = [F.interpolate(one, size, mode=mode) for one, size in zip(x, sizes, strict=True)]
    torch.testing.assert_close(list(y), expected)


def test_maxpool_rounds_down():
    (x,), y = feed(composer.MaxpoolToPyramidal(kernel_size=3), (level(stride=4),) * 3)

    assert [torch.equal(y[power], F.max_pool2d(x[power], 3**power)) for power in range(3)] == [True] * 3


def test_a_class_that_is_not_registered_says_what_to_do():
    class Doubler:
        pass

    with pytest.raises(TypeError) as caught:
        composer.module(Doubler(), ())

    assert str(caught.value) == "Doubler has no module. Register one: @composer.module.register(Doubler)"
