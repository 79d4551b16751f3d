"""mmseg's heads as composer makes them, beside those that mmseg makes itself, at equal weights."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module

import pytest
import torch
from torch import nn

import composer
from composer.adapters.mmseg.parts import MMSEG_HEAD_ARGUMENTS
from composer.encoder_info import import_adapter
from composer.layouts import Feature
from composer.testing import check_contract
from tests.law.toys import Toy

assert import_adapter("mmseg") is None
decode_heads = import_module("mmseg.models.decode_heads")

PYRAMID = tuple(Feature(channels=c, stride=s) for c, s in ((32, 4), (64, 8), (96, 16), (128, 32)))
WIDTHS = [f.channels for f in PYRAMID]
ONE = {"in_channels": 128, "in_index": -1, "channels": 512}
ALL = {"in_channels": WIDTHS, "in_index": [0, 1, 2, 3], "channels": 512}
THEIRS = {
    "ANNHead": {"in_channels": [96, 128], "in_index": [2, 3], "channels": 512, "project_channels": 256},
    "APCHead": ONE,
    "ASPPHead": ONE,
    "CCHead": ONE,
    "DAHead": {**ONE, "pam_channels": 64},
    "DMHead": ONE,
    "DNLHead": ONE,
    "DepthwiseSeparableASPPHead": {**ONE, "c1_in_channels": 32, "c1_channels": 48},
    "DepthwiseSeparableFCNHead": {**ONE, "channels": 128},
    "EMAHead": {**ONE, "channels": 256, "ema_channels": 512, "num_bases": 64, "num_stages": 3, "momentum": 0.1},
    "EncHead": {**ALL, "num_codes": 32, "use_se_loss": False, "add_lateral": False},
    "FCNHead": ONE,
    "FPNHead": {**ALL, "channels": 128, "feature_strides": [4, 8, 16, 32]},
    "GCHead": {**ONE, "ratio": 1 / 4.0, "pooling_type": "att", "fusion_types": ("channel_add",)},
    "ISAHead": {**ONE, "isa_channels": 256, "down_factor": (8, 8)},
    "LightHamHead": {
        **ALL,
        "norm_cfg": {"type": "GN", "num_groups": 32},
        "ham_channels": 512,
        "ham_kwargs": {"MD_S": 1, "MD_R": 64, "train_steps": 6, "eval_steps": 7, "rand_init": False},
    },
    "NLHead": {**ONE, "dropout_ratio": 0.1, "reduction": 2, "use_scale": True, "mode": "embedded_gaussian"},
    "PSPHead": {**ONE, "pool_scales": (1, 2, 3, 6)},
    "SETRUPHead": {**ONE, "channels": 256},
    "STDCHead": {**ONE, "channels": 64, "num_convs": 1},
    "SegformerHead": {**ALL, "channels": 256},
    "SegmenterMaskTransformerHead": {
        "in_channels": 128,
        "channels": 128,
        "num_layers": 2,
        "num_heads": 2,
        "embed_dims": 128,
    },
    "UPerHead": {**ALL, "pool_scales": (1, 2, 3, 6)},
}
"""What mmseg is told of each head, as its published configs have it, for maps of these widths."""

NAMES = tuple(MMSEG_HEAD_ARGUMENTS)
NORMED = tuple(name for name in NAMES if "norm" in MMSEG_HEAD_ARGUMENTS[name])
WITH_BASES = "hamburger.ham.bases"


def theirs(name, **told):
    """mmseg's own head, in eval mode, with weights and statistics that are not those of a new one."""
    norm = {"norm_cfg": {"type": "BN"}} if name in NORMED else {}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        # Of the loss that each of them makes.
        warnings.simplefilter("ignore")
        head = getattr(decode_heads, name)(num_classes=5, **{**norm, **THEIRS[name], **told}).eval()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) / 50)
    return head


def maps(features=PYRAMID, size=(64, 96), batch=2):
    torch.manual_seed(1)
    return [torch.randn(f.shape(batch, *size)) for f in features]


def ours(name, **told):
    return composer.module(composer.Mmseg(name, num_classes=5, **told), PYRAMID)


@pytest.mark.parametrize("name", NAMES)
def test_gives_what_mmseg_gives(name):
    reference, x = theirs(name), maps()
    head = ours(name).eval()
    own = list(reference.state_dict()) + ([WITH_BASES] if name == "LightHamHead" else [])
    if name == "LightHamHead":
        # mmseg draws them at the first forward.
        reference(x)
    head.load_state_dict(reference.state_dict())
    before = [level.clone() for level in x]
    permuted = [level.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for level in x]
    with torch.no_grad():
        (y_BCHW,) = head(x)
        expected = reference(x)
        # Maps may lie in memory in any order, as a neck that permutes leaves them.
        assert torch.equal(head(permuted)[0], y_BCHW)
    assert torch.equal(y_BCHW, expected[0] if name == "DAHead" else expected)
    (promised,) = composer.contract(composer.Mmseg(name, num_classes=5), PYRAMID).features
    assert tuple(y_BCHW.shape) == promised.shape(2, 64, 96)
    assert all(map(torch.equal, x, before))
    assert type(head) is getattr(decode_heads, name)
    assert sorted(head.state_dict()) == sorted(own)


LAWS = ("inputs", "again", "itself")
UNLEARNED = ("DAHead", "EMAHead", "ISAHead", "STDCHead")
"""Heads some of whose weights mmseg freezes, or learns by other losses, or that attend to a single cell here."""

OTHERS = {
    "no norm": {"name": "FCNHead", "norm": False},
    "groups": {"name": "FCNHead", "norm": "GN"},
    "activation": {"name": "UPerHead", "act": "GELU"},
}


@pytest.mark.parametrize("told", [*({"name": name} for name in NAMES), *OTHERS.values()], ids=[*NAMES, *OTHERS])
def test_a_head_keeps_the_laws_and_is_copied(told):
    part = composer.Mmseg(**told, num_classes=5)
    laws = LAWS if part.name in UNLEARNED else (*LAWS, "gradients")
    check_contract(part, inputs=[(PYRAMID,)], laws=laws, examples=2)
    head, x = composer.module(part, PYRAMID).eval(), maps()
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(head)(x)[0], head(x)[0])
        assert torch.equal(pickle.loads(pickle.dumps(head))(x)[0], head(x)[0])


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_makes_one_head_and_says_nothing(name):
    graph = composer.chain(Toy(features=PYRAMID), composer.Mmseg(name, num_classes=2))
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        one, other = composer.build(graph).state_dict(), composer.build(graph).state_dict()
    assert said.getvalue() == ""
    assert [key for key, value in one.items() if not torch.equal(value, other[key])] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "SegmenterMaskTransformerHead"])
def test_the_classifier_begins_as_in_mmseg(name):
    """Which initialises it with a deviation of 0.01, and torch with one by its width."""
    head = ours(name, **{"channels": 512} if name != "STDCHead" else {})
    assert float(head.conv_seg.weight.detach().std()) == pytest.approx(0.01, rel=0.2)
    assert not head.conv_seg.bias.any()


def test_ann_without_dropout():
    """mmseg's own fails: it calls the dropout that it has not made."""
    x = maps()
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        theirs("ANNHead", dropout_ratio=0)(x)
    head = ours("ANNHead", dropout_ratio=0).train()
    assert head(x)[0].shape == (2, 5, 2, 3)


def test_maps_are_concatenated_at_the_grid_of_the_first():
    told = {"in_channels": [64, 96, 128], "in_index": [1, 2, 3], "channels": 64, "input_transform": "resize_concat"}
    reference, x = theirs("FCNHead", **told), maps()
    head = ours("FCNHead", channels=64, input_transform="resize_concat", in_index=[1, 2, 3]).eval()
    head.load_state_dict(reference.state_dict())
    with torch.no_grad():
        assert torch.equal(head(x)[0], reference(x))
    assert head(x)[0].shape == (2, 5, 8, 12)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_is_made_without_weights(name):
    graph = composer.chain(Toy(features=PYRAMID), composer.Mmseg(name, num_classes=5))
    model = composer.build(graph, device="meta").eval()

    assert {x.device.type for x in model.state_dict().values()} == {"meta"}
    assert model(torch.empty(1, 3, 64, 96, device="meta")).output.shape == (1, 5, 64, 96)
    assert model.state_dict().keys() == composer.build(graph).state_dict().keys()
