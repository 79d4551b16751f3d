"""TerraTorch configs that were published: those whose parts composer and timm have are imported, checked and built."""

from pathlib import Path

import pytest

import composer
from composer.terratorch.configs import read_config

CONFIGS = Path(__file__).parent / "terratorch_configs"

IMPORTED = {
    "burn_scars.timm": [("b", 2, 224, 224)],
    "chesapeake.timm": [("b", 7, 224, 224)],
    "clay_v1_base.timm": [("b", 3, 224, 224)],
    "decur_fcn.timm": [("b", 19, 224, 224)],
    "dofa_fcn.timm": [("b", 2, 224, 224)],
    "dofa_uper.timm": [("b", 2, 224, 224)],
    "embeddings.timm": [(("b", 192, 14, 14),)],
    "eurosat.timm": [("b", 10)],
    "galileo_config.timm": [("b", 1, 224, 224)],
    "linear_decoder.timm": [("b", 2, 224, 224)],
    "lora.timm": [("b", 2, 224, 224)],
    "mlp_decoder.timm": [("b", 1, 224, 224)],
    "multi_temporal_crop.timm": [("b", 13, 112, 112)],
    "pooled_embeddings.timm": [(("b", 128), ("b", 512))],
    "prithvi_tiny_finetune_chesapeake.timm": [("b", 7, 224, 224)],
    "prithvi_vit_300.timm": [("b", 1, 224, 224)],
    "reben.timm": [("b", 19)],
    "satlas_uper.timm": [("b", 2, 224, 224)],
    "scalar_regression.timm": [("b", 2), ("b", 2)],
    "sen1floods11_local_ckpt.timm": [("b", 2, 224, 224), ("b", 2, 224, 224)],
    "sen1floods11_vit.timm": [("b", 2, 224, 224), ("b", 2, 224, 224)],
    "sen1floods11_vit_smp.timm": [("b", 2, 224, 224)],
    "terramind_base.timm": [("b", 2, 224, 224)],
    "terramind_regression.timm": [("b", 1, 224, 224)],
    "terramind_xview2.timm": [("b", 5, 224, 224)],
    "timm_convnext_large": [("b", 3, 224, 224)],
    "timm_convnext_xlarge": [("b", 3, 224, 224)],
    "timm_resnet101": [("b", 3, 224, 224)],
    "timm_resnet152": [("b", 3, 224, 224)],
    "timm_resnet18": [("b", 3, 224, 224)],
    "timm_resnet34": [("b", 3, 224, 224)],
    "timm_resnet34_rgb": [("b", 2, 224, 224)],
    "timm_resnet50": [("b", 3, 224, 224)],
}
"""The configs whose backbone is timm's, each with the shapes of the outputs for an image of 224 × 224."""

LIGHT = {
    "eurosat.timm",
    "multi_temporal_crop.timm",
    "pooled_embeddings.timm",
    "prithvi_vit_300.timm",
    "satlas_uper.timm",
    "scalar_regression.timm",
    "timm_resnet18",
    "timm_resnet34_rgb",
}
"""Those that are built in a second. timm draws the weights of a ViT number by number."""

LONG = {"burn_scars.timm", "timm_convnext_in_chans", "timm_convnext_large", "timm_convnext_xlarge"}
"""Those whose network is found out about in ten seconds or more."""

OWN = {
    "agb_unet": "prithvi_eo_v2_300",
    "burn_scars": "prithvi_vit_100",
    "chesapeake": "prithvi_eo_tiny",
    "clay_v1_base": "clay_v1_base",
    "croma": "CROMA_base",
    "custom_modules": "HelloGeoModule",
    "decur_fcn": "ssl4eos12_resnet50_sentinel2_all_decur",
    "dofa_fcn": "dofa_large_patch16_224",
    "dofa_uper": "dofa_large_patch16_224",
    "eo_v2_300": "prithvi_eo_v2_300",
    "eurosat": "prithvi_eo_v2_300",
    "eurosat_generic": "prithvi_swin_B",
    "floe_unet": "UNet",
    "galileo_basic_test": "galileo_base_encoder",
    "galileo_config": "galileo_tiny_encoder",
    "linear_decoder": "terramind_v1_base",
    "lora": "prithvi_eo_v2_300",
    "mlp_decoder": "prithvi_vit_100",
    "multi_temporal_crop": "prithvi_eo_v2_300",
    "multibackbone_timm": "MultiBackboneWrapper",
    "peft_upernet": "prithvi_eo_v2_300",
    "prithvi_pixelwise_pad": "prithvi_eo_v2_300",
    "prithvi_swin_b": "prithvi_swin_B",
    "prithvi_tiny_finetune_chesapeake": "prithvi_eo_tiny",
    "prithvi_vit_300": "prithvi_eo_v2_300",
    "satlas_uper": "ssl4eol_resnet18_landsat_oli_tirs_toa_moco",
    "sen1floods11_local_ckpt": "prithvi_eo_v2_300",
    "sen1floods11_tl": "prithvi_eo_v2_300_tl",
    "sen1floods11_vit": "prithvi_vit_100",
    "sen1floods11_vit_mmseg": "prithvi_vit_100",
    "sen1floods11_vit_smp": "prithvi_vit_100",
    "terramind_base": "terramind_v1_base",
    "terramind_regression": "terramind_v1_base",
    "terramind_xview2": "terramind_v1_base",
}
"""The configs in which nothing is wrong for TerraTorch, but whose backbone is no network of timm's."""

ARGS = "model.init_args.model_args"
FACTORY = "error[part] model.init_args.model_factory: models of"
REFUSED = {
    "agb_mmseg": [
        f"7:7: error[unused] {ARGS}.pretrained: pretrained was passed but not used.",
        f"8:7: error[part] {ARGS}.backbone",
        f"12:7: error[unused] {ARGS}.in_channels: in_channels was passed but not used.",
        f"13:7: error[unused] {ARGS}.bands: bands was passed but not used.",
        f"20:7: error[unused] {ARGS}.num_frames: num_frames was passed but not used.",
        f"21:7: error[unused] {ARGS}.head_dropout: UPerHead includes a head, so there is none for dropout.",
        f"22:7: error[unused] {ARGS}.head_final_act",
        f"23:7: error[unused] {ARGS}.head_learned_upscale_layers",
    ],
    "aspphead": [
        (
            f"19:20: {FACTORY} GenericUnetModelFactory are not imported: it builds whole models, in which composer "
            "knows no parts."
        )
    ],
    "baseline_unet": ["8:3: error[key] model.init_args.model_factory: a task needs the name of a factory."],
    "burnscars_smp": [
        f"5:20: {FACTORY} SMPModelFactory are not imported: it builds whole models of segmentation_models_pytorch."
    ],
    "clay15": [
        f"10:20: {FACTORY} Clay1_5ModelFactory are not imported: it builds Clay's masked autoencoder as a whole."
    ],
    "everwatch_resnet50": [
        (
            "3:15: error[part] model.class_path: ObjectDetectionTask is not imported: it trains detectors, which "
            "composer does not describe."
        )
    ],
    "forestnet_timm": [f"5:20: {FACTORY} TimmModelFactory are not imported: it builds whole classifiers of timm."],
    "segmenter_decoder": [
        f"6:7: error[part] {ARGS}.decoder: TerraTorch has no decoder 'SegmenterDecoder'.",
        f"8:7: error[part] {ARGS}.backbone",
    ],
    "sen4map": [
        f"7:7: error[unused] {ARGS}.pretrained: pretrained was passed but not used.",
        f"8:7: error[part] {ARGS}.backbone",
        f"14:7: error[unused] {ARGS}.in_channels: in_channels was passed but not used.",
        f"15:7: error[unused] {ARGS}.bands: bands was passed but not used.",
        f"19:7: error[unused] {ARGS}.num_frames: num_frames was passed but not used.",
    ],
    "smp_resnet34": [
        f"5:20: {FACTORY} SMPModelFactory are not imported: it builds whole models of segmentation_models_pytorch."
    ],
    "terramind_embeddings": [
        "6:5: error[value] model.init_args.model: EmbeddingGenerationTask takes the backbone in model_args.",
        f"7:5: error[key] {ARGS}.backbone: a backbone is the name of a network (got None).",
        f"8:7: error[unused] {ARGS}.modalities: modalities was passed but not used.",
        f"12:7: error[unused] {ARGS}.merge_method: merge_method was passed but not used.",
    ],
    "test_template": [
        "2:1: error[key] model: a model has class_path and init_args.",
        "3:3: error[key] model.type: a model has no key 'type'.",
        "4:3: error[key] model.layers: a model has no key 'layers'.",
    ],
    "timm_convnext_in_chans": [f"9:7: error[unused] {ARGS}.in_chans: in_chans was passed but not used."],
    "train_segmentation_unet": [
        (
            f"18:20: {FACTORY} GenericUnetModelFactory are not imported: it builds whole models, in which composer "
            "knows no parts."
        )
    ],
}
"""The configs that cannot be imported, each with how every line begins that is said of it, without the fixes."""


def config(stem):
    return CONFIGS / f"{stem}.yaml"


def test_every_config_has_its_place():
    assert {path.stem for path in CONFIGS.iterdir()} == {*IMPORTED, *OWN, *REFUSED}
    assert len(IMPORTED) + len(OWN) + len(REFUSED) == 81


def marked(stems, slow):
    """The stems of configs, those that are `slow` as tests of a soak."""
    return [pytest.param(stem, marks=pytest.mark.slow) if stem in slow else stem for stem in stems]


@pytest.mark.parametrize("stem", marked(IMPORTED, LONG))
def test_with_a_backbone_of_timms_is_imported_and_checked(stem):
    graph = read_config(config(stem)).graph
    again = composer.reads(composer.write(graph))
    typed = composer.infer(again)

    assert again == graph
    assert [typed.shape(end, height=224, width=224) for end in typed.ends] == IMPORTED[stem]


@pytest.mark.parametrize("stem", marked(IMPORTED, IMPORTED.keys() - LIGHT))
def test_with_a_backbone_of_timms_is_built(stem):
    typed = composer.infer(read_config(config(stem)).graph)

    model = composer.build(typed, pretrained=False)

    assert all(parameter.requires_grad for parameter in model.parameters())
    assert [name for name, _ in model.named_children()] == list(
        dict.fromkeys(node.name.split(".")[0].split("[")[0] for node in typed.order)
    )


@pytest.mark.parametrize("stem", OWN)
def test_with_another_backbone_is_refused_by_its_name(stem):
    line = next(n for n, text in enumerate(config(stem).read_text().splitlines(), 1) if " backbone: " in text)

    with pytest.raises(composer.SpecError) as refused:
        read_config(config(stem))
    (problem,) = refused.value.problems

    assert (problem.place.path, problem.place.line, problem.place.column) == (f"{ARGS}.backbone", line, 7)
    assert OWN[stem] in problem.message


@pytest.mark.parametrize("stem", marked(REFUSED, LONG))
def test_that_cannot_be_is_refused_with_all_that_is_wrong(stem):
    with pytest.raises(composer.SpecError) as refused:
        read_config(config(stem))
    said = [str(problem).removeprefix(f"{config(stem)}:").split("\n")[0] for problem in refused.value.problems]

    assert [line[: len(start)] for line, start in zip(said, REFUSED[stem], strict=True)] == REFUSED[stem]
