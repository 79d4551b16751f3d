"""Problems of the graph of a call, at their arguments; and images that TerraTorch does not pad."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import composer
from composer.terratorch.branches import AuxiliaryHead
from composer.terratorch.factory import EncoderDecoderFactory, TerraTorchWarning
from tests.factory_calls import FRAMES, NUMBERS, Maps, built, call_of


def given(*axes):
    """An encoder of composer's that gives maps of these layouts; it is refused before it is run."""
    features = [composer.Feature(channels=8, stride=4 * 2**i, axes=layout) for i, layout in enumerate(axes)]
    return composer.Custom(nn.Identity(), features=features)


RETOLD = {
    "an argument with a prefix": (
        {"decoder": "smp_Unet", "decoder_decoder_channels": [1]},
        "count",
        "decoder_decoder_channels",
        "decoder_decoder_channels: [1, 1, 1, 1]",
    ),
    "one that is swallowed": (
        {"decoder": "smp_Unet", "decoder_channels": [32, 16, 8, 8]},
        "count",
        "decoder",
        "decoder_decoder_channels: [256, 128, 64, 32]",
    ),
    "an argument in a dict": (
        {"decoder": "smp_Unet", "decoder_kwargs": {"decoder_channels": [1]}},
        "count",
        "decoder_kwargs.decoder_channels",
        "decoder_kwargs.decoder_channels: [1, 1, 1, 1]",
    ),
    "an argument of an auxiliary head": (
        {"aux_decoders": [AuxiliaryHead("fcn-aux", "smp_Unet", {"decoder_decoder_channels": [1]})]},
        "count",
        "aux_decoders[0].decoder_args.decoder_decoder_channels",
        "aux_decoders[0].decoder_args.decoder_decoder_channels: [1, 1, 1, 1]",
    ),
    "a place in the fix": (
        {"decoder": "IdentityDecoder", "decoder_out_index": 9},
        "index",
        "decoder_out_index",
        "use out_index from -5 to 4",
    ),
    "a size of what leaves": (
        {"image_size_out": (16, 16), "rescale": False},
        "value",
        "image_size_out",
        "rescale: true",
    ),
    "necks": (
        {"backbone": given("b h w c")},
        "layout",
        "decoder",
        "necks: [{name: PermuteDims, new_order: [0, 3, 1, 2]}]",
    ),
    "levels of the backbone": (
        {"backbone": given("b c h w"), "necks": [{"name": "LearnedInterpolateToPyramidal"}]},
        "count",
        "necks[0]",
        "let the encoder give four levels, with its out_indices or its depth",
    ),
    "frames": (
        {**FRAMES, "backbone_temporal_pooling": "diff"},
        "count",
        "backbone_temporal_pooling",
        "backbone_temporal_subset_lengths: [1, 2]",
    ),
    "frames that are pooled already": (
        {**FRAMES, "backbone_temporal_pooling": "max", "backbone": given("b h w c")},
        "layout",
        "decoder",
        "necks: [{name: PermuteDims, new_order: [0, 3, 1, 2]}]",
    ),
    "frames that are not pooled yet": (
        {**FRAMES, "backbone_temporal_pooling": "keep", "backbone_kwargs": {}},
        "layout",
        "decoder",
        "backbone_temporal_pooling: mean",
    ),
    "necks behind frames": (
        {**FRAMES, "necks": [{"name": "SelectIndices", "indices": [0]}, {"name": "SelectIndices", "indices": [1]}]},
        "index",
        "necks[1].indices[0]",
        "use indices from -1 to 0",
    ),
    "frames that are miscounted": (
        {**FRAMES, "backbone_temporal_subset_lengths": [2, 2]},
        "frames",
        "backbone_temporal_subset_lengths",
        "backbone_temporal_subset_lengths: [1, 2]",
    ),
    "the channels of an image": (
        {"backbone": given("b c h w"), "backbone_padding": None, "decoder": "UNetDecoder", "decoder_channels": [8, 8]},
        "count",
        "decoder_channels",
        "decoder_channels: [8]",
    ),
}


@pytest.mark.parametrize(("changes", "code", "path", "fix"), RETOLD.values(), ids=RETOLD)
def test_what_is_wrong_with_the_graph_is_placed_at_its_argument(changes, code, path, fix):
    with pytest.raises(composer.SpecError) as raised:
        built(**changes)
    assert [(p.code, p.place.path, p.fix) for p in raised.value.problems] == [(code, path, fix)]


def test_an_image_smaller_than_its_output_is_refused_by_the_name_of_the_argument():
    model = built(backbone=Maps(), decoder="IdentityDecoder", image_size_out=(8, 40))

    with pytest.raises(ValueError, match=r"^an image of 8 × 12 pixels is smaller than the crop "):
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
