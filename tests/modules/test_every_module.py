"""The laws that hold for the modules of all built-in parts, on inputs that each takes."""

import pytest

import composer
from composer.layouts import MAP, TOKENS, VECTOR, Feature
from composer.testing import check_contract


def level(channels, stride=16, axes=MAP, **rest):
    return Feature(channels=channels, stride=stride, axes=axes, **rest)


PYRAMID = (level(4, 8), level(6, 16), level(8, 32))
ALIKE = (level(4), level(6), level(8))
FOUR = (*ALIKE, level(10))
ONE = (level(6, 4),)
VEC = (level(6, None, VECTOR),)
WITH_PREFIX = (level(6, axes=TOKENS, prefix=5), level(6, axes=TOKENS, prefix=1))

CASES = {
    "select": (composer.SelectIndices(indices=(2, 0, -1)), PYRAMID),
    "permute": (composer.PermuteDims(new_order=(0, 2, 3, 1)), PYRAMID),
    "interpolate": (composer.InterpolateToPyramidal(mode="bilinear"), PYRAMID),
    "maxpool": (composer.MaxpoolToPyramidal(), ALIKE),
    "reshape": (composer.ReshapeTokensToImage(), (level(6, axes=TOKENS, prefix=5, frames=3), level(6))),
    "bottleneck": (composer.AddBottleneckLayer(), PYRAMID),
    "learned": (composer.LearnedInterpolateToPyramidal(), FOUR),
    "fpn": (composer.FeaturePyramidNetworkNeck(out_channel=5), PYRAMID),
    "mean": (composer.AggregateTokens(indices=[0, 1], drop_cls=True), WITH_PREFIX),
    "cls": (composer.AggregateTokens(pooling="cls", indices=[0, 1]), WITH_PREFIX),
    "max of maps": (composer.AggregateTokens(pooling="max", indices=[0, 1, 2]), PYRAMID),
    "concat": (composer.ConcatFeatures(), PYRAMID, PYRAMID, PYRAMID),
    "add": (composer.AddFeatures(), PYRAMID, PYRAMID, PYRAMID),
    "identity": (composer.IdentityDecoder(out_index=0), PYRAMID),
    "linear": (composer.LinearDecoder(num_classes=3, upsampling_size=4), PYRAMID),
    "mlp": (composer.MLPDecoder(channels=7, out_dim=5), ALIKE),
    "mlp, hidden only": (composer.MLPDecoder(channels=None, out_dim=None, activation="GELU"), ALIKE),
    "fcn": (composer.FCNDecoder(channels=5, num_convs=2), PYRAMID),
    "unet": (composer.UNetDecoder(channels=(24, 20, 16)), PYRAMID),
    "unet, bottleneck": (
        composer.UNetDecoder(channels=(24, 20, 16, 8), use_batchnorm=False),
        (*PYRAMID, level(4, 32)),
    ),
    "unet, scse": (composer.UNetDecoder(channels=(64, 48, 32), attention_type="scse"), PYRAMID),
    "upernet": (composer.UperNetDecoder(channels=5), PYRAMID),
    "upernet, scaled": (composer.UperNetDecoder(channels=5, scale_modules=True), FOUR),
    "aspp": (composer.ASPPSegmentationHead(channels=5), PYRAMID),
    "aspp of two": (
        composer.ASPPRegressionHead(channels=5, in_index=[0, 2], input_transform="resize_concat"),
        PYRAMID,
    ),
    "segmentation": (composer.SegmentationHead(num_classes=3, channel_list=(5, 4), dropout=0.5), ONE),
    "segmentation, enlarged": (
        composer.SegmentationHead(num_classes=3, channel_list=(5,), batch_norm=True, kernel_size=3, upsampling=2),
        ONE,
    ),
    "regression": (
        composer.RegressionHead(num_outputs=2, learned_upscale_layers=2, channel_list=(5, 4), dropout=0.5),
        ONE,
    ),
    "regression, no norm": (composer.RegressionHead(final_act="Softplus", batch_norm=False, channel_list=(5,)), ONE),
    "classification": (composer.ClassificationHead(num_classes=3, dim_list=(5, 4), dropout=0.5), ONE),
    "classification of the max": (
        composer.ClassificationHead(num_classes=3, pooling="max", final_act="Sigmoid"),
        ONE,
    ),
    "classification of a vector": (composer.ClassificationHead(num_classes=3, linear_after_pool=True), VEC),
    "scalar": (composer.ScalarHead(num_outputs=3, dim_list=(5, 4), dropout=0.5), ONE),
}


@pytest.mark.parametrize(("part", "inputs"), [(part, inputs) for part, *inputs in CASES.values()], ids=CASES)
def test_a_module_keeps_the_laws(part, inputs):
    """It changes neither what it is fed nor itself, gives the same again, and all of it can be learned through."""
    check_contract(part, inputs=[inputs], laws=("inputs", "again", "itself", "gradients"), examples=2)
