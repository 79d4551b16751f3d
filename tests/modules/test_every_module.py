"""What holds for the modules of all built-in parts: names of weights, modes, gradients, and exports of any size."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from composer.layouts import MAP as MAP_AXES
from composer.layouts import VECTOR
from composer.parts import (
    AddBottleneckLayer,
    AddFeatures,
    AggregateTokens,
    ASPPRegressionHead,
    ASPPSegmentationHead,
    ClassificationHead,
    ConcatFeatures,
    FCNDecoder,
    FeaturePyramidNetworkNeck,
    IdentityDecoder,
    InterpolateToPyramidal,
    LearnedInterpolateToPyramidal,
    LinearDecoder,
    MaxpoolToPyramidal,
    MLPDecoder,
    PermuteDims,
    RegressionHead,
    ReshapeTokensToImage,
    ScalarHead,
    SegmentationHead,
    SelectIndices,
    UNetDecoder,
    UperNetDecoder,
)
from tests.modules.formulas import ALIKE, FOUR, PYRAMID, WITH_BOTTLENECK, build, call, draw, level, tokens, vector

pytestmark = pytest.mark.usefixtures("exact")

MAP = (level(6, 4),)
VEC = (vector(6),)

CASES = [
    pytest.param(SelectIndices(indices=(2, 0, -1)), (PYRAMID,), id="select"),
    pytest.param(PermuteDims(new_order=(0, 2, 3, 1)), (PYRAMID,), id="permute"),
    pytest.param(InterpolateToPyramidal(), (PYRAMID,), id="interpolate"),
    pytest.param(InterpolateToPyramidal(scale_factor=1), (PYRAMID,), id="interpolate-by-one"),
    pytest.param(InterpolateToPyramidal(mode="bilinear"), (PYRAMID,), id="bilinear"),
    pytest.param(MaxpoolToPyramidal(), (ALIKE,), id="maxpool"),
    pytest.param(ReshapeTokensToImage(), ((tokens(prefix=5, frames=3), level()),), id="reshape"),
    pytest.param(AddBottleneckLayer(), (PYRAMID,), id="bottleneck"),
    pytest.param(LearnedInterpolateToPyramidal(), (FOUR,), id="learned"),
    pytest.param(FeaturePyramidNetworkNeck(out_channel=5), (PYRAMID,), id="fpn"),
    pytest.param(AggregateTokens(indices=[0, 1], drop_cls=True), ((tokens(prefix=5), tokens(prefix=1)),), id="mean"),
    pytest.param(AggregateTokens(pooling="cls", indices=[0, 1]), ((tokens(prefix=5), tokens(prefix=1)),), id="cls"),
    pytest.param(AggregateTokens(pooling="max", indices=[0, 1, 2]), (PYRAMID,), id="max-of-maps"),
    pytest.param(ConcatFeatures(), (PYRAMID, PYRAMID, PYRAMID), id="concat"),
    pytest.param(AddFeatures(), (PYRAMID, PYRAMID, PYRAMID), id="add"),
    pytest.param(IdentityDecoder(out_index=0), (PYRAMID,), id="identity"),
    pytest.param(LinearDecoder(num_classes=3, upsampling_size=4), (PYRAMID,), id="linear"),
    pytest.param(MLPDecoder(channels=7, out_dim=5), (ALIKE,), id="mlp"),
    pytest.param(MLPDecoder(channels=None, out_dim=None, activation="GELU"), (ALIKE,), id="mlp-hidden-only"),
    pytest.param(MLPDecoder(), ((vector(4), vector(6)),), id="mlp-vectors"),
    pytest.param(FCNDecoder(channels=5, num_convs=2), (PYRAMID,), id="fcn"),
    pytest.param(UNetDecoder(channels=(24, 20, 16)), (PYRAMID,), id="unet"),
    pytest.param(UNetDecoder(channels=(24, 20, 16, 8), use_batchnorm=False), (WITH_BOTTLENECK,), id="unet-bottleneck"),
    pytest.param(UNetDecoder(channels=(24, 20, 5), use_batchnorm="instancenorm"), (PYRAMID,), id="unet-instancenorm"),
    pytest.param(UNetDecoder(channels=(36, 20, 5), attention_type="scse"), (PYRAMID,), id="unet-scse"),
    pytest.param(UNetDecoder(channels=(8,)), (PYRAMID[:1],), id="unet-of-one"),
    pytest.param(UperNetDecoder(channels=5), (PYRAMID,), id="upernet"),
    pytest.param(UperNetDecoder(channels=5, align_corners=False), (ALIKE,), id="upernet-alike"),
    pytest.param(UperNetDecoder(channels=5, pool_scales=(2,)), (PYRAMID[:1],), id="upernet-of-one"),
    pytest.param(UperNetDecoder(channels=5, scale_modules=True), (FOUR,), id="upernet-scaled"),
    pytest.param(ASPPSegmentationHead(channels=5), (PYRAMID,), id="aspp"),
    pytest.param(
        ASPPRegressionHead(channels=5, in_index=[0, 2], input_transform="resize_concat"), (PYRAMID,), id="aspp-of-two"
    ),
    pytest.param(SegmentationHead(num_classes=3), (MAP,), id="segmentation"),
    pytest.param(SegmentationHead(num_classes=3, channel_list=(5, 4), dropout=0.5), (MAP,), id="segmentation-deep"),
    pytest.param(
        SegmentationHead(num_classes=3, channel_list=(5,), batch_norm=True, kernel_size=3, upsampling=2),
        (MAP,),
        id="segmentation-upsampled",
    ),
    pytest.param(RegressionHead(), (MAP,), id="regression"),
    pytest.param(
        RegressionHead(num_outputs=2, learned_upscale_layers=2, channel_list=(5, 4), dropout=0.5, final_act="Softplus"),
        (MAP,),
        id="regression-deep",
    ),
    pytest.param(
        RegressionHead(learned_upscale_layers=1, channel_list=(5,), batch_norm=False), (MAP,), id="regression-no-norm"
    ),
    pytest.param(ClassificationHead(num_classes=3), (MAP,), id="classification"),
    pytest.param(ClassificationHead(num_classes=3, dim_list=(5, 4), dropout=0.5), (MAP,), id="classification-deep"),
    pytest.param(
        ClassificationHead(num_classes=3, dim_list=(5,), linear_after_pool=True), (MAP,), id="classification-pool-first"
    ),
    pytest.param(
        ClassificationHead(num_classes=3, pooling="max", final_act="Sigmoid"), (MAP,), id="classification-of-the-max"
    ),
    pytest.param(ClassificationHead(num_classes=3, dim_list=(5,)), (VEC,), id="classification-of-a-vector"),
    pytest.param(ScalarHead(num_outputs=3, dim_list=(5, 4), dropout=0.5), (MAP,), id="scalar-deep"),
    pytest.param(ScalarHead(num_outputs=3), (VEC,), id="scalar-of-a-vector"),
]
WITH_DROPOUT = [case for case in CASES if case.id.endswith("deep")]


@pytest.mark.parametrize(("part", "inputs"), CASES)
def test_inputs_are_left_as_they_were_and_eval_changes_nothing(part, inputs):
    built = build(part, *inputs)
    state = {name: value.clone() for name, value in built.state_dict().items()}
    branches = [draw(features) for features in inputs]
    before = [x.clone() for branch in branches for x in branch]

    first, second = call(built, branches), call(built, [tuple(branch) for branch in branches])

    assert isinstance(first, tuple)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    assert all(torch.equal(value, state[name]) for name, value in built.state_dict().items())
    call(built.train(), branches)
    after = [x for branch in branches for x in branch]
    assert [x._version for x in after] == [0] * len(after)
    assert all(torch.equal(x, y) for x, y in zip(after, before, strict=True))


@pytest.mark.parametrize(("part", "inputs"), CASES)
def test_gradient_reaches_every_parameter(part, inputs, monkeypatch):
    # In nets as narrow as these a ReLU may be closed everywhere by chance.
    monkeypatch.setattr(nn.ReLU, "forward", lambda _, x: F.leaky_relu(x, 0.1))
    built = build(part, *inputs)

    outputs = call(built, [[x.requires_grad_() for x in draw(features)] for features in inputs])
    torch.cat([(x * torch.randn_like(x)).flatten() for x in outputs]).sum().backward()

    assert [name for name, p in built.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(("part", "inputs"), WITH_DROPOUT)
def test_dropout_acts_in_training_only(part, inputs):
    """The norms are left in eval mode, so that nothing but dropout is random."""
    head = build(part, *inputs)
    given = draw(inputs[0])
    (calm,) = head(given)
    (dropout,) = (layer for layer in head.modules() if isinstance(layer, nn.Dropout | nn.Dropout2d))

    dropout.train()
    (first,), (second,) = head(given), head(given)

    assert not torch.equal(first, second)
    assert not torch.equal(first, calm)


EXPORTED = "bilinear|reshape|fpn|mean|max-of-maps|unet-scse|upernet-scaled|aspp-of-two|.*n-deep"


class _OfOneImage(nn.Module):
    """A module fed with features that are all functions of one image, so that one image has one set of sizes."""

    def __init__(self, part, inputs):
        super().__init__()
        self.built = build(part, *inputs)
        self.inputs = inputs

    def forward(self, image_BCHW):
        branches = [[self._feature(f, image_BCHW) for f in features] for features in self.inputs]
        return call(self.built, branches, *image_BCHW.shape[-2:])

    def _feature(self, feature, image_BCHW):
        if feature.axes == VECTOR:
            return image_BCHW.mean((2, 3)).expand(-1, feature.channels)
        cells_BCHW = F.avg_pool2d(image_BCHW, int(feature.stride)).expand(-1, feature.channels, -1, -1)
        if feature.axes == MAP_AXES:
            return cells_BCHW
        grid_BNC = torch.cat([cells_BCHW.flatten(2).mT] * feature.frames, dim=1)
        return torch.cat([grid_BNC[:, : feature.prefix], grid_BNC], dim=1)


@pytest.mark.parametrize(("part", "inputs"), [case for case in CASES if re.fullmatch(EXPORTED, case.id)])
def test_height_and_width_stay_free_in_an_export(part, inputs):
    model = _OfOneImage(part, inputs)
    sides = {axis: 64 * torch.export.Dim(name, min=2, max=64) for axis, name in ((2, "h"), (3, "w"))}

    exported = torch.export.export(model, (torch.randn(2, 1, 128, 256),), dynamic_shapes=(sides,)).module()

    image_BCHW = torch.randn(2, 1, 192, 128)
    torch.testing.assert_close(exported(image_BCHW), model(image_BCHW))


def both(*places: str) -> set[str]:
    return {f"{place}.{name}" for place in places for name in ("weight", "bias")}


def norms(*places: str) -> set[str]:
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return both(*places) | {f"{place}.{name}" for place in places for name in statistics}


def convolutions(*places: str) -> set[str]:
    return {f"{place}.conv.weight" for place in places} | norms(*(f"{place}.norm" for place in places))


SCSE = [f"decoder.blocks.{block}.attention{which}.attention" for block, which in ((0, 1), (0, 2), (1, 2))]
UNET = [f"decoder.blocks.{block}.conv{which}" for block in (0, 1) for which in (1, 2)]


@pytest.mark.parametrize(
    ("part", "inputs", "names"),
    [
        pytest.param(
            UNetDecoder(channels=(8, 8), attention_type="scse"),
            (PYRAMID[:2],),
            {f"{place}.0.weight" for place in UNET}
            | norms(*(f"{place}.1" for place in UNET))
            | both(*(f"{place}.{layer}" for place in SCSE for layer in ("cSE.1", "cSE.3", "sSE.0"))),
            id="unet-scse",
        ),
        pytest.param(
            UperNetDecoder(pool_scales=(1,), scale_modules=True),
            (FOUR,),
            both("fpn1.0", "fpn1.3", "fpn2.0")
            | norms("fpn1.1")
            | convolutions("psp_modules.0.1", "bottleneck", "fpn_bottleneck")
            | convolutions(*(f"{name}_convs.{level}" for name in ("lateral", "fpn") for level in range(3))),
            id="upernet-scaled",
        ),
        pytest.param(
            ASPPRegressionHead(channels=5, dilations=(1, 6)),
            (PYRAMID,),
            convolutions("image_pool.1", "bottleneck", *(f"aspp_modules.model_sequence.{i}" for i in (0, 1)))
            | both("conv_reg"),
            id="aspp",
        ),
        pytest.param(
            RegressionHead(learned_upscale_layers=1, channel_list=(5,)),
            (MAP,),
            both("head.0.0.conv", "head.3") | {"head.1.0.0.weight"} | norms("head.0.0.bn", "head.1.0.1"),
            id="regression",
        ),
    ],
)
def test_weights_have_published_names(part, inputs, names):
    """The names of the other parts are recorded in tests/golden."""
    assert set(build(part, *inputs).state_dict()) == names
