"""Slim a frozen teacher: fewer channels inside its blocks, the same levels out; by least squares, without training.

Each block keeps the inner channels that explain most of what the block adds, chosen one after the other (orthogonal
least squares; Chen, Billings and Luo, 1989), and its last convolution is fitted anew to what the whole block gave (as
in ThiNet; Luo, Wu and Lin, ICCV 2017). Blocks follow one another, so that each also makes up for what those before it
lost. Nothing is drawn at random: the same images give the same teacher.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgead.cfrg.backbones import EfficientNet, InvertedBottleneck

_TOGETHER = 4  # images that stay in the caches of a CPU
_PIXELS = 4096  # of these images that a block is fitted to: neighbours say the same
_RIDGE = 1e-2  # of the channels' mean power: keeps weights small where channels say the same


class _Moments(NamedTuple):
    """Means of products over pixels: among the inner channels and a one, and of these with the target.

    ``(W + 1, W + 1)`` and ``(W + 1, O)``, float64.
    """

    inner: Tensor
    target: Tensor


@torch.no_grad()
def slim(wide: EfficientNet, narrow: EfficientNet, images: Tensor) -> None:
    """Fill a narrow teacher so that it gives what the wide one gives on these images.

    Args:
        wide: with its weights; left as it is.
        narrow: the same blocks with fewer inner channels; in eval mode.
        images: normalised ``(N, 3, H, W)``.
    """
    narrow._conv_stem.load_state_dict(wide._conv_stem.state_dict())
    narrow._bn0.load_state_dict(wide._bn0.state_dict())
    wanted = torch.cat([wide.stem(some) for some in torch.split(images, _TOGETHER)])
    given = wanted
    for name, block in wide._blocks.items():
        slimmed = narrow._blocks[name]
        assert isinstance(block, InvertedBottleneck)
        assert isinstance(slimmed, InvertedBottleneck)
        following = torch.cat([block(some) for some in torch.split(wanted, _TOGETHER)])
        moments = _moments(block, given, following)
        kept = _choose(moments, slimmed._depthwise_conv.out_channels)
        _fill(slimmed, block, moments, kept)
        given = torch.cat([slimmed(some) for some in torch.split(given, _TOGETHER)])
        wanted = following


def _moments(block: InvertedBottleneck, given: Tensor, wanted: Tensor) -> _Moments:
    """Gather what a block's last convolution is fitted by: what it reads, and what it ought to add."""
    sums: list[Tensor] = []
    for some, result in zip(torch.split(given, _TOGETHER), torch.split(wanted, _TOGETHER), strict=True):
        inner = block.inner(some).movedim(1, 3).flatten(0, 2)
        target = (result - some if block.shortcut else result).movedim(1, 3).flatten(0, 2)
        step = max(1, len(inner) // _PIXELS) | 1  # odd, so that all columns have their turn
        inner = torch.cat([inner, inner.new_ones(len(inner), 1)], 1)[::step]
        found = [(inner.T @ inner).double() / len(inner), (inner.T @ target[::step]).double() / len(inner)]
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
    inner, target = sums
    ridge = _RIDGE * inner.diagonal()[:-1].mean()
    inner.diagonal()[:-1].add_(ridge)
    return _Moments(inner, target)


def _choose(moments: _Moments, count: int) -> Tensor:
    """Choose the inner channels that together explain most of the target, greedily; returns their indexes, sorted."""
    inner, target = moments.inner.clone(), moments.target.clone()
    width = len(inner) - 1
    if count == width:
        return torch.arange(width)
    chosen: list[int] = []
    free = torch.ones(width, dtype=torch.bool)
    index = width  # the one first: a bias is always there
    for _ in range(count):
        row, fitted, power = inner[:, index].clone(), target[index].clone(), inner[index, index].clone()
        inner -= torch.outer(row, row) / power
        target -= torch.outer(row, fitted) / power
        gain = target[:-1].square().sum(1) / inner.diagonal()[:-1].clamp_min(1e-12)
        index = int(torch.where(free, gain, -1.0).argmax())
        free[index] = False
        chosen.append(index)
    return torch.tensor(sorted(chosen))


def _fill(slimmed: InvertedBottleneck, block: InvertedBottleneck, moments: _Moments, kept: Tensor) -> None:
    """Give a block the channels kept, and the last convolution that fits them to the target."""
    if slimmed._expand_conv is not None and block._expand_conv is not None:
        slimmed._expand_conv.weight.copy_(block._expand_conv.weight[kept])
        _keep(slimmed._bn0, block._bn0, kept)
    slimmed._depthwise_conv.weight.copy_(block._depthwise_conv.weight[kept])
    _keep(slimmed._bn1, block._bn1, kept)
    read = torch.cat([kept, kept.new_tensor([len(moments.inner) - 1])])
    fitted = torch.linalg.solve(moments.inner[read][:, read], moments.target[read]).float()  # (kept + 1, O)
    slimmed._project_conv.weight.copy_(fitted[:-1].T[:, :, None, None])
    norm = slimmed._bn2  # what it did is in the weights now
    norm.running_mean.zero_()  # type: ignore[union-attr]
    norm.running_var.fill_(1 - norm.eps)  # type: ignore[union-attr]
    norm.weight.fill_(1.0)
    norm.bias.copy_(fitted[-1])


def _keep(slimmed: nn.Module | None, norm: nn.Module | None, kept: Tensor) -> None:
    assert isinstance(slimmed, nn.BatchNorm2d)
    assert isinstance(norm, nn.BatchNorm2d)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(slimmed, name).copy_(getattr(norm, name)[kept])
