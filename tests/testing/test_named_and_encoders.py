"""check_contract for what takes inputs by name, and for encoders of one's own: stills before frames, several images."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve
from torch import nn

import composer
from composer.testing.checking import check_contract
from composer.testing.failures import ContractUncheckable, ContractViolation
from tests.testing.gallery import declare


def part(promise, network, kind=composer.Neck):
    """A part with the name of its contract `promise`, and with the module `network()`."""
    return declare(promise.__name__, promise, lambda *_inputs, **_named: network(), kind)()


def maps(*inputs):
    return all(f.axes == "b c h w" for features in inputs for f in features)


NO_MAPS = composer.Rejection(code="layout", kind="wrong_output", expected="takes maps")


class Sums(nn.Module):
    """Adds what it is fed by two names."""

    def forward(self, *, optical, radar):
        return [x + y for x, y in zip(optical, radar, strict=True)]


class Swaps(Sums):
    """Gives one name's shape for the other's."""

    def forward(self, *, optical, radar):
        return radar


class AnyNames(nn.Module):
    """Adds whatever it is fed by name."""

    def forward(self, **named):
        return [sum(levels) for levels in zip(*named.values(), strict=True)]


def sums(neck, *, optical, radar):
    return optical if optical == radar and maps(optical) else NO_MAPS


def swaps(neck, *, optical, radar):
    return optical if maps(optical, radar) and len(optical) == 1 else NO_MAPS


def any_names(neck, **named):
    first, *others = named.values()
    return first if maps(first) and all(other == first for other in others) else NO_MAPS


@pytest.mark.parametrize("one", [part(sums, Sums), part(any_names, AnyNames)], ids=["its names", "any names"])
def test_a_part_that_takes_inputs_by_name_is_fed_them_by_name(one):
    check_contract(one, examples=8, without=["refusals"])  # all of them are of kind lies


def test_a_part_that_mistakes_its_names_is_caught_and_the_names_are_told():
    with pytest.raises(ContractViolation) as caught:
        check_contract(part(swaps, Swaps))

    assert str(caught.value) == (
        "swaps() breaks the law 'shapes': its outputs differ from its contract.\n"
        '  input     optical: map "b c h w" (11 channels, stride 2); radar: map "b c h w" (29 channels, stride 2), '
        "1 image of 2 × 2\n"
        "  expected  1 × 11 × 1 × 1\n"
        "  got       1 × 29 × 1 × 1"
    )


class Patches(nn.Module):
    """An encoder of stills: a convolution for patches of two by two."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(4, 8, 2, 2)

    def forward(self, image):
        assert image.dim() == 4, "a still is wanted"
        return [self.proj(image)]


def patches(encoder, image):
    (fed,) = image
    if fed.channels != 4:
        return composer.Rejection(code="channels", kind="raises", expected="takes an image of 4 channels")
    given = composer.Feature(channels=8, stride=2 * fed.stride)
    if fed.axes == "b c h w":
        return [given]
    framed = evolve(given, axes="b t c h w", frames=fed.frames)
    return composer.Outputs(features=[framed], per_frame=True)


def patches_moved(encoder, image):
    outcome = patches(encoder, image)
    if not isinstance(outcome, composer.Outputs):
        return outcome
    return evolve(outcome, features=[evolve(f, axes="b c t h w") for f in outcome.features])


def test_an_encoder_of_stills_is_run_frame_by_frame():
    check_contract(part(patches, Patches, composer.Encoder), examples=12)


def test_an_encoder_of_stills_is_held_to_what_it_promises_before_frames():
    with pytest.raises(ContractViolation) as caught:
        check_contract(part(patches_moved, Patches, composer.Encoder), laws=["shapes"])

    assert str(caught.value) == (
        "patches_moved() breaks the law 'shapes': its outputs differ from its contract.\n"
        '  input     map "b c t h w" (4 channels, stride 1, 3 frames), 1 image of 2 × 2\n'
        "  expected  1 × 8 × 3 × 1 × 1\n"
        "  got       1 × 3 × 8 × 1 × 1"
    )


def test_a_module_of_ones_own_is_held_to_its_declaration_and_left_as_it_is():
    module = Patches().train()
    before = {name: x.clone() for name, x in module.state_dict().items()}
    declared = composer.Custom(module, features=composer.Feature(channels=8, stride=2), channels=4)

    check_contract(declared, examples=8)

    assert module.training
    assert [name for name, x in module.state_dict().items() if not torch.equal(x, before[name])] == []


def test_an_encoder_of_one_size_is_run_at_that_size():
    sizes = composer.SizeConstraint(height=224, width=224)
    features = composer.Feature(channels=8, stride=2)
    check_contract(composer.Custom(Patches(), features=features, channels=4, sizes=sizes), examples=3)


class TwoImages(nn.Module):
    """Takes two images in a dict, as a model feeds an encoder that takes them by name."""

    def __init__(self):
        super().__init__()
        self.optical, self.radar = nn.Conv2d(12, 8, 2, 2), nn.Conv2d(2, 8, 2, 2)

    def forward(self, images):
        return self.optical(images["S2"]) + self.radar(images["S1"])


def two_images(encoder, *, S2, S1):
    (optical,), (radar,) = S2, S1
    if (optical.channels, radar.channels, optical.axes) != (12, 2, "b c h w") or optical.stride != radar.stride:
        return composer.Rejection(code="channels", kind="raises", expected="takes 12 bands and 2")
    return [composer.Feature(channels=8, stride=2 * optical.stride)]


def test_an_encoder_takes_several_images_by_name():
    check_contract(part(two_images, TwoImages, composer.Encoder), examples=8)


def rounded(neck, features):
    if any(f.rounding != "exact" for f in features):
        raise KeyError("floor")
    return features


CUSTOM = composer.Custom(nn.Conv2d(4, 8, 2, 2), features=composer.Feature(channels=9, stride=2), channels=4)
ROUNDED = 'map "b c h w" (11 channels, stride 2, rounding floor)'
MISMATCH = (
    "it must give 1 × 9 × 1 × 2 for an image of 2 × 4 (got 1 × 8 × 1 × 2)\n"
    '  input     map "b c h w" (4 channels, stride 1), 1 image of 2 × 2'
)
HINDERED = {
    "a contract that raises for what is rounded": (
        part(rounded, nn.Identity),
        f"cannot check rounded(): for {ROUNDED}, its contract raises KeyError: 'floor'",
    ),
    "a declaration that its module does not keep": (
        CUSTOM,
        f"cannot build the module of {CUSTOM!r}: it raises a rejection: {MISMATCH}",
    ),
}


@pytest.mark.parametrize(("one", "message"), HINDERED.values(), ids=HINDERED)
def test_what_hinders_every_law_is_an_error_of_its_own(one, message):
    with pytest.raises(ContractUncheckable) as caught:
        check_contract(one)
    assert str(caught.value) == message
