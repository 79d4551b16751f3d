"""The law for the heads of mmseg, each by its name: what is promised is given, and what is refused fails or lies."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import strategies as st

import composer
from composer.adapters.mmseg.parts import IGNORED_ARGUMENTS, MMSEG_HEAD_ARGUMENTS, MULTI_MAP_HEADS
from composer.encoder_info import import_adapter
from tests.law.strategies import CHANNELS, features, rates, replace_channels, runs
from tests.law.test_graphs import check_graphs
from tests.law.test_parts import check_rules
from tests.law.toys import Toy

assert import_adapter("mmseg") is None

few = st.sampled_from((1, 2, 6))
widths = st.sampled_from((1, 2, 6, 16, 32))
groups = st.sampled_from((32, 32, 64, 20))
scales = st.lists(st.sampled_from((1, 2, 3, 6)), min_size=1, max_size=3)
activations = st.sampled_from(("ReLU", "LeakyReLU", "ELU", "SiLU", "GELU", "Tanh", "Sigmoid"))

VALUES = {
    "num_classes": st.sampled_from((1, 2, 5, 7)),
    "channels": widths,
    "norm": st.sampled_from(("BN", "GN", "GN", False)),
    "act": activations,
    "dropout_ratio": rates,
    "align_corners": st.booleans(),
    "num_convs": st.sampled_from((0, 1, 1, 2)),
    "kernel_size": st.sampled_from((1, 3)),
    "concat_input": st.booleans(),
    "dilation": st.sampled_from((1, 2)),
    "dilations": st.lists(st.sampled_from((1, 2, 6)), min_size=1, max_size=3),
    "pool_scales": scales,
    "project_channels": widths,
    "key_pool_scales": scales,
    "fusion": st.booleans(),
    "filter_sizes": st.lists(st.sampled_from((1, 2, 3, 4, 5)), min_size=1, max_size=3),
    "recurrence": st.sampled_from((1, 2)),
    "pam_channels": widths,
    "reduction": st.sampled_from((1, 2, 4)),
    "use_scale": st.booleans(),
    "mode": st.sampled_from(("embedded_gaussian", "dot_product")),
    "temperature": st.sampled_from((0.05, 1.0)),
    "c1_channels": widths,
    "ema_channels": widths,
    "num_bases": few,
    "num_stages": few,
    "momentum": st.sampled_from((0.0, 0.1)),
    "num_codes": few,
    "add_lateral": st.booleans(),
    "ratio": st.sampled_from((0.25, 0.5, 1 / 3, 2.0)),
    "pooling_type": st.sampled_from(("att", "avg")),
    "fusion_types": st.sampled_from((["channel_add"], ["channel_mul"], ["channel_add", "channel_mul"])),
    "isa_channels": widths,
    "down_factor": st.sampled_from(((8, 8), (1, 1), (3, 2))),
    "ham_channels": st.sampled_from((6, 16, 32)),
    "MD_S": st.sampled_from((1, 1, 2, 4)),
    "MD_R": few,
    "train_steps": few,
    "eval_steps": few,
    "up_scale": st.sampled_from((1, 2, 4)),
    "interpolate_mode": st.sampled_from(("bilinear", "bicubic")),
    "num_layers": st.sampled_from((1, 2)),
    "num_heads": st.sampled_from((1, 2, 3)),
    "embed_dims": st.sampled_from((4, 6, 64)),
    "mlp_ratio": st.sampled_from((1, 4)),
    "drop_path_rate": rates,
    "drop_rate": rates,
    "attn_drop_rate": rates,
}
"""How each argument is drawn where a head has it, but for which maps it takes."""

NORMED = ("channels", "project_channels", "c1_channels", "ema_channels", "num_codes", "isa_channels", "ham_channels")
OPTIONAL = ("num_heads", "embed_dims")
"""Arguments whose default is the map's to say, and is drawn too."""


KINDS = ("plain", "upside down", "other layout", "fitting", "other", "groups", "strange", "any")
"""What is out of the ordinary in a draw, so that each rule is seen: nothing; the maps' order or layout; `in_index`,
of the fitting type or of another; the groups of a norm; the arguments' names; or anything.
"""


@st.composite
def heads(draw, name: str, given, kind: str):
    """A head, with all its arguments: what is not to be out of the ordinary suits what flows in."""
    told = {argument: draw(VALUES[argument]) for argument in MMSEG_HEAD_ARGUMENTS[name] if argument in VALUES}
    told = {argument: value for argument, value in told.items() if argument not in OPTIONAL or draw(st.booleans())}
    if "norm" in told and kind != "any":
        told["norm"] = "GN" if kind == "groups" else "BN"
    if told.get("norm") == "GN" and kind == "any":
        told |= {argument: draw(groups) for argument in NORMED if argument in told}
    if told.get("num_convs") == 0 and (kind != "any" or draw(st.booleans())):
        told["channels"] = given[-1].channels
    if kind == "strange":
        strange = [argument for argument in VALUES if argument not in MMSEG_HEAD_ARGUMENTS[name]]
        argument = draw(st.sampled_from((*strange, *IGNORED_ARGUMENTS.get(name, ()) * 8)))
        return composer.Mmseg(name, **told, **{argument: draw(VALUES[argument])})
    taken = draw(maps_taken(name, len(given), kind)) if kind in ("any", "fitting", "other") else {}
    return composer.Mmseg(name, **told, **taken)


@st.composite
def maps_taken(draw, name: str, count: int, kind: str):
    """Which maps a head takes: what it can, or a list for an index, or the other way round."""
    if kind == "any":
        kind = draw(st.sampled_from(("left out", "fitting", "other")))
    too_far = kind == "fitting" and draw(st.integers(0, 3)) == 0
    positions = st.sampled_from((-count - 1, count)) if too_far else st.integers(-count, count - 1)
    two = name == "ANNHead" and draw(st.integers(0, 2))
    several = st.lists(positions, min_size=2 if two else 1, max_size=2 if two else 4)
    if kind == "left out":
        return {}
    if name in MULTI_MAP_HEADS:
        return {"in_index": draw(several if kind == "fitting" else positions)}
    able = "input_transform" in MMSEG_HEAD_ARGUMENTS[name]
    if able and draw(st.booleans()):
        chosen = draw(st.sampled_from((None, "list"))) if kind == "fitting" else "index"
        drawn = {None: st.none(), "list": several, "index": positions}[chosen]
        return {"input_transform": "resize_concat", "in_index": draw(drawn)}
    return {"in_index": draw(positions if kind == "fitting" else several)}


@st.composite
def inputs(draw, name: str, kind: str):
    """What the head may or may not take: pyramids, or not quite, with channels that fall into groups now and then."""
    drawn = draw(st.sampled_from(("pyramid", "pyramid", "flat", *(("other layout",) if kind == "any" else ()))))
    shape = kind if kind in ("upside down", "other layout") else drawn
    count = draw(st.sampled_from((2, 3, 3, 1) if name != "ANNHead" else (2, 2, 3, 1)))
    strides = [Fraction(4 if shape == "flat" else 4 * 2**level) for level in range(count)]
    if shape == "upside down":
        strides.reverse()
    maps = [draw(features(axes="b c h w", stride=stride)) for stride in strides]
    if draw(st.integers(0, 2)) == 0:
        maps = [replace_channels(f, 32) for f in maps]
    if shape == "other layout":
        place = draw(st.integers(0, count - 1))
        maps[place] = replace_channels(draw(features(stride=strides[place])), draw(st.sampled_from(CHANNELS)))
    return tuple(maps)


ANY = {("argument", "raises"), ("type", "raises"), ("index", "raises"), ("layout", "raises")}
GROUPED = {("channels", "raises")}
RULES = {
    "ANNHead": ANY | GROUPED | {("count", "raises")},
    "APCHead": ANY | GROUPED,
    "ASPPHead": ANY | GROUPED,
    "CCHead": ANY | GROUPED,
    "DAHead": ANY | GROUPED,
    "DMHead": ANY | GROUPED,
    "DNLHead": ANY | GROUPED,
    "DepthwiseSeparableASPPHead": ANY | GROUPED | {("index", "policy")},
    "DepthwiseSeparableFCNHead": ANY | GROUPED | {("argument", "wrong_output"), ("count", "raises")},
    "EMAHead": ANY | GROUPED,
    "EncHead": ANY | GROUPED,
    "FCNHead": ANY | GROUPED,
    "FPNHead": ANY | GROUPED | {("index", "raises"), ("index", "policy")},
    "GCHead": ANY | GROUPED,
    "ISAHead": ANY | GROUPED,
    "LightHamHead": ANY | GROUPED | {("index", "policy")},
    "NLHead": ANY | GROUPED,
    "PSPHead": ANY | GROUPED,
    "SETRUPHead": ANY | GROUPED,
    "STDCHead": ANY | GROUPED,
    "SegformerHead": ANY | GROUPED | {("index", "policy")},
    "SegmenterMaskTransformerHead": ANY | GROUPED | {("argument", "wrong_output"), ("value", "policy")},
    "UPerHead": ANY | GROUPED | {("index", "policy")},
}
"""Every rule by which each head refuses, and its kind. One never drawn fails the test, as does one not listed."""

NOTICED_ONLY_BY_WARNING = "ignore:When align_corners=True"


def test_every_head_is_held_to_the_law():
    assert RULES.keys() == composer.Mmseg.names.keys()


@pytest.mark.filterwarnings(NOTICED_ONLY_BY_WARNING)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("run", runs(400))
def test_a_head_of_mmseg_keeps_its_promise_and_refuses_with_cause(name, run):
    check_rules(run, cases(name), RULES[name])


@st.composite
def cases(draw, name: str):
    """A head, and what it is fed."""
    kind = draw(st.sampled_from(KINDS))
    given = draw(inputs(name, kind))
    return draw(heads(name, given, kind)), (given,)


@st.composite
def graphs(draw, name: str):
    """An encoder that gives what a test draws, and the head; half of the time a head after it."""
    kind = draw(st.sampled_from(("plain", "any")))
    given = draw(inputs(name, kind))
    chain = [Toy(features=given), draw(heads(name, given, kind))]
    if draw(st.booleans()):
        chain.append(composer.SegmentationHead(num_classes=7))
    return composer.chain(*chain, rescale=draw(st.booleans()))


@pytest.mark.filterwarnings(NOTICED_ONLY_BY_WARNING)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("run", runs(20))
def test_a_graph_with_a_head_of_mmseg_is_what_infer_says(name, run):
    check_graphs(run, graphs(name), {"output"})
