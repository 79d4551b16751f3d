"""mmseg's heads without mmseg: what they promise, every refusal in full, and what is said where mmseg is not there."""

# ruff: noqa: E501  messages stand here as they are printed

from __future__ import annotations

import re
import sys

import pytest

import composer
from composer.adapters.mmseg.parts import MMSEG_HEAD_ARGUMENTS, UNSUPPORTED_HEADS
from composer.cli.main import main
from composer.layouts import Feature
from composer.parts.rules import Change
from tests.law.toys import Toy

PYRAMID = tuple(Feature(channels=c, stride=s) for c, s in ((32, 4), (64, 8), (96, 16), (128, 32)))
TOKENS = (Feature(channels=384, stride=16, axes="b n c", prefix=1),) * 4
UPSIDE_DOWN = PYRAMID[::-1]
STRIDES = {
    "DepthwiseSeparableASPPHead": 4,
    "FPNHead": 4,
    "LightHamHead": 4,
    "SETRUPHead": 8,
    "SegformerHead": 4,
    "UPerHead": 4,
}
"""The strides of the scores for maps at 4, 8, 16 and 32, where they are not that of the last."""


def head(name, **told):
    return composer.Mmseg(name, **{"num_classes": 5, **told})


@pytest.mark.parametrize("name", MMSEG_HEAD_ARGUMENTS)
def test_the_stride_that_comes_out(name):
    promise = composer.contract(head(name), PYRAMID)
    sizes = composer.SizeConstraint(multiple=32) if name == "SETRUPHead" else composer.SizeConstraint()
    assert promise == composer.Outputs(features=[Feature(channels=5, stride=STRIDES.get(name, 32))], sizes=sizes)


REFUSALS = [
    pytest.param(
        head("PSPHead", num_convs=2),
        PYRAMID,
        "error[argument] decoder.num_convs: mmseg/PSPHead has no argument num_convs (got 2).\n  fix: did you mean num_classes?",
        id="an argument of another head",
    ),
    pytest.param(
        head("SegmenterMaskTransformerHead", channels=64),
        PYRAMID,
        "error[argument] decoder.channels: mmseg/SegmenterMaskTransformerHead has no argument channels (got 64).\n  fix: known: act, attn_drop_rate, drop_path_rate, drop_rate, embed_dims, in_index, mlp_ratio, num_classes, num_heads, num_layers",
        id="an argument that it would overlook",
    ),
    pytest.param(
        head("FCNHead", in_index=4),
        PYRAMID,
        "error[index] decoder.in_index: mmseg/FCNHead takes feature 4 (got 4 features).\n  fix: use in_index from -4 to 3",
        id="an index too far",
    ),
    pytest.param(
        head("UPerHead", in_index=[0, 5]),
        PYRAMID,
        "error[index] decoder.in_index[1]: mmseg/UPerHead takes feature 5 (got 4 features).\n  fix: use in_index from -4 to 3",
        id="one of several indices",
    ),
    pytest.param(
        head("FCNHead", in_index=[2, 3]),
        PYRAMID,
        "error[type] decoder.in_index: mmseg/FCNHead takes one map, so in_index is a whole number (got [2, 3]).\n  fix: input_transform: resize_concat",
        id="a list for one map",
    ),
    pytest.param(
        head("SegmenterMaskTransformerHead", in_index=[2, 3]),
        PYRAMID,
        "error[type] decoder.in_index: mmseg/SegmenterMaskTransformerHead takes one map, so in_index is a whole number (got [2, 3]).\n  fix: in_index: 3",
        id="a list where none can be",
    ),
    pytest.param(
        head("UPerHead", in_index=3),
        PYRAMID,
        "error[type] decoder.in_index: mmseg/UPerHead takes several maps, so in_index is a list (got 3).\n  fix: in_index: [3]",
        id="an index for several maps",
    ),
    pytest.param(
        head("FCNHead", in_index=3, input_transform="resize_concat"),
        PYRAMID,
        "error[type] decoder.in_index: mmseg/FCNHead takes several maps, so in_index is a list (got 3).\n  fix: in_index: [3]",
        id="an index to concatenate",
    ),
    pytest.param(
        head("ANNHead", in_index=[1, 2, 3]),
        PYRAMID,
        "error[count] decoder.in_index: mmseg/ANNHead takes two maps (got 3 maps).\n  fix: in_index: [-2, -1]",
        id="three maps for ANN",
    ),
    pytest.param(
        head("UPerHead"),
        UPSIDE_DOWN,
        'error[index] decoder.in_index: mmseg/UPerHead gives scores at the grid of the first map, so strides must not decrease; encoder gives 4 × map "b c h w" (128, 96, 64, 32 channels, stride 32, 16, 8, 4).\n  fix: in_index: [3, 2, 1, 0]',
        id="UPer upside down",
    ),
    pytest.param(
        head("FPNHead"),
        UPSIDE_DOWN,
        'error[index] decoder.in_index: mmseg/FPNHead gives scores at the grid of the first map, so strides must not decrease; encoder gives 4 × map "b c h w" (128, 96, 64, 32 channels, stride 32, 16, 8, 4).\n  fix: in_index: [3, 2, 1, 0]',
        id="FPN upside down",
    ),
    pytest.param(
        head("SegformerHead"),
        UPSIDE_DOWN,
        'error[index] decoder.in_index: mmseg/SegformerHead gives scores at the grid of the first map, so strides must not decrease; encoder gives 4 × map "b c h w" (128, 96, 64, 32 channels, stride 32, 16, 8, 4).\n  fix: in_index: [3, 2, 1, 0]',
        id="SegFormer upside down",
    ),
    pytest.param(
        head("LightHamHead"),
        UPSIDE_DOWN,
        'error[index] decoder.in_index: mmseg/LightHamHead gives scores at the grid of the first map, so strides must not decrease; encoder gives 4 × map "b c h w" (128, 96, 64, 32 channels, stride 32, 16, 8, 4).\n  fix: in_index: [3, 2, 1, 0]',
        id="LightHam upside down",
    ),
    pytest.param(
        head("DepthwiseSeparableASPPHead"),
        UPSIDE_DOWN,
        "error[index] decoder: mmseg/DepthwiseSeparableASPPHead refines a map with the first of all, so that one must not be coarser (got stride 32 for 4).\n  fix: necks: [SelectIndices: {indices: [3, 2, 1, 0]}]",
        id="a first map that is coarser",
    ),
    pytest.param(
        head("UPerHead", in_index=[3, 1]),
        PYRAMID,
        'error[index] decoder.in_index: mmseg/UPerHead gives scores at the grid of the first map, so strides must not decrease; encoder gives 4 × map "b c h w" (32, 64, 96, 128 channels, stride 4, 8, 16, 32).\n  fix: in_index: [1, 3]',
        id="indices upside down",
    ),
    pytest.param(
        head("FCNHead", norm="GN", channels=100),
        PYRAMID,
        "error[channels] decoder.channels: mmseg/FCNHead normalises in 32 groups, so channels must be a multiple of 32 (got 100).\n  fix: channels: 128",
        id="a width in groups",
    ),
    pytest.param(
        head("DepthwiseSeparableASPPHead", norm="GN"),
        PYRAMID,
        "error[channels] decoder.c1_channels: mmseg/DepthwiseSeparableASPPHead normalises in 32 groups, so c1_channels must be a multiple of 32 (got 48).\n  fix: c1_channels: 64",
        id="a default in groups",
    ),
    pytest.param(
        head("DepthwiseSeparableFCNHead", norm="GN"),
        (Feature(channels=100, stride=8),),
        'error[channels] decoder.norm: mmseg/DepthwiseSeparableFCNHead normalises the maps in 32 groups too, so their channels must be a multiple of 32; encoder gives map "b c h w" (100 channels, stride 8).\n  fix: norm: BN',
        id="maps in groups",
    ),
    pytest.param(
        head("CCHead", channels=4),
        PYRAMID,
        "error[channels] decoder.channels: mmseg/CCHead squeezes channels, so there must be at least 8 (got 4).\n  fix: channels: 8",
        id="a squeeze by eight",
    ),
    pytest.param(
        head("GCHead", channels=3),
        PYRAMID,
        "error[channels] decoder.channels: mmseg/GCHead squeezes channels, so there must be at least 4 (got 3).\n  fix: channels: 4",
        id="a squeeze by a ratio",
    ),
    pytest.param(
        head("LightHamHead", MD_S=3),
        PYRAMID,
        "error[channels] decoder.MD_S: mmseg/LightHamHead splits ham_channels, here 512, evenly into MD_S (got 3).\n  fix: MD_S: 2",
        id="an uneven split",
    ),
    pytest.param(
        head("FCNHead", num_convs=0),
        PYRAMID,
        "error[channels] decoder.channels: mmseg/FCNHead has no convolution to change the width of the map, so channels must be that (got 512 for 128).\n  fix: channels: 128",
        id="FCN without convolutions",
    ),
    pytest.param(
        head("STDCHead", num_convs=0),
        PYRAMID,
        "error[channels] decoder.channels: mmseg/STDCHead has no convolution to change the width of the map, so channels must be that (got 64 for 128).\n  fix: channels: 128",
        id="STDC without convolutions",
    ),
    pytest.param(
        head("SETRUPHead", num_convs=0),
        PYRAMID,
        "error[channels] decoder.channels: mmseg/SETRUPHead has no convolution to change the width of the map, so channels must be that (got 256 for 128).\n  fix: channels: 128",
        id="SETR without convolutions",
    ),
    pytest.param(
        head("DepthwiseSeparableFCNHead", num_convs=0),
        PYRAMID,
        "error[count] decoder.num_convs: mmseg/DepthwiseSeparableFCNHead has one convolution at least (got 0).\n  fix: num_convs: 1",
        id="a separable FCN without convolutions",
    ),
    pytest.param(
        head("SegmenterMaskTransformerHead", num_heads=3),
        PYRAMID,
        "error[channels] decoder.num_heads: mmseg/SegmenterMaskTransformerHead splits embed_dims, here 128, evenly into num_heads (got 3).\n  fix: num_heads: 2",
        id="uneven heads",
    ),
    pytest.param(
        head("SegmenterMaskTransformerHead", num_classes=1),
        PYRAMID,
        "error[value] decoder.num_classes: mmseg/SegmenterMaskTransformerHead normalises scores over the classes, so it takes two at least (got 1).\n  fix: num_classes: 2",
        id="a single class",
    ),
]


@pytest.mark.parametrize(("part", "features", "message"), REFUSALS)
def test_refused(part, features, message):
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(Toy(features=features), part))
    assert str(caught.value) == message


@pytest.mark.parametrize("name", MMSEG_HEAD_ARGUMENTS)
def test_tokens_are_refused(name):
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(Toy(features=TOKENS), head(name)))
    assert str(caught.value) == (
        f'error[layout] decoder: mmseg/{name} takes maps "b c h w"; encoder gives 4 × tokens "b n c" (384 channels, '
        "stride 16, 1 prefix token).\n  fix: necks: [ReshapeTokensToImage]"
    )


def test_encnet_looks_at_the_last_map_alone_unless_it_is_told_otherwise():
    given = (TOKENS[0], *PYRAMID[1:])
    assert isinstance(composer.contract(head("EncHead"), given), composer.Outputs)
    assert isinstance(composer.contract(head("EncHead", add_lateral=True), given), composer.Rejection)


@pytest.mark.parametrize(
    ("ratio", "channels"), [(1 / 3, 3), (0.1, 10), (0.07, 15), (2.0, 1)], ids=["third", "tenth", "odd", "double"]
)
def test_the_least_width_of_a_squeeze(ratio, channels):
    """As int(channels * ratio) in mmcv, which rounds as floats do."""
    assert int(channels * ratio) > 0
    assert isinstance(composer.contract(head("GCHead", ratio=ratio, channels=channels), PYRAMID), composer.Outputs)
    refused = channels > 1 and composer.contract(head("GCHead", ratio=ratio, channels=channels - 1), PYRAMID)
    assert not refused or refused.change == Change("channels", channels)


FIELDS = [
    pytest.param({"kernel_size": 2}, "kernel_size must be odd, or the map would grow (got 2)", id="even kernel"),
    pytest.param({"norm": "LN"}, "norm must be one of null, BN, GN, false (got 'LN')", id="norm"),
    pytest.param({"ratio": 0}, "ratio must be a number above 0 (got 0)", id="ratio"),
    pytest.param({"temperature": True}, "temperature must be a number above 0 (got True)", id="temperature"),
    pytest.param(
        {"down_factor": [8]},
        "down_factor must be two whole numbers, of rows and of columns (got (8,))",
        id="down_factor",
    ),
    pytest.param(
        {"fusion_types": ["add"]},
        "fusion_types must be one of channel_add, channel_mul (got 'add')",
        id="fusion_types",
    ),
    pytest.param({"pool_scales": []}, "pool_scales must have at least one entry", id="pool_scales"),
]


@pytest.mark.parametrize(("told", "message"), FIELDS)
def test_what_a_field_must_be(told, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        head("FCNHead", **told)


def spec(name):
    return f"encoder: {{timm/resnet18: {{out_indices: [1, 2, 3, 4]}}}}\ndecoder: {{mmseg/{name}: {{num_classes: 3}}}}\n"


@pytest.mark.parametrize("name", UNSUPPORTED_HEADS)
def test_heads_that_cannot_be_had_are_refused_with_the_reason(name):
    reason, instead = UNSUPPORTED_HEADS[name]
    with pytest.raises(composer.SpecError) as caught:
        composer.reads(spec(name))
    assert str(caught.value) == (
        f"<text>:2:10: error[part] decoder: mmseg/{name} cannot be had: {reason}.\n  fix: use mmseg/{instead}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(f'{name} cannot be had: {reason}; {instead} can')}$"):
        head(name)


def test_what_stands_in_for_a_refused_head_can_be_had():
    assert {instead for _, instead in UNSUPPORTED_HEADS.values()} <= MMSEG_HEAD_ARGUMENTS.keys()
    assert UNSUPPORTED_HEADS.keys() & MMSEG_HEAD_ARGUMENTS.keys() == set()


def test_a_name_that_nobody_knows():
    with pytest.raises(composer.SpecError) as caught:
        composer.reads(spec("UperHead"))
    (problem,) = caught.value.problems
    assert problem.message == "there is no decoder 'mmseg/UperHead'."
    assert "mmseg/UPerHead" in problem.fix


def test_a_spec_is_written_as_it_is_read():
    text = (
        "encoder: timm/resnet18\n"
        "decoder: {mmseg/UPerHead: {num_classes: 3, channels: 64, in_index: [1, 2, 3], norm: false}}\n"
    )
    assert composer.write(composer.reads(text)) == text


def test_a_head_after_it_is_refused():
    with pytest.raises(composer.SpecError, match=r"takes features \(got a prediction, from decoder\)"):
        composer.infer(composer.chain(Toy(features=PYRAMID), head("FCNHead"), composer.SegmentationHead(num_classes=5)))


def test_the_list_shows_what_can_be_had_and_what_not(capsys):
    assert main(["list", "decoders", "mmseg/S*"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "mmseg/STDCHead STDC: an FCN head" in out
    assert "num_classes (required)" in out
    assert "mmseg/SETRMLAHead cannot be had: it takes maps that are all of one stride" in out


@pytest.fixture
def anew(monkeypatch):
    """As if nothing had been imported of mmseg, of mmcv and of the adapter."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("mmseg", "mmcv", "mmengine") or name.startswith("composer.adapters.mmseg.modules"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("composer.adapters.mmseg.modules", raising=False)


def refused_to_build():
    graph = composer.chain(Toy(features=PYRAMID), head("FCNHead"))
    composer.infer(graph)
    with pytest.raises(composer.SpecError) as caught:
        composer.build(graph)
    return str(caught.value)


PACKAGES = "'onedl-mmsegmentation>=1.4.2,<2' 'mmcv-lite>=2.1,<2.2' 'mmengine>=0.10.7,<1'"


@pytest.mark.usefixtures("anew")
def test_a_missing_install_is_an_error_of_the_spec(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmseg", None)
    assert refused_to_build() == (
        f"error[install] decoder: mmseg/FCNHead needs mmseg (got no installation of it).\n  fix: pip install {PACKAGES}"
    )


BROKEN = {
    "no mmcv": ("", "ModuleNotFoundError: import of mmcv halted; None in sys.modules"),
    "another mmcv": ("assert False, 'MMCV==2.2.0 is used but incompatible'", "AssertionError: MMCV==2.2.0 is used but"),
    "no compiler": ("raise OSError('libGL.so.1: cannot open shared object file')", "OSError: libGL.so.1: cannot open"),
}
"""What an mmseg does when it is imported, and what is said of it."""


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize(("does", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_install_is_an_error_of_the_spec(tmp_path, monkeypatch, does, said):
    (tmp_path / "mmseg").mkdir()
    (tmp_path / "mmseg" / "__init__.py").write_text(f"{does}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "mmcv", None)
    message = refused_to_build()
    assert message.startswith(
        f"error[install] decoder: mmseg/FCNHead needs mmseg, which cannot be imported (got {said}"
    )
    assert message.endswith(f"\n  fix: pip install --force-reinstall {PACKAGES}")
