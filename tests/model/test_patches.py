"""What leaves a ViT lies where it came from, on images that are not square.

All grids here have as many patches as some square: 8 × 32 is 16 × 16. A grid whose sides were guessed as a square root
would take them and put them elsewhere, which a bright patch that moves across the image shows.
"""

import pytest
import torch

import composer
from composer.parts.decoders import IdentityDecoder
from composer.parts.encoders import Timm
from composer.parts.necks import ReshapeTokensToImage

PATCH = 16
SIZES = [(128, 512), (64, 256)]
NETWORKS = {
    "class-token": ("test_vit", {}, 1),
    "registers-only": ("vit_pwee_patch16_reg1_gap_256", {}, 1),
    "class-token-and-registers": ("test_vit", {"reg_tokens": 4}, 5),
    "no-prefix": ("test_vit", {"class_token": False, "global_pool": "avg"}, 0),
}
NECKS = {"maps": (), "tokens": (ReshapeTokensToImage(),)}


def build_vit(network, layout):
    name, options, _ = NETWORKS[network]
    encoder = Timm(name, out_indices=[0], tokens=layout == "tokens", options=options)
    return composer.build(composer.chain(encoder, *NECKS[layout], IdentityDecoder(), rescale=False)).eval()


@pytest.fixture(scope="module", params=[(network, layout) for network in NETWORKS for layout in NECKS], ids="-".join)
def model(request):
    return build_vit(*request.param)


def list_spots(height, width):
    """Cells all over the grid: the four corners, and three that lie neither on the rim nor on a diagonal."""
    rows, columns = height // PATCH, width // PATCH
    corners = [(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)]
    return [*corners, (1, columns // 2), (rows // 2, 1), (rows - 2, columns - 3)]


def find_spots(model, height, width):
    """For each of the spots, the cell that changes most when the patch there is brightened."""
    spots = list_spots(height, width)
    plain = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    images = plain.repeat(len(spots), 1, 1, 1)
    for image, (row, column) in zip(images, spots, strict=True):
        image[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] += 3
    with torch.no_grad():
        change_BHW = (model(images).output - model(plain).output).abs().sum(1)
    columns = change_BHW.shape[-1]
    return [divmod(int(cell), columns) for cell in change_BHW.flatten(1).argmax(1)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_patch_is_seen_where_it_is(model, height, width):
    assert find_spots(model, height, width) == list_spots(height, width)


@pytest.mark.parametrize("layout", NECKS)
def test_a_patch_of_a_padded_image_is_seen_where_it_is(layout):
    """120 × 500 pixels are padded to 128 × 512, in front by whole patches only: cells stay on the image's own grid."""
    assert find_spots(build_vit("class-token", layout), 120, 500) == list_spots(120, 500)


@pytest.mark.parametrize(("name", "options", "prefix"), NETWORKS.values(), ids=NETWORKS)
def test_prefixes_are_as_named(name, options, prefix):
    """Each network has the tokens before its grid that the tests above are about."""
    (feature,) = composer.describe(Timm(name, out_indices=[0], tokens=True, options=options), 3).features
    assert feature.prefix == prefix
