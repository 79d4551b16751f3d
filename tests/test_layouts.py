"""Patterns that lay features out anew: parsed as einops parses them, and the same in a contract and in a module."""

import pytest
import torch
from attrs import frozen
from einops import rearrange, reduce
from einops.parsing import ParsedExpression

import composer
from composer.layouts import Feature, parse_pattern
from composer.testing import check_contract


class ToChannelsLast(composer.RearrangeNeck):
    pattern = "b c h w -> b h w c"


class GridOfTokens(composer.RearrangeNeck):
    pattern = "b (h w) c -> b h w c"


class LargestOverFrames(composer.RearrangeNeck):
    pattern = "b t (h w) c -> b (h w) c"
    reduction = "max"


@frozen
class MeanOver(composer.RearrangeNeck):
    """A pattern that depends on a field."""

    axis: str = "t"
    reduction = "mean"

    def get_pattern(self, feature):
        return f"b t n c -> {'b t n c'.replace(f' {self.axis}', '')}"


TOKENS = Feature(channels=3, stride=8, axes="b n c", prefix=1)
PER_FRAME = Feature(channels=3, stride=8, axes="b t n c", frames=2, prefix=1)


@pytest.mark.parametrize(
    "pattern",
    ["b (t h w) c -> b (t c) h w", "b t c h w->b (c t) h w", "  b ( h  w )c -> b c h w ", "b n c -> b c n"],
)
def test_a_pattern_is_read_as_einops_reads_it(pattern):
    sides = [ParsedExpression(side).composition for side in pattern.split("->")]

    assert [[list(axes) for axes in side] for side in parse_pattern(pattern)] == sides


@pytest.mark.parametrize(
    ("neck", "feature", "emitted"),
    [
        (ToChannelsLast(), Feature(channels=3, stride=8), Feature(channels=3, stride=8, axes="b h w c")),
        (GridOfTokens(), TOKENS, Feature(channels=3, stride=8, axes="b h w c")),
        (LargestOverFrames(), PER_FRAME, Feature(channels=3, stride=8, axes="b n c")),
        (MeanOver("t"), PER_FRAME, Feature(channels=3, stride=8, axes="b n c", prefix=1)),
        (MeanOver("n"), PER_FRAME, Feature(channels=3, stride=None, axes="b t c", frames=2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_line_is_the_contract_and_the_module(neck, feature, emitted):
    x = torch.randn(feature.shape(2, 16, 24))
    left = neck.get_pattern(feature)

    (y,) = composer.module(neck, (feature,))([x], image_size=(16, 24))

    assert composer.contract(neck, (feature,)).features == (emitted,)
    tokens = x[..., feature.prefix :, :] if "(h w)" in left else x
    sizes = {"h": 2, "w": 3} if "(h w)" in left else {}
    expected = reduce(tokens, left, neck.reduction, **sizes) if neck.reduction else rearrange(tokens, left, **sizes)
    assert torch.equal(y, expected)
    assert y.shape == emitted.shape(2, 16, 24)


@pytest.mark.parametrize("part", [ToChannelsLast, GridOfTokens, LargestOverFrames])
def test_a_neck_of_ones_own_keeps_the_laws(part):
    check_contract(part, examples=4)


def test_a_neck_of_ones_own_is_named_in_a_text():
    text = "encoder: timm/test_resnet\nnecks: [ToChannelsLast]\nhead: EmbeddingHead\n"
    graph = composer.reads(text, parts={**composer.PARTS, "ToChannelsLast": ToChannelsLast})
    typed = composer.infer(graph)

    out = composer.build(typed).eval()(torch.zeros(2, 3, 64, 96)).output

    assert {feature.axes for feature in typed.features["head"]} == {"b h w c"}
    assert tuple(("b", *x.shape[1:]) for x in out) == typed.shape("head", 64, 96)


def test_other_layouts_are_refused():
    outcome = composer.contract(ToChannelsLast(), (Feature(channels=3, stride=8, axes="b h w c"),))
    assert (outcome.code, outcome.kind, outcome.expected) == (
        "layout",
        "wrong_output",
        'takes features laid out as "b c h w"',
    )
    assert composer.contract(ToChannelsLast(), (TOKENS,)).kind == "raises"
    assert composer.contract(GridOfTokens(), (Feature(channels=3, axes="b n c", frames=2),)).code == "layout"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"pattern must lead from layout to layout, .* \(got ''\)"),
        ({"pattern": "b c h w"}, "lead from layout to layout"),
        ({"pattern": "b c h w -> (b h) c w"}, "lead from layout to layout"),
        ({"pattern": "b c h w -> b (c h) w"}, "lead from layout to layout"),
        ({"pattern": "b (t c) h w -> b t c h w"}, "lead from layout to layout"),
        ({"pattern": "b (h w c -> b h w c"}, "lead from layout to layout"),
        ({"pattern": "b t c h w -> b (t h w) (t c)"}, "name each axis once on a side"),
        ({"pattern": "b c h w -> b c t h w"}, "the same axes on the right as on the left"),
        ({"pattern": "b c h w -> b c"}, "the same axes on the right as on the left"),
        ({"pattern": "b c h w -> b h w c", "reduction": "mean"}, "fewer axes on the right than on the left"),
        ({"pattern": "b c h w -> b c", "reduction": "sum"}, "reduction must be one of mean, max, min"),
    ],
    ids=str,
)
def test_a_wrong_pattern_is_refused_when_the_class_is_made(fields, message):
    with pytest.raises(ValueError, match=message):
        type("Wrong", (composer.RearrangeNeck,), fields)
