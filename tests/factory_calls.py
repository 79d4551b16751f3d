"""Calls of TerraTorch's factory: what specs they come to, what is wrong with others, and what there is to be noted."""

from __future__ import annotations

import warnings

import torch
from torch import nn

import composer
from composer.encoder_info import describe
from composer.terratorch import AuxiliaryHead, EncoderDecoderFactory, TerraTorchWarning, translate

PLAIN = {"task": "segmentation", "backbone": "timm_resnet18", "decoder": "FCNDecoder", "num_classes": 2}
NUMBERS = {"task": "regression", "num_classes": None}
CLASSES = {"task": "classification", "decoder": "IdentityDecoder"}
EMBEDDING = {"task": "embedding_generation", "decoder": None, "num_classes": None}
FRAMES = {"backbone_use_temporal": True, "backbone_temporal_n_timestamps": 3}


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


def given(layout):
    """An encoder of composer's that gives one map of this layout; it is refused before it is run."""
    return composer.Custom(nn.Identity(), features=[composer.Feature(channels=8, stride=4, axes=layout)])


OTHERWISE = """\
input: {channels: 4}
encoder:
  timm/resnet18:
    out_indices: [1, 2]
    features_only: true
    any_size: true
    options: {drop_path_rate: 0.1}
decoder: {FCNDecoder: {channels: 8}}
head: {SegmentationHead: {num_classes: 2, dropout: 0.1}}
"""


def spec(
    decoder="FCNDecoder", head="{SegmentationHead: {num_classes: 2}}", necks="", *, encoder=None, last="", frames=0
):
    """The text of a chain; `necks` and what comes `last` are lines of their own."""
    lines = [
        f"input: {{frames: {frames}}}" if frames else "",
        f"encoder: {encoder or '{timm/resnet18: {features_only: true, any_size: true}}'}",
        f"necks:\n  - {necks}" if necks else "",
        f"decoder: {decoder}" if decoder else "",
        f"head: {head}" if head else "",
        last,
    ]
    return "".join(f"{line}\n" for line in lines if line)


VIT, DINO = "timm/vit_tiny_patch16_224", "timm/vit_small_patch14_dinov2"
OF_DINO = {"backbone": "vit_small_patch14_dinov2", "decoder": "IdentityDecoder"}
AUX = "decoder: FCNDecoder, head: {SegmentationHead: {num_classes: 2}}"

SPECS = {
    "other spellings": (
        {"backbone": "resnet18", "task": "Segmentation", "decoder": "terratorch_FCNDecoder"},
        spec(),
    ),
    "dicts": (
        {
            "backbone_kwargs": {"in_chans": 4, "out_indices": [1, 2], "drop_path_rate": 0.1},
            "decoder_kwargs": {"channels": 8},
            "head_kwargs": {"dropout": 0.1},
        },
        OTHERWISE,
    ),
    "prefixes": (
        {
            "backbone_in_chans": 4,
            "backbone_out_indices": [1, 2],
            "backbone_drop_path_rate": 0.1,
            "decoder_channels": 8,
            "head_dropout": 0.1,
        },
        OTHERWISE,
    ),
    "empty dicts are as none": ({"backbone_kwargs": {}, "backbone_pretrained": False, "necks": []}, spec()),
    "smp": (
        {"decoder": "smp_Unet", "decoder_decoder_channels": [64, 32, 16, 8], "decoder_decoder_use_batchnorm": False},
        spec("{smp/Unet: {first_level: 0, decoder_channels: [64, 32, 16, 8], decoder_use_norm: false}}"),
    ),
    "a vit is padded to twice its patch": (
        {
            "backbone": "vit_tiny_patch16_224",
            "backbone_out_indices": [2, 5, 8, 11],
            "necks": [{"name": "terratorch_LearnedInterpolateToPyramidal"}],
        },
        spec(
            necks="LearnedInterpolateToPyramidal",
            encoder=f"{{{VIT}: {{out_indices: [2, 5, 8, 11], features_only: true}}}}",
            last="padding: {multiple: 32}",
        ),
    ),
    "a vit of 37 × 37 patches is not": (
        OF_DINO,
        spec("IdentityDecoder", encoder=f"{{{DINO}: {{features_only: true}}}}"),
    ),
    "but where it takes any size there": (
        {**OF_DINO, "backbone_dynamic_img_size": True},
        spec(
            "IdentityDecoder",
            encoder=f"{{{DINO}: {{features_only: true, options: {{dynamic_img_size: true}}}}}}",
            last="padding: {multiple: 28}",
        ),
    ),
    "axes counted from the end": (
        {"necks": [{"name": "PermuteDims", "new_order": [0, -3, 2, -1]}]},
        spec(necks="PermuteDims: {new_order: [0, 1, 2, 3]}"),
    ),
    "names that no node has": (
        {"aux_decoders": [AuxiliaryHead("fcn-aux 1", "FCNDecoder"), AuxiliaryHead("_2", "FCNDecoder")]},
        spec(last=f"aux:\n  fcn_aux_1: {{{AUX}}}\n  aux_2: {{{AUX}}}"),
    ),
    "numbers": (
        {**NUMBERS, "num_outputs": 3, "head_final_act": "torch.nn.Softplus", "head_learned_upscale_layers": 1},
        spec(head="{RegressionHead: {num_outputs: 3, final_act: Softplus, learned_upscale_layers: 1}}"),
    ),
    "no activation": ({**NUMBERS, "head_kwargs": {"final_act": None, "batch_norm": True}}, spec(head="RegressionHead")),
    "classes of an image": (
        {**CLASSES, "necks": [{"name": "AggregateTokens", "pooling": "MAX", "index": -2}], "head_dim_list": [8]},
        spec(
            "IdentityDecoder",
            "{ClassificationHead: {num_classes: 2, dim_list: [8]}}",
            "AggregateTokens: {pooling: max, indices: [-2]}",
        ),
    ),
    "an embedding": (
        {**EMBEDDING, "necks": [{"name": "SelectIndices", "indices": [0]}]},
        spec(None, "EmbeddingHead", "SelectIndices: {indices: [0]}"),
    ),
    "frames": (
        {**FRAMES, "backbone_temporal_pooling": "concat", "backbone_temporal_subset_lengths": [2, 1]},
        spec(necks="TemporalPooling: {pooling: concat, subset_lengths: [2, 1]}", frames=3),
    ),
    "auxiliary heads": (
        {
            "aux_decoders": [
                {"name": "one", "decoder": "FCNDecoder"},
                {"name": "two", "decoder": "LinearDecoder", "decoder_args": {"decoder_upsampling_size": 2}},
            ]
        },
        spec(
            last=f"aux:\n  one: {{{AUX}}}\n"
            "  two: {decoder: {LinearDecoder: {num_classes: 2, upsampling_size: 2}}}"
        ),
    ),
    "a crop": ({"image_size_out": (30, 40)}, spec(last="crop: [30, 40]")),
    "cells": ({"rescale": False, "image_size_out": (30, 40)}, spec(last="rescale: false")),
    "an mlp": (
        {"decoder": "MLPDecoder", "decoder_activation": "GELU", "decoder_out_index": 0},
        spec("{MLPDecoder: {channels: null, out_dim: null, activation: GELU, out_index: 0}}"),
    ),
    "deeplab's head": (
        {"decoder": "ASPPSegmentationHead", "decoder_channels": 8, "decoder_in_channels": 512},
        spec("{ASPPSegmentationHead: {channels: 8}}", None),
    ),
    "a head of mmseg": (
        {"decoder": "mmseg_UPerHead", "decoder_channels": 64, "decoder_in_index": [0, 1, 2, 3]},
        spec("{mmseg/UPerHead: {num_classes: 2, channels: 64, in_index: [0, 1, 2, 3], norm: false}}", None),
    ),
    "a head of mmseg by its name alone, with configs": (
        {
            "decoder": "FCNHead",
            "decoder_norm_cfg": {"type": "SyncBN", "requires_grad": True},
            "decoder_act_cfg": {"type": "GELU"},
            "decoder_loss_decode": {"type": "DiceLoss"},
        },
        spec("{mmseg/FCNHead: {num_classes: 2, norm: BN, act: GELU}}", None),
    ),
    "a regression with a head of mmseg": (
        {**NUMBERS, "decoder": "mmseg_STDCHead", "decoder_channels": 8, "decoder_num_classes": 1},
        spec("{mmseg/STDCHead: {num_classes: 1, channels: 8, norm: false, num_convs: 2}}", None),
    ),
}
"""Calls, each with the spec that it comes to."""


SELECT = {"name": "SelectIndices"}
UNET = {"decoder": "smp_Unet"}

REFUSED = {
    "another task": (
        {"task": "object_detection"},
        ["part task -> known: classification, embedding_generation, regression, sca"],
    ),
    "arguments of timm": (
        {
            "backbone_pretrained_cfg": {},
            "backbone_features_only": False,
            "backbone_in_chans": 0,
            "backbone_checkpoint_path": "a.ckpt",
        },
        [
            "unused backbone_features_only -> leave it out",
            "unused backbone_pretrained_cfg",
            "unused backbone_checkpoint_path -> backbone_pretrained: PATH",
            "value backbone_in_chans",
        ],
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
    "a head of mmseg that cannot be had": (
        {"decoder": "mmseg_OCRHead", "decoder_channels": 64},
        ["part decoder -> decoder: mmseg_ISAHead"],
    ),
    "a norm of mmseg in other groups": (
        {"decoder": "FCNHead", "decoder_channels": 64, "decoder_norm_cfg": {"type": "GN", "num_groups": 8}},
        ["value decoder_norm_cfg -> decoder_norm_cfg: {type: BN}"],
    ),
    "an activation of mmseg": (
        {"decoder": "FCNHead", "decoder_channels": 64, "decoder_act_cfg": "ReLU"},
        ["value decoder_act_cfg -> decoder_act_cfg: {type: ReLU}"],
    ),
    "a decoder of smp that cannot be built there": ({"decoder": "smp_DPT"}, ["part decoder -> decoder: FCNDecoder"]),
    "necks that are no list": ({"necks": {"name": "SelectIndices", "indices": [0]}}, ["type necks"]),
    "necks that are none": (
        {"necks": [{"indices": [0]}, {"name": "SelectIndex"}, SELECT, {"name": "PermuteDims", "order": 1}]},
        [
            "part necks[0] -> known: AddBottleneckLayer, AggregateTokens, FeaturePyramidNe",
            "part necks[1].name -> did you mean SelectIndices?",
            "key necks[2]",
            "unused necks[3].order -> did you mean new_order?",
            "key necks[3]",
        ],
    ),
    "no classes": ({"num_classes": None}, ["key num_classes -> say how many are to be predicted"]),
    "both": ({"num_outputs": 2}, ["unused num_outputs -> leave one out"]),
    "arguments beside a dict": (
        {"decoder_kwargs": {"channels": 8}, "decoder_num_convs": 1, "head_kwargs": {"dropout": 0.1}, "head_width": 2},
        ["unused decoder_num_convs -> write it into decoder_kwargs", "unused head_width -> write it into head_kwargs"],
    ),
    "no dict": ({"decoder_kwargs": 3}, ["type decoder_kwargs"]),
    "all at once": (
        {"task": "regression", "num_classes": 2, "backbone": "resnet19", "decoder_chanels": 8, "rescael": False},
        [
            "part backbone -> did you mean resnet18 or resnet61q or resnet51q?",
            "unused decoder_chanels -> did you mean channels?",
            "unused num_classes -> num_outputs: 2",
            "unused rescael -> did you mean rescale?",
        ],
    ),
    "a head behind a head": (
        {"decoder": "LinearDecoder", "decoder_upsampling_size": 2, "head_dropout": 0.1, "head_channel_list": [8]},
        ["unused head_dropout -> leave it out", "unused head_channel_list -> leave it out"],
    ),
    "arguments of our head alone": (
        {"head_upsampling": 2, "head_final_act": "torch.nn.Softmax"},
        [
            "unused head_final_act -> SegmentationHead in a spec has it",
            "unused head_upsampling -> SegmentationHead in a spec has it",
        ],
    ),
    "auxiliary heads that are no list": ({"aux_decoders": {"name": "one"}}, ["type aux_decoders"]),
    "auxiliary heads that are none": (
        {
            "aux_decoders": [
                "FCNDecoder",
                {"name": "a.b", "decoder": "FCNDecoder", "args": {}},
                {"decoder_args": 7},
                {"name": "fcn-aux", "decoder": "FCNDecoder"},
                {"name": "fcn_aux", "decoder": "FCNDecoder"},
            ]
        },
        [
            *["key aux_decoders[0]"] * 2,
            "unused aux_decoders[1].args -> known: decoder, decoder_args, name",
            *["key aux_decoders[2]"] * 2,
            "node aux_decoders[4].name -> choose another name",
        ],
    ),
    "what is wrong with auxiliary heads": (
        {
            "aux_decoders": [
                AuxiliaryHead("one", "FCNdecoder"),
                AuxiliaryHead("two", "FCNDecoder", {"channels": 8, "decoder_chanels": 8}),
                AuxiliaryHead("three", "LinearDecoder", {"decoder_upsampling_size": 2, "head_dropout": 0.1}),
            ]
        },
        [
            "part aux_decoders[0].decoder -> did you mean FCNDecoder?",
            "unused aux_decoders[1].decoder_args.channels -> write decoder_channels",
            "unused aux_decoders[1].decoder_args.decoder_chanels -> did you mean channels?",
            "unused aux_decoders[2].decoder_args.head_dropout -> leave it out",
        ],
    ),
    "axes that there are not": (
        {"necks": [{"name": "PermuteDims", "new_order": [0, -5, 1, 2]}]},
        ["value necks[0].new_order"],
    ),
    "frames that nobody counted": (
        {"backbone_kwargs": {"use_temporal": True}},
        ["key backbone_kwargs.use_temporal -> say how many: backbone_kwargs.temporal_n_timestamps"],
    ),
    "another pooling": ({**FRAMES, "backbone_temporal_pooling": "sum"}, ["value backbone_temporal_pooling"]),
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
    "an argument with a prefix": (
        {**UNET, "decoder_decoder_channels": [1]},
        ["count decoder_decoder_channels -> decoder_decoder_channels: [1, 1, 1, 1]"],
    ),
    "one that is swallowed": (
        {**UNET, "decoder_channels": [32, 16, 8, 8]},
        ["count decoder -> decoder_decoder_channels: [256, 128, 64, 32]"],
    ),
    "an argument of an auxiliary head": (
        {"aux_decoders": [AuxiliaryHead("fcn-aux", "smp_Unet", {"decoder_decoder_channels": [1]})]},
        ["count {0} -> {0}: [1, 1, 1, 1]".format("aux_decoders[0].decoder_args.decoder_decoder_channels")],
    ),
    "channels without the prefix": ({"in_channels": 4}, ["unused in_channels -> write backbone_in_chans"]),
    "necks": (
        {"backbone": given("b h w c")},
        ["layout decoder -> necks: [{name: PermuteDims, new_order: [0, 3, 1, 2]}]"],
    ),
    "frames": (
        {**FRAMES, "backbone_temporal_pooling": "diff"},
        ["count backbone_temporal_pooling -> backbone_temporal_subset_lengths: [1, 2]"],
    ),
    "frames that are not pooled yet": (
        {**FRAMES, "backbone_temporal_pooling": "keep"},
        ["layout decoder -> backbone_temporal_pooling: mean"],
    ),
    "necks behind frames": (
        {**FRAMES, "necks": [{**SELECT, "indices": [0]}, {**SELECT, "indices": [1]}]},
        ["index necks[1].indices[0] -> use indices from -1 to 0"],
    ),
    "the channels of an image": (
        {"backbone": given("b c h w"), "backbone_padding": None, "decoder": "UNetDecoder", "decoder_channels": [8, 8]},
        ["count decoder_channels -> decoder_channels: [8]"],
    ),
}
"""Calls, each with the code, the argument and the beginning of the fix of each of its problems."""


AGGREGATE = {"name": "AggregateTokens"}
PYRAMID = {"name": "FeaturePyramidNetworkNeck"}

NOTED = {
    "no level": ({**CLASSES, "necks": [{**AGGREGATE, "indices": [], "index": 1}]}, ["necks[0].indices"]),
    "index 0": ({**CLASSES, "necks": [{**AGGREGATE, "indices": 0}]}, ["necks[0].indices"]),
    "an ordered dict": ({"necks": [{**PYRAMID, "output_ordered_dict": True}]}, ["necks[0].output_ordered_dict"]),
    "widths": ({"decoder": "MLPDecoder", "decoder_kwargs": {"channels": 8}}, ["decoder_kwargs.channels"]),
    "what smp swallows": ({"decoder": "smp_PSPNet", "decoder_psp_channels": 8}, ["decoder_psp_channels"]),
    "the finest map": ({"decoder": "smp_Linknet"}, ["decoder"]),
    "the outputs twice": ({"head_num_classes": 3}, ["head_num_classes"]),
    "no batch norm": (
        {**NUMBERS, "head_batch_norm": False, "aux_decoders": [AuxiliaryHead("one", "FCNDecoder")]},
        ["head_batch_norm"],
    ),
    "auxiliary heads": (
        {"aux_decoders": [AuxiliaryHead("one", "FCNDecoder", {"head_dropout": 0.1})]},
        ["aux_decoders[0].decoder_args.head_dropout"],
    ),
    "a second head": (
        {"decoder": "LinearDecoder", "decoder_num_classes": 3, "decoder_upsampling_size": 2},
        ["decoder"],
    ),
    "deeplab's head for numbers": (
        {**NUMBERS, "decoder": "ASPPRegressionHead", "decoder_channels": 8, "decoder_in_channels": 512},
        ["decoder"],
    ),
    "frames": ({**FRAMES, "backbone_temporal_concat": False}, ["backbone_temporal_concat"]),
    "axes of frames": (
        {**FRAMES, "backbone_temporal_features_permute_op": [0, 3, 1, 2]},
        ["backbone_temporal_features_permute_op"],
    ),
    "axes of frames side by side": (
        {**FRAMES, "backbone_temporal_pooling": "concat", "backbone_temporal_features_permute_op": [0, 1, 3, 2]},
        ["backbone_temporal_features_permute_op"],
    ),
    "frames that are not used": ({"backbone_temporal_pooling": "concat"}, ["backbone_temporal_pooling"]),
    "a crop of cells": ({"rescale": False, "image_size_out": (8, 8)}, ["image_size_out"]),
    "an output without a size": (
        {**CLASSES, "rescale": False, "image_size_out": (8, 8)},
        ["rescale", "image_size_out"],
    ),
    "an embedding": (
        {"task": "embedding_generation", "decoder_channels": 8, "head_kwargs": {"dropout": 0.1}},
        ["decoder", "num_classes", "decoder_channels", "head_kwargs.dropout"],
    ),
    "an embedding of TerraTorch's own task": ({**EMBEDDING, "aux_decoders": []}, []),
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
"""Calls, each with the arguments that have another effect in TerraTorch than they appear to have, or none."""


FOUR = {**SELECT, "indices": [1, 2, 3, 4]}
UPERNET = {"decoder": "UperNetDecoder", "decoder_channels": 8}
OF_32 = "needs sides that are multiples of 32"
NEEDY = {
    "FCNDecoder": ({}, "decoder", f"FCNDecoder {OF_32}"),
    "LinearDecoder": (
        {"decoder": "LinearDecoder", "decoder_upsampling_size": 32, "decoder_num_classes": 2},
        "decoder",
        f"LinearDecoder {OF_32}",
    ),
    "scale_modules": (
        {"necks": [FOUR], **UPERNET, "decoder_scale_modules": True},
        "decoder",
        f"UperNetDecoder {OF_32}",
    ),
    "smp_Segformer": ({"decoder": "smp_Segformer"}, "decoder", "smp/Segformer needs sides that are multiples of 2"),
    "InterpolateToPyramidal": (
        {"necks": [FOUR, {"name": "InterpolateToPyramidal"}], "decoder": "IdentityDecoder"},
        "necks[1]",
        f"InterpolateToPyramidal {OF_32}",
    ),
    "LearnedInterpolateToPyramidal": (
        {"necks": [FOUR, {"name": "LearnedInterpolateToPyramidal"}], **UPERNET},
        "necks[1]",
        f"LearnedInterpolateToPyramidal {OF_32}",
    ),
    "learned_upscale_layers": (
        {**NUMBERS, "decoder": "IdentityDecoder", "head_learned_upscale_layers": 1},
        "task",
        f"RegressionHead {OF_32}",
    ),
}
"""Calls with a part to which maps of whole cells go, which odd sizes do not give; its argument, and what it needs."""
