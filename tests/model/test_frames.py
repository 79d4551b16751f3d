"""Single-image encoders run on each frame, others get all frames at once, and each frame stays where it is."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen
from torch import nn
from torch.nn import functional as F

import composer
from composer.layouts import Feature, Image
from composer.parts.encoders import Custom, Timm
from composer.parts.heads import EmbeddingHead
from composer.parts.tokens import TemporalPooling
from composer.sizes import SizeConstraint

FRAMES = 3
TOKENS = Timm("test_vit", tokens=True, options={"reg_tokens": 4})
SWIN = Timm("swin_tiny_patch4_window7_224", features_only=True, out_indices=[0])


def embed(*parts, frames=FRAMES, channels=3, **rest):
    """Return a model in eval mode that gives the features of the last part as they are."""
    graph = composer.chain(*parts, EmbeddingHead(), input=Image(channels=channels, frames=frames), **rest)
    return composer.build(graph).eval()


def film(height=64, width=96, batch=2, frames=FRAMES, seed=0):
    return torch.randn(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(seed))


def run(model, x):
    with torch.no_grad():
        return model(x).output


@pytest.mark.parametrize(
    ("encoder", "axes"),
    [
        pytest.param(Timm("test_resnet"), "b t c h w", id="maps"),
        pytest.param(TOKENS, "b t n c", id="tokens"),
        pytest.param(SWIN, "b t h w c", id="channels-last"),
    ],
)
def test_each_frame_is_encoded_as_an_image_of_its_own(encoder, axes):
    model = embed(encoder)
    x = film(*(model.typed.sizes.compute_padded_size(64, 96)))
    with torch.no_grad():
        alone = [model.encoder(x[:, :, frame]) for frame in range(FRAMES)]
    expected = [torch.stack(level, dim=1) for level in zip(*alone, strict=True)]
    assert {feature.axes for feature in model.typed.features["encoder"]} == {axes}
    torch.testing.assert_close(list(run(model, x)), expected, rtol=0, atol=1e-5)


class Vector(nn.Module):
    """One vector for each image; it begins in place."""

    def forward(self, x_BCHW):
        assert x_BCHW.dim() == 4
        return x_BCHW.add_(1).mean((2, 3))


class BatchSecond(nn.Module):
    """A map with the batch behind the channels."""

    def forward(self, x_BCHW):
        return x_BCHW.transpose(0, 1)


@pytest.mark.parametrize(
    ("module", "feature", "axes"),
    [
        pytest.param(Vector(), Feature(channels=3, axes="b c", stride=None), "b t c", id="vector"),
        pytest.param(BatchSecond(), Feature(channels=3, axes="c b h w"), "c b t h w", id="batch-second"),
    ],
)
def test_a_module_of_ones_own_runs_on_each_frame(module, feature, axes):
    model, x = embed(Custom(module, features=feature)), film(5, 7)
    before = x.clone()
    (found,) = run(model, x)
    alone = [module(x[:, :, frame].clone()) for frame in range(FRAMES)]
    assert model.typed.features["encoder"][0].axes == axes
    assert torch.allclose(found, torch.stack(alone, dim=axes.split().index("t")))
    assert torch.equal(x, before)


class Change(nn.Module):
    """Takes all frames at once, and gives the difference of the last and the first."""

    def __init__(self, frames):
        super().__init__()
        self.frames = frames

    def forward(self, x_BCTHW):
        assert x_BCTHW.shape[2] == self.frames
        return x_BCTHW[:, :, -1] - x_BCTHW[:, :, 0]


def take_at_once(frames):
    return Custom(Change(frames), features=Feature(channels=3), frames=frames)


def test_a_module_that_takes_frames_gets_all_of_them():
    x = film(5, 7)
    model = composer.build(composer.chain(take_at_once(FRAMES), input=Image(frames=FRAMES)))
    assert model.typed.per_frame == frozenset()
    assert torch.equal(model(x).output, x[:, :, -1] - x[:, :, 0])


@pytest.mark.parametrize(
    ("encoder", "frames", "message"),
    [
        pytest.param(
            take_at_once(4),
            3,
            'takes an image of 4 frames at once; image gives map "b c t h w" (3 channels, stride 1, 3 frames).\n'
            "  fix: input: {frames: 4}",
            id="too-few",
        ),
        pytest.param(
            take_at_once(1),
            None,
            'takes an image of 1 frame at once; image gives map "b c h w" (3 channels, stride 1).\n'
            "  fix: input: {frames: 1}",
            id="no-frames",
        ),
        pytest.param(
            Custom(nn.Identity(), features=Feature(channels=3, axes="b n c", frames=2)),
            3,
            "emits frames for a single image, and would emit frames of frames for an "
            'image with frames; image gives map "b c t h w" (3 channels, stride 1, 3 frames).\n'
            "  fix: feed it an image without frames, or declare how many frames it takes at once",
            id="frames-of-frames",
        ),
    ],
)
def test_other_frames_than_an_encoder_takes_are_rejected(encoder, frames, message):
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(encoder, EmbeddingHead(), input=Image(frames=frames)))
    assert str(caught.value) == f"error[frames] encoder: Custom {message}"


def test_described_features_may_be_of_all_frames():
    part = Timm("resnet18")
    described = {part: composer.EncoderInfo(features=Feature(channels=8, stride=4), frames=2)}
    typed = composer.infer(composer.chain(part, input=Image(frames=2)), described)
    assert (typed.features["encoder"][0].axes, typed.per_frame) == ("b c h w", frozenset())


@frozen
class Halved(composer.Encoder):
    """A registered encoder whose contract is that of an EncoderInfo."""


INPUTS = []


@composer.contract.register(Halved)
def _(part, image):
    info = composer.EncoderInfo(features=Feature(channels=3, stride=2), sizes=SizeConstraint(multiple=2))
    return composer.contract(info, image)


@composer.module.register(Halved)
def _(part, image):
    INPUTS.append(image)
    return nn.AvgPool2d(2)


def test_a_registered_encoder_is_made_for_one_frame():
    model, x = embed(Halved()), film(6, 8)
    (found,) = run(model, x)
    assert INPUTS[-1] == (Feature(channels=3),)
    assert torch.allclose(found, F.avg_pool2d(x.transpose(1, 2).flatten(0, 1), 2).unflatten(0, (2, FRAMES)))


def test_each_frame_is_padded():
    encoder = Timm("test_vit", out_indices=[0])
    x = film(50, 70)
    (found,) = run(embed(encoder, TemporalPooling(pooling="keep")), x)
    (alone,) = run(embed(encoder, frames=None), x[:, :, 2])
    assert found.shape == (2, FRAMES, 64, 4, 5)
    assert torch.allclose(found[:, 2], alone, atol=1e-5)
