"""TerraTorch's factories beside EncoderDecoderFactory: what they build, ignore and refuse, as configs and as calls."""

import pytest
import timm
import torch

import composer
from composer.terratorch import TimmModelFactory
from composer.terratorch.configs import reads_config
from composer.terratorch.factories import UNSUPPORTED_FACTORIES
from tests.golden import recording

PLACE = "model.init_args.model_args"


def config(factory, task="SemanticSegmentationTask", **arguments):
    """A config in one line, whose arguments are at line 1."""
    values = ", ".join(f"{name}: {value}" for name, value in arguments.items())
    return (
        f"model: {{class_path: {task}, init_args: {{model_factory: {factory}, model_args: {{{values}}}, "
        f"aux_heads: null}}}}\n"
    )


def imported(*args, **arguments):
    """The translation of a config, as where TerraTorch is not installed."""
    return reads_config(config(*args, **arguments), describe=recording.describe_without_terratorch)


def spec(*args, **arguments):
    return composer.write(imported(*args, **arguments).graph)


def notes(*args, **arguments):
    return [note.format("note").partition(": ")[2] for note in imported(*args, **arguments).notes]


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
        (
            "part backbone: TerraTorch 1.2.11 has no backbone 'timm_resnet19'. | "
            "did you mean resnet18 or resnet61q or resnet51q?"
        ),
    ),
    (
        {"task": "SemanticSegmentationTask"},
        "part model.class_path: TimmModelFactory builds classifiers alone (got segmentation). | "
        + INSTEAD.format("resnet18"),
    ),
    (
        {"in_channels": "None"},
        "value in_channels: channels must be a whole number from 1 to 65536 (got 'None'). | None",
    ),
    (
        {"num_classes": 0},
        "value num_classes: ClassificationHead: num_classes must be a whole number from 1 to 65536 (got 0). | None",
    ),
    (
        {"backbone_global_pool": "max"},
        "unused backbone_global_pool: a classifier with backbone_global_pool is not imported. | "
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

    @pytest.mark.parametrize(("changes", "said"), REFUSED_CLASSIFIERS, ids=[*"abcdefg"])
    def test_what_it_refuses(self, changes, said):
        assert refusal(**{**CLASSIFIER, "backbone": "resnet18", **changes}) == said


WHOLE = {"factory": "SMPModelFactory", "model": "Unet", "backbone": "resnet18", "bands": "[RED, GREEN, BLUE, NIR]"}
DIVISIBLE = (
    f"note[note] {PLACE}.backbone: the network needs sides that are multiples of 32: others are padded, and cropped. "
    "TerraTorch feeds them as they are, and gives other numbers or fails."
)
NO_BANDS = "needs a list of bands (got None). | bands: [BLUE, GREEN, RED, NIR_NARROW, SWIR_1, SWIR_2]"
OTHER_VALUE = "leave it out, or give it a value that smp and composer both take"
REFUSED_MODELS = {
    "no model of smp": ({"model": "UNet"}, "part model: smp has no model 'UNet'. | did you mean Unet?"),
    "another task": (
        {"task": "PixelwiseRegressionTask"},
        (
            "part model.class_path: SMPModelFactory builds models of segmentation (got regression). | "
            "model_factory: EncoderDecoderFactory, decoder: smp_Unet"
        ),
    ),
    "no bands": ({"bands": "null"}, f"key bands: the factory {NO_BANDS}"),
    "an encoder of one's own": (
        {"backbone": "my.Encoder"},
        (
            "part backbone: there is no encoder 'smp/my.Encoder'. | "
            "python -m composer list encoders 'smp/*' shows what there is"
        ),
    ),
    "no classes": (
        {"num_classes": 0},
        f"value num_classes: num_classes must be a whole number from 1 to 65536 (got 0). | {OTHER_VALUE}",
    ),
    "too many levels": (
        {"smp_encoder_depth": 6},
        f"value smp_encoder_depth: depth must be a whole number from 3 to 5 (got 6). | {OTHER_VALUE}",
    ),
    "an activation without a name": (
        {"smp_activation": "argmax"},
        (
            "value smp_activation: final_act must be one of null, ReLU, GELU, SiLU, LeakyReLU, ELU, Tanh, Sigmoid, "
            f"Softplus, Identity, Softmax, LogSoftmax (got 'argmax'). | {OTHER_VALUE}"
        ),
    ),
}


class TestWholeModelsOfSmp:
    @pytest.mark.parametrize(
        ("changes", "encoder"),
        [
            ({}, " {smp/resnet18: {pretrained: true}}"),
            ({"pretrained": "false"}, " smp/resnet18"),
            ({"pretrained": "ssl"}, " {smp/resnet18: {pretrained: ssl}}"),
            ({"smp_encoder_weights": "ssl"}, " {smp/resnet18: {pretrained: ssl}}"),
            (
                {"backbone": "tu-resnet18.a1_in1k"},
                "\n  timm/resnet18.a1_in1k: {out_indices: [0, 1, 2, 3, 4], pretrained: true, features_only: true}",
            ),
        ],
        ids=["published", "random", "a set", "a set for smp", "of timm"],
    )
    def test_the_spec_is_that_of_smp_with_weights(self, changes, encoder):
        assert spec(**{**WHOLE, **changes}) == (
            f"input: {{channels: 4}}\nencoder:{encoder}\ndecoder: smp/Unet\n"
            "head: {SegmentationHead: {num_classes: 1, kernel_size: 3}}\n"
        )

    def test_its_own_factor_does_not_change_the_size(self):
        call = {**WHOLE, "model": "FPN", "in_channels": 3, "num_classes": 2}
        assert spec(**call, smp_upsampling=2, smp_decoder_dropout=0) == (
            "encoder: {smp/resnet18: {pretrained: true}}\n"
            "decoder: {smp/FPN: {decoder_dropout: 0.0}}\n"
            "head: {SegmentationHead: {num_classes: 2, upsampling: 2}}\n"
        )

    def test_what_terratorch_drops_is_said(self):
        assert notes(**WHOLE, head_dropout=0.1, smp_aux_params="{classes: 3}") == [
            DIVISIBLE,
            f"note[note] {PLACE}.head_dropout: TerraTorch ignores head_dropout: SMPModelFactory never reads it.",
            f"note[note] {PLACE}.smp_aux_params: TerraTorch drops the scores of the image; here they are an output.",
        ]

    @pytest.mark.parametrize(("changes", "said"), REFUSED_MODELS.values(), ids=REFUSED_MODELS)
    def test_what_it_refuses(self, changes, said):
        assert refusal(**{**WHOLE, **changes}) == said


PRITHVI = {"factory": "PrithviModelFactory", "backbone": "prithvi_eo_v2_300", "decoder": "FCNDecoder", "num_classes": 2}
RGB = {"bands": "[BLUE, GREEN, RED]"}
BY_THE_OTHER = "model_factory: EncoderDecoderFactory, with backbone_bands in place of bands, and so on"
REFUSED_PRITHVIS = {
    "another backbone": (
        {"backbone": "resnet18"},
        f"part backbone: the backbones of PrithviModelFactory are named prithvi_… (got 'resnet18'). | {BY_THE_OTHER}",
    ),
    "no bands": ({"bands": "null"}, f"key bands: the factory {NO_BANDS}"),
    "a backbone that nobody knows": (
        {"backbone": "prithvi_eo_v9"},
        (
            "part backbone: TerraTorch 1.2.11 has no backbone 'prithvi_eo_v9'. | "
            "did you mean prithvi_eo_v2_600 or prithvi_eo_v2_300 or prithvi_eo_v1_100?"
        ),
    ),
    "bands twice": (
        {"bands": "[RED, RED]"},
        "value bands: terratorch/prithvi_eo_v2_300: each name is given once (got ['RED', 'RED']). | None",
    ),
    "no number of frames": (
        {"num_frames": 0},
        "value num_frames: frames must be a whole number from 1 to 1024 (got 0). | None",
    ),
}


class TestPrithvi:
    def test_its_arguments_are_those_of_the_backbone(self):
        more = {"backbone_out_indices": "[5, 11]", "head_dropout": 0.1, "rescale": "false"}
        renamed = {f"backbone_{name}": value for name, value in {**RGB, "pretrained": "true", "num_frames": 3}.items()}

        written = spec(**PRITHVI, **RGB, num_frames=3, **more)

        assert written == spec(**{**PRITHVI, "factory": "EncoderDecoderFactory"}, **renamed, **more)

    @pytest.mark.parametrize(
        ("changes", "note"),
        [
            ({"in_channels": 4}, "in_channels: TerraTorch ignores in_channels: the image has 3 bands."),
            (
                {"backbone_pretrained": "false"},
                "backbone_pretrained: TerraTorch ignores backbone_pretrained: PrithviModelFactory sets it.",
            ),
            (
                {"bands": [0, 1, 2, 3, 4, 5], "in_channels": 6},
                (
                    "bands: TerraTorch starts the kernels of numbers at random; here they are those of the weights, in "
                    "order.\n  fix: name them: bands: [BLUE, …]"
                ),
            ),
        ],
        ids=["channels", "an argument of the other factory", "numbers"],
    )
    def test_what_has_no_effect_in_terratorch_is_said(self, changes, note):
        assert f"note[note] {PLACE}.{note}" in notes(**{**PRITHVI, **RGB, **changes})

    @pytest.mark.parametrize(("changes", "said"), REFUSED_PRITHVIS.values(), ids=REFUSED_PRITHVIS)
    def test_what_it_refuses(self, changes, said):
        assert refusal(**{**PRITHVI, **RGB, **changes}) == said


@pytest.mark.parametrize(("factory", "why"), UNSUPPORTED_FACTORIES.items(), ids=UNSUPPORTED_FACTORIES)
def test_other_factories_are_refused_with_a_reason_and_the_nearest_that_works(factory, why):
    reason, nearest = why
    said = f"models of {factory} are not imported: {reason}. | model_factory: EncoderDecoderFactory, {nearest}"
    assert refusal(factory, backbone="UNet") == f"part model.init_args.model_factory: {said}"


@pytest.mark.parametrize("backbone", ["clay_v1_base", "UNet", "timm_vit_large_patch16_224.mae", "prithvi_eo_v2_300"])
def test_the_nearest_works(backbone):
    written = spec("EncoderDecoderFactory", backbone=backbone, decoder="IdentityDecoder", num_classes=2)
    assert f"/{backbone.removeprefix('timm_')}" in written


def test_a_factory_that_nobody_knows_is_said_to_be_that():
    assert refusal("PrithviDofaModelFactory", num_classes=2) == (
        "part model.init_args.model_factory: TerraTorch 1.2.11 has no factory 'PrithviDofaModelFactory'. | "
        "model_factory: EncoderDecoderFactory, or a spec with a node for each encoder"
    )
