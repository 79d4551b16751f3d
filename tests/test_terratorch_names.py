"""Which tensor of TerraTorch's is which of composer's; TerraTorch's encoders are timm's own wrappers."""

import re

import pytest
import timm
import torch

import composer
from composer.layouts import Image
from composer.parts.decoders import IdentityDecoder, UNetDecoder, UperNetDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import ClassificationHead, RegressionHead, SegmentationHead
from composer.parts.necks import AddBottleneckLayer, LearnedInterpolateToPyramidal, ReshapeTokensToImage
from composer.parts.tokens import TemporalPooling
from composer.terratorch.translation import UNUSED_ATTENTION, list_tensor_names
from tests.checkpoints import BRANCHED, GRAPH, as_terratorch_says, state_of, trained, unlike


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.ckpt"


TINY_SWIN = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
TINY_VIT = {"depth": 4}
MAPS = (UNetDecoder(channels=[8, 4]), RegressionHead(channel_list=[3]))
CHAINS = {
    "resnet": (Timm("test_resnet", out_indices=[1, 2]), MAPS),
    "efficientnet": (Timm("test_efficientnet", out_indices=[3, 4]), MAPS),
    "convnext": (Timm("test_convnext", out_indices=[0, 1]), MAPS),
    "swin": (Timm("swin_tiny_patch4_window7_224", img_size=32, options=TINY_SWIN), MAPS),
    "vit": (
        Timm("test_vit", img_size=32, out_indices=[0, 1, 2, 3], options=TINY_VIT),
        (
            ReshapeTokensToImage(),
            LearnedInterpolateToPyramidal(),
            UperNetDecoder(channels=4),
            SegmentationHead(num_classes=3),
        ),
    ),
    "dinov2": (
        Timm(
            "vit_small_patch14_dinov2",
            img_size=28,
            out_indices=[1],
            options={"depth": 2, "embed_dim": 12, "num_heads": 2},
        ),
        (IdentityDecoder(), SegmentationHead(num_classes=3)),
    ),
}
"""Encoders of each kind of wrapper that timm has."""


@pytest.mark.parametrize(("encoder", "rest"), CHAINS.values(), ids=CHAINS)
def test_a_plain_network_takes_what_timms_wrapper_had(encoder, rest, file):
    graph = composer.chain(encoder, *rest)
    donor = trained(graph)
    wrapper = timm.create_model(
        encoder.name,
        features_only=True,
        **dict(encoder.options),
        **{name: getattr(encoder, name) for name in ("img_size", "out_indices") if getattr(encoder, name) is not None},
    )
    state = {name: x for name, x in as_terratorch_says(state_of(donor)).items() if not name.startswith("encoder.")}
    torch.save({f"encoder.{name}": x for name, x in wrapper.state_dict().items()} | state, file)

    model = composer.build(graph, seed=8).eval()
    report = composer.load_weights(model, file)

    # The wrapper gives what the loaded encoder gives, and everything behind that is the donor's.
    image = torch.rand(1, 3, 28, 28) if encoder.name.endswith("dinov2") else torch.rand(1, 3, 32, 32)
    expected = [x.permute(0, 3, 1, 2) if "swin" in encoder.name else x for x in wrapper.eval()(image)]
    torch.testing.assert_close(list(model.encoder(image)), expected)
    behind = [name for name in state_of(donor) if not name.startswith("encoder.")]
    assert [name for name in unlike(state_of(model), state_of(donor)) if name in behind] == []
    assert (report.missing, report.unexpected, report.mismatched, report.set_aside) == ((), (), (), ())
    assert [name for name, _ in report.matched] == list(model.state_dict())


def test_every_place_of_a_chain_has_its_name(file):
    donor, model = trained(BRANCHED), composer.build(BRANCHED, seed=8)
    state = as_terratorch_says(state_of(donor))
    torch.save(state, file)

    report = composer.load_weights(model, file)

    assert unlike(state_of(model), state_of(donor)) == []
    assert dict(report.matched) == dict(zip(state_of(donor), state, strict=True))
    assert {name.split(".")[0] for name in state} == {"encoder", "neck", "decoder", "head", "aux_heads"}


def test_necks_are_counted_without_the_one_that_pools_frames(file):
    graph = composer.chain(
        Timm("test_resnet", out_indices=[1]),
        TemporalPooling(),
        AddBottleneckLayer(),
        IdentityDecoder(),
        input=Image(frames=2),
    )
    model = composer.build(graph, seed=8)
    state = state_of(composer.build(graph, seed=3))
    renamed = {re.sub(r"^necks\.1\.", "neck.0.", re.sub("^encoder", "encoder.encoder", n)): x for n, x in state.items()}
    torch.save(renamed, file)

    composer.load_weights(model, file)

    assert unlike(state_of(model), state) == []
    assert [name for name in renamed if name.startswith("neck")] == [
        "neck.0.bottleneck.weight",
        "neck.0.bottleneck.bias",
    ]


NAMES = {
    "encoder": (GRAPH, "encoder.conv1.0.weight", ("encoder.conv1.0.weight", "encoder.model.conv1.0.weight")),
    "adapters": (
        GRAPH,
        "encoder.base_model.model.blocks.0.qkv.lora_A.default.weight",
        (
            "encoder.base_model.model.blocks.0.qkv.lora_A.default.weight",
            "encoder.base_model.model.model.blocks.0.qkv.lora_A.default.weight",
            "encoder.base_model.model.blocks_0.qkv.lora_A.default.weight",
            "encoder.base_model.model.encoder.blocks.0.qkv.lora_A.default.weight",
        ),
    ),
    "wrapper": (BRANCHED, "encoder.conv1.weight", ("encoder.conv1.weight", "encoder.encoder.conv1.weight")),
    "neck": (BRANCHED, "necks.0.bottleneck.bias", ("neck.0.bottleneck.bias",)),
    "aux-decoder": (BRANCHED, "aux.early.decoder.convs.0.0.bias", ("aux_heads.early.0.convs.0.0.bias",)),
    "aux-head": (BRANCHED, "aux.late.head.head.2.bias", ("aux_heads.late.1.head.2.bias",)),
    "decoder": (BRANCHED, "decoder.convs.0.0.bias", ("decoder.convs.0.0.bias",)),
    "nowhere": (GRAPH, "elsewhere.weight", ("elsewhere.weight",)),
}


@pytest.mark.parametrize(("graph", "key", "names"), NAMES.values(), ids=NAMES)
def test_a_tensor_may_have_these_names(graph, key, names):
    assert set(names) <= set(list_tensor_names(graph, key))
    assert list_tensor_names(graph, key)[0] == names[0]


def test_a_network_that_timm_wraps_has_no_other_names():
    names = ("encoder.a.b", "encoder.encoder.a.b", "encoder.model.a.b")
    assert list_tensor_names(BRANCHED, "encoder.a.b") == names


SMP_HEAD = SegmentationHead(num_classes=2, channel_list=(8,), batch_norm=True)
SMP_AUX = {"scores": (IdentityDecoder(), ClassificationHead(num_classes=2))}
SMP_GRAPH = composer.chain(composer.Timm("resnet18"), composer.Smp("FPN"), SMP_HEAD, aux=SMP_AUX)
SMP_NAMES = {
    "encoder.conv1.weight": "encoder.model.conv1.weight",
    "decoder._smp_decoder.p5.weight": "decoder.p5.weight",
    "head.head.0.0.0.weight": "segmentation_head.head.0.weight",
    "head.head.0.0.1.running_mean": "segmentation_head.head.1.running_mean",
    "head.head.2.bias": "segmentation_head.0.bias",
    "aux.scores.head.head.2.weight": "classification_head.3.weight",
}


@pytest.mark.parametrize(("key", "name"), SMP_NAMES.items(), ids=SMP_NAMES)
def test_a_tensor_may_have_the_name_that_smp_gives_it(key, name):
    assert name in list_tensor_names(SMP_GRAPH, key)


def test_attention_that_is_never_run_is_set_aside(file):
    encoder = Timm("test_resnet", out_indices=[1, 2])
    attention = UNetDecoder(channels=[16, 16], attention_type="scse")
    head = SegmentationHead(num_classes=2)
    graph = composer.chain(encoder, attention, head, aux={"one": (attention, head)})
    donor, model = composer.build(graph, seed=3), composer.build(graph, seed=8)
    unused = {
        "model.decoder.decoder.blocks.1.attention1.attention.sSE.0.bias": torch.ones(1),
        "model.aux_heads.one.0.decoder.blocks.1.attention1.attention.sSE.0.bias": torch.ones(1),
    }
    torch.save({f"model.{name}": x for name, x in as_terratorch_says(state_of(donor)).items()} | unused, file)

    report = composer.load_weights(model, file)

    assert report.set_aside == tuple((name, UNUSED_ATTENTION) for name in unused)
    assert unlike(state_of(model), state_of(donor)) == []
