"""How a network rounds is found by trial; here of chains of convolutions whose cells are computed beside it."""

from __future__ import annotations

from itertools import accumulate
from operator import mul

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from composer.adapters.probing import find_strides_and_sizes
from composer.adapters.rounding import RoundingMismatch, infer_offsets, infer_rounding
from composer.layouts import Feature
from composer.sizes import SizeConstraint

USUAL = 64
FAR = 400


class Chain:
    """Convolutions one after the other, each a level: (kernel, stride, padding, dilation)."""

    def __init__(self, layers):
        self.layers = layers

    def cells(self, pixels):
        """The cells of each level along one side, by torch's own formula; None where the side is too short."""
        found = []
        for kernel, stride, padding, dilation in self.layers:
            room = pixels + 2 * padding - dilation * (kernel - 1) - 1
            if room < 0:
                return None
            pixels = room // stride + 1
            found.append(pixels)
        return found

    def grids_at(self, height, width):
        sides = self.cells(height), self.cells(width)
        return None if None in sides else tuple(zip(*sides, strict=True))

    @property
    def reductions(self):
        return tuple(accumulate((stride for _, stride, _, _ in self.layers), mul))


@st.composite
def layers(draw):
    """A convolution that is exact where its stride divides the side, as those in networks are."""
    stride, kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 7)), draw(st.integers(1, 2))
    reach = dilation * (kernel - 1)
    paddings = [padding for padding in range(reach // 2 + 1) if reach - 2 * padding < stride]
    assume(paddings)
    return kernel, stride, draw(st.sampled_from(paddings)), dilation


@st.composite
def unpadded_layers(draw):
    """A convolution that loses pixels at the borders, or gains some."""
    stride, kernel = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    return kernel, stride, draw(st.integers(0, kernel // 2)), 1


chains = st.builds(Chain, st.lists(layers(), min_size=1, max_size=3))
unpadded_chains = st.builds(Chain, st.lists(unpadded_layers(), min_size=1, max_size=4))


def probe(chain):
    """The levels, the sizes where they are exact, and what is found of the other sizes."""
    strides, whole = find_strides_and_sizes(chain.grids_at, (USUAL, USUAL), chain.reductions)
    exact = tuple(Feature(channels=1, stride=stride) for stride in strides)
    return exact, whole, infer_rounding(chain.grids_at, exact, whole, max(whole.compute_padded_size(USUAL, USUAL)))


@given(chains)
def test_what_is_found_holds_at_every_size_that_it_admits(chain):
    _, _, found = probe(chain)
    assume(not isinstance(found, RoundingMismatch))
    features, sizes = found

    sides = [n for n in range(1, FAR) if sizes.is_valid_size(n, n)]

    assert {n: [f.cells(n) for f in features] for n in sides} == {n: chain.cells(n) for n in sides}


@given(chains)
def test_no_smaller_multiple_and_no_shorter_side_would_do(chain):
    exact, whole, found = probe(chain)
    multiple, least = (
        (whole.multiple, 0) if isinstance(found, RoundingMismatch) else (found[1].multiple, found[1].least)
    )

    smaller = [m for m in range(1, multiple) if whole.multiple % m == 0]

    assert [m for m in smaller if rounds_one_way(chain, exact, m)] == []
    assert isinstance(found, RoundingMismatch) or least == multiple or not fits(chain, found[0], least - multiple)


def fits(chain, features, side):
    return chain.cells(side) == [f.cells(side) for f in features] and all(chain.cells(side))


def rounds_one_way(chain, exact, multiple):
    """Whether each level has floor((n + a) / stride) cells, of one a, at all multiples n that are large enough."""
    sides = range(multiple * (FAR // multiple // 2), FAR, multiple)
    cells = [chain.cells(n) or [None] * len(exact) for n in sides]
    return all(
        any([level[i] for level in cells] == [(n + a) // f.stride for n in sides] for a in range(int(f.stride)))
        for i, f in enumerate(exact)
    )


@given(unpadded_chains)
def test_the_offsets_that_are_found_hold_at_every_size(chain):
    assume(chain.cells(USUAL) is not None)
    strided = tuple(Feature(channels=1, stride=stride) for stride in chain.reductions)
    features, sizes = infer_offsets(chain.grids_at, strided, USUAL)

    sides = range(sizes.least, FAR)

    assert sizes == SizeConstraint(least=sizes.least)
    assert {n: [f.cells(n) for f in features] for n in sides} == {n: chain.cells(n) for n in sides}
    assert sizes.least == 1 or not fits(chain, features, sizes.least - 1)


EXACT = tuple(Feature(channels=1, stride=2**level) for level in range(1, 6))


def make_wrong_grids(residue, wrong_side, by):
    """Five levels that round up, but for the last one's where the remainder of one side is `residue`."""

    def grids_at(height, width):
        grids = [[-(-side // int(f.stride)) for side in (height, width)] for f in EXACT]
        if (height, width)[wrong_side] % 32 == residue:
            grids[-1][wrong_side] += by
        return tuple(map(tuple, grids))

    return grids_at


@pytest.mark.parametrize("by", [-1, 1], ids=["a cell less", "a cell more"])
@pytest.mark.parametrize("side", [0, 1], ids=["height", "width"])
@pytest.mark.parametrize("residue", [1, 2, 4, 8, 24, 31])
def test_a_rounding_that_is_wrong_at_one_size_in_32_is_caught(residue, side, by):
    """The sizes that are promised leave out those at which it would be wrong."""
    _, sizes = infer_rounding(make_wrong_grids(residue, side, by), EXACT, SizeConstraint(multiple=32, least=32), 224)

    highest_power_that_divides = residue & -residue
    assert sizes == SizeConstraint(multiple=2 * highest_power_that_divides, least=2 * highest_power_that_divides)


@pytest.mark.parametrize("side", [0, 1], ids=["height", "width"])
def test_a_rounding_that_is_wrong_at_half_the_multiple_is_a_mismatch(side):
    found = infer_rounding(make_wrong_grids(16, side, 1), EXACT, SizeConstraint(multiple=32, least=32), 224)
    assert isinstance(found, RoundingMismatch)


PATCHES = Chain([(4, 4, 0, 1), (3, 2, 1, 1), (3, 2, 1, 1)])


def test_a_patch_embedding_before_levels_that_round_up_has_offsets():
    _, whole, (features, sizes) = probe(PATCHES)
    assert (whole.multiple, sizes) == (16, SizeConstraint(least=4))
    assert [(f.rounding, f.offset) for f in features] == [("floor", 0), ("floor", -4), ("floor", -12)]


def test_where_images_must_be_of_whole_patches_levels_round_at_those():
    exact, whole, _ = probe(PATCHES)

    def grids_at(height, width):
        return None if height % 4 or width % 4 else PATCHES.grids_at(height, width)

    features, sizes = infer_rounding(grids_at, exact, whole, USUAL)
    assert sizes == SizeConstraint(multiple=4, least=4)
    assert [f.rounding for f in features] == ["exact", "ceil", "ceil"]


@pytest.mark.parametrize("size", [65, 70, 95], ids=str)
def test_a_network_that_takes_one_size_has_no_offsets(size):
    """A wrong grid anywhere in a whole period is seen."""
    chain = Chain([(3, 2, 0, 1)] * 5)
    assert infer_offsets(chain.grids_at, EXACT, USUAL) is not None

    def grids_at(height, width):
        return None if size in (height, width) else chain.grids_at(height, width)

    assert infer_offsets(grids_at, EXACT, USUAL) is None
