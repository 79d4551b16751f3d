"""Texts and files that are out of bounds: each is answered by one problem, and none brings the process down."""

import json
import subprocess
import sys

import pytest
import yaml

import composer
from composer.errors import SpecError, make_printable
from composer.spec.reader import read, reads

CHAIN = """\
input: {channels: 6, size: [224, 224]}
encoder: {timm/resnet50: {out_indices: [1, 2], options: {drop_rate: 0.1}}}
necks:
  - SelectIndices: {indices: [0, -1]}
  - AddBottleneckLayer
decoder: &fcn {FCNDecoder: {num_convs: 2}}
head:
  SegmentationHead:
    num_classes: 10
aux:
  early: {decoder: *fcn, head: {SegmentationHead: {num_classes: 2}}}
rescale: false
padding: {side: end}
"""
GRAPH = """\
inputs:
  before: {}
  after: {stride: 3/2}
nodes:
  old: {part: timm/resnet18, from: before}
  new: {share: old, from: after}
  both: {part: ConcatFeatures, from: [old, new]}
  named: {part: AddFeatures, from: {S2: both, S1: both}}
outputs: ["named"]
auxiliary: {middle: both}
"""
DIGITS = "a whole number has at most 40 digits"
DEPTH = "lists and mappings nest at most 32 deep."
NODES = "a file has at most 20,000 values, counting what each alias stands for."
CIRCLE = "the alias *a refers to a value that contains it.\n  fix: write it out"
SIZE = "a spec has at most 1,048,576 bytes."
LEFT_OUT = "\n  fix: leave it out"


def test_read_gives_what_reads_gives_and_names_the_file(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(f"\ufeff{CHAIN}", encoding="utf-8")
    assert read(str(path)) == reads(CHAIN)
    assert read(path).source.file == str(path)


UTF_8 = "the text is not UTF-8"
BAD_FILES = {
    "latin-1": (b"encoder: timm/x\nhead: r\xe9sum\xe9\n", f"2:8: error[yaml] {UTF_8} (got the byte 0xe9)."),
    "utf-16": ("encoder: x".encode("utf-16"), f"1:1: error[yaml] {UTF_8} (got the byte 0xff)."),
    "nul": (b"encoder: a\x00b", "1:11: error[yaml] the character '\\x00' is not allowed in a spec."),
    "large": (b"#" * (2**20 + 1), f"1:1: error[limit] {SIZE}"),
}


@pytest.mark.parametrize(("data", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_are_no_text(tmp_path, data, message):
    path = tmp_path / "model.yaml"
    path.write_bytes(data)
    with pytest.raises(SpecError) as caught:
        read(path)
    assert str(caught.value).partition("\n")[0] == f"{path}:{message}"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("absent.yaml", "No such file or directory"), ("", "Is a directory"), ("\x00", "embedded null byte")],
    ids=["absent", "directory", "nul"],
)
def test_files_that_cannot_be_read(tmp_path, name, reason):
    path = f"{tmp_path}/{name}"
    with pytest.raises(SpecError) as caught:
        read(path)
    assert str(caught.value) == f"{make_printable(path)}: error[file] the file cannot be read: {reason}."


def doubling(levels):
    return "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(levels))


def nesting(levels):
    return "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(levels))


def with_channels(number):
    return f"input: {{channels: {number}}}\nencoder: timm/x"


LIMITS = {
    "aliases that multiply": (doubling(60), f"13:18: error[limit] {NODES}"),
    "aliases that nest": (nesting(60), f"32:12: error[limit] {DEPTH}"),
    "[": ("[" * 200_000, f"1:33: error[limit] {DEPTH}"),
    "[ in a mapping": ("a:\n  b: " + "[" * 1_000, f"2:36: error[limit] {DEPTH}"),
    "[ in quotes before a mistake": (f"a: '{'[' * 1_000}' ]", "1:1007: error[yaml] did not find expected key."),
    "-": ("- " * 200_000, f"1:65: error[limit] {DEPTH}"),
    "many values": (f"[{'1, ' * 30_000}]", f"1:59999: error[limit] {NODES}"),
    "circle": ("encoder: &a [*a]", f"1:14: error[yaml] {CIRCLE}"),
    "circle in a mapping": ("&a {x: {y: *a}}", f"1:12: error[yaml] {CIRCLE}"),
    "surrogate": ("a: \ud800", f"1:4: error[yaml] the character '\\ud800' is not allowed in a spec.{LEFT_OUT}"),
    "control": ("a: b\r\nc: \x07", f"2:4: error[yaml] the character '\\x07' is not allowed in a spec.{LEFT_OUT}"),
    "digits": (with_channels("9" * 5000), f"1:19: error[limit] {DIGITS} (got 5,000)."),
    "hexadecimal": (with_channels("0x" + "f" * 5000), f"1:19: error[limit] {DIGITS} (got 5,002)."),
    "many tag directives": (
        "".join(f"%TAG !x{i}! y\n" for i in range(60_000)),
        f"1:1: error[yaml] tags are not supported (got the directive %TAG).{LEFT_OUT}",
    ),
}


@pytest.mark.parametrize(("text", "message"), LIMITS.values(), ids=LIMITS)
def test_limits_are_answered_by_one_problem(text, message):
    with pytest.raises(SpecError) as caught:
        reads(text)
    assert str(caught.value) == f"<text>:{message}"


def test_as_deep_and_as_many_as_the_limits_allow():
    deep = f"{'[' * 28}1{']' * 28}"
    many = ", ".join(["1"] * 19_900)
    options = dict(reads(f"encoder: {{timm/x: {{options: {{deep: {deep}, many: [{many}]}}}}}}\n").nodes[0].part.options)
    assert len(options["many"]) == 19_900


REACHING = {
    "a call": "encoder: !!python/object/apply:os.system [touch canary]",
    "a name of Python's": "encoder: !!python/name:os.system {}",
    "an expression": "encoder: __import__('os')",
    "a live module": "encoder: {Custom: {module: os.system}}",
    "a source that nobody knows": "encoder: os/system",
    "an included file": "encoder: !include /etc/passwd",
    "a reference": "encoder: {$ref: /etc/passwd}",
    "a folder": "encoder: {transformers//etc: {pretrained: true}}\nhead: EmbeddingHead",
    "a repository": "encoder: timm/hf-hub:somebody/something\nhead: EmbeddingHead",
    "weights at an address": "encoder: {timm/resnet18: {pretrained: 'http://localhost/x.pth'}}\nhead: EmbeddingHead",
    "a function as an option": "encoder: {timm/resnet18: {options: {act_layer: os.system}}}\nhead: EmbeddingHead",
}
WATCHING = """
import json, sys, composer

def outcome(text):
    try:
        composer.reads(text)
    except composer.SpecError:
        return "refused"
    return "read"

for part in ("timm/x", "smp/resnet18", "transformers/x", "nothing"):  # imports what reading needs
    outcome(f"encoder: {part}\\nhead: {{EmbeddingHead: {{}}}}")
seen = []
reaching = ("open", "import", "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "pickle.")
sys.addaudithook(lambda event, arguments: seen.append(event) if event.startswith(reaching) else None)
print(json.dumps({name: [outcome(text), *seen] for name, text in json.loads(sys.argv[1]).items()}))
"""


def test_a_text_makes_the_reader_reach_for_nothing():
    """Python tells of each file that is opened, each import, each connection and each process."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHING, json.dumps(REACHING)], capture_output=True, text=True, timeout=60, check=True
    )
    lawful = list(REACHING)[-4:]
    assert json.loads(done.stdout) == {name: ["read" if name in lawful else "refused"] for name in REACHING}


@pytest.mark.parametrize("name", ["hf-hub:somebody/something", "hf_hub:a/b", "local-dir:/etc", "https://localhost/x"])
def test_a_name_of_a_network_is_no_address(name, monkeypatch):
    def asked(*_, **__):
        raise AssertionError("somebody was asked for an address")

    monkeypatch.setattr("socket.getaddrinfo", asked)
    with pytest.raises(SpecError) as caught:
        composer.infer(reads(f"encoder: {json.dumps(f'timm/{name}')}\nhead: EmbeddingHead"))
    assert [problem.code for problem in caught.value.problems] == ["part"]


@pytest.mark.parametrize("text", [CHAIN, GRAPH], ids=["chain", "graph"])
def test_without_libyaml_the_same_is_read(text, monkeypatch):
    quick = reads(text)
    monkeypatch.setattr("composer.spec.yaml._LOADER", yaml.SafeLoader)
    slow = reads(text)
    assert (slow, slow.source) == (quick, quick.source)
