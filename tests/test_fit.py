"""fit(): what is put in mends, nothing less would, and what no neck mends is said to be so."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import composer
from composer.cli.main import main
from composer.layouts import Feature
from composer.neck_paths import apply_neck as after
from composer.neck_paths import find_paths, format_necks_entry, iter_candidate_necks, pick_evenly_spaced
from composer.parts.base import contract
from composer.parts.encoders import EncoderInfo
from composer.parts.rules import Rejection

PLAIN = "b c h w"


def pyramid(*strides, axes=PLAIN, width=32):
    return [Feature(channels=width * 2**i, stride=stride, axes=axes) for i, stride in enumerate(strides)]


def flat(count, axes=PLAIN, stride=16, prefix=0, frames=1):
    return [Feature(channels=64, stride=stride, axes=axes, prefix=prefix, frames=frames) for _ in range(count)]


NETWORKS = {
    "resnet18": pyramid(2, 4, 8, 16, 32),
    "convnext_tiny": pyramid(4, 8, 16, 32, width=96),
    "swin_tiny_patch4_window7_224": pyramid(4, 8, 16, 32, axes="b h w c", width=96),
}
DEEP = "vit_tiny_patch16_224"


def known(part, channels):
    """What a few networks give, without timm: a deep one of one stride gives its last three levels by itself."""
    if part.name != DEEP:
        return EncoderInfo(features=NETWORKS[part.name], channels=channels)
    levels = flat(12, "b n c", prefix=5) if part.tokens else flat(12)
    indices = part.out_indices or (9, 10, 11)
    return EncoderInfo(features=[levels[index] for index in indices], channels=channels, levels=12)


SWIN = "encoder: timm/swin_tiny_patch4_window7_224\n"
TOKENS = f"encoder: {{timm/{DEEP}: {{tokens: true}}}}\n"
UNET = "decoder: {UNetDecoder: {channels: [256, 128, 64, 32]}}\n"
HEAD = "head: {SegmentationHead: {num_classes: 2}}\n"
AUX = "aux:\n  a: {decoder: {FCNDecoder: {in_index: 4}}, head: RegressionHead}\n"
TWO = """\
inputs: {{a: {{}}, b: {{channels: 2}}}}
nodes:
  one: {{part: timm/resnet18, from: a}}
  other: {{part: timm/{other}, from: b}}
  both: {{part: {join}, from: [one, other]}}
  out: {{part: {{LinearDecoder: {{num_classes: 8, upsampling_size: 4}}}}, from: both}}
outputs: [out]
"""

MENDED = {
    "a deep network and a U-Net": (
        f"encoder: timm/{DEEP}\n{UNET}{HEAD}",
        (
            f"encoder: {{timm/{DEEP}: {{out_indices: [2, 5, 8, 11]}}}}\n"
            f"necks:\n  - LearnedInterpolateToPyramidal\n{UNET}{HEAD}"
        ),
    ),
    "levels that are written stay": (
        f"encoder: {{timm/{DEEP}: {{out_indices: [0, 1, 2]}}}}\n{UNET}{HEAD}",
        (
            f"encoder: {{timm/{DEEP}: {{out_indices: [0, 1, 2]}}}}\n"
            f"necks:\n  - AddBottleneckLayer\n  - LearnedInterpolateToPyramidal\n{UNET}{HEAD}"
        ),
    ),
    "channels last": (
        f"{SWIN}{UNET}{HEAD}",
        f"{SWIN}necks:\n  - PermuteDims: {{new_order: [0, 3, 1, 2]}}\n{UNET}{HEAD}",
    ),
    "five levels and a decoder of four": (
        f"encoder: timm/resnet18\n{UNET}{HEAD}",
        f"encoder: timm/resnet18\nnecks:\n  - SelectIndices: {{indices: [1, 2, 3, 4]}}\n{UNET}{HEAD}",
    ),
    "tokens with registers": (
        f"{TOKENS}decoder: UperNetDecoder\n{HEAD}",
        f"{TOKENS}necks:\n  - ReshapeTokensToImage\ndecoder: UperNetDecoder\n{HEAD}",
    ),
    "tokens of a deep network and a U-Net": (
        f"encoder: {{timm/{DEEP}: {{tokens: true}}}}\n{UNET}{HEAD}",
        (
            f"encoder: {{timm/{DEEP}: {{out_indices: [2, 5, 8, 11], tokens: true}}}}\n"
            f"necks:\n  - ReshapeTokensToImage\n  - LearnedInterpolateToPyramidal\n{UNET}{HEAD}"
        ),
    ),
    "a head without a decoder": (
        f"encoder: timm/convnext_tiny\n{HEAD}",
        f"encoder: timm/convnext_tiny\ndecoder: IdentityDecoder\n{HEAD}",
    ),
    "a neck between others": (
        (
            "encoder: timm/swin_tiny_patch4_window7_224\nnecks:\n  - SelectIndices: {indices: [0, 1]}\n"
            f"  - AddBottleneckLayer\ndecoder: UperNetDecoder\n{HEAD}"
        ),
        (
            "encoder: timm/swin_tiny_patch4_window7_224\nnecks:\n  - SelectIndices: {indices: [0, 1]}\n"
            "  - PermuteDims: {new_order: [0, 3, 1, 2]}\n  - AddBottleneckLayer\n"
            f"decoder: UperNetDecoder\n{HEAD}"
        ),
    ),
    "a branch that takes what the trunk does not": (
        f"encoder: timm/resnet18\n{UNET}{HEAD}{AUX}",
        # In the chain the branch would have four levels too, and no fifth.
        """\
inputs: {image: {}}
nodes:
  encoder: {part: timm/resnet18, from: image}
  select_indices: {part: {SelectIndices: {indices: [1, 2, 3, 4]}}, from: encoder}
  decoder: {part: {UNetDecoder: {channels: [256, 128, 64, 32]}}, from: select_indices}
  head: {part: {SegmentationHead: {num_classes: 2}}, from: decoder}
  aux.a.decoder: {part: {FCNDecoder: {in_index: 4}}, from: encoder}
  aux.a.head: {part: RegressionHead, from: aux.a.decoder}
outputs: [head]
auxiliary: {a: aux.a.head}
""",
    ),
    "branches of other strides": (
        TWO.format(other="convnext_tiny", join="ConcatFeatures"),
        """\
inputs: {a: {}, b: {channels: 2}}
nodes:
  one: {part: timm/resnet18, from: a}
  other: {part: timm/convnext_tiny, from: b}
  select_indices: {part: {SelectIndices: {indices: [1, 2, 3, 4]}}, from: one}
  both: {part: ConcatFeatures, from: [select_indices, other]}
  out: {part: {LinearDecoder: {num_classes: 8, upsampling_size: 4}}, from: both}
outputs: [out]
""",
    ),
    "branches of other layouts, to be added up": (
        TWO.format(other="swin_tiny_patch4_window7_224", join="AddFeatures"),
        """\
inputs: {a: {}, b: {channels: 2}}
nodes:
  one: {part: timm/resnet18, from: a}
  other: {part: timm/swin_tiny_patch4_window7_224, from: b}
  select_indices: {part: {SelectIndices: {indices: [1, 2, 3, 4]}}, from: one}
  feature_pyramid_network_neck: {part: FeaturePyramidNetworkNeck, from: select_indices}
  permute_dims: {part: {PermuteDims: {new_order: [0, 3, 1, 2]}}, from: other}
  feature_pyramid_network_neck_2: {part: FeaturePyramidNetworkNeck, from: permute_dims}
  both: {part: AddFeatures, from: [feature_pyramid_network_neck, feature_pyramid_network_neck_2]}
  out: {part: {LinearDecoder: {num_classes: 8, upsampling_size: 4}}, from: both}
outputs: [out]
""",
    ),
}


@pytest.mark.parametrize(("spec", "mended"), MENDED.values(), ids=MENDED)
def test_the_fewest_necks_are_put_in(spec, mended):
    found = composer.autofix(composer.reads(spec), known)

    assert composer.write(found) == mended
    assert composer.infer(composer.reads(mended), known).graph == found


@pytest.mark.parametrize(("spec", "mended"), MENDED.values(), ids=MENDED)
def test_what_is_lawful_stays_as_it_is(spec, mended):
    graph = composer.reads(mended)

    assert composer.autofix(graph, known) is graph


UNMENDED = {
    "a head behind a prediction": (
        f"encoder: timm/resnet18\ndecoder: {{LinearDecoder: {{num_classes: 2, upsampling_size: 2}}}}\n{HEAD}",
        "head",
    ),
    "more widths than levels can be made": (
        "encoder: timm/convnext_tiny\ndecoder: {UNetDecoder: {channels: [64, 64, 64, 64, 64, 64, 64, 64]}}\n",
        "count",
    ),
    "a level that is not there": (
        "encoder: timm/convnext_tiny\ndecoder: {FCNDecoder: {in_index: 9}}\n",
        "index",
    ),
}


@pytest.mark.parametrize(("spec", "code"), UNMENDED.values(), ids=UNMENDED)
def test_what_nothing_mends_is_said_with_its_problems(spec, code):
    with pytest.raises(composer.SpecError) as caught:
        composer.autofix(composer.reads(spec), known)

    first, last = caught.value.problems
    assert first.code == code
    assert str(last) == "error[fit] neither necks nor other levels of an encoder mend this."


LAYOUTS = st.sampled_from([PLAIN, "b h w c", "b n c", "b t c h w"])
FEATURES = st.one_of(
    st.builds(flat, st.integers(1, 5), LAYOUTS, prefix=st.just(0)),
    st.builds(
        lambda count, axes: pyramid(*(2 ** (i + 1) for i in range(count)), axes=axes), st.integers(1, 5), LAYOUTS
    ),
)
TAKERS = [
    composer.UNetDecoder(channels=[64, 32, 16]),
    composer.UperNetDecoder(),
    composer.FCNDecoder(),
    composer.MLPDecoder(),
    composer.LearnedInterpolateToPyramidal(),
    composer.SegmentationHead(num_classes=2),
]


@given(FEATURES, st.sampled_from(TAKERS))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_shorter_way_is_there(features, part):
    """Against all chains of up to two necks, one after the other."""

    def takes(given):
        return not isinstance(contract(part, given), Rejection)

    one = [(neck,) for neck, _ in iter_candidate_necks(tuple(features))]
    two = [
        (first, second) for (first,) in one for second, _ in iter_candidate_necks(after(first, tuple(features)) or ())
    ]
    lengths = [len(necks) for necks in [(), *one, *two] if (out := run(necks, features)) and takes(out)]
    best = next(find_paths(tuple(features), takes), None)

    assert (best is None or best.length > 2) if not lengths else best.length == min(lengths)


def run(necks, features):
    features = tuple(features)
    for neck in necks:
        features = features and after(neck, features)
    return features


def test_the_best_way_is_written_as_a_spec_writes_it():
    necks = next(find_paths(tuple(flat(12)), lambda f: not isinstance(contract(TAKERS[4], f), Rejection))).necks

    assert format_necks_entry((*necks, TAKERS[4])) == (
        "necks: [SelectIndices: {indices: [2, 5, 8, 11]}, LearnedInterpolateToPyramidal]"
    )


def test_of_a_pyramid_the_coarsest_level_is_picked():
    takes = lambda features: len(features) == 1  # noqa: E731

    assert next(find_paths(tuple(pyramid(4, 8, 16, 32)), takes)).necks == (composer.SelectIndices(indices=[3]),)


@pytest.mark.parametrize(
    ("levels", "fewer", "picked"),
    [(12, 4, (2, 5, 8, 11)), (24, 4, (5, 11, 17, 23)), (12, 1, (11,)), (5, 5, (0, 1, 2, 3, 4)), (5, 2, (1, 4))],
)
def test_levels_are_spread_evenly(levels, fewer, picked):
    assert pick_evenly_spaced(levels, fewer) == picked


@pytest.fixture
def spec(tmp_path):
    file = tmp_path / "model.yaml"
    file.write_text(
        f"encoder: timm/test_resnet\ndecoder: {{UNetDecoder: {{channels: [16, 8]}}}}\n{HEAD}", encoding="utf-8"
    )
    return file


MENDED_FILE = """\
encoder: timm/test_resnet
necks:
  - SelectIndices: {indices: [3, 4]}
decoder: {UNetDecoder: {channels: [16, 8]}}
head: {SegmentationHead: {num_classes: 2}}
"""


def test_the_command_prints_what_it_mended(spec, capsys):
    before = spec.read_text(encoding="utf-8")

    assert main(["fit", str(spec)]) == 0
    assert capsys.readouterr() == (MENDED_FILE, "")
    assert spec.read_text(encoding="utf-8") == before


def test_the_command_writes_in_place(spec, capsys):
    assert main(["fit", str(spec), "--write"]) == 0
    assert capsys.readouterr() == ("", f"wrote {spec}\n")
    assert spec.read_text(encoding="utf-8") == MENDED_FILE
    assert [file.name for file in spec.parent.iterdir()] == ["model.yaml"]


def test_the_command_has_nothing_to_do(spec, capsys):
    spec.write_text(MENDED_FILE, encoding="utf-8")

    assert main(["fit", str(spec), "--write"]) == 0
    assert capsys.readouterr() == ("", f"{spec}: ok, there is nothing to mend\n")


def test_the_command_loses_no_comments(spec, capsys):
    spec.write_text("# the first\n" + spec.read_text(encoding="utf-8"), encoding="utf-8")
    before = spec.read_text(encoding="utf-8")

    assert main(["fit", str(spec), "--write"]) == 2
    assert capsys.readouterr().err == (
        f"{spec}: what is written has no comments, and this file may have some; leave --write out.\n"
    )
    assert spec.read_text(encoding="utf-8") == before
