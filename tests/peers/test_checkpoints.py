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
from composer.adapters.peft import apply_peft
from composer.adapters.smp.parts import Smp
from composer.layouts import Image
from composer.parts.decoders import FCNDecoder, IdentityDecoder, UNetDecoder, UperNetDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import ClassificationHead, RegressionHead, SegmentationHead
from composer.parts.necks import LearnedInterpolateToPyramidal, ReshapeTokensToImage
from composer.parts.tokens import TemporalPooling
from composer.terratorch.translation import UNUSED_ATTENTION

SIDE = 64


def call(task, backbone, decoder, necks=None, backbone_kwargs=None, **arguments):
    """A call of TerraTorch's factory."""
    return {"task": task, "backbone": backbone, "decoder": decoder, "necks": necks, **arguments} | (
        {"backbone_kwargs": backbone_kwargs} if backbone_kwargs else {}
    )


VIT = {"img_size": SIDE, "out_indices": [0, 1, 2, 3], "depth": 4}
DINO = {"img_size": 56, "out_indices": [0, 1], "depth": 2, "embed_dim": 12, "num_heads": 2}
LEARNED = [{"name": "ReshapeTokensToImage"}, {"name": "LearnedInterpolateToPyramidal"}]
WIDTHS = [64, 32, 16, 16]


def encoder(name, *, img_size=None, out_indices=None, **options):
    """The plain network."""
    return Timm(name, img_size=img_size, out_indices=out_indices, options=options)


CASES = {
    "vit-learned-upernet": (
        call("segmentation", "timm_vit_tiny_patch16_224", "UperNetDecoder", LEARNED, VIT, num_classes=3,
             decoder_channels=8),
        (
            encoder("vit_tiny_patch16_224", **VIT),
            ReshapeTokensToImage(),
            LearnedInterpolateToPyramidal(),
            UperNetDecoder(channels=8),
            SegmentationHead(num_classes=3),
        ),
        0,
    ),
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
    "dinov2-identity": (
        call("classification", "timm_vit_small_patch14_dinov2", "IdentityDecoder", None, DINO, num_classes=3,
             head_dim_list=[5]),
        (
            encoder("vit_small_patch14_dinov2", **DINO),
            IdentityDecoder(),
            ClassificationHead(num_classes=3, dim_list=[5]),
        ),
        0,
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
    theirs = trained(EncoderDecoderFactory().build_model(**arguments), image := picture(arguments))
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    ours = composer.build(composer.chain(*parts), seed=8).double().eval()

    report = composer.load_weights(ours, tmp_path / "model.pth")

    assert apart(theirs, ours, image) < 1e-9
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    assert len(report.matched) == len(ours.state_dict())
    assert [reason for _, reason in report.set_aside] == [UNUSED_ATTENTION] * aside


def picture(arguments, frames=()):
    side = arguments.get("backbone_kwargs", {}).get("img_size", SIDE)
    generator = torch.Generator().manual_seed(2)
    return torch.rand(2, 3, *frames, side, side, generator=generator, dtype=torch.float64)


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


@pytest.mark.parametrize("pooling", ["mean", "concat"])
def test_a_backbone_over_frames_has_its_names(pooling, tmp_path):
    temporal = {"use_temporal": True, "temporal_pooling": pooling, "temporal_n_timestamps": 3}
    arguments = call(
        "segmentation", "timm_resnet18", "FCNDecoder", [{"name": "AddBottleneckLayer"}], temporal, num_classes=3
    )
    theirs = trained(EncoderDecoderFactory().build_model(**arguments), image := picture(arguments, (3,)))
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    graph = composer.chain(
        Timm("resnet18"),
        TemporalPooling(pooling=pooling),
        composer.AddBottleneckLayer(),
        FCNDecoder(),
        SegmentationHead(num_classes=3),
        input=Image(frames=3),
    )
    ours = composer.build(graph, seed=8).double().eval()

    composer.load_weights(ours, tmp_path / "model.pth")

    assert apart(theirs, ours, image) < 1e-9


LORA = {
    "method": "LORA",
    "replace_qkv": "qkv",
    "peft_config_kwargs": {"target_modules": ["qkv.q_linear", "qkv.v_linear"], "r": 4},
}


def test_adapters_have_their_names(tmp_path):
    arguments, parts, _ = CASES["vit-learned-upernet"]
    theirs = trained(EncoderDecoderFactory().build_model(**arguments, peft_config=LORA), image := picture(arguments))
    # Adapters begin as nothing, and would show nothing.
    adapters = [p for name, p in theirs.named_parameters() if "lora_B" in name]
    for parameter in adapters:
        torch.nn.init.normal_(parameter)
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    ours = composer.build(composer.chain(*parts), seed=8)
    ours.encoder = apply_peft(ours.encoder, LORA)
    ours.double().eval()

    composer.load_weights(ours, tmp_path / "model.pth")

    assert len(adapters) == 8
    assert apart(theirs, ours, image) < 1e-9


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
    assert apart(task.model.double().eval(), ours.double().eval(), picture({})) < 1e-9
