"""The modules of heads against formulas written out. B batch, C channels, H and W cells."""

import pytest
import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from composer.parts import ClassificationHead, RegressionHead, ScalarHead, SegmentationHead
from tests.modules.formulas import build, draw, level, mix, normalise, vector

pytestmark = pytest.mark.usefixtures("exact")

MAP = (level(6, 4),)
VEC = (vector(6),)


def test_dropout_of_a_segmentation_drops_values_and_that_of_a_regression_channels():
    segmentation = build(SegmentationHead(num_classes=1, dropout=0.5), MAP).train()
    regression = build(RegressionHead(dropout=0.5), MAP).train()

    assert segmentation.head[1](torch.ones(1, 4, 8, 8))[0].sum((1, 2)).unique().numel() > 2
    assert set(regression.head[0](torch.ones(1, 64, 8, 8)).sum((2, 3)).unique().tolist()) == {0.0, 128.0}


def around(x_BCHW: Tensor, layer: nn.Conv2d) -> Tensor:
    """A 3 × 3 convolution: each cell and its neighbours, zeros beyond the edge."""
    _, _, height, width = x_BCHW.shape
    neighbours = F.unfold(x_BCHW, 3, padding=1)
    y = torch.einsum("bkn,ok->bon", neighbours, layer.weight.flatten(1)).unflatten(2, (height, width))
    return y if layer.bias is None else y + layer.bias.view(1, -1, 1, 1)


def test_segmentation_convolves_to_each_width_first():
    head, x_BCHW = build(SegmentationHead(num_classes=3, channel_list=(5, 4), dropout=0.5), MAP), draw(MAP)[0]

    (y_BCHW,) = head([x_BCHW])

    first = around(x_BCHW, head.head[0][0][0]).clamp(min=0)
    second = around(first, head.head[0][1][0]).clamp(min=0)
    torch.testing.assert_close(y_BCHW, mix(second, head.head[2]))


def test_segmentation_normalises_each_convolution_where_it_is_told_to():
    head, x_BCHW = build(SegmentationHead(num_classes=3, channel_list=(5,), batch_norm=True), MAP), draw(MAP)[0]

    (y_BCHW,) = head([x_BCHW])

    convolved = normalise(around(x_BCHW, head.head[0][0][0]), head.head[0][0][1]).clamp(min=0)
    torch.testing.assert_close(y_BCHW, mix(convolved, head.head[2]))


def stretch(length: int, factor: int) -> Tensor:
    """A matrix that enlarges a line of cells, with the centres of its ends where they were."""
    position = torch.arange(length * factor) * (length - 1) / (length * factor - 1)
    return (1 - (position[:, None] - torch.arange(length)).abs()).clamp(min=0)


def test_segmentation_enlarges_its_scores_and_then_activates_them():
    part = SegmentationHead(num_classes=3, kernel_size=3, upsampling=3, final_act="Softmax")
    head, x_BCHW = build(part, MAP), draw(MAP)[0]

    (y_BCHW,) = head([x_BCHW])

    rows, columns = (stretch(side, 3) for side in x_BCHW.shape[-2:])
    enlarged = torch.einsum("ih,bchw,jw->bcij", rows, around(x_BCHW, head.head[2]), columns)
    torch.testing.assert_close(y_BCHW, torch.exp(enlarged) / torch.exp(enlarged).sum(1, keepdim=True))


def test_regression_with_all_of_it_is_its_formula():
    part = RegressionHead(num_outputs=2, learned_upscale_layers=1, channel_list=(5,), dropout=0.5)
    head, x_BCHW = build(part, MAP), draw(MAP)[0]

    (y_BCHW,) = head([x_BCHW])

    doubling = head.head[0][0]
    shuffled = rearrange(around(x_BCHW, doubling.conv), "b (c i j) h w -> b c (h i) (w j)", i=2, j=2)
    upscaled = normalise(shuffled, doubling.bn).clamp(min=0)
    convolved = normalise(around(upscaled, head.head[1][0][0]), head.head[1][0][1]).clamp(min=0)
    torch.testing.assert_close(y_BCHW, mix(convolved, head.head[3]))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        pytest.param(None, lambda x: x, id="none"),
        pytest.param("GELU", lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2, id="GELU"),
        pytest.param("Tanh", lambda x: 1 - 2 / (torch.exp(2 * x) + 1), id="Tanh"),
        pytest.param("Softmax", lambda x: torch.exp(x) / torch.exp(x).sum(1, keepdim=True), id="Softmax"),
        pytest.param("LogSoftmax", lambda x: x - torch.exp(x).sum(1, keepdim=True).log(), id="LogSoftmax"),
    ],
)
def test_final_activation(name, formula):
    head, x_BCHW = build(RegressionHead(num_outputs=3, final_act=name), MAP), 3 * draw(MAP)[0]

    (y_BCHW,) = head([x_BCHW])

    torch.testing.assert_close(y_BCHW, formula(mix(x_BCHW, head.head[1])))


def dense(x: Tensor, layer: nn.Linear) -> Tensor:
    return torch.einsum("...c,oc->...o", x, layer.weight) + layer.bias


def perceptron(x: Tensor, head: nn.Module) -> Tensor:
    """Over the last axis: the linear layers of `dim_list` with ReLU, then the last one."""
    for block in head.head[0]:
        x = dense(x, block[0]).clamp(min=0)
    return dense(x, head.head[2])


@pytest.mark.parametrize("widths", [None, (5,), (5, 4)], ids=["none", "5", "5-4"])
@pytest.mark.parametrize("dropout", [0, 0.5], ids=["no-dropout", "dropout"])
def test_classification_is_the_mean_of_what_each_cell_says(widths, dropout):
    head, x_BCHW = build(ClassificationHead(num_classes=3, dim_list=widths, dropout=dropout), MAP), draw(MAP)[0]

    (y_BC,) = head([x_BCHW])

    each = perceptron(rearrange(x_BCHW, "b c h w -> b h w c"), head)
    torch.testing.assert_close(y_BC, reduce(each, "b h w c -> b c", "mean"))


@pytest.mark.parametrize("widths", [None, (5,)], ids=["none", "5"])
def test_classification_may_take_the_mean_first(widths):
    head, x_BCHW = build(ClassificationHead(num_classes=3, dim_list=widths, linear_after_pool=True), MAP), draw(MAP)[0]

    (y_BC,) = head([x_BCHW])

    torch.testing.assert_close(y_BC, perceptron(reduce(x_BCHW, "b c h w -> b c", "mean"), head))


@pytest.mark.parametrize("pool_first", [False, True], ids=["pool-last", "pool-first"])
def test_classification_may_take_the_maximum_and_activates_it(pool_first):
    part = ClassificationHead(num_classes=3, linear_after_pool=pool_first, pooling="max", final_act="Sigmoid")
    head, x_BCHW = build(part, MAP), draw(MAP)[0]

    (y_BC,) = head([x_BCHW])

    each = rearrange(x_BCHW, "b c h w -> b (h w) c")
    highest = perceptron(each.amax(1), head) if pool_first else perceptron(each, head).amax(1)
    torch.testing.assert_close(y_BC, 1 / (1 + torch.exp(-highest)))


@pytest.mark.parametrize("pool_first", [False, True], ids=["pool-last", "pool-first"])
def test_a_vector_has_one_position(pool_first):
    head = build(ClassificationHead(num_classes=3, dim_list=(5,), linear_after_pool=pool_first), VEC)
    x_BC = draw(VEC)[0]

    (y_BC,) = head([x_BC])

    torch.testing.assert_close(y_BC, perceptron(x_BC, head))


@pytest.mark.parametrize("dropout", [0, 0.5], ids=["no-dropout", "dropout"])
def test_dropout_is_drawn_for_each_cell_and_not_for_their_mean(dropout):
    """With many equal cells the mean of their dropouts is nearly the truth; dropout of their mean would be far off."""
    head = build(ClassificationHead(num_classes=3, dropout=dropout), MAP).train()
    x_BCHW = torch.ones(1, 6, 64, 64)

    (y_BC,) = head([x_BCHW])

    torch.testing.assert_close(y_BC, perceptron(torch.ones(1, 6), head), rtol=0, atol=0.05)


@pytest.mark.parametrize("fields", [{}, {"dim_list": (5,)}, {"linear_after_pool": True}], ids=str)
@pytest.mark.parametrize("features", [MAP, VEC], ids=["map", "vector"])
def test_numbers_are_computed_as_scores_are(features, fields):
    """One class in TerraTorch, and one module here."""
    scores, numbers = (
        build(part, features)
        for part in (ClassificationHead(num_classes=3, **fields), ScalarHead(num_outputs=3, **fields))
    )
    x = draw(features)[0]

    assert torch.equal(numbers([x])[0], scores([x])[0])
