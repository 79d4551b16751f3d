"""The heads of atrous spatial pyramid pooling against their formula. B batch, C channels, H and W cells."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from composer.layouts import Feature
from composer.modules.base import module
from composer.parts import ASPPRegressionHead, ASPPSegmentationHead

PYRAMID = (Feature(channels=4, stride=8), Feature(channels=6, stride=16), Feature(channels=8, stride=32))
HEADS = {"segmentation": (ASPPSegmentationHead, "conv_seg"), "regression": (ASPPRegressionHead, "conv_reg")}
OUTPUTS = {ASPPSegmentationHead: "num_classes", ASPPRegressionHead: "out_channels"}


@pytest.fixture(autouse=True)
def exact():
    """Double precision, so that two ways to compute a thing agree."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def made(part, features=PYRAMID) -> nn.Module:
    """The module in eval mode with the same weights each time, and norms that have seen something."""
    torch.manual_seed(0)
    head = module(part, features).eval()
    for layer in head.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    return head


def fed(height=256, width=384) -> list[Tensor]:
    return [torch.randn(f.shape(2, height, width)) for f in PYRAMID]


def convolved(x_BCHW: Tensor, block: nn.Module, dilation: int = 1) -> Tensor:
    """A convolution that keeps the grid, a norm, ReLU."""
    reach = dilation * (block.conv.weight.shape[-1] // 2)
    y = F.conv2d(F.pad(x_BCHW, [reach] * 4), block.conv.weight, dilation=dilation)
    mean, variance, weight, bias = (
        value.view(1, -1, 1, 1)
        for value in (block.norm.running_mean, block.norm.running_var, block.norm.weight, block.norm.bias)
    )
    return ((y - mean) / (variance + 1e-5).sqrt() * weight + bias).clamp(min=0)


def aspp(head: nn.Module, x_BCHW: Tensor, dilations: tuple[int, ...], last: str) -> Tensor:
    mean = convolved(x_BCHW.mean((2, 3), keepdim=True), head.image_pool[1])
    everywhere = F.interpolate(mean, x_BCHW.shape[2:], mode="bilinear", align_corners=False)
    branches = [
        convolved(x_BCHW, branch, dilation)
        for branch, dilation in zip(head.aspp_modules.model_sequence, dilations, strict=True)
    ]
    fused = convolved(torch.cat([everywhere, *branches], 1), head.bottleneck)
    layer = getattr(head, last)
    return F.conv2d(fused, layer.weight, layer.bias)


@pytest.mark.parametrize("dilations", [(1, 6, 12, 18), (2,), (1,), ()], ids=str)
@pytest.mark.parametrize(("part_class", "last"), HEADS.values(), ids=HEADS)
def test_is_its_formula(part_class, last, dilations):
    head = made(part_class(channels=5, dilations=dilations, in_index=1, **{OUTPUTS[part_class]: 3}))
    given = fed()

    (y_BCHW,) = head(given)

    assert y_BCHW.shape == (2, 3, 16, 24)
    torch.testing.assert_close(y_BCHW, aspp(head, given[1], dilations, last))


@pytest.mark.parametrize("align", [True, False], ids=["aligned", "half-pixel"])
@pytest.mark.parametrize("positions", [(0, 2), (2, 0, 1), (1,), (-1, -1)], ids=str)
@pytest.mark.parametrize(("part_class", "last"), HEADS.values(), ids=HEADS)
def test_several_maps_are_brought_to_the_grid_of_the_first(part_class, last, positions, align):
    part = part_class(channels=5, in_index=positions, input_transform="resize_concat", align_corners=align)
    head, given = made(part), fed()

    (y_BCHW,) = head(given)

    like = given[positions[0]]
    maps = [F.interpolate(given[i], like.shape[2:], mode="bilinear", align_corners=align) for i in positions]
    torch.testing.assert_close(y_BCHW, aspp(head, torch.cat(maps, 1), (1, 6, 12, 18), last))


def test_a_dilation_of_one_looks_at_one_cell_and_others_at_nine():
    """As in TerraTorch; and the block that fuses the branches looks at nine."""
    head = made(ASPPSegmentationHead(channels=5, dilations=(1, 2, 6)))

    kernels = [branch.conv.kernel_size for branch in head.aspp_modules.model_sequence]

    assert kernels == [(1, 1), (3, 3), (3, 3)]
    assert (head.image_pool[1].conv.kernel_size, head.bottleneck.conv.kernel_size) == ((1, 1), (3, 3))


@pytest.mark.parametrize("part_class", [part_class for part_class, _ in HEADS.values()], ids=HEADS)
def test_dropout_takes_whole_channels_in_training_only(part_class):
    head = made(part_class(channels=64, head_dropout_ratio=0.5))

    assert torch.equal(head.dropout(torch.ones(1, 64, 8, 8)), torch.ones(1, 64, 8, 8))
    head.dropout.train()
    assert set(head.dropout(torch.ones(1, 64, 8, 8)).sum((2, 3)).unique().tolist()) == {0.0, 128.0}


@pytest.mark.parametrize("part_class", [part_class for part_class, _ in HEADS.values()], ids=HEADS)
def test_without_dropout_nothing_is_random_in_training(part_class):
    head = made(part_class(channels=5, head_dropout_ratio=0)).train()
    given = fed()

    assert torch.equal(head(given)[0], head(given)[0])


def names(last: str) -> set[str]:
    places = ["image_pool.1", "bottleneck", *(f"aspp_modules.model_sequence.{branch}" for branch in range(2))]
    norms = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked")
    return {f"{place}.{name}" for place in places for name in ("conv.weight", *norms)} | {
        f"{last}.weight",
        f"{last}.bias",
    }


@pytest.mark.parametrize(("part_class", "last"), HEADS.values(), ids=HEADS)
def test_weights_have_published_names(part_class, last):
    assert set(made(part_class(channels=5, dilations=(1, 6))).state_dict()) == names(last)
