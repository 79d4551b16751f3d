"""Calls of TerraTorch's factory: what specs they come to, what is wrong with others, and what there is to be noted."""

from __future__ import annotations

import warnings

import torch
from torch import nn

import composer
from composer.encoder_info import describe
from composer.terratorch.branches import AuxiliaryHead
from composer.terratorch.factory import EncoderDecoderFactory, TerraTorchWarning
from composer.terratorch.translation import translate

PLAIN = {"task": "segmentation", "backbone": "timm_resnet18", "decoder": "FCNDecoder", "num_classes": 2}
NUMBERS = {"task": "regression", "num_classes": None}
FRAMES = {"backbone_use_temporal": True, "backbone_temporal_n_timestamps": 3}
RESNET = "encoder: {timm/resnet18: {features_only: true, any_size: true}}\n"
FCN = "decoder: FCNDecoder\n"
TWO = "head: {SegmentationHead: {num_classes: 2}}\n"


def call_of(**changes):
    """The plain call with some arguments changed; those that are None are not given."""
    return {name: value for name, value in {**PLAIN, **changes}.items() if value is not None}


def translated(**changes):
    return translate(call_of(**changes), describe)


def built(**changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TerraTorchWarning)
        return EncoderDecoderFactory().build_model(**call_of(**changes)).eval()


class Maps(nn.Module):
    """A backbone of two maps, with norms and an argument beside the image."""

    def __init__(self):
        super().__init__()
        self.out_channels = [4, 6]
        self.in_chans = 2
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 2, stride=2), nn.BatchNorm2d(4))
        self.stage = nn.Conv2d(4, 6, 2, stride=2)

    def forward(self, x_BCHW, shift=0):
        first = self.stem(x_BCHW + shift)
        return [first, self.stage(first)]


class Tokens(nn.Module):
    """A backbone of tokens of one level, with one token more in front, and a hook that lays them out."""

    patch_size = 4
    in_chans = 2

    def __init__(self):
        super().__init__()
        self.out_channels = [6]
        self.embed = nn.Conv2d(2, 6, 4, stride=4)

    def forward(self, x_BCHW):
        grid = self.embed(x_BCHW).flatten(2).mT
        return [torch.cat([grid[:, :1], grid], dim=1)]

    def prepare_features_for_image_model(self, features):
        side = int((features[0].shape[1] - 1) ** 0.5)
        return [features[0][:, 1:].mT.unflatten(2, (side, side))]


class Scores(nn.Module):
    """A decoder of one's own, which ends in scores where it says so."""

    def __init__(self, includes_head):
        super().__init__()
        self.includes_head = includes_head
        self.out_channels = 3
        self.scores = nn.Conv2d(6, 3, 1)

    def forward(self, features):
        return self.scores(features[-1])


SPECS = {
    "a bare name": ({"backbone": "resnet18"}, RESNET + FCN + TWO),
    "capitals in the task": ({"task": "Segmentation"}, RESNET + FCN + TWO),
    "terratorch's prefix": ({"decoder": "terratorch_FCNDecoder"}, RESNET + FCN + TWO),
    "dicts": (
        {
            "backbone_kwargs": {"in_chans": 4, "out_indices": [1, 2], "drop_path_rate": 0.1},
            "decoder_kwargs": {"channels": 8},
            "head_kwargs": {"dropout": 0.1},
        },
        """\
        input: {channels: 4}
        encoder:
          timm/resnet18:
            out_indices: [1, 2]
            features_only: true
            any_size: true
            options: {drop_path_rate: 0.1}
        decoder: {FCNDecoder: {channels: 8}}
        head: {SegmentationHead: {num_classes: 2, dropout: 0.1}}
        """,
    ),
    "prefixes": (
        {
            "backbone_in_chans": 4,
            "backbone_out_indices": [1, 2],
            "backbone_drop_path_rate": 0.1,
            "decoder_channels": 8,
            "head_dropout": 0.1,
        },
        """\
        input: {channels: 4}
        encoder:
          timm/resnet18:
            out_indices: [1, 2]
            features_only: true
            any_size: true
            options: {drop_path_rate: 0.1}
        decoder: {FCNDecoder: {channels: 8}}
        head: {SegmentationHead: {num_classes: 2, dropout: 0.1}}
        """,
    ),
    "empty dicts are as none": ({"backbone_kwargs": {}, "backbone_pretrained": False}, RESNET + FCN + TWO),
    "smp": (
        {"decoder": "smp_Unet", "decoder_decoder_channels": [64, 32, 16, 8], "decoder_decoder_use_batchnorm": False},
        RESNET
        + "decoder: {smp/Unet: {first_level: 0, decoder_channels: [64, 32, 16, 8], decoder_use_norm: false}}\n"
        + TWO,
    ),
    "smp without its prefix": (
        {"decoder": "PSPNet", "decoder_psp_out_channels": 8},
        RESNET + "decoder: {smp/PSPNet: {first_level: 0, psp_out_channels: 8}}\n" + TWO,
    ),
    "a vit is padded to twice its patch": (
        {
            "backbone": "vit_tiny_patch16_224",
            "backbone_out_indices": [2, 5, 8, 11],
            "backbone_pretrained": True,
            "necks": [{"name": "terratorch_LearnedInterpolateToPyramidal"}],
            "decoder": "UperNetDecoder",
        },
        """\
        encoder:
          timm/vit_tiny_patch16_224: {out_indices: [2, 5, 8, 11], pretrained: true, features_only: true}
        necks:
          - LearnedInterpolateToPyramidal
        decoder: UperNetDecoder
        head: {SegmentationHead: {num_classes: 2}}
        padding: {multiple: 32}
        """,
    ),
    "a vit of 37 × 37 patches is not": (
        {"backbone": "vit_small_patch14_dinov2", "decoder": "IdentityDecoder"},
        """\
        encoder: {timm/vit_small_patch14_dinov2: {features_only: true}}
        decoder: IdentityDecoder
        head: {SegmentationHead: {num_classes: 2}}
        """,
    ),
    "but where it takes any size there": (
        {
            "backbone": "vit_small_patch14_dinov2",
            "backbone_dynamic_img_size": True,
            "decoder": "IdentityDecoder",
        },
        """\
        encoder: {timm/vit_small_patch14_dinov2: {features_only: true, options: {dynamic_img_size: true}}}
        decoder: IdentityDecoder
        head: {SegmentationHead: {num_classes: 2}}
        padding: {multiple: 28}
        """,
    ),
    "a stated size of an odd number of patches is not": (
        {"backbone": "vit_tiny_patch16_224", "backbone_img_size": 112, "decoder": "IdentityDecoder"},
        """\
        encoder: {timm/vit_tiny_patch16_224: {img_size: [112, 112], features_only: true}}
        decoder: IdentityDecoder
        head: {SegmentationHead: {num_classes: 2}}
        """,
    ),
    "axes counted from the end": (
        {"necks": [{"name": "PermuteDims", "new_order": [0, -3, 2, -1]}]},
        RESNET + "necks:\n  - PermuteDims: {new_order: [0, 1, 2, 3]}\n" + FCN + TWO,
    ),
    "names that no node has": (
        {"aux_decoders": [AuxiliaryHead("fcn-aux 1", "FCNDecoder"), AuxiliaryHead("_2", "FCNDecoder")]},
        RESNET
        + FCN
        + TWO
        + "aux:\n"
        + "  fcn_aux_1: {decoder: FCNDecoder, head: {SegmentationHead: {num_classes: 2}}}\n"
        + "  aux_2: {decoder: FCNDecoder, head: {SegmentationHead: {num_classes: 2}}}\n",
    ),
    "numbers": (
        {
            "task": "regression",
            "num_classes": None,
            "num_outputs": 3,
            "head_final_act": "torch.nn.Softplus",
            "head_learned_upscale_layers": 1,
        },
        RESNET + FCN + "head: {RegressionHead: {num_outputs: 3, final_act: Softplus, learned_upscale_layers: 1}}\n",
    ),
    "an activation as a module": (
        {"task": "regression", "num_classes": None, "head_final_act": nn.LeakyReLU()},
        RESNET + FCN + "head: {RegressionHead: {final_act: LeakyReLU}}\n",
    ),
    "no activation": (
        {"task": "regression", "num_classes": None, "head_final_act": None, "head_batch_norm": True},
        RESNET + FCN + "head: RegressionHead\n",
    ),
    "classes of an image": (
        {
            "task": "classification",
            "decoder": "IdentityDecoder",
            "necks": [{"name": "AggregateTokens", "pooling": "MAX", "index": -2}],
            "head_dim_list": [8],
        },
        RESNET
        + "necks:\n  - AggregateTokens: {pooling: max, indices: [-2]}\n"
        + "decoder: IdentityDecoder\nhead: {ClassificationHead: {num_classes: 2, dim_list: [8]}}\n",
    ),
    "numbers of an image": (
        {"task": "scalar_regression", "decoder": "IdentityDecoder"},
        RESNET + "decoder: IdentityDecoder\nhead: {ScalarHead: {num_outputs: 2}}\n",
    ),
    "an embedding": (
        {
            "task": "embedding_generation",
            "decoder": None,
            "num_classes": None,
            "necks": [{"name": "SelectIndices", "indices": [0]}],
        },
        RESNET + "necks:\n  - SelectIndices: {indices: [0]}\nhead: EmbeddingHead\n",
    ),
    "frames": (
        {**FRAMES, "backbone_temporal_pooling": "concat", "backbone_temporal_subset_lengths": [2, 1]},
        "input: {frames: 3}\n"
        + RESNET
        + "necks:\n  - TemporalPooling: {pooling: concat, subset_lengths: [2, 1]}\n"
        + FCN
        + TWO,
    ),
    "frames that are counted": (
        {
            "backbone_use_temporal": True,
            "backbone_temporal_pooling": "diff",
            "backbone_temporal_features_permute_op": [0, 3, 1, 2],
        },
        "input: {frames: 2}\n" + RESNET + "necks:\n  - TemporalPooling: {pooling: diff}\n" + FCN + TWO,
    ),
    "frames that are kept": (
        {
            **FRAMES,
            "backbone_temporal_pooling": "keep",
            "necks": [{"name": "AggregateTokens", "temporal_inputs": True}],
        },
        "input: {frames: 3}\n" + RESNET + "necks:\n  - AggregateTokens\n" + FCN + TWO,
    ),
    "auxiliary heads": (
        {
            "head_dropout": 0.1,
            "aux_decoders": [
                {"name": "one", "decoder": "FCNDecoder", "decoder_args": {"decoder_channels": 8}},
                AuxiliaryHead("two", "IdentityDecoder"),
                {"name": "three", "decoder": "LinearDecoder", "decoder_args": {"decoder_upsampling_size": 2}},
            ],
        },
        """\
        encoder: {timm/resnet18: {features_only: true, any_size: true}}
        decoder: FCNDecoder
        head: {SegmentationHead: {num_classes: 2, dropout: 0.1}}
        aux:
          one:
            decoder: {FCNDecoder: {channels: 8}}
            head: {SegmentationHead: {num_classes: 2, dropout: 0.1}}
          two: {decoder: IdentityDecoder, head: {SegmentationHead: {num_classes: 2, dropout: 0.1}}}
          three: {decoder: {LinearDecoder: {num_classes: 2, upsampling_size: 2}}}
        """,
    ),
    "what leaves": (
        {"rescale": False, "image_size_out": (30, 40)},
        RESNET + FCN + TWO + "rescale: false\ncrop: [30, 40]\n",
    ),
    "an mlp": (
        {"decoder": "MLPDecoder", "decoder_activation": "GELU", "decoder_out_index": 0},
        RESNET + "decoder: {MLPDecoder: {channels: null, out_dim: null, activation: GELU, out_index: 0}}\n" + TWO,
    ),
    "a linear decoder": (
        {"decoder": "LinearDecoder", "decoder_upsampling_size": 4},
        RESNET + "decoder: {LinearDecoder: {num_classes: 2, upsampling_size: 4}}\n",
    ),
    "deeplab's head": (
        {"decoder": "ASPPSegmentationHead", "decoder_channels": 8, "decoder_in_channels": 512},
        RESNET + "decoder: {ASPPSegmentationHead: {channels: 8}}\n",
    ),
    "no necks": ({"necks": []}, RESNET + FCN + TWO),
    "a reshaping": (
        {"necks": [{"name": "ReshapeTokensToImage", "remove_cls_token": False, "temporal_inputs": False}]},
        RESNET + "necks:\n  - ReshapeTokensToImage: {remove_cls_token: false}\n" + FCN + TWO,
    ),
    "a head of mmseg": (
        {"decoder": "mmseg_UPerHead", "decoder_channels": 64, "decoder_in_index": [0, 1, 2, 3]},
        RESNET + "decoder: {mmseg/UPerHead: {num_classes: 2, channels: 64, in_index: [0, 1, 2, 3], norm: false}}\n",
    ),
    "a head of mmseg by its name alone, with configs": (
        {
            "decoder": "FCNHead",
            "decoder_channels": 64,
            "decoder_norm_cfg": {"type": "SyncBN", "requires_grad": True},
            "decoder_act_cfg": {"type": "GELU"},
            "decoder_loss_decode": {"type": "DiceLoss"},
        },
        RESNET + "decoder: {mmseg/FCNHead: {num_classes: 2, channels: 64, norm: BN, act: GELU}}\n",
    ),
    "a regression with a head of mmseg": (
        {**NUMBERS, "decoder": "mmseg_STDCHead", "decoder_channels": 8, "decoder_num_classes": 1},
        RESNET + "decoder: {mmseg/STDCHead: {num_classes: 1, channels: 8, norm: false, num_convs: 2}}\n",
    ),
}


REFUSED = {
    "no task": ({"task": None}, ["part task -> known: classification, embedding_generation, regression, sca"]),
    "another task": (
        {"task": "object_detection"},
        ["part task -> known: classification, embedding_generation, regression, sca"],
    ),
    "no backbone": ({"backbone": None}, ["key backbone -> backbone: timm_resnet50"]),
    "a misspelled backbone": (
        {"backbone": "resnet19"},
        ["part backbone -> did you mean resnet18 or resnet61q or resnet51q?"],
    ),
    "prithvi": (
        {"backbone": "prithvi_eo_v2_300", "backbone_bands": ["RED"], "backbone_num_frames": 4},
        ["part backbone -> build it and hand in the module: backbone=BACKBONE_REGISTRY."],
    ),
    "terramind": (
        {"backbone": "terratorch_terramind_v1_base"},
        ["part backbone -> build it and hand in the module: backbone=BACKBONE_REGISTRY."],
    ),
    "arguments of timm": (
        {
            "backbone_pretrained_cfg": {},
            "backbone_model_name": "resnet34",
            "backbone_features_only": False,
            "backbone_padding": "constant",
            "backbone_in_chans": 0,
        },
        [
            "unused backbone_features_only -> leave it out",
            "unused backbone_pretrained_cfg",
            "unused backbone_model_name",
            "unused backbone_padding",
            "value backbone_in_chans",
        ],
    ),
    "an argument that the network has not": (
        {"backbone_kwargs": {"drop_rat": 0.1}},
        ["part backbone -> correct or leave out drop_rat"],
    ),
    "one argument of several that the network has not": (
        {"backbone_drop_rat": 0.1, "backbone_drop_path_rate": 0.1},
        ["part backbone -> correct or leave out drop_rat"],
    ),
    "levels in another order": (
        {"backbone_out_indices": [4, 3]},
        ["index backbone_out_indices -> backbone_out_indices: [3, 4], and SelectIndices for another "],
    ),
    "no decoder": ({"decoder": None}, ["key decoder -> decoder: FCNDecoder"]),
    "a misspelled decoder": (
        {"decoder": "smp_Unett"},
        ["part decoder -> did you mean smp_Unet or smp_MAnet or smp_UPerNet?"],
    ),
    "a head of mmseg without its width": ({"decoder": "mmseg_FCNHead"}, ["key decoder -> decoder_channels: 512"]),
    "a head of mmseg that cannot be had": (
        {"decoder": "mmseg_OCRHead", "decoder_channels": 64},
        ["part decoder -> decoder: mmseg_ISAHead"],
    ),
    "a norm of mmseg in other groups": (
        {"decoder": "FCNHead", "decoder_channels": 64, "decoder_norm_cfg": {"type": "GN", "num_groups": 8}},
        ["value decoder_norm_cfg -> decoder_norm_cfg: {type: BN}"],
    ),
    "no decoder of a model": ({"decoder": "SatMAEHead"}, ["part decoder -> decoder: FCNDecoder"]),
    "a decoder of smp that cannot be built there": ({"decoder": "smp_DPT"}, ["part decoder -> decoder: FCNDecoder"]),
    "an argument that a decoder has not": (
        {"decoder_chanels": 8},
        ["unused decoder_chanels -> did you mean channels?"],
    ),
    "a value that a decoder does not take": (
        {"decoder": "UNetDecoder", "decoder_channels": 8},
        ["value decoder_channels"],
    ),
    "a decoder that needs more": ({"decoder": "LinearDecoder"}, ["key decoder"]),
    "an activation of anyone's": (
        {"decoder": "MLPDecoder", "decoder_activation": "Flatten"},
        ["value decoder_activation"],
    ),
    "necks that are no list": ({"necks": {"name": "SelectIndices", "indices": [0]}}, ["type necks"]),
    "necks that are none": (
        {
            "necks": [
                {"indices": [0]},
                {"name": "SelectIndex"},
                {"name": "SelectIndices"},
                {"name": "PermuteDims", "order": 1},
            ]
        },
        [
            "part necks[0] -> known: AddBottleneckLayer, AggregateTokens, FeaturePyramidNe",
            "part necks[1].name -> did you mean SelectIndices?",
            "key necks[2]",
            "unused necks[3].order -> did you mean new_order?",
            "key necks[3]",
        ],
    ),
    "no classes": ({"num_classes": None}, ["key num_classes -> say how many are to be predicted"]),
    "outputs for classes": ({"num_classes": None, "num_outputs": 3}, ["unused num_outputs -> num_classes: 3"]),
    "classes for outputs": (
        {"task": "regression", "num_classes": 3, "aux_decoders": [AuxiliaryHead("one", "FCNDecoder")]},
        ["unused num_classes -> num_outputs: 3"],
    ),
    "no outputs": (
        {"task": "scalar_regression", "num_classes": None},
        ["key num_outputs -> say how many are to be predicted"],
    ),
    "both": ({"num_outputs": 2}, ["unused num_outputs -> leave one out"]),
    "no number of classes": ({"num_classes": True}, ["value num_classes"]),
    "arguments beside a dict": (
        {
            "decoder_kwargs": {"channels": 8},
            "decoder_num_convs": 1,
            "head_kwargs": {"dropout": 0.1},
            "head_dropout": 0.2,
        },
        [
            "unused decoder_num_convs -> write it into decoder_kwargs",
            "unused head_dropout -> write it into head_kwargs",
        ],
    ),
    "arguments of nothing": (
        {"rescael": False, "nonsense": 1},
        [
            "unused rescael -> did you mean rescale?",
            "unused nonsense -> known: aux_decoders, backbone, backbone_kwargs, decoder, dec",
        ],
    ),
    "all at once": (
        {"task": "regression", "num_classes": 2, "backbone": "resnet19", "decoder_chanels": 8, "rescael": False},
        [
            "part backbone -> did you mean resnet18 or resnet61q or resnet51q?",
            "unused decoder_chanels -> did you mean channels?",
            "unused num_classes -> num_outputs: 2",
            "unused rescael -> did you mean rescale?",
        ],
    ),
    "another's activation": (
        {**NUMBERS, "head_final_act": "torch.nn.functional.relu"},
        ["value head_final_act -> choose one of ReLU, GELU, SiLU, LeakyReLU, ELU, Tanh, Sigmoi"],
    ),
    "an activation with arguments": (
        {**NUMBERS, "head_final_act": nn.LeakyReLU(0.3)},
        ["value head_final_act -> choose one of ReLU, GELU, SiLU, LeakyReLU, ELU, Tanh, Sigmoi"],
    ),
    "a head behind a head": (
        {"decoder": "LinearDecoder", "decoder_upsampling_size": 2, "head_dropout": 0.1, "head_channel_list": [8]},
        ["unused head_dropout -> leave it out", "unused head_channel_list -> leave it out"],
    ),
    "a head behind a decoder of one's own": (
        {"decoder": Scores(includes_head=True), "decoder_channels": 8, "head_dropout": 0.1},
        ["unused head_dropout -> leave it out"],
    ),
    "auxiliary heads that are no list": (
        {"aux_decoders": {"name": "one", "decoder": "FCNDecoder"}},
        ["type aux_decoders"],
    ),
    "auxiliary heads that are none": (
        {
            "aux_decoders": [
                "FCNDecoder",
                {"name": "a.b", "decoder": "FCNDecoder", "args": {}},
                {"decoder_args": 7},
                {"name": "one", "decoder": "FCNDecoder"},
                {"name": "one", "decoder": "FCNDecoder"},
            ]
        },
        [
            "key aux_decoders[0]",
            "key aux_decoders[0]",
            "unused aux_decoders[1].args -> known: decoder, decoder_args, name",
            "key aux_decoders[2]",
            "key aux_decoders[2]",
            "node aux_decoders[4].name -> choose another name",
        ],
    ),
    "auxiliary heads that a graph would call the same": (
        {"aux_decoders": [AuxiliaryHead("fcn-aux", "FCNDecoder"), AuxiliaryHead("fcn_aux", "FCNDecoder")]},
        ["node aux_decoders[1].name -> choose another name"],
    ),
    "weights in a file": (
        {"backbone_pretrained_cfg_overlay": {"file": "a.bin"}},
        ["unused backbone_pretrained_cfg_overlay -> backbone_pretrained: PATH"],
    ),
    "weights in a file, in a dict": (
        {"backbone_kwargs": {"checkpoint_path": "a.ckpt"}},
        ["unused backbone_kwargs.checkpoint_path -> backbone_kwargs.pretrained: PATH"],
    ),
    "axes that there are not": (
        {"necks": [{"name": "PermuteDims", "new_order": [0, -5, 1, 2]}]},
        ["value necks[0].new_order"],
    ),
    "what is wrong with auxiliary heads": (
        {
            "aux_decoders": [
                {"name": "one", "decoder": "FCNdecoder"},
                {"name": "two", "decoder": "FCNDecoder", "decoder_args": {"channels": 8, "decoder_chanels": 8}},
                {
                    "name": "three",
                    "decoder": "LinearDecoder",
                    "decoder_args": {"decoder_upsampling_size": 2, "head_dropout": 0.1},
                },
            ]
        },
        [
            "part aux_decoders[0].decoder -> did you mean FCNDecoder?",
            "unused aux_decoders[1].decoder_args.channels -> write decoder_channels",
            "unused aux_decoders[1].decoder_args.decoder_chanels -> did you mean channels?",
            "unused aux_decoders[2].decoder_args.head_dropout -> leave it out",
        ],
    ),
    "frames that nobody counted": (
        {"backbone_use_temporal": True},
        ["key backbone_use_temporal -> say how many: backbone_temporal_n_timestamps"],
    ),
    "frames that nobody counted, in a dict": (
        {"backbone_kwargs": {"use_temporal": True}},
        ["key backbone_kwargs.use_temporal -> say how many: backbone_kwargs.temporal_n_timestamps"],
    ),
    "frames that are none": (
        {**FRAMES, "backbone_temporal_n_timestamps": 2.5},
        ["value backbone_temporal_n_timestamps"],
    ),
    "another pooling": ({**FRAMES, "backbone_temporal_pooling": "sum"}, ["value backbone_temporal_pooling"]),
    "what leaves": ({"rescale": "no"}, ["value rescale"]),
    "a size": ({"image_size_out": 7}, ["value image_size_out"]),
    "a module that is no backbone": (
        {"backbone": nn.Conv2d(3, 4, 1)},
        ["type backbone -> declare its features: backbone=composer.Custom(module, featu"],
    ),
    "what is no module": (
        {"backbone": 7, "decoder": 8},
        ["type backbone -> backbone: timm_resnet50", "type decoder -> decoder: FCNDecoder"],
    ),
    "how a backbone is padded": ({"backbone": Maps(), "backbone_padding": "circular"}, ["value backbone_padding"]),
    "to what a backbone is padded": ({"backbone": Maps(), "backbone_patch_size": "16"}, ["value backbone_patch_size"]),
    "a word for channels": (
        {"backbone": composer.Timm("resnet18"), "backbone_in_chans": "four"},
        ["value backbone_in_chans"],
    ),
}


NOTED = {
    "nothing": ({}, []),
    "the first level": (
        {"necks": [{"name": "AggregateTokens", "indices": 0}], "task": "classification", "decoder": "IdentityDecoder"},
        ["necks[0].indices"],
    ),
    "no level": (
        {
            "necks": [{"name": "AggregateTokens", "indices": [], "index": 1}],
            "task": "classification",
            "decoder": "IdentityDecoder",
        },
        ["necks[0].indices"],
    ),
    "an ordered dict": (
        {"necks": [{"name": "FeaturePyramidNetworkNeck", "output_ordered_dict": True}]},
        ["necks[0].output_ordered_dict"],
    ),
    "a list": ({"necks": [{"name": "FeaturePyramidNetworkNeck", "output_ordered_dict": False}]}, []),
    "widths": ({"decoder": "MLPDecoder", "decoder_kwargs": {"channels": 8}}, ["decoder_kwargs.channels"]),
    "what smp swallows": ({"decoder": "smp_PSPNet", "decoder_psp_channels": 8}, ["decoder_psp_channels"]),
    "the finest map": ({"decoder": "smp_Linknet"}, ["decoder"]),
    "the outputs twice": ({"head_num_classes": 3}, ["head_num_classes"]),
    "the same outputs twice": ({"head_num_classes": 2}, []),
    "no batch norm": (
        {**NUMBERS, "head_batch_norm": False, "aux_decoders": [AuxiliaryHead("one", "FCNDecoder")]},
        ["head_batch_norm"],
    ),
    "auxiliary heads": (
        {"aux_decoders": [AuxiliaryHead("one", "FCNDecoder", {"head_dropout": 0.1})]},
        ["aux_decoders[0].decoder_args.head_dropout"],
    ),
    "frames": ({**FRAMES, "backbone_temporal_concat": False}, ["backbone_temporal_concat"]),
    "axes of frames": (
        {**FRAMES, "backbone_temporal_features_permute_op": [0, 3, 1, 2]},
        ["backbone_temporal_features_permute_op"],
    ),
    "axes of frames that are laid side by side": (
        {
            **FRAMES,
            "backbone_temporal_pooling": "concat",
            "backbone_temporal_features_permute_op": [0, 1, 3, 2],
        },
        ["backbone_temporal_features_permute_op"],
    ),
    "no frames": ({"backbone_temporal_n_timestamps": 3}, ["backbone_temporal_n_timestamps"]),
    "an output without a size": (
        {"task": "classification", "decoder": "IdentityDecoder", "rescale": False, "image_size_out": (8, 8)},
        ["rescale", "image_size_out"],
    ),
    "an embedding": (
        {"task": "embedding_generation", "decoder_channels": 8, "head_kwargs": {"dropout": 0.1}},
        ["decoder", "num_classes", "decoder_channels", "head_kwargs.dropout"],
    ),
    "a backbone of one's own": (
        {"backbone": Maps(), "backbone_pretrained": True, "backbone_padding": "constant"},
        ["backbone_pretrained"],
    ),
    "a decoder of one's own": ({"decoder": Scores(includes_head=True)}, ["decoder"]),
    "arguments of a decoder of one's own": (
        {"decoder": Scores(includes_head=False), "decoder_channels": 8, "head_dropout": 0.1},
        ["decoder_channels"],
    ),
}
