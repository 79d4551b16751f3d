"""Every part beside TerraTorch's own class: the same weights of a seed, the same numbers, the same gradients."""

from __future__ import annotations

import pytest
import torch
from terratorch.models import decoders, heads, necks
from terratorch.models.decoders import aspp_head
from torch import Tensor, nn

import composer
from composer.layouts import TOKENS, TOKENS_PER_FRAME, VECTOR, Feature

pytestmark = pytest.mark.usefixtures("exact")

HEIGHT, WIDTH = 64, 64


def level(channels, stride, rounding="exact"):
    return Feature(channels=channels, stride=stride, rounding=rounding)


def tokens(channels=6, prefix=1, frames=1, axes=TOKENS):
    return Feature(channels=channels, stride=8, axes=axes, prefix=prefix, frames=frames)


PYRAMID = (level(4, 4), level(6, 8), level(8, 16))
ALIKE = (level(8, 8), level(8, 8), level(12, 8), level(16, 8))
ONE = (level(6, 8),)
FRAMES = tokens(prefix=1, frames=3, axes=TOKENS_PER_FRAME)


def neck(name, **fields):
    """TerraTorch's neck of that name."""
    return lambda widths: getattr(necks, name)(widths, **fields)


def decoder(name, **fields):
    """TerraTorch's decoder of that name."""
    return lambda widths: getattr(decoders, name)(widths, **fields)


def head(name, **fields):
    """TerraTorch's head of that name, which is told of one width and takes a tensor."""
    return lambda widths: OfOne(getattr(heads, name)(widths[0], **fields))


def aspp(name, in_index=-1, **fields):
    """TerraTorch's ASPP head, which has to be told how many channels it is given."""
    positions = [in_index] if isinstance(in_index, int) else in_index
    return lambda widths: getattr(aspp_head, name)(
        channel_list=widths, in_channels=sum(widths[i] for i in positions), in_index=in_index, **fields
    )


class OfOne(nn.Module):
    """A head as a part: it takes a list of one feature."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, features):
        return self.inner(features[0])


def case(make, name, features, *, theirs=None, called=None, **fields):
    """The part of a name, its features and TerraTorch's class. `theirs` are fields that it has besides ours."""
    part = getattr(composer, name)(**fields)
    peer = make(called or name, **{**fields, **(theirs or {})})
    differing = [f"{key}={value}" for key, value in fields.items() if not isinstance(value, list | tuple)]
    return pytest.param(part, features, peer, id="-".join([name, *differing, f"of{len(features)}", features[0].axes]))


MLP = {"dim_list": [5, 4], "dropout": 0.3}
CONVS = {"channel_list": [5, 4], "dropout": 0.3}
ASPP = {"channels": 5, "dilations": (1, 2, 6)}
AGGREGATED = (tokens(), tokens(4))

CASES = [
    case(neck, "SelectIndices", PYRAMID, indices=[2, 0]),
    case(neck, "PermuteDims", PYRAMID, new_order=[0, 2, 3, 1]),
    case(neck, "InterpolateToPyramidal", ALIKE),
    case(neck, "InterpolateToPyramidal", ALIKE[:2], mode="bilinear", scale_factor=3),
    case(neck, "MaxpoolToPyramidal", ALIKE[:3]),
    case(neck, "ReshapeTokensToImage", (tokens(), tokens())),
    case(neck, "ReshapeTokensToImage", (tokens(frames=3),), theirs={"effective_time_dim": 3}),
    case(neck, "AddBottleneckLayer", PYRAMID),
    case(neck, "LearnedInterpolateToPyramidal", ALIKE),
    case(neck, "FeaturePyramidNetworkNeck", PYRAMID, out_channel=5, theirs={"output_ordered_dict": False}),
    *(case(neck, "AggregateTokens", AGGREGATED, pooling=p, indices=[1, 0]) for p in ("mean", "max", "min", "cls")),
    *(case(neck, "AggregateTokens", (tokens(),), pooling=p, drop_cls=True) for p in ("mean", "max", "min")),
    *(case(neck, "AggregateTokens", PYRAMID, pooling=p) for p in ("mean", "max", "min")),
    *(
        case(neck, "AggregateTokens", (FRAMES,), pooling=p, theirs={"temporal_inputs": True})
        for p in ("mean", "max", "cls")
    ),
    case(decoder, "IdentityDecoder", PYRAMID, out_index=1),
    case(decoder, "FCNDecoder", PYRAMID, channels=5, num_convs=2, in_index=1),
    case(decoder, "UNetDecoder", PYRAMID, channels=[16, 8, 4]),
    case(decoder, "UperNetDecoder", PYRAMID, channels=5),
    case(decoder, "UperNetDecoder", ALIKE, channels=5, align_corners=False),
    case(decoder, "UperNetDecoder", ONE, channels=5),
    case(decoder, "UperNetDecoder", ALIKE, channels=5, scale_modules=True, align_corners=False, pool_scales=(1, 2)),
    case(decoder, "LinearDecoder", PYRAMID, num_classes=3, upsampling_size=4),
    pytest.param(
        composer.MLPDecoder(channels=None, out_dim=None, activation="GELU"),
        ALIKE[:2],
        decoder("MLPDecoder", activation="GELU"),
        id="MLPDecoder",
    ),
    case(aspp, "ASPPSegmentationHead", PYRAMID, num_classes=3, in_index=1, **ASPP),
    case(
        aspp,
        "ASPPSegmentationHead",
        PYRAMID,
        align_corners=True,
        in_index=[0, 2],
        input_transform="resize_concat",
        **ASPP,
    ),
    case(aspp, "ASPPRegressionHead", PYRAMID, out_channels=2, head_dropout_ratio=0.5, channels=5),
    case(head, "SegmentationHead", ONE, num_classes=3, **CONVS),
    case(head, "RegressionHead", ONE, num_outputs=2, learned_upscale_layers=1, channel_list=[5], dropout=0.3),
    case(head, "RegressionHead", ONE, final_act="Softplus", theirs={"final_act": "torch.nn.Softplus"}),
    case(head, "ClassificationHead", ONE, called="ScalarHead", num_classes=3, **MLP),
    case(head, "ScalarHead", ONE, num_outputs=3),
    case(head, "ScalarHead", ONE, num_outputs=3, linear_after_pool=True, **MLP),
    case(head, "ScalarHead", (Feature(channels=6, stride=None, axes=VECTOR),), num_outputs=3, **MLP),
]


def ours(part, features) -> nn.Module:
    torch.manual_seed(0)
    return composer.module(part, features)


def theirs(make, features) -> nn.Module:
    torch.manual_seed(0)
    return make([f.channels for f in features])


def weights(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module, a head's without what it is wrapped in here."""
    return {name.removeprefix("inner."): value for name, value in module.state_dict().items()}


def fed(features) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(f.shape(2, HEIGHT, WIDTH), requires_grad=True) for f in features]


def run(module: nn.Module, given: list[Tensor], **named) -> list[Tensor]:
    """What a module gives, with the same dropout each time."""
    torch.manual_seed(2)
    out = module(list(given), **named)
    return [out] if isinstance(out, Tensor) else list(out)


def gradients(module: nn.Module, given: list[Tensor], out: list[Tensor]) -> list[Tensor | None]:
    """Of every weight and every input, for a loss in which each number has a weight of its own."""
    torch.manual_seed(3)
    loss = sum((x * torch.randn(x.shape)).sum() for x in out)
    return list(torch.autograd.grad(loss, [*module.parameters(), *given], allow_unused=True))


@pytest.mark.parametrize(
    ("part", "features", "make"), [case for case in CASES if not isinstance(case.values[0], composer.UNetDecoder)]
)
def test_equal_seeds_give_equal_weights(part, features, make):
    """But for the U-Net's, which are drawn once here and twice there: tests/modules/test_against_smp.py."""
    state, reference = weights(ours(part, features)), weights(theirs(make, features))

    assert list(state) == list(reference)
    assert [name for name, value in reference.items() if not torch.equal(value, state[name])] == []


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("part", "features", "make"), CASES)
def test_equal_weights_give_equal_numbers_and_gradients(part, features, make, training):
    module, reference = ours(part, features).train(training), theirs(make, features).train(training)
    for layer in reference.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    module.load_state_dict(weights(reference))
    named = {"image_size": (HEIGHT, WIDTH)} if isinstance(part, composer.ReshapeTokensToImage) else {}
    one, other = fed(features), fed(features)

    out, expected = run(module, one, **named), run(reference, other, **named)

    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(gradients(module, one, out), gradients(reference, other, expected))
    torch.testing.assert_close(weights(module), weights(reference))


# --- where TerraTorch is wrong


def test_index_0_is_the_first_feature():
    features = (tokens(4), tokens(6))
    given = fed(features)

    (right,) = run(ours(composer.AggregateTokens(indices=0), features), given)
    (wrong,) = run(theirs(neck("AggregateTokens", indices=0), features), given)

    assert torch.equal(right, given[0].mean(1))
    assert torch.equal(wrong, given[1].mean(1))


def test_a_map_has_no_class_token():
    given = fed(ONE)

    refusal = composer.contract(composer.AggregateTokens(pooling="cls"), ONE)
    (wrong,) = run(theirs(neck("AggregateTokens", pooling="cls"), ONE), given)

    assert (refusal.code, refusal.kind) == ("prefix", "wrong_output")
    assert torch.equal(wrong, given[0][:, :, 0, 0])


def test_what_drops_a_prefix_that_is_not_there_is_refused():
    features = (tokens(prefix=0),)
    given = fed(features)

    refusal = composer.contract(composer.AggregateTokens(drop_cls=True), features)
    (wrong,) = run(theirs(neck("AggregateTokens", drop_cls=True), features), given)

    assert (refusal.code, refusal.kind) == ("prefix", "policy")
    assert torch.equal(wrong, given[0][:, 1:].mean(1))


def test_a_number_is_a_token_of_the_prefix():
    features = (tokens(prefix=5),)
    given = fed(features)

    (right,) = run(ours(composer.AggregateTokens(pooling=3), features), given)

    assert torch.equal(right, given[0][:, 3])
    with pytest.raises(AttributeError, match="'int' object has no attribute 'lower'"):
        theirs(neck("AggregateTokens", pooling=3), features)


@pytest.mark.parametrize("name", ["ASPPSegmentationHead", "ASPPRegressionHead"])
def test_aspp_runs_without_dropout(name):
    given = fed(PYRAMID)

    (right,) = run(ours(getattr(composer, name)(channels=5, head_dropout_ratio=0), PYRAMID), given)

    assert right.shape[-2:] == (4, 4)
    with pytest.raises(AttributeError, match="has no attribute 'dropout'"):
        run(theirs(aspp(name, channels=5, head_dropout_ratio=0), PYRAMID), given)
