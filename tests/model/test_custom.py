"""Modules of one's own as encoders: used as they are, left as found, and refused where they break their word."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import composer
from composer.layouts import Feature
from composer.parts.decoders import IdentityDecoder
from composer.parts.encoders import Custom
from composer.parts.heads import SegmentationHead
from composer.sizes import SizeConstraint


class Stem(nn.Module):
    """A small encoder with everything that a check could disturb: statistics, dropout, a count of its calls."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, kernel_size=4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x_BCHW):
        return self.dropout(self.norm(self.conv(x_BCHW)))


def declared(module, channels=8, stride=4, sizes=SizeConstraint(multiple=4)):  # noqa: B008, frozen
    return Custom(module, features=Feature(channels=channels, stride=stride), sizes=sizes)


def chained(encoder):
    return composer.chain(encoder, IdentityDecoder(), SegmentationHead(num_classes=2))


def test_the_module_itself_is_used():
    stem = Stem()
    assert composer.build(chained(declared(stem))).encoder is stem


def test_its_weights_are_named_by_the_node():
    model = composer.build(chained(declared(Stem())))
    assert [name for name in model.state_dict() if name.startswith("encoder.")] == [
        f"encoder.{name}" for name in Stem().state_dict()
    ]


def test_it_is_left_as_it_was():
    stem = Stem()
    stem.dropout.eval()
    state = {name: x.clone() for name, x in stem.state_dict().items()}
    modes = [child.training for child in stem.modules()]
    rng = torch.random.get_rng_state()
    composer.build(chained(declared(stem)))
    assert [name for name, x in stem.state_dict().items() if not torch.equal(x, state[name])] == []
    assert [child.training for child in stem.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), rng)
    assert [name for name, p in stem.named_parameters() if p.grad is not None] == []


class Noisy(nn.Module):
    """Draws random numbers at every call, in eval mode too."""

    def forward(self, x_BCHW):
        return x_BCHW + torch.rand_like(x_BCHW)


def test_what_it_draws_does_not_change_the_weights_of_others():
    quiet, noisy = (
        composer.build(chained(declared(module, channels=3, stride=1))).head.state_dict()
        for module in (nn.Identity(), Noisy())
    )
    assert [name for name, x in quiet.items() if not torch.equal(x, noisy[name])] == []


def test_it_runs_in_the_model():
    stem = Stem().eval()
    model = composer.build(composer.chain(declared(stem), rescale=False)).eval()
    x = torch.rand(1, 3, 16, 24)
    assert torch.equal(model(x).output, stem(x))


def test_it_may_give_a_list_of_features():
    class Pyramid(nn.Module):
        def forward(self, x_BCHW):
            return [F.avg_pool2d(x_BCHW, stride) for stride in (2, 4)]

    features = [Feature(channels=3, stride=2), Feature(channels=3, stride=4)]
    encoder = Custom(Pyramid(), features=features, sizes=SizeConstraint(multiple=4))
    graph = composer.chain(encoder, IdentityDecoder(out_index=0), rescale=False)
    x = torch.rand(1, 3, 8, 12)
    assert torch.equal(composer.build(graph)(x).output, F.avg_pool2d(x, 2))


def test_it_may_be_of_another_type():
    stem = Stem().double().eval()
    model = composer.build(composer.chain(declared(stem), rescale=False)).eval()
    x = torch.rand(1, 3, 16, 24, dtype=torch.float64)
    assert torch.equal(model(x).output, stem(x))


class Failing(nn.Module):
    def forward(self, x_BCHW):
        raise RuntimeError("no such kernel\nand more")


class Backwards(nn.Module):
    """Rows for columns, which only an image that is not square can tell."""

    def forward(self, x_BCHW):
        return x_BCHW[:, :, ::4, ::4].transpose(2, 3)


BROKEN = [
    pytest.param(
        declared(Stem(), channels=16),
        "must give 1 × 16 × 1 × 2 for an image of 4 × 8 (got 1 × 8 × 1 × 2)",
        id="channels",
    ),
    pytest.param(
        declared(Stem(), stride=2),
        "must give 1 × 8 × 2 × 4 for an image of 4 × 8 (got 1 × 8 × 1 × 2)",
        id="stride",
    ),
    pytest.param(
        declared(Backwards(), channels=3),
        "must give 1 × 3 × 1 × 2 for an image of 4 × 8 (got 1 × 3 × 2 × 1)",
        id="rows-for-columns",
    ),
    pytest.param(
        Custom(Stem(), features=[Feature(channels=8, stride=4)] * 2, sizes=SizeConstraint(multiple=4)),
        "must give 1 × 8 × 1 × 2, 1 × 8 × 1 × 2 for an image of 4 × 8 (got 1 × 8 × 1 × 2)",
        id="count",
    ),
    pytest.param(
        declared(Failing()),
        "must take an image of 4 × 8 (got RuntimeError: no such kernel and more)",
        id="raises",
    ),
    pytest.param(
        declared("resnet18"),
        "must hold a torch.nn.Module (got 'resnet18')",
        id="no-module",
    ),
]


@pytest.mark.parametrize(("encoder", "said"), BROKEN)
def test_a_wrong_declaration_is_refused(encoder, said):
    graph = composer.chain(encoder, composer.SelectIndices(indices=[0]))
    with pytest.raises(composer.SpecError) as raised:
        composer.build(graph, describe={})
    assert str(raised.value).splitlines()[0].removesuffix(".") == f"error[features] encoder: Custom {said}"
    assert [problem.fix for problem in raised.value.problems] == ["correct features= or sizes="]


def test_a_refused_module_is_left_as_it_was():
    stem = Stem()
    with pytest.raises(composer.SpecError):
        composer.build(chained(declared(stem, channels=16)))
    assert [child.training for child in stem.modules()] == [True] * 4
