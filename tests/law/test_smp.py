"""The law for the decoders of smp, each by its name: what is promised is given, and what is refused fails or lies."""

from __future__ import annotations

from fractions import Fraction

import pytest
from attrs import evolve
from hypothesis import strategies as st

import composer
from composer.adapters.smp.contracts import build_call, list_channels
from composer.adapters.smp.parts import SMP_DECODER_ARGUMENTS, SMP_INTERPOLATIONS, SMP_NORMS
from composer.parts.rules import is_map
from tests.law.strategies import features, levels, rates, replace_channels, widths
from tests.law.test_graphs import check_graphs
from tests.law.test_parts import check_rules
from tests.law.toys import Toy

pytest.importorskip("segmentation_models_pytorch", reason="the extra smp is not installed")
import composer.adapters.smp.modules

VALUES = {
    "decoder_channels": widths,
    "decoder_use_norm": st.sampled_from(SMP_NORMS),
    "decoder_attention_type": st.sampled_from((None, None, "scse")),
    "decoder_interpolation": st.sampled_from(SMP_INTERPOLATIONS),
    "decoder_pab_channels": widths,
    "decoder_pyramid_channels": widths,
    "decoder_segmentation_channels": st.sampled_from((32, 32, 32, 64, 20)),
    "decoder_merge_policy": st.sampled_from(("add", "cat")),
    "decoder_dropout": rates,
    "psp_out_channels": widths,
    "psp_dropout": rates,
    "decoder_atrous_rates": st.sampled_from(((12, 24, 36), (1, 2, 3))),
    "decoder_aspp_separable": st.booleans(),
    "decoder_aspp_dropout": rates,
    "decoder_readout": st.sampled_from(("cat", "cat", "add", "ignore")),
    "decoder_intermediate_channels": st.lists(widths, min_size=1, max_size=5),
    "decoder_fusion_channels": widths,
}
"""How each argument is drawn where a decoder has it; lists of widths are drawn to fit."""

LIST = "decoder_intermediate_channels"
"""The argument that is always a list of widths."""


@st.composite
def decoders(draw, name: str, given):
    """A decoder of smp, with all its arguments; lists of widths mostly fit, and now and then an argument is strange."""
    known = SMP_DECODER_ARGUMENTS[name]
    told = {argument: draw(VALUES[argument]) for argument in known}
    if name == "DPT":
        fitting = st.lists(widths, min_size=len(given), max_size=len(given))
        told[LIST] = draw(fitting if draw(st.integers(0, 7)) else VALUES[LIST])
    else:
        # A finest feature that is no map does no harm as level 0, at most.
        told["first_level"] = draw(st.sampled_from((None, 0, 1, 2) if is_map(given[0]) else (0, 0, 0, 1)))
        call = build_call(composer.Smp(name, first_level=told["first_level"]), given)
        depth = max(len(list_channels(call)) - 1, 1)
        wide = told.get("decoder_attention_type") and draw(st.integers(0, 3))
        fitting = st.lists(st.sampled_from((16, 24)) if wide else widths, min_size=depth, max_size=depth)
    if isinstance(known.get("decoder_channels"), tuple):
        told["decoder_channels"] = draw(fitting if draw(st.integers(0, 7)) else VALUES[LIST] | widths)
    elif "decoder_channels" in told and draw(st.integers(0, 7)) == 0:
        told["decoder_channels"] = draw(fitting)
    if draw(st.integers(0, 9)) == 0:
        strange = draw(st.sampled_from(sorted(VALUES.keys() - known)))
        told[strange] = draw(VALUES[strange].filter(lambda value: value is not None))
    return composer.Smp(name, **told)


@st.composite
def inputs(draw, name: str):
    """What the decoder may or may not take: with as many channels as PSPNet can split and LinkNet can quarter."""
    if draw(st.integers(0, 7)) == 0:
        return draw(levels())
    given = draw(tokens() if name == "DPT" and draw(st.booleans()) else pyramids(name))
    if name == "PSPNet" and draw(st.integers(0, 2)):
        given = tuple(replace_channels(f, draw(st.sampled_from((20, 28)))) for f in given)
    if name == "Linknet" and draw(st.integers(0, 7)) == 0:
        given = tuple(replace_channels(f, draw(st.sampled_from((3, 11)))) for f in given)
    return given


COUNTS = {"FPN": (3, 4, 4, 5, 5), "UnetPlusPlus": (2, 3, 3, 4, 4), "PAN": (2, 3, 3, 4, 5, 5)}
"""How many maps are drawn: such that some are too few, where there is such a number."""

SHAPES = (*["plain"] * 6, "dilated", "flat", "no level 1", *["upside down"] * 2, *["other layout"] * 4)


@st.composite
def pyramids(draw, name: str):
    """Maps whose stride doubles, or not always; or upside down, or with a first or last one of another layout.

    Without a level 1 they are the image itself, and what follows from a quarter of its resolution.
    """
    shape = draw(st.sampled_from(SHAPES))
    count = draw(st.sampled_from(COUNTS.get(name, (1, 2, 3, 3, 4, 4, 5))))
    firsts = (1, 2, 4) if count < 5 else (1, 2)
    first = draw(st.sampled_from(firsts))
    strides = [Fraction(first * 2**level) for level in range(count)]
    if shape == "flat":
        strides = [strides[0]] * count
    if shape == "dilated" and count > 1:
        strides[-1] = strides[-2]
    if shape == "no level 1":
        strides = [Fraction(1), *(Fraction(4 * 2**level) for level in range(count - 1))]
    if shape == "upside down":
        strides.reverse()
    maps = [draw(features(axes="b c h w", stride=stride)) for stride in strides]
    if shape == "other layout":
        place = draw(st.sampled_from((0, 0, 0, -1)))
        maps[place] = draw(features(axes=draw(st.sampled_from((None, "b h w c"))), stride=strides[place]))
    return tuple(maps)


@st.composite
def tokens(draw):
    """What the blocks of a ViT give: tokens of one stride, with a prefix or without."""
    stride = draw(st.sampled_from((4, 8, 8, 12)))
    like = evolve(draw(features(axes="b n c", stride=Fraction(stride))), frames=1)
    if draw(st.integers(0, 3)):
        like = evolve(like, offset=0)
    count = draw(st.sampled_from((1, 2, 3, 4, 4)))
    prefixes = st.sampled_from((0, 1) if draw(st.integers(0, 3)) == 0 else (like.prefix,))
    return (like, *(evolve(like, prefix=draw(prefixes)) for _ in range(count - 1)))


PYRAMID = {("argument", "raises"), ("count", "raises"), ("layout", "raises")}
DOUBLED = {("layout", "policy"), ("index", "raises"), ("stride", "raises"), ("stride", "raises")}
RULES = {
    "Unet": PYRAMID | {("channels", "raises"), ("layout", "wrong_output"), ("index", "policy"), ("stride", "policy")},
    "UnetPlusPlus": PYRAMID | DOUBLED | {("channels", "raises")},
    "MAnet": PYRAMID | DOUBLED,
    "Linknet": PYRAMID | DOUBLED | {("channels", "raises")},
    "FPN": PYRAMID | DOUBLED | {("channels", "raises")},
    "PSPNet": {("argument", "raises"), ("layout", "raises"), ("channels", "raises")},
    "DeepLabV3": {("argument", "raises"), ("layout", "raises"), ("count", "raises")},
    "DeepLabV3Plus": PYRAMID | {("layout", "policy"), ("stride", "raises")},
    "PAN": PYRAMID | {("layout", "policy"), ("count", "policy"), ("index", "policy")},
    "UPerNet": PYRAMID | {("layout", "policy"), ("index", "policy")},
    "Segformer": PYRAMID | {("layout", "wrong_output"), ("index", "policy")},
    "DPT": PYRAMID | {("prefix", "raises"), ("stride", "raises"), ("stride", "wrong_output")},
}
"""Every rule by which each decoder refuses, and its kind. One never drawn fails the test, as does one not listed."""


def test_every_decoder_is_held_to_the_law():
    assert RULES.keys() == composer.Smp.names.keys()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", RULES)
def test_a_decoder_of_smp_keeps_its_promise_and_refuses_with_cause(name):
    check_rules(cases(name), RULES[name])


@st.composite
def cases(draw, name: str):
    """A decoder, and what it is fed."""
    given = draw(inputs(name))
    return draw(decoders(name, given)), (given,)


@st.composite
def graphs(draw, name: str):
    """An encoder that gives what a test draws, the decoder, and a head."""
    given = draw(inputs(name))
    part = draw(decoders(name, given))
    head = composer.SegmentationHead(num_classes=7)
    return composer.chain(Toy(features=given), part, head, rescale=draw(st.booleans()))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", RULES)
def test_a_graph_with_a_decoder_of_smp_is_what_infer_says(name):
    check_graphs(10, graphs(name))
