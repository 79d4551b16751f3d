"""Models that the factory builds: modules that are handed in, outputs, seeds, freezing, copies."""

from __future__ import annotations

import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn

import composer
from composer.terratorch import AuxiliaryHead
from tests.factory_calls import EMBEDDING, NUMBERS, Maps, Scores, Tokens, built, translated


class TestModules:
    def test_a_backbone_is_used_as_it_is(self):
        backbone = Maps()
        model = built(backbone=backbone, decoder="IdentityDecoder")
        image = torch.rand(1, 2, 9, 10)

        assert model.encoder is backbone
        assert model.graph.inputs[0][1] == composer.Image(channels=2)
        assert [(f.channels, f.stride, f.rounding) for f in model.typed.features["encoder"]] == [
            (4, 2, "floor"),
            (6, 4, "floor"),
        ]
        assert model(image).output.shape == (1, 2, 9, 10)

    @pytest.mark.parametrize(
        ("backbone", "stated", "padding"),
        [
            (Tokens(), {}, composer.Padding(multiple=8)),
            (Tokens(), {"padding": None}, composer.Padding()),
            (Maps(), {"patch_size": [1, 2, 6], "padding": "constant"}, composer.Padding(mode="zeros", multiple=12)),
        ],
        ids=["found", "none", "stated"],
    )
    def test_what_it_pads_for(self, backbone, stated, padding):
        assert translated(backbone=backbone, backbone_kwargs=stated).graph.padding == padding

    def test_its_own_hook_is_called_where_no_neck_is_given(self):
        assert translated(backbone=Tokens()).graph.nodes[1].part == composer.ReshapeTokensToImage()

    def test_a_hook_that_brings_the_channels_to_the_front_is_a_permutation(self):
        assert translated(backbone=LastChannels()).graph.nodes[1].part == composer.PermuteDims(new_order=[0, 3, 1, 2])

    def test_a_hook_that_hands_on_the_last_feature_alone_is_told_of(self):
        (note,) = translated(backbone=LastTokens()).notes

        assert note.message.startswith("the backbone's own hook hands on its last feature alone")
        assert note.fix == "necks: [{name: ReshapeTokensToImage}] hands on all of them"

    def test_a_backbone_that_is_not_as_it_says_is_told_of(self):
        backbone = Maps()
        backbone.out_channels = [4, 6, 8]
        (note,) = translated(backbone=backbone).notes

        assert note.message.startswith("Maps has out_channels [4, 6, 8], for which TerraTorch builds, ")

    def test_channels_are_seen_in_a_linear_layer_over_patches(self):
        assert translated(backbone=Patches(7)).graph.inputs[0][1] == composer.Image(channels=7)

    def test_channels_that_nothing_tells_may_be_stated(self):
        backbone = Patches(7, hidden=True)

        with pytest.raises(composer.SpecError) as raised:
            translated(backbone=backbone)
        assert raised.value.problems[0].fix.startswith(
            "say how many channels it takes: backbone_in_chans=…, or declare "
        )
        assert translated(backbone=backbone, backbone_in_chans=7).graph.inputs[0][1] == composer.Image(channels=7)

    def test_an_encoder_of_composers_is_taken_at_its_word(self):
        graph = translated(backbone=composer.Timm("resnet18", out_indices=[2]), backbone_in_chans=5).graph

        assert graph.inputs[0][1] == composer.Image(channels=5)
        assert graph.nodes[0].part == composer.Timm("resnet18", out_indices=[2])

    @pytest.mark.parametrize(("includes_head", "classes"), [(True, 3), (False, 2)], ids=["head", "no head"])
    def test_a_decoder_says_whether_it_includes_a_head(self, includes_head, classes):
        decoder = Scores(includes_head)
        model = built(backbone=Maps(), decoder=decoder)

        assert model.decoder.network is decoder
        assert hasattr(model, "head") is not includes_head
        assert model(torch.rand(1, 2, 8, 12)).output.shape == (1, classes, 8, 12)

    def test_a_decoder_that_does_not_fit_is_refused(self):
        with pytest.raises(composer.SpecError) as raised:
            built(backbone=Tokens(), necks=[{"name": "SelectIndices", "indices": [0]}], decoder=Scores(False))

        assert raised.value.problems[0].code == "features"
        assert raised.value.problems[0].message.startswith("ModuleDecoder takes these features, run over an image of ")

    def test_a_backbone_that_raises_is_refused_with_what_it_raised(self):
        backbone = Maps()
        backbone.stage = nn.Conv2d(5, 6, 1)

        with pytest.raises(composer.SpecError) as raised:
            built(backbone=backbone)
        assert str(raised.value).startswith(
            "error[features] backbone: Maps was run to find its features, and it raised RuntimeError: Given groups=1, "
        )


class LastChannels(nn.Module):
    """Maps with the channels last, and a hook that brings them to the front."""

    in_chans = 2
    out_channels = (5,)

    def forward(self, image_BCHW):
        return [image_BCHW.sum(1)[:, ::4, ::4, None].expand(-1, -1, -1, 5)]

    def prepare_features_for_image_model(self, features):
        return [x.permute(0, 3, 1, 2) for x in features]


class LastTokens(Tokens):
    """Tokens of two levels, and a hook that hands on the map of the last alone."""

    def __init__(self):
        super().__init__()
        self.out_channels = [6, 6]

    def forward(self, x_BCHW):
        (tokens,) = super().forward(x_BCHW)
        return [tokens, 2 * tokens]

    def prepare_features_for_image_model(self, features):
        return super().prepare_features_for_image_model(features[-1:])


class Patches(nn.Module):
    """Tokens by one linear layer over all the pixels of a patch, which may be hidden in a function."""

    out_channels = (6,)
    patch_size = 4

    def __init__(self, channels, *, hidden=False):
        super().__init__()
        layer = nn.Linear(channels * 16, 6)
        self.layer = layer.forward if hidden else layer

    def forward(self, image_BCHW):
        return [self.layer(nn.functional.unfold(image_BCHW, 4, stride=4).transpose(1, 2))]


class TestSeeds:
    def test_one_number_is_drawn(self):
        backbone = Maps()
        torch.manual_seed(0)
        built(backbone=backbone)
        after = torch.get_rng_state()
        torch.manual_seed(0)
        torch.randint(2**31, ())

        assert after.equal(torch.get_rng_state())

    def test_equal_seeds_give_equal_weights(self):
        states = [build_seeded(seed).state_dict() for seed in (0, 0, 1)]
        assert [name for name, x in states[0].items() if not x.equal(states[1][name])] == []
        assert not states[0]["head.head.2.weight"].equal(states[2]["head.head.2.weight"])
        assert not states[0]["encoder.conv1.weight"].equal(states[2]["encoder.conv1.weight"])


def build_seeded(seed):
    torch.manual_seed(seed)
    return built(decoder="IdentityDecoder")


class TestOutput:
    @pytest.mark.parametrize(
        ("changes", "shape"),
        [
            pytest.param({"num_classes": 1}, (3, 1, 8, 12), id="one-class"),
            pytest.param({**NUMBERS}, (3, 8, 12), id="one-number"),
            pytest.param({**NUMBERS, "num_outputs": 2}, (3, 2, 8, 12), id="two-numbers"),
            pytest.param({**NUMBERS, "rescale": False}, (3, 2, 3), id="one-number-per-cell"),
            pytest.param({"task": "classification", "num_classes": 1}, (3, 1), id="one-class-of-an-image"),
            pytest.param({"task": "scalar_regression", "num_classes": 1}, (3, 1), id="one-number-of-an-image"),
            pytest.param({**NUMBERS, "image_size_out": (4, 5)}, (3, 4, 5), id="cropped"),
        ],
    )
    def test_one_number_per_pixel_loses_its_channel_and_nothing_else_does(self, changes, shape):
        aux = [AuxiliaryHead("early", "IdentityDecoder")]
        model = built(backbone=Maps(), decoder="IdentityDecoder", aux_decoders=aux, **changes)
        out = model(torch.rand(3, 2, 8, 12))

        assert out.output.shape == shape
        assert out.auxiliary_heads["early"].shape == shape

    @pytest.mark.parametrize("nothing", [[], None], ids=["list", "none"])
    def test_an_embedding_is_a_list_of_a_frozen_encoder(self, nothing):
        """TerraTorch's task for embeddings asks for no auxiliary heads. Warnings are errors here."""
        model = built(backbone=Maps(), aux_decoders=nothing, **EMBEDDING)

        assert [x.shape for x in model(torch.rand(3, 2, 8, 12))] == [(3, 4, 4, 6), (3, 6, 2, 3)]
        assert trained(model) == set()

    def test_auxiliary_heads_keep_the_names_that_they_were_given(self, tmp_path):
        aux = [AuxiliaryHead("fcn-aux_1", "IdentityDecoder")]
        models = [built(backbone=Maps(), decoder="IdentityDecoder", aux_decoders=aux) for _ in range(2)]
        state = models[0].state_dict()
        ours, theirs = "aux.fcn_aux_1.head", "aux_heads.fcn-aux_1.1"
        torch.save({name.replace(ours, theirs): x for name, x in state.items()}, tmp_path / "weights.pt")

        composer.load_weights(models[1], tmp_path / "weights.pt")

        assert list(models[1](torch.rand(1, 2, 8, 12)).auxiliary_heads) == ["fcn-aux_1"]
        assert models[1].state_dict()[f"{ours}.head.2.weight"].equal(state[f"{ours}.head.2.weight"])

    def test_an_image_smaller_than_its_output_is_refused(self):
        model = built(backbone=Maps(), decoder="IdentityDecoder", image_size_out=(8, 40))

        with pytest.raises(ValueError, match=r"^an image of 8 × 12 pixels is smaller than the crop "):
            model(torch.rand(1, 2, 8, 12))

    def test_image_size_crops_the_centre(self):
        model = built(backbone=Maps(), decoder="IdentityDecoder")
        cropped = built(backbone=model.encoder, decoder="IdentityDecoder", image_size_out=(4, 6))
        cropped.load_state_dict(model.state_dict())
        image = torch.rand(3, 2, 8, 12)

        torch.testing.assert_close(model(image, image_size=(4, 6)).output, cropped(image).output)
        torch.testing.assert_close(model(image).output[..., 2:6, 3:9], cropped(image).output)
        assert cropped(image, image_size=(2, 2)).output.shape == (3, 2, 4, 6)

    def test_an_argument_beside_the_image_reaches_the_backbone(self):
        model = built(backbone=Maps(), decoder="IdentityDecoder")
        image = torch.rand(3, 2, 8, 12)

        torch.testing.assert_close(model(image, shift=1).output, model(image + 1).output)
        with pytest.raises(TypeError, match=r"^no encoder of the model takes 'places'; there is shift$"):
            model(image, places=1)

    def test_a_network_of_timm_takes_the_image_alone(self):
        with pytest.raises(TypeError, match=r"^no encoder of the model takes 'shift'; nothing is taken beside images$"):
            built()(torch.rand(1, 3, 64, 64), shift=1)


class TestFreezing:
    def test_a_frozen_encoder_stands_still(self):
        model = built(backbone=Maps(), decoder="IdentityDecoder")
        model.freeze_encoder()
        model.train()
        before = model.encoder.stem[1].running_mean.clone()
        model(torch.rand(3, 2, 8, 12))

        assert model.encoder.stem[1].running_mean.equal(before)
        assert trained(model) == {"head"}

    def test_an_encoder_may_freeze_itself(self):
        class Prompted(Maps):
            def freeze(self):
                self.stem.requires_grad_(False)

        model = built(backbone=Prompted(), decoder="IdentityDecoder")
        model.freeze_encoder()

        assert not any(x.requires_grad for x in model.encoder.stem.parameters())
        assert all(x.requires_grad for x in model.encoder.stage.parameters())

    def test_decoder_and_head_freeze_alone(self):
        model = built(backbone=Maps(), decoder_channels=4)
        model.freeze_decoder()
        assert trained(model) == {"encoder", "head"}

        model.freeze_head()
        assert trained(model) == {"encoder"}

    def test_where_there_is_no_head_there_is_none_to_freeze(self):
        model = built(backbone=Maps(), decoder="LinearDecoder", decoder_upsampling_size=4)
        model.freeze_head()

        assert trained(model) == {"encoder", "decoder"}


def trained(model):
    return {name.split(".")[0] for name, x in model.named_parameters() if x.requires_grad}


@pytest.mark.parametrize(
    "copied", [deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize(
    "changes",
    [{"decoder_channels": 4, "decoder_num_convs": 1}, {**NUMBERS, "decoder": Scores(includes_head=True)}],
    ids=["decoder", "module"],
)
def test_a_copy_is_a_model_of_its_own(copied, changes):
    model = built(backbone=Maps(), **changes)
    image = torch.rand(1, 2, 16, 16)
    before = model(image).output
    copy = copied(model)

    assert copy(image).output.equal(before)
    copy.freeze_encoder()
    nn.init.zeros_(next(copy.decoder.parameters()))
    assert model(image).output.equal(before)
    assert not copy(image).output.equal(before)
    assert trained(model) >= {"encoder", "decoder"}
