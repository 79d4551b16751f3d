"""smp's encoders inside a model: levels, names and weights are smp's own, and what cannot be had is one clear error."""

from __future__ import annotations

import pytest
import torch

import composer
from composer.adapters.smp.parts import SmpEncoder
from composer.errors import SpecError

pytest.importorskip("segmentation_models_pytorch", reason="the extra smp is not installed")
import segmentation_models_pytorch as smp
from segmentation_models_pytorch.encoders import get_encoder


def build(encoder, channels=3, **options):
    graph = composer.chain(encoder, composer.EmbeddingHead(), input=composer.Image(channels=channels))
    return composer.build(graph, **options)


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        pytest.param(SmpEncoder("mit_b0"), [(32, 4), (64, 8), (160, 16), (256, 32)], id="no level 1"),
        pytest.param(SmpEncoder("mit_b0", depth=3, first_level=True), [(3, 1), (32, 4), (64, 8)], id="the image, no 1"),
        pytest.param(SmpEncoder("vgg11", depth=3, first_level=True), [(64, 1), (128, 2), (256, 4), (512, 8)], id="vgg"),
        pytest.param(SmpEncoder("resnet18", depth=4, output_stride=8), [(64, 2), (64, 4), (128, 8), (256, 8)], id="8"),
    ],
)
def test_the_levels_are_smps(encoder, expected):
    assert [(f.channels, int(f.stride)) for f in composer.describe(encoder, 3).features] == expected


WIDTHS = {"decoder_channels": (32, 24, 16)}


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        pytest.param(SmpEncoder("resnet18", depth=3), composer.Smp("Unet", **WIDTHS), id="resnet"),
        pytest.param(SmpEncoder("mit_b0", depth=3), composer.Smp("Unet", **WIDTHS), id="mit"),
        # After which smp adds a center block; torchvision's VGG takes seconds, because of its classifier.
        pytest.param(SmpEncoder("vgg11", depth=3), composer.Smp("Unet", **WIDTHS), id="vgg", marks=pytest.mark.slow),
        # Level 0 is dropped, also where the encoder has no level 1.
        pytest.param(
            SmpEncoder("resnet18", depth=3, first_level=True),
            composer.Smp("Unet", first_level=0, **WIDTHS),
            id="level 0",
        ),
        pytest.param(
            SmpEncoder("mit_b0", depth=3, first_level=True), composer.Smp("MAnet", first_level=0, **WIDTHS), id="MAnet"
        ),
        pytest.param(SmpEncoder("mit_b0", first_level=True), composer.Smp("FPN", first_level=0), id="FPN"),
        pytest.param(SmpEncoder("mit_b0", first_level=True), composer.Smp("Segformer", first_level=0), id="Segformer"),
    ],
)
def test_an_encoder_and_a_decoder_are_smps_own_model(encoder, decoder):
    """At equal weights, under smp's own names but for the place of the decoder."""
    model = composer.build(composer.chain(encoder, decoder, composer.EmbeddingHead())).eval()
    widths = WIDTHS if decoder.decoder_channels else {}
    peer = getattr(smp, decoder.name)(encoder.name, encoder.depth, encoder_weights=None, **widths).eval()
    model.encoder.load_state_dict(peer.encoder.state_dict())
    model.decoder._smp_decoder.load_state_dict(peer.decoder.state_dict())
    image = torch.rand(1, 3, *model.typed.sizes.compute_padded_size(64, 96))
    with torch.no_grad():
        assert torch.equal(model(image).output[0], peer.decoder(peer.encoder(image)))


def count_parameters(decoder, *before):
    graph = composer.chain(*before, decoder, composer.EmbeddingHead())
    return sum(p.numel() for p in composer.build(graph, device="meta").decoder.parameters())


CENTER = 2 * (512 * 512 * 9 + 2 * 512)
"""Two convolutions of 3 × 3 from 512 channels to 512, each with a BatchNorm."""

BEHIND_A_NECK = (SmpEncoder("vgg11"), composer.SelectIndices(indices=[0, 1, 2, 3, 4]))
TIMMS_VGG = composer.Timm("vgg11", out_indices=[1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("decoder", "before", "added"),
    [
        pytest.param(composer.Smp("UnetPlusPlus"), [SmpEncoder("vgg11")], CENTER, id="as smp"),
        pytest.param(composer.Smp("Unet", center=False), [SmpEncoder("vgg11")], 0, id="vgg, without"),
        pytest.param(composer.Smp("Unet"), BEHIND_A_NECK, CENTER, id="behind a neck"),
        pytest.param(composer.Smp("UnetPlusPlus", center=True), [composer.Timm("resnet18")], CENTER, id="resnet, with"),
        pytest.param(composer.Smp("Unet"), [TIMMS_VGG], 0, id="vgg of timm"),
    ],
)
def test_center_is_the_center_block(decoder, before, added):
    without = composer.Smp(decoder.name, center=False)
    assert count_parameters(decoder, *before) - count_parameters(without, *before) == added


def test_a_decoder_without_a_center_block_refuses_center():
    with pytest.raises(SpecError) as raised:
        composer.reads("encoder: smp/vgg11\ndecoder: {smp/FPN: {center: true}}\nhead: EmbeddingHead\n")
    assert str(raised.value).splitlines()[0] == "<text>:2:21: error[key] decoder.center: smp/FPN has no field 'center'."


def test_what_follows_from_the_encoder_is_not_written():
    graph = composer.chain(SmpEncoder("vgg11"), composer.Smp("Unet"), composer.EmbeddingHead())
    typed = composer.infer(graph)
    assert typed.graph == graph
    assert next(node.part.center for node in typed.order if node.name == "decoder") is True


def test_a_first_level_that_is_not_told_is_what_the_fix_says():
    """The image, taken for level 1, asks for a width more."""
    encoder, head = SmpEncoder("resnet18", first_level=True), composer.EmbeddingHead()
    with pytest.raises(SpecError) as raised:
        composer.infer(composer.chain(encoder, composer.Smp("Unet"), head))
    assert str(raised.value) == (
        "error[count] decoder.decoder_channels: smp/Unet has 5 widths in decoder_channels, one for each level it "
        "climbs (got 6 levels from the last map, level 6, to level 0).\n  fix: first_level: 0"
    )
    composer.infer(composer.chain(encoder, composer.Smp("Unet", first_level=0), head))


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_the_mode_reaches_the_network_itself(mode):
    encoder = build(SmpEncoder("resnet18"), device="meta").train(mode).encoder
    assert {module.training for module in (encoder, *encoder.network.modules())} == {mode}


def test_weights_of_as_many_channels_are_taken_as_they_are(tmp_path):
    own = get_encoder("mobileone_s0", in_channels=5).state_dict()
    torch.save(own, tmp_path / "weights.pth")
    encoder = SmpEncoder("mobileone_s0", pretrained=str(tmp_path / "weights.pth"))
    assert all(map(torch.equal, build(encoder, channels=5).encoder.state_dict().values(), own.values()))


def get_problem(encoder):
    with pytest.raises(SpecError) as raised:
        build(encoder)
    (problem,) = raised.value.problems
    return problem


def test_a_set_that_is_not_published_is_one_problem():
    problem = get_problem(SmpEncoder("resnet18", pretrained="imagnet"))
    assert problem.message == (
        "smp/resnet18 cannot load the weights imagnet (got FileNotFoundError: "
        "there is no such file, and no set of weights of this name; the sets are imagenet, ssl, swsl)."
    )


def test_an_encoder_that_pools_cannot_be_dilated():
    problem = get_problem(SmpEncoder("xception", output_stride=16))
    assert (problem.code, problem.place.path) == ("argument", "encoder.output_stride")
    assert problem.message == (
        "smp/xception cannot be dilated (got smp says Xception encoder does not support dilated mode "
        "due to pooling operation for downsampling!)."
    )
    assert problem.fix == "leave output_stride out"


FIELDS = {
    "depth must be a whole number from 3 to 5 (got 2)": {"depth": 2},
    "output_stride must be 8, 16 or 32 (got 4)": {"output_stride": 4},
    "first_level must be true or false (got 1)": {"first_level": 1},
    ("pretrained must be true, false, the path of a weights file, or a mapping of file and prefix (got '')"): {
        "pretrained": ""
    },
    "smp/tu-resnet18 is a network of timm: write timm/resnet18": {"name": "tu-resnet18"},
    "smp has no encoder 'resnt18': did you mean resnet18 or resnet152 or resnet101?": {"name": "resnt18"},
}


@pytest.mark.parametrize(("message", "fields"), FIELDS.items(), ids=[next(iter(fields)) for fields in FIELDS.values()])
def test_a_field_that_cannot_be_is_refused(message, fields):
    with pytest.raises(ValueError) as raised:  # noqa: PT011, the message is compared whole
        SmpEncoder(**{"name": "resnet18", **fields})
    assert str(raised.value) == message
