"""TerraTorch's factories: the one known here, the one that hands on to it, why no other is known. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.problem import suggest

FACTORY = "EncoderDecoderFactory"
PRITHVI = "PrithviModelFactory"

WHOLE_MODEL_REASON = "it builds whole models, in which composer knows no parts"
UNSUPPORTED_FACTORIES: dict[str, tuple[str, str | None]] = {
    "SMPModelFactory": (
        "it builds whole models of segmentation_models_pytorch",
        f"model_factory: {FACTORY}, with a backbone timm_NAME and a decoder smp_NAME",
    ),
    "TimmModelFactory": (
        "it builds whole classifiers of timm",
        f"model_factory: {FACTORY}, with a backbone timm_NAME and decoder: IdentityDecoder",
    ),
    "ObjectDetectionModelFactory": ("it builds detectors, which composer does not describe", None),
    "FullModelFactory": (WHOLE_MODEL_REASON, None),
    "GenericModelFactory": (WHOLE_MODEL_REASON, None),
    "GenericUnetModelFactory": (WHOLE_MODEL_REASON, None),
    "WxCModelFactory": (WHOLE_MODEL_REASON, None),
    "SatMAEModelFactory": ("it imports the code of SatMAE from a folder, and nothing is imported here", None),
    "ClayModelFactory": ("it imports the code of Clay, and nothing is imported here", None),
    "Clay1_5ModelFactory": ("it builds Clay's masked autoencoder as a whole", None),
}
"""The other factories of TerraTorch 1.2.11: why their models are not imported, and what to write instead."""


def explain_unsupported_factory(name: str) -> tuple[str, str | None]:
    """Why a factory's models are not imported, and what to write instead."""
    if name not in UNSUPPORTED_FACTORIES:
        return f"TerraTorch has no factory {name!r}.", suggest(name, (FACTORY, PRITHVI, *UNSUPPORTED_FACTORIES))
    reason, repair = UNSUPPORTED_FACTORIES[name]
    return f"models of {name} are not imported: {reason}.", repair


PRITHVI_ARGUMENT_SOURCES = {
    "backbone_bands": ("bands",),
    "backbone_in_chans": ("in_channels", "bands"),
    "backbone_pretrained": ("pretrained",),
    "backbone_num_frames": ("num_frames",),
}
"""What PrithviModelFactory hands on under another name, and what it makes it of: the first of these that is given."""


def convert_prithvi_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that EncoderDecoderFactory gets from PrithviModelFactory.

    Raises ValueError, which names the argument first, for what PrithviModelFactory does not take.
    """
    backbone, bands = given.get("backbone"), given.get("bands")
    if not isinstance(bands, list):
        raise ValueError(f"bands is a list of bands in {PRITHVI} (got {bands!r})")
    if isinstance(backbone, str) and not backbone.startswith("prithvi_"):
        raise ValueError(f"backbone must begin with prithvi_ in {PRITHVI} (got {backbone!r})")
    if "necks" in given:
        raise ValueError(f"necks cannot be given to {PRITHVI}, which says itself that there are none")
    own = {"bands", "in_channels", "pretrained", "num_frames", "prepare_features_for_image_model"}
    channels = given.get("in_channels")
    return {
        **{name: value for name, value in given.items() if name not in own},
        "backbone_bands": bands,
        "backbone_in_chans": len(bands) if channels is None else channels,
        "backbone_pretrained": given.get("pretrained", True),
        "backbone_num_frames": given.get("num_frames", 1),
    }
