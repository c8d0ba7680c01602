"""Metrics against oracles that share no code with them: scikit-learn, and brute force over thresholds and regions."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import scipy.ndimage
import sklearn.metrics as oracle

from edgead.errors import DataError
from edgead.metrics import (
    RESOLUTION,
    PixelAccuracy,
    auroc,
    bootstrap_auroc,
    f1_max,
    part_auroc,
    part_maxima,
    pro_3cad,
)

EIGHT = np.ones((3, 3))


def _image_scores(seed, ties):
    random = np.random.default_rng(seed)
    defective = random.random(300) < 0.3
    scores = random.normal(size=300) + defective
    return (np.round(scores) if ties else scores), defective


def _maps(seed, *, kind="gamma", images=4, size=20, strength=1.0):
    """Good images first; every map is shifted by its own offset, as real ones are."""
    random = np.random.default_rng(seed)
    maps, masks = [], []
    for index in range(images):
        mask = np.zeros((size, size), dtype=bool)
        for _ in range(0 if index < images // 3 else 3):
            top, left = random.integers(0, size - 6, 2)
            height, width = random.integers(1, 7, 2)
            mask[top : top + height, left : left + width] = True
        noise = {
            "gamma": lambda: random.gamma(2, 0.2, (size, size)),
            "signed": lambda: random.normal(0, 1, (size, size)),
            "coarse": lambda: random.integers(0, 6, (size, size)),
            "rectified": lambda: np.maximum(random.normal(0, 1, (size, size)), 0),
            "wide": lambda: np.exp(random.normal(0, 12, (size, size))),
            "narrow": lambda: 1 + random.normal(0, 1e-3, (size, size)),
        }[kind]()
        scale = 1e-3 if kind == "narrow" else 1.0
        maps.append((noise + mask * strength * scale + 0.1 * scale * index).astype(np.float32))
        masks.append(mask)
    return maps, masks


def _pool(maps, masks):
    pixels = PixelAccuracy()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        pixels.add(anomaly_map, mask if mask.any() else None)
    return pixels


def _cut(values):
    """Cut the mantissa to 13 bits by arithmetic on the value, not on its bits."""
    mantissa, exponent = np.frexp(np.asarray(values, dtype=np.float64))
    return np.ldexp(np.trunc(mantissa * 2**14) / 2**14, exponent)


def _aupro_by_brute_force(maps, masks, limit):
    regions = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        labels, count = scipy.ndimage.label(mask, structure=EIGHT)
        regions += [anomaly_map[labels == label] for label in range(1, count + 1)]
    good = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    fpr, pro = [0.0], [0.0]
    for threshold in np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]:
        fpr.append(float(np.mean(good >= threshold)))
        pro.append(float(np.mean([np.mean(region >= threshold) for region in regions])))
    kept = [(x, y) for x, y in zip(fpr, pro, strict=True) if x <= limit]
    if len(kept) < len(fpr):
        (x0, y0), (x1, y1) = kept[-1], (fpr[len(kept)], pro[len(kept)])
        kept.append((limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(kept)) / limit


def _pro_3cad_by_brute_force(anomaly_map, mask):
    labels, count = scipy.ndimage.label(mask, structure=EIGHT)
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    points = []
    for step in range(200):
        flagged = anomaly_map > low + step * (high - low) / 200
        overlap = np.mean([flagged[labels == label].mean() for label in range(1, count + 1)])
        points.append((flagged[~mask].mean(), overlap))
    points = sorted(point for point in points if point[0] < 0.3)
    fpr, pro = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    return oracle.auc(fpr / fpr.max(), pro)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_image_metrics_agree_with_scikit_learn(seed, ties):
    scores, defective = _image_scores(seed, ties)
    precision, recall, _ = oracle.precision_recall_curve(defective, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-30)
    assert auroc(scores, defective) == pytest.approx(oracle.roc_auc_score(defective, scores), abs=1e-12)
    assert f1_max(scores, defective) == pytest.approx(f1.max(), abs=1e-12)


def test_auroc_of_equal_scores_is_a_half():
    assert auroc([3.0] * 7, [True, False, True, False, False, True, False]) == 0.5


def test_part_auroc_takes_maxima_over_the_images_of_a_part():
    scores = [0.1, 0.9, 0.2, 0.3, 0.4, 0.5]
    defective = [False, True, False, False, False, True]
    parts = ["b", "b", "a", "a", "c", "d"]
    assert part_maxima(parts, scores).tolist() == [0.3, 0.9, 0.4, 0.5]
    assert part_auroc(scores, defective, parts) == 1.0
    assert part_auroc([0.1, 0.35, 0.2, 0.3, 0.4, 0.5], defective, parts) == 0.75


def test_one_class_alone_defines_nothing():
    for labels in ([False, False], [True, True]):
        assert auroc([0.1, 0.2], labels) is None
        assert f1_max([0.1, 0.2], labels) is None
        assert part_auroc([0.1, 0.2], labels, ["a", "b"]) is None
        assert bootstrap_auroc([0.1, 0.2], labels, ["a", "b"], seed=0) is None
    assert auroc([], []) is None
    pixels = PixelAccuracy()
    pixels.add(np.ones((4, 4), np.float32), None)
    assert (pixels.auroc(), pixels.average_precision(), pixels.aupro()) == (None, None, None)
    only_defect = PixelAccuracy()
    only_defect.add(np.ones((4, 4), np.float32), np.ones((4, 4), bool))
    assert (only_defect.auroc(), only_defect.average_precision(), only_defect.aupro()) == (None, None, None)


def test_bad_values_are_refused_in_one_line():
    cases = [
        (lambda: auroc([0.1, float("nan")], [True, False]), "score number 1 is nan"),
        (lambda: f1_max([float("inf"), 0.1], [True, False]), "score number 0 is inf"),
        (lambda: auroc([0.1, 0.2], [True]), "one label a score"),
        (lambda: PixelAccuracy().add(np.full((2, 2), np.nan, np.float32), None), "NaN or infinity"),
        (lambda: PixelAccuracy().add(np.zeros((2, 2), np.float32), np.zeros((3, 3), bool)), "resize the mask"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as refusal:
            call()
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["gamma", "signed", "coarse", "rectified", "wide", "narrow"])
def test_pixel_metrics_are_exact_for_values_cut_to_the_resolution(kind):
    maps, masks = _maps(1, kind=kind)
    pixels, cut = _pool(maps, masks), [_cut(m) for m in maps]
    values, labels = np.concatenate([c.ravel() for c in cut]), np.concatenate([m.ravel() for m in masks])
    assert pixels.auroc() == pytest.approx(oracle.roc_auc_score(labels, values), abs=1e-12)
    assert pixels.average_precision() == pytest.approx(oracle.average_precision_score(labels, values), abs=1e-12)
    for limit in (0.05, 0.3, 1.0):
        assert pixels.aupro(limit) == pytest.approx(_aupro_by_brute_force(cut, masks, limit), abs=1e-12)


@pytest.mark.parametrize("kind", ["gamma", "signed", "rectified", "wide"])
@pytest.mark.parametrize("seed", range(2))
def test_pixel_metrics_of_uncut_maps_stay_within_the_stated_bound(kind, seed):
    maps, masks = _maps(seed, kind=kind)
    pixels = _pool(maps, masks)
    values, labels = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    bound = _shared_pairs(values, labels, labels.astype(float))
    low, high = _ap_bracket(values, labels)
    assert bound < 2e-4
    assert high - low < 0.02
    assert abs(pixels.auroc() - oracle.roc_auc_score(labels, values)) <= bound / 2 + 1e-12
    assert low <= oracle.average_precision_score(labels, values) <= high
    assert low <= pixels.average_precision() <= high
    weights = np.concatenate([_region_weights(mask).ravel() for mask in masks])
    for limit in (0.05, 0.3):
        bound = _shared_pairs(values, labels, weights) / limit
        assert bound < 5e-3
        assert abs(pixels.aupro(limit) - _aupro_by_brute_force(maps, masks, limit)) <= bound + 1e-12


def _region_weights(mask):
    labels, count = scipy.ndimage.label(mask, structure=EIGHT)
    return sum(((labels == label) / (labels == label).sum() for label in range(1, count + 1)), np.zeros(mask.shape))


def _shared_pairs(values, labels, weights):
    """Share of (good, weighted defective) pixel pairs whose values differ, yet fall into one bin.

    Within a bin both curves run inside one rectangle, corner to corner: their areas differ by half of it at most, or
    by all of it where the limit cuts it.
    """
    together = 0.0
    for sign, groups in ((1, _cut(values)), (-1, values)):
        distinct, index = np.unique(groups, return_inverse=True)
        bad = np.bincount(index, weights=weights, minlength=len(distinct))
        together += sign * (bad @ np.bincount(index[~labels], minlength=len(distinct)))
    return together / (weights.sum() * (~labels).sum())


def _ap_bracket(values, labels):
    """Bounds of average precision over all orders and ties that pixels of one bin may have."""
    low = high = 0.0
    true = false = 0
    groups = _cut(values)
    for value in np.unique(groups[labels])[::-1]:
        false = np.sum(groups[~labels] > value)
        good, bad = np.sum(groups[~labels] == value), np.sum(groups[labels] == value)
        ranks = true + np.arange(1, bad + 1)
        low += np.sum(ranks / (ranks + false + good))
        true += bad
        high += bad * true / (true + false)
    return low / labels.sum() - 1e-12, high / labels.sum() + 1e-12


def test_bins_keep_order_across_signs_and_widths_match_the_resolution():
    pixels = PixelAccuracy()
    ascending = np.array([-1e30, -2.0, -1.0, -1e-30, 0.0, 1e-30, 1.0, 1 + 2 * RESOLUTION, 2.0, 1e30], dtype=np.float32)
    pixels.add(ascending[None, :], np.arange(10)[None, :] >= 5)
    assert pixels.auroc() == 1.0
    same = PixelAccuracy()
    same.add(np.array([[0.0, -0.0, 1.0, 1 + RESOLUTION / 2]], dtype=np.float32), np.array([[0, 1, 1, 0]], dtype=bool))
    assert same.auroc() == pytest.approx((0.5 + 0 + 1 + 0.5) / 4)


def test_aupro_pools_the_dataset_and_counts_the_pixels_of_good_images():
    maps, masks = _maps(3, strength=5.0)
    alone = _pool(maps[1:], masks[1:]).aupro()
    shifted = [maps[0] + 100, *maps[1:]]
    pooled = _pool(shifted, masks).aupro()
    assert pooled < 0.5 * alone
    assert pooled == pytest.approx(_aupro_by_brute_force(shifted, masks, 0.3), abs=1e-3)


def test_regions_touching_at_a_corner_are_one():
    mask = np.zeros((8, 8), dtype=bool)
    mask[1, 1] = mask[2, 2] = mask[6, 6] = True
    pixels = PixelAccuracy()
    pixels.add(np.zeros((8, 8), np.float32), mask)
    assert pixels.region_count == 2


@pytest.mark.parametrize("seed", range(3))
def test_pro_3cad_agrees_with_brute_force_and_ignores_offsets_between_images(seed):
    maps, masks = _maps(seed, images=3, size=48)
    got = pro_3cad(maps[2], masks[2])
    assert got == pytest.approx(_pro_3cad_by_brute_force(maps[2], masks[2]), abs=1e-9)
    assert pro_3cad(maps[2] * 4 + 64, masks[2]) == pytest.approx(got, abs=2e-3)


def test_pro_3cad_flags_only_above_a_threshold():
    on_thresholds = np.random.default_rng(0).permutation(np.arange(256) % 150).reshape(16, 16).astype(np.float32)
    mask = np.zeros((16, 16), dtype=bool)
    mask[4:9, 3:12] = True
    on_thresholds[0, :4] = [0, 200, 199, 199]  # the highest threshold is 199: the curve begins with the 200s alone
    on_thresholds[5, 5:9] = 200
    got = pro_3cad(on_thresholds, mask)
    assert got == pytest.approx(_pro_3cad_by_brute_force(on_thresholds, mask), abs=1e-12)


def test_pro_3cad_is_none_where_it_is_not_defined():
    flat, mask = np.zeros((4, 4), np.float32), np.eye(4, dtype=bool)
    assert pro_3cad(flat, mask) is None
    assert pro_3cad(mask.astype(np.float32), np.zeros((4, 4), bool)) is None
    assert pro_3cad(np.arange(16, dtype=np.float32).reshape(4, 4), np.ones((4, 4), bool)) is None


def _slow_bootstrap(scores, defective, parts, draws):
    random, areas = np.random.default_rng(99), []
    groups = {part: np.flatnonzero(parts == part) for part in np.unique(parts)}
    strata = [[p for p in groups if defective[groups[p]].any() == kind] for kind in (False, True)]
    for _ in range(draws):
        names = [name for stratum in strata for name in random.choice(stratum, len(stratum))]
        chosen = np.concatenate([groups[name] for name in names])
        areas.append(oracle.roc_auc_score(defective[chosen], scores[chosen]))
    return np.quantile(areas, [0.025, 0.975])


def test_bootstrap_agrees_with_a_slow_one_and_is_seeded():
    scores, defective = _image_scores(4, ties=True)
    parts = np.array([f"p{index // 4}" for index in range(300)])
    got = bootstrap_auroc(scores, defective, parts, seed=1, draws=2000)
    assert got == pytest.approx(_slow_bootstrap(scores, defective, parts, 400), abs=0.015)
    assert got[0] < auroc(scores, defective) < got[1]
    assert got == bootstrap_auroc(scores, defective, parts, seed=1, draws=2000)
    assert got != bootstrap_auroc(scores, defective, parts, seed=2, draws=2000)


def test_bootstrap_draws_parts_so_repeated_images_add_no_certainty():
    scores, defective = _image_scores(5, ties=False)
    parts = np.array([f"p{index}" for index in range(300)])
    once = bootstrap_auroc(scores, defective, parts, seed=0)
    repeated = bootstrap_auroc(np.tile(scores, 9), np.tile(defective, 9), np.tile(parts, 9), seed=0)
    assert repeated == pytest.approx(once, abs=1e-12)


def test_memory_does_not_grow_with_images():
    random = np.random.default_rng(0)
    pixels, mask = PixelAccuracy(), np.zeros((256, 256), bool)
    mask[10:40, 10:40] = True
    size = pixels.nbytes
    tracemalloc.start()
    try:
        peaks = []
        for _ in range(2):
            for _ in range(20):
                pixels.add(random.random((256, 256), dtype=np.float32), mask)
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert pixels.nbytes == size == 3 * 8 * 2**22
    assert peaks[1] == pytest.approx(peaks[0], rel=0.02)
    assert peaks[1] < 8 << 20
