"""The kit bites: each neck of the gallery is caught, by the law that it breaks."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from composer.testing.checking import ALL_LAWS, check_contract
from composer.testing.failures import ContractUncheckable, ContractViolation
from tests.testing.gallery import BROKEN, Miscounts, Misspelt, OffByOne, RefusesWhatItCan, RowsForColumns, SquareMaps
from tests.testing.sound import SOUND

MESSAGES = {
    "WrongStride": """\
WrongStride() breaks the law 'shapes': its outputs differ from its contract.
  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 2
  expected  1 × 11 × 2 × 2
  got       1 × 11 × 3 × 3""",
    "Sideways": """\
Sideways() breaks the law 'shapes': its outputs differ from its contract.
  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 4
  expected  1 × 11 × 1 × 2
  got       1 × 11 × 2 × 1""",
    "FlipsAFlag": """\
FlipsAFlag() breaks the law 'itself': runs in eval mode changed seen_odd.
  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 2""",
    "WritesInTraining": """\
WritesInTraining() breaks the law 'inputs': in train mode it changes an input tensor in place \
(feature 0 differs by up to 2.31).
  input     map "b c h w" (11 channels, stride 2), 2 images of 2 × 2""",
    "CentresLargeBatches": """\
CentresLargeBatches() breaks the law 'batch': image 0 of the batch gives another output alone \
(feature 0 differs by up to 2.45).
  input     map "b c h w" (11 channels, stride 2), 4 images of 2 × 2""",
    "DeadParameter": """\
DeadParameter() breaks the law 'gradients': no gradient reaches unused.
  input     5 × map "b c h w" (32 channels, stride 1), 4 images of 3 × 4""",
    "RefusesWhatItCan": """\
RefusesWhatItCan() breaks the law 'refusals': its contract rejects this input as impossible (it takes one map), \
but its module returns 4 × 11 × 3 × 5, 4 × 13 × 3 × 5, 4 × 17 × 3 × 5, 4 × 19 × 3 × 5.
  input     4 × map "b c h w" (11, 13, 17, 19 channels, stride 2), 4 images of 6 × 10""",
    "Narrows": """\
Narrows() breaks the law 'precision': in torch.float64 its outputs have another type.
  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 2
  expected  torch.float64
  got       torch.float32""",
    "HasAnInfiniteGradient": """\
HasAnInfiniteGradient() breaks the law 'gradients': the gradient of input 0 is not finite.
  input     5 × map "b c h w" (32 channels, stride 1), 4 images of 3 × 4""",
    "DrawsInEval": """\
DrawsInEval() breaks the law 'itself': a run in eval mode changed torch's random state.
  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 2""",
}
"""What is said of some: the smallest run, what was promised and what it got."""


@pytest.mark.parametrize("part", BROKEN, ids=lambda part: part.__name__)
def test_a_broken_neck_is_caught_by_the_law_that_it_breaks(part):
    with pytest.raises(ContractViolation) as caught:
        check_contract(part())

    assert caught.value.law == BROKEN[part]
    assert str(caught.value) == MESSAGES.get(part.__name__, str(caught.value))
    assert not getattr(caught.value, "__notes__", None)


(MixesInPlace,) = (part for part in BROKEN if part.__name__ == "MixesInPlace")


@pytest.mark.parametrize("law", ALL_LAWS[:-1])
def test_a_neck_that_mixes_the_batch_in_place_breaks_two_laws(law):
    breaks = pytest.raises(ContractViolation, match=f"^MixesInPlace.. breaks the law '{law}'")
    with breaks if law in ("inputs", "batch") else nullcontext():
        check_contract(MixesInPlace(), laws=[law], examples=10)


def test_every_law_catches_one():
    assert set(BROKEN.values()) == set(ALL_LAWS)


def test_a_refusal_that_is_not_real_is_no_matter_of_the_other_laws():
    check_contract(RefusesWhatItCan(), laws=[law for law in ALL_LAWS if law != "refusals"], examples=10)


PLAIN = {
    RowsForColumns: (
        "RowsForColumns() breaks the law 'shapes': feature 0 of its outputs has rows for columns (got 1 × 11 × 2 × 2)."
        '\n  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 2'
    ),
    Miscounts: (
        "Miscounts() breaks the law 'shapes': its outputs differ from its contract.\n"
        '  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 2\n'
        "  expected  1 × 22\n  got       1 × 11"
    ),
    OffByOne: ("OffByOne() breaks the law 'shapes': it raises IndexError: list index out of range.\n  input     2 × "),
    Misspelt: (
        "Misspelt() breaks the law 'shapes': it raises AttributeError: 'Misspelt' object has no attribute 'skale'."
    ),
    SquareMaps: (
        'cannot check SquareMaps(): accepted 0 of 112 inputs; not map "b c h w" (11 channels, stride 2) (it raises '
        "RuntimeError: unflatten: Provided sizes [3, 3] don't multiply up to the size of dim 2 (15) in the input "
        "tensor); pass others, as in inputs=[((Feature(channels=8),),)]"
    ),
}


@pytest.mark.parametrize(("neck", "message"), PLAIN.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_a_plain_neck_that_is_broken_says_how(neck, message):
    with pytest.raises((ContractViolation, ContractUncheckable)) as caught:
        check_contract(neck)

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("neck", SOUND, ids=lambda neck: neck.__name__)
def test_a_sound_neck_keeps_every_law(neck):
    check_contract(neck, examples=10, **SOUND[neck])
