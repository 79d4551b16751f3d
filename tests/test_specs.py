"""Every file of specs/ is read, written, inferred, built and run, and is what it promises to be."""

import copy
import math
import pickle
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.utils import _pytree as pytree

import composer
from tests.law.test_graphs import outputs_of, shapes_in

FILES = sorted((Path(__file__).parent.parent / "specs").glob("*.yaml"))
OPTIONAL = ("terratorch", "transformers", "mmseg")
"""Sources whose libraries are not of the extra `test`: what builds a spec of theirs has the marker of that name."""

IDLE = {"encoder.embeddings.mask_token", "encoder.swin.layernorm.weight", "encoder.swin.layernorm.bias"}
"""Parameters that networks of transformers have, and their backbones make no use of."""


def named(files):
    return [pytest.param(file, id=file.stem) for file in files]


def marked(quick):
    """All specs, where the libraries are there that a spec names; but for those called `quick`, with the slow tests."""
    texts = {file: file.read_text(encoding="utf-8") for file in FILES}
    marks = {file: [source for source in OPTIONAL if f"{source}/" in text] for file, text in texts.items()}
    marks = {file: [*names, *(["slow"] if file.stem not in quick else [])] for file, names in marks.items()}
    return [
        pytest.param(file, id=file.stem, marks=[getattr(pytest.mark, one) for one in marks[file]]) for file in FILES
    ]


@cache
def graph_of(file):
    return composer.read(file)


@pytest.fixture(scope="module", params=marked([file.stem for file in FILES]))
def model(request):
    """The model of one spec, built once for all the tests of that spec, in eval mode."""
    return composer.build(graph_of(request.param)).eval()


def images(typed, height, width, batch=2, seed=0):
    """Random images for a graph that cover `height` by `width` reference pixels."""
    noise = torch.Generator().manual_seed(seed)
    by_name = {
        name: torch.randn(image.feature.shape(batch, height, width), generator=noise)
        for name, image in typed.graph.inputs
    }
    return by_name if len(by_name) > 1 else next(iter(by_name.values()))


def run(model, x):
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize("file", named(FILES))
def test_opens_with_two_lines_on_what_it_shows(file):
    begins = [line[:2] for line in file.read_text(encoding="utf-8").splitlines()[:3]]
    assert [begin == "# " for begin in begins] == [True, True, False]


@pytest.mark.parametrize("file", named(FILES))
def test_what_is_written_is_read_as_the_same_graph(file):
    graph = graph_of(file)
    same = composer.reads(composer.write(graph))
    assert same == graph
    assert composer.digest(same) == composer.digest(graph)


def test_digests_differ_between_specs():
    assert len(FILES) >= 14
    assert len({composer.digest(graph_of(file)) for file in FILES}) == len(FILES)


def test_outputs_are_as_inferred(model):
    """Exactly the shape that was inferred, and finite, for an image of an odd size where its inputs allow one."""
    typed = model.typed
    step = math.lcm(*(image.stride.numerator for _, image in typed.graph.inputs))
    height, width = 65 // step * step, 97 // step * step
    given = outputs_of(run(model, images(typed, height, width)), typed.graph)
    assert {end: shapes_in(x) for end, x in given.items()} == {
        end: typed.shape(end, height, width) for end in typed.ends
    }
    assert [x for x in pytree.tree_leaves(given) if not x.isfinite().all()] == []


def test_every_parameter_learns(model):
    """A loss over all outputs reaches every parameter that is used, with a finite gradient."""
    learner = copy.deepcopy(model).train()
    x = images(learner.typed, *learner.typed.sizes.compute_padded_size(64, 64))
    loss = sum(out.square().mean() for out in pytree.tree_leaves(learner(x)))
    loss.backward()
    untaught = [name for name, p in learner.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert set(untaught) <= IDLE


FEW = marked(["auxiliary-heads", "change-detection"])


@pytest.mark.parametrize("model", FEW, indirect=True)
def test_one_seed_gives_one_model(model):
    """Bit-equal weights from torch's generator in any state, which is left as it was."""
    before = torch.random.get_rng_state()
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    again = composer.build(model.graph).state_dict()
    after = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    assert torch.equal(state, after)
    assert list(again) == list(model.state_dict())
    assert [name for name, x in model.state_dict().items() if not torch.equal(x, again[name])] == []


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("model", FEW, indirect=True)
def test_a_copy_gives_the_same(model, copied):
    x = images(model.typed, 70, 98)
    one, other = run(model, x), run(copied(model), x)
    assert pytree.tree_structure(one) == pytree.tree_structure(other)
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    assert [torch.equal(*pair) for pair in pairs] == [True] * len(pytree.tree_leaves(one))
