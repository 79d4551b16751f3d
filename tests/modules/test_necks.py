"""The modules of necks against formulas written out. B batch, C channels, H and W cells, N tokens, T frames."""

import math
from fractions import Fraction

import pytest
import torch
from einops import rearrange, reduce, repeat
from torch import nn
from torch.nn import functional as F

from composer.layouts import CHANNELS_LAST, VECTOR
from composer.modules.base import module
from composer.parts import (
    AddBottleneckLayer,
    AddFeatures,
    ConcatFeatures,
    InterpolateToPyramidal,
    LearnedInterpolateToPyramidal,
    MaxpoolToPyramidal,
    PermuteDims,
    ReshapeTokensToImage,
    SelectIndices,
)
from tests.modules.formulas import FOUR, HEIGHT, PYRAMID, WIDTH, build, draw, enlarge, level, tokens

pytestmark = pytest.mark.usefixtures("exact")


@pytest.mark.parametrize("frames", [1, 3], ids=["1-frame", "3-frames"])
@pytest.mark.parametrize("prefix", [0, 1, 5], ids=["no-prefix", "1-prefix", "5-prefix"])
@pytest.mark.parametrize("grid", [(4, 16), (9, 16), (1, 1)], ids=["4x16", "9x16", "1x1"])
def test_a_bright_patch_stays_where_it_is(grid, prefix, frames):
    (rows, columns), (row, column) = grid, (grid[0] // 2, grid[1] - 1)
    film_TCHW = torch.zeros(frames, 1, 16 * rows, 16 * columns)
    film_TCHW[-1, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 1
    cells_TCHW = F.avg_pool2d(film_TCHW, 16) * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    grid_BNC = rearrange(cells_TCHW, "t c h w -> 1 (t h w) c")
    x_BNC = torch.cat([torch.full((1, prefix, 2), -7.0), grid_BNC], dim=1)

    neck = build(ReshapeTokensToImage(), (tokens(2, prefix=prefix, frames=frames),))
    (y_BCHW,) = neck([x_BNC], image_size=(16 * rows, 16 * columns))

    assert torch.equal(y_BCHW, rearrange(cells_TCHW, "t c h w -> 1 (t c) h w"))
    assert y_BCHW.nonzero().tolist() == [[0, 2 * frames - 2, row, column], [0, 2 * frames - 1, row, column]]


def test_a_stride_may_be_a_ratio():
    neck = build(ReshapeTokensToImage(), (tokens(3, stride=Fraction(3, 2)),))
    x_BNC = torch.randn(1, 4 * 6, 3)

    (y_BCHW,) = neck([x_BNC], image_size=(6, 9))

    assert torch.equal(y_BCHW, rearrange(x_BNC, "b (h w) c -> b c h w", h=4))


def test_maps_pass_through_a_reshape_untouched():
    neck = build(ReshapeTokensToImage(), (level(3), tokens(3, prefix=1)))
    x_BCHW = torch.randn(1, 3, 2, 3)

    given = neck([x_BCHW, torch.randn(1, 7, 3)], image_size=(32, 48))

    assert given[0] is x_BCHW
    assert given[1].shape == (1, 3, 2, 3)


def test_stated_frames_and_a_prefix_that_is_not_there_are_no_trouble():
    part = ReshapeTokensToImage(remove_cls_token=False, effective_time_dim=2)
    x_BNC = torch.randn(2, 2 * 4 * 6, 6)

    (y_BCHW,) = build(part, (tokens(frames=2),))([x_BNC], image_size=(HEIGHT, WIDTH))

    assert torch.equal(y_BCHW, rearrange(x_BNC, "b (t h w) c -> b (t c) h w", t=2, h=4))


def test_select_gives_the_tensors_themselves_in_the_order_asked_for():
    features = draw(PYRAMID)

    given = build(SelectIndices(indices=(1, 0, -1, 1)), PYRAMID)(features)

    assert [id(x) for x in given] == [id(features[place]) for place in (1, 0, 2, 1)]


def test_permute_moves_axes_and_leaves_them_contiguous():
    features = draw(PYRAMID)

    given = build(PermuteDims(new_order=(0, 2, 3, 1)), PYRAMID)(features)

    assert all(torch.equal(y, rearrange(x, "b c h w -> b h w c")) for x, y in zip(features, given, strict=True))
    assert all(y.is_contiguous() for y in given)


def test_bottleneck_appends_a_mix_of_the_last_map():
    neck = build(AddBottleneckLayer(), PYRAMID)
    features = draw(PYRAMID)

    *passed, appended_BCHW = neck(features)

    weight_OC = neck.bottleneck.weight[:, :, 0, 0]
    expected_BOHW = torch.einsum("bchw,oc->bohw", features[-1], weight_OC) + neck.bottleneck.bias.view(1, -1, 1, 1)
    assert [id(x) for x in passed] == [id(x) for x in features]
    torch.testing.assert_close(appended_BCHW, expected_BOHW)


@pytest.mark.parametrize(
    ("features", "axis"),
    [
        pytest.param(level(), 1, id="map"),
        pytest.param(level(axes=CHANNELS_LAST), 3, id="channels-last"),
        pytest.param(tokens(prefix=1), 2, id="tokens"),
        pytest.param(level(axes=VECTOR, stride=None), 1, id="vector"),
        pytest.param(level(axes="b t c h w", frames=2), 2, id="per-frame"),
    ],
)
def test_concat_joins_along_the_channels(features, axis):
    (left,), (middle,), (right,) = draw([features]), draw([features]), draw([features])
    neck = build(ConcatFeatures(), (features,), (features,), (features,))

    (joined,) = neck([left], [middle], [right])

    assert all(torch.equal(x, y) for x, y in zip(joined.chunk(3, dim=axis), (left, middle, right), strict=True))


def test_add_adds_up_level_by_level():
    branches = [[torch.full((1, 2, 1, 1), 10.0**place), torch.full((1, 2), 2 * 10.0**place)] for place in range(3)]

    given = build(AddFeatures(), *[(level(2), level(2, None, VECTOR))] * 3)(*branches)

    assert [x.unique().tolist() for x in given] == [[111.0], [222.0]]


@pytest.mark.parametrize("factor", [1, 2, 3], ids=["x1", "x2", "x3"])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area"])
def test_interpolation_that_repeats_cells(mode, factor):
    features = draw(PYRAMID)

    given = build(InterpolateToPyramidal(scale_factor=factor, mode=mode), PYRAMID)(features)

    grown = zip(features, (factor**3, factor**2, factor), strict=True)
    assert [x.shape for x in given] == [(2, x.shape[1], x.shape[2] * f, x.shape[3] * f) for x, f in grown]
    last_BCHW = repeat(features[-1], "b c h w -> b c (h i) (w j)", i=factor, j=factor)
    first_BCHW = repeat(features[0], "b c h w -> b c (h i) (w j)", i=factor**3, j=factor**3)
    torch.testing.assert_close((given[0], given[-1]), (first_BCHW, last_BCHW))


@pytest.mark.parametrize("factor", [2, 3], ids=["x2", "x3"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_interpolation_that_blends_cells(mode, factor):
    x_BCHW = torch.randn(2, 3, 4, 5)

    (y_BCHW,) = build(InterpolateToPyramidal(scale_factor=factor, mode=mode), (level(3),))([x_BCHW])

    torch.testing.assert_close(y_BCHW, F.interpolate(x_BCHW, size=(4 * factor, 5 * factor), mode=mode))


@pytest.mark.parametrize("kernel", [1, 2, 3], ids=["1", "2", "3"])
def test_maxpool_rounds_down(kernel):
    features = draw(FOUR[:3], 16 * 11, 16 * 20)

    given = build(MaxpoolToPyramidal(kernel_size=kernel), FOUR[:3])(features)

    side = kernel**2
    whole_BCHW = features[2][:, :, : 11 // side * side, : 20 // side * side]
    assert given[0] is features[0]
    assert torch.equal(given[2], reduce(whole_BCHW, "b c (h i) (w j) -> b c h w", "max", i=side, j=side))


def test_learned_pyramid_is_its_formula():
    neck = build(LearnedInterpolateToPyramidal(), FOUR)
    norm = neck.fpn1[1]
    nn.init.uniform_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.uniform_(norm.weight)
    features = draw(FOUR)

    given = neck(features)

    mean, scale = norm.running_mean.view(1, -1, 1, 1), norm.weight / (norm.running_var + 1e-5).sqrt()
    normed = (enlarge(features[0], neck.fpn1[0]) - mean) * scale.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    gelu = normed * 0.5 * (1 + torch.erf(normed / math.sqrt(2)))
    torch.testing.assert_close(given[0], enlarge(gelu, neck.fpn1[3]))
    torch.testing.assert_close(given[1], enlarge(features[1], neck.fpn2[0]))
    assert given[2] is features[2]
    assert torch.equal(given[3], reduce(features[3], "b c (h i) (w j) -> b c h w", "max", i=2, j=2))


def test_a_class_that_is_not_registered_says_what_to_do():
    class Doubler:
        pass

    with pytest.raises(TypeError) as caught:
        module(Doubler(), ())

    assert str(caught.value) == "Doubler has no module. Register one: @composer.module.register(Doubler)"
