"""`explain`: print the meaning of an error code, with an example and what to do."""

from __future__ import annotations

from composer.cli.terminal import UsageError, build_table, print_text, render
from composer.errors import suggest

CODES = {
    "argument": """A part has no such argument, or the argument has a value that cannot work.
Example: decoder: {smp/FPN: {decoder_channels: [256]}}, which is an argument of smp/Unet.
Fix: use the arguments that `python -m composer list decoders NAME` shows.""",
    "aside": """A note, not an error: a key of an imported config is left out of the spec.
Example: the learning rate of a TerraTorch config, which does not belong to the model.
Fix: nothing; keep the setting in your training code if you need it.""",
    "axes": """PermuteDims names other axes than its inputs have.
Example: new_order [0, 2, 1] for maps "b c h w", which have four axes.
Fix: name each axis of the input once, such as new_order: [0, 2, 3, 1].""",
    "batch": """PermuteDims moves the batch from the first axis, where every other part expects it.
Example: new_order: [1, 0, 2].
Fix: begin new_order with 0.""",
    "budget": """The model has more parameters, bytes or modules than allowed.
Example: --max-parameters 50M for a model with 86 million parameters.
Fix: use a smaller part at the node that the message names, or raise the limit.""",
    "channels": """Channels do not match: of an input and a part, or of two arguments of a part.
Example: a pretrained encoder for 3 channels after input: {channels: 6}.
Fix: change the channels of the input, or the argument that the message names.""",
    "classes": """A decoder normalises scores over the classes, so it needs at least two.
Example: decoder: {mmseg/EncHead: {num_classes: 1}}.
Fix: use num_classes: 2 for one class against the background.""",
    "count": """A part needs another number of features than it receives, or another number of layers.
Example: UNetDecoder with 3 channels after an encoder that gives 4 feature maps.
Fix: give one value per feature, or pick features with SelectIndices.""",
    "crop": """crop is set, but no output has the size of the image.
Example: crop: [224, 224] with rescale: false.
Fix: leave crop out, or set rescale: true.""",
    "cycle": """Nodes take their inputs from each other in a circle.
Example: a takes from b, and b takes from a.
Fix: let one of them take from an input of the graph or from an earlier node.""",
    "declaration": """The features or sizes declared for a Custom module differ from what the module computes.
Example: features=Feature(channels=64) for a module that returns 128 channels.
Fix: correct features= or sizes=, as the message says.""",
    "facts": """The features of an encoder are unknown, or the built encoder computes others than were inferred.
Example: a part of your own package without an entry in describe().
Fix: install the library version that the features belong to, or pass describe= with the features.""",
    "file": """A file cannot be read, or has no spec in it.
Example: a checkpoint of another program given as a spec.
Fix: check the path; give a YAML spec, or a weights file that composer.save wrote.""",
    "fit": """No necks, widths or encoder levels make the graph valid.
Example: concatenating two branches whose images have different sizes.
Fix: solve the other problems of the spec by hand, or choose another decoder.""",
    "frames": """The number of frames does not match.
Example: a video encoder for 4 frames with input: {frames: 3}.
Fix: set the frames of the input, or merge them with TemporalPooling.""",
    "head": """A head is missing where features must become predictions, or a second head follows a first one.
Example: decoder: UNetDecoder without a head.
Fix: add a head after the decoder, or remove the second one.""",
    "index": """An index selects a feature or level that does not exist.
Example: SelectIndices: {indices: [4]} after four feature maps, counted from 0.
Fix: use indices in the range that the message gives.""",
    "inputs": """A part receives too many or too few inputs, or inputs under wrong names.
Example: a neck that joins two branches, with one entry in `from`.
Fix: give the inputs that the message lists, by name where a part names them.""",
    "install": """A library is missing, or is installed and cannot be imported.
Example: decoder: smp/FPN without segmentation-models-pytorch.
Fix: run the pip command of the message.""",
    "join": """Features that are joined differ in layout, stride or offset.
Example: AddFeatures of a map of stride 8 and one of stride 16.
Fix: give both branches the same layout and stride at each level.""",
    "key": """An unknown key, or a key that is not allowed at this place.
Example: decodr: FCNDecoder.
Fix: use the name that the message suggests.""",
    "kind": """A part of the wrong kind for its place.
Example: encoder: FCNDecoder.
Fix: move the part to the section that the message names.""",
    "layout": """A part receives tensors of a layout that it does not accept.
Example: tokens of a ViT, "b n c", before UNetDecoder, which needs maps "b c h w".
Fix: add the necks that the message lists.""",
    "limit": """The spec exceeds a fixed limit, such as its size, its depth or the features of a node.
Example: a file of more than 1,048,576 bytes.
Fix: shorten the spec; if it is a weights file, give the YAML spec.""",
    "memory": """The machine has too little free memory for the model.
Example: a network with 10 billion parameters on a laptop.
Fix: use a smaller part at the node that the message names.""",
    "missing": """A required key or field is missing.
Example: head: SegmentationHead without num_classes.
Fix: add the key that the message names.""",
    "module": """A module that was passed to a TerraTorch factory cannot be run to find its features.
Example: a backbone that needs a second input.
Fix: wrap it in composer.Custom and declare its features.""",
    "name": """An invalid or repeated name of a node, an input or an auxiliary head.
Example: two auxiliary heads called early.
Fix: choose another name, of letters, digits and _.""",
    "network": """A library does not know this network, or the network cannot be used as an encoder.
Example: encoder: timm/resnet19.
Fix: use the name that the message suggests, or search: python -m composer list encoders 'timm/*resnet*'.""",
    "offset": """Features do not cover the whole image, because a network has unpadded convolutions.
Example: timm/inception_v3 before smp/Linknet.
Fix: use a decoder that resizes each map to the next finer one, such as UNetDecoder, or another encoder.""",
    "option": """The constructor of a network ignores this option.
Example: options: {drop_rat: 0.1}.
Fix: correct the name or the value of the option, or leave it out.""",
    "order": """Indices or features are in an order that the part does not follow.
Example: out_indices: [3, 1] of an encoder that always returns its levels in order.
Fix: sort the indices, and reorder the features with SelectIndices.""",
    "output": """An output is neither one map nor one vector.
Example: an encoder with four feature maps as the output of a graph.
Fix: add a decoder and a head, or head: EmbeddingHead to return features unchanged.""",
    "part": """There is no part with this name, or it has no contract or module.
Example: decoder: UNotDecoder.
Fix: use a name that `python -m composer list decoders` shows, or register your own part.""",
    "peft": """An invalid value in peft_config.
Example: replace_qkv: qkv for an encoder without a layer of this name.
Fix: correct the field that the message names.""",
    "prefix": """Prefix tokens, such as a class token, are missing where a part uses them or present where it cannot.
Example: pooling: cls after an encoder without a class token.
Fix: change the argument that the message names, such as remove_cls_token: true.""",
    "reference": """A node refers to a node or input that does not exist.
Example: from: encodr.
Fix: use the name that the message suggests.""",
    "repeated": """A key is written twice in one mapping.
Example: two lines that begin with decoder:.
Fix: remove one of them.""",
    "rows": """ReshapeTokensToImage has a fixed height h, which is right for one image size only.
Example: ReshapeTokensToImage: {h: 14}.
Fix: leave h out; the grid is known without it.""",
    "share": """A node shares the weights of another and receives different features.
Example: share: optical with an image of 2 channels, where optical has one of 4.
Fix: give both nodes inputs of the same features, or a part each.""",
    "sizes": """No image size satisfies all parts, or an encoder does not accept the size.
Example: input: {size: [100, 100]} for an encoder that needs multiples of 32.
Fix: change the size of the input, or img_size of the encoder.""",
    "stride": """The strides of features do not form the pyramid that a part needs.
Example: strides 4, 4, 8 before a decoder that doubles the size at each step.
Fix: choose other levels with SelectIndices, or add the necks that the message lists.""",
    "terratorch": """A note on a TerraTorch call: composer computes something in another way than TerraTorch.
Example: images are padded where TerraTorch raises an error.
Fix: nothing, unless the difference matters to you.""",
    "text": """The graph cannot be written as YAML.
Example: a graph with a Custom module, which holds live weights.
Fix: declare the module as a part of your own, or keep the graph in Python.""",
    "type": """A value has the wrong type.
Example: num_classes: 'ten'.
Fix: write the type that the message expects.""",
    "unknown": """TerraTorch or composer has no decoder, neck, backbone or task of this name.
Example: decoder: UNotDecoder in a TerraTorch config.
Fix: use the name that the message suggests.""",
    "unused": """A node, key or argument has no effect on any output.
Example: a node that no other node and no output takes from.
Fix: use it, or remove it.""",
    "value": """A value is outside of its range, or contradicts another one.
Example: dropout: 1.5.
Fix: use a value that the message allows.""",
    "weights": """Weights cannot be loaded, or do not match the model.
Example: a checkpoint of a ResNet-50 for a ResNet-18.
Fix: give a checkpoint of this model, or set pretrained: false.""",
    "yaml": """The text is not valid YAML, or uses YAML that specs do not allow (tags, merge keys, several documents).
Example: a bracket that is not closed.
Fix: correct the line that the message gives.""",
}
"""For each code three lines: its meaning, an example, and what to do."""


def explain_code(code: str | None) -> None:
    """Print the explanation of a code, or a table of all codes. Raises UsageError for an unknown code."""
    if code is not None:
        if code not in CODES:
            raise UsageError(f"there is no error code {code!r}; {suggest(code, CODES)}")
        print_text(f"{code}: {CODES[code]}")
        return
    table = build_table("code", "meaning")
    for name, text in CODES.items():
        table.add_row(name, text.split("\n")[0])
    print_text(f"{render(table)}\n\npython -m composer explain CODE prints an example and what to do.")
