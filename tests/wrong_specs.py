"""Specs that are wrong, by name: those that cannot be read, and then those that `infer` rejects.

tests/golden/wrong.json has all that is said about each, with its place, the rule, both sides, and a fix.
"""

_TEXTS = {
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
    "unknown keys": """
encoder: timm/resnet18
decodr: FCNDecoder
activation: ReLU
backbone: x
decode_head: x
auxiliary_head: x
colors: [red]
in_channels: 6
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
encoder: {timm/resnet18: {out_indices: [1, true, 2.0, '3'], features_only: yes, pretrained: 1}}
head: {SegmentationHead: {num_classes: '64', dropout: true, channel_list: 5}}
""",
    "wrong shapes of values": """
encoder: 5
necks: SelectIndices
aux: {a: FCNDecoder}
padding: reflect
""",
    "values": """
input: {channels: 0, stride: 1.5, size: 224, frames: '3'}
encoder: timm/resnet18
necks:
  - InterpolateToPyramidal: {mode: nearst}
decoder: {UNetDecoder: {channels: [0, 16, 70000]}}
head: {SegmentationHead: {num_classes: 2, dropout: 1.0}}
aux: {a: {decoder: {MLPDecoder: {activation: swish}}}}
padding: {mode: reflekt, side: left}
crop: [0, 64]
""",
    "fields that exclude each other": """
encoder: {timm/resnet18: {tokens: true, features_only: true}}
""",
    "fields": """
encoder: timm/resnet18
necks:
  - AddBottleneckLayer: {channels: 2}
decoder: {FCNDecoder: 5}
head: {SegmentationHead: {num_clases: 2}}
aux: {a: {decoder: FCNDecoder, head: {SegmentationHead: {class_names: [a, b]}}}}
""",
    "fields of other libraries": """
encoder:
  timm/test_vit:
    dynamic_img_size: 6
    strict_img_size: 6
    in_chans: 6
    num_classes: 6
    checkpoint_path: 6
    drop_path_rate: 6
    pretraind: 6
head: {SegmentationHead: {num_classes: [2]}}
""",
    "a network by its name on the Hub": "encoder: hf-hub:timm/resnet50.a1_in1k\n",
    "a network that the Hub has not": "encoder: hf_hub:timm/resnet5000\n",
    "a network by its address": "encoder: https://huggingface.co/timm/resnet50.a1_in1k\n",
    "a path in place of a text": "specs/vit-unet.yaml",
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
  e: {share: e, from: image}
  f: {part: timm/resnet18, from: []}
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
    "unused": """
inputs: {image: {}, other: {}}
nodes:
  a: {part: timm/resnet18, from: image}
  b: {part: FCNDecoder, from: a}
  c: {part: FCNDecoder, from: a}
outputs: [b]
""",
    "names of several nodes": """
inputs: {image: {}}
nodes:
  image: {part: timm/resnet18, from: image}
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
    "an index too far": """
encoder: timm/resnet18
necks:
  - SelectIndices: {indices: [0, 7]}
decoder: UperNetDecoder
head: {SegmentationHead: {num_classes: 2}}
""",
    "many features for a head": """
encoder: timm/resnet18
head: {SegmentationHead: {num_classes: 2}}
""",
    "head after head": """
encoder: timm/resnet18
decoder: {LinearDecoder: {num_classes: 2, upsampling_size: 2}}
head: {SegmentationHead: {num_classes: 2}}
""",
    "tokens that are not there": """
encoder: timm/resnet18
necks:
  - AggregateTokens: {pooling: cls, indices: 0}
decoder: IdentityDecoder
head: {ScalarHead: {num_outputs: 2}}
""",
    "channels last, to be pooled": """
encoder: timm/resnet18
necks:
  - PermuteDims: {new_order: [0, 2, 3, 1]}
  - AggregateTokens
decoder: IdentityDecoder
""",
    "maps in no order": """
encoder: timm/resnet18
necks:
  - SelectIndices: {indices: [4, 0, 0, 1]}
decoder: {UperNetDecoder: {scale_modules: true}}
aux:
  a: {decoder: UperNetDecoder}
""",
    "an output of many": """
encoder: timm/resnet18
""",
    "a decoder and no head": """
encoder: timm/resnet18
decoder: FCNDecoder
aux:
  early: {decoder: {FCNDecoder: {in_index: 0}}}
""",
    "maps of frames for a decoder": """
input: {frames: 3}
encoder: timm/resnet18
decoder: FCNDecoder
""",
    "a map of frames as an output": """
input: {frames: 3}
encoder: {timm/resnet18: {out_indices: [3]}}
""",
    "subsets of other frames": """
input: {frames: 5}
encoder: timm/resnet18
necks:
  - TemporalPooling: {subset_lengths: [2, 2]}
decoder: FCNDecoder
""",
    "the difference of three": """
input: {frames: 3}
encoder: timm/resnet18
necks:
  - TemporalPooling: {pooling: diff}
decoder: FCNDecoder
""",
    "several at once": """
encoder: timm/resnet18
decoder: {FCNDecoder: {in_index: 9}}
aux:
  a: {decoder: {UNetDecoder: {channels: [8]}}}
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
""",
    "weights shared by what differs": """
inputs: {a: {}, b: {channels: 4}}
nodes:
  x: {part: timm/resnet18, from: a}
  y: {share: x, from: b}
  joined: {part: ConcatFeatures, from: [x, y]}
  out: {part: FCNDecoder, from: joined}
outputs: [out]
""",
    "a prefix on a grid": """
encoder: {timm/vit_small_patch16_224: {tokens: true}}
necks:
  - ReshapeTokensToImage: {remove_cls_token: false}
decoder: FCNDecoder
""",
}

TEXTS = {name: text.removeprefix("\n") for name, text in _TEXTS.items()}
