"""check_contract: composer's own parts keep the laws, plain necks are taken too, and wrong calls are rejected."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen
from torch import nn
from torch.nn import functional as F

import composer
import composer.testing
from composer.testing.checking import ALL_LAWS, MAX_DECLARATIONS, ContractCheck, check_contract
from composer.testing.failures import ContractUncheckable, ContractViolation, SkippedLawWarning
from tests.testing.gallery import Net, RefusesWhatItCan, declare
from tests.testing.sound import Levels


@frozen
class Resize(composer.Neck):
    """Does nothing, in two ways; the second is wrong."""

    mode: str = "near"


@composer.contract.register(Resize)
def take_one(neck, features):
    if len(features) > 1:
        return composer.Rejection(code="count", kind="policy", expected="takes one feature")
    return features


@composer.module.register(Resize)
def _(neck, features):
    return Twice() if neck.mode == "far" else Net(features)


class Twice(nn.Module):
    """Gives it twice."""

    def forward(self, features):
        return [*features, *features]


class Nothing(nn.Module):
    """Forgets to return what it has made."""

    def forward(self, features):
        [x + 0 for x in features]


def keep(neck, features):
    return features


Unsaid, NoModule = declare("Unsaid"), declare("NoModule", keep)
PromisesNothing = declare("PromisesNothing", lambda neck, features: None)
GivesNothing = declare("GivesNothing", keep, lambda neck, features: Nothing())


def test_of_a_class_declarations_are_drawn():
    check_contract(Resize, examples=2)
    with pytest.raises(
        ContractViolation, match=r"^Resize\(mode='far'\) breaks the law 'shapes': its outputs differ from its contract"
    ):
        check_contract(Resize, examples=2, fields={"mode": ["near", "far"]})


def test_of_a_class_a_few_declarations_are_drawn():
    held = ContractCheck(composer.FCNDecoder).subjects
    assert held[0].part == composer.FCNDecoder()
    assert 1 < len({subject.part for subject in held}) <= MAX_DECLARATIONS


def test_a_law_is_left_out():
    laws = [law for law in composer.testing.ALL_LAWS if law != "precision"]
    assert ContractCheck(Resize, without="precision").checked_laws == tuple(laws)
    check_contract(Resize("far"), laws=["shapes", "memory"], without=["shapes"], examples=2)


SHOWN = "inputs=[((Feature(channels=8),),)]"
A_FEATURE = repr(composer.Feature(channels=8))
NESTED = f"each run in inputs must hold a tuple of features for each input, as in {SHOWN} (got ({A_FEATURE},))"
WRONG = {
    "a string": ("x", {}, "part must be a declaration, its class, or a neck with process_channel_list (got 'x')"),
    "fields": (Resize(), {"fields": {"mode": ["near"]}}, "option 'fields' does not apply to Resize(mode='near')"),
    "least": (Resize(), {"least": 2}, "option 'least' does not apply to Resize(mode='near')"),
    "a field that there is not": (Resize, {"fields": {"size": [8]}}, "Resize has no field 'size': it has mode"),
    "inputs that are not nested": (Resize(), {"inputs": [(composer.Feature(channels=8),)]}, NESTED),
    "no examples": (Resize(), {"examples": 0}, "examples must be a whole number of at least 1 (got 0)"),
    "an unknown law": (Resize(), {"laws": ["shape"]}, f"unknown law 'shape': the laws are {', '.join(ALL_LAWS)}"),
}


@pytest.mark.parametrize(("part", "told", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_told(part, told, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        check_contract(part, **told)
    assert str(caught.value) == message


def test_a_module_that_gives_nothing_is_told():
    with pytest.raises(ContractViolation) as caught:
        check_contract(GivesNothing)
    assert str(caught.value) == (
        "GivesNothing() breaks the law 'shapes': it raises TypeError: a module must return a tensor, or "
        "a list or tuple of tensors (got NoneType).\n"
        '  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 2'
    )


def test_the_public_names_are_those_that_are_listed():
    assert dir(composer.testing) == composer.testing.__all__


TAKE_ALL = (composer.SelectIndices(indices=[0, -1]), composer.IdentityDecoder(), composer.Timm("test_resnet"))
UNTESTED = (
    "law 'refusals' skipped: no input that was tried is rejected as 'raises' or 'policy'; pass some that are, with the "
    "option inputs"
)
LIE = (composer.InterpolateToPyramidal(mode="bilinear"),)
PARTS = (
    composer.MaxpoolToPyramidal(),
    composer.ReshapeTokensToImage(),
    composer.LearnedInterpolateToPyramidal(),
    composer.FeaturePyramidNetworkNeck(out_channel=4),
    composer.ConcatFeatures(),
    composer.TemporalPooling(),
    composer.AggregateTokens(),
    composer.UNetDecoder(channels=[6, 4, 2], attention_type="scse"),
    composer.SegmentationHead(num_classes=3, channel_list=[4]),
    composer.Smp("Linknet"),
)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_a_part_of_composer_keeps_every_law(part):
    check_contract(part, examples=5)


@pytest.mark.parametrize("part", [*TAKE_ALL, *LIE], ids=lambda part: type(part).__name__)
def test_of_a_part_without_rejections_that_can_be_forced_it_is_told(part):
    with pytest.warns(SkippedLawWarning) as told:
        check_contract(part, examples=5)

    assert [str(one.message) for one in told] == [f"{part!r}: {UNTESTED}"]


def test_what_is_refused_by_policy_must_run():
    part = declare("Fails", take_one, lambda neck, features: Nothing())
    with pytest.raises(ContractViolation, match=r"by policy \(it takes one feature\), but its module raises TypeError"):
        check_contract(part, laws=["refusals"])


def test_refusals_that_are_not_small_are_tried_where_none_is():
    wide = composer.Feature(channels=3000, stride=16)
    with pytest.raises(ContractViolation, match=r"as impossible \(it takes one map\), but its module returns"):
        check_contract(RefusesWhatItCan(), inputs=[((wide,) * 2,)], laws=["refusals"])


class Halves(nn.Module):
    """A neck in TerraTorch's style: one that halves every map, and mixes its channels."""

    def __init__(self, channel_list, factor=2):
        super().__init__()
        self.channel_list, self.factor = channel_list, factor
        self.mixes = nn.ModuleList(nn.Conv2d(channels, channels * factor, 1) for channels in channel_list)

    def forward(self, features, **kwargs):
        return [F.max_pool2d(mix(x), 2, ceil_mode=True) for mix, x in zip(self.mixes, features, strict=True)]

    def process_channel_list(self, channel_list):
        return [channels * self.factor for channels in channel_list]


KEPT = {"class": (Halves, {}), "arguments": (Halves, {"arguments": {"factor": 3}}), "module": (Halves([4, 6]), {})}


@pytest.mark.parametrize(("neck", "told"), KEPT.values(), ids=KEPT)
def test_a_plain_neck_that_keeps_the_laws(neck, told):
    check_contract(neck, examples=10, **told)


class GivesDict(Levels):
    """Gives a dict, as a pyramid of torchvision does."""

    def forward(self, features):
        return dict(enumerate(features))


class Nested(Levels):
    """Gives a list of its list."""

    def process_channel_list(self, channel_list):
        return [channel_list]


NONE_ACCEPTED = 'accepted 0 of 112 inputs; not map "b c h w" (11 channels, stride 2)'
NO_NUMBER = "ValueError: channels must be a whole number of at least 1"
NO_TENSORS = "TypeError: a module must return a tensor, or a list or tuple of tensors"
PASS_OTHERS = "; pass others, as in inputs=[((Feature(channels=8),),)]"
UNCHECKABLE = {
    "no contract": (Unsaid, "Unsaid has no contract. Register one: @composer.contract.register(Unsaid)"),
    "a contract that gives nothing": (
        PromisesNothing,
        (
            'cannot check PromisesNothing(): for map "b c h w" (11 channels, stride 2), its contract raises TypeError: '
            "the contract of PromisesNothing must return features, Outputs or a Rejection (got None)"
        ),
    ),
    "channels in a list in a list": (
        Nested,
        f"cannot check Nested(): {NONE_ACCEPTED} (it raises {NO_NUMBER} (got [11])){PASS_OTHERS}",
    ),
    "no module": (
        NoModule(),
        (
            "cannot build the module of NoModule(): it raises TypeError: NoModule has no module. Register one: "
            "@composer.module.register(NoModule)\n"
            '  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 2'
        ),
    ),
    "a dict": (
        GivesDict,
        f"cannot check GivesDict(): {NONE_ACCEPTED} (it raises {NO_TENSORS} (got dict)){PASS_OTHERS}",
    ),
}


@pytest.mark.parametrize(("part", "message"), UNCHECKABLE.values(), ids=UNCHECKABLE)
def test_what_cannot_be_held_to_the_laws_is_said(part, message):
    with pytest.raises(ContractUncheckable) as caught:
        check_contract(part)

    assert str(caught.value) == message


def test_a_part_is_fed_what_is_said():
    """Here with a level that is right for one stride alone, which is not among those that are tried."""
    seventh = composer.Feature(channels=5, stride=7)
    taken = [law for law in ALL_LAWS if law != "refusals"]
    check_contract(composer.SelectIndices(indices=[0]), inputs=[((seventh,),)], laws=taken, examples=5)

    with pytest.raises(ContractUncheckable, match="accepted 0 of 1 inputs; not map"):
        check_contract(composer.SelectIndices(indices=[1]), inputs=[((seventh,),)])


def test_the_random_state_is_left_as_it_was():
    state = torch.get_rng_state()
    check_contract(composer.FCNDecoder(channels=4), examples=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_small_difference_of_large_numbers_is_sound():
    """In half precision it is off by more than a tenth of itself, as the only number of a small map may be."""
    difference = declare("Difference", lambda neck, features: features * 2, lambda neck, features: SmallDifference())
    taken = composer.Feature(channels=5, stride=2)
    check_contract(difference(), inputs=[((taken,),)], laws=["precision"], examples=5)


class SmallDifference(nn.Module):
    """Gives its map, and 0.001 as a difference."""

    def forward(self, features):
        (x,) = features
        return [x, x + 1 - x - 0.999]
