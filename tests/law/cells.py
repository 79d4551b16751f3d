"""Cells of the matrix, drawn by a seed and held to their verdicts. `python -m tests.law.cells` draws 500 and tells."""

from __future__ import annotations

import argparse
import os
import random
import secrets
import sys
import tempfile
import warnings
from collections import Counter
from fnmatch import fnmatchcase
from inspect import signature

import torch
from attrs import evolve, frozen
from rich.progress import track

import composer
from bench.census.census import CPU_NETWORKS
from composer.adapters.timm import catalogue
from composer.compatibility import VERDICTS, PairResult, build_default_decoder, evaluate_pairs, list_decoder_names
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
from tests.law.test_graphs import recorded, shapes_in
from tests.law.test_parts import raised_by_us

ENCODERS = [name for name in catalogue.list_networks() if not name.startswith(CPU_NETWORKS)]
SIDES = (96, 160)
"""The image that a pair is fed, or the next larger that it takes."""

TRIES = 2000
"""How many pairs are looked at for one of a verdict: a few hundredths of all are refused."""

ROOM = 8
"""Cells per side, at its coarsest level, of an image for a refused pair: fewer would be a cause of their own."""


@frozen
class Held:
    """A pair that was held to its verdict: how it showed, and what is wrong if it did not."""

    cell: PairResult
    shown: str
    wrong: str | None = None

    def __str__(self) -> str:
        """The pair, and what became of it."""
        necks = "".join(f" + {get_part_name(neck)}" for neck in self.cell.necks)
        pair = f"{get_part_name(self.cell.encoder)}{necks} + {get_part_name(self.cell.decoder)}"
        return f"{pair}: {self.wrong or self.shown}"


def decoders(pattern="*"):
    """The decoders that match a pattern, of those whose libraries are installed."""
    matching = {name: PARTS[name] for name in list_decoder_names(PARTS) if fnmatchcase(name, pattern)}
    return {n: part for n, part in matching.items() if part.source is None or LIBRARIES[part.source].is_installed()}


def drawn(seed, verdict, among):
    """One pair of those that have a verdict, each as likely as another; None where there is hardly any."""
    dice = random.Random(seed)
    for _ in range(TRIES):
        decoder = dice.choice(list(among))
        (cell,) = evaluate_pairs(Timm(dice.choice(ENCODERS)), {decoder: among[decoder]}, composer.describe)
        if cell.verdict == verdict:
            return cell
    return None


def held(cell):
    """Build a pair and run it on the meta device; one that is refused, or would be without its necks, is forced."""
    if cell.decoder.source is not None:
        assert import_adapter(cell.decoder.source) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ran = _forced(cell) if cell.verdict == "refused" else _run(cell)
            if cell.verdict == "necks" and ran.wrong is None:
                without = _forced(_direct(cell))
                return evolve(without, cell=cell, shown=f"{ran.shown}; without, {without.shown}")
            return ran
        except Exception as error:  # whatever a network raises
            return Held(cell, "raised", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _run(cell):
    """What each node gives, and what leaves the model, is what was inferred."""
    typed = composer.infer(cell.graph)
    height, width = typed.sizes.compute_padded_size(*SIDES) or typed.sizes.compute_padded_size(1, 1)
    model = composer.build(typed, device="meta").eval()
    edges = recorded(model)
    with torch.no_grad():
        out = model(torch.empty(1, 3, height, width, device="meta")).output
    (end,) = typed.ends
    promised = {node.name: [f.shape(1, height, width) for f in typed.features[node.name]] for node in typed.order}
    given = {name: [tuple(x.shape) for x in xs] for name, xs in edges.items()}
    unlike = [
        f"{name} gives {given.get(name)}, not {told}" for name, told in promised.items() if given.get(name) != told
    ]
    if shapes_in(out) != typed.shape(end, height, width):
        unlike.append(f"the output is {shapes_in(out)}, not {typed.shape(end, height, width)}")
    return Held(cell, "runs as promised", f"at {height} × {width}: {'; '.join(unlike)}" if unlike else None)


def _direct(cell):
    """The pair without necks, and with the levels that the encoder gives by itself."""
    encoder, name = evolve(cell.encoder, out_indices=None), get_part_name(cell.decoder)
    features = composer.describe(encoder, 3).features
    return PairResult(encoder=encoder, decoder=build_default_decoder(name, PARTS[name], features))


def _forced(cell):
    """What a decoder does with what it refuses, beside the kind of its refusal."""
    walk = run_inference(cell.graph, composer.describe)
    if "encoder" in walk.rejections:
        return Held(cell, "has no facts")
    features, facts = walk.features["encoder"], walk.encoder_infos["encoder"]
    height, width = _roomy(features, facts)
    refusal = walk.rejections.get("decoder") or _of_the_whole(walk)
    tensors = _given(cell.encoder, features, height, width)
    try:
        out = _decoded(cell.decoder, features, tensors, height, width)
    except Exception as error:
        wrong = refusal.kind == "policy" or raised_by_us(error)
        said = f"{refusal.kind} ({refusal.code}), and it raised {type(error).__name__}: {' '.join(str(error).split())}"
        return Held(cell, f"{refusal.kind}: it raised", said[:300] if wrong else None)
    asked = _asked(cell.decoder, features, height, width)
    wrong = refusal.kind == "raises" or (refusal.kind == "wrong_output" and out == asked)
    told = f"policy: {refusal.code}: {refusal.expected}" if refusal.kind == "policy" else f"{refusal.kind}: it ran"
    return Held(cell, told, f"{refusal.kind} ({refusal.code}), and it gave {out}" if wrong else None)


def _roomy(features, facts):
    """A size that the encoder takes, with room for all that a decoder pools."""
    sizes = intersect([("facts", facts.sizes), *(("feature", compute_implied_sizes(feature)) for feature in features)])
    least = ROOM * max(int(feature.stride) for feature in features)
    return sizes.compute_padded_size(least, least + 1) or sizes.compute_padded_size(1, 1)


def _of_the_whole(walk):
    """What no decoder refuses, but the graph: sizes that none has, and outputs that are no maps."""
    try:
        walk.to_typed_graph()
    except SpecError as error:
        problem = error.problems[0]
        return Rejection(code=problem.code, kind="wrong_output", expected=problem.message)
    raise AssertionError("the pair is not refused")


def _given(encoder, features, height, width):
    """Tensors as the network gives them, which it does on the meta device, with zeros in them."""
    model = composer.build(composer.chain(encoder, EmbeddingHead()), device="meta").eval()
    with torch.no_grad():
        levels = model.encoder(torch.empty(1, 3, height, width, device="meta"))
    shapes = [tuple(x.shape) for x in levels]
    promised = [feature.shape(1, height, width) for feature in features]
    assert shapes == promised, f"the encoder gives {shapes}, not {promised}"
    return [torch.zeros(shape) for shape in shapes]


def _decoded(decoder, features, tensors, height, width):
    """On the CPU: the meta device lets a convolution have channels that are not its own."""
    decoded = composer.module(decoder, features).eval()
    needs_size = "image_size" in signature(decoded.forward).parameters
    with torch.no_grad():
        out = decoded(tensors, **({"image_size": (height, width)} if needs_size else {}))
    return [tuple(x.shape) for x in out]


def _asked(decoder, features, height, width):
    """What the decoder gives of maps with these channels and strides, where it takes those."""
    outcome = composer.contract(decoder, tuple(evolve(f, axes=MAP, prefix=0) for f in features))
    if isinstance(outcome, Rejection):
        return None
    given = getattr(outcome, "features", outcome)
    if any(f.stride and (height / f.stride % 1 or width / f.stride % 1) for f in given):
        return None
    return [f.shape(1, height, width) for f in given]


def main():
    """Draw cells of each verdict in turn, tell how many there were of what, and which are not as was said."""
    parser = argparse.ArgumentParser(prog="python -m tests.law.cells", description=main.__doc__)
    parser.add_argument("-n", "--number", type=int, default=500, help="how many cells")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="draws the same cells again")
    parser.add_argument("--decoders", default="*", metavar="PATTERN", help="of which decoders")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.write(f"seed {given.seed}\n")
    among, counts = decoders(given.decoders), Counter()
    verdicts = [verdict for verdict in VERDICTS if drawn(given.seed, verdict, among)]
    for number in track(range(given.number), description="cells"):
        verdict = verdicts[number % len(verdicts)]
        found = held(drawn(f"{given.seed} {number}", verdict, among))
        counts[verdict, found.shown if found.wrong is None else "not so"] += 1
        if found.wrong:
            sys.stdout.write(f"  not so: {verdict}, {found}\n")
            sys.stdout.flush()
    sys.stdout.writelines(f"{count:5} {verdict}, {shown}\n" for (verdict, shown), count in sorted(counts.items()))
    return 1 if any(shown == "not so" for _, shown in counts) else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("COMPOSER_CACHE", folder)
        raise SystemExit(main())
