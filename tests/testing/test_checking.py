"""check_contract: composer's own parts keep the laws, plain necks are taken too, and wrong calls are rejected."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen
from hypothesis import Verbosity, settings
from torch import nn
from torch.nn import functional as F

import composer
import composer.testing
from composer.testing.checking import ALL_LAWS, MAX_DECLARATIONS, ContractCheck, check_contract
from composer.testing.failures import ContractUncheckable, ContractViolation, SkippedLawWarning
from tests.testing.gallery import RefusesWhatItCan
from tests.testing.sound import Levels


@frozen
class Resize(composer.Neck):
    """Does nothing, in two ways; the second is wrong."""

    mode: str = "near"


@composer.contract.register(Resize)
def _(neck, features):
    if len(features) > 1:
        return composer.Rejection(code="count", kind="policy", expected="takes one feature")
    return features


@composer.module.register(Resize)
def _(neck, features):
    return Twice() if neck.mode == "far" else Same()


class Same(nn.Module):
    """Gives what it takes."""

    def forward(self, features):
        return [x + 0 for x in features]


class Twice(nn.Module):
    """Gives it twice."""

    def forward(self, features):
        return [*features, *features]


@frozen
class Unsaid(composer.Neck):
    """Has no contract."""


@frozen
class Forgetful(composer.Neck):
    """Returns nothing: its contract does, or its module; or promises nothing."""

    where: str = "module"


@composer.contract.register(Forgetful)
def _(neck, features):
    return {"module": features, "contract": None, "promise": []}[neck.where]


@composer.module.register(Forgetful)
def _(neck, features):
    return Nothing()


class Nothing(nn.Module):
    """Forgets to return what it has made."""

    def forward(self, features):
        [x + 0 for x in features]


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
WRONG = {
    "a string": (
        "x",
        {},
        "part must be a declaration, its class, or a neck with process_channel_list (got 'x')",
    ),
    "fields of a declaration": (
        Resize(),
        {"fields": {"mode": ["near"]}},
        "option 'fields' does not apply to Resize(mode='near')",
    ),
    "least of a declaration": (
        Resize(),
        {"least": 2},
        "option 'least' does not apply to Resize(mode='near')",
    ),
    "a field that there is not": (Resize, {"fields": {"size": [8]}}, "Resize has no field 'size': it has mode"),
    "inputs that are not nested": (
        Resize(),
        {"inputs": [(composer.Feature(channels=8),)]},
        f"each run in inputs must hold a tuple of features for each input, as in {SHOWN} (got ({A_FEATURE},))",
    ),
    "no examples": (Resize(), {"examples": 0}, "examples must be a whole number of at least 1 (got 0)"),
    "a law that there is not": (
        Resize(),
        {"laws": ["shape"]},
        f"unknown law 'shape': the laws are {', '.join(ALL_LAWS)}",
    ),
}


@pytest.mark.parametrize(("part", "told", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_told(part, told, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        check_contract(part, **told)
    assert str(caught.value) == message


def test_a_module_that_gives_nothing_is_told():
    with pytest.raises(ContractViolation) as caught:
        check_contract(Forgetful())
    assert str(caught.value) == (
        "Forgetful(where='module') breaks the law 'shapes': it raises TypeError: a module must return a tensor, or "
        "a list or tuple of tensors (got NoneType).\n"
        '  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 2'
    )


def test_a_profile_that_is_verbose_prints_none_of_the_runs(capsys):
    settings.register_profile("loud", verbosity=Verbosity.verbose)
    before = settings.get_current_profile_name()
    settings.load_profile("loud")
    try:
        check_contract(Resize, laws=["shapes"], examples=2)
    finally:
        settings.load_profile(before)
    assert capsys.readouterr().out == ""


def test_the_public_names_are_those_that_are_listed():
    assert dir(composer.testing) == composer.testing.__all__


class Narrowing(Levels):
    """Gives float32 for float64, and all else as it is."""

    def one(self, x, index):
        return x.float() if x.dtype is torch.float64 else x


def test_float64_must_stay_float64():
    with pytest.raises(ContractViolation, match="breaks the law 'precision': for float64 inputs its outputs have"):
        check_contract(Narrowing, laws=["precision"])


TAKE_ALL = (
    composer.SelectIndices(indices=[0, -1]),
    composer.IdentityDecoder(),
    composer.Timm("test_resnet"),
)
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


class Miscounts(Halves):
    """Its channels are another matter."""

    def process_channel_list(self, channel_list):
        return channel_list


@pytest.mark.parametrize("neck", [Halves, Halves([4, 6])], ids=["class", "module"])
def test_a_plain_neck_that_keeps_the_laws(neck):
    check_contract(neck, examples=10)


def test_a_plain_neck_is_made_with_its_arguments():
    check_contract(Halves, examples=5, arguments={"factor": 3})


def test_a_plain_neck_that_promises_other_channels():
    with pytest.raises(ContractViolation) as caught:
        check_contract(Miscounts)

    assert str(caught.value) == (
        "Miscounts() breaks the law 'shapes': its outputs differ from its contract.\n"
        '  input     map "b c h w" (11 channels, stride 2), 1 image of 2 × 2\n'
        "  expected  1 × 11 × 1 × 1\n"
        "  got       1 × 22 × 1 × 1"
    )


@frozen
class NoModule(composer.Neck):
    """Has a contract, and no module."""


@composer.contract.register(NoModule)
def _(neck, features):
    return features


class GivesDict(Levels):
    """Gives a dict, as a pyramid of torchvision does."""

    def forward(self, features):
        return dict(enumerate(features))


class Nested(Levels):
    """Gives a list of its list."""

    def process_channel_list(self, channel_list):
        return [channel_list]


NONE_ACCEPTED = "it accepts none of the inputs that were tried"
UNCHECKABLE = {
    "no contract": (
        Unsaid,
        "Unsaid has no contract. Register one: @composer.contract.register(Unsaid)",
    ),
    "a contract that gives nothing": (
        Forgetful("contract"),
        (
            "cannot check Forgetful(where='contract'): for map \"b c h w\" (11 channels, stride 2), its contract "
            "raises TypeError: the contract of Forgetful must return features, Outputs or a Rejection (got None)"
        ),
    ),
    "a contract that promises nothing": (
        Forgetful("promise"),
        (
            "cannot check Forgetful(where='promise'): for map \"b c h w\" (11 channels, stride 2), its contract raises "
            "TypeError: a contract must return at least one feature (got none)"
        ),
    ),
    "channels in a list in a list": (
        Nested,
        (
            "cannot check Nested(): it accepts none of the inputs that were tried (it raises ValueError: "
            "channels must be a whole number of at least 1 (got [11])); pass others, as in "
            "inputs=[((Feature(channels=8),),)]"
        ),
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
        (
            f"cannot check GivesDict(): {NONE_ACCEPTED} (it raises TypeError: a module must return a tensor, or a list "
            "or tuple of tensors (got dict)); pass others, as in inputs=[((Feature(channels=8),),)]"
        ),
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

    with pytest.raises(ContractUncheckable, match="it accepts none of the inputs that were tried"):
        check_contract(composer.SelectIndices(indices=[1]), inputs=[((seventh,),)])


def test_the_random_state_is_left_as_it_was():
    state = torch.get_rng_state()
    check_contract(composer.FCNDecoder(channels=4), examples=1)
    assert torch.equal(torch.get_rng_state(), state)
