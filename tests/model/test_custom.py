"""The user's own modules as encoders: used as they are, left unchanged, and rejected where the declaration is wrong."""

import pytest
import torch
from torch import nn

import composer
from composer.layouts import Feature
from composer.parts.decoders import IdentityDecoder
from composer.parts.encoders import Custom
from composer.parts.heads import SegmentationHead
from composer.sizes import SizeConstraint


class Stem(nn.Module):
    """A small encoder with everything that a check could disturb: statistics, dropout, modes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, kernel_size=4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x_BCHW):
        return self.dropout(self.norm(self.conv(x_BCHW)))


def declare(module, channels=8, stride=4):
    return Custom(module, features=Feature(channels=channels, stride=stride), sizes=SizeConstraint(multiple=4))


def build(encoder):
    return composer.build(composer.chain(encoder, IdentityDecoder(), SegmentationHead(num_classes=2)))


def test_the_module_is_used_itself_and_left_unchanged():
    stem = Stem()
    stem.dropout.eval()
    state = {name: x.clone() for name, x in stem.state_dict().items()}
    modes = [child.training for child in stem.modules()]
    rng = torch.random.get_rng_state()
    model = build(declare(stem))
    assert model.encoder is stem
    assert [name for name in model.state_dict() if name.startswith("encoder.")] == [f"encoder.{name}" for name in state]
    assert [name for name, x in stem.state_dict().items() if not torch.equal(x, state[name])] == []
    assert [child.training for child in stem.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), rng)
    assert [name for name, p in stem.named_parameters() if p.grad is not None] == []


def test_random_numbers_that_it_draws_do_not_change_the_weights_of_others():
    class Noise(nn.Module):
        def forward(self, x_BCHW):
            return x_BCHW + torch.rand_like(x_BCHW)

    quiet, noisy = (build(declare(m, channels=3, stride=1)).head.state_dict() for m in (nn.Identity(), Noise()))
    assert [name for name, x in quiet.items() if not torch.equal(x, noisy[name])] == []


def test_it_gets_a_copy_of_the_image_and_no_image_size():
    class InPlace(nn.Module):
        def forward(self, x, image_size=None):
            assert image_size is None
            return x.mul_(0)

    custom = composer.Custom(InPlace(), features=composer.Feature(channels=3, stride=1))
    image = torch.ones(1, 3, 8, 8)
    assert composer.build(composer.chain(custom)).eval()(image).output.abs().max() == 0
    assert image.min() == 1


class Failing(nn.Module):
    def forward(self, x_BCHW):
        raise RuntimeError("no such kernel\nand more")


class Transposed(nn.Module):
    """Rows for columns, which only an image that is not square can tell."""

    def forward(self, x_BCHW):
        return x_BCHW[:, :, ::4, ::4].transpose(2, 3)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        pytest.param(
            declare(Stem(), channels=16),
            "must give 1 × 16 × 1 × 2 for an image of 4 × 8 (got 1 × 8 × 1 × 2)",
            id="channels",
        ),
        pytest.param(
            declare(Transposed(), channels=3),
            "must give 1 × 3 × 1 × 2 for an image of 4 × 8 (got 1 × 3 × 2 × 1)",
            id="rows-for-columns",
        ),
        pytest.param(
            Custom(Stem(), features=[Feature(channels=8, stride=4)] * 2, sizes=SizeConstraint(multiple=4)),
            "must give 1 × 8 × 1 × 2, 1 × 8 × 1 × 2 for an image of 4 × 8 (got 1 × 8 × 1 × 2)",
            id="count",
        ),
        pytest.param(
            declare(Failing()),
            "must take an image of 4 × 8 (got RuntimeError: no such kernel and more)",
            id="raises",
        ),
        pytest.param(declare("resnet18"), "must hold a torch.nn.Module (got 'resnet18')", id="no-module"),
    ],
)
def test_a_wrong_declaration_is_rejected(encoder, message):
    with pytest.raises(composer.SpecError) as caught:
        composer.build(composer.chain(encoder, composer.SelectIndices(indices=[0])), describe={})
    assert str(caught.value).splitlines()[0].removesuffix(".") == f"error[features] encoder: Custom {message}"
    assert [problem.fix for problem in caught.value.problems] == ["correct features= or sizes="]
    assert all(child.training for child in getattr(encoder.module, "modules", list)())
