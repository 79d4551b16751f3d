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


def parameters(place: str, *suffixes: str) -> set[str]:
    return {f"{place}.{suffix}" for suffix in suffixes}


def norm(place: str) -> set[str]:
    return parameters(place, "weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def scse(place: str) -> set[str]:
    return {name for layer in ("cSE.1", "cSE.3", "sSE.0") for name in parameters(f"{place}.{layer}", "weight", "bias")}


def union(*sets: set[str]) -> set[str]:
    return set().union(*sets)


def unet_block(block: int) -> set[str]:
    places = [f"decoder.blocks.{block}.conv{which}" for which in (1, 2)]
    return union(*({f"{place}.0.weight"} | norm(f"{place}.1") for place in places))


def upernet_convolutions(*places: str) -> set[str]:
    return union(*({f"{place}.conv.weight"} | norm(f"{place}.norm") for place in places))


def both(*places: str) -> set[str]:
    return {f"{place}.{name}" for place in places for name in ("weight", "bias")}


def aspp(last: str) -> set[str]:
    places = ("image_pool.1", "bottleneck", "aspp_modules.model_sequence.0", "aspp_modules.model_sequence.1")
    return upernet_convolutions(*places) | both(last)


@pytest.mark.parametrize(
    ("part", "inputs", "names"),
    [
        pytest.param(AddBottleneckLayer(), (FOUR,), {"bottleneck.weight", "bottleneck.bias"}, id="bottleneck"),
        pytest.param(
            LearnedInterpolateToPyramidal(),
            (FOUR,),
            {f"fpn1.{place}.{name}" for place in (0, 1, 3) for name in ("weight", "bias")}
            | {f"fpn1.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
            | {"fpn2.0.weight", "fpn2.0.bias"},
            id="learned",
        ),
        pytest.param(ReshapeTokensToImage(), ((tokens(),),), set(), id="reshape"),
        pytest.param(ConcatFeatures(), (PYRAMID, PYRAMID), set(), id="concat"),
        pytest.param(IdentityDecoder(), (PYRAMID,), set(), id="identity"),
        pytest.param(
            LinearDecoder(num_classes=3, upsampling_size=4),
            (PYRAMID,),
            parameters("conv", "weight", "bias"),
            id="linear",
        ),
        pytest.param(
            MLPDecoder(channels=None, out_dim=None), (ALIKE,), parameters("hidden_layer", "weight", "bias"), id="mlp"
        ),
        pytest.param(
            MLPDecoder(),
            (ALIKE,),
            parameters("hidden_layer", "weight", "bias") | parameters("output_layer", "weight", "bias"),
            id="mlp-with-output",
        ),
        pytest.param(
            FCNDecoder(num_convs=2),
            (PYRAMID,),
            union(*(parameters(f"convs.{i}.{j}", "weight", "bias") for i in (0, 1) for j in (0, 1, "2.ln"))),
            id="fcn",
        ),
        pytest.param(UNetDecoder(channels=(8, 8, 8)), (PYRAMID,), union(*map(unet_block, range(3))), id="unet"),
        pytest.param(
            UNetDecoder(channels=(8, 8), use_batchnorm="identity"),
            (PYRAMID[:2],),
            union(
                *(parameters(f"decoder.blocks.{i}.conv{j}.0", "weight", "bias") for i in (0, 1) for j in (1, 2)),
            ),
            id="unet-without-norm",
        ),
        pytest.param(
            UNetDecoder(channels=(8, 8), use_batchnorm="instancenorm"),
            (PYRAMID[:2],),
            {f"decoder.blocks.{i}.conv{j}.0.weight" for i in (0, 1) for j in (1, 2)},
            id="unet-instancenorm",
        ),
        pytest.param(
            UNetDecoder(channels=(8, 8), attention_type="scse"),
            (PYRAMID[:2],),
            union(
                unet_block(0),
                unet_block(1),
                scse("decoder.blocks.0.attention1.attention"),
                scse("decoder.blocks.0.attention2.attention"),
                scse("decoder.blocks.1.attention2.attention"),
            ),
            id="unet-scse",
        ),
        pytest.param(
            UperNetDecoder(pool_scales=(1, 2)),
            (PYRAMID,),
            upernet_convolutions(
                "psp_modules.0.1",
                "psp_modules.1.1",
                "bottleneck",
                "lateral_convs.0",
                "lateral_convs.1",
                "fpn_convs.0",
                "fpn_convs.1",
                "fpn_bottleneck",
            ),
            id="upernet",
        ),
        pytest.param(
            UperNetDecoder(pool_scales=(1,), scale_modules=True),
            (FOUR,),
            union(
                *(parameters(f"fpn1.{place}", "weight", "bias") for place in (0, 3)),
                norm("fpn1.1"),
                parameters("fpn2.0", "weight", "bias"),
                upernet_convolutions("psp_modules.0.1", "bottleneck", "fpn_bottleneck"),
                *(upernet_convolutions(f"lateral_convs.{level}", f"fpn_convs.{level}") for level in range(3)),
            ),
            id="upernet-scaled",
        ),
        pytest.param(SegmentationHead(num_classes=2), (MAP,), both("head.2"), id="segmentation"),
        pytest.param(
            SegmentationHead(num_classes=2, channel_list=(5, 4), dropout=0.1),
            (MAP,),
            both("head.0.0.0", "head.0.1.0", "head.2"),
            id="segmentation-deep",
        ),
        pytest.param(RegressionHead(), (MAP,), both("head.1"), id="regression"),
        pytest.param(RegressionHead(dropout=0.1), (MAP,), both("head.1"), id="regression-dropout"),
        pytest.param(
            RegressionHead(learned_upscale_layers=2),
            (MAP,),
            both("head.0.0.conv", "head.0.1.conv", "head.2") | norm("head.0.0.bn") | norm("head.0.1.bn"),
            id="regression-upscale",
        ),
        pytest.param(
            RegressionHead(channel_list=(5,)),
            (MAP,),
            {"head.0.0.0.weight"} | norm("head.0.0.1") | both("head.2"),
            id="regression-list",
        ),
        pytest.param(
            RegressionHead(learned_upscale_layers=1, channel_list=(5,)),
            (MAP,),
            both("head.0.0.conv", "head.3") | norm("head.0.0.bn") | {"head.1.0.0.weight"} | norm("head.1.0.1"),
            id="regression-upscale-list",
        ),
        pytest.param(
            RegressionHead(learned_upscale_layers=1, channel_list=(5,), batch_norm=False),
            (MAP,),
            both("head.0.0.conv", "head.1.0.0", "head.3"),
            id="regression-no-norm",
        ),
        pytest.param(ClassificationHead(num_classes=2), (MAP,), both("head.2"), id="classification"),
        pytest.param(
            ClassificationHead(num_classes=2, dim_list=(5, 4)),
            (MAP,),
            both("head.0.0.0", "head.0.1.0", "head.2"),
            id="classification-deep",
        ),
        pytest.param(
            ScalarHead(num_outputs=2, dim_list=(5, 4), dropout=0.1),
            (MAP,),
            both("head.0.0.0", "head.0.1.0", "head.2"),
            id="scalar-deep",
        ),
        pytest.param(
            ASPPSegmentationHead(channels=5, dilations=(1, 6)), (PYRAMID,), aspp("conv_seg"), id="aspp-segmentation"
        ),
        pytest.param(
            ASPPRegressionHead(channels=5, dilations=(1, 6)), (PYRAMID,), aspp("conv_reg"), id="aspp-regression"
        ),
    ],
)
def test_weights_have_published_names(part, inputs, names):
    assert set(build(part, *inputs).state_dict()) == names
