"""Clay, ScaleMAE and Prithvi's Swin, which TerraTorch keeps outside of its own registry."""

from __future__ import annotations

import copy
import pickle
import re
import socket

import pytest
import torch
from terratorch.models.backbones.prithvi_swin import convert_weights_swin2mmseg
from terratorch.models.backbones.scalemae import create_model
from terratorch.registry import BACKBONE_REGISTRY

import composer
from composer.adapters.terratorch.parts import TerraTorch

RGB = ["BLUE", "GREEN", "RED"]
BATCH = 2
IMAGE = torch.rand(BATCH, 3, 64, 64)
SMALL_SWIN = {"depths": [1, 1], "num_heads": [1, 2], "strides": [4, 2], "embed_dim": 16}
CLAY = TerraTorch("clay_v1_base", bands=RGB, out_indices=[0, 1], options={"img_size": 64})
SCALE_MAE = TerraTorch("scalemae_vit_base_patch16", bands=RGB, out_indices=[1, 0])
SWIN = TerraTorch("prithvi_swin_B", bands=RGB, options=SMALL_SWIN)
PARTS = {"Clay": CLAY, "ScaleMAE": SCALE_MAE, "Swin": SWIN}


def built(part, channels=3):
    graph = composer.chain(part, composer.EmbeddingHead(), input=composer.Image(channels=channels))
    return composer.build(graph, seed=1).eval()


@pytest.fixture(scope="module")
def clay():
    return built(CLAY)


@pytest.fixture(scope="module")
def scale_mae():
    return built(SCALE_MAE)


def run(model, *images, **extras):
    with torch.no_grad():
        return model(*images, **extras).output


def test_times_places_and_pixels_reach_clay(clay):
    peer = BACKBONE_REGISTRY.build("clay_v1_base", bands=RGB, img_size=64).eval()
    peer.load_state_dict(clay.encoder.state_dict())
    extras = {"time": torch.rand(BATCH, 4), "latlon": torch.rand(BATCH, 4), "gsd": 10.0}
    told = run(clay, IMAGE, **extras)
    theirs = peer(IMAGE, **extras)
    assert [torch.equal(one, other) for one, other in zip(told, theirs, strict=False)] == [True, True]
    assert not torch.equal(told[0], run(clay, IMAGE)[0])


def test_the_size_of_a_pixel_reaches_scale_mae(scale_mae):
    peer = create_model("vit_base_patch16", bands=RGB, out_indices=[1, 0]).eval()
    peer.load_state_dict(scale_mae.encoder.state_dict())
    told = run(scale_mae, IMAGE, input_res=torch.tensor([10.0, 2.0]))
    theirs = peer(IMAGE, input_res=torch.tensor([10.0, 2.0]))
    assert [torch.equal(one, other) for one, other in zip(told, theirs, strict=True)] == [True, True]
    assert not torch.equal(told[0], run(scale_mae, IMAGE)[0])


WRONG = {
    "a time of two numbers": (
        {"time": torch.ones(BATCH, 2)},
        "time must be a tensor of shape (2, 4) (got (2, 2))",
    ),
    "one place for all": (
        {"latlon": torch.ones(1, 4)},
        "latlon must be a tensor of shape (2, 4) (got (1, 4))",
    ),
    "pixels of no size": (
        {"gsd": 0},
        "gsd must be a number above 0 (got 0)",
    ),
}


@pytest.mark.parametrize(("extras", "message"), WRONG.values(), ids=WRONG)
def test_what_clay_is_told_is_checked(clay, extras, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run(clay, IMAGE, **extras)


def test_what_scale_mae_is_told_is_checked(scale_mae):
    message = "input_res must be a tensor of shape (2,) (got (1,))"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run(scale_mae, IMAGE, input_res=torch.ones(1))


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deep", "pickle"]
)
def test_a_copy_has_weights_of_its_own(part, copied):
    model = built(part)
    other = copied(model)
    before = run(model, IMAGE)[0]
    with torch.no_grad():
        next(other.encoder.parameters()).add_(1)
    assert torch.equal(before, run(model, IMAGE)[0])
    assert not torch.equal(before, run(other, IMAGE)[0])


SIZES = {"Clay": (CLAY, (64, 64, False, 1)), "ScaleMAE": (SCALE_MAE, (None, None, True, 16))}


@pytest.mark.parametrize(("part", "expected"), SIZES.values(), ids=SIZES)
def test_a_shape_of_as_many_cells_is_not_taken(part, expected):
    """Positions of a square would be taken for those of it, without a word."""
    sizes = composer.describe(part, 3).sizes
    assert (sizes.height, sizes.width, sizes.square, sizes.multiple) == expected


def still(name, **fields):
    part = TerraTorch(name, **fields)
    return composer.chain(part, composer.EmbeddingHead(), input=composer.Image(channels=3))


REFUSED = {
    "Clay without bands": (
        still("clay_v1_base"),
        (
            "terratorch/clay_v1_base makes its first layer for the wavelengths of its bands (got 3 channels without "
            "names)."
        ),
    ),
    "a band that Clay does not know": (
        still("clay_v1_base", bands=["BLUE", "GREEN", "REDD"]),
        "terratorch/clay_v1_base does not know this band (got REDD).",
    ),
    "an argument that Clay swallows": (
        still("clay_v1_base", bands=RGB, options={"img_sise": 64}),
        "terratorch/clay_v1_base has no argument 'img_sise' (got terratorch 1.2.11).",
    ),
    "an argument that ScaleMAE leaves out": (
        still("scalemae_vit_base_patch16", bands=RGB, options={"reg_tokens": 4}),
        "terratorch/scalemae_vit_base_patch16 has no argument 'reg_tokens' (got terratorch 1.2.11).",
    ),
    "other channels": (
        still("prithvi_swin_B", bands=["RED"]),
        "terratorch/prithvi_swin_B has 1 band, one for each channel of its image (got 3 channels).",
    ),
}


@pytest.mark.parametrize(("graph", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(graph, message):
    with pytest.raises(composer.SpecError) as raised:
        composer.infer(graph)
    (problem,) = raised.value.problems
    assert problem.message == message
    assert problem.fix


def saved(state, file):
    torch.save(state, file)
    return str(file)


def loaded(part, file, **fields):
    given = {"bands": part.bands, "options": dict(part.options), "out_indices": part.out_indices, **fields}
    return built(TerraTorch(part.name, pretrained=file, **given), len(given["bands"])).encoder.state_dict()


def test_clay_of_a_file_of_lightnings(tmp_path):
    state = BACKBONE_REGISTRY.build("clay_v1_base", bands=RGB, img_size=64).state_dict()
    theirs = {name.replace("clay_encoder.", "model.encoder.", 1): value for name, value in state.items()}
    file = saved({"state_dict": {**theirs, "model.decoder.unused": torch.ones(1)}}, tmp_path / "clay.ckpt")
    found = loaded(CLAY, file)
    assert found.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_scale_mae_takes_the_bands_that_it_is_told(tmp_path):
    state = create_model("vit_base_patch16").state_dict()
    file = saved({"model": {**state, "decoder_embed.weight": torch.ones(1)}}, tmp_path / "scale.pth")
    found = loaded(SCALE_MAE, file, bands=["GREEN", "RED"])
    stem = "patch_embed.proj.weight"
    assert torch.equal(found.pop(stem), state[stem][:, [1, 0]])
    found.pop("pos_embed")
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def swin():
    options = {**SMALL_SWIN, "depths": (1, 1), "num_heads": (1, 2), "strides": (4, 2)}
    return BACKBONE_REGISTRY.build("prithvi_swin_B", **options, out_indices=(0, 1)).state_dict()


@pytest.mark.parametrize("begin", ["", "backbone."], ids=["plain", "MMSegmentation"])
def test_a_swin_takes_the_bands_that_it_is_told(tmp_path, begin):
    state = swin()
    written = {f"{begin}{name.replace('stages_', 'stages.')}": value for name, value in state.items()}
    file = saved({"state_dict": {**written, f"{begin}norm3.weight": torch.ones(1)}}, tmp_path / "swin.pt")
    found = loaded(SWIN, file)
    stem = "patch_embed.projection.weight"
    assert torch.equal(found.pop(stem), state[stem][:, :3])
    assert all(torch.equal(value, state[name]) for name, value in found.items())


ORIGINAL = {"stages_": "layers.", "w_msa.": "", "ffn.layers.0.0.": "mlp.fc1.", "ffn.layers.1.": "mlp.fc2."}


def test_a_swin_of_the_original_is_converted(tmp_path):
    state = swin()
    original = {}
    for name, value in state.items():
        for ours, theirs in {**ORIGINAL, "projection": "proj"}.items():
            name = name.replace(ours, theirs)
        original[name] = value
    expected = convert_weights_swin2mmseg(original)
    file = saved({f"encoder.{name}": value for name, value in original.items()}, tmp_path / "swin.pt")
    found = loaded(SWIN, file)
    moved = "downsample.reduction.weight"
    assert torch.equal(found[f"stages_0.{moved}"], expected[f"stages.0.{moved}"])
    assert not torch.equal(found[f"stages_0.{moved}"], state[f"stages_0.{moved}"])
    block = "stages_1.blocks.0.attn.w_msa.qkv.weight"
    assert torch.equal(found[block], state[block])


def problem_of(part):
    with pytest.raises(composer.SpecError) as raised:
        built(part)
    (problem,) = raised.value.problems
    assert problem.place.path == "encoder.pretrained"
    return problem


def test_a_weight_that_is_missing_is_one_problem(tmp_path):
    state = swin()
    state.pop("stages_1.blocks.0.norm1.bias")
    file = saved(state, tmp_path / "swin.pt")
    problem = problem_of(TerraTorch("prithvi_swin_B", bands=RGB, options=SMALL_SWIN, pretrained=file))
    assert problem.message == (
        "terratorch/prithvi_swin_B cannot load the weights of this file (got 36 of the 37 tensors that the network "
        "needs; missing: stages_1.blocks.0.norm1.bias)."
    )


@pytest.mark.parametrize("part", [SCALE_MAE, SWIN], ids=["ScaleMAE", "Swin"])
def test_those_without_published_weights_say_so(part):
    problem = problem_of(TerraTorch(part.name, bands=RGB, options=dict(part.options), pretrained=True))
    assert problem.message == (
        f"terratorch/{part.name} cannot load the weights that TerraTorch names for it (got FileNotFoundError: "
        "TerraTorch names none for this backbone)."
    )


def test_clay_without_a_connection_is_one_problem_at_once(monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    problem = problem_of(TerraTorch("clay_v1_base", bands=RGB, options={"img_size": 64}, pretrained=True))
    assert problem.message == (
        "terratorch/clay_v1_base cannot load the weights that TerraTorch names for it (got ConnectError: [Errno -2] "
        "Name or service not known)."
    )
    assert problem.fix == "check the connection, give the path of a weights file, or set pretrained: false"
