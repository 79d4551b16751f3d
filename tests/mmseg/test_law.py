"""The law for the heads of mmseg, each by its name: what is promised is given, and what is refused fails or lies."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import strategies as st

import composer
from composer.adapters.mmseg.parts import (
    IGNORED_ARGUMENTS,
    MMSEG_HEAD_ARGUMENTS,
    MULTI_MAP_HEADS,
    NORMALIZED_WIDTHS,
)
from composer.encoder_info import import_adapter
from tests.law.strategies import CHANNELS, features, rates, replace_channels
from tests.law.test_graphs import check_graphs
from tests.law.test_parts import check_rules
from tests.law.toys import Toy

assert import_adapter("mmseg") is None

few = st.sampled_from((1, 2, 6))
widths = st.sampled_from((1, 2, 6, 16, 32))
groups = st.sampled_from((32, 32, 64, 20))
scales = st.lists(st.sampled_from((1, 2, 3, 6)), min_size=1, max_size=3)


def draw_each(names: str, values: st.SearchStrategy) -> dict[str, st.SearchStrategy]:
    """The strategy of each of some arguments that are drawn alike."""
    return dict.fromkeys(names.split(), values)


CHOICES = {
    "num_classes": (1, 2, 5, 7),
    "norm": ("BN", "GN", "GN", False),
    "act": ("ReLU", "LeakyReLU", "ELU", "SiLU", "GELU", "Tanh", "Sigmoid"),
    "num_convs": (0, 1, 1, 2),
    "kernel_size": (1, 3),
    "dilation": (1, 2),
    "recurrence": (1, 2),
    "reduction": (1, 2, 4),
    "mode": ("embedded_gaussian", "dot_product"),
    "temperature": (0.05, 1.0),
    "momentum": (0.0, 0.1),
    "ratio": (0.25, 0.5, 1 / 3, 2.0),
    "pooling_type": ("att", "avg"),
    "fusion_types": (["channel_add"], ["channel_mul"], ["channel_add", "channel_mul"]),
    "down_factor": ((8, 8), (1, 1), (3, 2)),
    "ham_channels": (6, 16, 32),
    "MD_S": (1, 1, 2, 4),
    "up_scale": (1, 2, 4),
    "interpolate_mode": ("bilinear", "bicubic"),
    "num_layers": (1, 2),
    "num_heads": (1, 2, 3),
    "embed_dims": (4, 6, 64),
    "mlp_ratio": (1, 4),
}
VALUES = {
    **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
    **draw_each("channels project_channels pam_channels c1_channels ema_channels isa_channels", widths),
    **draw_each("num_bases num_stages num_codes MD_R train_steps eval_steps", few),
    **draw_each("dropout_ratio drop_path_rate drop_rate attn_drop_rate", rates),
    **draw_each("align_corners concat_input fusion use_scale add_lateral", st.booleans()),
    **draw_each("pool_scales key_pool_scales", scales),
    "dilations": st.lists(st.sampled_from((1, 2, 6)), min_size=1, max_size=3),
    "filter_sizes": st.lists(st.sampled_from((1, 2, 3, 4, 5)), min_size=1, max_size=3),
}
"""How each argument is drawn where a head has it, but for which maps it takes."""

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
        told |= {argument: draw(groups) for argument in NORMALIZED_WIDTHS if argument in told}
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


ANY = {("argument", "raises"), ("type", "raises"), ("index", "raises"), ("layout", "raises"), ("channels", "raises")}
OWN = {
    "ANNHead": {("count", "raises")},
    "DepthwiseSeparableASPPHead": {("index", "policy")},
    "DepthwiseSeparableFCNHead": {("argument", "wrong_output"), ("count", "raises")},
    "FPNHead": {("index", "policy")},
    "LightHamHead": {("index", "policy")},
    "SegformerHead": {("index", "policy")},
    "SegmenterMaskTransformerHead": {("argument", "wrong_output"), ("value", "policy")},
    "UPerHead": {("index", "policy")},
}
"""Further rules by which heads refuse, with their kinds. One never drawn fails the test, as does one not listed."""

NOTICED_ONLY_BY_WARNING = "ignore:When align_corners=True"


@pytest.mark.filterwarnings(NOTICED_ONLY_BY_WARNING)
@pytest.mark.parametrize("name", MMSEG_HEAD_ARGUMENTS)
def test_a_head_of_mmseg_keeps_its_promise_and_refuses_with_cause(name):
    check_rules(cases(name), ANY | OWN.get(name, set()))


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
@pytest.mark.parametrize("name", MMSEG_HEAD_ARGUMENTS)
def test_a_graph_with_a_head_of_mmseg_is_what_infer_says(name):
    check_graphs(20, graphs(name), {"output"})
