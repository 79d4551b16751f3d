"""Subjects and runs: nothing is accepted by coincidence, and larger runs are richer."""

from __future__ import annotations

import pytest

from composer.layouts import Feature
from composer.parts.base import contract
from composer.sizes import SizeConstraint
from composer.testing.subjects import PlainNeck, build_subject, compute_probe_size, list_enlarged_runs
from tests.testing.gallery import OffByOne
from tests.testing.sound import MixesLevels, NormsInstances, NormsTokens, WaitsForChannels

PROBES = {
    "of a map": (Feature(channels=11, stride=4), 1, (12, 20)),
    "of rounded tokens": (Feature(channels=13, stride=2, axes="b n c", rounding="floor", offset=5), 1, (12, 16)),
    "as many as are needed": (Feature(channels=11, stride=4), 21, (32, 40)),
    "of a vector": (Feature(channels=11, stride=None, axes="b c"), 1, (3, 5)),
}


@pytest.mark.parametrize(("feature", "least", "expected"), PROBES.values(), ids=PROBES)
def test_a_module_is_tried_on_a_few_cells_that_are_not_square(feature, least, expected):
    assert compute_probe_size((feature,), least) == expected


@pytest.mark.parametrize(
    ("neck", "taken"),
    [(NormsTokens, {"b n c"}), (MixesLevels, {"b c h w"}), (WaitsForChannels, {"b c h w"})],
    ids=["tokens", "maps", "any channels"],
)
def test_a_plain_neck_takes_nothing_by_coincidence(neck, taken):
    subject = build_subject(PlainNeck(neck))
    assert {run.inputs.edges[0].axes for run in subject.accepted} == taken


def test_it_is_said_how_much_a_plain_neck_takes_and_why_not_more():
    assert build_subject(PlainNeck(OffByOne)).summary == (
        'accepted 24 of 112 inputs; not 4 × map "b c h w" (11, 13, 17, 19 channels, stride 2) (it raises RuntimeError: '
        "The size of tensor a (13) must match the size of tensor b (17) at non-singleton dimension 1)"
    )


def test_the_least_cells_of_a_plain_neck_are_those_of_its_coarsest_level():
    levels = (Feature(channels=11, stride=4), Feature(channels=13, stride=8))
    assert contract(PlainNeck(NormsInstances, least=2), levels).sizes == SizeConstraint(least=16)


def test_a_larger_run_has_more_cells_levels_and_channels():
    (larger,) = list_enlarged_runs(build_subject(PlainNeck(MixesLevels)).accepted)
    assert (len(larger.inputs.edges), larger.inputs.edges[0].channels, larger.size) == (5, 32, (3, 4))
