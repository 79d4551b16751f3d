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


def head(name, **arguments):
    return composer.Mmseg(name, **{"num_classes": 5, **arguments})


@pytest.mark.parametrize("name", MMSEG_HEAD_ARGUMENTS)
def test_the_output_of_maps_and_the_refusal_of_tokens(name):
    sizes = composer.SizeConstraint(multiple=32 if name == "SETRUPHead" else 1)
    scores = Feature(channels=5, stride=STRIDES.get(name, 32))
    assert composer.contract(head(name), PYRAMID) == composer.Outputs(features=[scores], sizes=sizes)
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(Toy(features=TOKENS), head(name)))
    assert str(caught.value) == (
        f'error[layout] decoder: mmseg/{name} takes maps "b c h w"; encoder gives 4 × tokens "b n c" (384 channels, '
        "stride 16, 1 prefix token).\n  fix: necks: [ReshapeTokensToImage]"
    )


WHOLE = 'gives scores at the grid of the first map, so strides must not decrease; encoder gives 4 × map "b c h w"'
DOWN = f"{WHOLE} (128, 96, 64, 32 channels, stride 32, 16, 8, 4).\n  fix: in_index: [3, 2, 1, 0]"
REFUSALS = {
    "an argument of another head": (
        head("PSPHead", num_convs=2),
        "[argument] decoder.num_convs: mmseg/PSPHead has no argument num_convs (got 2).\n  fix: did you mean num_classes?",
    ),
    "an argument that it would overlook": (
        head("SegmenterMaskTransformerHead", channels=64),
        "[argument] decoder.channels: mmseg/SegmenterMaskTransformerHead has no argument channels (got 64).\n  fix: known: act, attn_drop_rate, drop_path_rate, drop_rate, embed_dims, in_index, mlp_ratio, num_classes, num_heads, num_layers",
    ),
    "an index too far": (
        head("FCNHead", in_index=4),
        "[index] decoder.in_index: mmseg/FCNHead takes feature 4 (got 4 features).\n  fix: use in_index from -4 to 3",
    ),
    "one of several indices": (
        head("UPerHead", in_index=[0, 5]),
        "[index] decoder.in_index[1]: mmseg/UPerHead takes feature 5 (got 4 features).\n  fix: use in_index from -4 to 3",
    ),
    "a list for one map": (
        head("FCNHead", in_index=[2, 3]),
        "[type] decoder.in_index: mmseg/FCNHead takes one map, so in_index is a whole number (got [2, 3]).\n  fix: input_transform: resize_concat",
    ),
    "an index for several maps": (
        head("UPerHead", in_index=3),
        "[type] decoder.in_index: mmseg/UPerHead takes several maps, so in_index is a list (got 3).\n  fix: in_index: [3]",
    ),
    "three maps for ANN": (
        head("ANNHead", in_index=[1, 2, 3]),
        "[count] decoder.in_index: mmseg/ANNHead takes two maps (got 3 maps).\n  fix: in_index: [-2, -1]",
    ),
    "indices upside down": (
        head("UPerHead", in_index=[3, 1]),
        f"[index] decoder.in_index: mmseg/UPerHead {WHOLE} (32, 64, 96, 128 channels, stride 4, 8, 16, 32).\n  fix: in_index: [1, 3]",
    ),
    "a width in groups": (
        head("FCNHead", norm="GN", channels=100),
        "[channels] decoder.channels: mmseg/FCNHead normalises in 32 groups, so channels must be a multiple of 32 (got 100).\n  fix: channels: 128",
    ),
    "a default in groups": (
        head("DepthwiseSeparableASPPHead", norm="GN"),
        "[channels] decoder.c1_channels: mmseg/DepthwiseSeparableASPPHead normalises in 32 groups, so c1_channels must be a multiple of 32 (got 48).\n  fix: c1_channels: 64",
    ),
    "a squeeze by eight": (
        head("CCHead", channels=4),
        "[channels] decoder.channels: mmseg/CCHead squeezes channels, so there must be at least 8 (got 4).\n  fix: channels: 8",
    ),
    "uneven heads": (
        head("SegmenterMaskTransformerHead", num_heads=3),
        "[channels] decoder.num_heads: mmseg/SegmenterMaskTransformerHead splits embed_dims, here 128, evenly into num_heads (got 3).\n  fix: num_heads: 2",
    ),
    "FCN without convolutions": (
        head("FCNHead", num_convs=0),
        "[channels] decoder.channels: mmseg/FCNHead has no convolution to change the width of the map, so channels must be that (got 512 for 128).\n  fix: channels: 128",
    ),
    "a separable FCN without convolutions": (
        head("DepthwiseSeparableFCNHead", num_convs=0),
        "[count] decoder.num_convs: mmseg/DepthwiseSeparableFCNHead has one convolution at least (got 0).\n  fix: num_convs: 1",
    ),
    "a single class": (
        head("SegmenterMaskTransformerHead", num_classes=1),
        "[value] decoder.num_classes: mmseg/SegmenterMaskTransformerHead normalises scores over the classes, so it takes two at least (got 1).\n  fix: num_classes: 2",
    ),
}


def refuse(part, features):
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(Toy(features=features), part))
    return str(caught.value)


@pytest.mark.parametrize(("part", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_head_refuses_arguments(part, message):
    assert refuse(part, PYRAMID) == f"error{message}"


@pytest.mark.parametrize("name", ["UPerHead", "FPNHead", "SegformerHead", "LightHamHead"])
def test_maps_upside_down_are_refused(name):
    assert refuse(head(name), UPSIDE_DOWN) == f"error[index] decoder.in_index: mmseg/{name} {DOWN}"


def test_a_first_map_that_is_coarser_is_refused():
    assert refuse(head("DepthwiseSeparableASPPHead"), UPSIDE_DOWN) == (
        "error[index] decoder: mmseg/DepthwiseSeparableASPPHead refines a map with the first of all, so that one must not be coarser (got stride 32 for 4).\n  fix: necks: [SelectIndices: {indices: [3, 2, 1, 0]}]"
    )


@pytest.mark.parametrize(
    ("name", "channels", "arguments"),
    [
        ("DepthwiseSeparableFCNHead", 100, {}),
        ("ANNHead", 48, {}),
        ("DepthwiseSeparableASPPHead", 48, {"c1_channels": 64}),
    ],
)
def test_maps_that_are_normalised_first_are_refused_if_groups_do_not_divide_them(name, channels, arguments):
    maps = (Feature(channels=channels, stride=8),) * 2
    message = refuse(head(name, norm="GN", **arguments), maps)
    assert message.startswith(
        f"error[channels] decoder.norm: mmseg/{name} normalises the maps in 32 groups too, so their channels must be a multiple of 32; encoder gives"
    )
    assert message.endswith("\n  fix: norm: BN")


@pytest.mark.parametrize(("ratio", "channels"), [(1 / 3, 3), (0.1, 10), (0.07, 15)], ids=["third", "tenth", "odd"])
def test_the_least_width_of_a_squeeze(ratio, channels):
    """As int(channels * ratio) in mmcv, which rounds as floats do."""
    assert int(channels * ratio) > 0
    assert isinstance(composer.contract(head("GCHead", ratio=ratio, channels=channels), PYRAMID), composer.Outputs)
    rejection = composer.contract(head("GCHead", ratio=ratio, channels=channels - 1), PYRAMID)
    assert rejection.change == Change("channels", channels)


FIELDS = {
    "kernel_size must be odd, or the map would grow (got 2)": {"kernel_size": 2},
    "norm must be one of null, BN, GN, false (got 'LN')": {"norm": "LN"},
    "ratio must be a number above 0 (got 0)": {"ratio": 0},
    "temperature must be a number above 0 (got True)": {"temperature": True},
    "down_factor must be two whole numbers, of rows and of columns (got (8,))": {"down_factor": [8]},
    "fusion_types must be one of channel_add, channel_mul (got 'add')": {"fusion_types": ["add"]},
    "pool_scales must have at least one entry": {"pool_scales": []},
    "align_corners must be true or false (got 1)": {"align_corners": 1},
}


@pytest.mark.parametrize(("message", "field"), FIELDS.items(), ids=[next(iter(field)) for field in FIELDS.values()])
def test_what_a_field_must_be(message, field):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        head("FCNHead", **field)


def spec(name):
    return f"encoder: {{timm/resnet18: {{out_indices: [1, 2, 3, 4]}}}}\ndecoder: {{mmseg/{name}: {{num_classes: 3}}}}\n"


@pytest.mark.parametrize("name", UNSUPPORTED_HEADS)
def test_heads_that_cannot_be_had_are_refused_with_the_reason(name):
    reason, instead = UNSUPPORTED_HEADS[name]
    assert instead in MMSEG_HEAD_ARGUMENTS
    assert name not in MMSEG_HEAD_ARGUMENTS
    with pytest.raises(composer.SpecError) as caught:
        composer.reads(spec(name))
    assert str(caught.value) == (
        f"<text>:2:10: error[part] decoder: mmseg/{name} cannot be had: {reason}.\n  fix: use mmseg/{instead}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(f'{name} cannot be had: {reason}; {instead} can')}$"):
        head(name)


def test_a_name_that_nobody_knows():
    with pytest.raises(composer.SpecError) as caught:
        composer.reads(spec("UperHead"))
    (problem,) = caught.value.problems
    assert problem.message == "there is no decoder 'mmseg/UperHead'."
    assert "mmseg/UPerHead" in problem.fix


def test_the_list_shows_what_can_be_had_and_what_not(capsys):
    assert main(["list", "decoders", "mmseg/S*"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "mmseg/STDCHead STDC: an FCN head" in out
    assert "num_classes (required)" in out
    assert "mmseg/SETRMLAHead cannot be had: it takes maps that are all of one stride" in out


PACKAGES = "'onedl-mmsegmentation>=1.4.2,<2' 'mmcv-lite>=2.1,<2.2' 'mmengine>=0.10.7,<1'"
BROKEN = {
    "no mmcv": ("", "ModuleNotFoundError: import of mmcv halted; None in sys.modules"),
    "another mmcv": ("assert False, 'MMCV==2.2.0 is used but incompatible'", "AssertionError: MMCV==2.2.0 is used but"),
    "no compiler": ("raise OSError('libGL.so.1: cannot open shared object file')", "OSError: libGL.so.1: cannot open"),
}
"""What an mmseg does when it is imported, and what is said of it."""


@pytest.fixture
def forgotten(monkeypatch):
    """As if nothing had been imported of mmseg, of mmcv and of the adapter."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("mmseg", "mmcv", "mmengine") or name.startswith("composer.adapters.mmseg.modules"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("composer.adapters.mmseg.modules", raising=False)


def refuse_to_build():
    graph = composer.chain(Toy(features=PYRAMID), head("FCNHead"))
    composer.infer(graph)
    with pytest.raises(composer.SpecError) as caught:
        composer.build(graph)
    return str(caught.value)


@pytest.mark.usefixtures("forgotten")
def test_a_missing_install_is_an_error_of_the_spec(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmseg", None)
    assert refuse_to_build() == (
        f"error[install] decoder: mmseg/FCNHead needs mmseg (got no installation of it).\n  fix: pip install {PACKAGES}"
    )


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(("does", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_install_is_an_error_of_the_spec(tmp_path, monkeypatch, does, said):
    (tmp_path / "mmseg").mkdir()
    (tmp_path / "mmseg" / "__init__.py").write_text(f"{does}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "mmcv", None)
    message = refuse_to_build()
    assert message.startswith(
        f"error[install] decoder: mmseg/FCNHead needs mmseg, which cannot be imported (got {said}"
    )
    assert message.endswith(f"\n  fix: pip install --force-reinstall {PACKAGES}")
