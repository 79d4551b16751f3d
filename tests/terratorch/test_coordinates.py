"""The times and places that a Prithvi is told: what is said of others, and that a traced model takes them."""

from __future__ import annotations

import re

import pytest
import torch

import composer
from composer.adapters.terratorch.parts import TerraTorch

TIMES = torch.tensor([[[2020.0, 12.0], [2020.0, 200.0]]] * 2)
PLACES = torch.tensor([[45.0, 7.0]] * 2)
FILM = torch.rand(2, 6, 2, 32, 32)


def made():
    part = TerraTorch("prithvi_eo_v2_tiny_tl", out_indices=[1])
    return composer.build(composer.chain(part, composer.EmbeddingHead(), input=composer.Image(channels=6, frames=2)))


@pytest.fixture(scope="module")
def model():
    return made().eval()


def run(model, **extras):
    with torch.no_grad():
        return model(FILM, **extras).output[0]


WRONG = {
    "no axis of frames": (
        {"temporal_coords": TIMES[:, 0]},
        "temporal_coords must be a tensor of shape (2, 2, 2) (got (2, 2))",
    ),
    "other frames": (
        {"temporal_coords": TIMES[:, :1]},
        "temporal_coords must be a tensor of shape (2, 2, 2) (got (2, 1, 2))",
    ),
    "one for all images": (
        {"temporal_coords": TIMES[:1]},
        "temporal_coords must be a tensor of shape (2, 2, 2) (got (1, 2, 2))",
    ),
    "places of another batch": (
        {"temporal_coords": TIMES, "location_coords": PLACES[:1]},
        "location_coords must be a tensor of shape (2, 2) (got (1, 2))",
    ),
    "places with a height": (
        {"location_coords": torch.ones(2, 3)},
        "location_coords must be a tensor of shape (2, 2) (got (2, 3))",
    ),
    "a list": (
        {"location_coords": PLACES.tolist()},
        "location_coords must be a tensor of shape (2, 2) (got list)",
    ),
}


@pytest.mark.parametrize(("extras", "message"), WRONG.values(), ids=WRONG)
def test_what_they_must_be_is_said(model, extras, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run(model, **extras)


def test_none_is_none(model):
    assert torch.equal(run(model, temporal_coords=None, location_coords=None), run(model))


def test_autocast_takes_them(model):
    with torch.autocast("cpu", torch.bfloat16):
        out = run(model, temporal_coords=TIMES, location_coords=PLACES)
    assert torch.allclose(out.float(), run(model, temporal_coords=TIMES, location_coords=PLACES), atol=0.5)


EXTRAS = {"temporal_coords": TIMES, "location_coords": PLACES}


def test_a_model_that_is_told_of_them_is_exported(model):
    program = torch.export.export(model, (FILM,), EXTRAS)
    with torch.no_grad():
        exported = program.module()(FILM, **EXTRAS).output[0]
    assert torch.equal(exported, run(model, **EXTRAS))


def test_it_is_compiled_without_a_break(model):
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(run(compiled, **EXTRAS), run(model, **EXTRAS))


def test_on_the_meta_device_they_have_no_numbers(model):
    meta = made().to("meta")
    out = meta(FILM.to("meta"), **{name: value.to("meta") for name, value in EXTRAS.items()}).output[0]
    assert out.shape == run(model, **EXTRAS).shape
