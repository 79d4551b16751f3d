"""Features, modules with weights, and layers written out. B batch, C channels, H and W cells."""

from inspect import signature

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from composer.layouts import MAP, TOKENS, VECTOR, Feature
from composer.modules.base import module

HEIGHT, WIDTH = 64, 96


def level(channels=6, stride=16, axes=MAP, **rest):
    return Feature(channels=channels, stride=stride, axes=axes, **rest)


def tokens(channels=6, **rest):
    return level(channels, axes=TOKENS, **rest)


def vector(channels):
    return Feature(channels=channels, stride=None, axes=VECTOR)


PYRAMID = (level(4, 8), level(6, 16), level(8, 32))
WITH_BOTTLENECK = (*PYRAMID, level(4, 32))
ALIKE = (level(4), level(6), level(8))
FOUR = (*ALIKE, level(10))
ROUNDED = tuple(level(channels, stride, rounding="ceil") for channels, stride in ((4, 8), (6, 16), (8, 32)))


def build(part, *inputs) -> nn.Module:
    """The module in eval mode with the same weights each time, and norms that have seen something."""
    torch.manual_seed(0)
    built = module(part, *inputs).eval()
    for layer in built.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    return built


def draw(features, height=HEIGHT, width=WIDTH, batch=2) -> list[Tensor]:
    return [torch.randn(f.shape(batch, height, width)) for f in features]


def call(built, inputs, height=HEIGHT, width=WIDTH):
    """The outputs for tensors of each input."""
    takes_size = "image_size" in signature(built.forward).parameters
    return built(*inputs, **({"image_size": (height, width)} if takes_size else {}))


def enlarge(x_BCHW: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """A transposed convolution whose stride is its kernel: each cell makes a square of its own."""
    y = torch.einsum("bchw,coij->bohiwj", x_BCHW, layer.weight)
    return rearrange(y, "b o h i w j -> b o (h i) (w j)") + layer.bias.view(1, -1, 1, 1)


def mix(x: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
    """A linear layer, or a 1 × 1 convolution, over axis 1."""
    return torch.einsum("bc...,oc->bo...", x, layer.weight.flatten(1)) + layer.bias.view(1, -1, *[1] * (x.dim() - 2))


def normalise(x_BCHW: Tensor, layer: nn.Module) -> Tensor:
    if isinstance(layer, nn.Identity):
        return x_BCHW
    if isinstance(layer, nn.InstanceNorm2d):
        mean = x_BCHW.mean((2, 3), keepdim=True)
        return (x_BCHW - mean) / (x_BCHW.var((2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    mean, variance, weight, bias = (
        value.view(1, -1, 1, 1) for value in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    return (x_BCHW - mean) / (variance + 1e-5).sqrt() * weight + bias


def convolve(x_BCHW: Tensor, layers, dilation: int = 1) -> Tensor:
    """A convolution that keeps the grid, a norm, ReLU."""
    convolution, norm = layers[0], layers[1]
    reach = dilation * (convolution.weight.shape[-1] // 2)
    y = F.conv2d(F.pad(x_BCHW, [reach] * 4), convolution.weight, convolution.bias, dilation=dilation)
    return normalise(y, norm).clamp(min=0)
