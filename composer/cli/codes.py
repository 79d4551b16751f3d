"""`explain`: print the meaning of an error code, with an example and what to do."""

from __future__ import annotations

from composer.cli.terminal import UsageError, build_table, print_text, render
from composer.errors import suggest

CODES = {
    "argument": """A part has no such argument or option, or the argument has a value that cannot work.
Example: decoder: {smp/FPN: {decoder_channels: [256]}}, which is an argument of smp/Unet.
Fix: use the arguments that `python -m composer list decoders NAME` shows.""",
    "channels": """Channels do not match: of an input and a part, or of two arguments of a part.
Example: a pretrained encoder for 3 channels after input: {channels: 6}.
Fix: change the channels of the input, or the argument that the message names.""",
    "count": """A part needs another number of features than it receives, or another number of layers.
Example: UNetDecoder with 3 channels after an encoder that gives 4 feature maps.
Fix: give one value per feature, or pick features with SelectIndices.""",
    "features": """The features of an encoder are unknown, or the module computes others than were inferred or declared.
Example: Custom with features=Feature(channels=64) for a module that returns 128 channels.
Fix: correct the features that you pass, or install the library version that they belong to.""",
    "file": """A file cannot be read, or has no spec in it.
Example: a checkpoint of another program given as a spec.
Fix: check the path; give a YAML spec, or a weights file that composer.save wrote.""",
    "frames": """The number of frames does not match.
Example: a video encoder for 4 frames with input: {frames: 3}.
Fix: set the frames of the input, or merge them with TemporalPooling.""",
    "index": """An index selects a level that does not exist, or levels are in an order that the part does not follow.
Example: SelectIndices: {indices: [4]} after four feature maps, counted from 0.
Fix: use indices in the range that the message gives, from fine to coarse.""",
    "inputs": """A part receives too many or too few inputs, or inputs under wrong names.
Example: a neck that joins two branches, with one entry in `from`.
Fix: give the inputs that the message lists, by name where a part names them.""",
    "install": """A library is missing, or is installed and cannot be imported.
Example: decoder: smp/FPN without segmentation-models-pytorch.
Fix: run the pip command of the message.""",
    "join": """Features that are joined, or that go through shared weights, differ in layout, stride or channels.
Example: AddFeatures of a map of stride 8 and one of stride 16.
Fix: give both branches the same layout and stride at each level.""",
    "key": """A key is missing, unknown, written twice, or not allowed at this place.
Example: decodr: FCNDecoder.
Fix: use or add the key that the message names.""",
    "layout": """A part receives tensors of a layout that it does not accept.
Example: tokens of a ViT, "b n c", before UNetDecoder, which needs maps "b c h w".
Fix: add the necks that the message lists.""",
    "limit": """The spec, the model or the machine's memory exceeds a limit.
Example: --max-parameters 50M for a model with 86 million parameters.
Fix: use a smaller part at the node that the message names, or raise the limit.""",
    "node": """A node has an invalid or repeated name, or nodes take from each other in a circle.
Example: two auxiliary heads called early.
Fix: choose another name, of letters, digits and _; let one node take from an input or an earlier node.""",
    "note": """A note on a TerraTorch config or call: composer leaves something out, or computes it otherwise.
Example: the learning rate of a config, which does not belong to the model.
Fix: nothing, unless the difference matters to you.""",
    "output": """An output is not what a head returns: its head is missing, it has two, or no head can make one of it.
Example: decoder: UNetDecoder without a head.
Fix: add a head after the decoder, or head: EmbeddingHead to return features unchanged.""",
    "part": """There is no part or network with this name, or it is of the wrong kind for its place.
Example: encoder: timm/resnet19.
Fix: use the name that the message suggests, or search: python -m composer list encoders 'timm/*resnet*'.""",
    "prefix": """Prefix tokens, such as a class token, are missing where a part uses them or present where it cannot.
Example: pooling: cls after an encoder without a class token.
Fix: change the argument that the message names, such as remove_cls_token: true.""",
    "reference": """A node or an output refers to a node or input that does not exist.
Example: from: encodr.
Fix: use the name that the message suggests.""",
    "search": """No necks, widths or encoder levels make the graph valid.
Example: concatenating two branches whose images have different sizes.
Fix: solve the other problems of the spec by hand, or choose another decoder.""",
    "sizes": """No image size satisfies all parts, or an encoder does not accept the size.
Example: input: {size: [100, 100]} for an encoder that needs multiples of 32.
Fix: change the size of the input, or img_size of the encoder.""",
    "stride": """The strides or offsets of features do not form the pyramid that a part needs.
Example: strides 4, 4, 8 before a decoder that doubles the size at each step.
Fix: choose other levels with SelectIndices, or add the necks that the message lists.""",
    "type": """A value has the wrong type.
Example: num_classes: 'ten'.
Fix: write the type that the message expects.""",
    "unused": """A node, key or argument has no effect on any output.
Example: a node that no other node and no output takes from.
Fix: use it, or remove it.""",
    "value": """A value is outside of its range, or contradicts another one.
Example: dropout: 1.5.
Fix: use a value that the message allows.""",
    "weights": """Weights cannot be loaded, or do not match the model.
Example: a checkpoint of a ResNet-50 for a ResNet-18.
Fix: give a checkpoint of this model, or set pretrained: false.""",
    "yaml": """The text is not valid YAML, uses tags or merge keys, or a graph cannot be written as YAML.
Example: a bracket that is not closed.
Fix: correct the line that the message gives; write a live module as a part of your own.""",
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
