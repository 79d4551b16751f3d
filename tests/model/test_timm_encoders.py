"""timm's networks inside a model: their names, modes, weights and random state are timm's own."""

import pytest
import timm
import torch

import composer
from composer.parts.decoders import IdentityDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import SegmentationHead
from composer.parts.necks import PermuteDims, ReshapeTokensToImage

NETWORKS = {
    "resnet": ("test_resnet", [1, 3]),
    "convnext": ("test_convnext", [1, 2]),
    "vit": ("test_vit", [1, 4]),
    "swin": ("swin_tiny_patch4_window7_224", [0, 1]),
}
"""Each without its last level, so that something is left to prune."""


def segmenter(*necks, encoder, seed=0):
    graph = composer.chain(encoder, *necks, IdentityDecoder(), SegmentationHead(num_classes=2))
    return composer.build(graph, seed=seed)


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request):
    """A network as an encoder, and the same as timm makes it, with weights of another seed, pruned."""
    name, indices = NETWORKS[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        plain = timm.create_model(name)
    plain.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
    return segmenter(encoder=Timm(name, out_indices=indices)).encoder, plain


def test_names_of_weights_are_those_of_the_plain_network(pair):
    encoder, plain = pair
    assert list(encoder.state_dict()) == list(plain.state_dict())


def test_weights_of_the_plain_network_can_be_loaded(pair):
    encoder, plain = pair
    assert str(encoder.load_state_dict(plain.state_dict())) == "<All keys matched successfully>"
    loaded = encoder.network.state_dict()
    assert [name for name, x in plain.state_dict().items() if not torch.equal(x, loaded[name])] == []


def test_parameters_are_those_that_the_network_runs_with(pair):
    encoder, _ = pair
    assert [id(p) for p in encoder.parameters()] == [id(p) for p in encoder.network.parameters()]


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_the_mode_reaches_the_network_itself(mode):
    """It is no child of the encoder, and timm's networks ask it whether they are being trained."""
    model = segmenter(encoder=Timm("test_vit"))
    model.train(mode)
    modules = [model.encoder, *model.encoder.network.modules()]
    assert {module.training for module in modules} == {mode}


def test_a_frozen_network_is_in_eval_mode_itself():
    model = segmenter(encoder=Timm("test_vit"))
    model.freeze("encoder")
    model.train()
    assert not model.encoder.network.training


def test_moving_the_model_moves_the_network():
    model = segmenter(encoder=Timm("test_vit")).double()
    assert {p.dtype for p in model.encoder.network.parameters()} == {torch.float64}
    assert model.eval()(torch.rand(1, 3, 32, 48, dtype=torch.float64)).output.dtype == torch.float64


WAYS = [
    pytest.param(Timm("test_vit", out_indices=[1, 4]), (), id="plain"),
    pytest.param(Timm("test_vit", out_indices=[1, 4], features_only=True), (), id="features-only"),
    pytest.param(Timm("test_vit", out_indices=[1, 4], tokens=True), (ReshapeTokensToImage(),), id="tokens"),
]


@pytest.mark.parametrize(("encoder", "necks"), WAYS)
def test_a_vit_gives_the_maps_that_timm_gives(encoder, necks):
    """However it is asked, and at an image size that is not its own."""
    model = composer.build(composer.chain(encoder, *necks, IdentityDecoder(), rescale=False)).eval()
    plain = timm.create_model("test_vit", dynamic_img_size=True)
    network = getattr(model.encoder, "model", model.encoder)
    plain.load_state_dict(network.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = plain.eval().forward_intermediates(x, indices=[1, 4], intermediates_only=True)[-1]
        assert torch.equal(model(x).output, expected)


def test_a_channels_last_network_gives_the_maps_that_timm_gives():
    encoder = Timm("swin_tiny_patch4_window7_224", out_indices=[0, 1], features_only=True)
    graph = composer.chain(encoder, PermuteDims(new_order=[0, 3, 1, 2]), IdentityDecoder(), rescale=False)
    model = composer.build(graph).eval()
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(model(x).output, model.encoder(x)[-1].permute(0, 3, 1, 2))


@pytest.mark.parametrize("bands", [1, 2, 6])
def test_the_first_layer_is_as_wide_as_the_image(bands):
    graph = composer.chain(Timm("test_resnet"), IdentityDecoder(), input=composer.Image(channels=bands))
    assert composer.build(graph).state_dict()["encoder.conv1.0.weight"].shape[1] == bands


def test_weights_do_not_depend_on_what_was_random_before():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        one = segmenter(encoder=Timm("test_vit")).state_dict()
        torch.rand(3)
        other = segmenter(encoder=Timm("test_vit")).state_dict()
    assert [name for name, x in one.items() if not torch.equal(x, other[name])] == []
