"""Valid specs to mutate: a few small ones, and those of the folder `specs`."""

from __future__ import annotations

from pathlib import Path

_CHAIN_SPEC = """\
input: {channels: 5}
encoder: timm/test_resnet
decoder: {UNetDecoder: {channels: [16, 8, 8, 4, 4]}}
head: {SegmentationHead: {num_classes: 3}}
aux:
  early:
    decoder: {FCNDecoder: {channels: 4, num_convs: 1}}
    head: {RegressionHead: {dropout: 0.1}}
crop: [24, 32]
padding: {mode: zeros, side: end}
"""

_TOKENS_SPEC = """\
encoder: {timm/test_vit: {tokens: true, out_indices: [0, 1, -1]}}
necks:
  - ReshapeTokensToImage
  - SelectIndices: {indices: [0, -1]}
decoder: {MLPDecoder: {channels: null}}
head: {ClassificationHead: {num_classes: 2, dim_list: [8]}}
rescale: false
"""

_SHARED_SPEC = """\
inputs: {before: &image {channels: 4}, after: *image }
nodes:
  old: {part: {timm/test_convnext: {out_indices: [1, 2, 3]}}, from: before}
  new: {share: old, from: after}
  both: {part: ConcatFeatures, from: [old, new]}
  change: {part: {UperNetDecoder: {channels: 8}}, from: both}
  score: {part: {SegmentationHead: {num_classes: 2}}, from: [change]}
  seen: {part: EmbeddingHead, from: both}
outputs: [score]
auxiliary: {seen: seen}
"""

_FRAMES_SPEC = """\
input: {channels: 3, frames: 3, size: [32, 64]}
encoder: {timm/test_resnet: {any_size: true}}
necks: [{TemporalPooling: {pooling: concat}}]
decoder: {LinearDecoder: {num_classes: 2, upsampling_size: 4}}
"""

BUILTIN_SEEDS = (_CHAIN_SPEC, _TOKENS_SPEC, _SHARED_SPEC, _FRAMES_SPEC)
"""Specs of small networks with most of the features of a spec."""

SPECS_FOLDER = Path(__file__).parents[2] / "specs"


def list_seeds() -> tuple[str, ...]:
    """Return the texts to mutate."""
    return (*BUILTIN_SEEDS, *(path.read_text(encoding="utf-8") for path in sorted(SPECS_FOLDER.glob("*.yaml"))))
