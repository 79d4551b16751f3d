"""Every wrong spec is answered with all that is wrong with it, each with its place, the rule, both sides, a fix.

What is said about those that cannot be read is in tests/golden/wrong.json, and compared in tests/golden.
"""

import pytest

from composer.errors import Place, Problem, SpecError
from composer.inference import infer
from composer.layouts import Feature
from composer.parts import EncoderInfo, Timm
from composer.sizes import SizeConstraint
from composer.spec.reader import reads
from tests.wrong_specs import INFERRED

PYRAMID = tuple(
    Feature(channels=channels, stride=stride)
    for channels, stride in zip((64, 64, 128, 256, 512), (2, 4, 8, 16, 32), strict=True)
)
TOKENS = (Feature(channels=384, stride=16, axes="b n c", prefix=1),) * 4
FACTS = {
    Timm("resnet18"): EncoderInfo(features=PYRAMID),
    Timm("resnet18", out_indices=(1, 2, 3, 4)): EncoderInfo(features=PYRAMID[1:]),
    Timm("resnet18", out_indices=(3,)): EncoderInfo(features=PYRAMID[3:4]),
    Timm("resnet18", img_size=224): EncoderInfo(features=PYRAMID, sizes=SizeConstraint(height=224, width=224)),
    Timm("vit_small_patch16_224", tokens=True): EncoderInfo(features=TOKENS),
}


@pytest.mark.parametrize(("text", "message"), INFERRED.values(), ids=INFERRED)
def test_refused_by_infer(text, message):
    graph = reads(text)
    with pytest.raises(SpecError) as caught:
        infer(graph, FACTS)
    assert str(caught.value) == message


def test_a_problem_is_an_object():
    with pytest.raises(SpecError) as caught:
        reads("encoder: timm/x\nhead: {SegmentationHead: {num_classes: '64'}}\n", name="x.yaml")
    assert caught.value.problems == (
        Problem(
            code="type",
            message="expected a whole number (got '64', a string).",
            place=Place("head.num_classes", "x.yaml", 2, 40),
            expected="a whole number",
            got="'64', a string",
            fix="write 64 without quotes",
        ),
    )
