"""Position statistics, against numpy's float64 with the covariance written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgead.cfrg import checkpoint
from edgead.cfrg.inspection import MapFusion, balance, map_parts
from edgead.cfrg.model import build
from edgead.cfrg.statistics import PositionStatistics
from edgead.runtime.onnx_runner import OnnxRunner

CHANNELS, STRIDES = (6, 20), (8, 32)


def _levels(count: int, seed: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn(20, 20, generator=torch.Generator().manual_seed(9))
    first = torch.randn(count, 6, 8, 8, generator=random) * 3 + 1
    second = torch.einsum("oc,nchw->nohw", mixed, torch.randn(count, 20, 2, 2, generator=random))
    return [first, second]


def _oracle(good: np.ndarray, x: np.ndarray, factors: int) -> np.ndarray:
    """Mahalanobis distances by explicit covariances, ``(N, h, w)``."""
    _count, channels, height, width = good.shape
    covariances = {
        (i, j): np.cov(good[:, :, i, j].astype(np.float64), rowvar=False) for i in range(height) for j in range(width)
    }
    floor = np.mean([np.trace(each) / channels for each in covariances.values()])
    out = np.empty((len(x), height, width))
    for (i, j), covariance in covariances.items():
        u, singular, _ = np.linalg.svd(covariance)
        if factors < channels:
            singular[factors:] = singular[factors:].mean()
        inverse = np.linalg.inv(u @ np.diag(singular + floor) @ u.T)
        rest = x[:, :, i, j] - good[:, :, i, j].astype(np.float64).mean(0)
        out[:, i, j] = np.sqrt(np.einsum("nc,cd,nd->n", rest, inverse, rest) / channels)
    return out


@pytest.mark.parametrize("factors", [4, 64])
def test_the_distance_is_mahalanobis_by_position(factors: int) -> None:
    good, seen = _levels(50, 1), _levels(5, 2)
    statistics = PositionStatistics(CHANNELS, STRIDES, (64, 64), factors)
    statistics.fit([[level[:20] for level in good], [level[20:] for level in good]])
    first, second = (each[:, 0].numpy() for each in statistics(seen))
    pooled = [level.reshape(len(level), 6, 4, 2, 4, 2).mean((3, 5)).numpy() for level in (good[0], seen[0])]
    assert first.shape == (5, 4, 4)
    assert second.shape == (5, 2, 2)
    np.testing.assert_allclose(first, _oracle(pooled[0], pooled[1], factors), rtol=1e-4)
    np.testing.assert_allclose(second, _oracle(good[1].numpy(), seen[1].numpy(), factors), rtol=1e-3)


def test_features_that_never_vary_give_finite_distances() -> None:
    statistics = PositionStatistics(CHANNELS, STRIDES, (64, 64))
    constant = [torch.ones(3, 6, 8, 8), torch.ones(3, 20, 2, 2)]
    statistics.fit([constant])
    assert all(bool(each.isfinite().all()) for each in statistics([2 * level for level in constant]))


def test_the_statistics_travel_with_the_checkpoint_and_the_graph(tmp_path: Path) -> None:
    from export.to_onnx import export_inspection

    cfrg = build("cfrg-lite0", 64, statistics=True).eval()
    assert cfrg.statistics is not None
    images = torch.randint(0, 256, (12, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        cfrg.statistics.fit([cfrg.teacher(cfrg.normalise(images))])
    checkpoint.save(cfrg, tmp_path / "checkpoint.pt")
    again = checkpoint.load(tmp_path / "checkpoint.pt")
    assert again.statistics is not None
    assert len(again.fusion) == 7
    export_inspection(again, tmp_path / "model.onnx", images.numpy(), {})
    with OnnxRunner(tmp_path / "model.onnx") as runner:
        assert np.isfinite(runner.infer(images[:2].numpy()).pred_score).all()


def test_the_papers_network_has_none() -> None:
    assert build("cfrg-lite0", 64).statistics is None
    assert len(build("cfrg-lite0", 64).fusion) == 4


def test_cfrgs_own_parts_count_a_fifth_beside_the_statistics() -> None:
    torch.manual_seed(1)
    cfrg = build("cfrg-lite0", 64, statistics=True).eval()
    assert cfrg.statistics is not None
    images = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        cfrg.statistics.fit([cfrg.teacher(cfrg.normalise(images))])
        balance(cfrg, [images[:3], images[3:6], images[6:]])
        parts = map_parts(cfrg(cfrg.normalise(images)))
        fusion = MapFusion(cfrg.size_hw)
        own, by_position = (
            sum(float(weight) * fusion([part]).double().numpy() for weight, part in pairs)
            for pairs in (
                list(zip(cfrg.fusion[:4], parts[:4], strict=True)),
                list(zip(cfrg.fusion[4:], parts[4:], strict=True)),
            )
        )
    assert np.std(own) / np.std(by_position) == pytest.approx(0.25, rel=1e-3)
    assert float(cfrg.fusion.mean()) == pytest.approx(1)


def test_training_fits_them_to_its_good_images(trained: Path) -> None:
    cfrg = checkpoint.load(trained / "checkpoint.pt")
    assert cfrg.statistics is not None
    for name, values in cfrg.statistics.named_buffers():
        assert bool(values.isfinite().all()), name
        assert float(values.std()) > 0, name
