"""What is wrong with the graph of a call, said in the words of the call; and images that TerraTorch would not pad."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import composer
from composer.terratorch import AuxiliaryHead, EncoderDecoderFactory, TerraTorchWarning
from tests.factory_calls import FRAMES, NUMBERS, Maps, built, call_of

WIDTHS = (
    "smp/Unet has 1 width in decoder_channels, one for each level it climbs (got 4 levels from the last map, level 4,"
)


def given(*axes):
    """An encoder of composer's that gives maps of these layouts; it is refused before it is run."""
    features = [composer.Feature(channels=8, stride=4 * 2**i, axes=layout) for i, layout in enumerate(axes)]
    return composer.Custom(nn.Identity(), features=features)


RETOLD = {
    "an argument with a prefix": (
        {"decoder": "smp_Unet", "decoder_decoder_channels": [1]},
        (
            f"error[count] decoder_decoder_channels: {WIDTHS} to level 0).\n"
            "  repair: decoder_decoder_channels: [256, 128, 64, 32]"
        ),
    ),
    "one that is swallowed": (
        {"decoder": "smp_Unet", "decoder_channels": [32, 16, 8, 8]},
        (
            "error[count] decoder: smp/Unet has 5 widths in decoder_channels, one for each level it climbs (got 4 "
            "levels from the last map, level 4, to level 0).\n  repair: decoder_decoder_channels: [256, 128, 64, 32]"
        ),
    ),
    "an argument in a dict": (
        {"decoder": "smp_Unet", "decoder_kwargs": {"decoder_channels": [1]}},
        (
            f"error[count] decoder_kwargs.decoder_channels: {WIDTHS} to level 0).\n"
            "  repair: decoder_kwargs: {decoder_channels: [256, 128, 64, 32]}"
        ),
    ),
    "an argument of an auxiliary head": (
        {"aux_decoders": [AuxiliaryHead("fcn-aux", "smp_Unet", {"decoder_decoder_channels": [1]})]},
        (
            f"error[count] aux_decoders[0].decoder_args.decoder_decoder_channels: {WIDTHS} to level 0).\n"
            "  repair: decoder_args: {decoder_decoder_channels: [256, 128, 64, 32]}"
        ),
    ),
    "a place in the repair": (
        {"decoder": "IdentityDecoder", "decoder_out_index": 9},
        (
            "error[index] decoder_out_index: IdentityDecoder takes feature 9 (got 5 features).\n"
            "  repair: use decoder_out_index from -5 to 4"
        ),
    ),
    "a size of what leaves": (
        {"image_size_out": (16, 16), "rescale": False},
        (
            "error[crop] image_size_out: image_size_out keeps the centre of output at the image's size, and no output "
            "is at it.\n  repair: rescale: true"
        ),
    ),
    "necks": (
        {"backbone": given("b h w c")},
        (
            'error[layout] decoder: FCNDecoder takes maps "b c h w"; backbone gives map "b h w c" (8 channels, stride '
            "4).\n"
            "  repair: necks: [{name: PermuteDims, new_order: [0, 3, 1, 2]}]"
        ),
    ),
    "levels of the backbone": (
        {"backbone": given("b c h w"), "necks": [{"name": "LearnedInterpolateToPyramidal"}]},
        (
            'error[count] necks[0]: LearnedInterpolateToPyramidal takes exactly four maps; backbone gives map "b c h '
            'w" (8 channels, stride 4).\n  repair: let the backbone give four levels, with backbone_out_indices'
        ),
    ),
    "frames": (
        {**FRAMES, "backbone_temporal_pooling": "diff"},
        (
            "error[count] backbone_temporal_pooling: TemporalPooling takes the difference of exactly two frames or "
            "subsets (got 3 frames).\n  repair: backbone_temporal_subset_lengths: [1, 2]"
        ),
    ),
    "frames that are pooled already": (
        {**FRAMES, "backbone_temporal_pooling": "max", "backbone": given("b h w c")},
        (
            'error[layout] decoder: FCNDecoder takes maps "b c h w"; backbone gives map "b h w c" (8 channels, stride '
            "4).\n"
            "  repair: necks: [{name: PermuteDims, new_order: [0, 3, 1, 2]}]"
        ),
    ),
    "necks behind frames": (
        {**FRAMES, "necks": [{"name": "SelectIndices", "indices": [0]}, {"name": "SelectIndices", "indices": [1]}]},
        (
            "error[index] necks[1].indices[0]: SelectIndices takes feature 1 (got 1 feature).\n"
            "  repair: use indices from -1 to 0"
        ),
    ),
}


@pytest.mark.parametrize(("changes", "said"), RETOLD.values(), ids=RETOLD)
def test_what_is_wrong_with_the_graph_is_said_of_the_call(changes, said):
    with pytest.raises(composer.SpecError) as raised:
        built(**changes)
    assert str(raised.value) == said


def test_an_image_smaller_than_its_output_is_refused_by_the_name_of_the_argument():
    model = built(backbone=Maps(), decoder="IdentityDecoder", image_size_out=(8, 40))

    with pytest.raises(
        ValueError, match=r"^an image of 8 × 12 pixels is smaller than the crop .* leave image_size_out"
    ):
        model(torch.rand(1, 2, 8, 12))
    assert model(torch.rand(1, 2, 8, 40)).output.shape == (1, 2, 8, 40)


class TestNames:
    def test_auxiliary_heads_keep_the_names_that_they_were_given(self):
        aux = [AuxiliaryHead("fcn-aux_1", "IdentityDecoder"), AuxiliaryHead("late", "IdentityDecoder")]
        out = built(backbone=Maps(), decoder="IdentityDecoder", aux_decoders=aux)(torch.rand(1, 2, 8, 12))

        assert list(out.auxiliary_heads) == ["fcn-aux_1", "late"]

    def test_their_weights_are_found_by_them(self, tmp_path):
        aux = [AuxiliaryHead("fcn-aux_1", "IdentityDecoder")]
        models = [built(backbone=Maps(), decoder="IdentityDecoder", aux_decoders=aux) for _ in range(2)]
        renamed = {
            name.replace("aux.fcn_aux_1.head", "aux_heads.fcn-aux_1.1"): x for name, x in models[0].state_dict().items()
        }
        torch.save(renamed, tmp_path / "weights.pt")

        composer.load_weights(models[1], tmp_path / "weights.pt")

        assert "aux_heads.fcn-aux_1.1.head.2.weight" in renamed
        assert (
            models[1].aux["fcn_aux_1"]["head"].head[2].weight.equal(models[0].aux["fcn_aux_1"]["head"].head[2].weight)
        )


def padded(**changes):
    with pytest.warns(TerraTorchWarning) as warned:
        EncoderDecoderFactory().build_model(**call_of(**changes))
    return [str(warning.message).split(":")[0:2] for warning in warned if "TerraTorch feeds" in str(warning.message)]


NEEDY = {
    "FCNDecoder": ({}, "decoder", "FCNDecoder needs sides that are multiples of 32"),
    "LinearDecoder": (
        {"decoder": "LinearDecoder", "decoder_upsampling_size": 32},
        "decoder",
        "LinearDecoder needs sides that are multiples of 32",
    ),
    "scale_modules": (
        {
            "necks": [{"name": "SelectIndices", "indices": [1, 2, 3, 4]}],
            "decoder": "UperNetDecoder",
            "decoder_scale_modules": True,
        },
        "decoder",
        "UperNetDecoder needs sides that are multiples of 32",
    ),
    "Segformer": ({"decoder": "smp_Segformer"}, "decoder", "smp/Segformer needs sides that are multiples of 2"),
    "InterpolateToPyramidal": (
        {"necks": [{"name": "InterpolateToPyramidal"}], "decoder": "UperNetDecoder"},
        "necks[0]",
        "InterpolateToPyramidal needs sides that are multiples of 32",
    ),
    "LearnedInterpolateToPyramidal": (
        {
            "necks": [
                {"name": "SelectIndices", "indices": [1, 2, 3, 4]},
                {"name": "LearnedInterpolateToPyramidal"},
            ],
            "decoder": "UperNetDecoder",
        },
        "necks[1]",
        "LearnedInterpolateToPyramidal needs sides that are multiples of 32",
    ),
    "learned_upscale_layers": (
        {**NUMBERS, "decoder": "IdentityDecoder", "head_learned_upscale_layers": 1},
        "task",
        "RegressionHead needs sides that are multiples of 32",
    ),
}


@pytest.mark.parametrize(("changes", "path", "need"), NEEDY.values(), ids=NEEDY)
def test_a_part_of_whole_cells_is_told_of(changes, path, need):
    assert padded(**changes) == [[path, f" {need}"]]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"decoder": "IdentityDecoder"}, id="IdentityDecoder"),
        pytest.param({"decoder": "UperNetDecoder"}, id="UperNetDecoder"),
        pytest.param({"decoder": "UNetDecoder", "decoder_channels": [8, 8, 8, 8, 8]}, id="UNetDecoder"),
        pytest.param({"backbone": "vit_tiny_patch16_224", "decoder": "FCNDecoder"}, id="patches"),
        pytest.param({"backbone": "densenet121", "decoder": "UperNetDecoder"}, id="DenseNet"),
        pytest.param({"backbone": "legacy_xception", "decoder": "UperNetDecoder"}, id="Xception"),
    ],
)
def test_where_terratorch_feeds_the_same_nothing_is_said(changes, recwarn):
    EncoderDecoderFactory().build_model(**call_of(**changes))

    assert [str(warning.message) for warning in recwarn if "TerraTorch feeds" in str(warning.message)] == []
