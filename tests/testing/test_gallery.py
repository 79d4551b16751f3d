"""The kit bites: each neck of the gallery is caught, by the law that it breaks."""

from __future__ import annotations

import pytest

from composer.testing import ALL_LAWS, ContractBroken, check_contract
from tests.testing.gallery import BROKEN, RefusesWhatItCan, Sound


@pytest.mark.parametrize("part", BROKEN, ids=lambda part: part.__name__)
def test_a_broken_neck_is_caught_by_the_law_that_it_breaks(part):
    with pytest.raises(ContractBroken) as caught:
        check_contract(part(), examples=20)

    assert caught.value.law == BROKEN[part]


@pytest.mark.parametrize("law", ALL_LAWS)
def test_every_law_catches_one_and_lets_the_sound_one_pass(law):
    check_contract(Sound(), laws=[law], examples=20)
    assert law in BROKEN.values()


MESSAGES = {
    "WrongStride": """\
WrongStride() breaks the law 'shapes': it gives something else than it promises.
  fed  map "b c h w" (11 channels, stride 2), of 1 image of 2 × 2
  promised        got
  1 × 11 × 2 × 2  1 × 11 × 3 × 3  ←""",
    "PromisesFour": """\
PromisesFour() breaks the law 'shapes': it gives something else than it promises.
  fed  map "b c h w" (11 channels, stride 2), of 1 image of 2 × 2
  promised        got
  1 × 11 × 1 × 1  1 × 11 × 1 × 1
  1 × 11 × 1 × 1  nothing  ←
  1 × 11 × 1 × 1  nothing  ←
  1 × 11 × 1 × 1  nothing  ←""",
    "Sideways": """\
Sideways() breaks the law 'shapes': it gives something else than it promises.
  fed  map "b c h w" (11 channels, stride 2), of 1 image of 2 × 4
  promised        got
  1 × 11 × 1 × 2  1 × 11 × 2 × 1  ←""",
    "FlipsAFlag": """\
FlipsAFlag() breaks the law 'itself': two runs in eval mode changed seen_odd.
  fed  map "b c h w" (11 channels, stride 2), of 1 image of 2 × 2""",
    "DeadParameter": """\
DeadParameter() breaks the law 'gradients': unused gets no gradient.
  fed  map "b c h w" (11 channels, stride 2), of 1 image of 2 × 2""",
    "RefusesWhatItCan": """\
RefusesWhatItCan() breaks the law 'refusals': it takes one map, and calls all else impossible; forced, it gives \
3 × 11 × 2 × 2, 3 × 13 × 2 × 2, 3 × 17 × 2 × 2, 3 × 19 × 2 × 2.
  fed  4 × map "b c h w" (11, 13, 17, 19 channels, stride 2), of 3 images of 4 × 4""",
}


@pytest.mark.parametrize("part", [part for part in BROKEN if part.__name__ in MESSAGES], ids=lambda part: part.__name__)
def test_what_is_said_is_the_smallest_run_with_promised_and_got(part):
    with pytest.raises(ContractBroken) as caught:
        check_contract(part())

    assert str(caught.value) == MESSAGES[part.__name__]
    assert not getattr(caught.value, "__notes__", None)


def test_a_refusal_that_is_not_real_is_no_matter_of_the_other_laws():
    check_contract(RefusesWhatItCan(), laws=[law for law in ALL_LAWS if law != "refusals"], examples=10)
