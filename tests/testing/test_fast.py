"""What makes the laws fast changes no distribution and no rounding that a law looks at."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from composer.testing.checking import check_contract
from composer.testing.laws import HalfPrecisionEmulation
from composer.testing.subjects import BLOCK_SIZE, draw_in_blocks


def weights(seed=0):
    with torch.random.fork_rng(devices=[]), draw_in_blocks():
        torch.default_generator.manual_seed(seed)
        return nn.Conv2d(64, 96, 3).weight.detach()


def test_weights_that_are_drawn_in_blocks_are_distributed_as_torchs_and_no_two_rows_are_equal():
    drawn = weights()
    bound = (64 * 9) ** -0.5
    assert drawn.abs().max() <= bound
    torch.testing.assert_close(drawn.std().item(), bound / 3**0.5, rtol=0.05, atol=0)
    assert len(drawn.flatten(1).unique(dim=0)) == 96
    assert torch.linalg.matrix_rank(drawn.flatten(1)) == 96


def test_weights_follow_the_seed():
    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_torch_draws_as_before_afterwards():
    weights()
    state = torch.get_rng_state()
    one = torch.empty(2 * BLOCK_SIZE).uniform_()
    torch.set_rng_state(state)
    assert torch.equal(one, torch.rand(2 * BLOCK_SIZE))


LAYERS = {
    "convolution": (nn.Conv2d(8, 6, 3), (2, 8, 6, 7)),
    "transposed convolution": (nn.ConvTranspose2d(8, 6, 2, stride=2), (2, 8, 6, 7)),
    "linear": (nn.Linear(8, 6), (2, 5, 8)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_a_product_of_halves_is_the_single_product_rounded_once(layer, shape, dtype):
    half, x = layer.to(dtype), torch.randn(shape).to(dtype)
    with HalfPrecisionEmulation(), torch.no_grad():
        out = half(x)
    expected = half.float()(x.float())
    assert out.dtype is dtype
    assert torch.equal(out, expected.to(dtype))


def test_a_product_of_halves_that_overflows_overflows():
    layer, x = nn.Linear(4, 1, bias=False).half(), torch.full((1, 4), 60000.0).half()
    nn.init.ones_(layer.weight)
    with HalfPrecisionEmulation():
        assert layer(x).isinf().all()


def test_unlike_types_are_refused_as_before():
    with HalfPrecisionEmulation(), pytest.raises(RuntimeError, match="should be the same"):
        nn.Conv2d(8, 6, 3)(torch.zeros(1, 8, 4, 4).half())


def test_a_plain_neck_is_built_once_for_each_input_that_is_tried_and_in_no_law_more_than_twice_a_run():
    built = []

    class Counted(nn.Identity):
        def __init__(self, channel_list):
            super().__init__()
            built.append(channel_list)

        def process_channel_list(self, channel_list):
            return channel_list

        def forward(self, features):
            assert features[0].dim() == 4
            return [x * 2 for x in features]

    check_contract(Counted, laws=["precision"], examples=5)
    assert len(built) <= 122 + 5 * 2 + 1
