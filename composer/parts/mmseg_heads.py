"""What mmseg's decode heads are called and told: names, arguments, defaults. No torch here, and no mmseg."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

MMSEG_DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "ANNHead": "ANN: non-local attention of a map to a pooled finer one, and then to itself.",
        "APCHead": "APCNet: context of several pooled sizes, weighed anew for every cell of a map.",
        "ASPPHead": "DeepLabV3: convolutions of several dilations beside the mean of a map.",
        "CCHead": "CCNet: every cell of a map attends to its row and its column, several times.",
        "DAHead": "DANet: attention over the cells of a map beside attention over its channels.",
        "DMHead": "DMNet: filters of several sizes that are made of the map they filter.",
        "DNLHead": "DNL: non-local attention, in what cells share and what sets them apart.",
        "DepthwiseSeparableASPPHead": "DeepLabV3+: pooling as in DeepLabV3, beside the first map, at its grid.",
        "DepthwiseSeparableFCNHead": "Fast-SCNN's FCN head: depthwise separable convolutions of a map.",
        "EMAHead": "EMANet: a map written in a few bases, which expectation maximisation finds.",
        "EncHead": "EncNet: a map whose channels are weighed by how it is told in learned code words.",
        "FCNHead": "FCN: convolutions of a map.",
        "FPNHead": "Semantic FPN: all maps brought to the finest grid step by step, and added.",
        "GCHead": "GCNet: one global context, added to every cell of a map.",
        "ISAHead": "ISANet: attention among cells that lie far apart, then among those that lie close.",
        "LightHamHead": "SegNeXt: all maps at the finest grid, seen through a matrix factorisation.",
        "NLHead": "Non-local network: every cell of a map attends to all others.",
        "PSPHead": "PSPNet: a map beside itself pooled to several sizes.",
        "SETRUPHead": "SETR: a map that is convolved and enlarged, once (naive) or several times (PUP).",
        "STDCHead": "STDC: an FCN head, whose own loss in mmseg looks at boundaries.",
        "SegformerHead": "SegFormer: all maps mixed per cell and brought to the finest grid.",
        "SegmenterMaskTransformerHead": "Segmenter: a transformer over the cells of a map and a token for each class.",
        "UPerHead": "UPerNet: pyramid pooling of the last map, a feature pyramid over all of them.",
    }
)
"""The heads that a list of maps goes into and one map of scores comes out of, each with a line on what it does."""

UNSUPPORTED_HEADS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "DDRHead": ("it takes the branches of DDRNet, and gives two maps in train mode", "FCNHead"),
        "DPTHead": ("it takes pairs of a map and a class token, which are no list of maps", "SETRUPHead"),
        "IterativeDecodeHead": ("it is made of other heads, and gives a list of maps in train mode", "UPerHead"),
        "LRASPPHead": ("it pools 49 cells a side, which takes images of some 800 pixels and more", "ASPPHead"),
        "Mask2FormerHead": ("it needs mmdet, and gives masks of queries in place of a map", "UPerHead"),
        "MaskFormerHead": ("it needs mmdet, and gives masks of queries in place of a map", "UPerHead"),
        "OCRHead": ("it takes the prediction of another head beside the maps", "ISAHead"),
        "PIDHead": ("it takes the branches of PIDNet, and gives three maps in train mode", "FCNHead"),
        "PSAHead": (
            "it needs an operation that mmcv compiles, of which there is no package for current torch",
            "CCHead",
        ),
        "PointHead": ("it takes points and the prediction of another head, and gives scores of points", "FPNHead"),
        "SETRMLAHead": ("it takes maps that are all of one stride, of widths that must add up", "SETRUPHead"),
        "SideAdapterCLIPHead": ("it takes the image and the features of CLIP beside the maps", "UPerHead"),
        "VPDDepthHead": ("it gives depth at more cells than the image has pixels", "UPerHead"),
    }
)
"""The heads that do not keep that contract: the reason, and the nearest head that does."""

_COMMON: Mapping[str, Any] = {
    "num_classes": None,
    "channels": 512,
    "in_index": -1,
    "norm": "BN",
    "act": "ReLU",
    "dropout_ratio": 0.1,
    "align_corners": False,
}
_ONE: Mapping[str, Any] = {**_COMMON, "input_transform": None}
_SEVERAL: Mapping[str, Any] = {**_COMMON, "in_index": None}
_FCN: Mapping[str, Any] = {**_ONE, "kernel_size": 3, "concat_input": True, "dilation": 1}
_SCALES: Mapping[str, Any] = {"pool_scales": (1, 2, 3, 6)}
_NON_LOCAL: Mapping[str, Any] = {**_FCN, "reduction": 2, "use_scale": True, "mode": "embedded_gaussian"}

MMSEG_HEAD_ARGUMENTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ANNHead": {**_SEVERAL, "in_index": (-2, -1), "project_channels": 256, "key_pool_scales": (1, 3, 6, 8)},
        "APCHead": {**_ONE, **_SCALES, "fusion": True},
        "ASPPHead": {**_ONE, "dilations": (1, 6, 12, 18)},
        "CCHead": {**_FCN, "recurrence": 2},
        "DAHead": {**_ONE, "pam_channels": 64},
        "DMHead": {**_ONE, "filter_sizes": (1, 3, 5, 7), "fusion": False},
        "DNLHead": {**_NON_LOCAL, "temperature": 0.05},
        "DepthwiseSeparableASPPHead": {**_ONE, "dilations": (1, 6, 12, 18), "c1_channels": 48},
        "DepthwiseSeparableFCNHead": {
            **{name: default for name, default in _ONE.items() if name != "act"},
            "channels": 128,
            "num_convs": 2,
            "kernel_size": 3,
            "concat_input": True,
        },
        "EMAHead": {
            **_ONE,
            "channels": 256,
            "ema_channels": 512,
            "num_bases": 64,
            "num_stages": 3,
            "concat_input": True,
            "momentum": 0.1,
        },
        "EncHead": {**_SEVERAL, "num_codes": 32, "add_lateral": False},
        "FCNHead": {**_FCN, "num_convs": 2},
        "FPNHead": {**_SEVERAL, "channels": 128},
        "GCHead": {**_FCN, "ratio": 0.25, "pooling_type": "att", "fusion_types": ("channel_add",)},
        "ISAHead": {**_ONE, "isa_channels": 256, "down_factor": (8, 8)},
        "LightHamHead": {
            **_SEVERAL,
            "norm": "GN",
            "ham_channels": 512,
            "MD_S": 1,
            "MD_R": 64,
            "train_steps": 6,
            "eval_steps": 7,
        },
        "NLHead": _NON_LOCAL,
        "PSPHead": {**_ONE, **_SCALES},
        "SETRUPHead": {**_ONE, "channels": 256, "num_convs": 1, "up_scale": 4, "kernel_size": 3},
        "STDCHead": {**_FCN, "channels": 64, "num_convs": 1},
        "SegformerHead": {**_SEVERAL, "channels": 256, "interpolate_mode": "bilinear"},
        "SegmenterMaskTransformerHead": {
            "num_classes": None,
            "in_index": -1,
            "act": "GELU",
            "num_layers": 2,
            "num_heads": None,
            "embed_dims": None,
            "mlp_ratio": 4,
            "drop_path_rate": 0.1,
            "drop_rate": 0.0,
            "attn_drop_rate": 0.0,
        },
        "UPerHead": {**_SEVERAL, **_SCALES},
    }
)
"""What each head takes, with mmseg's own default; where it has none, and for `norm`, what its published configs say.

`num_classes` has to be given. `in_index` of None takes all maps; `embed_dims` of None is the width of the map, and
`num_heads` of None a head for 64 of these, as in Segmenter's configs.
"""
