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
from composer.terratorch import EncoderDecoderFactory, TerraTorchWarning
from tests.factory_calls import NEEDY, NOTED, UPERNET, call_of
from tests.peers.combinations import CHANNELS, SWIN, VIT, Pyramid, prithvi

TO_MAPS = [{"name": "ReshapeTokensToImage"}]
FRAMES = {"backbone_use_temporal": True, "backbone_temporal_n_timestamps": 3}
LAST = {"decoder": "IdentityDecoder"}
CLASSES = {"task": "segmentation", "num_classes": 2, **LAST}
OF_IMAGES = {"task": "classification", "num_classes": 2, **LAST}
NUMBERS = {"task": "regression", **LAST}
EMBEDDING = {"task": "embedding_generation"}


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


class TupleChannels(Pyramid):
    def __init__(self):
        super().__init__()
        self.out_channels = tuple(self.out_channels)


class TupleFeatures(Pyramid):
    def forward(self, x_BCHW):
        return tuple(super().forward(x_BCHW))


def build_with(factory, backbone, **call):
    """The model of a factory. A backbone that is a class or a function makes a new one."""
    made = backbone if isinstance(backbone, str | nn.Module) else backbone()
    return factory().build_model(backbone=made, **call).eval()


def build_theirs(backbone, **call):
    return build_with(Theirs, backbone, **call)


def build_ours(backbone, **call):
    return build_with(EncoderDecoderFactory, backbone, **call)


@pytest.fixture
def both(tmp_path):
    """Makes TerraTorch's model for a call, and ours with its weights."""

    def make(backbone, **call):
        models = [build(backbone, **call) for build in (build_theirs, build_ours)]
        torch.save(models[0].state_dict(), tmp_path / "weights.pt")
        composer.load_weights(models[1], tmp_path / "weights.pt")
        return models

    return make


def image(*size, channels=CHANNELS, frames=None):
    shape = (2, channels, *(() if frames is None else (frames,)), *size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def run(model, x, **extras):
    out = model(x, **extras)
    return out.output if hasattr(out, "output") else out


def told(**call):
    """The arguments that composer warns of."""
    with pytest.warns(TerraTorchWarning) as warned:
        build_ours(**call)
    return lines_of(warned)


def lines_of(warned):
    """The arguments of the warnings, but for that of images which are padded."""
    said = [str(warning.message) for warning in warned if warning.category is TerraTorchWarning]
    return [line.split(":")[0] for line in said if PADDED not in line]


PADDED = "TerraTorch feeds them as they are, and gives other numbers or fails."


def refused(**call):
    """The codes and arguments of what composer says that it cannot build, or will not."""
    with pytest.raises(composer.SpecError) as raised:
        build_ours(**call)
    return [f"{problem.code} {problem.place.path}" for problem in raised.value.problems]


def features_of(model, node="encoder"):
    return model.typed.features[node]


def shapes(module):
    return [tuple(x.shape) for x in module.parameters()]


# --- tokens and their grid


class TestGrid:
    def test_tokens_of_a_wide_image_are_laid_out_on_its_own_grid(self, both):
        # 4 × 16 patches are 64, which TerraTorch takes for 8 × 8.
        theirs, ours = both(Tokens, necks=TO_MAPS, rescale=False, **NUMBERS)
        x = image(32, 128)
        right = theirs.head(theirs.encoder.embed(x))[:, 0]

        torch.testing.assert_close(run(ours, x), right)
        assert (run(theirs, x).shape, right.shape) == ((2, 8, 8), (2, 4, 16))

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
        theirs, ours = both(Tokens, necks=TO_MAPS, **EMBEDDING)

        assert [x.shape for x in theirs(image(32, 128))] == [(2, 6, 8, 8)]
        assert [x.shape for x in ours(image(32, 128))] == [(2, 6, 4, 16)]


# --- arguments without effect: the model is TerraTorch's, and a warning names what would have an effect


PERMUTED = "backbone_temporal_features_permute_op"
FAILING = ("no level", "an ordered dict", "widths", "an embedding", "an embedding of TerraTorch's own task")
CROPPED = "a crop of cells"
OWN = ("a backbone of one's own", "a decoder of one's own", "arguments of a decoder of one's own")
"""Calls that fail there, one that is cropped there alone, and calls with modules, whose outputs are compared below."""


@pytest.mark.filterwarnings("ignore::composer.terratorch.TerraTorchWarning")
@pytest.mark.parametrize("name", [name for name in NOTED if name not in (*FAILING, CROPPED, *OWN)])
def test_what_has_no_effect_has_none_and_the_numbers_are_the_same(both, name):
    call = call_of(**NOTED[name][0])
    if "aux_decoders" in call:
        call["aux_decoders"] = [
            AuxiliaryHead(aux.name, aux.decoder, dict(aux.decoder_args)) for aux in call["aux_decoders"]
        ]
    theirs, ours = both(call.pop("backbone"), **call)
    x = image(64, 64, channels=ours.graph.inputs[0][1].channels, frames=ours.graph.inputs[0][1].frames)

    torch.testing.assert_close(run(ours, x), run(theirs, x))
    assert ours(x).auxiliary_heads.keys() == (theirs(x).auxiliary_heads or {}).keys()


@pytest.mark.filterwarnings("ignore::composer.terratorch.TerraTorchWarning")
def test_a_map_that_is_not_rescaled_is_cropped_there_and_whole_here(both):
    call = call_of(**NOTED[CROPPED][0])
    theirs, ours = both(call.pop("backbone"), **call)
    x = image(64, 64, channels=ours.graph.inputs[0][1].channels)

    torch.testing.assert_close(run(ours, x)[..., 12:20, 12:20], run(theirs, x))


def test_smp_reads_other_names_and_may_look_at_the_finest_map():
    call = {**CLASSES, "decoder": "smp_Unet", "decoder_decoder_channels": [8, 8, 8]}
    theirs, ours = build_theirs(Pyramid, **call), build_ours(Pyramid, **call)
    maps = theirs.encoder(image(64, 64))
    blank = [torch.zeros_like(maps[0]), *maps[1:]]
    looking = composer.module(composer.Smp("Unet", decoder_channels=[8, 8, 8, 8]), features_of(ours)).eval()

    assert theirs.decoder(maps).equal(theirs.decoder(blank))
    assert not looking(maps)[0].equal(looking(blank)[0])


def test_a_decoder_that_is_a_module_takes_no_arguments():
    decoder = Predicting()
    decoder.includes_head = False
    call = {**CLASSES, "backbone": Pyramid, "decoder": decoder, "decoder_width": 8}

    assert build_theirs(**call).decoder is decoder
    assert told(**call) == ["decoder_width"]


# --- predictions and their heads


class TestHeads:
    def test_a_class_channel_is_never_dropped(self, both):
        theirs, ours = both(Pyramid, **CLASSES | {"num_classes": 1})
        x = image(64, 64)

        assert run(theirs, x).shape == (2, 64, 64)
        torch.testing.assert_close(run(ours, x), run(theirs, x)[:, None])

    def test_a_name_of_an_activation_imports_and_calls_nothing(self, tmp_path, monkeypatch):
        (tmp_path / "surprise.py").write_text("calls = []\ndef made():\n    calls.append(1)\n", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        call = {"backbone": Pyramid, "head_final_act": "surprise.made", **NUMBERS}

        assert refused(**call) == ["value head_final_act"]
        assert "surprise" not in sys.modules
        build_theirs(**call)
        assert sys.modules.pop("surprise").calls == [1]

    def test_a_decoder_of_ones_own_may_include_a_head(self):
        call = {**NUMBERS, "decoder": Predicting(), "aux_decoders": [AuxiliaryHead("early", Predicting(), None)]}
        theirs = build_theirs(Pyramid, **call)
        with pytest.warns(TerraTorchWarning) as warned:
            ours = build_ours(Pyramid, **call)

        assert shapes(theirs.head) == shapes(theirs.aux_heads["early"][1]) == [(1, 3, 1, 1), (1,)]
        assert lines_of(warned) == ["decoder", "aux_decoders[0].decoder"]
        assert run(ours, image(64, 64)).shape == (2, 3, 64, 64)
        assert list(ours.aux["early"]) == ["decoder"]


# --- what fails in TerraTorch


def prefixed(arguments, **changes):
    return {f"backbone_{name}": value for name, value in {**arguments, **changes}.items()}


TIMM_VIT, TIMM_SWIN = "timm_vit_tiny_patch16_224", "timm_swin_tiny_patch4_window7_224"
SWIN_TO_MAPS = [{"name": "PermuteDims", "new_order": [0, 3, 1, 2]}]
SUBSETS = {"backbone_temporal_pooling": "concat", "backbone_temporal_subset_lengths": [2, 1]}

BUILDS = {
    "a linear decoder by name": (
        Pyramid,
        {**CLASSES, "decoder": "LinearDecoder", "decoder_upsampling_size": 4},
        (TypeError, "missing 1 required positional argument: 'num_classes'"),
    ),
    "deeplab's head for classes by name": (
        Pyramid,
        {**CLASSES, "decoder": "ASPPSegmentationHead", "decoder_channels": 8, "decoder_in_channels": 12},
        (AttributeError, "'ASPPSegmentationHead' object has no attribute 'out_channels'"),
    ),
    "a tuple of channels": (TupleChannels, CLASSES, (AttributeError, "'tuple' object has no attribute 'copy'")),
    "auxiliary heads as dicts": (
        Pyramid,
        {**CLASSES, "aux_decoders": [{"name": "early", "decoder": "IdentityDecoder"}]},
        (AttributeError, "'dict' object has no attribute 'decoder_args'"),
    ),
}


@pytest.mark.parametrize(("backbone", "call", "error"), BUILDS.values(), ids=BUILDS)
def test_what_cannot_be_built_there_is_built(backbone, call, error):
    with pytest.raises(error[0], match=error[1]):
        build_theirs(backbone, **call)
    assert run(build_ours(backbone, **call), image(64, 64)).shape == (2, 2, 64, 64)


MATRICES = "mat1 and mat2 shapes cannot be multiplied"
RUNS = {
    # TerraTorch counts the channels of all levels, and the decoder takes the last.
    "a chosen level is aggregated": (
        Pyramid,
        {**OF_IMAGES, "necks": [{"name": "AggregateTokens", "indices": [0]}]},
        image(64, 64),
        (RuntimeError, MATRICES),
    ),
    # Prithvi's out_channels count what ReshapeTokensToImage makes of them.
    "tokens of several frames": (
        prithvi,
        {**OF_IMAGES, "necks": [{"name": "AggregateTokens", "pooling": "cls"}]},
        image(64, 64, frames=2),
        (RuntimeError, MATRICES),
    ),
    # It counts the channels of three frames, and gives those of two subsets.
    "subsets of frames": (
        Pyramid,
        {**CLASSES, **FRAMES, **SUBSETS},
        image(64, 64, frames=3),
        (RuntimeError, "to have 36 channels, but got 24 channels instead"),
    ),
    "a feature pyramid": (
        Pyramid,
        {**CLASSES, "necks": [{"name": "FeaturePyramidNetworkNeck"}]},
        image(64, 64),
        (AttributeError, "'str' object has no attribute 'clone'"),
    ),
    "a tuple of features": (
        TupleFeatures,
        {**CLASSES, "necks": [{"name": "AddBottleneckLayer"}]},
        image(64, 64),
        (AttributeError, "'tuple' object has no attribute 'append'"),
    ),
    "an image smaller than what is padded": (
        Tokens,
        {**CLASSES, "necks": TO_MAPS},
        image(5, 5),
        (RuntimeError, "Padding size should be less than the corresponding input dimension"),
    ),
    "an odd number of patches": (
        TIMM_VIT,
        {**CLASSES, **prefixed(VIT, img_size=56)},
        image(56, 56),
        (AssertionError, r"Input height \(64\) doesn't match model \(56\)"),
    ),
}


@pytest.mark.filterwarnings("ignore::composer.terratorch.TerraTorchWarning")
@pytest.mark.parametrize(("backbone", "call", "x", "error"), RUNS.values(), ids=RUNS)
def test_what_cannot_be_run_there_is_run(backbone, call, x, error):
    with pytest.raises(error[0], match=error[1]):
        run(build_theirs(backbone, **call), x)
    size = x.shape[-2:] if call["task"] == "segmentation" else ()
    assert run(build_ours(backbone, **call), x).shape == (2, 2, *size)


def test_an_embedding_needs_no_neck():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'image_size'"):
        build_theirs(Pyramid, **EMBEDDING)(image(64, 64))
    assert [x.shape[1] for x in build_ours(Pyramid, **EMBEDDING)(image(64, 64))] == [6, 8, 10, 12]


def test_a_name_that_hides_timms_network():
    with pytest.raises(AttributeError, match="backbone must have out_channels attribute"):
        build_theirs("convnext_pico", **CLASSES)
    network = build_ours("timm_convnext_pico", **CLASSES).graph.nodes[0].part
    assert network == composer.Timm("convnext_pico", features_only=True, any_size=True)


# --- image sizes


class TestSizes:
    @pytest.mark.parametrize(
        ("name", "call", "flexible", "x"),
        [
            (TIMM_VIT, prefixed(VIT), {"backbone_dynamic_img_size": True}, image(40, 100)),
            (
                TIMM_SWIN,
                {**prefixed(SWIN, in_chans=CHANNELS), "necks": SWIN_TO_MAPS},
                {"backbone_strict_img_size": False},
                image(50, 96),
            ),
        ],
        ids=["vit", "swin"],
    )
    def test_a_transformer_takes_other_sizes_than_its_own(self, both, name, call, flexible, x):
        theirs, ours = both(name, **call, **CLASSES)
        peer = build_theirs(name, **call, **flexible, **CLASSES)
        peer.load_state_dict(theirs.state_dict())

        with pytest.raises(AssertionError, match=r"Input height \(\d+\) doesn't match model \(64\)"):
            run(theirs, x)
        torch.testing.assert_close(run(ours, x), run(peer, x))

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


@pytest.mark.parametrize("changes", [changes for changes, *_ in NEEDY.values()], ids=NEEDY)
def test_images_of_odd_sizes_are_padded_and_told_of(both, changes):
    call = call_of(**changes)
    with pytest.warns(TerraTorchWarning, match=PADDED):
        theirs, ours = both(call.pop("backbone"), **call)
    even, odd = image(64, 64, channels=3), image(70, 55, channels=3)

    torch.testing.assert_close(run(ours, even), run(theirs, even))
    assert run(ours, odd).shape == run(theirs, odd).shape
    assert not torch.allclose(run(ours, odd), run(theirs, odd), rtol=1e-3, atol=1e-4)


# --- frames


class TestFrames:
    def test_frames_lie_side_by_side_along_the_channels(self):
        call = {**NUMBERS, **FRAMES, "backbone_temporal_pooling": "concat", PERMUTED: [0, 2, 3, 1]}

        assert build_theirs(Pyramid, **call).encoder(image(64, 64, frames=3))[-1].shape == (2, 12, 12, 4)
        assert told(backbone=Pyramid, **call) == [PERMUTED]
        assert features_of(build_ours(Pyramid, **call), "necks[0]")[-1].channels == 36

    def test_a_map_one_cell_wide_is_a_map(self, both):
        theirs, ours = both(Pyramid, **OF_IMAGES, **FRAMES)
        # As many rows as channels, so that nothing fails where the two are taken for each other.
        x = image(12 * 16, 16, frames=3)
        with torch.no_grad():
            stills = [theirs.encoder.encoder(x[:, :, i])[-1] for i in range(3)]
            right = theirs.head(torch.stack(stills).mean(0))

        assert stills[0].shape == (2, 12, 12, 1)
        torch.testing.assert_close(run(ours, x), right)
        assert (run(theirs, x) - right).abs().max() > 0.001

    def test_the_frames_are_part_of_the_model(self, both):
        theirs, ours = both(Pyramid, **FRAMES, **CLASSES)
        x = image(64, 64, frames=2)

        assert run(theirs, x).shape == (2, 2, 64, 64)
        with pytest.raises(
            ValueError, match=r"^image must be of shape \(b, 4, 3, h, w\) \(got \(2, 4, 2, 64, 64\)\); "
        ):
            run(ours, x)


# --- mistakes in a call


def reading(indices, **decoder):
    return {**CLASSES, "necks": [{"name": "SelectIndices", "indices": indices}], **decoder}


UNET = {"decoder": "UNetDecoder", "decoder_channels": [8, 8, 8]}
TWICE = [AuxiliaryHead("early", "IdentityDecoder", {"decoder_out_index": index}) for index in (0, 1)]
RUN_THERE = {
    "a pyramid upside down": (Pyramid, reading([3, 2, 1, 0], **UPERNET), ["index decoder"]),
    "a pyramid of equal maps": (Pyramid, reading([3, 3, 3], **UNET), ["stride decoder"]),
    "strides that do not double": (Pyramid, reading([0, 2], **UNET | {"decoder_channels": [8, 8]}), ["stride decoder"]),
    "circular padding": (
        Tokens,
        {"necks": TO_MAPS, "backbone_padding": "circular", **CLASSES},
        ["value backbone_padding"],
    ),
    "two auxiliary heads of one name": (Pyramid, {**CLASSES, "aux_decoders": TWICE}, ["node aux_decoders[1].name"]),
    "an argument of nothing": (Pyramid, {**EMBEDDING, "necks": TO_MAPS, "nonsense": 1}, ["unused nonsense"]),
}
"""Calls whose models run in TerraTorch, or are made at least, and which composer refuses."""


@pytest.mark.parametrize(("backbone", "call", "said"), RUN_THERE.values(), ids=RUN_THERE)
def test_what_is_refused_by_choice(backbone, call, said):
    theirs = build_theirs(backbone, **call)

    assert call["task"] == "embedding_generation" or run(theirs, image(64, 64)).shape[:2] == (2, 2)
    assert refused(backbone=backbone, **call) == said


def test_the_callers_arguments_stay_as_they_are():
    theirs, ours = {"dropout": 0.1}, {"dropout": 0.1}
    build_theirs(Pyramid, **CLASSES, head_kwargs=theirs)
    build_ours(Pyramid, **CLASSES, head_kwargs=ours)

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
        theirs.encoder.conv1 = ours.encoder.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)

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

    def test_a_model_can_be_exported_and_pickled(self, both):
        theirs, ours = both("timm_resnet18", **CLASSES)
        x = image(64, 64, channels=3)

        with pytest.raises(RuntimeError, match="ModelOutput"):
            torch.export.export(theirs, (x,))
        with pytest.raises(AttributeError, match="Can't pickle local object"):
            pickle.dumps(theirs)
        torch.testing.assert_close(run(torch.export.export(ours, (x,)).module(), x), run(ours, x))
        assert run(pickle.loads(pickle.dumps(ours)), x).equal(run(ours, x))

    def test_names_and_axes_are_terratorchs(self, both):
        """An auxiliary head of any name without a dot, and axes counted from the end."""
        necks = [{"name": "PermuteDims", "new_order": order} for order in ([0, -1, 1, 2], [0, 2, -1, 1])]
        theirs, ours = both(
            Pyramid, necks=necks, aux_decoders=[AuxiliaryHead("fcn-aux_1", "IdentityDecoder", {})], **CLASSES
        )
        x = image(64, 64)

        torch.testing.assert_close(run(ours, x), run(theirs, x))
        torch.testing.assert_close(*(model(x).auxiliary_heads["fcn-aux_1"] for model in (ours, theirs)))


def statistics(module):
    return [x.clone() for name, x in module.named_buffers() if "running" in name]
