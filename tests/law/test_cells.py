"""The matrix, drawn anew each time: what fits runs as promised, and what is rejected raises or is wrong."""

from __future__ import annotations

import os

import pytest

from composer.compatibility import PairResult
from composer.errors import SpecError
from composer.parts.decoders import FCNDecoder, MLPDecoder, UNetDecoder
from composer.parts.encoders import Timm
from composer.parts.necks import LearnedInterpolateToPyramidal, SelectIndices
from tests.law.cells import decoders, drawn, hold

SEED = os.environ["COMPOSER_SAMPLE"]
"""Set for the whole run, and shown in its first lines, by tests/conftest.py."""

AMONG = decoders()


@pytest.mark.parametrize("number", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 150))])
@pytest.mark.parametrize("verdict", ["fits", "necks", "refused"])
def test_a_pair_is_what_is_said_of_it(verdict, number):
    hold(drawn(f"{SEED} {number}", verdict, AMONG))


PYRAMID = Timm("test_resnet")
VIT = Timm("vit_tiny_patch16_224", out_indices=[2, 5, 8, 11])
SHOWN = {
    "it raises": PairResult(encoder=PYRAMID, decoder=MLPDecoder(), because="…"),
    "it needs its necks": PairResult(
        encoder=VIT,
        necks=(LearnedInterpolateToPyramidal(),),
        decoder=UNetDecoder(channels=[256, 128, 64, 32]),
        direct=False,
    ),
}


@pytest.mark.parametrize("cell", SHOWN.values(), ids=SHOWN)
def test_a_verdict_shows(cell):
    hold(cell)


WRONG = {
    "it fits, and is rejected": (PairResult(encoder=PYRAMID, decoder=FCNDecoder(), because="…"), AssertionError),
    "it raises, and is said to fit": (PairResult(encoder=PYRAMID, decoder=MLPDecoder()), SpecError),
    "it needs no necks, and has some": (
        PairResult(encoder=PYRAMID, necks=(SelectIndices(indices=[3, 4]),), decoder=FCNDecoder(), direct=False),
        AssertionError,
    ),
}


@pytest.mark.parametrize(("cell", "error"), WRONG.values(), ids=WRONG)
def test_a_wrong_verdict_is_found(cell, error):
    with pytest.raises(error):
        hold(cell)
