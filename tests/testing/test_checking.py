"""What check_contract is told, rightly and wrongly: classes, fields, laws that are left out."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen
from hypothesis import Verbosity, settings
from hypothesis import strategies as st
from torch import nn

import composer
import composer.testing
from composer.testing.checking import MAX_DECLARATIONS, ContractCheck, check_contract
from composer.testing.failures import ContractUncheckable, ContractViolation


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


class Nested(Same):
    """A plain neck that gives a list of its list."""

    def __init__(self, channel_list):
        super().__init__()

    def process_channel_list(self, channel_list):
        return [channel_list]


def test_of_a_class_declarations_are_drawn():
    check_contract(Resize, examples=2)
    with pytest.raises(
        ContractViolation, match=r"^Resize\(mode='far'\) breaks the law 'shapes': its outputs differ from its contract"
    ):
        check_contract(Resize, examples=2, fields={"mode": ["near", "far"]})
    with pytest.raises(
        ContractViolation, match=r"^Resize\(mode='far'\) breaks the law 'shapes': its outputs differ from its contract"
    ):
        check_contract(Resize, examples=2, fields={"mode": st.just("far")})


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
    "a module that is no neck": (
        nn.ReLU(),
        {},
        "part must be a declaration, its class, or a neck with process_channel_list (got ReLU())",
    ),
    "fields of a declaration": (
        Resize(),
        {"fields": {"mode": ["near"]}},
        "option 'fields' does not apply to Resize(mode='near')",
    ),
    "arguments of a declaration": (
        Resize(),
        {"arguments": {"width": 8}},
        "option 'arguments' does not apply to Resize(mode='near')",
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
}


@pytest.mark.parametrize(("part", "told", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_told(part, told, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        check_contract(part, **told)
    assert str(caught.value) == message


UNHELD = {
    "no contract": (
        Unsaid,
        {},
        "Unsaid has no contract. Register one: @composer.contract.register(Unsaid)",
    ),
    "a contract that gives nothing": (
        Forgetful("contract"),
        {},
        (
            "cannot check Forgetful(where='contract'): for map \"b c h w\" (11 channels, stride 2), its contract "
            "raises TypeError: the contract of Forgetful must return features, Outputs or a Rejection (got None)"
        ),
    ),
    "a contract that promises nothing": (
        Forgetful("promise"),
        {},
        (
            "cannot check Forgetful(where='promise'): for map \"b c h w\" (11 channels, stride 2), its contract raises "
            "TypeError: a contract must return at least one feature (got none)"
        ),
    ),
    "channels in a list in a list": (
        Nested,
        {},
        (
            "cannot check Nested(): it accepts none of the inputs that were tried (it raises ValueError: "
            "channels must be a whole number of at least 1 (got [11])); pass others, as in "
            "inputs=[((Feature(channels=8),),)]"
        ),
    ),
}


@pytest.mark.parametrize(("part", "told", "message"), UNHELD.values(), ids=UNHELD)
def test_what_cannot_be_made_or_asked_is_told(part, told, message):
    with pytest.raises(ContractUncheckable) as caught:
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


class Narrowing(nn.Module):
    """Gives float32 for float64, and all else as it is."""

    def __init__(self, channel_list):
        super().__init__()
        self.channels = channel_list

    def forward(self, features):
        return [x.float() if x.dtype is torch.float64 else x for x in features]

    def process_channel_list(self, channel_list):
        return channel_list


def test_float64_must_stay_float64():
    with pytest.raises(ContractViolation, match="breaks the law 'precision': for float64 inputs its outputs have"):
        check_contract(Narrowing, laws=["precision"])
