"""What leaves a ViT lies where it came from, on images that are not square.

All grids here have as many patches as some square: 18 × 32 is 24 × 24. A grid whose sides are guessed as a square
root takes them without a word and puts them elsewhere, which is what a bright patch that moves across the image shows.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import composer
from composer.parts.decoders import IdentityDecoder
from composer.parts.encoders import Timm
from composer.parts.necks import ReshapeTokensToImage

PATCH = 16
SIZES = [(288, 512), (128, 512), (64, 256)]
NETWORKS = {
    "class-token": ("vit_tiny_patch16_224", {}),
    "registers-only": ("vit_pwee_patch16_reg1_gap_256", {}),
    "class-token-and-registers": ("test_vit", {"reg_tokens": 4}),
    "no-prefix": ("test_vit", {"class_token": False, "global_pool": "avg"}),
}
PREFIXES = {"class-token": 1, "registers-only": 1, "class-token-and-registers": 5, "no-prefix": 0}
NECKS = {"maps": (), "tokens": (ReshapeTokensToImage(),)}


def vit(network, way):
    name, options = NETWORKS[network]
    encoder = Timm(name, out_indices=[0], tokens=way == "tokens", options=options)
    return composer.build(composer.chain(encoder, *NECKS[way], IdentityDecoder(), rescale=False)).eval()


@pytest.fixture(scope="module", params=[(network, way) for network in NETWORKS for way in NECKS], ids="-".join)
def model(request):
    return vit(*request.param)


def spots(height, width):
    """Cells all over the grid: the four corners, and three that lie neither on the rim nor on a diagonal."""
    rows, columns = height // PATCH, width // PATCH
    corners = [(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)]
    return [*corners, (1, columns // 2), (rows // 2, 1), (rows - 2, columns - 3)]


def found(model, height, width):
    """For each of the spots, the cell that changes most when the patch there is brightened."""
    rows_and_columns = spots(height, width)
    plain = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    images = plain.repeat(len(rows_and_columns), 1, 1, 1)
    for image, (row, column) in zip(images, rows_and_columns, strict=True):
        image[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] += 3
    with torch.no_grad():
        change_BHW = (model(images).output - model(plain).output).abs().sum(1)
    columns = change_BHW.shape[-1]
    return [divmod(int(cell), columns) for cell in change_BHW.flatten(1).argmax(1)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_patch_is_seen_where_it_is(model, height, width):
    assert found(model, height, width) == spots(height, width)


class SquareRoot(nn.Module):
    """The wrong way: tokens laid out on the square of as many cells, then stretched to the shape of the image."""

    def forward(self, features, *, image_size):
        (x_BNC,) = features
        batch, _, channels = x_BNC.shape
        patches = image_size[0] * image_size[1] // PATCH**2
        side = round(patches**0.5)
        x_BCHW = x_BNC[:, -patches:].reshape(batch, side, side, channels).permute(0, 3, 1, 2)
        return (F.interpolate(x_BCHW, size=[pixels // PATCH for pixels in image_size]),)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_grid_guessed_by_its_square_root_would_be_found_out(height, width):
    """The test above can fail: of the seven cells most are then seen elsewhere, and a corner or two by accident not."""
    scrambled = vit("class-token", "tokens")
    scrambled.necks[0] = SquareRoot()
    wrong = [seen != spot for seen, spot in zip(found(scrambled, height, width), spots(height, width), strict=True)]
    assert sum(wrong) >= 3


@pytest.mark.parametrize("network", NETWORKS)
def test_prefixes_are_as_named(network):
    """Each network has the tokens before its grid that the tests above are about."""
    name, options = NETWORKS[network]
    graph = composer.chain(Timm(name, out_indices=[0], tokens=True, options=options), *NECKS["tokens"])
    (feature,) = composer.infer(graph).features["encoder"]
    assert feature.prefix == PREFIXES[network]


@pytest.mark.parametrize("way", NECKS)
def test_a_patch_of_a_padded_image_is_seen_where_it_is(way):
    """120 × 500 pixels are padded to 128 × 512, in front by whole patches only: cells stay on the image's own grid."""
    assert found(vit("class-token", way), 120, 500) == spots(120, 500)
