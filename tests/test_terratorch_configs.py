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
    *("eurosat.timm", "multi_temporal_crop.timm", "pooled_embeddings.timm", "prithvi_vit_300.timm"),
    *("satlas_uper.timm", "scalar_regression.timm", "timm_resnet18", "timm_resnet34_rgb"),
}
"""Those that are built in a second. timm draws the weights of a ViT number by number."""

LONG = {"burn_scars.timm", "timm_convnext_in_chans", "timm_convnext_large", "timm_convnext_xlarge"}
"""Those whose network is found out about in ten seconds or more."""

OTHER_FACTORIES = {
    "aspphead": 19,
    "baseline_unet": 8,
    "burnscars_smp": 5,
    "clay15": 10,
    "eurosat_generic": 26,
    "forestnet_timm": 5,
    "mlp_decoder": 19,
    "prithvi_pixelwise_pad": 28,
    "prithvi_swin_b": 22,
    "prithvi_vit_300": 28,
    "segmenter_decoder": 17,
    "smp_resnet34": 5,
    "train_segmentation_unet": 18,
}
"""The configs of models that another factory makes, each with the line where it is named."""

REFUSED = {
    **{stem: [f"{line}: part model_factory"] for stem, line in OTHER_FACTORIES.items()},
    "agb_mmseg": [
        "7: unused model_args.pretrained",
        "8: part model_args.backbone",
        "12: unused model_args.in_channels",
        "13: unused model_args.bands",
        "20: unused model_args.num_frames",
        "21: unused model_args.head_dropout",
        "22: unused model_args.head_final_act",
        "23: unused model_args.head_learned_upscale_layers",
    ],
    "everwatch_resnet50": ["3: part model.class_path"],
    "sen4map": [
        "7: unused model_args.pretrained",
        "8: part model_args.backbone",
        "14: unused model_args.in_channels",
        "15: unused model_args.bands",
        "19: unused model_args.num_frames",
    ],
    "terramind_embeddings": [
        "6: value model",
        "7: key model_args.backbone",
        "8: unused model_args.modalities",
        "12: unused model_args.merge_method",
    ],
    "test_template": ["2: key model", "3: key model.type", "4: key model.layers"],
    "timm_convnext_in_chans": ["9: unused model_args.in_chans"],
}
"""The configs that cannot be imported, each with the lines, codes and places of its problems."""


OWN = sorted({path.stem for path in CONFIGS.iterdir()} - IMPORTED.keys() - REFUSED.keys())
"""The configs in which nothing is wrong for TerraTorch, but whose backbone is no network of timm's."""


def config(stem):
    return CONFIGS / f"{stem}.yaml"


def test_every_config_has_its_place():
    assert (len(IMPORTED), len(OWN), len(REFUSED)) == (33, 29, 19)


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
    assert {name for name, _ in model.named_children()} == {
        node.name.split(".")[0].split("[")[0] for node in typed.order
    }


@pytest.mark.parametrize("stem", OWN)
def test_with_another_backbone_is_refused_by_its_name(stem):
    lines = enumerate(config(stem).read_text().splitlines(), 1)
    line, name = next((n, text.split("backbone: ")[1]) for n, text in lines if " backbone: " in text)

    with pytest.raises(composer.SpecError) as refused:
        read_config(config(stem))
    (problem,) = refused.value.problems

    assert (problem.place.path, problem.place.line) == ("model.init_args.model_args.backbone", line)
    assert name in problem.message


@pytest.mark.parametrize("stem", marked(REFUSED, LONG))
def test_that_cannot_be_is_refused_with_all_that_is_wrong(stem):
    with pytest.raises(composer.SpecError) as refused:
        read_config(config(stem))
    problems = [
        f"{problem.place.line}: {problem.code} {problem.place.path.removeprefix('model.init_args.')}"
        for problem in refused.value.problems
    ]
    assert problems == REFUSED[stem]
