"""Checkpoints that TerraTorch wrote, in composer's models: over timm's own wrapper, and over the plain network."""

from __future__ import annotations

import pickle

import pytest
import torch
from lightning.pytorch import Trainer
from terratorch.models import EncoderDecoderFactory
from terratorch.models.model import AuxiliaryHead
from terratorch.tasks import SemanticSegmentationTask
from torch.utils.data import DataLoader, Dataset

import composer
from composer.adapters.smp.parts import Smp
from composer.parts.decoders import FCNDecoder, UNetDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import RegressionHead, SegmentationHead
from composer.terratorch.translation import UNUSED_ATTENTION

SIDE = 64


def call(task, backbone, decoder, necks=None, backbone_kwargs=None, **arguments):
    """A call of TerraTorch's factory."""
    return {"task": task, "backbone": backbone, "decoder": decoder, "necks": necks, **arguments} | (
        {"backbone_kwargs": backbone_kwargs} if backbone_kwargs else {}
    )


WIDTHS = [64, 32, 16, 16]


def encoder(name, *, img_size=None, out_indices=None, **options):
    """The plain network."""
    return Timm(name, img_size=img_size, out_indices=out_indices, options=options)


CASES = {
    "convnext-unet-scse": (
        call("regression", "timm_convnext_atto", "UNetDecoder", decoder_channels=WIDTHS, decoder_attention_type="scse",
             head_channel_list=[4]),
        (
            encoder("convnext_atto"),
            UNetDecoder(channels=WIDTHS, attention_type="scse"),
            RegressionHead(channel_list=[4]),
        ),
        6,
    ),
    "efficientnet-smp-unet-scse": (
        call("segmentation", "timm_efficientnet_b0", "smp_Unet", None, None, num_classes=3,
             decoder_decoder_channels=WIDTHS, decoder_decoder_attention_type="scse"),
        (
            encoder("efficientnet_b0"),
            Smp("Unet", first_level=0, decoder_channels=WIDTHS, decoder_attention_type="scse"),
            SegmentationHead(num_classes=3),
        ),
        0,
    ),
}  # fmt: skip
"""Calls of TerraTorch, whose encoders are timm's wrappers; chains over the plain networks; attentions set aside."""


@pytest.mark.parametrize(("arguments", "parts", "aside"), CASES.values(), ids=CASES)
def test_what_terratorch_wrote_gives_what_terratorch_gives(arguments, parts, aside, tmp_path):
    theirs = trained(EncoderDecoderFactory().build_model(**arguments), image := draw_image())
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    ours = composer.build(composer.chain(*parts), seed=8).double().eval()

    report = composer.load_weights(ours, tmp_path / "model.pth")

    assert apart(theirs, ours, image) < 1e-9
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    assert len(report.matched) == len(ours.state_dict())
    assert [reason for _, reason in report.set_aside] == [UNUSED_ATTENTION] * aside


def draw_image():
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def trained(model, image):
    """The model with statistics that are not those of the start."""
    model.double().train()
    model(image)
    return model.eval()


def apart(theirs, ours, image):
    with torch.no_grad():
        wanted, given = theirs(image), ours(image)
    pairs = [(wanted.output, given.output), *((x, given.auxiliary_heads[n]) for n, x in wanted.auxiliary_heads.items())]
    # TerraTorch drops the axis of a single channel.
    return max(float((a - b.view_as(a)).abs().max()) for a, b in pairs)


class Tiles(Dataset):
    """Noise, and classes to be told from it."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        mask = torch.randint(0, 3, (SIDE, SIDE), generator=generator)
        return {"image": torch.rand(3, SIDE, SIDE, generator=generator), "mask": mask}


def fitted(task, file):
    """The task after a step of training, and what Lightning saves of it."""
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = Trainer(max_steps=1, accelerator="cpu", **quiet)
    data = DataLoader(Tiles(), batch_size=2)
    trainer.fit(task, data, data)
    trainer.save_checkpoint(file)
    return task


def test_a_segmentation_task_that_was_trained(tmp_path):
    file = tmp_path / "last.ckpt"
    task = SemanticSegmentationTask(
        model_factory="EncoderDecoderFactory",
        model_args={"backbone": "timm_resnet18", "decoder": "FCNDecoder", "num_classes": 3, "decoder_channels": 8},
        aux_heads=[AuxiliaryHead("early", "FCNDecoder", {"decoder_channels": 4, "decoder_num_convs": 1})],
        aux_loss={"early": 0.4},
        class_weights=[1.0, 2.0, 3.0],
        ignore_index=-1,
        plot_on_val=False,
    )
    fitted(task, file)
    with pytest.raises(pickle.UnpicklingError, match="AuxiliaryHead"):
        torch.load(file, weights_only=True)
    aux = {"early": (FCNDecoder(channels=4, num_convs=1), SegmentationHead(num_classes=3))}
    graph = composer.chain(Timm("resnet18"), FCNDecoder(channels=8), SegmentationHead(num_classes=3), aux=aux)
    ours = composer.build(graph, seed=8)

    report = composer.load_weights(ours, file)

    assert report.set_aside == (("criterion.weight", "not behind model."),)
    assert apart(task.model.double().eval(), ours.double().eval(), draw_image()) < 1e-9
