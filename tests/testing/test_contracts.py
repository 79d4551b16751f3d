"""check_contract: composer's own parts keep the laws, plain necks are taken too, and wrong calls are told so."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve, frozen
from torch import nn
from torch.nn import functional as F

import composer
from composer.testing.checking import ALL_LAWS, check_contract
from composer.testing.failures import ContractUncheckable, ContractViolation, SkippedLawWarning
from tests.testing.gallery import RefusesWhatItCan

TAKE_ALL = (
    composer.SelectIndices(indices=[0, -1]),
    composer.IdentityDecoder(),
    composer.Timm("test_resnet"),
)
UNTESTED = (
    "law 'refusals' skipped: no input that was tried is rejected as 'raises' or 'policy'; pass some that are, with the "
    "option inputs"
)
LIE = (composer.InterpolateToPyramidal(mode="bilinear"), composer.AggregateTokens())
PARTS = (
    composer.PermuteDims(new_order=[0, 3, 1, 2]),
    composer.MaxpoolToPyramidal(),
    composer.ReshapeTokensToImage(),
    composer.AddBottleneckLayer(),
    composer.LearnedInterpolateToPyramidal(),
    composer.FeaturePyramidNetworkNeck(out_channel=4),
    composer.ConcatFeatures(),
    composer.TemporalPooling(),
    composer.FCNDecoder(channels=4),
    composer.UNetDecoder(channels=[6, 4, 2], attention_type="scse"),
    composer.LinearDecoder(num_classes=2, upsampling_size=2),
    composer.SegmentationHead(num_classes=3, channel_list=[4]),
    composer.ClassificationHead(num_classes=3),
    composer.Smp("Linknet"),
)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_a_part_of_composer_keeps_every_law(part):
    check_contract(part, examples=8)


@pytest.mark.parametrize("part", [*TAKE_ALL, *LIE], ids=lambda part: type(part).__name__)
def test_of_a_part_without_rejections_that_can_be_forced_it_is_told(part):
    with pytest.warns(SkippedLawWarning) as told:
        check_contract(part, examples=8)

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
class TakesNothing(composer.Neck):
    """Refuses whatever it is fed."""


@composer.contract.register(TakesNothing)
def _(neck, features):
    return composer.Rejection(code="none", kind="raises", expected="takes pairs of images")


@frozen
class NoModule(composer.Neck):
    """Has a contract, and no module."""


@composer.contract.register(NoModule)
def _(neck, features):
    return features


@frozen
class HalfTheChannels(composer.Neck):
    """Forgets that half of one channel is none."""


@composer.contract.register(HalfTheChannels)
def _(neck, features):
    return [evolve(f, channels=f.channels // 2) for f in features]


class NeedsMore(Halves):
    """Cannot be made of channels alone."""

    def __init__(self, channel_list, width):
        super().__init__(channel_list)


class GivesDict(Halves):
    """Gives a dict, as a pyramid of torchvision does."""

    def forward(self, features, **kwargs):
        return dict(enumerate(features))


NOTHING = "it accepts none of the inputs that were tried"
WRONG = {
    "takes nothing": (
        TakesNothing(),
        (
            f"cannot check TakesNothing(): {NOTHING} (it takes pairs of images); pass others, as in "
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
    "a contract that raises": (
        HalfTheChannels(),
        (
            'cannot check HalfTheChannels(): for map "b c h w" (1 channel, stride 2), its contract raises ValueError: '
            "channels must be a whole number of at least 1 (got 0)"
        ),
    ),
    "a class that needs more": (
        NeedsMore,
        (
            f"cannot check NeedsMore(): {NOTHING} (it raises TypeError: NeedsMore.__init__() missing 1 required "
            "positional argument: 'width'); pass others, as in inputs=[((Feature(channels=8),),)]"
        ),
    ),
    "a dict": (
        GivesDict,
        (
            f"cannot check GivesDict(): {NOTHING} (it raises TypeError: a module must return a tensor, or a list or "
            "tuple of tensors (got dict)); pass others, as in inputs=[((Feature(channels=8),),)]"
        ),
    ),
}


@pytest.mark.parametrize(("part", "message"), WRONG.values(), ids=WRONG)
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


def test_a_law_that_there_is_not():
    message = (
        "^unknown law 'shape': the laws are shapes, inputs, again, itself, batch, memory, precision, gradients, "
        "refusals$"
    )
    with pytest.raises(ValueError, match=message):
        check_contract(composer.AddFeatures(), laws=["shape"])


def test_the_random_state_is_left_as_it_was():
    state = torch.get_rng_state()
    check_contract(composer.FCNDecoder(channels=4), examples=3)
    assert torch.equal(torch.get_rng_state(), state)
