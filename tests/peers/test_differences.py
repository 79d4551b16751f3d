"""Where composer differs from TerraTorch on purpose: the same call to both, and what each of them does.

The README lists these differences, each with its reason.
"""

from __future__ import annotations

import pickle
import sys

import pytest
import torch
from terratorch.models import EncoderDecoderFactory as Theirs
from terratorch.models import necks as their_necks
from terratorch.models.model import AuxiliaryHead
from torch import nn
from torch.nn import functional as F

import composer
from composer.terratorch.factory import EncoderDecoderFactory, TerraTorchWarning
from tests.peers.combinations import CHANNELS, SWIN, VIT, Pyramid, prithvi

TO_MAPS = [{"name": "ReshapeTokensToImage"}]
FRAMES = {"backbone_use_temporal": True, "backbone_temporal_n_timestamps": 3}
LAST = {"decoder": "IdentityDecoder"}
CLASSES = {"task": "segmentation", "num_classes": 2, **LAST}
NUMBERS = {"task": "regression", **LAST}


class Tokens(nn.Module):
    """A backbone of tokens, of patches of 8 pixels, behind a prefix that looks like no image."""

    patch_size = 8
    in_chans = CHANNELS

    def __init__(self, prefix=1):
        super().__init__()
        self.out_channels = [6]
        self.prefix = prefix
        self.embed = nn.Conv2d(CHANNELS, 6, 8, 8)

    def forward(self, x_BCHW):
        grid = self.embed(x_BCHW).flatten(2).mT
        return [torch.cat([grid.new_full((len(grid), self.prefix, 6), 9.0), grid], dim=1)]


class Predicting(nn.Module):
    """A decoder that ends in a prediction, and says so."""

    includes_head = True
    out_channels = 3

    def __init__(self):
        super().__init__()
        self.scores = nn.Conv2d(12, 3, 1)

    def forward(self, features):
        return self.scores(features[-1])


def theirs_of(**call):
    return Theirs().build_model(**call).eval()


def ours_of(**call):
    return EncoderDecoderFactory().build_model(**call).eval()


@pytest.fixture
def both(tmp_path):
    """Makes TerraTorch's model for a call, and ours with its weights. A backbone is made for each by calling it."""

    def make(backbone, **call):
        models = [
            build(backbone=backbone if isinstance(backbone, str) else backbone(), **call)
            for build in (theirs_of, ours_of)
        ]
        torch.save(models[0].state_dict(), tmp_path / "weights.pt")
        composer.load_weights(models[1], tmp_path / "weights.pt")
        return models

    return make


def image(*size, channels=CHANNELS, frames=None):
    shape = (2, channels, *(() if frames is None else (frames,)), *size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def run(model, x, **extras):
    return model(x, **extras).output


def told(**call):
    """The arguments that composer warns of."""
    with pytest.warns(TerraTorchWarning) as warned:
        ours_of(**call)
    return lines_of(warned)


def lines_of(warned):
    """The arguments of the warnings, but for that of images which are padded."""
    said = [str(warning.message) for warning in warned if warning.category is TerraTorchWarning]
    return [line.split(":")[0] for line in said if PADDED not in line]


PADDED = "TerraTorch feeds them as they are, and gives other numbers or fails."


def refused(**call):
    """The codes and arguments of what composer says that it cannot build, or will not."""
    with pytest.raises(composer.SpecError) as raised:
        ours_of(**call)
    return [f"{problem.code} {problem.place.path}" for problem in raised.value.problems]


def features_of(model, node="encoder"):
    return model.typed.features[node]


def shapes(module):
    return [tuple(x.shape) for x in module.parameters()]


def norms_in(module):
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())


def statistics(module):
    return [x.clone() for name, x in module.named_buffers() if "running" in name]


# --- tokens and their grid


class TestGrid:
    def test_tokens_of_a_wide_image_are_laid_out_on_its_own_grid(self, both):
        # 4 × 16 patches are 64, which TerraTorch takes for 8 × 8.
        theirs, ours = both(Tokens, necks=TO_MAPS, **NUMBERS)
        x = image(32, 128)
        right = F.interpolate(theirs.head(theirs.encoder.embed(x)), size=(32, 128), mode="bilinear")[:, 0]

        torch.testing.assert_close(run(ours, x), right)
        assert (run(theirs, x) - right).abs().max() > 0.1
        assert run(theirs_of(backbone=Tokens(), necks=TO_MAPS, rescale=False, **NUMBERS), x).shape == (2, 8, 8)
        assert run(ours_of(backbone=Tokens(), necks=TO_MAPS, rescale=False, **NUMBERS), x).shape == (2, 4, 16)

    def test_where_the_rows_are_stated_both_are_right(self, both):
        theirs, ours = both(Tokens, necks=[{**TO_MAPS[0], "h": 4}], **NUMBERS)
        x = image(32, 128)

        torch.testing.assert_close(run(ours, x), run(theirs, x))

    def test_a_backbones_own_hook_guesses_a_square_too(self, both):
        # TerraTorch calls the hook where no neck is given.
        theirs, ours = both(prithvi, rescale=False, **NUMBERS)

        assert run(theirs, image(32, 128, frames=2)).shape == (2, 8, 8)
        assert run(ours, image(32, 128, frames=2)).shape == (2, 4, 16)
        torch.testing.assert_close(run(ours, image(64, 64, frames=2)), run(theirs, image(64, 64, frames=2)))

    def test_all_of_a_prefix_is_dropped(self, both):
        # Of 5 + 2 × 6 tokens TerraTorch drops one, and takes the other 16 for a grid of 4 × 4.
        theirs, ours = both(lambda: Tokens(prefix=5), necks=TO_MAPS, rescale=False, **NUMBERS)
        x = image(16, 48)

        assert run(theirs, x).shape == (2, 4, 4)
        torch.testing.assert_close(run(ours, x), theirs.head(theirs.encoder.embed(x))[:, 0])
        with pytest.raises(ValueError, match="Cannot infer grid shape"):
            run(theirs, image(64, 64))

    def test_what_a_neck_does_depends_on_this_image_alone(self):
        neck = their_necks.ReshapeTokensToImage([6])
        ours = composer.module(
            composer.ReshapeTokensToImage(), [composer.Feature(channels=6, stride=8, axes="b n c", prefix=0)]
        )
        small, large = torch.rand(1, 10, 6), torch.rand(1, 64, 6)

        first = neck([small], image_size=(16, 40))[0]
        neck([large], image_size=(64, 64))  # after which it takes no token for a class token any more
        second = neck([small], image_size=(16, 40))[0]

        assert (first.shape, second.shape) == ((1, 6, 3, 3), (1, 6, 2, 5))
        assert ours([small], image_size=(16, 40))[0].equal(second)

    def test_embeddings_have_the_grid_of_the_image(self, both):
        theirs, ours = both(Tokens, task="embedding_generation", necks=TO_MAPS)

        assert [x.shape for x in theirs(image(32, 128))] == [(2, 6, 8, 8)]
        assert [x.shape for x in ours(image(32, 128))] == [(2, 6, 4, 16)]
        with pytest.raises(AssertionError, match="image_size is not provided"):
            theirs(image(32, 64))


# --- arguments without effect: the model is TerraTorch's, and a warning names what would have an effect


class TestIgnored:
    def test_an_auxiliary_head_has_arguments_of_its_own(self):
        aux = [AuxiliaryHead("early", "IdentityDecoder", {"head_channel_list": [5]})]
        call = {"backbone": Pyramid(), "aux_decoders": aux, **CLASSES}
        theirs = theirs_of(**call)
        spec = composer.chain(
            composer.Timm("resnet18"),
            composer.IdentityDecoder(),
            composer.SegmentationHead(num_classes=2),
            aux={
                "early": (composer.IdentityDecoder(), composer.SegmentationHead(num_classes=2, channel_list=[5])),
            },
        )

        assert shapes(theirs.aux_heads["early"][1]) == [(2, 12, 1, 1), (2,)]
        assert told(**call) == ["aux_decoders[0].decoder_args.head_channel_list"]
        assert shapes(composer.build(spec).aux["early"]["head"]) == [(5, 512, 3, 3), (5,), (2, 5, 1, 1), (2,)]

    def test_index_0_is_the_first_level(self, both):
        necks = [{"name": "AggregateTokens", "indices": 0}]
        call = {"task": "classification", "num_classes": 2, "necks": necks, **LAST}
        with pytest.warns(
            TerraTorchWarning, match=r"^necks\[0\].indices: TerraTorch ignores indices: 0 counts as none"
        ):
            theirs, ours = both(Pyramid, **call)
        x = image(64, 64)

        torch.testing.assert_close(run(ours, x), run(theirs, x))
        torch.testing.assert_close(run(theirs, x), theirs.head(theirs.encoder(x)[-1].mean((2, 3))[..., None]))
        first = composer.contract(composer.AggregateTokens(indices=[0]), features_of(ours)).features
        assert [feature.channels for feature in first] == [6]

    def test_the_widths_of_an_mlp(self, both):
        call = {**CLASSES, "decoder": "MLPDecoder", "decoder_channels": 7, "decoder_out_dim": 5, "necks": TO_MAPS}
        with pytest.warns(TerraTorchWarning) as warned:
            theirs, ours = both(Tokens, **call)
        said = composer.module(composer.MLPDecoder(channels=7, out_dim=5), features_of(ours, "necks[0]"))

        assert lines_of(warned) == ["decoder_channels", "decoder_out_dim"]
        assert shapes(theirs.decoder) == [(6, 6), (6,)]
        assert shapes(ours.decoder) == [(6, 6), (6,)]
        assert shapes(said) == [(7, 6), (7,), (5, 7), (5,)]

    def test_a_regression_head_without_batch_norm(self):
        call = {"backbone": Pyramid(), "head_batch_norm": False, "head_channel_list": [5], **NUMBERS}
        without = composer.module(
            composer.RegressionHead(batch_norm=False, channel_list=[5]), [composer.Feature(channels=12, stride=16)]
        )

        assert norms_in(theirs_of(**call).head) == 1
        assert told(**call) == ["head_batch_norm"]
        assert norms_in(without) == 0

    def test_what_smp_swallows(self):
        call = {**CLASSES, "backbone": Pyramid(), "decoder": "smp_FPN"}

        assert theirs_of(**call, decoder_pyramid_channels=32).decoder._smp_decoder.p5.out_channels == 256
        assert told(**call, decoder_pyramid_channels=32) == ["decoder_pyramid_channels"]
        assert theirs_of(**call, decoder_decoder_pyramid_channels=32).decoder._smp_decoder.p5.out_channels == 32
        assert ours_of(**call, decoder_decoder_pyramid_channels=32).decoder._smp_decoder.p5.out_channels == 32

    def test_smp_looks_at_the_finest_map(self, both):
        call = {**CLASSES, "decoder": "smp_Unet", "decoder_decoder_channels": [8, 8, 8]}
        with pytest.warns(TerraTorchWarning) as warned:
            theirs, ours = both(Pyramid, **call)
        maps = theirs.encoder(image(64, 64))
        blank = [torch.zeros_like(maps[0]), *maps[1:]]
        looking = composer.module(composer.Smp("Unet", decoder_channels=[8, 8, 8, 8]), features_of(ours)).eval()

        assert lines_of(warned) == ["decoder"]
        assert theirs.decoder(maps).equal(theirs.decoder(blank))
        assert ours.decoder(maps)[0].equal(ours.decoder(blank)[0])
        assert not looking(maps)[0].equal(looking(blank)[0])

    def test_arguments_beside_a_decoder_that_is_a_module(self):
        decoder = Predicting()
        decoder.includes_head = False
        call = {"task": "segmentation", "num_classes": 2, "backbone": Pyramid(), "decoder": decoder, "decoder_width": 8}

        assert theirs_of(**call).decoder is decoder
        assert told(**call) == ["decoder_width"]

    def test_frames_without_use_temporal(self):
        call = {**CLASSES, "backbone": Pyramid(), "backbone_temporal_pooling": "concat"}

        assert type(theirs_of(**call).encoder) is Pyramid
        assert told(**call) == ["backbone_temporal_pooling"]

    def test_temporal_concat(self, both):
        call = {**CLASSES, **FRAMES, "backbone_temporal_concat": True}
        with pytest.warns(TerraTorchWarning) as warned:
            theirs, ours = both(Pyramid, **call)
        x = image(64, 64, frames=3)

        assert lines_of(warned) == ["backbone_temporal_concat"]
        torch.testing.assert_close(run(ours, x), run(theirs, x))
        assert ours.graph.nodes[1].part == composer.TemporalPooling(pooling="mean")


# --- predictions and their heads


class TestHeads:
    def test_a_class_channel_is_never_dropped(self, both):
        theirs, ours = both(Pyramid, **CLASSES | {"num_classes": 1})
        x = image(64, 64)

        assert run(theirs, x).shape == (2, 64, 64)
        assert run(ours, x).shape == (2, 1, 64, 64)
        torch.testing.assert_close(run(ours, x)[:, 0], run(theirs, x))

    def test_a_name_of_an_activation_imports_and_calls_nothing(self, tmp_path, monkeypatch):
        (tmp_path / "surprise.py").write_text("calls = []\ndef made():\n    calls.append(1)\n", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        call = {"backbone": Pyramid(), "head_final_act": "surprise.made", **NUMBERS}

        assert refused(**call) == ["value head_final_act"]
        assert "surprise" not in sys.modules
        theirs_of(**call)
        assert sys.modules.pop("surprise").calls == [1]

    def test_a_linear_decoder_is_its_own_head(self):
        call = {**CLASSES, "backbone": Pyramid(), "decoder": "LinearDecoder", "decoder_upsampling_size": 4}
        ours = ours_of(**call)

        with pytest.raises(TypeError, match="missing 1 required positional argument: 'num_classes'"):
            theirs_of(**call)
        assert shapes(ours.decoder) == [(12, 2, 4, 4), (2,)]
        assert not hasattr(ours, "head")
        assert run(ours, image(64, 64)).shape == (2, 2, 64, 64)

    def test_told_its_classes_twice_it_has_a_second_head_as_there(self, both):
        call = {
            **CLASSES,
            "decoder": "LinearDecoder",
            "decoder_upsampling_size": 4,
            "decoder_num_classes": 3,
        }
        with pytest.warns(TerraTorchWarning) as warned:
            theirs, ours = both(Pyramid, **call)
        x = image(64, 64)

        assert lines_of(warned) == ["decoder"]
        assert (shapes(theirs.decoder)[0], shapes(theirs.head)[0]) == ((12, 3, 4, 4), (2, 3, 1, 1))
        torch.testing.assert_close(run(ours, x), run(theirs, x))

    def test_a_decoder_of_ones_own_may_include_a_head(self):
        aux = [AuxiliaryHead("early", Predicting(), None)]
        theirs = theirs_of(**{**NUMBERS, "backbone": Pyramid(), "decoder": Predicting(), "aux_decoders": aux})
        with pytest.warns(TerraTorchWarning) as warned:
            ours = ours_of(**{**NUMBERS, "backbone": Pyramid(), "decoder": Predicting(), "aux_decoders": aux})

        assert shapes(theirs.head) == [(1, 3, 1, 1), (1,)]
        assert run(theirs, image(64, 64)).shape == (2, 64, 64)
        assert shapes(theirs.aux_heads["early"][1]) == [(1, 3, 1, 1), (1,)]
        assert lines_of(warned) == ["decoder", "aux_decoders[0].decoder"]
        assert run(ours, image(64, 64)).shape == (2, 3, 64, 64)
        assert list(ours.aux["early"]) == ["decoder"]

    def test_deeplabs_head_for_classes_can_be_named(self, both):
        call = {**CLASSES, "backbone": Pyramid(), "decoder": "ASPPSegmentationHead", "decoder_channels": 8}

        with pytest.raises(AttributeError, match="'ASPPSegmentationHead' object has no attribute 'out_channels'"):
            theirs_of(**call, decoder_in_channels=12)
        assert run(ours_of(**call), image(64, 64)).shape == (2, 2, 64, 64)

    def test_deeplabs_head_for_numbers_has_a_second_one_behind_it_as_there(self, both):
        call = {**NUMBERS, "decoder": "ASPPRegressionHead", "decoder_channels": 8, "decoder_in_channels": 12}
        with pytest.warns(TerraTorchWarning) as warned:
            theirs, ours = both(Pyramid, **call)
        x = image(64, 64)

        assert lines_of(warned) == ["decoder"]
        assert shapes(theirs.head) == [(1, 1, 1, 1), (1,)]
        torch.testing.assert_close(run(ours, x), run(theirs, x))


# --- image sizes


VIT_OF_7_BY_7 = {**{f"backbone_{name}": value for name, value in VIT.items()}, "backbone_img_size": 56}
VIT_OF_8_BY_8 = {f"backbone_{name}": value for name, value in VIT.items()}
SWIN_OF_64 = {f"backbone_{name}": value for name, value in (SWIN | {"in_chans": CHANNELS}).items()}
SWIN_TO_MAPS = [{"name": "PermuteDims", "new_order": [0, 3, 1, 2]}]


class TestSizes:
    def test_the_native_size_of_an_odd_number_of_patches(self, both):
        theirs, ours = both("timm_vit_tiny_patch16_224", **VIT_OF_7_BY_7, **CLASSES)
        x = image(56, 56)

        with pytest.raises(AssertionError, match=r"Input height \(64\) doesn't match model \(56\)"):
            run(theirs, x)
        theirs.patch_size = None  # and so it does not pad
        torch.testing.assert_close(run(ours, x), run(theirs, x))

    def test_a_vit_takes_other_sizes_than_its_own(self, both):
        theirs, ours = both("timm_vit_tiny_patch16_224", **VIT_OF_8_BY_8, **CLASSES)
        flexible = theirs_of(
            backbone="timm_vit_tiny_patch16_224", backbone_dynamic_img_size=True, **VIT_OF_8_BY_8, **CLASSES
        )
        flexible.load_state_dict(theirs.state_dict())
        x = image(40, 100)

        with pytest.raises(AssertionError, match=r"Input height \(48\) doesn't match model \(64\)"):
            run(theirs, x)
        torch.testing.assert_close(run(ours, x), run(flexible, x))

    def test_a_swin_takes_other_sizes_than_its_own(self, both):
        name = "timm_swin_tiny_patch4_window7_224"
        theirs, ours = both(name, necks=SWIN_TO_MAPS, **SWIN_OF_64, **CLASSES)
        flexible = theirs_of(backbone=name, necks=SWIN_TO_MAPS, backbone_strict_img_size=False, **SWIN_OF_64, **CLASSES)
        flexible.load_state_dict(theirs.state_dict())
        x = image(50, 96)

        with pytest.raises(AssertionError, match=r"Input height \(56\) doesn't match model \(64\)"):
            run(theirs, x)
        torch.testing.assert_close(run(ours, x), run(flexible, x))

    def test_an_image_may_be_smaller_than_what_is_padded(self, both):
        theirs, ours = both(Tokens, necks=TO_MAPS, **CLASSES)

        with pytest.raises(RuntimeError, match="Padding size should be less than the corresponding input dimension"):
            run(theirs, image(5, 5))
        assert run(ours, image(5, 5)).shape == (2, 2, 5, 5)

    def test_cells_of_the_padding_are_no_output(self, both):
        theirs, ours = both(Tokens, necks=TO_MAPS, rescale=False, **CLASSES)
        x = image(40, 60)
        # Padded behind the image alone, so that its cells begin where it does.
        padded = F.pad(x, (0, 4, 0, 8), mode="reflect")

        assert run(theirs, x).shape == (2, 2, 6, 8)
        torch.testing.assert_close(run(ours, x), run(theirs, padded)[..., :5, :8])

    @pytest.mark.parametrize(
        ("backbone", "necks", "given"),
        [pytest.param(Tokens, TO_MAPS, (60, 60), id="padding"), pytest.param(Pyramid, None, (50, 50), id="smaller")],
    )
    def test_an_output_larger_than_the_image_is_refused(self, both, backbone, necks, given):
        theirs, ours = both(backbone, necks=necks, image_size_out=(60, 60), **CLASSES)
        x = image(50, 50)

        assert run(theirs, x).shape == (2, 2, *given)
        with pytest.raises(ValueError, match=r"^an image of 50 × 50 pixels is smaller than the crop of its output, 60"):
            run(ours, x)

    def test_an_output_of_cells_is_not_cropped_to_pixels(self, both):
        call = {"necks": TO_MAPS, "rescale": False, "image_size_out": (3, 3), **CLASSES}

        assert run(theirs_of(backbone=Tokens(), **call), image(64, 64)).shape == (2, 2, 3, 3)
        assert refused(backbone=Tokens(), **call) == ["value image_size_out"]

    def test_image_size_is_not_handed_to_the_backbone(self, both):
        theirs, ours = both("timm_resnet18", backbone_in_chans=CHANNELS, **CLASSES)
        x = image(64, 64)

        with pytest.raises(TypeError, match="got an unexpected keyword argument 'image_size'"):
            run(theirs, x, image_size=(40, 48))
        theirs.image_size_out = (40, 48)
        torch.testing.assert_close(run(ours, x, image_size=(40, 48)), run(theirs, x))

    def test_a_part_that_enlarges_whole_cells_is_given_whole_ones(self, both):
        # Two cells of 32 pixels, enlarged to 64 × 64, which TerraTorch shrinks to the image's 50 × 53.
        call = {**CLASSES, "backbone_in_chans": CHANNELS, "decoder": "FCNDecoder", "decoder_channels": 4}
        theirs, ours = both("timm_resnet18", decoder_num_convs=5, **call)
        x = image(50, 53)
        padded = F.pad(x, (5, 6, 7, 7), mode="reflect")

        assert (run(ours, x) - run(theirs, x)).abs().max() > 0.01
        torch.testing.assert_close(run(ours, x), run(theirs, padded)[..., 7:57, 5:58])


# --- frames


WHOLE = {
    "FCNDecoder": {"decoder": "FCNDecoder", "decoder_channels": 4},
    "LinearDecoder": {"decoder": "LinearDecoder", "decoder_upsampling_size": 32, "decoder_num_classes": 2},
    "scale_modules": {
        "necks": [{"name": "SelectIndices", "indices": [1, 2, 3, 4]}],
        "decoder": "UperNetDecoder",
        "decoder_channels": 8,
        "decoder_scale_modules": True,
    },
    "InterpolateToPyramidal": {
        "necks": [{"name": "SelectIndices", "indices": [1, 2, 3, 4]}, {"name": "InterpolateToPyramidal"}],
        **LAST,
    },
    "LearnedInterpolateToPyramidal": {
        "necks": [{"name": "SelectIndices", "indices": [1, 2, 3, 4]}, {"name": "LearnedInterpolateToPyramidal"}],
        "decoder": "UperNetDecoder",
        "decoder_channels": 8,
    },
    "smp_Segformer": {"decoder": "smp_Segformer"},
    "learned_upscale_layers": {"task": "regression", "num_classes": None, "head_learned_upscale_layers": 1, **LAST},
}
"""Parts of calls to which maps of whole cells go, which odd sizes do not give."""


class TestWholeCells:
    @pytest.mark.parametrize("call", WHOLE.values(), ids=WHOLE)
    def test_images_of_odd_sizes_are_padded_and_told_of(self, both, call):
        call = {**CLASSES, "backbone": "timm_resnet18", **call}
        with pytest.warns(TerraTorchWarning, match=PADDED):
            theirs, ours = both(**call)
        even, odd = image(64, 64, channels=3), image(70, 55, channels=3)

        torch.testing.assert_close(run(ours, even), run(theirs, even))
        assert run(ours, odd).shape == run(theirs, odd).shape
        assert not torch.allclose(run(ours, odd), run(theirs, odd), rtol=1e-3, atol=1e-4)


class TestFrames:
    @pytest.mark.parametrize(("order", "same"), [([0, 2, 3, 1], False), ([0, 1, 3, 2], True)], ids=["rows", "channels"])
    def test_frames_lie_side_by_side_along_the_channels(self, both, order, same):
        permuted = {"backbone_temporal_pooling": "concat", "backbone_temporal_features_permute_op": order}
        call = {**NUMBERS, **FRAMES, **permuted}
        x = image(64, 64, frames=3)
        if same:
            with pytest.warns(TerraTorchWarning, match="temporal_features_permute_op"):
                theirs, ours = both(Pyramid, **call)
            torch.testing.assert_close(run(ours, x), run(theirs, x))
            return
        assert theirs_of(backbone=Pyramid(), **call).encoder(x)[-1].shape == (2, 12, 12, 4)
        assert told(backbone=Pyramid(), **call) == ["backbone_temporal_features_permute_op"]
        assert features_of(ours_of(backbone=Pyramid(), **call), "necks[0]")[-1].channels == 36

    def test_axes_of_frames_that_are_pooled_say_nothing(self, both):
        call = {**NUMBERS, **FRAMES, "backbone_temporal_features_permute_op": [0, 3, 1, 2]}
        with pytest.warns(TerraTorchWarning, match="temporal_features_permute_op: frames are"):
            theirs, ours = both(Pyramid, **call)
        x = image(64, 64, frames=3)

        torch.testing.assert_close(run(ours, x), run(theirs, x))

    def test_subsets_are_put_one_after_the_other(self, both):
        call = {"backbone_temporal_pooling": "concat", "backbone_temporal_subset_lengths": [2, 1], **FRAMES, **CLASSES}
        theirs = theirs_of(backbone=Pyramid(), **call)
        ours = ours_of(backbone=Pyramid(), **call)

        # It counts the channels of three frames, and gives those of two subsets.
        assert theirs.encoder.out_channels[-1] == 36
        with pytest.raises(RuntimeError, match="to have 36 channels, but got 24 channels instead"):
            run(theirs, image(64, 64, frames=3))
        assert [feature.channels for feature in features_of(ours, "necks[0]")] == [12, 16, 20, 24]
        assert run(ours, image(64, 64, frames=3)).shape == (2, 2, 64, 64)

    def test_a_map_one_cell_wide_is_a_map(self, both):
        theirs, ours = both(Pyramid, task="classification", num_classes=2, **FRAMES, **LAST)
        # As many rows as channels, so that nothing fails where the two are taken for each other.
        x = image(12 * 16, 16, frames=3)
        with torch.no_grad():
            stills = [theirs.encoder.encoder(x[:, :, i])[-1] for i in range(3)]
            right = theirs.head(torch.stack(stills).mean(0))

        assert stills[0].shape == (2, 12, 12, 1)
        torch.testing.assert_close(run(ours, x), right)
        assert (run(theirs, x) - right).abs().max() > 0.001
        with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
            run(theirs, image(64, 16, frames=3))

    def test_the_frames_are_part_of_the_model(self, both):
        theirs, ours = both(Pyramid, **FRAMES, **CLASSES)

        assert run(theirs, image(64, 64, frames=2)).shape == (2, 2, 64, 64)
        with pytest.raises(
            ValueError, match=r"^image must be of shape \(b, 4, 3, h, w\) \(got \(2, 4, 2, 64, 64\)\); "
        ):
            run(ours, image(64, 64, frames=2))


# --- what TerraTorch counts, and cannot run


class TestPromises:
    def test_an_embedding_needs_no_neck(self, both):
        theirs, ours = both(Pyramid, task="embedding_generation")

        with pytest.raises(TypeError, match="missing 1 required positional argument: 'image_size'"):
            theirs(image(64, 64))
        assert [x.shape[1] for x in ours(image(64, 64))] == [6, 8, 10, 12]

    def test_only_what_is_chosen_is_aggregated(self):
        # TerraTorch counts the channels of all levels, and the decoder takes the last.
        necks = [{"name": "AggregateTokens", "indices": [0]}]
        call = {"task": "classification", "num_classes": 2, "necks": necks, **LAST}
        theirs, ours = theirs_of(backbone=Pyramid(), **call), ours_of(backbone=Pyramid(), **call)

        with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
            run(theirs, image(64, 64))
        assert shapes(ours.head) == [(2, 6), (2,)]
        assert run(ours, image(64, 64)).shape == (2, 2)

    def test_tokens_of_several_frames_have_the_channels_of_one(self):
        # Prithvi's out_channels count what ReshapeTokensToImage makes of them.
        necks = [{"name": "AggregateTokens", "pooling": "cls"}]
        call = {"task": "classification", "num_classes": 2, "necks": necks, **LAST}
        theirs, ours = theirs_of(backbone=prithvi(), **call), ours_of(backbone=prithvi(), **call)

        with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
            run(theirs, image(64, 64, frames=2))
        assert shapes(ours.head) == [(2, 32), (2,)]

    def test_a_feature_pyramid_is_a_list(self, both):
        call = {"necks": [{"name": "FeaturePyramidNetworkNeck"}], **CLASSES}
        with pytest.warns(TerraTorchWarning) as warned:
            theirs, ours = both(Pyramid, **call)

        assert lines_of(warned) == ["necks[0]"]
        with pytest.raises(AttributeError, match="'str' object has no attribute 'clone'"):
            run(theirs, image(64, 64))
        assert run(ours, image(64, 64)).shape == (2, 2, 64, 64)

    def test_out_channels_may_be_a_tuple(self):
        backbone = Pyramid()
        backbone.out_channels = tuple(backbone.out_channels)

        with pytest.raises(AttributeError, match="'tuple' object has no attribute 'copy'"):
            theirs_of(backbone=backbone, **CLASSES)
        assert run(ours_of(backbone=backbone, **CLASSES), image(64, 64)).shape == (2, 2, 64, 64)

    def test_auxiliary_heads_may_be_dicts(self):
        call = {"backbone": Pyramid(), "aux_decoders": [{"name": "early", "decoder": "IdentityDecoder"}], **CLASSES}

        with pytest.raises(AttributeError, match="'dict' object has no attribute 'decoder_args'"):
            theirs_of(**call)
        assert list(ours_of(**call).aux) == ["early"]

    def test_an_auxiliary_head_may_have_any_name_without_a_dot(self, both):
        aux = [AuxiliaryHead("fcn-aux_1", "IdentityDecoder", {})]
        theirs, ours = both(Pyramid, aux_decoders=aux, **CLASSES)
        x = image(64, 64)

        assert list(theirs(x).auxiliary_heads) == list(ours(x).auxiliary_heads) == ["fcn-aux_1"]
        torch.testing.assert_close(*(model(x).auxiliary_heads["fcn-aux_1"] for model in (ours, theirs)))

    def test_axes_may_be_counted_from_the_end(self, both):
        necks = [
            {"name": "PermuteDims", "new_order": [0, -1, 1, 2]},
            {"name": "PermuteDims", "new_order": [0, 2, -1, 1]},
        ]
        theirs, ours = both(Pyramid, necks=necks, **CLASSES)

        torch.testing.assert_close(run(ours, image(64, 64)), run(theirs, image(64, 64)))

    def test_a_backbone_may_give_a_tuple(self, both):
        class Frozen(Pyramid):
            def forward(self, x_BCHW):
                return tuple(super().forward(x_BCHW))

        theirs, ours = both(Frozen, necks=[{"name": "AddBottleneckLayer"}], **CLASSES)

        with pytest.raises(AttributeError, match="'tuple' object has no attribute 'append'"):
            run(theirs, image(64, 64))
        assert run(ours, image(64, 64)).shape == (2, 2, 64, 64)

    def test_a_name_that_hides_timms_network(self):
        call = {"backbone": "convnext_pico", **CLASSES}

        with pytest.raises(AttributeError, match="backbone must have out_channels attribute"):
            theirs_of(**call)
        assert ours_of(**call | {"backbone": "timm_convnext_pico"}).graph.nodes[0].part == composer.Timm(
            "convnext_pico", features_only=True, any_size=True
        )


# --- mistakes in a call


class TestMistakes:
    @pytest.mark.parametrize(
        ("wrong", "raised", "said"),
        [
            pytest.param(
                {"decoder": "FCNdecoder"},
                (KeyError, "Model FCNdecoder not found in any registry"),
                ["part decoder"],
                id="decoder",
            ),
            pytest.param(
                {"decoder": "smp_encoders"},
                (TypeError, "'module' object is not callable"),
                ["part decoder"],
                id="anything-of-smp",
            ),
            pytest.param(
                {"necks": [{"name": "Selectindices"}]},
                (Exception, "The model Selectindices could not be instantiated from any source"),
                ["part necks[0].name"],
                id="neck",
            ),
            pytest.param(
                {"backbone": "resnet19"},
                (Exception, "The model resnet19 could not be instantiated from any source"),
                ["part backbone"],
                id="backbone",
            ),
        ],
    )
    def test_is_said_where_it_is(self, wrong, raised, said):
        call = {"backbone": "timm_resnet18", **CLASSES, **wrong}

        with pytest.raises(raised[0], match=raised[1]):
            theirs_of(**call)
        assert refused(**call) == said

    def test_all_of_them_are_said_at_once(self):
        call = {
            "task": "regression",
            "num_classes": 2,
            "backbone": "resnet19",
            "decoder": "FCNDecoder",
            "decoder_chanels": 8,
            "rescael": False,
        }

        with pytest.raises(Exception, match="The model resnet19 could not be instantiated from any source"):
            theirs_of(**call)
        assert refused(**call) == [
            "part backbone",
            "unused decoder_chanels",
            "unused num_classes",
            "unused rescael",
        ]

    def test_two_auxiliary_heads_of_one_name(self):
        aux = [AuxiliaryHead("early", "IdentityDecoder", {"decoder_out_index": index}) for index in (0, 1)]
        call = {"backbone": Pyramid(), "aux_decoders": aux, **CLASSES}

        assert list(theirs_of(**call).aux_heads) == ["early"]
        assert refused(**call) == ["node aux_decoders[1].name"]

    def test_an_embedding_uses_no_other_arguments(self):
        call = {"task": "embedding_generation", "backbone": Pyramid(), "decoder_channels": 8}

        theirs_of(**call, nonsense=1)
        assert refused(**call, nonsense=1) == ["unused nonsense"]
        assert told(**call) == ["decoder_channels"]

    def test_the_callers_arguments_stay_as_they_are(self):
        call = {"backbone": Pyramid(), **CLASSES}
        theirs, ours = {"dropout": 0.1}, {"dropout": 0.1}
        theirs_of(**call, head_kwargs=theirs)
        ours_of(**call, head_kwargs=ours)

        assert theirs == {"dropout": 0.1, "num_classes": 2}
        assert ours == {"dropout": 0.1}


# --- what becomes of a model


class TestModels:
    def test_statistics_stand_still_in_a_frozen_encoder(self, both):
        models = both(Pyramid, **CLASSES)
        before = [statistics(model.encoder) for model in models]
        for model in models:
            model.freeze_encoder()
            model.train()
            run(model, image(64, 64))

        theirs, ours = (statistics(model.encoder) for model in models)
        assert [a.equal(b) for a, b in zip(before[0], theirs, strict=True)] == [False] * 8
        assert [a.equal(b) for a, b in zip(before[1], ours, strict=True)] == [True] * 8

    def test_a_layer_that_is_replaced_is_used(self, both):
        theirs, ours = both("timm_resnet18", **CLASSES)
        x = image(64, 64, channels=3)
        before = run(theirs, x), run(ours, x)
        stem = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        theirs.encoder.conv1 = ours.encoder.conv1 = stem

        assert run(theirs, x).equal(before[0])  # the network inside TerraTorch's wrapper has the old one still
        assert (run(ours, x) - before[1]).abs().max() > 0.001

    def test_features_are_not_changed_behind_a_backbones_back(self, both):
        class Keeping(Pyramid):
            def forward(self, x_BCHW):
                self.kept = super().forward(x_BCHW)
                return self.kept

        theirs, ours = both(Keeping, necks=[{"name": "AddBottleneckLayer"}], **CLASSES)
        x = image(64, 64)

        torch.testing.assert_close(run(ours, x), run(theirs, x))
        assert (len(theirs.encoder.kept), len(ours.encoder.kept)) == (5, 4)

    def test_weights_of_another_shape_are_never_left_out(self, both):
        models = both(Pyramid, **CLASSES)
        theirs, ours = ({**model.state_dict(), "head.head.2.weight": torch.zeros(5, 12, 1, 1)} for model in models)

        models[0].load_state_dict(theirs, strict=False)
        assert "head.head.2.weight" not in theirs
        with pytest.raises(RuntimeError, match=r"size mismatch for head\.head\.2\.weight"):
            models[1].load_state_dict(ours, strict=False)

    def test_a_model_can_be_exported(self, both):
        theirs, ours = both("timm_resnet18", **CLASSES)
        x = image(64, 64, channels=3)

        with pytest.raises(RuntimeError, match="ModelOutput"):
            torch.export.export(theirs, (x,))
        torch.testing.assert_close(run(torch.export.export(ours, (x,)).module(), x), run(ours, x))

    def test_a_model_can_be_pickled(self, both):
        theirs, ours = both("timm_resnet18", **CLASSES)
        x = image(64, 64, channels=3)

        with pytest.raises(AttributeError, match="Can't pickle local object"):
            pickle.dumps(theirs)
        assert run(pickle.loads(pickle.dumps(ours)), x).equal(run(ours, x))


# --- where TerraTorch is right too, and composer does otherwise by choice


class TestByChoice:
    @pytest.mark.parametrize(
        ("indices", "decoder", "said"),
        [
            pytest.param(
                [3, 2, 1, 0],
                {"decoder": "UperNetDecoder", "decoder_channels": 8},
                ["index decoder"],
                id="upside-down",
            ),
            pytest.param(
                [3, 3, 3],
                {"decoder": "UNetDecoder", "decoder_channels": [8, 8, 8]},
                ["stride decoder"],
                id="equal",
            ),
            pytest.param(
                [0, 2],
                {"decoder": "UNetDecoder", "decoder_channels": [8, 8]},
                ["stride decoder"],
                id="not-doubling",
            ),
        ],
    )
    def test_a_pyramid_is_one(self, indices, decoder, said):
        call = {**CLASSES, "backbone": Pyramid(), "necks": [{"name": "SelectIndices", "indices": indices}], **decoder}

        assert run(theirs_of(**call), image(64, 64)).shape == (2, 2, 64, 64)
        assert refused(**call) == said

    def test_seeds_are_composers_own(self):
        torch.manual_seed(0)
        theirs = theirs_of(backbone=Pyramid(), **CLASSES)
        backbone = Pyramid()
        torch.manual_seed(0)
        ours = ours_of(backbone=backbone, **CLASSES)
        state = torch.get_rng_state()
        torch.manual_seed(0)
        torch.randint(2**31, ())

        assert state.equal(torch.get_rng_state())
        assert not ours.head.head[2].weight.equal(theirs.head.head[2].weight)

    def test_images_do_not_go_round_in_circles(self):
        call = {"necks": TO_MAPS, "backbone_padding": "circular", **CLASSES}

        assert run(theirs_of(backbone=Tokens(), **call), image(50, 50)).shape == (2, 2, 50, 50)
        assert refused(backbone=Tokens(), **call) == ["value backbone_padding"]
