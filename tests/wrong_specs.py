"""Specs that are wrong, by name. tests/golden/wrong.json has what is said about those of `READ`."""

# ruff: noqa: E501  messages stand here as they are printed

_READ = {
    "empty": "# nothing yet\n",
    "two documents": "encoder: timm/resnet18\n---\nhead: {SegmentationHead: {num_classes: 2}}\n",
    "a tab": "encoder:\n\ttimm/resnet18\n",
    "no YAML": "encoder: timm/resnet18\ndecoder: {FCNDecoder: {channels: 64\n",
    "a list": "- timm/resnet18\n",
    "a tag": """
encoder: !!python/object/apply:os.system [rm -rf /]
head: {SegmentationHead: {num_classes: 2}}
""",
    "a merge key": "base: &base {channels: 3}\ninput:\n  <<: *base\n",
    "a key that is no string": "encoder: timm/resnet18\n1: FCNDecoder\n",
    "an alias of nothing": "encoder: *resnet\n",
    "repeated keys": """
encoder: timm/resnet18
decoder: {FCNDecoder: {channels: 8, channels: 9}}
head: {SegmentationHead: {num_classes: 2}}
encoder: timm/resnet18
""",
    "unknown keys": """
encoder: timm/resnet18
decodr: FCNDecoder
activation: ReLU
head: {SegmentationHead: {num_classes: 2}}
""",
    "no encoder": "decoder: FCNDecoder\nhead: {SegmentationHead: {num_classes: 2}}\n",
    "mixed forms": """
encoder: timm/resnet18
nodes: {a: {part: FCNDecoder, from: encoder}}
outputs: [a]
""",
    "one key of the other form": """
inputs: {channels: 6}
encoder: timm/resnet18
decoder: FCNDecoder
""",
    "wrong types": """
encoder: timm/resnet18
head: {SegmentationHead: {num_classes: '64', dropout: true, channel_list: 5}}
""",
    "wrong types in lists": "encoder: {timm/resnet18: {out_indices: [1, true, 2.0, '3']}}\n",
    "YAML 1.1": "encoder: {timm/resnet18: {features_only: yes, pretrained: 1}}\n",
    "wrong shapes of values": """
encoder: 5
necks: SelectIndices
aux: {a: FCNDecoder}
padding: reflect
""",
    "out of range": """
encoder: timm/resnet18
decoder: {UNetDecoder: {channels: [0, 16, 70000]}}
head: {SegmentationHead: {num_classes: 2, dropout: 1.0}}
""",
    "no such choice": """
encoder: timm/resnet18
necks:
  - InterpolateToPyramidal: {mode: nearst}
decoder: {MLPDecoder: {activation: swish}}
""",
    "fields that exclude each other": """
encoder: {timm/resnet18: {tokens: true, features_only: true}}
""",
    "padding": "encoder: timm/resnet18\npadding: {mode: reflekt, side: left}\ndecoder: FCNDecoder\n",
    "an image that is none": """
input: {channels: 0, stride: 1.5, size: 224, frames: '3'}
encoder: timm/resnet18
""",
    "a missing field": "encoder: timm/resnet18\nhead: SegmentationHead\n",
    "a misspelled field": "encoder: timm/resnet18\nhead: {SegmentationHead: {num_clases: 2}}\n",
    "fields of none": "encoder: timm/resnet18\nnecks:\n  - AddBottleneckLayer: {channels: 2}\n",
    "an unknown part": "encoder: timm/resnet18\ndecoder: UperNetDecodr\n",
    "a network of timm by smp's name": "encoder: smp/tu-resnet18\n",
    "an unknown source": "encoder: tim/resnet18\n",
    "a name that no network is much like": "encoder: clay\n",
    "a source alone": "encoder: smp\n",
    "a name of another source": "encoder: smp/convnext_tiny\n",
    "a name that its source has not": "encoder: smp/clay\n",
    "a source whose names are not listed, misspelled": "encoder: transformer/swin\n",
    "a source and a name that nobody knows": "encoder: foo/clay\n",
    "Clay 1.5": "encoder: terratorch/clay_v15\n",
    "a decoder in small letters": "encoder: timm/resnet18\ndecoder: unetdecoder\n",
    "wrong kinds": """
encoder: FCNDecoder
necks: [RegressionHead]
decoder: AddFeatures
head: timm/resnet18
""",
    "fields beside the name": """
encoder: timm/resnet18
decoder:
  FCNDecoder:
  channels: 64
""",
    "a name left out": "encoder: timm/resnet18\ndecoder:\n",
    "options that are not plain": "encoder: {timm/resnet18: {options: {a: {b: .inf}, c: [.nan]}}}\n",
    "a branch without a decoder": """
encoder: timm/resnet18
decoder: FCNDecoder
aux: {early: {head: RegressionHead}}
""",
    "reserved names": """
encoder: timm/resnet18
decoder: FCNDecoder
aux: {train: {decoder: FCNDecoder}, 2nd: {decoder: FCNDecoder}}
""",
    "unknown references": """
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: imag}
  b: {part: FCNDecoder, from: [a, x]}
  c: {share: bb, from: image}
outputs: [d]
auxiliary: {x: image}
""",
    "a part that cannot be read hides no reference": """
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: image}
  b: {part: FCNDecodr, from: a}
  c: {part: RegressionHead, from: bb}
outputs: [c]
""",
    "an unread reference makes no other wrong": """
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: image}
  b: {part: FCNDecoder, from: 5}
outputs: [b]
""",
    "an unread output makes no node unused": """
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: image}
  b: {part: FCNDecoder, from: a}
outputs: [a, 5]
""",
    "nodes that are none": """
inputs: {image: {}}
nodes:
  a: timm/resnet18
  b: {from: a}
  c: {part: FCNDecoder}
  d: {part: FCNDecoder, share: c, from: a, as: x}
outputs: [d]
""",
    "no inputs, no nodes": "outputs: [a]\n",
    "no outputs": "inputs: {image: {}}\nnodes:\n  a: {part: timm/resnet18, from: image}\n",
    "a single output": """
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: image}
outputs: a
""",
    "a circle": """
inputs: {image: {}}
nodes:
  a: {part: FCNDecoder, from: b}
  b: {part: FCNDecoder, from: a}
outputs: [b]
""",
    "a node shares itself": """
inputs: {image: {}}
nodes:
  a: {share: a, from: image}
  b: {part: timm/resnet18, from: image}
outputs: [a, b]
""",
    "unused": """
inputs: {image: {}, other: {}}
nodes:
  a: {part: timm/resnet18, from: image}
  b: {part: FCNDecoder, from: a}
  c: {part: FCNDecoder, from: a}
outputs: [b]
""",
    "a node named as an input": """
inputs: {image: {}}
nodes:
  image: {part: timm/resnet18, from: image}
outputs: [image]
""",
    "a node within a node": """
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: image}
  a.b: {part: FCNDecoder, from: a}
outputs: [a.b]
""",
    "all stages at once": """
encoder: timm/resnet18
decoder: {FCNDecoder: {channels: '8', channels: 9}}
head: SegmentationHead
aux: {2nd: {decoder: FCNDecodr}}
rescale: !!str no
""",
    "takes from nothing": """
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: []}
outputs: [a]
""",
}

READ = {name: text.removeprefix("\n") for name, text in _READ.items()}
"""Refused when read."""

_INFERRED = {
    "widths for other maps": """
encoder: timm/resnet18
decoder: {UNetDecoder: {channels: [64, 32]}}
head: {SegmentationHead: {num_classes: 2}}
---
<text>:2:35: error[count] decoder.channels: UNetDecoder has 2 widths in channels, one for each map it takes (got 5 maps).
  fix: channels: [64, 32, 16, 16, 16]
""",
    "tokens where maps belong": """
encoder: {timm/vit_small_patch16_224: {tokens: true}}
decoder: UperNetDecoder
head: {SegmentationHead: {num_classes: 2}}
---
<text>:2:10: error[layout] decoder: UperNetDecoder takes maps "b c h w"; encoder gives 4 × tokens "b n c" (384 channels, stride 16, 1 prefix token).
  fix: necks: [ReshapeTokensToImage]
""",
    "an index too far": """
encoder: timm/resnet18
necks:
  - SelectIndices: {indices: [0, 7]}
decoder: UperNetDecoder
head: {SegmentationHead: {num_classes: 2}}
---
<text>:3:34: error[index] necks[0].indices[1]: SelectIndices takes feature 7 (got 5 features).
  fix: use indices from -5 to 4
""",
    "a pyramid upside down": """
encoder: timm/resnet18
necks:
  - SelectIndices: {indices: [3, 1]}
decoder: UperNetDecoder
head: {SegmentationHead: {num_classes: 2}}
---
<text>:4:10: error[index] decoder: UperNetDecoder takes maps finest first, so strides must not decrease; necks[0] gives 2 × map "b c h w" (256, 64 channels, stride 16, 4).
  fix: necks: [SelectIndices: {indices: [3, 1]}, SelectIndices: {indices: [1, 0]}]
""",
    "strides that do not double": """
encoder: {timm/vit_small_patch16_224: {tokens: true}}
necks: [ReshapeTokensToImage]
decoder: {UNetDecoder: {channels: [8, 8, 8, 8]}}
head: {SegmentationHead: {num_classes: 2}}
---
<text>:3:10: error[stride] decoder: UNetDecoder takes maps whose stride doubles from one to the next; necks[0] gives 4 × map "b c h w" (384 channels, stride 16).
  fix: necks: [ReshapeTokensToImage, LearnedInterpolateToPyramidal]
""",
    "many features for a head": """
encoder: timm/resnet18
head: {SegmentationHead: {num_classes: 2}}
---
<text>:2:7: error[count] head: SegmentationHead takes one feature; encoder gives 5 × map "b c h w" (64, 64, 128, 256, 512 channels, stride 2, 4, 8, 16, 32).
  fix: decoder: IdentityDecoder
""",
    "head after head": """
encoder: timm/resnet18
decoder: {LinearDecoder: {num_classes: 2, upsampling_size: 2}}
head: {SegmentationHead: {num_classes: 2}}
---
<text>:3:7: error[output] head: SegmentationHead takes features (got a prediction, from decoder).
  fix: leave this head out
""",
    "tokens that are not there": """
encoder: timm/resnet18
necks:
  - AggregateTokens: {pooling: cls, indices: 0}
decoder: IdentityDecoder
head: {ScalarHead: {num_outputs: 2}}
---
<text>:3:32: error[prefix] necks[0].pooling: AggregateTokens takes the class token, which not every feature at indices has; encoder gives 5 × map "b c h w" (64, 64, 128, 256, 512 channels, stride 2, 4, 8, 16, 32).
  fix: pooling: mean
""",
    "channels last, to be pooled": """
encoder: timm/resnet18
necks:
  - PermuteDims: {new_order: [0, 2, 3, 1]}
  - AggregateTokens
decoder: IdentityDecoder
---
<text>:4:5: error[layout] necks[1]: AggregateTokens takes tokens "b n c", maps "b c h w", or either per frame; necks[0] gives 5 × map "b h w c" (64, 64, 128, 256, 512 channels, stride 2, 4, 8, 16, 32).
  fix: necks: [PermuteDims: {new_order: [0, 2, 3, 1]}, PermuteDims: {new_order: [0, 3, 1, 2]}, AggregateTokens]
""",
    "maps in no order": """
encoder: timm/resnet18
necks:
  - SelectIndices: {indices: [4, 0, 0, 1]}
decoder: {UperNetDecoder: {scale_modules: true}}
aux:
  a: {decoder: UperNetDecoder}
---
<text>:4:10: error[index] decoder: UperNetDecoder takes maps finest first, so strides must not decrease; necks[0] gives 4 × map "b c h w" (512, 64, 64, 64 channels, stride 32, 2, 2, 4).
  fix: necks: [SelectIndices: {indices: [4, 0, 0, 1]}, SelectIndices: {indices: [1, 2, 3, 0]}]
<text>:6:16: error[index] aux.a.decoder: UperNetDecoder takes maps finest first, so strides must not decrease; necks[0] gives 4 × map "b c h w" (512, 64, 64, 64 channels, stride 32, 2, 2, 4).
  fix: necks: [SelectIndices: {indices: [4, 0, 0, 1]}, SelectIndices: {indices: [1, 2, 3, 0]}]
""",
    "an output of many": """
encoder: timm/resnet18
---
<text>:1:10: error[output] encoder: an output is one map "b c h w" or one vector "b c"; encoder gives 5 × map "b c h w" (64, 64, 128, 256, 512 channels, stride 2, 4, 8, 16, 32).
  fix: add IdentityDecoder, which passes one on; or head: EmbeddingHead, which returns features as they are
""",
    "channels of the image": """
input: {channels: 6}
encoder: timm/resnet18
decoder: FCNDecoder
---
<text>:2:10: error[channels] encoder: timm/resnet18 takes an image of 3 channels; image gives map "b c h w" (6 channels, stride 1).
  fix: input: {channels: 3}
""",
    "a decoder and no head": """
encoder: timm/resnet18
decoder: FCNDecoder
aux:
  early: {decoder: {FCNDecoder: {in_index: 0}}}
---
<text>:2:10: error[output] decoder: FCNDecoder gives features; a head must turn them into a prediction.
  fix: add a head; EmbeddingHead gives features as they are
<text>:4:20: error[output] aux.early.decoder: FCNDecoder gives features; a head must turn them into a prediction.
  fix: add a head; EmbeddingHead gives features as they are
""",
    "sizes that exclude each other": """
input: {size: [100, 100]}
encoder: {timm/resnet18: {img_size: 224}}
decoder: IdentityDecoder
---
<text>:2:10: error[sizes] encoder: no image size suits both: image takes exactly 100 × 100; encoder takes exactly 224 × 224.
  fix: change the input's size or the encoder's img_size to one that both take
""",
    "maps of frames for a decoder": """
input: {frames: 3}
encoder: timm/resnet18
decoder: FCNDecoder
---
<text>:3:10: error[layout] decoder: FCNDecoder takes maps "b c h w"; encoder gives 5 × map "b t c h w" (64, 64, 128, 256, 512 channels, stride 2, 4, 8, 16, 32, 3 frames).
  fix: necks: [TemporalPooling]
""",
    "a map of frames as an output": """
input: {frames: 3}
encoder: {timm/resnet18: {out_indices: [3]}}
---
<text>:2:10: error[output] encoder: an output is one map "b c h w" or one vector "b c"; encoder gives map "b t c h w" (256 channels, stride 16, 3 frames).
  fix: bring it to that layout with a neck; or head: EmbeddingHead, which returns features as they are
""",
    "subsets of other frames": """
input: {frames: 5}
encoder: timm/resnet18
necks:
  - TemporalPooling: {subset_lengths: [2, 2]}
decoder: FCNDecoder
---
<text>:4:39: error[frames] necks[0].subset_lengths: TemporalPooling divides 4 frames into the subsets [2, 2] (got 5 frames).
  fix: subset_lengths: [2, 3]
""",
    "the difference of three": """
input: {frames: 3}
encoder: timm/resnet18
necks:
  - TemporalPooling: {pooling: diff}
decoder: FCNDecoder
---
<text>:4:32: error[count] necks[0].pooling: TemporalPooling takes the difference of exactly two frames or subsets (got 3 frames).
  fix: subset_lengths: [1, 2]
""",
    "several at once": """
encoder: timm/resnet18
decoder: {FCNDecoder: {in_index: 9}}
aux:
  a: {decoder: {UNetDecoder: {channels: [8]}}}
---
<text>:2:34: error[index] decoder.in_index: FCNDecoder takes feature 9 (got 5 features).
  fix: use in_index from -5 to 4
<text>:4:41: error[count] aux.a.decoder.channels: UNetDecoder has 1 width in channels, one for each map it takes (got 5 maps).
  fix: channels: [8, 8, 8, 8, 8]
""",
    "too few levels": """
inputs: {image: {}}
nodes:
  five: {part: timm/resnet18, from: image}
  three: {part: {SelectIndices: {indices: [2, 3, 4]}}, from: five}
  one: {part: {SelectIndices: {indices: [0]}}, from: five}
  four: {part: LearnedInterpolateToPyramidal, from: three}
  fpn: {part: smp/FPN, from: three}
  plus: {part: smp/UnetPlusPlus, from: one}
  out: {part: FCNDecoder, from: four}
outputs: [out, fpn, plus]
---
<text>:6:16: error[count] four: LearnedInterpolateToPyramidal takes exactly four maps; three gives 3 × map "b c h w" (128, 256, 512 channels, stride 8, 16, 32).
  fix: let the encoder give four levels, with its out_indices or its depth
<text>:7:15: error[count] fpn: smp/FPN takes at least 4 maps; three gives 3 × map "b c h w" (128, 256, 512 channels, stride 8, 16, 32).
  fix: let the encoder give four levels or more, with its out_indices or its depth
<text>:8:16: error[count] plus: smp/UnetPlusPlus takes at least 2 maps where the first is level 1; one gives map "b c h w" (64 channels, stride 2).
  fix: let the encoder give more levels, with its out_indices or its depth
""",
    "joins that do not fit": """
inputs: {a: {}, b: {}}
nodes:
  x: {part: timm/resnet18, from: a}
  y: {part: {timm/resnet18: {out_indices: [1, 2, 3, 4]}}, from: b}
  joined: {part: ConcatFeatures, from: [x, y]}
  two: {part: FCNDecoder, from: [x, y]}
  out: {part: FCNDecoder, from: joined}
outputs: [out, two]
---
<text>:5:18: error[count] joined: ConcatFeatures joins branches level by level, and its first input has 5 levels (got 4 levels).
  fix: put SelectIndices: {indices: [1, 2, 3, 4]} between x and joined
<text>:6:15: error[inputs] two: FCNDecoder takes one input (got 2 inputs).
  fix: join them first, with ConcatFeatures or AddFeatures
""",
    "weights shared by what differs": """
inputs: {a: {}, b: {channels: 4}}
nodes:
  x: {part: timm/resnet18, from: a}
  y: {share: x, from: b}
  joined: {part: ConcatFeatures, from: [x, y]}
  out: {part: FCNDecoder, from: joined}
outputs: [out]
---
<text>:4:14: error[join] y: timm/resnet18 shares the weights of x, which was made for map "b c h w" (3 channels, stride 1); b gives map "b c h w" (4 channels, stride 1).
  fix: give both nodes inputs of the same features
""",
    "a prefix on a grid": """
encoder: {timm/vit_small_patch16_224: {tokens: true}}
necks:
  - ReshapeTokensToImage: {remove_cls_token: false}
decoder: FCNDecoder
---
<text>:3:46: error[prefix] necks[0].remove_cls_token: ReshapeTokensToImage lays tokens out on a grid, where prefix tokens have no place; encoder gives 4 × tokens "b n c" (384 channels, stride 16, 1 prefix token).
  fix: remove_cls_token: true
""",
}

INFERRED = {name: text.strip("\n").split("\n---\n") for name, text in _INFERRED.items()}
"""Read, and refused by infer: `(spec, what is said)`."""
