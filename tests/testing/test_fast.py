"""What makes builds fast changes no distribution that a law looks at."""

from __future__ import annotations

import torch
from torch import nn

from composer.testing.modules import BLOCK_SIZE, build_seeded


def test_weights_that_are_drawn_in_blocks_are_distributed_as_torchs_and_no_two_rows_are_equal():
    drawn = build_seeded(lambda: nn.Conv2d(64, 96, 3)).weight.detach()
    bound = (64 * 9) ** -0.5
    assert drawn.numel() > BLOCK_SIZE
    assert drawn.abs().max() <= bound
    torch.testing.assert_close(drawn.std().item(), bound / 3**0.5, rtol=0.05, atol=0)
    assert torch.linalg.matrix_rank(drawn.flatten(1)) == 96
    assert torch.equal(drawn, build_seeded(lambda: nn.Conv2d(64, 96, 3)).weight)


def test_torch_draws_as_before_afterwards():
    state = torch.get_rng_state()
    build_seeded(lambda: nn.Conv2d(64, 96, 3))
    one = torch.empty(2 * BLOCK_SIZE).uniform_()
    torch.set_rng_state(state)
    assert torch.equal(one, torch.rand(2 * BLOCK_SIZE))
