"""What is handed in from Python is checked as what is read from a text is: each field says what it must be."""

import re

import pytest

from composer.layouts import Feature
from composer.parts import (
    AggregateTokens,
    ASPPRegressionHead,
    ASPPSegmentationHead,
    ClassificationHead,
    FCNDecoder,
    FeaturePyramidNetworkNeck,
    LinearDecoder,
    MLPDecoder,
    PermuteDims,
    RegressionHead,
    ReshapeTokensToImage,
    ScalarHead,
    SegmentationHead,
    SelectIndices,
    TemporalPooling,
    Timm,
    UNetDecoder,
    UperNetDecoder,
)
from composer.parts.encoders import Custom, EncoderInfo
from composer.sizes import Padding, SizeConstraint

FEATURE = Feature(channels=3)


def timm(**fields):
    return Timm("resnet18", **fields)


def aspp(**fields):
    return ASPPSegmentationHead(channels=4, **fields)


def custom(features=FEATURE, **fields):
    return Custom(object(), features=features, **fields)


WHOLE = "must be a whole number from"
INDEX = f"{WHOLE} -64 to 63 (got None)"
CHANNELS = f"{WHOLE} 1 to 65536 (got None)"
TRUTH = "must be true or false (got"
POSITIVE = "must be a whole number of at least 1 (got"
FEATURES = "features must be a Feature or a list of them (got"
POOLING = "must be one of mean, max, min, cls, or a whole number from 0 to 1023"
EXCLUDE, DROPPED = "drop_cls and pooling", "exclude each other: that token would be dropped"
TRANSFORM = "in_index is a list where input_transform is resize_concat, and a whole number elsewhere"
FIELD = "it is a field of its own"
WEIGHTS_FILE = "pretrained must be true, false, the path of a weights file, or a mapping of file and prefix"
WEIGHTS = "composer loads weights itself"
MAKES = "composer makes the network itself"


def barred(name, reason):
    return pytest.param(timm, {"options": {name: 1}}, f"options must not hold {name!r}: {reason}", id=f"options-{name}")


REFUSED = [
    pytest.param(SelectIndices, {"indices": [None]}, f"indices {INDEX}", id="indices-entry"),
    pytest.param(PermuteDims, {"new_order": [0, None]}, f"new_order {WHOLE} 0 to 4 (got None)", id="order-entry"),
    pytest.param(UNetDecoder, {"channels": [None]}, f"channels {CHANNELS}", id="unet-entry"),
    pytest.param(FCNDecoder, {"channels": None}, f"channels {CHANNELS}", id="fcn-channels"),
    pytest.param(FCNDecoder, {"in_index": None}, f"in_index {INDEX}", id="fcn-index"),
    pytest.param(MLPDecoder, {"out_index": None}, f"out_index {INDEX}", id="mlp-index"),
    pytest.param(SegmentationHead, {"num_classes": None}, f"num_classes {CHANNELS}", id="classes"),
    pytest.param(
        SegmentationHead,
        {"num_classes": 2, "channel_list": [None]},
        f"channel_list {CHANNELS}",
        id="channel-list-entry",
    ),
    pytest.param(timm, {"out_indices": [1, None]}, f"out_indices {INDEX}", id="out-indices-entry"),
    pytest.param(timm, {"img_size": (64, 16385)}, f"img_size {WHOLE} 1 to 16384 (got 16385)", id="img-size-side"),
    pytest.param(UperNetDecoder, {"align_corners": 1}, f"align_corners {TRUTH} 1)", id="align-corners"),
    pytest.param(RegressionHead, {"batch_norm": None}, f"batch_norm {TRUTH} None)", id="batch-norm"),
    pytest.param(ReshapeTokensToImage, {"remove_cls_token": "no"}, f"remove_cls_token {TRUTH} 'no')", id="cls-token"),
    pytest.param(
        ClassificationHead,
        {"num_classes": 2, "linear_after_pool": 0},
        f"linear_after_pool {TRUTH} 0)",
        id="linear-after-pool",
    ),
    pytest.param(AggregateTokens, {"pooling": "CLS"}, f"pooling {POOLING} (got 'CLS')", id="pooling"),
    pytest.param(AggregateTokens, {"pooling": True}, f"pooling {POOLING} (got True)", id="pooling-truth"),
    pytest.param(AggregateTokens, {"pooling": -1}, f"pooling {POOLING} (got -1)", id="pooling-from-the-end"),
    pytest.param(AggregateTokens, {"pooling": None}, f"pooling {POOLING} (got None)", id="pooling-none"),
    pytest.param(AggregateTokens, {"indices": []}, "indices must have at least one entry", id="aggregate-nothing"),
    pytest.param(
        AggregateTokens, {"indices": True}, "a list of whole numbers is needed (got True)", id="aggregate-truth"
    ),
    pytest.param(AggregateTokens, {"indices": [0, None]}, f"indices {INDEX}", id="aggregate-entry"),
    pytest.param(AggregateTokens, {"drop_cls": 1}, f"drop_cls {TRUTH} 1)", id="drop-cls"),
    pytest.param(AggregateTokens, {"drop_cls": True, "pooling": "cls"}, f"{EXCLUDE}: cls {DROPPED}", id="drop-cls-cls"),
    pytest.param(AggregateTokens, {"drop_cls": True, "pooling": 2}, f"{EXCLUDE}: 2 {DROPPED}", id="drop-cls-2"),
    pytest.param(
        TemporalPooling,
        {"pooling": "median"},
        "pooling must be one of mean, max, diff, concat, keep (got 'median')",
        id="temporal-pooling",
    ),
    pytest.param(
        TemporalPooling, {"subset_lengths": []}, "subset_lengths must have at least one entry", id="no-subsets"
    ),
    pytest.param(
        TemporalPooling, {"subset_lengths": [2, 0]}, f"subset_lengths {WHOLE} 1 to 1024 (got 0)", id="empty-subset"
    ),
    pytest.param(
        TemporalPooling, {"subset_lengths": 2}, "a list of whole numbers is needed (got 2)", id="subsets-of-no-list"
    ),
    pytest.param(custom, {"frames": 0}, f"frames {WHOLE} 1 to 1024 (got 0)", id="custom-frames"),
    pytest.param(
        EncoderInfo, {"features": FEATURE, "frames": True}, f"frames {WHOLE} 1 to 1024 (got True)", id="facts-frames"
    ),
    pytest.param(FeaturePyramidNetworkNeck, {"out_channel": None}, f"out_channel {CHANNELS}", id="fpn"),
    pytest.param(ScalarHead, {"num_outputs": None}, f"num_outputs {CHANNELS}", id="outputs"),
    pytest.param(UperNetDecoder, {"scale_modules": 1}, f"scale_modules {TRUTH} 1)", id="scale-modules"),
    pytest.param(
        LinearDecoder,
        {"num_classes": 2, "upsampling_size": 2, "includes_head": None},
        f"includes_head {TRUTH} None)",
        id="linear-includes-head",
    ),
    pytest.param(aspp, {"includes_head": 0}, f"includes_head {TRUTH} 0)", id="aspp-includes-head"),
    pytest.param(aspp, {"dilations": [0]}, f"dilations {WHOLE} 1 to 256 (got 0)", id="dilation"),
    pytest.param(aspp, {"in_index": None}, f"in_index {INDEX}", id="aspp-index"),
    pytest.param(aspp, {"in_index": [0]}, TRANSFORM, id="aspp-a-list"),
    pytest.param(aspp, {"input_transform": "resize_concat"}, TRANSFORM, id="aspp-no-list"),
    pytest.param(
        aspp,
        {"in_index": [], "input_transform": "resize_concat"},
        "in_index must have at least one entry",
        id="aspp-no-maps",
    ),
    pytest.param(
        aspp,
        {"input_transform": "multiple_select"},
        "input_transform must be one of null, resize_concat (got 'multiple_select')",
        id="aspp-transform",
    ),
    pytest.param(
        aspp,
        {"head_dropout_ratio": 1},
        "head_dropout_ratio must be a number from 0 up to, but not including, 1 (got 1)",
        id="aspp-dropout",
    ),
    pytest.param(timm, {"features_only": "no"}, f"features_only {TRUTH} 'no')", id="features-only"),
    pytest.param(timm, {"tokens": 1}, f"tokens {TRUTH} 1)", id="tokens"),
    pytest.param(timm, {"any_size": None}, f"any_size {TRUTH} None)", id="any-size"),
    pytest.param(timm, {"pretrained": 1}, f"{WEIGHTS_FILE} (got 1)", id="pretrained"),
    pytest.param(timm, {"pretrained": ""}, f"{WEIGHTS_FILE} (got '')", id="pretrained-empty"),
    pytest.param(
        timm,
        {"pretrained": {"file": "a.pth", "prefx": "b"}},
        "a weights file is given by file and prefix (got file, prefx)",
        id="pretrained-keys",
    ),
    pytest.param(
        timm,
        {"pretrained": {"file": "a.pth", "prefix": ""}},
        "prefix must be a string that is not empty (got '')",
        id="pretrained-prefix",
    ),
    barred("pretrained", FIELD),
    barred("features_only", FIELD),
    barred("out_indices", FIELD),
    barred("img_size", FIELD),
    barred("output_stride", FIELD),
    barred("name", FIELD),
    barred("in_chans", "it is the channels of the input"),
    barred("pretrained_cfg", WEIGHTS),
    barred("pretrained_cfg_overlay", WEIGHTS),
    barred("checkpoint_path", WEIGHTS),
    barred("cache_dir", WEIGHTS),
    barred("feature_cls", MAKES),
    barred("scriptable", MAKES),
    barred("exportable", MAKES),
    barred("no_jit", MAKES),
    barred("model_name", "the network is named by name"),
    barred("device", "the built model is moved with to()"),
    pytest.param(custom, {"features": 5}, f"{FEATURES} 5)", id="custom-no-features"),
    pytest.param(custom, {"features": [FEATURE, 3]}, f"{FEATURES} [{FEATURE!r}, 3])", id="custom-an-entry"),
    pytest.param(custom, {"features": ()}, "features must have at least one entry", id="custom-empty"),
    pytest.param(custom, {"sizes": 32}, "sizes must be a SizeConstraint (got 32)", id="custom-sizes"),
    pytest.param(EncoderInfo, {"features": "b c h w"}, f"{FEATURES} 'b c h w')", id="facts-no-features"),
    pytest.param(EncoderInfo, {"features": []}, "features must have at least one entry", id="facts-empty"),
    pytest.param(
        EncoderInfo, {"features": FEATURE, "sizes": None}, "sizes must be a SizeConstraint (got None)", id="facts-sizes"
    ),
    pytest.param(SizeConstraint, {"multiple": 1.5}, f"multiple {POSITIVE} 1.5)", id="sizes-fraction"),
    pytest.param(SizeConstraint, {"multiple": True}, f"multiple {POSITIVE} True)", id="sizes-truth"),
    pytest.param(SizeConstraint, {"least": "32"}, f"least {POSITIVE} '32')", id="sizes-string"),
    pytest.param(SizeConstraint, {"least": None}, f"least {POSITIVE} None)", id="sizes-none"),
    pytest.param(SizeConstraint, {"height": 0}, f"height {POSITIVE} 0)", id="sizes-zero"),
    pytest.param(SizeConstraint, {"width": 2.0}, f"width {POSITIVE} 2.0)", id="sizes-float"),
    pytest.param(SizeConstraint, {"square": "no"}, f"square {TRUTH} 'no')", id="sizes-square"),
    pytest.param(
        Padding, {"mode": "edge"}, "mode must be one of reflect, replicate, zeros (got 'edge')", id="padding-mode"
    ),
    pytest.param(Padding, {"side": None}, "side must be one of both, end (got None)", id="padding-side"),
]


@pytest.mark.parametrize(("make", "fields", "message"), REFUSED)
def test_what_a_field_must_be(make, fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make(**fields)


ABSENT = [
    pytest.param(MLPDecoder, {"channels": None, "out_dim": None}, id="mlp"),
    pytest.param(SegmentationHead, {"num_classes": 2, "channel_list": None}, id="segmentation"),
    pytest.param(RegressionHead, {"channel_list": None, "final_act": None}, id="regression"),
    pytest.param(ClassificationHead, {"num_classes": 2, "dim_list": None}, id="classification"),
    pytest.param(ReshapeTokensToImage, {"effective_time_dim": None, "h": None}, id="reshape"),
    pytest.param(timm, {"out_indices": None, "output_stride": None, "img_size": None}, id="timm"),
    pytest.param(SizeConstraint, {"height": None, "width": None}, id="sizes"),
]


@pytest.mark.parametrize(("make", "fields"), ABSENT)
def test_what_may_be_absent(make, fields):
    made = make(**fields)
    assert {name: getattr(made, name) for name in fields} == fields


def test_one_feature_is_a_list_of_one():
    assert (
        custom(FEATURE).features == custom([FEATURE]).features == EncoderInfo(features=FEATURE).features == (FEATURE,)
    )


@pytest.mark.parametrize(
    ("indices", "positions"), [(None, (-1,)), (0, (0,)), ([2, 0], (2, 0))], ids=["none", "one", "several"]
)
def test_indices_of_tokens_however_given(indices, positions):
    assert AggregateTokens(indices=indices) == AggregateTokens(indices=positions)
    assert AggregateTokens(indices=indices).positions == positions


DECODERS = [
    pytest.param(LinearDecoder, {"num_classes": 2, "upsampling_size": 2}, id="linear"),
    pytest.param(ASPPSegmentationHead, {"channels": 4}, id="aspp-segmentation"),
    pytest.param(ASPPRegressionHead, {"channels": 4}, id="aspp-regression"),
]


@pytest.mark.parametrize(("part", "fields"), DECODERS)
def test_a_decoder_predicts_unless_it_is_told_that_a_head_follows(part, fields):
    assert part(**fields).includes_head
    assert not part(**fields, includes_head=False).includes_head


def test_heads_predict_and_other_parts_do_not():
    assert [part.includes_head for part in (RegressionHead(), ScalarHead(num_outputs=2))] == [True, True]
    assert [part.includes_head for part in (FCNDecoder(), AggregateTokens(), timm())] == [False] * 3
