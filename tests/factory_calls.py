"""Calls of TerraTorch's factory: what specs they come to, what is wrong with others, and what there is to be noted."""

from __future__ import annotations

import warnings

import torch
from torch import nn

import composer
from composer.encoder_info import describe
from composer.terratorch.factory import AuxiliaryHead, EncoderDecoderFactory, TerraTorchWarning
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
    "no task": (
        {"task": None},
        """\
        error[part] task: the factory has no task None.
          fix: known: classification, embedding_generation, regression, scalar_regression, segmentation
        """,
    ),
    "another task": (
        {"task": "object_detection"},
        """\
        error[part] task: the factory has no task 'object_detection'.
          fix: known: classification, embedding_generation, regression, scalar_regression, segmentation
        """,
    ),
    "no backbone": (
        {"backbone": None},
        """\
        error[key] backbone: a backbone is the name of a network (got None).
          fix: backbone: timm_resnet50
        """,
    ),
    "a misspelled backbone": (
        {"backbone": "resnet19"},
        """\
        error[part] backbone: timm/resnet19 is not a network of timm (got timm {timm}).
          fix: did you mean resnet18 or resnet61q or resnet51q?
        """,
    ),
    "prithvi": (
        {"backbone": "prithvi_eo_v2_300", "backbone_bands": ["RED"], "backbone_num_frames": 4},
        (
            "error[part] backbone: prithvi_eo_v2_300 is a backbone of TerraTorch's own, and composer knows "
            "timm's by name alone.\n"
            '  fix: build it and hand in the module: backbone=BACKBONE_REGISTRY.build("prithvi_eo_v2_300", '
            "…)\n"
        ),
    ),
    "terramind": (
        {"backbone": "terratorch_terramind_v1_base"},
        (
            "error[part] backbone: terramind_v1_base is a backbone of TerraTorch's own, and composer knows "
            "timm's by name alone.\n"
            '  fix: build it and hand in the module: backbone=BACKBONE_REGISTRY.build("terramind_v1_base", '
            "…)\n"
        ),
    ),
    "arguments of timm": (
        {
            "backbone_pretrained_cfg": {},
            "backbone_model_name": "resnet34",
            "backbone_features_only": False,
            "backbone_padding": "constant",
            "backbone_in_chans": 0,
        },
        """\
        error[unused] backbone_features_only: TerraTorch takes timm's networks with features_only alone.
          fix: leave it out
        error[unused] backbone_padding: timm's networks take no padding, and TerraTorch hands it on to them.
          fix: padding: {mode: …} in a spec
        error[unused] backbone_pretrained_cfg: pretrained_cfg cannot be handed to timm: composer loads weights itself.
        error[unused] backbone_model_name: model_name cannot be handed to timm: the network is named by name.
        error[value] backbone_in_chans: channels must be a whole number of at least 1 (got 0).
        """,
    ),
    "an argument that the network has not": (
        {"backbone_kwargs": {"drop_rat": 0.1}},
        (
            "error[part] backbone: timm/resnet18 refuses its arguments (got timm says TypeError: "
            "ResNet.__init__() got an unexpected keyword argument 'drop_rat').\n"
            "  fix: correct or leave out drop_rat\n"
        ),
    ),
    "one argument of several that the network has not": (
        {"backbone_drop_rat": 0.1, "backbone_drop_path_rate": 0.1},
        (
            "error[part] backbone: timm/resnet18 refuses its arguments (got timm says TypeError: "
            "ResNet.__init__() got an unexpected keyword argument 'drop_rat').\n"
            "  fix: correct or leave out drop_rat\n"
        ),
    ),
    "levels in another order": (
        {"backbone_out_indices": [4, 3]},
        (
            "error[index] backbone_out_indices: timm/resnet18 gives its levels in its own order, each once (got "
            "out_indices [4, 3]).\n"
            "  fix: backbone_out_indices: [3, 4], and SelectIndices for another order\n"
        ),
    ),
    "no decoder": (
        {"decoder": None},
        """\
        error[key] decoder: segmentation needs a decoder.
          fix: decoder: FCNDecoder
        """,
    ),
    "a misspelled decoder": (
        {"decoder": "smp_Unett"},
        """\
        error[part] decoder: TerraTorch has no decoder 'smp_Unett'.
          fix: did you mean smp_Unet or smp_MAnet or smp_UPerNet?
        """,
    ),
    "a head of mmseg without its width": (
        {"decoder": "mmseg_FCNHead"},
        """\
        error[key] decoder: mmseg's FCNHead needs channels.
          fix: decoder_channels: 512
        """,
    ),
    "a head of mmseg that cannot be had": (
        {"decoder": "mmseg_OCRHead", "decoder_channels": 64},
        """\
        error[part] decoder: mmseg's OCRHead cannot be had: it takes the prediction of another head beside the maps.
          fix: decoder: mmseg_ISAHead
        """,
    ),
    "a norm of mmseg in other groups": (
        {"decoder": "FCNHead", "decoder_channels": 64, "decoder_norm_cfg": {"type": "GN", "num_groups": 8}},
        """\
        error[value] decoder_norm_cfg: a norm is BN, SyncBN, or GN in 32 groups (got {'type': 'GN', 'num_groups': 8}).
          fix: decoder_norm_cfg: {type: BN}
        """,
    ),
    "no decoder of a model": (
        {"decoder": "SatMAEHead"},
        """\
        error[part] decoder: SatMAEHead is a head of masked autoencoders, which needs more than features.
          fix: decoder: FCNDecoder
        """,
    ),
    "a decoder of smp that cannot be built there": (
        {"decoder": "smp_DPT"},
        (
            "error[part] decoder: smp_DPT is a decoder that smp makes for an encoder of its own alone; "
            "composer's smp/DPT takes any ViT.\n"
            "  fix: decoder: FCNDecoder\n"
        ),
    ),
    "an argument that a decoder has not": (
        {"decoder_chanels": 8},
        """\
        error[unused] decoder_chanels: FCNDecoder has no argument 'chanels'.
          fix: did you mean channels?
        """,
    ),
    "a value that a decoder does not take": (
        {"decoder": "UNetDecoder", "decoder_channels": 8},
        """\
        error[value] decoder_channels: UNetDecoder: a list of whole numbers is needed (got 8).
        """,
    ),
    "a decoder that needs more": (
        {"decoder": "LinearDecoder"},
        """\
        error[key] decoder: LinearDecoder needs upsampling_size.
        """,
    ),
    "an activation of anyone's": (
        {"decoder": "MLPDecoder", "decoder_activation": "Flatten"},
        (
            "error[value] decoder_activation: MLPDecoder: activation must be one of ReLU, GELU, SiLU, "
            "LeakyReLU, ELU, Tanh, Sigmoid, Softplus, Identity (got 'Flatten').\n"
        ),
    ),
    "necks that are no list": (
        {"necks": {"name": "SelectIndices", "indices": [0]}},
        """\
        error[type] necks: necks is a list of dicts, each with a name (got {'name': 'SelectIndices', 'indices': [0]}).
        """,
    ),
    "necks that are none": (
        {
            "necks": [
                {"indices": [0]},
                {"name": "SelectIndex"},
                {"name": "SelectIndices"},
                {"name": "PermuteDims", "order": 1},
            ]
        },
        """\
        error[type] necks[0]: a neck is a dict with a name (got {'indices': [0]}).
          fix: {name: SelectIndices, …}
        error[part] necks[1].name: TerraTorch has no neck 'SelectIndex'.
          fix: did you mean SelectIndices?
        error[key] necks[2]: SelectIndices needs indices.
        error[unused] necks[3].order: PermuteDims has no argument 'order'.
          fix: did you mean new_order?
        error[key] necks[3]: PermuteDims needs new_order.
        """,
    ),
    "no classes": (
        {"num_classes": None},
        """\
        error[key] num_classes: segmentation needs num_classes.
          fix: say how many are to be predicted
        """,
    ),
    "outputs for classes": (
        {"num_classes": None, "num_outputs": 3},
        """\
        error[unused] num_outputs: segmentation has no outputs but classes.
          fix: num_classes: 3
        """,
    ),
    "classes for outputs": (
        {"task": "regression", "num_classes": 3, "aux_decoders": [AuxiliaryHead("one", "FCNDecoder")]},
        """\
        error[unused] num_classes: regression has no classes.
          fix: num_outputs: 3
        """,
    ),
    "no outputs": (
        {"task": "scalar_regression", "num_classes": None},
        """\
        error[key] num_outputs: scalar_regression needs num_outputs.
          fix: say how many are to be predicted
        """,
    ),
    "both": (
        {"num_outputs": 2},
        """\
        error[unused] num_outputs: one of num_outputs and num_classes is given, not both.
          fix: leave one out
        """,
    ),
    "no number of classes": (
        {"num_classes": True},
        """\
        error[value] num_classes: SegmentationHead: num_classes must be a whole number from 1 to 65536 (got True).
        """,
    ),
    "arguments beside a dict": (
        {
            "decoder_kwargs": {"channels": 8},
            "decoder_num_convs": 1,
            "head_kwargs": {"dropout": 0.1},
            "head_dropout": 0.2,
        },
        """\
        error[unused] decoder_num_convs: decoder_num_convs was passed but not used.
          fix: write it into decoder_kwargs
        error[unused] head_dropout: head_dropout was passed but not used.
          fix: write it into head_kwargs
        """,
    ),
    "arguments of nothing": (
        {"rescael": False, "nonsense": 1},
        (
            "error[unused] rescael: rescael was passed but not used.\n"
            "  fix: did you mean rescale?\n"
            "error[unused] nonsense: nonsense was passed but not used.\n"
            "  fix: known: aux_decoders, backbone, backbone_kwargs, decoder, decoder_kwargs, head_kwargs, "
            "image_size_out, necks, num_classes, num_outputs, peft_config, rescale, task\n"
        ),
    ),
    "all at once": (
        {"task": "regression", "num_classes": 2, "backbone": "resnet19", "decoder_chanels": 8, "rescael": False},
        """\
        error[part] backbone: timm/resnet19 is not a network of timm (got timm {timm}).
          fix: did you mean resnet18 or resnet61q or resnet51q?
        error[unused] decoder_chanels: FCNDecoder has no argument 'chanels'.
          fix: did you mean channels?
        error[unused] num_classes: regression has no classes.
          fix: num_outputs: 2
        error[unused] rescael: rescael was passed but not used.
          fix: did you mean rescale?
        """,
    ),
    "another's activation": (
        {**NUMBERS, "head_final_act": "torch.nn.functional.relu"},
        (
            "error[value] head_final_act: final_act is torch.nn.X, with X one of ReLU, GELU, SiLU, LeakyReLU, "
            "ELU, Tanh, Sigmoid, Softplus, Identity, Softmax (got 'torch.nn.functional.relu'); nothing is "
            "imported or called by its name.\n"
            "  fix: choose one of these, or apply the function to the model's output\n"
        ),
    ),
    "an activation with arguments": (
        {**NUMBERS, "head_final_act": nn.LeakyReLU(0.3)},
        (
            "error[value] head_final_act: final_act is torch.nn.X, with X one of ReLU, GELU, SiLU, LeakyReLU, "
            "ELU, Tanh, Sigmoid, Softplus, Identity, Softmax (got LeakyReLU(negative_slope=0.3)); nothing is "
            "imported or called by its name.\n"
            "  fix: choose one of these, or apply the function to the model's output\n"
        ),
    ),
    "a head behind a head": (
        {"decoder": "LinearDecoder", "decoder_upsampling_size": 2, "head_dropout": 0.1, "head_channel_list": [8]},
        """\
        error[unused] head_dropout: LinearDecoder includes a head, so there is none for dropout.
          fix: leave it out
        error[unused] head_channel_list: LinearDecoder includes a head, so there is none for channel_list.
          fix: leave it out
        """,
    ),
    "a head behind a decoder of one's own": (
        {"decoder": Scores(includes_head=True), "decoder_channels": 8, "head_dropout": 0.1},
        """\
        error[unused] head_dropout: Scores includes a head, so there is none for dropout.
          fix: leave it out
        """,
    ),
    "auxiliary heads that are no list": (
        {"aux_decoders": {"name": "one", "decoder": "FCNDecoder"}},
        ("error[type] aux_decoders: auxiliary heads are a list (got {'name': 'one', 'decoder': 'FCNDecoder'}).\n"),
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
        """\
        error[type] aux_decoders[0]: an auxiliary head is an AuxiliaryHead or a dict (got 'FCNDecoder').
          fix: {name: NAME, decoder: FCNDecoder, decoder_args: {…}}
        error[unused] aux_decoders[1].args: an auxiliary head has no 'args'.
          fix: known: decoder, decoder_args, name
        error[node] aux_decoders[1].name: a name has from 1 to 60 characters, and no dot (got 'a.b').
          fix: choose another name
        error[key] aux_decoders[2]: an auxiliary head needs a name.
        error[key] aux_decoders[2]: an auxiliary head needs a decoder.
        error[type] aux_decoders[2].decoder_args: decoder_args is a dict of arguments (got 7).
          fix: {decoder_channels: 256}
        error[node] aux_decoders[4].name: there is an auxiliary head 'one' already.
          fix: choose another name
        """,
    ),
    "auxiliary heads that a graph would call the same": (
        {"aux_decoders": [AuxiliaryHead("fcn-aux", "FCNDecoder"), AuxiliaryHead("fcn_aux", "FCNDecoder")]},
        (
            "error[node] aux_decoders[1].name: there is an auxiliary head 'fcn-aux' already, which a graph would call "
            "fcn_aux too.\n"
            "  fix: choose another name\n"
        ),
    ),
    "weights in a file": (
        {"backbone_pretrained_cfg_overlay": {"file": "a.bin"}},
        (
            "error[unused] backbone_pretrained_cfg_overlay: pretrained_cfg_overlay cannot be handed to timm: composer "
            "loads weights itself.\n"
            "  fix: backbone_pretrained: PATH\n"
        ),
    ),
    "weights in a file, in a dict": (
        {"backbone_kwargs": {"checkpoint_path": "a.ckpt"}},
        (
            "error[unused] backbone_kwargs.checkpoint_path: checkpoint_path cannot be handed to timm: composer loads "
            "weights itself.\n"
            "  fix: backbone_kwargs: {pretrained: PATH}\n"
        ),
    ),
    "axes that there are not": (
        {"necks": [{"name": "PermuteDims", "new_order": [0, -5, 1, 2]}]},
        """\
        error[value] necks[0].new_order: PermuteDims: new_order must be a whole number from 0 to 4 (got -5).
        """,
    ),
    "frames side by side in rows": (
        {
            **FRAMES,
            "backbone_temporal_pooling": "concat",
            "backbone_temporal_features_permute_op": [0, 3, 1, 2],
        },
        (
            "error[value] backbone_temporal_features_permute_op: the frames would lie side by side along axis 3 of "
            "each map, and its channels are axis 1.\n"
            "  fix: backbone_temporal_features_permute_op: null\n"
        ),
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
        (
            "error[part] aux_decoders[0].decoder: TerraTorch has no decoder 'FCNdecoder'.\n"
            "  fix: did you mean FCNDecoder?\n"
            "error[unused] aux_decoders[1].decoder_args.channels: channels was passed but not used: an "
            "argument begins with decoder_ or head_.\n"
            "  fix: write decoder_channels\n"
            "error[unused] aux_decoders[1].decoder_args.decoder_chanels: FCNDecoder has no argument 'chanels'.\n"
            "  fix: did you mean channels?\n"
            "error[unused] aux_decoders[2].decoder_args.head_dropout: LinearDecoder includes a head, so there "
            "is none for dropout.\n"
            "  fix: leave it out\n"
        ),
    ),
    "frames that nobody counted": (
        {"backbone_use_temporal": True},
        """\
        error[key] backbone_use_temporal: the number of frames has to be known.
          fix: say how many: backbone_temporal_n_timestamps
        """,
    ),
    "frames that nobody counted, in a dict": (
        {"backbone_kwargs": {"use_temporal": True}},
        """\
        error[key] backbone_kwargs.use_temporal: the number of frames has to be known.
          fix: say how many: temporal_n_timestamps
        """,
    ),
    "frames that are miscounted": (
        {**FRAMES, "backbone_temporal_subset_lengths": [2, 2]},
        (
            "error[value] backbone_temporal_subset_lengths: temporal_subset_lengths come to 4 frames, and "
            "temporal_n_timestamps is 3.\n"
            "  fix: temporal_n_timestamps: 4\n"
        ),
    ),
    "frames that are none": (
        {**FRAMES, "backbone_temporal_n_timestamps": 2.5},
        """\
        error[value] backbone_temporal_n_timestamps: temporal_n_timestamps is a whole number of at least 1 (got 2.5).
        """,
    ),
    "another pooling": (
        {**FRAMES, "backbone_temporal_pooling": "sum"},
        (
            "error[value] backbone_temporal_pooling: TemporalPooling: pooling must be one of mean, max, diff, "
            "concat, keep (got 'sum').\n"
        ),
    ),
    "what leaves": (
        {"rescale": "no"},
        """\
        error[value] rescale: rescale must be true or false (got 'no').
        """,
    ),
    "a size": (
        {"image_size_out": 7},
        """\
        error[value] image_size_out: image_size_out must be two whole numbers, height and width (got 7).
        """,
    ),
    "a module that is no backbone": (
        {"backbone": nn.Conv2d(3, 4, 1)},
        (
            "error[type] backbone: a backbone is the name of a network, or a module whose out_channels are a "
            "list (got Conv2d with out_channels 4).\n"
            "  fix: declare its features: backbone=composer.Custom(module, features=[…], channels=…, "
            "sizes=…)\n"
        ),
    ),
    "what is no module": (
        {"backbone": 7, "decoder": 8},
        """\
        error[type] backbone: a backbone is the name of a network (got 7).
          fix: backbone: timm_resnet50
        error[type] decoder: a decoder is the name of one, or a module (got 8).
          fix: decoder: FCNDecoder
        """,
    ),
    "how a backbone is padded": (
        {"backbone": Maps(), "backbone_padding": "circular"},
        """\
        error[value] backbone_padding: padding is one of reflect, replicate, constant, zeros (got 'circular').
        """,
    ),
    "to what a backbone is padded": (
        {"backbone": Maps(), "backbone_patch_size": "16"},
        """\
        error[value] backbone_patch_size: patch_size is a whole number, or a list of them (got '16').
        """,
    ),
    "a word for channels": (
        {"backbone": composer.Timm("resnet18"), "backbone_in_chans": "four"},
        """\
        error[value] backbone_in_chans: channels must be a whole number of at least 1 (got 'four').
        """,
    ),
}


NOTED = {
    "nothing": ({}, []),
    "a backbone that hides timm's": (
        {"backbone": "convnext_pico"},
        ["backbone: TerraTorch takes convnext_pico for a backbone of its own, which its factory cannot build."],
    ),
    "but not by its prefix": ({"backbone": "timm_convnext_pico"}, []),
    "the first level": (
        {"necks": [{"name": "AggregateTokens", "indices": 0}], "task": "classification", "decoder": "IdentityDecoder"},
        ["necks[0].indices: TerraTorch takes indices: 0 for none, and aggregates level -1."],
    ),
    "no level": (
        {
            "necks": [{"name": "AggregateTokens", "indices": [], "index": 1}],
            "task": "classification",
            "decoder": "IdentityDecoder",
        },
        ["necks[0].indices: TerraTorch takes indices: [] for none, and aggregates level 1."],
    ),
    "an ordered dict": (
        {"necks": [{"name": "FeaturePyramidNetworkNeck", "output_ordered_dict": True}]},
        [
            (
                "necks[0].output_ordered_dict: TerraTorch gives an ordered dict here, which no decoder of its factory "
                "takes; composer gives a tuple."
            )
        ],
    ),
    "a list": ({"necks": [{"name": "FeaturePyramidNetworkNeck", "output_ordered_dict": False}]}, []),
    "widths": (
        {"decoder": "MLPDecoder", "decoder_kwargs": {"channels": 8}},
        ["decoder_kwargs.channels: TerraTorch ignores channels; the layer is as wide as the input."],
    ),
    "what smp swallows": (
        {"decoder": "smp_PSPNet", "decoder_psp_channels": 8},
        ["decoder_psp_channels: smp's decoder PSPNet has no argument 'psp_channels', and its model swallows it."],
    ),
    "the finest map": (
        {"decoder": "smp_Linknet"},
        [
            (
                "decoder: smp takes the first map for the image itself and never looks at it, and in TerraTorch it is "
                "the finest."
            )
        ],
    ),
    "the outputs twice": (
        {"head_num_classes": 3},
        ["head_num_classes: TerraTorch takes num_classes: 2, which is given beside it."],
    ),
    "the same outputs twice": ({"head_num_classes": 2}, []),
    "no batch norm": (
        {**NUMBERS, "head_batch_norm": False, "aux_decoders": [AuxiliaryHead("one", "FCNDecoder")]},
        ["head_batch_norm: TerraTorch never reads batch_norm, so the head is built with batch norm."],
    ),
    "auxiliary heads": (
        {"aux_decoders": [AuxiliaryHead("one", "FCNDecoder", {"head_dropout": 0.1})]},
        [
            (
                "aux_decoders[0].decoder_args.head_dropout: TerraTorch makes auxiliary heads with the arguments of the "
                "main head, and ignores head_dropout."
            )
        ],
    ),
    "frames": (
        {**FRAMES, "backbone_temporal_concat": False},
        ["backbone_temporal_concat: TerraTorch ignores temporal_concat."],
    ),
    "axes of frames": (
        {**FRAMES, "backbone_temporal_features_permute_op": [0, 3, 1, 2]},
        [
            (
                "backbone_temporal_features_permute_op: TerraTorch undoes temporal_features_permute_op once frames are "
                "pooled, which goes by cells: it has no effect."
            )
        ],
    ),
    "axes of frames that are laid side by side": (
        {
            **FRAMES,
            "backbone_temporal_pooling": "concat",
            "backbone_temporal_features_permute_op": [0, 1, 3, 2],
        },
        [],
    ),
    "no frames": (
        {"backbone_temporal_n_timestamps": 3},
        ["backbone_temporal_n_timestamps: TerraTorch ignores temporal_n_timestamps without use_temporal."],
    ),
    "an output without a size": (
        {"task": "classification", "decoder": "IdentityDecoder", "rescale": False, "image_size_out": (8, 8)},
        [
            "rescale: the output of classification has no size, and TerraTorch ignores rescale.",
            "image_size_out: the output of classification has no size, and TerraTorch ignores image_size_out.",
        ],
    ),
    "an embedding": (
        {"task": "embedding_generation", "decoder_channels": 8, "head_kwargs": {"dropout": 0.1}},
        [
            "decoder: an embedding has no use for decoder, and TerraTorch drops it.",
            "num_classes: an embedding has no use for num_classes, and TerraTorch drops it.",
            "decoder_channels: an embedding has no use for decoder_channels, and TerraTorch drops it.",
            "head_kwargs.dropout: an embedding has no use for head_kwargs.dropout, and TerraTorch drops it.",
        ],
    ),
    "a backbone of one's own": (
        {"backbone": Maps(), "backbone_pretrained": True, "backbone_padding": "constant"},
        ["backbone_pretrained: TerraTorch ignores pretrained: the backbone is made already."],
    ),
    "a decoder of one's own": (
        {"decoder": Scores(includes_head=True)},
        ["decoder: TerraTorch puts a head of its own behind this decoder, although it says that it includes one."],
    ),
    "arguments of a decoder of one's own": (
        {"decoder": Scores(includes_head=False), "decoder_channels": 8, "head_dropout": 0.1},
        ["decoder_channels: TerraTorch ignores channels: the decoder is made already."],
    ),
    "a head of mmseg with several outputs": (
        {"decoder": "mmseg_DAHead", "decoder_channels": 64, "decoder_pam_channels": 8},
        [
            "decoder: TerraTorch fails on DAHead, which gives several outputs; here it gives the first of them.",
        ],
    ),
}
