"""The modules of heads against formulas written out. B batch, C channels, H and W cells."""

import pytest
import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from composer.layouts import VECTOR, Feature
from composer.modules.base import module
from composer.parts import ClassificationHead, RegressionHead, ScalarHead, SegmentationHead

MAP = (Feature(channels=6, stride=4),)
VEC = (Feature(channels=6, stride=None, axes=VECTOR),)

CASES = [
    pytest.param(SegmentationHead(num_classes=3), MAP, id="segmentation"),
    pytest.param(SegmentationHead(num_classes=3, channel_list=(5, 4), dropout=0.5), MAP, id="segmentation-deep"),
    pytest.param(RegressionHead(), MAP, id="regression"),
    pytest.param(
        RegressionHead(num_outputs=2, learned_upscale_layers=2, channel_list=(5, 4), dropout=0.5, final_act="Softplus"),
        MAP,
        id="regression-deep",
    ),
    pytest.param(
        RegressionHead(learned_upscale_layers=1, channel_list=(5,), batch_norm=False), MAP, id="regression-no-norm"
    ),
    pytest.param(ClassificationHead(num_classes=3), MAP, id="classification"),
    pytest.param(ClassificationHead(num_classes=3, dim_list=(5, 4), dropout=0.5), MAP, id="classification-deep"),
    pytest.param(
        ClassificationHead(num_classes=3, dim_list=(5,), linear_after_pool=True), MAP, id="classification-pool-first"
    ),
    pytest.param(ClassificationHead(num_classes=3, dim_list=(5,)), VEC, id="classification-of-a-vector"),
    pytest.param(ScalarHead(num_outputs=3, dim_list=(5, 4), dropout=0.5), MAP, id="scalar-deep"),
    pytest.param(ScalarHead(num_outputs=3), VEC, id="scalar-of-a-vector"),
]
WITH_DROPOUT = [case for case in CASES if case.id.endswith("deep")]


@pytest.fixture(autouse=True)
def exact():
    """Double precision, so that two ways to compute a thing agree."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def made(part, features=MAP) -> nn.Module:
    """The module in eval mode with the same weights each time, and norms that have seen something."""
    torch.manual_seed(0)
    head = module(part, features).eval()
    for layer in head.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    return head


def fed(features=MAP) -> Tensor:
    return torch.randn(features[0].shape(2, 20, 28))


# --- what holds for all of them


@pytest.mark.parametrize("kind", [tuple, list], ids=["tuple", "list"])
@pytest.mark.parametrize(("part", "features"), CASES)
def test_inputs_are_left_as_they_were(part, features, kind):
    x = fed(features)
    before, given = x.clone(), kind([x])

    out = made(part, features).train()(given)

    assert isinstance(out, tuple)
    assert len(out) == 1
    assert given[0] is x
    assert x._version == 0
    assert torch.equal(x, before)


@pytest.mark.parametrize(("part", "features"), CASES)
def test_eval_gives_the_same_twice_and_changes_nothing(part, features):
    head = made(part, features)
    state = {name: value.clone() for name, value in head.state_dict().items()}
    x = fed(features)

    (first,), (second,) = head([x]), head([x])

    assert torch.equal(first, second)
    assert all(torch.equal(value, state[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize(("part", "features"), CASES)
def test_gradient_reaches_every_parameter(part, features, monkeypatch):
    # In nets as narrow as these a ReLU may be closed everywhere by chance.
    monkeypatch.setattr(nn.ReLU, "forward", lambda _, x: F.leaky_relu(x, 0.1))
    head = made(part, features)

    (y,) = head([fed(features).requires_grad_()])
    (y * torch.randn_like(y)).sum().backward()

    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(("part", "features"), WITH_DROPOUT)
def test_dropout_acts_in_training_only(part, features, monkeypatch):
    """The norms are left in eval mode, so that nothing but dropout is random."""
    head = made(part, features)
    x = fed(features)
    (calm,) = head([x])
    (dropout,) = (layer for layer in head.modules() if isinstance(layer, nn.Dropout | nn.Dropout2d))

    dropout.train()
    (first,), (second,) = head([x]), head([x])

    assert not torch.equal(first, second)
    assert not torch.equal(first, calm)


@pytest.mark.parametrize(("part", "features"), [case for case in CASES if case not in WITH_DROPOUT])
def test_without_dropout_nothing_is_random_in_training(part, features):
    head = made(part, features).train()
    x = fed(features)

    (first,), (second,) = head([x]), head([x])

    assert torch.equal(first, second)


def test_dropout_of_a_segmentation_drops_values_and_that_of_a_regression_channels():
    segmentation = made(SegmentationHead(num_classes=1, dropout=0.5)).train()
    regression = made(RegressionHead(dropout=0.5)).train()

    assert segmentation.head[1](torch.ones(1, 4, 8, 8))[0].sum((1, 2)).unique().numel() > 2
    assert set(regression.head[0](torch.ones(1, 64, 8, 8)).sum((2, 3)).unique().tolist()) == {0.0, 128.0}


@pytest.mark.parametrize(
    "part",
    [SegmentationHead(num_classes=2), RegressionHead(), ClassificationHead(num_classes=2), ScalarHead(num_outputs=2)],
    ids=["segmentation", "regression", "classification", "scalar"],
)
def test_a_head_takes_one_feature(part):
    with pytest.raises(ValueError, match="values to unpack"):
        made(part)([fed(), fed()])
    with pytest.raises(ValueError, match="values to unpack"):
        module(part, MAP + MAP)


class _OfAnImage(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.head = made(part)

    def forward(self, image_BCHW):
        return self.head([F.avg_pool2d(image_BCHW, 4)])


@pytest.mark.parametrize(("part", "features"), [case for case in CASES if case.id.endswith("deep")])
def test_height_and_width_stay_free_in_an_export(part, features):
    model = _OfAnImage(part)
    sides = {axis: 4 * torch.export.Dim(name, min=2, max=64) for axis, name in ((2, "h"), (3, "w"))}

    exported = torch.export.export(model, (torch.randn(2, 6, 16, 24),), dynamic_shapes=(sides,)).module()

    image_BCHW = torch.randn(2, 6, 20, 12)
    torch.testing.assert_close(exported(image_BCHW), model(image_BCHW))


def both(*places: str) -> set[str]:
    return {f"{place}.{name}" for place in places for name in ("weight", "bias")}


def norm(place: str) -> set[str]:
    return both(place) | {f"{place}.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


@pytest.mark.parametrize(
    ("part", "names"),
    [
        pytest.param(SegmentationHead(num_classes=2), both("head.2"), id="segmentation"),
        pytest.param(
            SegmentationHead(num_classes=2, channel_list=(5, 4), dropout=0.1),
            both("head.0.0.0", "head.0.1.0", "head.2"),
            id="segmentation-deep",
        ),
        pytest.param(RegressionHead(), both("head.1"), id="regression"),
        pytest.param(RegressionHead(dropout=0.1), both("head.1"), id="regression-dropout"),
        pytest.param(
            RegressionHead(learned_upscale_layers=2),
            both("head.0.0.conv", "head.0.1.conv", "head.2") | norm("head.0.0.bn") | norm("head.0.1.bn"),
            id="regression-upscale",
        ),
        pytest.param(
            RegressionHead(channel_list=(5,)),
            {"head.0.0.0.weight"} | norm("head.0.0.1") | both("head.2"),
            id="regression-list",
        ),
        pytest.param(
            RegressionHead(learned_upscale_layers=1, channel_list=(5,)),
            both("head.0.0.conv", "head.3") | norm("head.0.0.bn") | {"head.1.0.0.weight"} | norm("head.1.0.1"),
            id="regression-upscale-list",
        ),
        pytest.param(
            RegressionHead(learned_upscale_layers=1, channel_list=(5,), batch_norm=False),
            both("head.0.0.conv", "head.1.0.0", "head.3"),
            id="regression-no-norm",
        ),
        pytest.param(ClassificationHead(num_classes=2), both("head.2"), id="classification"),
        pytest.param(
            ClassificationHead(num_classes=2, dim_list=(5, 4)),
            both("head.0.0.0", "head.0.1.0", "head.2"),
            id="classification-deep",
        ),
        pytest.param(
            ScalarHead(num_outputs=2, dim_list=(5, 4), dropout=0.1),
            both("head.0.0.0", "head.0.1.0", "head.2"),
            id="scalar-deep",
        ),
    ],
)
def test_weights_have_published_names(part, names):
    assert set(made(part).state_dict()) == names


# --- values


def pointwise(x_BCHW: Tensor, layer: nn.Conv2d) -> Tensor:
    """A 1 × 1 convolution."""
    return torch.einsum("bchw,oc->bohw", x_BCHW, layer.weight[:, :, 0, 0]) + layer.bias.view(1, -1, 1, 1)


def around(x_BCHW: Tensor, layer: nn.Conv2d) -> Tensor:
    """A 3 × 3 convolution: each cell and its neighbours, zeros beyond the edge."""
    _, _, height, width = x_BCHW.shape
    neighbours = F.unfold(x_BCHW, 3, padding=1)
    y = torch.einsum("bkn,ok->bon", neighbours, layer.weight.flatten(1)).unflatten(2, (height, width))
    return y if layer.bias is None else y + layer.bias.view(1, -1, 1, 1)


def normed(x_BCHW: Tensor, layer: nn.BatchNorm2d) -> Tensor:
    mean, variance, weight, bias = (
        value.view(1, -1, 1, 1) for value in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    return (x_BCHW - mean) / (variance + 1e-5).sqrt() * weight + bias


def test_segmentation_is_one_pointwise_convolution():
    head, x_BCHW = made(SegmentationHead(num_classes=3)), fed()

    (y_BCHW,) = head([x_BCHW])

    torch.testing.assert_close(y_BCHW, pointwise(x_BCHW, head.head[2]))


def test_segmentation_convolves_to_each_width_first():
    head, x_BCHW = made(SegmentationHead(num_classes=3, channel_list=(5, 4), dropout=0.5)), fed()

    (y_BCHW,) = head([x_BCHW])

    first = around(x_BCHW, head.head[0][0][0]).clamp(min=0)
    second = around(first, head.head[0][1][0]).clamp(min=0)
    torch.testing.assert_close(y_BCHW, pointwise(second, head.head[2]))


def test_regression_with_all_of_it_is_its_formula():
    part = RegressionHead(num_outputs=2, learned_upscale_layers=1, channel_list=(5,), dropout=0.5)
    head, x_BCHW = made(part), fed()

    (y_BCHW,) = head([x_BCHW])

    doubling = head.head[0][0]
    shuffled = rearrange(around(x_BCHW, doubling.conv), "b (c i j) h w -> b c (h i) (w j)", i=2, j=2)
    upscaled = normed(shuffled, doubling.bn).clamp(min=0)
    convolved = normed(around(upscaled, head.head[1][0][0]), head.head[1][0][1]).clamp(min=0)
    torch.testing.assert_close(y_BCHW, pointwise(convolved, head.head[3]))


def test_regression_without_norm_is_its_formula():
    part = RegressionHead(learned_upscale_layers=1, channel_list=(5,), batch_norm=False)
    head, x_BCHW = made(part), fed()

    (y_BCHW,) = head([x_BCHW])

    shuffled = rearrange(around(x_BCHW, head.head[0][0].conv), "b (c i j) h w -> b c (h i) (w j)", i=2, j=2)
    convolved = around(shuffled.clamp(min=0), head.head[1][0][0]).clamp(min=0)
    torch.testing.assert_close(y_BCHW, pointwise(convolved, head.head[3]))


@pytest.mark.parametrize("layers", [0, 1, 3], ids=["0", "1", "3"])
def test_regression_doubles_as_often_as_it_is_told(layers):
    (y_BCHW,) = made(RegressionHead(learned_upscale_layers=layers))([fed()])

    assert y_BCHW.shape == (2, 1, 5 * 2**layers, 7 * 2**layers)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        pytest.param(None, lambda x: x, id="none"),
        pytest.param("Identity", lambda x: x, id="Identity"),
        pytest.param("ReLU", lambda x: x.clamp(min=0), id="ReLU"),
        pytest.param("GELU", lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2, id="GELU"),
        pytest.param("SiLU", lambda x: x / (1 + torch.exp(-x)), id="SiLU"),
        pytest.param("LeakyReLU", lambda x: torch.where(x > 0, x, 0.01 * x), id="LeakyReLU"),
        pytest.param("ELU", lambda x: torch.where(x > 0, x, torch.exp(x) - 1), id="ELU"),
        pytest.param("Tanh", lambda x: 1 - 2 / (torch.exp(2 * x) + 1), id="Tanh"),
        pytest.param("Sigmoid", lambda x: 1 / (1 + torch.exp(-x)), id="Sigmoid"),
        pytest.param("Softplus", lambda x: torch.log(1 + torch.exp(x)), id="Softplus"),
        pytest.param("Softmax", lambda x: torch.exp(x) / torch.exp(x).sum(1, keepdim=True), id="Softmax"),
    ],
)
def test_final_activation(name, formula):
    head, x_BCHW = made(RegressionHead(num_outputs=3, final_act=name)), 3 * fed()

    (y_BCHW,) = head([x_BCHW])

    torch.testing.assert_close(y_BCHW, formula(pointwise(x_BCHW, head.head[1])))


def dense(x: Tensor, layer: nn.Linear) -> Tensor:
    return torch.einsum("...c,oc->...o", x, layer.weight) + layer.bias


def perceptron(x: Tensor, head: nn.Module) -> Tensor:
    """Over the last axis: the linear layers of `dim_list` with ReLU, then the last one."""
    for block in head.head[0]:
        x = dense(x, block[0]).clamp(min=0)
    return dense(x, head.head[2])


@pytest.mark.parametrize("widths", [None, (5,), (5, 4)], ids=["none", "5", "5-4"])
@pytest.mark.parametrize("dropout", [0, 0.5], ids=["no-dropout", "dropout"])
def test_classification_is_the_mean_of_what_each_cell_says(widths, dropout):
    head, x_BCHW = made(ClassificationHead(num_classes=3, dim_list=widths, dropout=dropout)), fed()

    (y_BC,) = head([x_BCHW])

    each = perceptron(rearrange(x_BCHW, "b c h w -> b h w c"), head)
    torch.testing.assert_close(y_BC, reduce(each, "b h w c -> b c", "mean"))


@pytest.mark.parametrize("widths", [None, (5,)], ids=["none", "5"])
def test_classification_may_take_the_mean_first(widths):
    head, x_BCHW = made(ClassificationHead(num_classes=3, dim_list=widths, linear_after_pool=True)), fed()

    (y_BC,) = head([x_BCHW])

    torch.testing.assert_close(y_BC, perceptron(reduce(x_BCHW, "b c h w -> b c", "mean"), head))


@pytest.mark.parametrize("pool_first", [False, True], ids=["pool-last", "pool-first"])
def test_a_vector_has_one_position(pool_first):
    head = made(ClassificationHead(num_classes=3, dim_list=(5,), linear_after_pool=pool_first), VEC)
    x_BC = fed(VEC)

    (y_BC,) = head([x_BC])

    torch.testing.assert_close(y_BC, perceptron(x_BC, head))


@pytest.mark.parametrize("dropout", [0, 0.5], ids=["no-dropout", "dropout"])
def test_dropout_is_drawn_for_each_cell_and_not_for_their_mean(dropout):
    """With many equal cells the mean of their dropouts is nearly the truth; dropout of their mean would be far off."""
    head = made(ClassificationHead(num_classes=3, dropout=dropout)).train()
    x_BCHW = torch.ones(1, 6, 64, 64)

    (y_BC,) = head([x_BCHW])

    torch.testing.assert_close(y_BC, perceptron(torch.ones(1, 6), head), rtol=0, atol=0.05)


@pytest.mark.parametrize("fields", [{}, {"dim_list": (5,)}, {"linear_after_pool": True}], ids=str)
@pytest.mark.parametrize("features", [MAP, VEC], ids=["map", "vector"])
def test_numbers_are_computed_as_scores_are(features, fields):
    """One class in TerraTorch, and one module here."""
    scores, numbers = (
        made(part, features)
        for part in (ClassificationHead(num_classes=3, **fields), ScalarHead(num_outputs=3, **fields))
    )
    x = fed(features)

    assert torch.equal(numbers([x])[0], scores([x])[0])
