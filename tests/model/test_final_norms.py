"""`norm: true`: a network's levels behind its own final norm, as timm gives them; a refusal where there is none."""

from __future__ import annotations

import pytest
import timm
import torch

import composer
from composer.parts.encoders import Timm
from composer.parts.heads import EmbeddingHead

NETWORKS = {
    "every level of a ViT": ("test_vit", (1, 4), {"dynamic_img_size": True}),
    "tokens of a ViT": ("test_vit", (0, 3), {"dynamic_img_size": True}),
    "the last level of a Swin": ("swin_tiny_patch4_window7_224", (2, 3), {"strict_img_size": False}),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_levels_are_those_of_timm_behind_its_norm(case):
    name, indices, switch = NETWORKS[case]
    tokens = case.startswith("tokens")
    encoder = Timm(name, out_indices=indices, norm=True, tokens=tokens)
    model = composer.build(composer.chain(encoder, EmbeddingHead()), seed=3).eval()
    plain = timm.create_model(name, **switch).eval()
    told = plain.load_state_dict(model.encoder.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        levels = plain.forward_intermediates(image, indices=list(indices), norm=True, intermediates_only=True)
        given = model(image).output

    assert told.unexpected_keys == []
    expected = [x.flatten(2).transpose(1, 2) if tokens else x for x in levels]
    cells = [x[:, -wanted.shape[1] :] if tokens else x for x, wanted in zip(given, expected, strict=True)]
    torch.testing.assert_close(cells, expected, rtol=0, atol=0)


def test_without_it_the_levels_are_other_ones():
    models = [
        composer.build(composer.chain(Timm("test_vit", norm=norm), EmbeddingHead()), seed=3).eval()
        for norm in (False, True)
    ]
    image = torch.ones(1, 3, 64, 96)
    plain, normed = (model(image).output[-1] for model in models)
    assert not torch.allclose(plain, normed)
    # A layer norm's weights are ones and zeros here: every cell has mean 0.
    assert normed.mean(dim=1).abs().max() < 1e-5


def test_a_width_that_the_norm_changes_is_told():
    facts = composer.describe(Timm("samvit_base_patch16", norm=True), 3)
    bare = composer.describe(Timm("samvit_base_patch16"), 3)
    assert [f.channels for f in facts.features] == [256, 256, 256]
    assert [f.channels for f in bare.features] == [768, 768, 768]


REFUSED = {
    "a network without one": (
        "test_resnet",
        (
            "error[part] encoder.norm: timm/test_resnet has no final norm that norm could apply (got levels as they "
            "are).\n  fix: leave norm out"
        ),
    ),
    "one that timm prunes": (
        "hiera_tiny_224",
        (
            "error[part] encoder.norm: timm/hiera_tiny_224 has no final norm that norm could apply (got levels as "
            "they are).\n  fix: leave norm out"
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_network_that_has_none_is_refused(case):
    name, message = REFUSED[case]
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(Timm(name, norm=True), composer.FCNDecoder()))
    assert str(caught.value) == message


def test_the_wrapper_of_timm_has_none():
    with pytest.raises(ValueError, match="norm and features_only exclude each other: timm's wrapper gives levels wit"):
        Timm("test_vit", norm=True, features_only=True)
