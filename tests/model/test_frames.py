"""Encoders of stills run on each frame, those that take frames get all of them, and each frame stays where it is."""

from __future__ import annotations

import pytest
import torch
from attrs import frozen
from torch import nn
from torch.nn import functional as F

import composer
from composer.graph import Node
from composer.layouts import Feature, Image
from composer.parts.encoders import Custom, Timm
from composer.parts.heads import EmbeddingHead
from composer.parts.necks import ReshapeTokensToImage
from composer.parts.tokens import TemporalPooling
from composer.sizes import SizeConstraint

FRAMES = 3
ENCODERS = {
    "resnet18": (Timm("resnet18"), "b t c h w"),
    "vit-tokens": (Timm("test_vit", tokens=True, options={"reg_tokens": 4}), "b t n c"),
    "vit-maps": (Timm("test_vit"), "b t c h w"),
    "channels-last": (Timm("swin_tiny_patch4_window7_224", features_only=True, out_indices=[0, 1]), "b t h w c"),
}


def embedding(*parts, frames=FRAMES, channels=3, **rest):
    """A model in eval mode that gives the features of the last part as they are."""
    graph = composer.chain(*parts, EmbeddingHead(), input=Image(channels=channels, frames=frames), **rest)
    return composer.build(graph).eval()


def film(height=64, width=96, batch=2, frames=FRAMES, seed=0):
    return torch.randn(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(seed))


def run(model, x):
    with torch.no_grad():
        return model(x).output


@pytest.mark.parametrize(("encoder", "axes"), ENCODERS.values(), ids=ENCODERS)
class TestStills:
    def test_each_frame_is_as_if_it_were_alone(self, encoder, axes):
        model = embedding(encoder)
        x = film(*(model.typed.sizes.compute_padded_size(64, 96)))

        given = run(model, x)

        with torch.no_grad():
            alone = [model.encoder(x[:, :, frame]) for frame in range(FRAMES)]
        expected = [torch.stack(level, dim=1) for level in zip(*alone, strict=True)]
        assert {feature.axes for feature in model.typed.features["encoder"]} == {axes}
        assert [y.shape for y in given] == [y.shape for y in expected]
        assert max(float((y - z).abs().max()) for y, z in zip(given, expected, strict=True)) < 1e-5

    def test_its_weights_are_named_and_drawn_as_without_frames(self, encoder, axes):
        without = composer.build(composer.chain(encoder, EmbeddingHead())).state_dict()
        state = embedding(encoder).state_dict()
        assert list(state) == list(without)
        assert [name for name, x in state.items() if not torch.equal(x, without[name])] == []


def test_a_single_frame_is_an_axis_all_the_same():
    model = embedding(Timm("test_resnet"), frames=1)
    x = film(frames=1)
    assert [y.shape[1] for y in run(model, x)] == [1] * 5
    assert torch.equal(run(model, x)[-1][:, 0], run(embedding(Timm("test_resnet"), frames=None), x[:, :, 0])[-1])


def test_in_training_all_frames_are_one_batch():
    """As statistics of a batch are concerned, a film is so many stills."""
    model = embedding(Timm("test_resnet")).train()
    other = embedding(Timm("test_resnet"), frames=None).train()
    x = film(96, 96)
    (*_, one), (*_, two) = model(x).output, other(torch.cat(list(x), dim=1).transpose(0, 1)).output
    assert torch.allclose(one.flatten(0, 1), two, atol=1e-5)
    assert torch.allclose(model.encoder.bn1.running_mean, other.encoder.bn1.running_mean)


class Vector(nn.Module):
    """One vector for each still; it begins in place."""

    def forward(self, x_BCHW):
        assert x_BCHW.dim() == 4
        return x_BCHW.add_(1).mean((2, 3))


class BatchLast(nn.Module):
    """A map with the batch behind the channels."""

    def forward(self, x_BCHW):
        return x_BCHW.transpose(0, 1)


OWN = {
    "vector": (Custom(Vector(), features=Feature(channels=3, axes="b c", stride=None)), "b t c"),
    "batch-second": (Custom(BatchLast(), features=Feature(channels=3, axes="c b h w")), "c b t h w"),
}


@pytest.mark.parametrize(("encoder", "axes"), OWN.values(), ids=OWN)
def test_a_module_of_ones_own_may_be_of_stills(encoder, axes):
    model = embedding(encoder)
    x = film(5, 7)
    before = x.clone()

    (given,) = run(model, x)

    dim = axes.split().index("t")
    alone = [encoder.module(x[:, :, frame].clone()) for frame in range(FRAMES)]
    assert model.typed.features["encoder"][0].axes == axes
    assert torch.allclose(given, torch.stack(alone, dim=dim))
    assert torch.equal(x, before)


class Later(nn.Module):
    """Looks at all frames at once, which it counts, and gives what the last has more than the first."""

    def __init__(self, frames):
        super().__init__()
        self.frames = frames

    def forward(self, x_BCTHW):
        assert x_BCTHW.shape[2] == self.frames
        return x_BCTHW[:, :, -1] - x_BCTHW[:, :, 0]


def at_once(frames):
    return Custom(Later(frames), features=Feature(channels=3), frames=frames)


def test_a_module_that_takes_frames_gets_them_all():
    x = film(5, 7)
    model = composer.build(composer.chain(at_once(FRAMES), input=Image(frames=FRAMES)))
    assert model.typed.per_frame == frozenset()
    assert torch.equal(model(x).output, x[:, :, -1] - x[:, :, 0])


REFUSED = {
    "too few": (
        (at_once(4), 3),
        (
            "error[frames] encoder: Custom takes an image of 4 frames at once; "
            'image gives map "b c t h w" (3 channels, stride 1, 3 frames).\n  fix: input: {frames: 4}'
        ),
    ),
    "a still": (
        (at_once(1), None),
        (
            'error[frames] encoder: Custom takes an image of 1 frame at once; image gives map "b c h w" '
            "(3 channels, stride 1).\n  fix: input: {frames: 1}"
        ),
    ),
    "frames of frames": (
        (Custom(nn.Identity(), features=Feature(channels=3, axes="b n c", frames=2)), 3),
        (
            "error[frames] encoder: Custom emits frames for a single image, and would emit frames of frames for an "
            'image with frames; image gives map "b c t h w" (3 channels, stride 1, 3 frames).\n'
            "  fix: feed it an image without frames, or declare how many frames it takes at once"
        ),
    ),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_other_frames_than_an_encoder_takes_are_refused(given, message):
    encoder, frames = given
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(encoder, EmbeddingHead(), input=Image(frames=frames)))
    assert str(caught.value) == message


def test_facts_that_were_handed_in_may_be_of_frames():
    part = Timm("resnet18")
    facts = {part: composer.EncoderInfo(features=Feature(channels=8, stride=4), frames=2)}
    typed = composer.infer(composer.chain(part, input=Image(frames=2)), facts)
    assert (typed.features["encoder"][0].axes, typed.per_frame) == ("b c h w", frozenset())


@frozen
class Halved(composer.Encoder):
    """An encoder of one's own that says what it gives in terms of EncoderInfo, and learns what it is fed."""


FED = []


@composer.contract.register(Halved)
def _(part, image):
    return composer.contract(
        composer.EncoderInfo(features=Feature(channels=3, stride=2), sizes=SizeConstraint(multiple=2)), image
    )


@composer.module.register(Halved)
def _(part, image):
    FED.append(image)
    return nn.AvgPool2d(2)


def test_a_part_of_ones_own_that_is_of_stills_is_made_for_stills():
    model = embedding(Halved())
    x = film(6, 8)
    (given,) = run(model, x)
    assert FED[-1] == (Feature(channels=3),)
    assert torch.allclose(given, F.avg_pool2d(x.transpose(1, 2).flatten(0, 1), 2).unflatten(0, (2, FRAMES)))


def test_a_shared_encoder_runs_on_each_frame_of_both_films():
    graph = composer.Graph(
        inputs={"before": Image(frames=FRAMES), "after": Image(frames=FRAMES)},
        nodes=[
            Node("old", Timm("test_resnet"), "before"),
            Node("new", composer.graph.Shared("old"), "after"),
            Node("both", composer.ConcatFeatures(), ["old", "new"]),
            Node("all", EmbeddingHead(), "both"),
        ],
        outputs=["all"],
    )
    model = composer.build(graph).eval()
    before, after = film(96, 96, seed=1), film(96, 96, seed=2)
    with torch.no_grad():
        given = model({"before": before, "after": after}).output
        expected = [model.old(x[:, :, 1]) for x in (before, after)]
    assert torch.allclose(given[-1][:, 1], torch.cat([levels[-1] for levels in expected], dim=1), atol=1e-5)


def test_a_film_is_padded_frame_by_frame():
    pooled = composer.chain(
        Timm("test_vit", out_indices=[0]), TemporalPooling(pooling="keep"), EmbeddingHead(), input=Image(frames=FRAMES)
    )
    still = composer.chain(Timm("test_vit", out_indices=[0]), EmbeddingHead())
    x = film(50, 70)
    (given,), (alone,) = run(composer.build(pooled).eval(), x), run(composer.build(still).eval(), x[:, :, 2])
    assert given.shape == (2, FRAMES, 64, 4, 5)
    assert torch.allclose(given[:, 2], alone, atol=1e-5)


PATCH = 16
HEIGHT, WIDTH = 64, 256
VIT = Timm("test_vit", out_indices=[0], tokens=True)
WAYS = {
    "maps": (Timm("test_vit", out_indices=[0]),),
    "tokens": (VIT, ReshapeTokensToImage()),
    "pooled-then-laid-out": (VIT, TemporalPooling(pooling="concat"), ReshapeTokensToImage()),
}
SPOTS = [(0, 0, 0, 0), (1, 0, 3, 15), (0, 1, 2, 1), (1, 1, 0, 15), (0, 2, 1, 8), (1, 2, 3, 0), (1, 0, 2, 13)]
"""Where a patch is brightened: in which film, in which frame, at which row and column of the grid."""


def found(way):
    """For each of the spots, where of all films, frames and cells the features change most."""
    model = embedding(*WAYS[way])
    plain = film(HEIGHT, WIDTH)
    films = [brightened(plain, *spot) for spot in SPOTS]
    changes = [(by_frame(run(model, x)) - by_frame(run(model, plain))).abs().sum(2) for x in films]
    return [tuple(map(int, torch.unravel_index(change_BTHW.argmax(), change_BTHW.shape))) for change_BTHW in changes]


def brightened(plain, number, frame, row, column):
    x = plain.clone()
    x[number, :, frame, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] += 3
    return x


def by_frame(output):
    """The maps of each frame, `(b, t, c, h, w)`."""
    (x,) = output
    return x if x.dim() == 5 else x.unflatten(1, (FRAMES, -1))


@pytest.mark.parametrize("way", WAYS)
def test_a_patch_is_seen_in_its_film_in_its_frame_and_where_it_is(way):
    assert found(way) == SPOTS


def read_in_the_wrong_order(film_BCTHW):
    batch, channels, frames, *grid = film_BCTHW.shape
    return film_BCTHW.reshape(batch * frames, channels, *grid)


def frames_before_films(x, batch, frames):
    return x.unflatten(batch, (frames, -1)).transpose(batch, batch + 1)


WRONG = {
    "read-in-the-wrong-order": ("fold_frames", read_in_the_wrong_order),
    "frames-first": ("unfold_frames", frames_before_films),
}


@pytest.mark.parametrize(("name", "wrong"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("way", WAYS)
def test_frames_that_are_mixed_up_would_be_found_out(way, name, wrong, monkeypatch):
    """The test above can fail."""
    monkeypatch.setattr(composer.model, name, wrong)
    assert sum(seen != spot for seen, spot in zip(found(way), SPOTS, strict=True)) >= 3
