"""Weights of files: those of the network, band by band, or a problem; never half of them."""

from __future__ import annotations

import socket

import pytest
import torch
from attrs import evolve
from terratorch.models.backbones.prithvi_swin import convert_weights_swin2mmseg
from terratorch.models.backbones.scalemae import create_model
from terratorch.registry import BACKBONE_REGISTRY, TERRATORCH_BACKBONE_REGISTRY

import composer
from composer.adapters.terratorch.parts import TerraTorch
from composer.bands import find_band

SIX = ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"]
RGB = SIX[:3]
SMALL_SWIN = {"depths": (1, 1), "num_heads": (1, 2), "strides": (4, 2), "embed_dim": 16}
CLAY = TerraTorch("clay_v1_base", bands=RGB, options={"img_size": 64})
SCALE_MAE = TerraTorch("scalemae_vit_base_patch16", bands=RGB)
SWIN = TerraTorch("prithvi_swin_B", bands=RGB, options=SMALL_SWIN)
RESNET = "satlas_resnet50_sentinel2_si_rgb_satlas"


def built(part, channels):
    graph = composer.chain(part, composer.EmbeddingHead(), input=composer.Image(channels=channels))
    return composer.build(graph, seed=1).encoder


def problem_of(part, channels):
    with pytest.raises(composer.SpecError) as raised:
        built(part, channels)
    (problem,) = raised.value.problems
    assert problem.place.path == "encoder.pretrained"
    return problem


def saved(state, file):
    torch.save(state, file)
    return str(file)


def differing(encoder, state, *, but=()):
    """The names of the weights that are not those of a state."""
    return [n for n, x in encoder.state_dict().items() if n not in but and not torch.equal(x, state[n])]


@pytest.fixture
def prithvi(tmp_path):
    return saved(TERRATORCH_BACKBONE_REGISTRY.build("prithvi_eo_tiny").state_dict(), tmp_path / "prithvi.pt")


@pytest.fixture
def resnet(tmp_path):
    network = TERRATORCH_BACKBONE_REGISTRY.build(RESNET, model_bands=["B04", "B03", "B02"])
    return saved(network.resnet_model.state_dict(), tmp_path / "resnet.pth")


def test_prithvi_of_a_file(prithvi):
    state = torch.load(prithvi)
    encoder = built(TerraTorch("prithvi_eo_tiny", pretrained=prithvi), 6)
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())


def test_prithvi_takes_the_bands_that_it_is_told(prithvi):
    state = torch.load(prithvi)["patch_embed.proj.weight"]
    encoder = built(TerraTorch("prithvi_eo_tiny", pretrained=prithvi, bands=["RED", "BLUE"]), 2)
    stem = encoder.get_parameter("patch_embed.proj.weight")
    assert torch.equal(stem, state[:, [SIX.index("RED"), SIX.index("BLUE")]])


def terramind(tmp_path, *modalities):
    network = TERRATORCH_BACKBONE_REGISTRY.build("terramind_v1_tiny", modalities=list(modalities))
    return saved(network.state_dict(), tmp_path / "terramind.pt")


@pytest.mark.parametrize(
    "bands",
    [
        pytest.param({"S2L2A": ["RED", "GREEN", "BLUE"]}, id="mapping"),
        pytest.param(["SWIR_2", "BLUE"], id="list"),
        pytest.param(["B12", "blue"], id="other names"),
    ],
)
def test_terramind_takes_the_bands_that_it_is_told(bands, tmp_path):
    """As TerraTorch does: the same numbers from the same weights."""
    file = terramind(tmp_path, "S2L2A")
    # TerraTorch knows a band by one name alone.
    of_all = bands if isinstance(bands, dict) else {"S2L2A": [find_band(name) for name in bands]}
    count = len(of_all["S2L2A"])
    ours = built(TerraTorch("terramind_v1_tiny", modalities=["S2L2A"], bands=bands, pretrained=file), count).eval()
    theirs = TERRATORCH_BACKBONE_REGISTRY.build(
        "terramind_v1_tiny", modalities=["S2L2A"], bands=of_all, ckpt_path=file
    ).eval()
    image = torch.rand(1, count, 224, 224)
    with torch.no_grad():
        given, expected = ours(image), theirs({"S2L2A": image})
    assert all(torch.equal(one, other) for one, other in zip(given, expected, strict=True))


def test_terramind_takes_the_bands_of_one_image_of_two(tmp_path):
    file = terramind(tmp_path, "S2L2A", "S1GRD")
    text = (
        "inputs: {optical: {channels: 1}, radar: {channels: 2}}\n"
        "nodes:\n"
        "  encoder:\n"
        f"    part: {{terratorch/terramind_v1_tiny: {{bands: {{S2L2A: [RED]}}, pretrained: {file}}}}}\n"
        "    from: {S2L2A: optical, S1GRD: radar}\n"
        "  all: {part: EmbeddingHead, from: encoder}\n"
        "outputs: [all]\n"
    )
    graph = composer.reads(text)
    assert composer.reads(composer.write(graph)) == graph
    state = composer.build(graph).encoder.state_dict()
    before = torch.load(file)
    name = "encoder_embeddings.untok_sen2l2a@224.proj.weight"
    assert torch.equal(state[name], before[name].unflatten(1, (-1, 12))[..., 3])
    assert all(
        torch.equal(value, before[other]) for other, value in state.items() if other not in (name, "missing_mod_token")
    )


def test_a_band_that_nobody_knows_is_refused(tmp_path):
    part = TerraTorch(
        "terramind_v1_tiny", modalities=["S2L2A"], bands=["REDD"], pretrained=terramind(tmp_path, "S2L2A")
    )
    assert "there is no band 'REDD': did you mean RED" in problem_of(part, 1).got


def test_a_resnet_takes_the_bands_that_it_is_told(resnet):
    state = torch.load(resnet)
    encoder = built(TerraTorch(RESNET, pretrained=resnet, bands=["BLUE", "B04"]), 2)
    assert torch.equal(encoder.get_parameter("resnet_model.conv1.weight"), state["conv1.weight"][:, [2, 0]])
    assert torch.equal(encoder.get_parameter("resnet_model.layer4.2.conv3.weight"), state["layer4.2.conv3.weight"])


def test_terramind_of_a_file_and_a_modality_of_ones_own(tmp_path):
    network = TERRATORCH_BACKBONE_REGISTRY.build("terramind_v1_tiny", modalities=["S2L2A", "S1GRD"])
    file = saved({**network.state_dict(), "decoder.unused": torch.zeros(1)}, tmp_path / "t.pt")
    encoder = built(TerraTorch("terramind_v1_tiny", pretrained=file, modalities=["S1GRD"]), 2)
    own = built(TerraTorch("terramind_v1_tiny", pretrained=file, modalities=["thermal"]), 4)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in encoder.state_dict().items())
    assert torch.equal(own.state_dict()["encoder.3.attn.qkv.weight"], network.state_dict()["encoder.3.attn.qkv.weight"])


def test_a_weight_that_is_missing_is_one_problem(prithvi):
    saved({n: x for n, x in torch.load(prithvi).items() if n != "blocks.2.attn.qkv.weight"}, prithvi)
    problem = problem_of(TerraTorch("prithvi_eo_tiny", pretrained=prithvi), 6)
    assert problem.message == (
        "terratorch/prithvi_eo_tiny cannot load the weights of this file (got 53 of the 54 tensors that the network "
        "needs; missing: blocks.2.attn.qkv.weight)."
    )
    assert problem.fix == "give the path of a weights file that fits this backbone, or set pretrained: false"


def test_a_prefix_is_stripped_where_a_band_begins_at_random(prithvi, tmp_path):
    found = {f"model.encoder.{name}": x for name, x in torch.load(prithvi).items()}
    file = saved({"state_dict": {**found, "criterion.weight": torch.ones(2)}}, tmp_path / "prefixed.pt")
    encoder = built(TerraTorch("prithvi_eo_tiny", pretrained=file, bands=["RED", "COASTAL_AEROSOL"]), 2)
    state = torch.load(prithvi)
    stem = encoder.get_parameter("patch_embed.proj.weight")
    assert torch.equal(stem[:, 0], state["patch_embed.proj.weight"][:, SIX.index("RED")])
    assert differing(encoder, state, but=("patch_embed.proj.weight",)) == []
    assert "criterion.weight" in encoder.loaded_weights.unused


def test_a_foreign_file_is_one_problem(tmp_path):
    file = saved({"one": torch.ones(3)}, tmp_path / "one.pt")
    got = problem_of(TerraTorch("terramind_v1_tiny", pretrained=file, modalities=["DEM"]), 1).got
    assert got.startswith(
        "0 of the 149 tensors that the network needs; missing: encoder_embeddings.untok_dem@224.mod_emb"
    )
    assert problem_of(TerraTorch("prithvi_eo_tiny", pretrained=file), 6).got.startswith("1 of the 54")


def test_other_channels_without_bands_are_one_problem(resnet):
    problem = problem_of(TerraTorch(RESNET, pretrained=resnet), 5)
    assert "the weights are of 3 bands, RED, GREEN, BLUE: name those of the image as bands" in problem.message


def test_a_first_layer_of_other_patches_is_one_problem(prithvi):
    part = TerraTorch("prithvi_eo_tiny", pretrained=prithvi, options={"patch_size": [1, 8, 8]})
    message = problem_of(part, 6).message
    assert "patch_embed.proj.weight [256, 6, 1, 16, 16] instead of [256, 6, 1, 8, 8]" in message


@pytest.mark.parametrize("part", [TerraTorch("UNet"), SCALE_MAE, SWIN], ids=["UNet", "ScaleMAE", "Swin"])
def test_a_backbone_without_published_weights_says_so(part):
    problem = problem_of(evolve(part, pretrained=True), 3)
    assert problem.got == "FileNotFoundError: TerraTorch names none for this backbone"


@pytest.mark.parametrize(
    ("name", "channels", "fields"),
    [
        ("prithvi_eo_v2_tiny_tl", 6, {}),
        (RESNET, 3, {}),
        ("clay_v1_base", 3, {"bands": RGB, "options": {"img_size": 64}}),
    ],
    ids=["prithvi", "torchgeo", "clay"],
)
def test_without_a_connection_there_is_one_problem_at_once(monkeypatch, tmp_path, name, channels, fields):
    def unreachable(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    problem = problem_of(TerraTorch(name, pretrained=True, **fields), channels)
    assert problem.message.startswith(f"terratorch/{name} cannot load the weights that TerraTorch names for it (got ")
    assert problem.fix == "check the connection, give the path of a weights file, or set pretrained: false"
    assert slept == []


def test_clay_of_a_file_of_lightnings(tmp_path):
    state = BACKBONE_REGISTRY.build("clay_v1_base", bands=RGB, img_size=64).state_dict()
    theirs = {name.replace("clay_encoder.", "model.encoder.", 1): value for name, value in state.items()}
    file = saved({"state_dict": {**theirs, "model.decoder.unused": torch.ones(1)}}, tmp_path / "clay.ckpt")
    assert differing(built(evolve(CLAY, pretrained=file), 3), state) == []


def test_scale_mae_takes_the_bands_that_it_is_told(tmp_path):
    state = create_model("vit_base_patch16").state_dict()
    file = saved({"model": {**state, "decoder_embed.weight": torch.ones(1)}}, tmp_path / "scale.pth")
    encoder = built(evolve(SCALE_MAE, pretrained=file, bands=["GREEN", "RED"]), 2)
    stem = "patch_embed.proj.weight"
    assert torch.equal(encoder.get_parameter(stem), state[stem][:, [1, 0]])
    assert differing(encoder, state, but=(stem, "pos_embed")) == []


def swin():
    return BACKBONE_REGISTRY.build("prithvi_swin_B", **SMALL_SWIN, out_indices=(0, 1)).state_dict()


@pytest.mark.parametrize("begin", ["", "backbone."], ids=["plain", "MMSegmentation"])
def test_a_swin_takes_the_bands_that_it_is_told(tmp_path, begin):
    state = swin()
    written = {f"{begin}{name.replace('stages_', 'stages.')}": value for name, value in state.items()}
    file = saved({"state_dict": {**written, f"{begin}norm3.weight": torch.ones(1)}}, tmp_path / "swin.pt")
    encoder = built(evolve(SWIN, pretrained=file), 3)
    stem = "patch_embed.projection.weight"
    assert torch.equal(encoder.get_parameter(stem), state[stem][:, :3])
    assert differing(encoder, state, but=(stem,)) == []


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
    found = built(evolve(SWIN, pretrained=file), 3).state_dict()
    moved, block = "downsample.reduction.weight", "stages_1.blocks.0.attn.w_msa.qkv.weight"
    assert torch.equal(found[f"stages_0.{moved}"], expected[f"stages.0.{moved}"])
    assert not torch.equal(found[f"stages_0.{moved}"], state[f"stages_0.{moved}"])
    assert torch.equal(found[block], state[block])
