"""The same call to both factories: equal numbers from equal weights, in eval and train mode, forwards and backwards.

In float64, so that what differs is what is computed, and not the order in which it is added up.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from terratorch.models import EncoderDecoderFactory as Theirs
from terratorch.models.model import AuxiliaryHead
from torch import nn
from torch.nn import functional as F

import composer.terratorch
from tests.peers.combinations import (
    CHANNELS,
    PIXEL_WISE_COMBINATIONS,
    SCALAR_COMBINATIONS,
    SIDE,
    TEMPORAL_COMBINATIONS,
    call_of,
    frames_of,
)

TOLERANCE = 1e-9
STEPS = 5
COMBINATIONS = [*PIXEL_WISE_COMBINATIONS, *SCALAR_COMBINATIONS, *TEMPORAL_COMBINATIONS]


@pytest.mark.parametrize("one", COMBINATIONS, ids=lambda one: "-".join(one.values()).replace(" ", "_"))
def test_the_same_call_gives_the_same_numbers(one, tmp_path, record_property):
    theirs, ours = both(one, tmp_path)
    image = image_for(one)

    differences = {
        "eval": difference(outputs(theirs.eval(), image), outputs(ours.eval(), image)),
        "train": difference(outputs(theirs.train(), image), outputs(ours.train(), image)),
        "gradients": gradients_apart(theirs, ours, image, tmp_path),
        "five steps": losses_apart(theirs, ours, image),
    }

    for name, value in differences.items():
        record_property(name, value)
    assert {name: value for name, value in differences.items() if value > TOLERANCE} == {}


def both(one, folder):
    """TerraTorch's model for a combination, and ours with its weights."""
    call = call_of(one)
    torch.manual_seed(0)
    ours = composer.terratorch.EncoderDecoderFactory().build_model(**deepcopy(call)).double()
    # TerraTorch takes auxiliary heads as objects of its own class alone.
    aux = [AuxiliaryHead(**entry) for entry in call["aux_decoders"]] if "aux_decoders" in call else None
    theirs = Theirs().build_model(**deepcopy(call | {"aux_decoders": aux})).double()
    draw_masks_alike(theirs)
    draw_masks_alike(ours)
    stir(theirs)
    torch.save(theirs.state_dict(), folder / "weights.pt")
    composer.load_weights(ours, folder / "weights.pt")
    return theirs, ours


def draw_masks_alike(model):
    """Dropout draws its mask in the order of memory, which is not the same in both models: here it is."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_pre_hook(lambda _, inputs: tuple(x.contiguous() for x in inputs))


def stir(model):
    """Statistics of norms as training leaves them: not zero and one, which hide in what a norm does in eval mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype) + 0.5)


def image_for(one):
    frames = frames_of(one)
    size = (50, 53) if one.get("size") == "odd" else (SIDE, SIDE)
    return torch.rand(2, CHANNELS, *frames, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def outputs(model, image):
    """Everything that a model gives, drawn with the same random numbers."""
    torch.manual_seed(3)
    out = model(image)
    return [out.output, *(out.auxiliary_heads or {}).values()]


def difference(theirs, ours):
    """The largest difference between tensors of two lists, relative to the largest value of each of theirs."""
    assert [tuple(x.shape) for x in theirs] == [tuple(x.shape) for x in ours]
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)) for a, b in zip(theirs, ours, strict=True))


def loss_of(model, image):
    """A loss in which every output takes part, and every value of it its own."""
    return sum(F.mse_loss(x, torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)) for x in outputs(model, image))


def gradients_apart(theirs, ours, image, folder):
    """The gradients of TerraTorch's model, loaded as if they were weights, beside those of ours."""
    for model in (theirs, ours):
        model.zero_grad()
        loss_of(model, image).backward()
    parameters = dict(theirs.named_parameters())
    gradients = {
        name: parameters[name].grad if name in parameters and parameters[name].grad is not None else torch.zeros_like(x)
        for name, x in theirs.state_dict().items()
    }
    torch.save(gradients, folder / "gradients.pt")
    as_weights = deepcopy(ours)
    composer.load_weights(as_weights, folder / "gradients.pt")
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    apart = [
        (mine.grad - wanted).abs().max() / scale if mine.grad is not None else wanted.abs().max() / scale
        for mine, wanted in zip(ours.parameters(), as_weights.parameters(), strict=True)
    ]
    return max(map(float, apart))


def losses_apart(theirs, ours, image):
    """The loss after a few steps of gradient descent with momentum, relative to TerraTorch's."""
    ends = [descended(model, image) for model in (theirs, ours)]
    return abs(ends[0] - ends[1]) / abs(ends[0])


def descended(model, image):
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss_of(model, image).backward()
        optimiser.step()
    return float(loss_of(model, image).detach())
