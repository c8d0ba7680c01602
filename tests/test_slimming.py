"""Slimmed teachers against the whole ones, and their choice of channels against numpy's least squares."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgead.cfrg import slimming  # noqa: E402
from edgead.cfrg.backbones import EfficientNet  # noqa: E402

TAPS = (4, 10)


@pytest.fixture(scope="module")
def wide() -> EfficientNet:
    torch.manual_seed(0)
    return EfficientNet(TAPS, lite=True).eval()


@pytest.fixture(scope="module")
def pictures(smooth_images: np.ndarray) -> torch.Tensor:
    images = np.concatenate([smooth_images, smooth_images[:, ::-1], smooth_images[:, :, ::-1]])
    return (torch.from_numpy(images.copy()).float().permute(0, 3, 1, 2) - 127) / 128


def errors(wide: EfficientNet, narrow: EfficientNet, pictures: torch.Tensor) -> list[float]:
    """Share of each level's variance that the narrow teacher misses."""
    with torch.no_grad():
        pairs = zip(wide(pictures), narrow(pictures), strict=True)
        return [float((a - b).square().mean() / (a - a.mean((0, 2, 3), True)).square().mean()) for a, b in pairs]


def test_with_all_channels_a_teacher_stays_what_it_is(
    wide: EfficientNet, pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slimming, "_RIDGE", 1e-9)
    same = EfficientNet(TAPS, lite=True).eval()
    assert min(errors(wide, same, pictures)) > 0.1
    slimming.slim(wide, same, pictures)
    assert max(errors(wide, same, pictures)) < 0.01


def test_half_the_channels_say_most_of_it(wide: EfficientNet, pictures: torch.Tensor) -> None:
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    narrow = EfficientNet(TAPS, lite=True, inner=0.5).eval()
    slimming.slim(wide, narrow, pictures)
    assert max(errors(wide, narrow, pictures)) < 0.2
    again = EfficientNet(TAPS, lite=True, inner=0.5).eval()
    slimming.slim(wide, again, pictures)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in narrow.state_dict().items())
    assert all(torch.equal(wide.state_dict()[name], value) for name, value in before.items())


def test_channels_are_chosen_by_what_they_explain() -> None:
    """Greedy choice on a problem that numpy solves anew for every candidate."""
    rng = np.random.default_rng(1)
    inner = rng.normal(size=(400, 9)) @ rng.normal(size=(9, 9)) + 1
    target = inner @ rng.normal(size=(9, 4)) + 0.1 * rng.normal(size=(400, 4)) + 2
    ones = np.ones((400, 1))
    chosen: list[int] = []
    for _ in range(3):
        missed = {}
        for candidate in set(range(9)) - set(chosen):
            read = np.concatenate([inner[:, [*chosen, candidate]], ones], 1)
            missed[candidate] = np.square(target - read @ np.linalg.lstsq(read, target, rcond=None)[0]).sum()
        chosen.append(min(missed, key=missed.__getitem__))
    everything = torch.from_numpy(np.concatenate([inner, ones], 1))
    moments = slimming._Moments(everything.T @ everything / 400, everything.T @ torch.from_numpy(target) / 400)
    assert slimming._choose(moments, 3).tolist() == sorted(chosen)
