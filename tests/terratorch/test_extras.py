"""What a backbone is told beside its image: times and places, the size of a pixel; and what is said of others."""

from __future__ import annotations

import re

import pytest
import torch
from terratorch.models.backbones.scalemae import create_model
from terratorch.registry import BACKBONE_REGISTRY

import composer
from composer.adapters.terratorch.parts import TerraTorch

RGB = ["BLUE", "GREEN", "RED"]
TIMES = torch.tensor([[[2020.0, 12.0], [2020.0, 200.0]]] * 2)
PLACES = torch.tensor([[45.0, 7.0]] * 2)
FILM, IMAGE = torch.rand(2, 6, 2, 32, 32), torch.rand(2, 3, 64, 64)

PRITHVI = TerraTorch("prithvi_eo_v2_tiny_tl", out_indices=[11])
CLAY = TerraTorch("clay_v1_base", bands=RGB, out_indices=[0, 1], options={"img_size": 64})
SCALE_MAE = TerraTorch("scalemae_vit_base_patch16", bands=RGB, out_indices=[1, 0])


def built(part, image):
    frames = image.shape[2] if image.dim() == 5 else None
    graph = composer.chain(part, composer.EmbeddingHead(), input=composer.Image(channels=image.shape[1], frames=frames))
    return composer.build(graph).eval()


@pytest.fixture(scope="module")
def prithvi():
    return built(PRITHVI, FILM)


@pytest.fixture(scope="module")
def models(prithvi):
    return {"prithvi": prithvi, "clay": built(CLAY, IMAGE), "scalemae": built(SCALE_MAE, IMAGE)}


def run(model, image, **extras):
    with torch.no_grad():
        return model(image, **extras).output


EXTRAS = {"temporal_coords": TIMES, "location_coords": PLACES}
TOLD = {
    "prithvi": (lambda: BACKBONE_REGISTRY.build("prithvi_eo_v2_tiny_tl", num_frames=2, out_indices=[11]), FILM, EXTRAS),
    "clay": (
        lambda: BACKBONE_REGISTRY.build("clay_v1_base", bands=RGB, img_size=64),
        IMAGE,
        {"time": torch.rand(2, 4), "latlon": torch.rand(2, 4), "gsd": 10.0},
    ),
    "scalemae": (
        lambda: create_model("vit_base_patch16", bands=RGB, out_indices=[1, 0]),
        IMAGE,
        {"input_res": torch.tensor([10.0, 2.0])},
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_they_reach_the_backbone(models, name):
    make, image, extras = TOLD[name]
    peer = make().eval()
    peer.load_state_dict(models[name].encoder.state_dict())
    told = run(models[name], image, **extras)
    with torch.no_grad():
        theirs = peer(image, **extras)
    assert all(torch.equal(one, other) for one, other in zip(told, theirs, strict=False))
    assert not torch.equal(told[0], run(models[name], image)[0])


WRONG = {
    "other frames": ("prithvi", "temporal_coords", TIMES[:, :1], "a tensor of shape (2, 2, 2) (got (2, 1, 2))"),
    "one for all images": ("prithvi", "temporal_coords", TIMES[:1], "a tensor of shape (2, 2, 2) (got (1, 2, 2))"),
    "places with a height": ("prithvi", "location_coords", torch.ones(2, 3), "a tensor of shape (2, 2) (got (2, 3))"),
    "a list": ("prithvi", "location_coords", PLACES.tolist(), "a tensor of shape (2, 2) (got list)"),
    "a time of two numbers": ("clay", "time", torch.ones(2, 2), "a tensor of shape (2, 4) (got (2, 2))"),
    "pixels of no size": ("clay", "gsd", 0, "a number above 0 (got 0)"),
    "one size for all": ("scalemae", "input_res", torch.ones(1), "a tensor of shape (2,) (got (1,))"),
}


@pytest.mark.parametrize(("name", "extra", "value", "rule"), WRONG.values(), ids=WRONG)
def test_what_they_must_be_is_said(models, name, extra, value, rule):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{extra} must be {rule}')}$"):
        run(models[name], TOLD[name][1], **{extra: value})


def test_a_prithvi_that_has_not_learned_from_times_takes_none():
    said = r"^no encoder of the model takes 'temporal_coords'; nothing is taken beside images$"
    with pytest.raises(TypeError, match=said):
        run(built(TerraTorch("prithvi_eo_tiny"), FILM), FILM, temporal_coords=TIMES)


def test_none_is_none(prithvi):
    assert torch.equal(run(prithvi, FILM, temporal_coords=None)[0], run(prithvi, FILM)[0])


def test_autocast_takes_them(prithvi):
    with torch.autocast("cpu", torch.bfloat16):
        (out,) = run(prithvi, FILM, **EXTRAS)
    assert torch.allclose(out.float(), run(prithvi, FILM, **EXTRAS)[0], atol=0.5)


def test_a_model_that_is_told_of_them_is_exported_and_compiled(prithvi):
    torch.compiler.reset()
    compiled = torch.compile(prithvi, fullgraph=True, backend="eager")
    program = torch.export.export(prithvi, (FILM,), EXTRAS)
    (expected,) = run(prithvi, FILM, **EXTRAS)
    assert torch.equal(run(program.module(), FILM, **EXTRAS)[0], expected)
    assert torch.equal(run(compiled, FILM, **EXTRAS)[0], expected)


def test_on_the_meta_device_they_have_no_numbers():
    meta = built(PRITHVI, FILM).to("meta")
    (out,) = run(meta, FILM.to("meta"), **{name: value.to("meta") for name, value in EXTRAS.items()})
    assert out.shape == (2, 1 + 2 * 4, meta.typed.features["encoder"][0].channels)
