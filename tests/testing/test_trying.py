"""What parts are tried with: sizes at which nothing is taken by coincidence, and richer inputs of the same kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from composer.layouts import Feature
from composer.sizes import ANY_SIZE, SizeConstraint
from composer.testing.inputs import Inputs
from composer.testing.modules import ModuleSubject, probe_sizes
from composer.testing.runs import Case, list_enlarged_cases
from composer.testing.subjects import classify_inputs
from tests.testing.gallery import OffByOne
from tests.testing.sound import MixesLevels, NormsInstances, NormsTokens, WaitsForChannels

PROBES = {
    "few cells": (Feature(channels=11, stride=4), ANY_SIZE, ((12, 20), (20, 12))),
    "no side is a number of channels": (Feature(channels=5, stride=4), ANY_SIZE, ((16, 24), (24, 16))),
    "nor is a number of tokens": (Feature(channels=16, stride=2, axes="b n c", prefix=1), ANY_SIZE, ((8, 12), (12, 8))),
    "as many as are needed": (Feature(channels=11, stride=4), SizeConstraint(least=21), ((24, 32), (32, 24))),
    "of a vector": (Feature(channels=11, stride=None, axes="b c"), ANY_SIZE, ((3, 5), (5, 3))),
}


@pytest.mark.parametrize(("feature", "sizes", "expected"), PROBES.values(), ids=PROBES)
def test_a_plain_neck_is_probed_at_sizes_that_meet_no_number_of_channels(feature, sizes, expected):
    assert probe_sizes((feature,), sizes) == expected


def tried_with(neck, least=1):
    plain = ModuleSubject(neck, least=least)
    return plain, classify_inputs(plain, plain.iter_candidates())


@pytest.mark.parametrize(
    ("neck", "taken"),
    [(NormsTokens, {"b n c"}), (MixesLevels, {"b c h w"}), (WaitsForChannels, {"b c h w"})],
    ids=["tokens", "maps", "any channels"],
)
def test_a_plain_neck_takes_nothing_by_coincidence(neck, taken):
    _, tried = tried_with(neck)
    assert {inputs.edges[0].axes for inputs in tried.accepted} == taken
    assert {inputs.edges[0].axes for inputs in tried.failed} == {"b c h w", "b n c"} - taken


def test_it_is_said_how_much_a_plain_neck_takes_and_why_not_more():
    _, tried = tried_with(OffByOne)
    assert tried.summary == (
        'accepted 16 of 122 inputs; not 4 × map "b c h w" (11, 13, 17, 19 channels, stride 2) (it raises RuntimeError: '
        "The size of tensor a (13) must match the size of tensor b (17) at non-singleton dimension 1)"
    )


def test_the_random_state_is_left_as_it_was():
    state = torch.get_rng_state()
    tried_with(MixesLevels)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_probe_is_run_once():
    made = []

    class Counted(nn.Identity):
        def __init__(self, channel_list):
            super().__init__()
            made.append(channel_list)

        def process_channel_list(self, channel_list):
            return channel_list

    plain, inputs = ModuleSubject(Counted), Inputs(((Feature(channels=11, stride=2),),))
    rounded = Inputs(((Feature(channels=11, stride=2, rounding="floor"),),))
    assert [plain.infer(one) is None for one in (inputs, rounded, inputs)] == [False] * 3
    assert made == [[11]]


def test_the_least_cells_of_a_plain_neck_are_those_of_its_coarsest_level():
    plain, _ = tried_with(NormsInstances, least=2)
    inputs = Inputs(((Feature(channels=11, stride=4), Feature(channels=13, stride=8)),))
    assert plain.infer(inputs).sizes == SizeConstraint(least=16)


def test_richer_inputs_are_of_more_cells_and_then_of_more_levels_and_channels():
    plain, tried = tried_with(MixesLevels)
    inputs = Inputs(((Feature(channels=11, stride=2),),))
    case = Case(plain, inputs, plain.infer(inputs), 1, 2, 2, tried)
    found = [
        (len(one.inputs.edges), one.inputs.edges[0].channels, one.height, one.width)
        for one in list_enlarged_cases(case)
    ]
    assert found == [(1, 11, 8, 10), (5, 32, 4, 5)]
