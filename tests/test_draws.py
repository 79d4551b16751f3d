"""A build draws the numbers of torch's global generator after the same seed, without touching that one."""

import pytest
import torch
from attrs import frozen
from torch import nn
from torch.nn import functional as F

import composer

ORIGINAL = nn.init.normal_


def replace_normal(tensor, mean=0.0, std=1.0, generator=None):
    """Stands for what transformers puts in place of torch's own function."""
    return ORIGINAL(tensor, mean, std, generator)


def draw_with_a_replaced_initialiser():
    nn.init.normal_ = replace_normal
    try:
        return nn.init.normal_(torch.empty(4, 5)), nn.init.kaiming_normal_(torch.empty(4, 5))
    finally:
        nn.init.normal_ = ORIGINAL


DRAWS = {
    "normal_": lambda: torch.empty(40).normal_(),
    "bernoulli_": lambda: torch.empty(5).bernoulli_(0.3),
    "rand": lambda: torch.rand(5),
    "randint": lambda: torch.randint(9, (5,)),
    "randperm": lambda: torch.randperm(9),
    "multinomial": lambda: torch.ones(9).multinomial(3),
    "trunc_normal_": lambda: nn.init.trunc_normal_(torch.empty(5)),
    "orthogonal_": lambda: nn.init.orthogonal_(torch.empty(4, 5)),
    "a replaced initialiser": draw_with_a_replaced_initialiser,
    "rand_like": lambda: torch.rand_like(torch.zeros(5)),
    "dropout": lambda: F.dropout(torch.ones(50)),
    "a power": lambda: torch.rand(5) ** 2,
    "a layer": lambda: nn.Linear(4, 5).weight.detach(),
    "a generator of its own": lambda: torch.rand(5, generator=torch.Generator().manual_seed(9)),
    "all one after the other": lambda: [draw() for name, draw in DRAWS.items() if not name.startswith("all")],
}


@frozen(kw_only=True)
class Drawing(composer.Neck):
    """Its module draws when it is made, and gives what it takes."""

    draw: str


@composer.contract.register(Drawing)
def _(neck, features):
    return features


@composer.module.register(Drawing)
def _(neck, features):
    module = nn.Identity()
    module.drawn = DRAWS[neck.draw]()
    return module


class Noisy(nn.Module):
    """Draws at every call."""

    def forward(self, x):
        return x + torch.rand_like(x) + F.dropout(x)


@pytest.mark.parametrize("draw", DRAWS)
def test_a_build_draws_as_after_a_seed_and_leaves_torch_alone(draw):
    encoder = composer.Custom(Noisy(), features=composer.Feature(channels=3, stride=1))
    graph = composer.chain(encoder, Drawing(draw=draw), composer.IdentityDecoder())
    torch.manual_seed(3)
    expected = DRAWS[draw]()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    model = composer.build(graph, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(model.get_submodule("necks.0").drawn, expected, rtol=0, atol=0)
