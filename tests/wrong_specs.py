"""Specs that are wrong, each with the whole of what is said about it: `(text, message)` by name."""

# ruff: noqa: E501  messages stand here as they are printed

READ = {
    "empty": (
        """\
# nothing yet
""",
        """\
<text>:1:1: error[key] the file is empty.
  fix: describe a model: encoder: timm/resnet50""",
    ),
    "two documents": (
        """\
encoder: timm/resnet18
---
head: {SegmentationHead: {num_classes: 2}}
""",
        """\
<text>:2:1: error[yaml] a file holds one document; a second one begins here.""",
    ),
    "a tab": (
        """\
encoder:
\ttimm/resnet18
""",
        """\
<text>:2:1: error[yaml] found character that cannot start any token.""",
    ),
    "no YAML": (
        """\
encoder: timm/resnet18
decoder: {FCNDecoder: {channels: 64
""",
        """\
<text>:3:1: error[yaml] did not find expected ',' or '}'.""",
    ),
    "a list": (
        """\
- timm/resnet18
""",
        """\
<text>:1:1: error[type] expected a mapping of keys (got a list of 1).
  fix: describe a model: encoder: timm/resnet50""",
    ),
    "a tag": (
        """\
encoder: !!python/object/apply:os.system [rm -rf /]
head: {SegmentationHead: {num_classes: 2}}
""",
        """\
<text>:1:10: error[yaml] tags are not supported (got !!python/object/apply:os.system).
  fix: leave the tag out""",
    ),
    "a merge key": (
        """\
base: &base {channels: 3}
input:
  <<: *base
""",
        """\
<text>:3:3: error[yaml] merge keys (<<) are not supported.
  fix: write the keys out""",
    ),
    "a key that is no string": (
        """\
encoder: timm/resnet18
1: FCNDecoder
""",
        """\
<text>:2:1: error[yaml] a key is a string (got 1, a whole number).""",
    ),
    "an alias of nothing": (
        """\
encoder: *resnet
""",
        """\
<text>:1:10: error[yaml] there is no anchor &resnet before this alias.""",
    ),
    "repeated keys": (
        """\
encoder: timm/resnet18
decoder: {FCNDecoder: {channels: 8, channels: 9}}
head: {SegmentationHead: {num_classes: 2}}
encoder: timm/resnet18
""",
        """\
<text>:2:37: error[key] the key 'channels' is here for the second time; the first is on line 2.
  fix: leave one of them out
<text>:4:1: error[key] the key 'encoder' is here for the second time; the first is on line 1.
  fix: leave one of them out""",
    ),
    "unknown keys": (
        """\
encoder: timm/resnet18
decodr: FCNDecoder
activation: ReLU
head: {SegmentationHead: {num_classes: 2}}
""",
        """\
<text>:2:1: error[key] decodr: a model has no key 'decodr'.
  fix: did you mean decoder or encoder?
<text>:3:1: error[key] activation: a model has no key 'activation'.
  fix: known: aux, crop, decoder, encoder, head, input, necks, padding, rescale""",
    ),
    "no encoder": (
        """\
decoder: FCNDecoder
head: {SegmentationHead: {num_classes: 2}}
""",
        """\
<text>:1:1: error[key] a chain needs an encoder.
  fix: encoder: timm/resnet50""",
    ),
    "mixed forms": (
        """\
encoder: timm/resnet18
nodes: {a: {part: FCNDecoder, from: encoder}}
outputs: [a]
""",
        """\
<text>:1:1: error[key] encoder: a file is a chain or a graph, and this one is a graph; keys of a chain: encoder.
  fix: leave out what belongs to a chain""",
    ),
    "one key of the other form": (
        """\
inputs: {channels: 6}
encoder: timm/resnet18
decoder: FCNDecoder
""",
        """\
<text>:1:1: error[key] inputs: a file is a chain or a graph, and this one is a chain; keys of a graph: inputs.
  fix: did you mean input?""",
    ),
    "wrong types": (
        """\
encoder: timm/resnet18
head: {SegmentationHead: {num_classes: '64', dropout: true, channel_list: 5}}
""",
        """\
<text>:2:40: error[type] head.num_classes: expected a whole number (got '64', a string).
  fix: write 64 without quotes
<text>:2:55: error[type] head.dropout: expected a number (got true).
<text>:2:75: error[type] head.channel_list: expected a list of whole numbers, or null (got 5, a whole number).
  fix: write a list, such as [5]""",
    ),
    "wrong types in lists": (
        """\
encoder: {timm/resnet18: {out_indices: [1, true, 2.0, '3']}}
""",
        """\
<text>:1:44: error[type] encoder.out_indices[1]: expected a whole number (got true).
<text>:1:50: error[type] encoder.out_indices[2]: expected a whole number (got 2.0, a number).
  fix: write 2
<text>:1:55: error[type] encoder.out_indices[3]: expected a whole number (got '3', a string).
  fix: write 3 without quotes""",
    ),
    "YAML 1.1": (
        """\
encoder: {timm/resnet18: {features_only: yes, pretrained: 1}}
""",
        """\
<text>:1:42: error[type] encoder.features_only: expected true or false (got 'yes', a string).
  fix: write true
<text>:1:59: error[type] encoder.pretrained: expected true or false, or a string, or a mapping of file and prefix (got 1, a whole number).""",
    ),
    "wrong shapes of values": (
        """\
encoder: 5
necks: SelectIndices
aux: {a: FCNDecoder}
padding: reflect
""",
        """\
<text>:1:10: error[type] encoder: expected the name of a part, or {Name: {field: value}} (got 5, a whole number).
<text>:2:8: error[type] necks: expected a list of necks (got 'SelectIndices', a string).
  fix: write [SelectIndices]
<text>:3:10: error[type] aux.a: expected a branch such as {decoder: FCNDecoder, head: RegressionHead} (got 'FCNDecoder', a string).
  fix: write {decoder: FCNDecoder}
<text>:4:10: error[type] padding: expected a mapping such as {mode: reflect} (got 'reflect', a string).""",
    ),
    "out of range": (
        """\
encoder: timm/resnet18
decoder: {UNetDecoder: {channels: [0, 16, 70000]}}
head: {SegmentationHead: {num_classes: 2, dropout: 1.0}}
""",
        """\
<text>:2:35: error[value] decoder.channels: channels must be a whole number from 1 to 65536 (got 0, 70000).
<text>:3:52: error[value] head.dropout: dropout must be a number from 0 up to, but not including, 1 (got 1.0).""",
    ),
    "no such choice": (
        """\
encoder: timm/resnet18
necks:
  - InterpolateToPyramidal: {mode: nearst}
decoder: {MLPDecoder: {activation: swish}}
""",
        """\
<text>:3:36: error[value] necks[0].mode: mode must be one of nearest, nearest-exact, bilinear, bicubic, area (got 'nearst').
  fix: did you mean nearest or nearest-exact?
<text>:4:36: error[value] decoder.activation: activation must be one of ReLU, GELU, SiLU, LeakyReLU, ELU, Tanh, Sigmoid, Softplus, Identity (got 'swish').""",
    ),
    "fields that exclude each other": (
        """\
encoder: {timm/resnet18: {tokens: true, features_only: true}}
""",
        """\
<text>:1:35: error[value] encoder.tokens: tokens and features_only exclude each other: timm's wrapper always gives maps.""",
    ),
    "a token that is asked for and dropped": (
        """\
encoder: {timm/vit_small_patch16_224: {tokens: true}}
necks:
  - AggregateTokens: {pooling: cls, drop_cls: true}
  - AggregateTokens: {pooling: maen, indices: [0, 1.5]}
""",
        """\
<text>:3:47: error[value] necks[0].drop_cls: drop_cls and pooling: cls exclude each other: that token would be dropped.
<text>:4:32: error[value] necks[1].pooling: pooling must be one of mean, max, min, cls, or a whole number from 0 to 1023 (got 'maen').
  fix: did you mean mean?
<text>:4:51: error[type] necks[1].indices[1]: expected a whole number (got 1.5, a number).""",
    ),
    "several maps without a way to join them": (
        """\
encoder: timm/resnet18
decoder: {ASPPSegmentationHead: {channels: 64, in_index: [0, 1], includes_head: no}}
aux:
  one: {decoder: {ASPPRegressionHead: {channels: 64, in_index: [0, 1]}}}
  two: {decoder: {ASPPRegressionHead: {channels: 64, input_transform: resize_concat}}}
""",
        """\
<text>:2:81: error[type] decoder.includes_head: expected true or false (got 'no', a string).
  fix: write false
<text>:4:64: error[value] aux.one.decoder.in_index: in_index is a list where input_transform is resize_concat, and a whole number elsewhere.
<text>:5:71: error[value] aux.two.decoder.input_transform: in_index is a list where input_transform is resize_concat, and a whole number elsewhere.""",
    ),
    "padding": (
        """\
encoder: timm/resnet18
padding: {mode: reflekt, side: left}
decoder: FCNDecoder
""",
        """\
<text>:2:17: error[value] padding.mode: mode must be one of reflect, replicate, zeros (got 'reflekt').
  fix: did you mean reflect?
<text>:2:32: error[value] padding.side: side must be one of both, end (got 'left').""",
    ),
    "an image that is none": (
        """\
input: {channels: 0, stride: 1.5, size: 224, frames: '3'}
encoder: timm/resnet18
""",
        """\
<text>:1:19: error[value] input.channels: channels must be a whole number of at least 1 (got 0).
<text>:1:30: error[type] input.stride: expected a whole number or a ratio such as 3/2 (got 1.5, a number).
<text>:1:41: error[value] input.size: size must be two whole numbers, height and width (got 224).
<text>:1:54: error[type] input.frames: expected a whole number, or null (got '3', a string).
  fix: write 3 without quotes""",
    ),
    "a missing field": (
        """\
encoder: timm/resnet18
head: SegmentationHead
""",
        """\
<text>:2:7: error[key] head: SegmentationHead needs num_classes.
  fix: add num_classes, a whole number""",
    ),
    "a misspelled field": (
        """\
encoder: timm/resnet18
head: {SegmentationHead: {num_clases: 2}}
""",
        """\
<text>:2:27: error[key] head.num_clases: SegmentationHead has no field 'num_clases'.
  fix: did you mean num_classes?""",
    ),
    "fields of none": (
        """\
encoder: timm/resnet18
necks:
  - AddBottleneckLayer: {channels: 2}
""",
        """\
<text>:3:26: error[key] necks[0].channels: AddBottleneckLayer has no field 'channels'.
  fix: leave it out: AddBottleneckLayer has none""",
    ),
    "an unknown part": (
        """\
encoder: timm/resnet18
decoder: UperNetDecodr
""",
        """\
<text>:2:10: error[part] decoder: there is no decoder 'UperNetDecodr'.
  fix: did you mean UperNetDecoder or UNetDecoder or LinearDecoder?""",
    ),
    "no source": (
        """\
encoder: resnet18
""",
        """\
<text>:1:10: error[part] encoder: there is no encoder 'resnet18'.
  fix: did you mean timm/resnet18 or smp/resnet18?""",
    ),
    "a network of timm by smp's name": (
        """\
encoder: smp/tu-resnet18
""",
        """\
<text>:1:10: error[part] encoder: there is no encoder 'smp/tu-resnet18'.
  fix: did you mean smp/resnet18 or smp/timm-skresnet18 or smp/resnet152?""",
    ),
    "a network of timm by smp's old name": (
        """\
encoder: smp/timm-mobilenetv3_large_100
""",
        """\
<text>:1:10: error[part] encoder: there is no encoder 'smp/timm-mobilenetv3_large_100'.
  fix: did you mean timm/mobilenetv3_large_100 or timm/tf_mobilenetv3_large_100 or timm/mobilenetv3_large_150d?""",
    ),
    "a field that an encoder of smp has not": (
        """\
encoder: {smp/vgg11: {output_stride: 8}}
""",
        """\
<text>:1:23: error[key] encoder.output_stride: smp/vgg11 has no field 'output_stride'.
  fix: known: depth, first_level, pretrained""",
    ),
    "an unknown source": (
        """\
encoder: tim/resnet18
""",
        """\
<text>:1:10: error[part] encoder: there is no encoder 'tim/resnet18'.
  fix: did you mean timm/resnet18?""",
    ),
    "a name that no network is much like": (
        """\
encoder: clay
""",
        """\
<text>:1:10: error[part] encoder: there is no encoder 'clay'.
  fix: write its source before it: timm/NAME, smp/NAME, transformers/NAME, terratorch/NAME""",
    ),
    "a source alone": (
        """\
encoder: smp
""",
        """\
<text>:1:10: error[part] encoder: there is no encoder 'smp'.
  fix: name one of its parts: smp/NAME""",
    ),
    "a name of another source": (
        """\
encoder: smp/convnext_tiny
""",
        """\
<text>:1:10: error[part] encoder: there is no encoder 'smp/convnext_tiny'.
  fix: did you mean timm/convnext_tiny?""",
    ),
    "a name that its source has not": (
        """\
encoder: smp/clay
""",
        """\
<text>:1:10: error[part] encoder: there is no encoder 'smp/clay'.
  fix: python -m composer list encoders 'smp/*' shows what there is""",
    ),
    "a source whose names are not listed, misspelled": (
        """\
encoder: transformer/swin
""",
        """\
<text>:1:10: error[part] encoder: there is no encoder 'transformer/swin'.
  fix: did you mean transformers/swin?""",
    ),
    "a source and a name that nobody knows": (
        """\
encoder: foo/clay
""",
        """\
<text>:1:10: error[part] encoder: there is no encoder 'foo/clay'.
  fix: known sources: timm, smp, transformers, terratorch""",
    ),
    "weights without the source": (
        """\
encoder: resnet50.a1_in1k
""",
        """\
<text>:1:10: error[part] encoder: there is no encoder 'resnet50.a1_in1k'.
  fix: did you mean timm/resnet50.a1_in1k?""",
    ),
    "Clay 1.5": (
        """\
encoder: terratorch/clay_v15
""",
        """\
<text>:1:10: error[part] encoder: terratorch/clay_v15 cannot be had: TerraTorch has Clay 1.5 as a masked autoencoder alone, which downloads a teacher and gives losses and no features.
  fix: choose another, of those that python -m composer list encoders 'terratorch/*' shows""",
    ),
    "ScaleMAE": (
        """\
encoder: terratorch/scalemae_large
""",
        """\
<text>:1:10: error[part] encoder: there is no encoder 'terratorch/scalemae_large'.
  fix: did you mean terratorch/scalemae_vit_large_patch16?""",
    ),
    "a head in small letters": (
        """\
encoder: timm/resnet18
decoder: mmseg/fcnhead
""",
        """\
<text>:2:10: error[part] decoder: there is no decoder 'mmseg/fcnhead'.
  fix: did you mean mmseg/FCNHead?""",
    ),
    "a decoder in small letters": (
        """\
encoder: timm/resnet18
decoder: unetdecoder
""",
        """\
<text>:2:10: error[part] decoder: there is no decoder 'unetdecoder'.
  fix: did you mean UNetDecoder?""",
    ),
    "wrong kinds": (
        """\
encoder: FCNDecoder
necks: [RegressionHead]
decoder: AddFeatures
head: timm/resnet18
""",
        """\
<text>:1:10: error[part] encoder: encoder takes an encoder, and FCNDecoder is a decoder.
  fix: put it under decoder
<text>:2:9: error[part] necks[0]: necks[0] takes a neck, and RegressionHead is a head.
  fix: put it under head
<text>:3:10: error[part] decoder: decoder takes a decoder, and AddFeatures is a neck.
  fix: put it under necks
<text>:4:7: error[part] head: head takes a head, and timm/resnet18 is an encoder.
  fix: put it under encoder""",
    ),
    "fields beside the name": (
        """\
encoder: timm/resnet18
decoder:
  FCNDecoder:
  channels: 64
""",
        """\
<text>:3:3: error[type] decoder: expected the name of a part, or {Name: {field: value}} (got 2 names: FCNDecoder, channels).
  fix: indent the fields under FCNDecoder: {FCNDecoder: {field: value}}""",
    ),
    "a name left out": (
        """\
encoder: timm/resnet18
decoder:
""",
        """\
<text>:2:9: error[type] decoder: expected the name of a part, or {Name: {field: value}} (got null).
  fix: name the part, or leave decoder out""",
    ),
    "options that are not plain": (
        """\
encoder: {timm/resnet18: {options: {a: {b: .inf}, c: [.nan]}}}
""",
        """\
<text>:1:44: error[value] encoder.options.a.b: a number is finite (got inf).
<text>:1:55: error[value] encoder.options.c[0]: a number is finite (got nan).""",
    ),
    "a branch without a decoder": (
        """\
encoder: timm/resnet18
decoder: FCNDecoder
aux: {early: {head: RegressionHead}}
""",
        """\
<text>:3:14: error[key] aux.early: a branch needs a decoder.
  fix: add decoder: FCNDecoder""",
    ),
    "reserved names": (
        """\
encoder: timm/resnet18
decoder: FCNDecoder
aux: {train: {decoder: FCNDecoder}, 2nd: {decoder: FCNDecoder}}
""",
        """\
<text>:3:24: error[node] aux.train.decoder: 'aux.train.decoder' cannot be a name, because a torch module has a 'train' of its own.
  fix: choose another name
<text>:3:52: error[node] aux.2nd.decoder: 'aux.2nd.decoder' is not a valid name: a name is letters, digits and _, and begins with a letter.
  fix: choose another name""",
    ),
    "unknown references": (
        """\
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: imag}
  b: {part: FCNDecoder, from: [a, x]}
  c: {share: bb, from: image}
outputs: [d]
auxiliary: {x: image}
""",
        """\
<text>:3:34: error[reference] a.from: there is no input or node 'imag'.
  fix: did you mean image?
<text>:4:35: error[reference] b.from[1]: there is no input or node 'x'.
  fix: known: a, b, c, image
<text>:5:14: error[reference] c.share: there is no node 'bb' that has a part of its own.
  fix: did you mean b?
<text>:6:11: error[reference] outputs[0]: there is no node 'd'.
  fix: known: a, b, c
<text>:7:16: error[reference] auxiliary.x: there is no node 'image', only an input 'image'.
  fix: known: a, b, c""",
    ),
    "a part that cannot be read hides no reference": (
        """\
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: image}
  b: {part: FCNDecodr, from: a}
  c: {part: RegressionHead, from: bb}
outputs: [c]
""",
        """\
<text>:4:13: error[part] b: there is no part 'FCNDecodr'.
  fix: did you mean FCNDecoder or UNetDecoder or MLPDecoder?
<text>:5:35: error[reference] c.from: there is no input or node 'bb'.
  fix: did you mean b?""",
    ),
    "an unread reference makes no other wrong": (
        """\
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: image}
  b: {part: FCNDecoder, from: 5}
outputs: [b]
""",
        """\
<text>:4:31: error[type] b.from: expected the name of a node or an input (got 5, a whole number).""",
    ),
    "an unread output makes no node unused": (
        """\
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: image}
  b: {part: FCNDecoder, from: a}
outputs: [a, 5]
""",
        """\
<text>:5:14: error[type] outputs[1]: expected the name of a node or an input (got 5, a whole number).""",
    ),
    "nodes that are none": (
        """\
inputs: {image: {}}
nodes:
  a: timm/resnet18
  b: {from: a}
  c: {part: FCNDecoder}
  d: {part: FCNDecoder, share: c, from: a, as: x}
outputs: [d]
""",
        """\
<text>:3:6: error[type] a: expected a node such as {part: FCNDecoder, from: NAME} (got 'timm/resnet18', a string).
  fix: write {part: timm/resnet18, from: NAME}
<text>:4:6: error[key] b: a node has a part, or shares the part of another: one of the two.
  fix: add part: PART
<text>:5:6: error[key] c: a node needs from, which says what it takes.
  fix: add from: NAME
<text>:6:6: error[key] d: a node has a part, or shares the part of another: one of the two.
  fix: leave one out
<text>:6:44: error[key] d.as: a node has no key 'as'.
  fix: known: from, part, share""",
    ),
    "no inputs, no nodes": (
        """\
outputs: [a]
""",
        """\
<text>:1:1: error[key] a graph needs inputs.
  fix: add inputs: {image: {channels: 3}}
<text>:1:1: error[key] a graph needs nodes.
  fix: add nodes: {NAME: {part: PART, from: NAME}}""",
    ),
    "no outputs": (
        """\
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: image}
""",
        """\
<text>:1:1: error[reference] outputs: the graph has no output.
  fix: outputs: [a]""",
    ),
    "a single output": (
        """\
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: image}
outputs: a
""",
        """\
<text>:4:10: error[type] outputs: expected a list of nodes (got 'a', a string).
  fix: write [a]""",
    ),
    "a circle": (
        """\
inputs: {image: {}}
nodes:
  a: {part: FCNDecoder, from: b}
  b: {part: FCNDecoder, from: a}
outputs: [b]
""",
        """\
<text>:3:13: error[node] a: nodes take from each other in a circle: a → b → a.
  fix: break the circle where it should begin, with an input of the graph: image""",
    ),
    "a node shares itself": (
        """\
inputs: {image: {}}
nodes:
  a: {share: a, from: image}
  b: {part: timm/resnet18, from: image}
outputs: [a, b]
""",
        """\
<text>:3:14: error[reference] a.share: there is no node 'a' that has a part of its own.
  fix: known: b""",
    ),
    "unused": (
        """\
inputs: {image: {}, other: {}}
nodes:
  a: {part: timm/resnet18, from: image}
  b: {part: FCNDecoder, from: a}
  c: {part: FCNDecoder, from: a}
outputs: [b]
""",
        """\
<text>:1:28: error[unused] other: nothing that leaves the graph needs other.
  fix: take from it, name it in outputs, or leave it out
<text>:5:13: error[unused] c: nothing that leaves the graph needs c.
  fix: take from it, name it in outputs, or leave it out""",
    ),
    "a node named as an input": (
        """\
inputs: {image: {}}
nodes:
  image: {part: timm/resnet18, from: image}
outputs: [image]
""",
        """\
<text>:3:17: error[node] image: 'image' names 2 things; inputs and nodes share one set of names.
  fix: choose another name""",
    ),
    "a node within a node": (
        """\
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: image}
  a.b: {part: FCNDecoder, from: a}
outputs: [a.b]
""",
        """\
<text>:3:13: error[node] a: 'a' cannot be a node and hold the node 'a.b' too.
  fix: choose another name""",
    ),
    "all stages at once": (
        """\
encoder: timm/resnet18
decoder: {FCNDecoder: {channels: '8', channels: 9}}
head: SegmentationHead
aux: {2nd: {decoder: FCNDecodr}}
rescale: !!str no
""",
        """\
<text>:2:34: error[type] decoder.channels: expected a whole number (got '8', a string).
  fix: write 8 without quotes
<text>:2:39: error[key] the key 'channels' is here for the second time; the first is on line 2.
  fix: leave one of them out
<text>:3:7: error[key] head: SegmentationHead needs num_classes.
  fix: add num_classes, a whole number
<text>:4:22: error[part] aux.2nd.decoder: there is no decoder 'FCNDecodr'.
  fix: did you mean FCNDecoder or UNetDecoder or MLPDecoder?
<text>:4:22: error[node] aux.2nd.decoder: 'aux.2nd.decoder' is not a valid name: a name is letters, digits and _, and begins with a letter.
  fix: choose another name
<text>:5:10: error[yaml] tags are not supported (got !!str).
  fix: leave the tag out""",
    ),
    "takes from nothing": (
        """\
inputs: {image: {}}
nodes:
  a: {part: timm/resnet18, from: []}
outputs: [a]
""",
        """\
<text>:3:13: error[reference] a: a takes from nothing.
  fix: from: image""",
    ),
}
"""Refused when read."""

INFERRED = {
    "widths for other maps": (
        """\
encoder: timm/resnet18
decoder: {UNetDecoder: {channels: [64, 32]}}
head: {SegmentationHead: {num_classes: 2}}
""",
        """\
<text>:2:35: error[count] decoder.channels: UNetDecoder has 2 widths in channels, one for each map it takes (got 5 maps).
  fix: channels: [64, 32, 16, 16, 16]""",
    ),
    "tokens where maps belong": (
        """\
encoder: {timm/vit_small_patch16_224: {tokens: true}}
decoder: UperNetDecoder
head: {SegmentationHead: {num_classes: 2}}
""",
        """\
<text>:2:10: error[layout] decoder: UperNetDecoder takes maps "b c h w"; encoder gives 4 × tokens "b n c" (384 channels, stride 16, 1 prefix token).
  fix: necks: [ReshapeTokensToImage]""",
    ),
    "an index too far": (
        """\
encoder: timm/resnet18
necks:
  - SelectIndices: {indices: [0, 7]}
decoder: UperNetDecoder
head: {SegmentationHead: {num_classes: 2}}
""",
        """\
<text>:3:34: error[index] necks[0].indices[1]: SelectIndices takes feature 7 (got 5 features).
  fix: use indices from -5 to 4""",
    ),
    "a pyramid upside down": (
        """\
encoder: timm/resnet18
necks:
  - SelectIndices: {indices: [3, 1]}
decoder: UperNetDecoder
head: {SegmentationHead: {num_classes: 2}}
""",
        """\
<text>:4:10: error[index] decoder: UperNetDecoder takes maps finest first, so strides must not decrease; necks[0] gives 2 × map "b c h w" (256, 64 channels, stride 16, 4).
  fix: necks: [SelectIndices: {indices: [3, 1]}, SelectIndices: {indices: [1, 0]}]""",
    ),
    "strides that do not double": (
        """\
encoder: {timm/vit_small_patch16_224: {tokens: true}}
necks: [ReshapeTokensToImage]
decoder: {UNetDecoder: {channels: [8, 8, 8, 8]}}
head: {SegmentationHead: {num_classes: 2}}
""",
        """\
<text>:3:10: error[stride] decoder: UNetDecoder takes maps whose stride doubles from one to the next; necks[0] gives 4 × map "b c h w" (384 channels, stride 16).
  fix: necks: [ReshapeTokensToImage, LearnedInterpolateToPyramidal]""",
    ),
    "many features for a head": (
        """\
encoder: timm/resnet18
head: {SegmentationHead: {num_classes: 2}}
""",
        """\
<text>:2:7: error[count] head: SegmentationHead takes one feature; encoder gives 5 × map "b c h w" (64, 64, 128, 256, 512 channels, stride 2, 4, 8, 16, 32).
  fix: decoder: IdentityDecoder""",
    ),
    "head after head": (
        """\
encoder: timm/resnet18
decoder: {LinearDecoder: {num_classes: 2, upsampling_size: 2}}
head: {SegmentationHead: {num_classes: 2}}
""",
        """\
<text>:3:7: error[output] head: SegmentationHead takes features (got a prediction, from decoder).
  fix: leave this head out""",
    ),
    "tokens that are not there": (
        """\
encoder: timm/resnet18
necks:
  - AggregateTokens: {pooling: cls, indices: 0}
decoder: IdentityDecoder
head: {ScalarHead: {num_outputs: 2}}
""",
        """\
<text>:3:32: error[prefix] necks[0].pooling: AggregateTokens takes the class token, which not every feature at indices has; encoder gives 5 × map "b c h w" (64, 64, 128, 256, 512 channels, stride 2, 4, 8, 16, 32).
  fix: pooling: mean""",
    ),
    "a token beyond the prefix": (
        """\
encoder: {timm/vit_small_patch16_224: {tokens: true}}
necks:
  - AggregateTokens: {pooling: 1}
decoder: IdentityDecoder
""",
        """\
<text>:3:32: error[prefix] necks[0].pooling: AggregateTokens takes token 1 of the prefix, which not every feature at indices has; encoder gives 4 × tokens "b n c" (384 channels, stride 16, 1 prefix token).
  fix: pooling: cls""",
    ),
    "a prefix to drop that is not there": (
        """\
encoder: timm/resnet18
necks:
  - AggregateTokens: {drop_cls: true}
decoder: IdentityDecoder
""",
        """\
<text>:3:33: error[prefix] necks[0].drop_cls: AggregateTokens drops the prefix, which not every feature at indices has; encoder gives 5 × map "b c h w" (64, 64, 128, 256, 512 channels, stride 2, 4, 8, 16, 32).
  fix: drop_cls: false""",
    ),
    "nothing to pool": (
        """\
encoder: timm/resnet18
necks:
  - AggregateTokens
  - AggregateTokens
decoder: IdentityDecoder
""",
        """\
<text>:4:5: error[layout] necks[1]: AggregateTokens takes tokens "b n c", maps "b c h w", or either per frame; necks[0] gives vector "b c" (512 channels).
  fix: leave this neck out: a vector has nothing to be pooled""",
    ),
    "channels last, to be pooled": (
        """\
encoder: timm/resnet18
necks:
  - PermuteDims: {new_order: [0, 2, 3, 1]}
  - AggregateTokens
decoder: IdentityDecoder
""",
        """\
<text>:4:5: error[layout] necks[1]: AggregateTokens takes tokens "b n c", maps "b c h w", or either per frame; necks[0] gives 5 × map "b h w c" (64, 64, 128, 256, 512 channels, stride 2, 4, 8, 16, 32).
  fix: necks: [PermuteDims: {new_order: [0, 2, 3, 1]}, PermuteDims: {new_order: [0, 3, 1, 2]}, AggregateTokens]""",
    ),
    "a prediction, and a head after it": (
        """\
encoder: timm/resnet18
decoder: {ASPPRegressionHead: {channels: 64, in_index: [0, 1, 7], input_transform: resize_concat}}
aux:
  a: {decoder: {ASPPRegressionHead: {channels: 64}}, head: RegressionHead}
  b: {decoder: {ASPPRegressionHead: {channels: 64, includes_head: false}}, head: RegressionHead}
""",
        """\
<text>:2:63: error[index] decoder.in_index[2]: ASPPRegressionHead takes feature 7 (got 5 features).
  fix: use in_index from -5 to 4
<text>:4:60: error[output] aux.a.head: RegressionHead takes features (got a prediction, from aux.a.decoder).
  fix: leave this head out""",
    ),
    "maps that no pyramid is made of": (
        """\
encoder: timm/resnet18
decoder: {UperNetDecoder: {scale_modules: true}}
head: {SegmentationHead: {num_classes: 2}}
""",
        """\
<text>:2:43: error[count] decoder.scale_modules: UperNetDecoder takes exactly four maps with scale_modules; encoder gives 5 × map "b c h w" (64, 64, 128, 256, 512 channels, stride 2, 4, 8, 16, 32).
  fix: necks: [SelectIndices: {indices: [1, 2, 3, 4]}]""",
    ),
    "maps in no order": (
        """\
encoder: timm/resnet18
necks:
  - SelectIndices: {indices: [4, 0, 0, 1]}
decoder: {UperNetDecoder: {scale_modules: true}}
aux:
  a: {decoder: UperNetDecoder}
""",
        """\
<text>:4:10: error[index] decoder: UperNetDecoder takes maps finest first, so strides must not decrease; necks[0] gives 4 × map "b c h w" (512, 64, 64, 64 channels, stride 32, 2, 2, 4).
  fix: necks: [SelectIndices: {indices: [4, 0, 0, 1]}, SelectIndices: {indices: [1, 2, 3, 0]}]
<text>:6:16: error[index] aux.a.decoder: UperNetDecoder takes maps finest first, so strides must not decrease; necks[0] gives 4 × map "b c h w" (512, 64, 64, 64 channels, stride 32, 2, 2, 4).
  fix: necks: [SelectIndices: {indices: [4, 0, 0, 1]}, SelectIndices: {indices: [1, 2, 3, 0]}]""",
    ),
    "an output of many": (
        """\
encoder: timm/resnet18
""",
        """\
<text>:1:10: error[output] encoder: an output is one map "b c h w" or one vector "b c"; encoder gives 5 × map "b c h w" (64, 64, 128, 256, 512 channels, stride 2, 4, 8, 16, 32).
  fix: add IdentityDecoder, which passes one on; or head: EmbeddingHead, which returns features as they are""",
    ),
    "channels of the image": (
        """\
input: {channels: 6}
encoder: timm/resnet18
decoder: FCNDecoder
""",
        """\
<text>:2:10: error[channels] encoder: timm/resnet18 takes an image of 3 channels; image gives map "b c h w" (6 channels, stride 1).
  fix: input: {channels: 3}""",
    ),
    "a decoder and no head": (
        """\
encoder: timm/resnet18
decoder: FCNDecoder
aux:
  early: {decoder: {FCNDecoder: {in_index: 0}}}
""",
        """\
<text>:2:10: error[output] decoder: FCNDecoder gives features; a head must turn them into a prediction.
  fix: add a head; EmbeddingHead gives features as they are
<text>:4:20: error[output] aux.early.decoder: FCNDecoder gives features; a head must turn them into a prediction.
  fix: add a head; EmbeddingHead gives features as they are""",
    ),
    "sizes that exclude each other": (
        """\
input: {size: [100, 100]}
encoder: {timm/resnet18: {img_size: 224}}
decoder: IdentityDecoder
""",
        """\
<text>:2:10: error[sizes] encoder: no image size suits both: image takes exactly 100 × 100; encoder takes exactly 224 × 224.
  fix: change the input's size or the encoder's img_size to one that both take""",
    ),
    "maps of frames for a decoder": (
        """\
input: {frames: 3}
encoder: timm/resnet18
decoder: FCNDecoder
""",
        """\
<text>:3:10: error[layout] decoder: FCNDecoder takes maps "b c h w"; encoder gives 5 × map "b t c h w" (64, 64, 128, 256, 512 channels, stride 2, 4, 8, 16, 32, 3 frames).
  fix: necks: [TemporalPooling]""",
    ),
    "tokens of frames for a pyramid decoder": (
        """\
input: {frames: 3}
encoder: {timm/vit_small_patch16_224: {tokens: true}}
decoder: {UNetDecoder: {channels: [8, 8, 8, 8]}}
""",
        """\
<text>:3:10: error[layout] decoder: UNetDecoder takes maps "b c h w" whose stride doubles from one to the next; encoder gives 4 × tokens "b t n c" (384 channels, stride 16, 1 prefix token, 3 frames).
  fix: necks: [TemporalPooling, ReshapeTokensToImage, LearnedInterpolateToPyramidal]""",
    ),
    "a map of frames as an output": (
        """\
input: {frames: 3}
encoder: {timm/resnet18: {out_indices: [3]}}
""",
        """\
<text>:2:10: error[output] encoder: an output is one map "b c h w" or one vector "b c"; encoder gives map "b t c h w" (256 channels, stride 16, 3 frames).
  fix: bring it to that layout with a neck; or head: EmbeddingHead, which returns features as they are""",
    ),
    "frames to pool where there are none": (
        """\
encoder: timm/resnet18
necks: [TemporalPooling]
decoder: FCNDecoder
""",
        """\
<text>:2:9: error[layout] necks[0]: TemporalPooling takes features with an axis of frames, such as maps "b t c h w"; encoder gives 5 × map "b c h w" (64, 64, 128, 256, 512 channels, stride 2, 4, 8, 16, 32).
  fix: give the input frames, or leave this neck out""",
    ),
    "subsets of other frames": (
        """\
input: {frames: 5}
encoder: timm/resnet18
necks:
  - TemporalPooling: {subset_lengths: [2, 2]}
decoder: FCNDecoder
""",
        """\
<text>:4:39: error[frames] necks[0].subset_lengths: TemporalPooling divides 4 frames into the subsets [2, 2] (got 5 frames).
  fix: subset_lengths: [2, 3]""",
    ),
    "more subsets than frames": (
        """\
input: {frames: 2}
encoder: timm/resnet18
necks:
  - TemporalPooling: {subset_lengths: [1, 1, 1]}
decoder: FCNDecoder
""",
        """\
<text>:4:39: error[frames] necks[0].subset_lengths: TemporalPooling divides 3 frames into the subsets [1, 1, 1] (got 2 frames).
  fix: leave subset_lengths out""",
    ),
    "the difference of three": (
        """\
input: {frames: 3}
encoder: timm/resnet18
necks:
  - TemporalPooling: {pooling: diff}
decoder: FCNDecoder
""",
        """\
<text>:4:32: error[count] necks[0].pooling: TemporalPooling takes the difference of exactly two frames or subsets (got 3 frames).
  fix: subset_lengths: [1, 2]""",
    ),
    "the difference of one subset": (
        """\
input: {frames: 2}
encoder: timm/resnet18
necks:
  - TemporalPooling: {pooling: diff, subset_lengths: [2]}
decoder: FCNDecoder
""",
        """\
<text>:4:32: error[count] necks[0].pooling: TemporalPooling takes the difference of exactly two frames or subsets (got 2 frames, in 1 subset).
  fix: leave subset_lengths out""",
    ),
    "the difference of one frame": (
        """\
input: {frames: 1}
encoder: timm/resnet18
necks:
  - TemporalPooling: {pooling: diff}
decoder: FCNDecoder
""",
        """\
<text>:4:32: error[count] necks[0].pooling: TemporalPooling takes the difference of exactly two frames or subsets (got 1 frame).
  fix: pooling: mean""",
    ),
    "a head after an embedding": (
        """\
inputs: {i: {}}
nodes:
  e: {part: timm/resnet18, from: i}
  all: {part: EmbeddingHead, from: e}
  one: {part: {SegmentationHead: {num_classes: 2}}, from: all}
outputs: [one]
""",
        """\
<text>:5:15: error[output] one: SegmentationHead takes features (got an embedding, from all).
  fix: leave this head out""",
    ),
    "several at once": (
        """\
encoder: timm/resnet18
decoder: {FCNDecoder: {in_index: 9}}
aux:
  a: {decoder: {UNetDecoder: {channels: [8]}}}
""",
        """\
<text>:2:34: error[index] decoder.in_index: FCNDecoder takes feature 9 (got 5 features).
  fix: use in_index from -5 to 4
<text>:4:41: error[count] aux.a.decoder.channels: UNetDecoder has 1 width in channels, one for each map it takes (got 5 maps).
  fix: channels: [8, 8, 8, 8, 8]""",
    ),
    "too few levels": (
        """\
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
        """\
<text>:6:16: error[count] four: LearnedInterpolateToPyramidal takes exactly four maps; three gives 3 × map "b c h w" (128, 256, 512 channels, stride 8, 16, 32).
  fix: let the encoder give four levels, with its out_indices or its depth
<text>:7:15: error[count] fpn: smp/FPN takes at least 4 maps; three gives 3 × map "b c h w" (128, 256, 512 channels, stride 8, 16, 32).
  fix: let the encoder give four levels or more, with its out_indices or its depth
<text>:8:16: error[count] plus: smp/UnetPlusPlus takes at least 2 maps where the first is level 1; one gives map "b c h w" (64 channels, stride 2).
  fix: let the encoder give more levels, with its out_indices or its depth""",
    ),
    "joins that do not fit": (
        """\
inputs: {a: {}, b: {}}
nodes:
  x: {part: timm/resnet18, from: a}
  y: {part: {timm/resnet18: {out_indices: [1, 2, 3, 4]}}, from: b}
  joined: {part: ConcatFeatures, from: [x, y]}
  two: {part: FCNDecoder, from: [x, y]}
  out: {part: FCNDecoder, from: joined}
outputs: [out, two]
""",
        """\
<text>:5:18: error[count] joined: ConcatFeatures joins branches level by level, and its first input has 5 levels (got 4 levels).
  fix: put SelectIndices: {indices: [1, 2, 3, 4]} between x and joined
<text>:6:15: error[inputs] two: FCNDecoder takes one input (got 2 inputs).
  fix: join them first, with ConcatFeatures or AddFeatures""",
    ),
    "weights shared by what differs": (
        """\
inputs: {a: {}, b: {channels: 4}}
nodes:
  x: {part: timm/resnet18, from: a}
  y: {share: x, from: b}
  joined: {part: ConcatFeatures, from: [x, y]}
  out: {part: FCNDecoder, from: joined}
outputs: [out]
""",
        """\
<text>:4:14: error[join] y: timm/resnet18 shares the weights of x, which was made for map "b c h w" (3 channels, stride 1); b gives map "b c h w" (4 channels, stride 1).
  fix: give both nodes inputs of the same features""",
    ),
    "the batch moved away": (
        """\
encoder: timm/resnet18
necks:
  - PermuteDims: {new_order: [1, 0, 2, 3]}
decoder: FCNDecoder
""",
        """\
<text>:3:30: error[value] necks[0].new_order: PermuteDims leaves the batch in front, because every other part takes it there (got new_order [1, 0, 2, 3]).
  fix: begin new_order with 0""",
    ),
    "a prefix on a grid": (
        """\
encoder: {timm/vit_small_patch16_224: {tokens: true}}
necks:
  - ReshapeTokensToImage: {remove_cls_token: false}
decoder: FCNDecoder
""",
        """\
<text>:3:46: error[prefix] necks[0].remove_cls_token: ReshapeTokensToImage lays tokens out on a grid, where prefix tokens have no place; encoder gives 4 × tokens "b n c" (384 channels, stride 16, 1 prefix token).
  fix: remove_cls_token: true""",
    ),
}
"""Read, and refused by infer."""
