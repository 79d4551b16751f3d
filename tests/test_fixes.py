"""Fixes: what is printed is what is applied, it makes the spec valid, and it is what somebody may have meant."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import composer
from composer.cli.main import main
from composer.edits import FixedSpec, fix_text
from composer.errors import Fix
from composer.layouts import Feature
from composer.neck_paths import NeckPath, expand_paths, iter_candidate_necks, pick_evenly_spaced
from composer.neck_paths import apply_part as after
from composer.parts import SelectIndices

PLAIN = "b c h w"
HEAD = "head: {SegmentationHead: {num_classes: 2}}\n"
CLASSES = "{ClassificationHead: {num_classes: 4}}\n"
UNET = "{UNetDecoder: {channels: [256, 128, 64, 32]}}"
VIT, REGISTERS, SWIN = (
    "timm/vit_tiny_patch16_224",
    "timm/vit_small_patch14_reg4_dinov2",
    "timm/swin_tiny_patch4_window7_224",
)


def chained(encoder, decoder, head=HEAD, necks=None):
    return f"encoder: {encoder}\n{f'necks: [{necks}]{chr(10)}' if necks else ''}decoder: {decoder}\n{head}"


def joined(one, other, join):
    """A graph of two encoders, whose features are joined."""
    return (
        f"inputs: {{a: {{}}, b: {{channels: 2}}}}\nnodes:\n  one: {{part: {one}, from: a}}\n"
        f"  other: {{part: {other}, from: b}}\n  both: {{part: {join}, from: [one, other]}}\n"
        "  out: {part: {LinearDecoder: {num_classes: 8, upsampling_size: 4}}, from: both}\noutputs: [out]\n"
    )


def with_necks(necks):
    """The change that gives a chain its first necks."""
    return {"\ndecoder:": f"\nnecks: [{necks}]\ndecoder:"}


PYRAMID = with_necks("LearnedInterpolateToPyramidal")
LEVELS = "{out_indices: [2, 5, 8, 11]}"
BLOCKS = """\
# a model
encoder:
  timm/swin_tiny_patch4_window7_224:
    features_only: true   # channels last
necks:
  - SelectIndices: {indices: [0, 1]}
  # one more level
  - AddBottleneckLayer
decoder:
  UNetDecoder:
    channels: [256, 128, 64, 32]  # four
head: {SegmentationHead: {num_classes: 2}}   # two classes
"""
BLOCK_NECKS = f"""\
encoder: {{{VIT}: {{tokens: true}}}}
necks:
  - SelectIndices:
      indices:
        - 0
        - 1
"""
CASES = {
    "a ViT as it is, and a U-Net of four levels": (chained(VIT, UNET), {VIT: f"{{{VIT}: {LEVELS}}}", **PYRAMID}),
    "one level of a ViT and four widths": (
        chained(f"{{{VIT}: {{out_indices: [11]}}}}", UNET),
        {"[11]": "[2, 5, 8, 11]", **PYRAMID},
    ),
    "tokens with registers, and a neck that takes maps": (
        chained(
            f"{{{REGISTERS}: {{out_indices: [2, 5, 8, 11], tokens: true}}}}",
            "FCNDecoder",
            necks="FeaturePyramidNetworkNeck",
        ),
        {"[Feature": "[ReshapeTokensToImage, Feature"},
    ),
    "strides that are not whole": (
        chained("timm/pit_ti_224", "{UNetDecoder: {channels: [128, 64, 32]}}"),
        {"[128, 64, 32]": "[128, 64]", **with_necks("SelectIndices: {indices: [1, 2]}")},
    ),
    "tokens and a classification": (
        f"encoder: {{{VIT}: {{tokens: true}}}}\nhead: {CLASSES}",
        {"\nhead": "\nnecks: [ReshapeTokensToImage]\ndecoder: IdentityDecoder\nhead"},
    ),
    "vectors of several frames and a classification": (
        f"input: {{frames: 4}}\nencoder: {{{VIT}: {{tokens: true}}}}\nnecks: [AggregateTokens]\nhead: {CLASSES}",
        {"Tokens]": "Tokens, TemporalPooling]"},
    ),
    "frames and a decoder of single images": (
        "input: {frames: 4}\n" + chained("timm/convnext_atto", "UperNetDecoder"),
        with_necks("TemporalPooling"),
    ),
    "a head without a decoder": (
        f"encoder: timm/convnext_tiny\n{HEAD}",
        {"\nhead": "\ndecoder: IdentityDecoder\nhead"},
    ),
    "a branch that takes what the trunk does not": (
        chained("timm/resnet18", UNET) + "aux:\n  a: {decoder: {FCNDecoder: {in_index: 4}}, head: RegressionHead}\n",
        {"64, 32]": "64, 32, 16]"},
    ),
    "two branches of other levels": (
        joined(
            "{timm/resnet18: {out_indices: [1, 2, 3]}}", "{timm/resnet18: {out_indices: [2, 3, 4]}}", "ConcatFeatures"
        ),
        {"[1, 2, 3]": "[2, 3, 4]"},
    ),
    "branches of other strides": (
        joined("timm/resnet18", "timm/convnext_tiny", "ConcatFeatures"),
        {
            "  both": "  select_indices: {part: {SelectIndices: {indices: [1, 2, 3, 4]}}, from: one}\n  both",
            "[one,": "[select_indices,",
        },
    ),
    "branches of other layouts, to be added up": (
        joined("timm/resnet18", SWIN, "AddFeatures"),
        {
            "  both": "  select_indices: {part: {SelectIndices: {indices: [1, 2, 3, 4]}}, from: one}\n"
            "  feature_pyramid_network_neck: {part: FeaturePyramidNetworkNeck, from: select_indices}\n"
            "  feature_pyramid_network_neck_2: {part: FeaturePyramidNetworkNeck, from: other}\n  both",
            "[one, other]": "[feature_pyramid_network_neck, feature_pyramid_network_neck_2]",
        },
    ),
    "comments and blocks": (
        BLOCKS,
        {"  - Add": "  - PermuteDims: {new_order: [0, 3, 1, 2]}\n  - Add", "64, 32]": "64]"},
    ),
    "fields and keys after blocks": (
        f"encoder:\n  {VIT}:\n    tokens: true  # all of them\n\ndecoder: {UNET}\n{HEAD}",
        {
            "them\n": "them\n    out_indices: [2, 5, 8, 11]\n"
            "necks: [ReshapeTokensToImage, LearnedInterpolateToPyramidal]\n"
        },
    ),
    "necks after a block of them": (
        BLOCK_NECKS + f"decoder: UperNetDecoder\n{HEAD}",
        {"- 1\n": "- 1\n  - ReshapeTokensToImage\n"},
    ),
    "all in one line": (
        f"{{encoder: {VIT}, decoder: {UNET}, head: RegressionHead}}\n",
        {VIT: f"{{{VIT}: {LEVELS}}}", " decoder:": " necks: [LearnedInterpolateToPyramidal], decoder:"},
    ),
    "a list of necks in one line": (
        chained(
            f"{{{VIT}: {{tokens: true}}}}", "UperNetDecoder", "head: RegressionHead", "SelectIndices: {indices: [0, 1]}"
        ),
        {"1]}]": "1]}, ReshapeTokensToImage]"},
    ),
    "a key without fields": (chained(f"{{{VIT}: }}", UNET), {f"{VIT}: ": f"{VIT}: {LEVELS}", **PYRAMID}),
}


def change(text, changes):
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    return text


FIXES = {name: (spec, change(spec, changes)) for name, (spec, changes) in CASES.items()}


@pytest.mark.parametrize(("spec", "fixed"), FIXES.values(), ids=FIXES)
def test_a_spec_is_fixed_where_it_stands_as_its_graph_is(spec, fixed):
    graph = composer.reads(fixed)

    assert fix_text(spec, "spec.yaml").text == fixed
    assert composer.autofix(composer.reads(spec)) == graph
    assert composer.autofix(graph) is graph
    assert fix_text(fixed, "spec.yaml") == FixedSpec(fixed, (), (), ())


def test_edits_of_several_nodes_are_one_line():
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.reads(FIXES["one level of a ViT and four widths"][0]))

    assert str(caught.value).endswith(
        "\n  fix: encoder.out_indices: [2, 5, 8, 11]; necks: [LearnedInterpolateToPyramidal]"
    )


NETWORKS = ("resnet18", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "pit_ti_224", "inception_v3")
DECODERS = (
    *("FCNDecoder", "UperNetDecoder", "{UNetDecoder: {channels: [64]}}"),
    *("{UNetDecoder: {channels: [64, 32, 16, 8, 8]}}", "smp/FPN", "smp/Unet", "smp/DPT", "smp/DeepLabV3Plus"),
)
PAIRS = [
    pytest.param(network, decoder, marks=[] if (row + column) % 4 == 0 else pytest.mark.slow)
    for (row, network), (column, decoder) in product(enumerate(NETWORKS), enumerate(DECODERS))
]


@pytest.mark.parametrize(("network", "decoder"), PAIRS)
def test_a_fix_that_is_printed_solves_the_problem(network, decoder):
    spec = chained(f"{{timm/{network}: {{tokens: {str('vit' in network).lower()}}}}}", decoder)
    problems = find_problems(spec)
    fixes = [problem.fix for problem in problems if isinstance(problem.fix, Fix)]

    fixed = fix_text(spec, "spec.yaml")

    assert fixed.skipped == ()
    assert len(fixed.applied) == len(fixes)
    assert fixed.problems == (() if fixes else problems)
    assert find_problems(fixed.text) == fixed.problems


def find_problems(spec):
    try:
        composer.infer(composer.reads(spec, name="spec.yaml"))
    except composer.SpecError as error:
        return error.problems
    return ()


UNFIXED = {
    "a head behind a prediction": (
        (
            "inputs: {image: {}}\nnodes:\n  a: {part: timm/resnet18, from: image}\n"
            "  b: {part: {LinearDecoder: {num_classes: 2, upsampling_size: 2}}, from: a}\n"
            "  c: {part: {SegmentationHead: {num_classes: 2}}, from: b}\noutputs: [c]\n"
        ),
        "output",
    ),
    "a level that is not there": ("encoder: timm/convnext_tiny\ndecoder: {FCNDecoder: {in_index: 9}}\n", "index"),
}


@pytest.mark.parametrize(("spec", "code"), UNFIXED.values(), ids=UNFIXED)
def test_without_a_fix_the_problems_say_so(spec, code):
    with pytest.raises(composer.SpecError) as caught:
        composer.autofix(composer.reads(spec))

    first, last = caught.value.problems
    assert first.code == code
    assert str(last) == "error[search] no necks, widths or levels of the encoder solve these problems."


def pyramid(*strides, axes=PLAIN):
    return tuple(Feature(channels=32 * 2**i, stride=stride, axes=axes) for i, stride in enumerate(strides))


def flat(count, axes=PLAIN):
    return (Feature(channels=64, stride=16, axes=axes),) * count


LAYOUTS = st.sampled_from([PLAIN, "b h w c", "b n c", "b t c h w"])
FEATURES = st.one_of(
    st.builds(flat, st.integers(1, 5), LAYOUTS),
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

    one = [(neck,) for neck, _ in iter_candidate_necks(features)]
    two = [(first, second) for (first,) in one for second, _ in iter_candidate_necks(after(first, features) or ())]
    lengths = [len(necks) for necks in [(), *one, *two] if (out := run(necks, features)) and after(part, out)]
    best = next(find_paths(features, lambda found: after(part, found)), None)

    assert (best is None or best.length > 2) if not lengths else best.length == min(lengths)


def find_paths(features, accepts):
    """The paths to what is accepted, the cheapest first."""
    return (path for path in expand_paths([NeckPath(0, 0.0, (), features)]) if accepts(path.features))


def run(necks, features):
    for neck in necks:
        features = features and after(neck, features)
    return features


def test_of_many_levels_evenly_spaced_ones_are_picked():
    path = next(find_paths(flat(12), lambda found: after(TAKERS[4], found)))

    assert path.necks == (SelectIndices(indices=[2, 5, 8, 11]),)


@pytest.mark.parametrize("features", [flat(65), pyramid(*range(65, 0, -1))], ids=["one stride", "the coarsest first"])
def test_only_levels_that_a_spec_can_name_are_selected(features):
    selections = [neck.indices for neck, _ in iter_candidate_necks(features) if isinstance(neck, SelectIndices)]

    assert max(map(max, selections)) == 63


def test_of_a_pyramid_the_coarsest_level_is_picked():
    path = next(find_paths(pyramid(4, 8, 16, 32), lambda found: len(found) == 1))

    assert path.necks == (SelectIndices(indices=[3]),)


@pytest.mark.parametrize(
    ("levels", "fewer", "picked"),
    [(12, 4, (2, 5, 8, 11)), (24, 4, (5, 11, 17, 23)), (12, 1, (11,)), (5, 5, (0, 1, 2, 3, 4)), (5, 2, (1, 4))],
)
def test_levels_are_spread_evenly(levels, fewer, picked):
    assert pick_evenly_spaced(levels, fewer) == picked


SPEC = "# mine\nencoder: timm/test_resnet\ndecoder: {UNetDecoder: {channels: [16, 8]}}  # small\n" + HEAD
FIXED = SPEC.replace("[16, 8]", "[16, 8, 8, 8, 8]")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return path


def test_check_prints_a_diff_and_writes_nothing(file, capsys):
    assert main(["check", str(file), "--diff"]) == 0
    assert capsys.readouterr() == (
        f"""\
--- {file}
+++ {file} (fixed)
@@ -1,4 +1,4 @@
 # mine
 encoder: timm/test_resnet
-decoder: {{UNetDecoder: {{channels: [16, 8]}}}}  # small
+decoder: {{UNetDecoder: {{channels: [16, 8, 8, 8, 8]}}}}  # small
 head: {{SegmentationHead: {{num_classes: 2}}}}
""",
        "",
    )
    assert file.read_text(encoding="utf-8") == SPEC


def test_check_fixes_files_in_place_also_beside_one_that_cannot_be_read(file, capsys):
    missing = file.with_name("none.yaml")
    assert main(["check", str(missing), str(file), "--fix"]) == 2
    assert capsys.readouterr() == (
        f"{file}: decoder.channels: channels: [16, 8, 8, 8, 8]\n",
        f"{missing}: there is no such file; check the path.\n",
    )
    assert file.read_text(encoding="utf-8") == FIXED
    assert [path.name for path in file.parent.iterdir()] == ["model.yaml"]


@pytest.mark.parametrize("option", ["--fix", "--diff"])
def test_check_has_nothing_to_fix(file, capsys, option):
    file.write_text(FIXED, encoding="utf-8")

    assert main(["check", str(file), option]) == 0
    assert capsys.readouterr() == ("", f"{file}: ok, nothing to fix\n")


def test_a_branch_may_put_necks_into_the_trunk():
    spec = chained(f"{{{VIT}: {LEVELS}}}", "FCNDecoder", "head: RegressionHead\n")
    spec += f"aux: {{a: {{decoder: {UNET}, head: RegressionHead}}}}\n"
    applied = "aux.a.decoder: necks: [LearnedInterpolateToPyramidal]"

    assert fix_text(spec, "spec.yaml") == FixedSpec(change(spec, PYRAMID), (applied,), (), ())


def test_a_fix_that_the_text_cannot_express_is_left_to_the_user(file, capsys):
    """A branch of a chain has no necks of its own, and the trunk needs the level that the branch would drop."""
    spec = chained("timm/resnet18", "{FCNDecoder: {in_index: 4}}", "head: RegressionHead\n")
    spec += "aux: {a: {decoder: MLPDecoder, head: RegressionHead}}\n"
    file.write_text(spec, encoding="utf-8")

    assert main(["check", str(file), "--fix"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{file}:4:")
    assert err.startswith(f"{file}: not applied, so edit the spec by hand: aux.a.decoder: put ")
    assert file.read_text(encoding="utf-8") == spec
