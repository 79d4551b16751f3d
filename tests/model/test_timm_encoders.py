"""timm's networks inside a model: their names, modes, weights, norms and random state are timm's own."""

import pytest
import timm
import torch

import composer
from composer.parts.decoders import IdentityDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import EmbeddingHead, SegmentationHead
from composer.parts.necks import ReshapeTokensToImage

NETWORKS = {
    "resnet": ("test_resnet", [1, 3]),
    "convnext": ("test_convnext", [1, 2]),
    "vit": ("test_vit", [1, 4]),
}
"""Each without its last level, so that something is left to prune."""


def build_segmenter(encoder, seed=0):
    return composer.build(composer.chain(encoder, IdentityDecoder(), SegmentationHead(num_classes=2)), seed=seed)


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request):
    """A network as an encoder, and the same as timm makes it, with weights of another seed, pruned."""
    name, indices = NETWORKS[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        plain = timm.create_model(name)
    plain.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
    return build_segmenter(Timm(name, out_indices=indices)).encoder, plain


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
    model = build_segmenter(Timm("test_vit"))
    model.train(mode)
    modules = [model.encoder, *model.encoder.network.modules()]
    assert {module.training for module in modules} == {mode}


@pytest.mark.parametrize(
    ("arguments", "necks"),
    [({}, ()), ({"features_only": True}, ()), ({"tokens": True}, (ReshapeTokensToImage(),))],
    ids=["plain", "features-only", "tokens"],
)
def test_a_vit_gives_the_maps_that_timm_gives(arguments, necks):
    """On a grid of 4 × 16 patches: sides guessed as a square root would fit, and put them elsewhere."""
    encoder = Timm("test_vit", out_indices=[1, 4], **arguments)
    model = composer.build(composer.chain(encoder, *necks, IdentityDecoder(), rescale=False)).eval()
    plain = timm.create_model("test_vit", dynamic_img_size=True)
    network = getattr(model.encoder, "model", model.encoder)
    plain.load_state_dict(network.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 256)
    with torch.no_grad():
        expected = plain.eval().forward_intermediates(x, indices=[1, 4], intermediates_only=True)[-1]
        assert torch.equal(model(x).output, expected)


SWIN = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
NORMS = {
    "every level of a ViT": ("test_vit", (1, 4), {}, {"dynamic_img_size": True}),
    "tokens of a ViT": ("test_vit", (0, 3), {}, {"dynamic_img_size": True}),
    "the last level of a Swin": ("swin_tiny_patch4_window7_224", (2, 3), SWIN, {"strict_img_size": False}),
}


@pytest.mark.parametrize("case", NORMS)
def test_levels_behind_the_final_norm_are_those_of_timm(case):
    name, indices, options, switch = NORMS[case]
    tokens = case.startswith("tokens")
    encoders = [Timm(name, out_indices=indices, norm=norm, tokens=tokens, options=options) for norm in (True, False)]
    model, bare = (composer.build(composer.chain(encoder, EmbeddingHead()), seed=3).eval() for encoder in encoders)
    plain = timm.create_model(name, **switch, **options).eval()
    report = plain.load_state_dict(model.encoder.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        levels = plain.forward_intermediates(image, indices=list(indices), norm=True, intermediates_only=True)
        outputs, without = model(image).output, bare(image).output

    assert report.unexpected_keys == []
    expected = [x.flatten(2).transpose(1, 2) if tokens else x for x in levels]
    cells = [x[:, -wanted.shape[1] :] if tokens else x for x, wanted in zip(outputs, expected, strict=True)]
    torch.testing.assert_close(cells, expected, rtol=0, atol=0)
    assert not torch.allclose(outputs[-1], without[-1])


@pytest.mark.parametrize("name", ["test_resnet", "hiera_tiny_224"], ids=["without one", "one that timm prunes"])
def test_a_network_without_a_final_norm_is_rejected(name):
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(Timm(name, norm=True), composer.FCNDecoder()))
    assert str(caught.value) == (
        f"error[part] encoder.norm: timm/{name} has no final norm that norm could apply (got levels as they are).\n"
        "  fix: leave norm out"
    )


def test_the_wrapper_of_timm_has_no_final_norm():
    with pytest.raises(ValueError, match="norm and features_only exclude each other: timm's wrapper gives levels wit"):
        Timm("test_vit", norm=True, features_only=True)


PREFIXES = {
    "class-token": ("test_vit", {}, 1),
    "registers-only": ("vit_pwee_patch16_reg1_gap_256", {}, 1),
    "class-token-and-registers": ("test_vit", {"reg_tokens": 4}, 5),
    "no-prefix": ("test_vit", {"class_token": False, "global_pool": "avg"}, 0),
}


@pytest.mark.parametrize(("name", "options", "prefix"), PREFIXES.values(), ids=PREFIXES)
def test_the_tokens_before_the_grid_are_laid_aside(name, options, prefix):
    encoder = Timm(name, out_indices=[0], tokens=True, options=options)
    model = composer.build(composer.chain(encoder, ReshapeTokensToImage(), IdentityDecoder(), rescale=False)).eval()
    assert model.typed.features["encoder"][0].prefix == prefix
    x = torch.rand(1, 3, 64, 256)
    with torch.no_grad():
        (tokens,) = model.encoder(x)
        assert torch.equal(model(x).output, tokens[:, prefix:].unflatten(1, (4, 16)).permute(0, 3, 1, 2))
