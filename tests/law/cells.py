"""Cells of the matrix, drawn by a seed, and held against what building and running them shows."""

from __future__ import annotations

import random
import warnings
from fnmatch import fnmatchcase
from inspect import signature

import torch
from attrs import evolve

import composer
from bench.census.census import CPU_NETWORKS
from composer.adapters.timm import catalogue
from composer.compatibility import PairResult, build_default_decoder, evaluate_pairs, list_decoder_names
from composer.encoder_info import LIBRARIES, import_adapter
from composer.errors import SpecError
from composer.inference import run_inference
from composer.layouts import MAP
from composer.parts import PARTS
from composer.parts.base import get_part_name
from composer.parts.encoders import Timm
from composer.parts.heads import EmbeddingHead
from composer.parts.rules import Rejection, compute_implied_sizes
from composer.sizes import intersect
from tests.law.test_graphs import check
from tests.law.test_parts import raised_by_us

ENCODERS = [name for name in catalogue.list_networks() if not name.startswith(CPU_NETWORKS)]
SIDES = (52, 68)
"""Sides of the image that a pair is fed, less one; it is padded to the next size that the pair takes."""

TRIES = 2000
"""How many pairs are looked at for one of a verdict: a few hundredths of all are rejected."""

ROOM = 8
"""Cells per side, at its coarsest level, of an image for a rejected pair: fewer would be a cause of their own."""


def decoders(pattern="*"):
    """The decoders that match a pattern, of those whose libraries are installed."""
    matching = {name: PARTS[name] for name in list_decoder_names(PARTS) if fnmatchcase(name, pattern)}
    return {n: part for n, part in matching.items() if part.source is None or LIBRARIES[part.source].is_installed()}


def drawn(seed, verdict, among):
    """One pair of those that have a verdict, each as likely as another."""
    dice = random.Random(seed)
    pairs = ((Timm(dice.choice(ENCODERS)), dice.choice(list(among))) for _ in range(TRIES))
    cells = (evaluate_pairs(encoder, {name: among[name]}, composer.describe)[0] for encoder, name in pairs)
    return next(cell for cell in cells if cell.verdict == verdict)


def hold(cell):
    """Build a pair and run it on the meta device; one that is rejected, or would be without its necks, is forced.

    Raises an error where that is not its verdict.
    """
    if cell.decoder.source is not None:
        assert import_adapter(cell.decoder.source) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if cell.verdict == "refused":
            _force(cell)
            return
        check(SIDES, composer.infer(cell.graph), device="meta")
        if cell.verdict == "necks":
            _force(_remove_necks(cell))


def _remove_necks(cell):
    """The pair without necks, and with the levels that the encoder gives by itself."""
    encoder, name = evolve(cell.encoder, out_indices=None), get_part_name(cell.decoder)
    features = composer.describe(encoder, 3).features
    return PairResult(encoder=encoder, decoder=build_default_decoder(name, PARTS[name], features))


def _force(cell):
    """See that a decoder does with inputs that it rejects what the kind of its rejection says."""
    inference = run_inference(cell.graph, composer.describe)
    if "encoder" in inference.rejections:
        return
    features, info = inference.features["encoder"], inference.encoder_infos["encoder"]
    size = _find_roomy_size(features, info)
    rejection = inference.rejections.get("decoder") or _find_graph_rejection(inference)
    tensors = _make_levels(cell.encoder, features, size)
    try:
        out = _decode(cell.decoder, features, tensors, size)
    except Exception as error:  # whatever a network raises
        if rejection.kind == "policy" or raised_by_us(error):
            raise
        return
    assert rejection.kind != "raises", f"{cell}: {rejection} ran, and gave {out}"
    if rejection.kind == "wrong_output":
        assert out != _compute_expected(cell.decoder, features, size), f"{cell}: {rejection}"


def _find_roomy_size(features, info):
    """A size that the encoder takes, with room for all that a decoder pools."""
    sizes = intersect([("info", info.sizes), *(("feature", compute_implied_sizes(feature)) for feature in features)])
    least = ROOM * max(int(feature.stride) for feature in features)
    return sizes.compute_padded_size(least, least + 1) or sizes.compute_padded_size(1, 1)


def _find_graph_rejection(inference):
    """What no decoder rejects, but the graph: sizes that none has, and outputs that are no maps."""
    try:
        inference.to_typed_graph()
    except SpecError as error:
        problem = error.problems[0]
        return Rejection(code=problem.code, kind="wrong_output", expected=problem.message)
    raise AssertionError("the pair is not rejected")


def _make_levels(encoder, features, size):
    """Zeros of the shapes that the network gives on the meta device."""
    model = composer.build(composer.chain(encoder, EmbeddingHead()), device="meta").eval()
    with torch.no_grad():
        shapes = [tuple(x.shape) for x in model.encoder(torch.empty(1, 3, *size, device="meta"))]
    assert shapes == [feature.shape(1, *size) for feature in features]
    return [torch.zeros(shape) for shape in shapes]


def _decode(decoder, features, tensors, size):
    """On the CPU: the meta device lets a convolution have channels that are not its own."""
    module = composer.module(decoder, features).eval()
    needs_size = "image_size" in signature(module.forward).parameters
    with torch.no_grad():
        out = module(tensors, **({"image_size": size} if needs_size else {}))
    return [tuple(x.shape) for x in out]


def _compute_expected(decoder, features, size):
    """What the decoder gives of maps with these channels and strides, where it takes those."""
    result = composer.contract(decoder, tuple(evolve(f, axes=MAP, prefix=0) for f in features))
    if isinstance(result, Rejection):
        return None
    outputs = getattr(result, "features", result)
    if any(f.stride and any(side / f.stride % 1 for side in size) for f in outputs):
        return None
    return [f.shape(1, *size) for f in outputs]
