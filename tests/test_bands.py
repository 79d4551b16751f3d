"""Bands by name: what they are called, and which kernel of pretrained weights each channel gets."""

from __future__ import annotations

import re
import warnings

import pytest
import timm
import torch
from segmentation_models_pytorch.encoders import get_encoder

import composer
from composer.adapters.smp.parts import SmpEncoder
from composer.bands import RGB, find_band
from composer.cli.main import main
from composer.parts import Timm

SYNONYMS = {
    "any case": ("red", "RED"),
    "without signs": ("Red-Edge 1", "RED_EDGE_1"),
    "Sentinel-2": ("B04", "RED"),
    "Sentinel-2, without zero": ("B4", "RED"),
    "Sentinel-2, narrow": ("B8A", "NIR_NARROW"),
    "Sentinel-2, where Landsat 8 has near infrared": ("B05", "RED_EDGE_1"),
    "Landsat 8": ("L8_B4", "RED"),
    "Landsat 9, as Landsat 8": ("L9_B05", "NIR_NARROW"),
    "Landsat 7": ("L7_B4", "NIR_BROAD"),
    "Landsat 5, as Landsat 7": ("L5_B3", "RED"),
    "STAC": ("swir22", "SWIR_2"),
    "near infrared": ("NIR", "NIR_BROAD"),
    "a picture": ("G", "GREEN"),
    "radar": ("VV-VH", "VV_VH"),
    "unclear": ("SR_B4", None),
    "beyond the last": ("B13", None),
    "empty": ("", None),
}


@pytest.mark.parametrize(("name", "band"), SYNONYMS.values(), ids=SYNONYMS)
def test_names_of_bands(name, band):
    assert find_band(name) == band


def test_channels_follow_from_bands():
    image = composer.Image(bands=["B02", "green", "L8_B4", "NIR"])
    assert (image.bands, image.channels) == (("BLUE", "GREEN", "RED", "NIR_BROAD"), 4)
    assert image == composer.Image(bands=["BLUE", "B3", "RED", "B8"], channels=4)
    assert composer.Image().channels == 3


WRONG = {
    "unknown": (
        "{bands: [RED, BLEU]}",
        "1:16: error[value] input.bands: there is no band 'BLEU' (did you mean BLUE?).",
    ),
    "twice": ("{bands: [RED, B04]}", "1:16: error[value] input.bands: bands must name each band once (got RED, B04)."),
    "none": ("{bands: []}", "1:16: error[value] input.bands: bands must be a list of names (got ())."),
    "other channels": (
        "{bands: [RED, NIR], channels: 3}",
        "1:38: error[value] input.channels: channels must be the number of bands, 2 (got 3).",
    ),
    "no list": (
        "{bands: RED}",
        """1:16: error[type] input.bands: expected a list of strings, or null (got 'RED', a string).
  fix: write a list, such as [RED]""",
    ),
}


@pytest.mark.parametrize(("image", "said"), WRONG.values(), ids=WRONG)
def test_wrong_bands_are_one_error(image, said):
    with pytest.raises(composer.SpecError) as raised:
        composer.reads(f"input: {image}\nencoder: timm/resnet18\n")
    assert str(raised.value) == f"<text>:{said}"


def test_a_spec_keeps_the_bands():
    text = "input: {bands: [B02, GREEN, L8_B4, NIR], frames: 2}\nencoder: timm/resnet18\nhead: EmbeddingHead\n"
    graph = composer.reads(text)
    written = composer.write(graph)
    assert written.splitlines()[0] == "input: {bands: [BLUE, GREEN, RED, NIR_BROAD], frames: 2}"
    assert composer.reads(written) == graph
    assert composer.digest(graph) == composer.digest(composer.reads(written))
    assert composer.digest(graph) != composer.digest(composer.reads(text.replace("B02, GREEN", "GREEN, B02")))


def save_network(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


def make_timm(name, **options):
    return (
        lambda: timm.create_model(name, num_classes=0, **options.get("options", {})),
        lambda file: Timm(name, pretrained=file, **options),
    )


def make_smp(name):
    return lambda: get_encoder(name, depth=3), lambda file: SmpEncoder(name, depth=3, pretrained=file)


NETWORKS = {
    "plain": make_timm("test_resnet"),
    "wrapped": make_timm("test_resnet", features_only=True),
    "patches": make_timm("test_vit"),
    "several branches": make_timm("repvgg_a0", out_indices=[0]),
    "space to depth": make_timm("tresnet_m", out_indices=[1], options={"layers": (1, 1, 1, 1), "width_factor": 0.25}),
    "smp": make_smp("resnet18"),
    "smp, several branches": make_smp("mobileone_s1"),
}


@pytest.fixture(params=NETWORKS)
def pretrained(request, tmp_path):
    """An encoder with the weights of a file, whose numbers are drawn."""
    create, declare = NETWORKS[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return declare(save_network(tmp_path, create()))


def build(part, bands=None, channels=3):
    image = composer.Image(channels=channels) if bands is None else composer.Image(bands=bands)
    return composer.build(composer.chain(part, composer.EmbeddingHead(), input=image)).eval()


def run(model, image):
    with torch.no_grad():
        return torch.cat([x.flatten() for x in model(image).output])


def test_red_and_blue_are_not_swapped(pretrained):
    image = torch.rand(1, 3, 64, 64)
    expected = run(build(pretrained), image)
    named = build(pretrained, ["B02", "B03", "B04"])
    torch.testing.assert_close(run(named, image.flip(1)), expected)
    assert (run(build(pretrained), image.flip(1)) - expected).abs().max() > 1e-3
    assert named.loaded_weights["encoder"].kernels == ("BLUE", "GREEN", "RED")


def find_stems(network, channels):
    layers = [x for x in network.parameters() if x.dim() == 4]
    return [x for x in layers if x.shape[1] == channels] or [x for x in layers if x.shape[1] == 16 * channels]


def test_each_channel_has_the_kernel_of_its_band(pretrained):
    bands = ["NIR", "BLUE", "RED", "VV", "GREEN"]
    encoder = build(pretrained, bands).encoder
    stems = [x.unflatten(1, (-1, 3)) for x in find_stems(build(pretrained).encoder, 3)]
    chosen = [[x.mean(2), x[:, :, 2], x[:, :, 0], x.mean(2), x[:, :, 1]] for x in stems]
    expected = [torch.stack(kernels, 2).flatten(1, 2) * 3 / 5 for kernels in chosen]
    torch.testing.assert_close(find_stems(encoder, 5), expected)
    assert expected
    assert encoder.loaded_weights.kernels == ("mean", "BLUE", "RED", "mean", "GREEN")


def test_a_grey_image_gives_what_it_gives_in_the_network_of_rgb(pretrained):
    grey = torch.rand(1, 1, 64, 64)
    expected = run(build(pretrained), grey.expand(-1, 3, -1, -1))
    given = run(build(pretrained, ["BLUE", "GREEN", "RED", "NIR", "SWIR_1"]), grey.expand(-1, 5, -1, -1))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channel", range(4))
def test_the_gradient_of_a_channel_reaches_the_kernel_of_its_band(channel, tmp_path):
    bands, network = ("BLUE", "RED", "NIR_BROAD", "GREEN"), timm.create_model("test_resnet")
    encoder = build(Timm("test_resnet", pretrained=save_network(tmp_path, network)), bands).encoder
    image = torch.zeros(1, 4, 32, 32)
    image[:, channel] = torch.rand(32, 32)
    stem = encoder.get_parameter("conv1.0.weight")
    torch.nn.functional.conv2d(image, stem).square().sum().backward()
    reached = stem.grad.abs().amax((0, 2, 3)) > 0
    assert reached.tolist() == [index == channel for index in range(4)]
    kernel = network.get_parameter("conv1.0.weight").unbind(1)
    wanted = dict(zip(RGB, kernel, strict=True)).get(bands[channel], sum(kernel) / 3)
    torch.testing.assert_close(stem[:, channel], wanted * 3 / 4)


@pytest.mark.parametrize("features_only", [False, True], ids=["plain", "wrapped"])
def test_a_file_of_as_many_channels_is_loaded_as_it_is(features_only, tmp_path):
    network = timm.create_model("test_resnet", in_chans=4)
    part = Timm("test_resnet", pretrained=save_network(tmp_path, network), features_only=features_only)
    named, unnamed = build(part, ["BLUE", "GREEN", "RED", "NIR"]).encoder, build(part, channels=4).encoder
    stem = next(network.parameters())
    assert torch.equal(next(named.parameters()), stem)
    assert torch.equal(next(unnamed.parameters()), stem)
    assert named.loaded_weights.kernels == ()


def test_a_file_of_another_network_is_one_error(tmp_path):
    part = Timm("test_resnet", pretrained=save_network(tmp_path, timm.create_model("test_vit")))
    with pytest.raises(composer.SpecError, match=r"cannot load the weights \S+weights\.pth") as raised:
        build(part, ["BLUE", "GREEN", "RED", "NIR"])
    assert [problem.place.path for problem in raised.value.problems] == ["encoder.pretrained"]


@pytest.mark.parametrize("name", ["naflexvit_base_patch16_gap", "csatv2"], ids=["of patches", "of fixed colours"])
def test_a_first_layer_without_kernels_is_one_error(name, tmp_path):
    small = {"depth": 3, "embed_dim": 12, "num_heads": 1} if name.startswith("naflex") else {}
    file = save_network(tmp_path, timm.create_model(name, num_classes=0, **small))
    with pytest.raises(composer.SpecError) as raised:
        build(Timm(name, pretrained=file, options=small), RGB[::-1])
    assert str(raised.value) == (
        f"error[weights] encoder: timm/{name} has no convolution whose kernels could be matched with bands (got BLUE, "
        "GREEN, RED).\n  fix: leave bands out of the input"
    )


def test_frames_have_bands_too(tmp_path):
    part = Timm("test_resnet", pretrained=save_network(tmp_path, timm.create_model("test_resnet")))
    image = composer.Image(bands=RGB[::-1], frames=2)
    model = composer.build(composer.chain(part, composer.EmbeddingHead(), input=image)).eval()
    still = torch.rand(1, 3, 32, 32)
    given = model(torch.stack([still, still], 2)).output[-1][:, 1]
    with torch.no_grad():
        torch.testing.assert_close(given, build(part)(still.flip(1)).output[-1])


SAID = """\
warning[weights] encoder: the weights are of RED, GREEN, BLUE, and the image has 5 channels without names: \
their kernels are repeated, or do not fit.
  fix: name the channels in their order, such as input: {bands: [RED, GREEN, BLUE, NIR, …]}"""


# timm does not repeat the kernels of several pixels.
@pytest.mark.parametrize("pretrained", sorted(NETWORKS.keys() - {"space to depth"}), indirect=True)
def test_repeated_kernels_are_a_warning(pretrained):
    with pytest.warns(UserWarning, match=f"^{re.escape(SAID)}$"):
        model = build(pretrained, channels=5)
    assert model.loaded_weights["encoder"].kernels == ()


def test_joined_inputs_have_no_names_and_the_fix_says_so():
    text = (
        "inputs: {a: {bands: [RED, GREEN, BLUE]}, b: {bands: [NIR]}}\nnodes:\n"
        "  joined: {part: ConcatFeatures, from: [a, b]}\n"
        "  encoder: {part: {timm/test_resnet: {pretrained: true}}, from: joined}\n"
        "  all: {part: EmbeddingHead, from: encoder}\noutputs: [all]\n"
    )
    (warning,) = composer.infer(composer.reads(text)).find_bands_warnings()
    assert warning.fix == "feed the encoder an input itself, one whose bands are named"


def test_nothing_is_said_of_other_weights(pretrained):
    with warnings.catch_warnings(action="error"):
        graph = composer.chain(pretrained, composer.EmbeddingHead(), input=composer.Image(channels=5))
        composer.build(graph, pretrained=False)
        composer.build(graph, device="meta")


SPEC = "input: IMAGE\nencoder: {timm/test_resnet: {pretrained: FILE}}\nhead: EmbeddingHead\n"


@pytest.fixture
def write_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(image, pretrained):
        (tmp_path / "a.yaml").write_text(SPEC.replace("IMAGE", image).replace("FILE", pretrained))

    return write


CHECKED = {
    "without names": ("{channels: 5}", "true", [f"a.yaml:2:10: {SAID}"]),
    "with names": ("{bands: [RED, GREEN, BLUE, NIR, PAN]}", "true", []),
    "random": ("{channels: 5}", "false", []),
    "a file, which may have five channels": ("{channels: 5}", "weights.pth", []),
    "three channels": ("{channels: 3}", "true", []),
}


@pytest.mark.parametrize(("image", "pretrained", "said"), CHECKED.values(), ids=CHECKED)
def test_a_check_warns_of_published_weights(write_spec, capsys, image, pretrained, said):
    write_spec(image, pretrained)
    assert main(["check", "a.yaml"]) == 0
    assert "\n".join(capsys.readouterr().out.splitlines()[1:]) == "\n".join(said)
    assert main(["check", "--format", "json", "a.yaml"]) == 0
    assert ('"warnings"' in capsys.readouterr().out) == bool(said)


def test_a_build_says_where_kernels_come_from(write_spec, capsys, tmp_path):
    save_network(tmp_path, timm.create_model("test_resnet"))
    write_spec("{bands: [BLUE, GREEN, RED, NIR, SWIR_1]}", "weights.pth")
    assert main(["build", "a.yaml"]) == 0
    out = capsys.readouterr().out
    assert "(5 channels, stride 1): BLUE, GREEN, RED, NIR_BROAD, SWIR_1" in " ".join(out.split())
    new = "encoder: no kernels for NIR_BROAD, SWIR_1 in these weights; they begin with the mean of the others"
    assert new in out.splitlines()
    write_spec("{channels: 5}", "weights.pth")
    assert main(["build", "a.yaml"]) == 0
    assert f"a.yaml:2:10: {SAID}" in capsys.readouterr().err


SHARED = """\
inputs: {a: {bands: [RED, GREEN, BLUE]}, b: OTHER}
nodes:
  first: {part: timm/test_resnet, from: a}
  second: {share: first, from: b}
  joined: {part: ConcatFeatures, from: [first, second]}
  all: {part: EmbeddingHead, from: joined}
outputs: [all]
"""


def test_inputs_that_share_an_encoder_have_its_bands():
    graph = composer.reads(SHARED.replace("OTHER", "{bands: [BLUE, GREEN, RED]}"))
    with pytest.raises(composer.SpecError) as raised:
        composer.infer(graph)
    assert str(raised.value) == (
        "<text>:4:19: error[join] second: timm/test_resnet shares the weights of first, which takes RED, GREEN, BLUE "
        "(got BLUE, GREEN, RED).\n"
        "  fix: give both inputs the same bands"
    )
    typed = composer.infer(composer.reads(SHARED.replace("OTHER", "{channels: 3}")))
    assert typed.encoder_infos["first"].bands == RGB
