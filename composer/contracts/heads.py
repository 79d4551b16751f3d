"""What heads give. No torch here."""

from __future__ import annotations

from fractions import Fraction

from attrs import evolve

from composer.contracts.dispatch import contract
from composer.contracts.rules import Outcome, Promise, Refusal, exactly, maps_only, only, scaled, whole
from composer.feature import MAP, VECTOR, Feature, Features
from composer.parts import ClassificationHead, EmbeddingHead, RegressionHead, ScalarHead, SegmentationHead


@contract.register(SegmentationHead)
def _(head: SegmentationHead, features: Features) -> Outcome:
    return maps_only(features) or _one(features) or Promise(features=[evolve(features[0], channels=head.num_classes)])


@contract.register(RegressionHead)
def _(head: RegressionHead, features: Features) -> Outcome:
    if refusal := maps_only(features) or _one(features):
        return refusal
    if not head.learned_upscale_layers:
        return Promise(features=[evolve(features[0], channels=head.num_outputs)])
    taken = exactly(features[0])
    stride = scaled(taken.stride, Fraction(1, 2**head.learned_upscale_layers))
    return Promise(features=[evolve(taken, channels=head.num_outputs, stride=stride)], sizes=whole(taken))


@contract.register(ClassificationHead)
def _(head: ClassificationHead, features: Features) -> Outcome:
    return _of_the_whole_image(features, head.num_classes)


@contract.register(ScalarHead)
def _(head: ScalarHead, features: Features) -> Outcome:
    return _of_the_whole_image(features, head.num_outputs)


@contract.register(EmbeddingHead)
def _(head: EmbeddingHead, features: Features) -> Outcome:
    if features:
        return Promise(features=features)
    return Refusal(
        code="count", kind="policy", expected="takes at least one feature, or there is nothing to give", got="none"
    )


def _of_the_whole_image(features: Features, channels: int) -> Outcome:
    return (
        only(features, lambda f: f.axes.startswith(VECTOR), f'channels second: a map "{MAP}" or a vector "{VECTOR}"')
        or _one(features)
        or Promise(features=[Feature(channels=channels, stride=None, axes=VECTOR)])
    )


def _one(features: Features) -> Refusal | None:
    if len(features) == 1:
        return None
    return Refusal(
        code="count", kind="impossible", expected="takes one feature", repair="put a decoder before it: IdentityDecoder"
    )
