"""mmseg's heads in a call of TerraTorch's factory, beside what TerraTorch makes of them, from its checkpoint."""

from __future__ import annotations

import warnings
from importlib import import_module

import pytest
import torch

import composer
from composer.encoder_info import import_adapter
from composer.terratorch.factory import EncoderDecoderFactory

assert import_adapter("mmseg") is None
decode_heads = import_module("mmseg.models.decode_heads")

WIDTHS = [64, 64, 128, 256, 512]
FIVE = [0, 1, 2, 3, 4]
CALLS = {
    "UPerHead": {"channels": 16, "in_index": FIVE},
    "SegformerHead": {"channels": 16, "in_index": FIVE, "norm_cfg": {"type": "BN", "requires_grad": True}},
    "FPNHead": {"channels": 16, "in_index": FIVE, "feature_strides": [2, 4, 8, 16, 32]},
    "FCNHead": {
        "channels": 32,
        "num_convs": 4,
        "norm_cfg": {"type": "GN", "num_groups": 32},
        "act_cfg": {"type": "ELU"},
    },
    "STDCHead": {"channels": 16},
    "SegmenterMaskTransformerHead": {"channels": 8, "num_layers": 1, "num_heads": 2, "embed_dims": 8},
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("task", ["segmentation", "regression"])
def test_a_checkpoint_gives_what_it_gives_there(name, task, tmp_path):
    several = "in_index" in CALLS[name]
    classes = 1 if task == "regression" and name != "SegmenterMaskTransformerHead" else 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = {"in_channels": WIDTHS if several else 512, "num_classes": classes, **CALLS[name]}
        reference = getattr(decode_heads, name)(**told).eval()
    model = (
        EncoderDecoderFactory()
        .build_model(
            task=task,
            backbone="timm_resnet18",
            decoder=f"mmseg_{name}",
            **({"num_classes": classes} if task == "segmentation" else {"decoder_num_classes": classes}),
            **{f"decoder_{argument}": value for argument, value in CALLS[name].items()},
        )
        .eval()
    )
    state = {f"model.decoder.decoder.{key}": value for key, value in reference.state_dict().items()}
    state |= {f"model.{key}": value for key, value in model.state_dict().items() if key.startswith("encoder.")}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")

    composer.load_weights(model, tmp_path / "last.ckpt")

    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        scores = reference(model.encoder(x))
        there = torch.nn.functional.interpolate(scores, size=(64, 96), mode="bilinear")
        out = model(x).output
    torch.testing.assert_close(out, there.squeeze(1) if task == "regression" else there)
