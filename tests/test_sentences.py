"""Numbers of things, as sentences have them: one channel, and several channels."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

import composer
from composer.cli.images import describe_missing_pixels
from composer.layouts import Feature, describe_features

VECTOR = Feature(channels=1, stride=None, axes="b c")
TOKENS = Feature(channels=1, axes="b n c", stride=16, prefix=1)
SENTENCES = {
    "several maps of one channel": ([Feature(channels=1)] * 3, '3 × map "b c h w" (1 channel, stride 1)'),
    "several channels": ([Feature(channels=2)], 'map "b c h w" (2 channels, stride 1)'),
    "one channel and more": (
        [Feature(channels=1), Feature(channels=4)],
        '2 × map "b c h w" (1, 4 channels, stride 1)',
    ),
    "a vector": ([VECTOR], 'vector "b c" (1 channel)'),
    "a prefix token": ([TOKENS], 'tokens "b n c" (1 channel, stride 16, 1 prefix token)'),
    "frames": (
        [Feature(channels=3, axes="b t c h w", frames=2)],
        'map "b t c h w" (3 channels, stride 1, 2 frames)',
    ),
}


@pytest.mark.parametrize(("features", "said"), SENTENCES.values(), ids=SENTENCES)
def test_features_are_said_with_as_many_things_as_there_are(features, said):
    assert describe_features(tuple(features)) == said


@pytest.mark.parametrize(
    ("takes", "gives", "said"),
    [
        (1, 3, 'takes an image of 1 channel; image gives map "b c h w" (3 channels, stride 1).'),
        (3, 1, 'takes an image of 3 channels; image gives map "b c h w" (1 channel, stride 1).'),
    ],
)
def test_channels_of_an_encoder_and_its_image_are_counted(takes, gives, said):
    encoder = composer.Custom(nn.Identity(), features=Feature(channels=1), channels=takes)
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(encoder, composer.EmbeddingHead(), input=composer.Image(channels=gives)))

    assert str(caught.value) == f"error[channels] encoder: Custom {said}\n  fix: input: {{channels: {takes}}}"


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ([[0, 0], [0, 0]], None),
        ([[0, 1], [0, 0]], "1 of 4 pixels holds no data, and gets its band's mean"),
        ([[0, 1], [1, 0]], "2 of 4 pixels hold no data, and get their band's mean"),
        ([[1]], "1 of 1 pixel holds no data, and gets its band's mean"),
    ],
    ids=["none", "one", "two", "the only one"],
)
def test_pixels_without_data_are_counted(lacking, said):
    assert describe_missing_pixels(np.array([lacking], dtype=bool)) == said
