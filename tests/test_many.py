"""Texts that are large within the limits are answered in seconds, and with no more problems than anybody reads."""

import pytest

import composer
from composer.errors import MAX_PROBLEMS, SpecError
from tests.bounded import limit_seconds

NODES = "inputs: {a: {}}\nnodes:\n  e: {part: timm/test_resnet, from: a}\n"
MORE = f"there are more than {MAX_PROBLEMS} problems; these are the first of them."


def _nodes(count, said):
    return NODES + "".join(f"  x{number}: {said.format(number)}\n" for number in range(count)) + "outputs: [x0]\n"


MANY = {
    "parts that are none": "encoder: timm/test_resnet\nnecks: ["
    + ", ".join(f"resnet{n}" for n in range(19_000))
    + "]\n",
    "keys that are none": "encoder: timm/test_resnet\n" + "".join(f"decoder{n}: 1\n" for n in range(9_000)),
    "nodes that are none": _nodes(2_500, "{{part: AddFeatures, from: y{}}}"),
    "nodes that nothing needs": _nodes(2_500, "{{part: FCNDecoder, from: e}}"),
    "outputs twice": NODES + "outputs: [" + ", ".join(f"y{number}, y{number}" for number in range(9_000)) + "]\n",
}


def refusal(text):
    with limit_seconds(30), pytest.raises(SpecError) as caught:  # each of the large texts took minutes once
        composer.infer(composer.reads(text))
    return caught.value


@pytest.mark.parametrize("text", MANY.values(), ids=MANY)
def test_of_many_problems_the_first_are_told(text):
    problems = refusal(text).problems

    assert len(problems) == MAX_PROBLEMS + 1
    assert [problem.message for problem in problems].index(MORE) == MAX_PROBLEMS
    assert (problems[-1].code, problems[-1].fix) == ("limit", "fix these, and check again")
    assert problems[-1].place.line is not None


def test_as_many_problems_as_may_be_told_are_told():
    text = "encoder: timm/test_resnet\n" + "".join(f"decoder{number}: 1\n" for number in range(MAX_PROBLEMS))

    assert [problem.code for problem in refusal(text).problems] == ["key"] * MAX_PROBLEMS


def test_a_chain_of_ten_thousand_necks_is_read_and_inferred():
    text = f"encoder: timm/test_resnet\nnecks: [{', '.join(['MaxpoolToPyramidal'] * 9_000)}]\n"

    assert str(refusal(text)) == (
        "<text>:2:69: error[limit] necks[3]: MaxpoolToPyramidal gives features whose stride is a ratio of numbers of "
        "at most 1,048,576 (got 2097152).\n  fix: leave it out, or a node before it"
    )


def test_of_many_nodes_that_are_refused_the_first_are_told():
    decoded = "{{part: {{UNetDecoder: {{channels: [4, 2]}}}}, from: e}}"
    text = _nodes(600, decoded).replace("[x0]", f"[{', '.join(f'x{number}' for number in range(600))}]")

    assert [problem.code for problem in refusal(text).problems] == ["count"] * MAX_PROBLEMS + ["limit"]


def test_a_long_name_is_none():
    text = f"inputs: {{a: {{}}}}\nnodes:\n  ? {'a.' * 200_000}a\n  : {{part: timm/test_resnet, from: a}}\noutputs: []\n"

    assert refusal(text).problems[0].message == f"{'a.' * 32!r}… is not a valid name: a name has at most 256 letters."


GROWING = {
    "channels that double": (
        "inputs: {a: {channels: 65536}}\nnodes:\n  n0: {part: ConcatFeatures, from: [a, a]}\n"
        + "".join(f"  n{n + 1}: {{part: ConcatFeatures, from: [n{n}, n{n}]}}\n" for n in range(2_000))
        + "outputs: [n2000]\n",
        (
            "<text>:18:15: error[limit] n15: ConcatFeatures gives features of at most 2,147,483,648 channels "
            "(got 4,294,967,296).\n  fix: leave it out, or a node before it"
        ),
    ),
    "cells that shrink": (
        f"encoder: timm/test_resnet\nnecks: [{', '.join(['{InterpolateToPyramidal: {scale_factor: 8}}'] * 3)}]\n",
        (
            "<text>:2:54: error[limit] necks[1]: InterpolateToPyramidal gives features whose stride is a ratio of "
            "numbers of at most 1,048,576 (got 1/536870912).\n  fix: leave it out, or a node before it"
        ),
    ),
    "sizes that no image has": (
        (
            "inputs: {a: {stride: 1048573}, b: {stride: 1048575}}\nnodes:\n  x: {part: IdentityDecoder, from: a}\n"
            "  y: {part: IdentityDecoder, from: b}\noutputs: [x, y]\n"
        ),
        (
            "<text>:1:35: error[sizes] b: no image size suits both: a takes multiple of 1048573, at least 1048573, any "
            "shape; b takes multiple of 1048575, at least 1048575, any shape.\n"
            "  fix: change the input's size or the encoder's img_size to one that both take"
        ),
    ),
    "a stride that no image has": (
        "input: {stride: 999999999/100000000}\nencoder: timm/test_resnet\n",
        (
            "<text>:1:17: error[value] input.stride: stride must be a ratio of numbers of at most 1,048,576 "
            "(got '999999999/100000000')."
        ),
    ),
}


@pytest.mark.parametrize(("text", "message"), GROWING.values(), ids=GROWING)
def test_numbers_that_grow_from_node_to_node_are_refused(text, message):
    assert str(refusal(text)) == message
