"""What is handed in from Python is checked as what is read from a text is: each field says what it must be."""

import re

import pytest

from composer.layouts import Feature
from composer.parts import (
    AggregateTokens,
    ASPPSegmentationHead,
    FCNDecoder,
    RegressionHead,
    ScalarHead,
    SelectIndices,
    Timm,
)
from composer.parts.encoders import FORBIDDEN_TIMM_OPTIONS, Custom, EncoderInfo
from composer.sizes import SizeConstraint

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
WEIGHTS_FILE = "pretrained must be true, false, the path of a weights file, or a mapping of file and prefix"


REFUSED = {
    "entry of a list": (SelectIndices, {"indices": [None]}, f"indices {INDEX}"),
    "side": (timm, {"img_size": (64, 16385)}, f"img_size {WHOLE} 1 to 16384 (got 16385)"),
    "pooling": (AggregateTokens, {"pooling": "CLS"}, f"pooling {POOLING} (got 'CLS')"),
    "no indices": (AggregateTokens, {"indices": []}, "indices must have at least one entry"),
    "dropped class token": (AggregateTokens, {"drop_cls": True, "pooling": "cls"}, f"{EXCLUDE}: cls {DROPPED}"),
    "list without transform": (aspp, {"in_index": [0]}, TRANSFORM),
    "transform without list": (aspp, {"input_transform": "resize_concat"}, TRANSFORM),
    "dropout": (
        aspp,
        {"head_dropout_ratio": 1},
        "head_dropout_ratio must be a number from 0 up to, but not including, 1 (got 1)",
    ),
    "empty pretrained": (timm, {"pretrained": ""}, f"{WEIGHTS_FILE} (got '')"),
    "keys of pretrained": (
        timm,
        {"pretrained": {"file": "a.pth", "prefx": "b"}},
        "a weights file is given by file and prefix (got file, prefx)",
    ),
    "empty prefix": (
        timm,
        {"pretrained": {"file": "a.pth", "prefix": ""}},
        "prefix must be a string that is not empty (got '')",
    ),
    "no features": (custom, {"features": [FEATURE, 3]}, f"{FEATURES} [{FEATURE!r}, 3])"),
    "empty features": (EncoderInfo, {"features": []}, "features must have at least one entry"),
    "sizes": (custom, {"sizes": 32}, "sizes must be a SizeConstraint (got 32)"),
    "truth as number": (SizeConstraint, {"multiple": True}, f"multiple {POSITIVE} True)"),
}


@pytest.mark.parametrize(("make", "fields", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_field_must_be(make, fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make(**fields)


@pytest.mark.parametrize(("name", "reason"), FORBIDDEN_TIMM_OPTIONS.items())
def test_options_hold_no_arguments_that_are_set_elsewhere(name, reason):
    with pytest.raises(ValueError, match=re.escape(f"options must not hold {name!r}: {reason}")):
        timm(options={name: 1})


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


def test_heads_predict_and_other_parts_do_not():
    assert [part.includes_head for part in (RegressionHead(), ScalarHead(num_outputs=2))] == [True, True]
    assert [part.includes_head for part in (FCNDecoder(), AggregateTokens(), timm())] == [False] * 3
