"""A model of composer's inside TerraTorch's own tasks, trained by Lightning on a real satellite tile."""

from __future__ import annotations

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from terratorch.models import EncoderDecoderFactory as Theirs
from terratorch.models.model import AuxiliaryHead
from terratorch.tasks import ClassificationTask, PixelwiseRegressionTask, SemanticSegmentationTask
from torch.utils.data import DataLoader

import composer.terratorch

TILE = Path(__file__).parents[1] / "data" / "hls_l30_utm14n.npz"
SIDE = 48
BATCH = 4
STEPS = 24


def patches():
    """The tile cut into patches, standardised band by band, and the vegetation index of every pixel."""
    bands = torch.from_numpy(np.load(TILE)["reflectance"].astype("float32"))
    # Correction for the air may leave a dark pixel at zero or below, of which there is no ratio.
    _, _, red, infrared = bands.clamp(min=1)
    index = (infrared - red) / (infrared + red)
    image = (bands - bands.mean((1, 2), keepdim=True)) / bands.std((1, 2), keepdim=True)
    return cut(image), cut(index[None])[:, 0]


def cut(x_CHW):
    tiles = x_CHW.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE)
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, x_CHW.shape[0], SIDE, SIDE)


IMAGES, NDVI = patches()
TARGETS = {
    "segmentation": {"mask": (NDVI.median() < NDVI).long()},
    "regression": {"mask": NDVI},
    "classification": {"label": (NDVI.mean((1, 2)) > NDVI.mean((1, 2)).median()).long()},
}
"""What is to be learned: which pixels are green, how green each is, and which patches are green."""

AUX = [AuxiliaryHead("early", "FCNDecoder", {"decoder_channels": 8, "decoder_num_convs": 1, "decoder_in_index": 1})]
CALLS = {
    "segmentation": {
        "backbone": "timm_resnet18",
        "decoder": "UNetDecoder",
        "decoder_channels": [64, 32, 32, 16, 16],
        "num_classes": 2,
    },
    "regression": {
        "backbone": "timm_convnext_atto",
        "decoder": "UperNetDecoder",
        "decoder_channels": 32,
        "head_channel_list": [16],
    },
    "classification": {
        "backbone": "timm_resnet18",
        "decoder": "IdentityDecoder",
        "head_dim_list": [32],
        "num_classes": 2,
    },
}
TASKS = {
    "segmentation": (SemanticSegmentationTask, {"loss": "ce", "ignore_index": -1, "aux_loss": {"early": 0.4}}),
    "regression": (PixelwiseRegressionTask, {"loss": "mse"}),
    "classification": (ClassificationTask, {"loss": "ce", "ignore_index": -1}),
}


@pytest.fixture(params=list(TASKS))
def task(request):
    return request.param


def test_the_losses_are_those_of_terratorchs_own_model_and_go_down(task, tmp_path, record_property):
    theirs, ours = models(task, tmp_path)

    expected = trained(task, theirs, tmp_path)
    losses = trained(task, ours, tmp_path)

    record_property("losses", losses)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert np.mean(losses[-4:]) < 0.85 * np.mean(losses[:4])


def models(task, folder):
    """TerraTorch's model and ours with its weights, in double precision."""
    call = {"task": task, "backbone_in_chans": 4, "aux_decoders": AUX if task == "segmentation" else None}
    theirs = Theirs().build_model(**call, **CALLS[task]).double()
    ours = composer.terratorch.EncoderDecoderFactory().build_model(**call, **CALLS[task]).double()
    torch.save(theirs.state_dict(), folder / "weights.pt")
    composer.load_weights(ours, folder / "weights.pt")
    return theirs, ours


def trained(task, model, folder):
    """The loss of every step."""
    cls, options = TASKS[task]
    classes = {"num_classes": 2} if task != "regression" else {}
    module = cls(model=model, model_args=classes, plot_on_val=False, optimizer="SGD", lr=0.05, **options)
    losses = Losses()
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[losses],
        default_root_dir=folder,
    )
    trainer.fit(module, DataLoader(samples(task), batch_size=BATCH))
    return losses.values


class Losses(lightning.Callback):
    """Keeps the loss of every step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.values.append(float(outputs["loss"]))


def samples(task):
    target = {name: values.double() if values.is_floating_point() else values for name, values in TARGETS[task].items()}
    return [
        {"image": IMAGES[index].double(), **{name: values[index] for name, values in target.items()}}
        for index in range(len(IMAGES))
    ]
