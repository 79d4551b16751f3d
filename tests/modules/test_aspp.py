"""The heads of atrous spatial pyramid pooling against their formula. B batch, C channels, H and W cells."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from composer.parts import ASPPRegressionHead, ASPPSegmentationHead
from tests.modules.formulas import PYRAMID, build, convolve, draw

pytestmark = pytest.mark.usefixtures("exact")

HEADS = {"segmentation": (ASPPSegmentationHead, "conv_seg"), "regression": (ASPPRegressionHead, "conv_reg")}
OUTPUTS = {ASPPSegmentationHead: "num_classes", ASPPRegressionHead: "out_channels"}


def aspp(head: nn.Module, x_BCHW: Tensor, dilations: tuple[int, ...], last: str) -> Tensor:
    mean = convolve(x_BCHW.mean((2, 3), keepdim=True), head.image_pool[1])
    everywhere = F.interpolate(mean, x_BCHW.shape[2:], mode="bilinear", align_corners=False)
    branches = [
        convolve(x_BCHW, branch, dilation)
        for branch, dilation in zip(head.aspp_modules.model_sequence, dilations, strict=True)
    ]
    fused = convolve(torch.cat([everywhere, *branches], 1), head.bottleneck)
    layer = getattr(head, last)
    return F.conv2d(fused, layer.weight, layer.bias)


@pytest.mark.parametrize("dilations", [(1, 6, 12, 18), (2,), (1,), ()], ids=str)
@pytest.mark.parametrize(("part_class", "last"), HEADS.values(), ids=HEADS)
def test_is_its_formula(part_class, last, dilations):
    head = build(part_class(channels=5, dilations=dilations, in_index=1, **{OUTPUTS[part_class]: 3}), PYRAMID)
    given = draw(PYRAMID, 256, 384)

    (y_BCHW,) = head(given)

    assert y_BCHW.shape == (2, 3, 16, 24)
    torch.testing.assert_close(y_BCHW, aspp(head, given[1], dilations, last))


@pytest.mark.parametrize("align", [True, False], ids=["aligned", "half-pixel"])
@pytest.mark.parametrize("positions", [(0, 2), (2, 0, 1), (1,), (-1, -1)], ids=str)
@pytest.mark.parametrize(("part_class", "last"), HEADS.values(), ids=HEADS)
def test_several_maps_are_brought_to_the_grid_of_the_first(part_class, last, positions, align):
    part = part_class(channels=5, in_index=positions, input_transform="resize_concat", align_corners=align)
    head, given = build(part, PYRAMID), draw(PYRAMID, 256, 384)

    (y_BCHW,) = head(given)

    like = given[positions[0]]
    maps = [F.interpolate(given[i], like.shape[2:], mode="bilinear", align_corners=align) for i in positions]
    torch.testing.assert_close(y_BCHW, aspp(head, torch.cat(maps, 1), (1, 6, 12, 18), last))


def test_a_dilation_of_one_looks_at_one_cell_and_others_at_nine():
    """As in TerraTorch; and the block that fuses the branches looks at nine."""
    head = build(ASPPSegmentationHead(channels=5, dilations=(1, 2, 6)), PYRAMID)

    kernels = [branch.conv.kernel_size for branch in head.aspp_modules.model_sequence]

    assert kernels == [(1, 1), (3, 3), (3, 3)]
    assert (head.image_pool[1].conv.kernel_size, head.bottleneck.conv.kernel_size) == ((1, 1), (3, 3))


@pytest.mark.parametrize("part_class", [part_class for part_class, _ in HEADS.values()], ids=HEADS)
def test_dropout_takes_whole_channels_in_training_only(part_class):
    head = build(part_class(channels=64, head_dropout_ratio=0.5), PYRAMID)

    assert torch.equal(head.dropout(torch.ones(1, 64, 8, 8)), torch.ones(1, 64, 8, 8))
    head.dropout.train()
    assert set(head.dropout(torch.ones(1, 64, 8, 8)).sum((2, 3)).unique().tolist()) == {0.0, 128.0}
