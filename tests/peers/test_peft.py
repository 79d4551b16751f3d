"""Adapters of few parameters, by TerraTorch's configuration: the same names, the same numbers, the same gradients."""

from __future__ import annotations

import pytest
import torch
from terratorch.models import EncoderDecoderFactory as Theirs

import composer.terratorch

CALL = {
    "task": "segmentation",
    "backbone": "timm_vit_tiny_patch16_224",
    "backbone_kwargs": {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 64, "out_indices": [0, 1]},
    "decoder": "FCNDecoder",
    "decoder_kwargs": {"channels": 8, "num_convs": 2},
    "num_classes": 3,
}
LORA = {
    "method": "LORA",
    "replace_qkv": "qkv",
    "peft_config_kwargs": {"target_modules": ["qkv.q_linear", "qkv.v_linear"], "r": 2, "lora_alpha": 4},
}


def both(folder):
    torch.manual_seed(0)
    theirs = Theirs().build_model(**CALL, peft_config=LORA).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            # An adapter begins as nothing: zero, of which no gradient is seen to be another's.
            parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype), alpha=0.02)
    ours = composer.terratorch.EncoderDecoderFactory().build_model(**CALL, peft_config=LORA).double()
    torch.save(theirs.state_dict(), folder / "weights.pt")
    report = composer.load_weights(ours, folder / "weights.pt")
    return theirs, ours, report


def test_an_adapted_encoder_is_terratorchs(tmp_path):
    theirs, ours, report = both(tmp_path)
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64)

    for model in (theirs, ours):
        model.train()(image).output.square().mean().backward()

    learned = {name: p.grad for name, p in theirs.encoder.named_parameters() if p.requires_grad}
    mine = {name: p.grad for name, p in ours.encoder.named_parameters() if p.requires_grad}
    assert len(report.matched) == len(theirs.state_dict())
    assert len(learned) == 8
    assert all(".lora_" in name for name in learned)
    torch.testing.assert_close(ours(image).output, theirs(image).output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine, learned, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param({"method": "LOR"}, "error[argument] peft_config.method: PEFT has no method 'LOR'.", id="method"),
        pytest.param({"kind": "LORA"}, "error[argument] peft_config.kind: peft_config has no 'kind'.", id="key"),
        pytest.param(
            {"method": "LORA", "replace_qkv": "kvq"},
            "error[argument] peft_config.replace_qkv: the encoder has no layer 'kvq'.\n"
            "  fix: name the layer that computes q, k and v",
            id="layer",
        ),
    ],
)
def test_a_configuration_that_is_none_is_refused(config, message):
    with pytest.raises(composer.SpecError) as caught:
        composer.terratorch.EncoderDecoderFactory().build_model(**CALL, peft_config=config)
    assert str(caught.value).startswith(message)
