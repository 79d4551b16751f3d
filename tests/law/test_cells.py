"""The matrix, drawn anew each time: what fits runs as promised, and what is rejected raises or is wrong."""

from __future__ import annotations

import os

import pytest

from composer.compatibility import PairResult
from composer.parts.decoders import FCNDecoder, MLPDecoder, UNetDecoder
from composer.parts.encoders import Timm
from composer.parts.necks import LearnedInterpolateToPyramidal, SelectIndices
from tests.law.cells import Held, decoders, drawn, held

SEED = os.environ["COMPOSER_SAMPLE"]
"""Set for the whole run, and shown in its first lines, by tests/conftest.py."""

AMONG = decoders()


@pytest.mark.parametrize("number", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 150))])
@pytest.mark.parametrize("verdict", ["fits", "necks", "refused"])
def test_a_pair_is_what_is_said_of_it(verdict, number):
    found = held(drawn(f"{SEED} {number}", verdict, AMONG))

    assert found.wrong is None, str(found)


PYRAMID = Timm("test_resnet")
VIT = Timm("vit_tiny_patch16_224")
LEVELS = Timm("vit_tiny_patch16_224", out_indices=[2, 5, 8, 11])
UNET = UNetDecoder(channels=[256, 128, 64, 32])
SHOWN = {
    "fits": (PairResult(encoder=PYRAMID, decoder=FCNDecoder()), "runs as promised"),
    "raises": (PairResult(encoder=PYRAMID, decoder=MLPDecoder(), because="…"), "raises: it raised"),
    "runs, and is rejected by policy": (
        PairResult(encoder=VIT, decoder=UNetDecoder(channels=[256, 128, 64]), because="…"),
        "policy: stride: takes maps whose stride doubles from one to the next",
    ),
    "needs its necks": (
        PairResult(encoder=LEVELS, necks=(LearnedInterpolateToPyramidal(),), decoder=UNET, direct=False),
        "runs as promised; without, policy: stride: takes maps whose stride doubles from one to the next",
    ),
}


@pytest.mark.parametrize(("cell", "shown"), SHOWN.values(), ids=SHOWN)
def test_a_verdict_shows(cell, shown):
    assert held(cell) == Held(cell, shown)


WRONG = {
    "it fits, and is rejected": (PairResult(encoder=PYRAMID, decoder=FCNDecoder(), because="…"), "AssertionError"),
    "it raises, and is said to fit": (PairResult(encoder=PYRAMID, decoder=MLPDecoder()), "SpecError: error[stride]"),
    "it needs no necks, and has some": (
        PairResult(encoder=PYRAMID, necks=(SelectIndices(indices=[3, 4]),), decoder=FCNDecoder(), direct=False),
        "AssertionError: the pair is not rejected",
    ),
}


@pytest.mark.parametrize(("cell", "wrong"), WRONG.values(), ids=WRONG)
def test_a_wrong_verdict_is_found(cell, wrong):
    assert held(cell).wrong.startswith(wrong)
