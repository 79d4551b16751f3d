"""TerraTorch's factories beside EncoderDecoderFactory: what they build, ignore and refuse, as configs and as calls."""

import pytest
import timm
import torch

import composer
from composer.terratorch import TimmModelFactory
from composer.terratorch.configs import reads_config
from composer.terratorch.factories import UNSUPPORTED_FACTORIES

PLACE = "model.init_args.model_args"


def config(factory, task="SemanticSegmentationTask", **arguments):
    """A config in one line, whose arguments are at line 1."""
    values = ", ".join(f"{name}: {value}" for name, value in arguments.items())
    return (
        f"model: {{class_path: {task}, init_args: {{model_factory: {factory}, model_args: {{{values}}}, "
        f"aux_heads: null}}}}\n"
    )


def spec(*args, **arguments):
    return composer.write(reads_config(config(*args, **arguments)).graph)


def notes(*args, **arguments):
    return [note.format("note").partition(": ")[2] for note in reads_config(config(*args, **arguments)).notes]


def refusal(*args, **arguments):
    """What is said of a config, without its places in the text."""
    with pytest.raises(composer.SpecError) as refused:
        reads_config(config(*args, **arguments))
    return "\n".join(
        f"{p.code} {p.place.path.removeprefix(f'{PLACE}.')}: {p.message} | {p.fix}" for p in refused.value.problems
    )


NETWORKS = {
    "resnet10t": {},
    "seresnet18": {"backbone_drop_path_rate": 0.1},
    "vit_tiny_patch16_224": {"backbone_img_size": 32, "backbone_drop_rate": 0.5},
    "deit_tiny_patch16_224": {"backbone_img_size": 32},
    "deit3_small_patch16_224": {"backbone_img_size": 32},
    "vit_xsmall_patch16_clip_224": {"backbone_img_size": 32},
}
CLASSIFIER = {"factory": "TimmModelFactory", "task": "ClassificationTask", "in_channels": 6, "num_classes": 12}


INSTEAD = "model_factory: EncoderDecoderFactory, backbone: timm_{}, and a decoder such as IdentityDecoder"
REFUSED_CLASSIFIERS = [
    (
        {"backbone": "convnext_atto.d2_in1k"},
        "part backbone: the classifier of convnext_atto is more than a linear layer. | "
        + INSTEAD.format("convnext_atto.d2_in1k"),
    ),
    (
        {"backbone": "resnet19"},
        "part backbone: timm has no network 'resnet19'. | did you mean resnet18 or resnet61q or resnet51q?",
    ),
    (
        {"task": "SemanticSegmentationTask"},
        "part model.class_path: TimmModelFactory builds classifiers alone (got segmentation). | "
        + INSTEAD.format("resnet18"),
    ),
    (
        {"pretrained": "ResNet18_Weights.SENTINEL2_ALL_MOCO"},
        (
            "value pretrained: weights of torchgeo, and checkpoints, are not read here "
            "(got 'ResNet18_Weights.SENTINEL2_ALL_MOCO'). | pretrained: true"
        ),
    ),
    (
        {"in_channels": "None"},
        "value in_channels: an image: channels must be a whole number from 1 to 65536 (got 'None'). | None",
    ),
    (
        {"num_classes": 0},
        "value num_classes: ClassificationHead: num_classes must be a whole number from 1 to 65536 (got 0). | None",
    ),
    (
        {"backbone_global_pool": "max"},
        "unused backbone_global_pool: global_pool may change the classifier, which is imported as it is without. | "
        + INSTEAD.format("resnet18"),
    ),
    (
        {"backbone_drop_rate": 2},
        (
            "value backbone_drop_rate: ClassificationHead: dropout must be a number from 0 up to, but not including, 1 "
            "(got 2). | None"
        ),
    ),
]


class TestTimm:
    @pytest.mark.parametrize(("network", "more"), NETWORKS.items(), ids=NETWORKS)
    def test_it_gives_the_numbers_of_timm_from_a_checkpoint_of_terratorch(self, network, more, tmp_path):
        options = {name.removeprefix("backbone_"): value for name, value in more.items()}
        theirs = timm.create_model(network, in_chans=4, num_classes=3, **options).eval()
        torch.nn.init.normal_(theirs.get_classifier().weight)
        state = {f"model.timm_model.{name}": tensor for name, tensor in theirs.state_dict().items()}
        torch.save({"state_dict": state}, tmp_path / "last.ckpt")
        call = {"backbone": network, "in_channels": 4, "num_classes": 3, "pretrained": False, **more}
        ours = TimmModelFactory().build_model("classification", **call).eval()
        image = torch.randn(2, 4, 32, 32)

        composer.load_weights(ours, tmp_path / "last.ckpt")

        with torch.no_grad():
            torch.testing.assert_close(ours(image).output, theirs(image), rtol=1e-5, atol=1e-6)

    def test_a_vit_is_its_last_tokens_after_the_norm_and_a_linear_layer_on_the_first(self):
        options = {"backbone_drop_rate": 0.1, "backbone_drop_path_rate": 0.2}
        assert spec(**CLASSIFIER, backbone="vit_tiny_patch16_224.augreg_in21k", **options) == (
            "input: {channels: 6}\n"
            "encoder:\n"
            "  timm/vit_tiny_patch16_224.augreg_in21k:\n"
            "    out_indices: [-1]\n"
            "    pretrained: true\n"
            "    tokens: true\n"
            "    norm: true\n"
            "    options: {drop_path_rate: 0.2}\n"
            "necks:\n"
            "  - AggregateTokens: {pooling: cls}\n"
            "head: {ClassificationHead: {num_classes: 12, dropout: 0.1, linear_after_pool: true}}\n"
        )

    def test_a_resnet_is_its_last_map_and_a_linear_layer_on_the_mean(self):
        assert spec(**CLASSIFIER, backbone="resnet18", pretrained="false") == (
            "input: {channels: 6}\n"
            "encoder: {timm/resnet18: {out_indices: [-1], any_size: true}}\n"
            "head: {ClassificationHead: {num_classes: 12, linear_after_pool: true}}\n"
        )

    def test_what_it_never_reads_is_said(self):
        assert notes(**CLASSIFIER, backbone="resnet18", decoder="FCNDecoder") == [
            f"note[note] {PLACE}.decoder: TerraTorch ignores decoder: TimmModelFactory never reads it."
        ]

    @pytest.mark.parametrize(("changes", "said"), REFUSED_CLASSIFIERS, ids=[*"abcdefgh"])
    def test_what_it_refuses(self, changes, said):
        assert refusal(**{**CLASSIFIER, "backbone": "resnet18", **changes}) == said


NEAREST = "model_factory: EncoderDecoderFactory, "
OTHERS = {
    "Clay1_5ModelFactory": (
        "it builds Clay 1.5 as a masked autoencoder, which downloads a teacher and gives losses and no features",
        "backbone: clay_v1_base",
    ),
    "ClayModelFactory": ("it runs the code of a folder", "backbone: clay_v1_base"),
    "FullModelFactory": (
        "they are whole models, such as autoencoders",
        "with the encoder of the model as backbone, and a decoder",
    ),
    "GenericModelFactory": ("they are backbones alone", "with the same backbone, and a decoder"),
    "GenericUnetModelFactory": (
        "they have no head, and take the last feature for scores",
        "backbone: UNet, decoder: IdentityDecoder",
    ),
    "ObjectDetectionModelFactory": ("they find boxes, which no head does", "with the same backbone, and a decoder"),
    "SatMAEModelFactory": ("it runs the code of a folder", "backbone: timm_vit_large_patch16_224.mae"),
    "WxCModelFactory": ("they forecast weather", "backbone: prithvi_eo_v2_300, and a decoder"),
}


@pytest.mark.parametrize("factory", UNSUPPORTED_FACTORIES)
def test_other_factories_are_refused_with_a_reason_and_the_nearest_that_works(factory):
    reason, nearest = OTHERS[factory]
    said = f"models of {factory} are not imported: {reason}. | {NEAREST}{nearest}"
    assert refusal(factory, backbone="UNet") == f"part model.init_args.model_factory: {said}"


def test_a_factory_that_nobody_knows_is_said_to_be_that():
    assert refusal("PrithviDofaModelFactory", num_classes=2) == (
        "part model.init_args.model_factory: TerraTorch 1.2.11 has no factory 'PrithviDofaModelFactory'. | "
        "model_factory: EncoderDecoderFactory; a model with several encoders is a spec with nodes"
    )
