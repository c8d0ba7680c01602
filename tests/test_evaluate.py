"""Evaluation on real files with a runner whose maps are known: the brightness of the image."""

from __future__ import annotations

import resource
import time
import tracemalloc

import cv2
import numpy as np
import pytest
import sklearn.metrics as oracle

from benchmarks import mvtec_evaluation
from edgead.datasets.sample import Sample
from edgead.errors import ArtefactError, DataError
from edgead.evaluate import evaluate, score_samples
from edgead.images import write_png
from edgead.runtime.fake import FakeRunner
from edgead.runtime.runner import Prediction

SIZE = (32, 32)


def _sample(folder, index, *, defect="good", part=None, size=SIZE, with_mask=True):
    """Write a dark noisy image, with a brighter square where it is defective."""
    random = np.random.default_rng(index)
    image = random.integers(20, 90, (*size, 3), dtype=np.uint8)
    mask_path = None
    if defect != "good":
        mask = np.zeros(size, dtype=bool)
        top, left = random.integers(0, size[0] - 8), random.integers(0, size[1] - 8)
        mask[top : top + 7, left : left + 5] = True
        image[mask] += np.uint8(12)
        if with_mask:
            mask_path = folder / f"{index}_mask.png"
            write_png(mask_path, mask.astype(np.uint8) * 255)
    write_png(folder / f"{index}.png", image)
    return Sample(folder / f"{index}.png", part or f"part{index}", defect, mask_path)


@pytest.fixture
def samples(tmp_path):
    kinds = ["good"] * 9 + ["scratch"] * 6 + ["pit"] * 4
    return [_sample(tmp_path, index, defect=kind, part=f"part{index // 2}") for index, kind in enumerate(kinds)]


def _pixels(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def _known(samples):
    maps = [_pixels(s.image).mean(axis=2, dtype=np.float32) / np.float32(255) for s in samples]
    masks = [np.zeros(SIZE, bool) if s.mask is None else cv2.imread(str(s.mask), 0) > 0 for s in samples]
    return np.stack(maps), np.stack(masks)


def test_metrics_and_scores_agree_with_scikit_learn(samples):
    result = evaluate(FakeRunner(SIZE), samples, batch=4)
    maps, masks = _known(samples)
    scores, defective = maps.max(axis=(1, 2)), np.array([not s.is_good for s in samples])
    assert result.scores == pytest.approx(scores.tolist())
    got = result.accuracy
    assert got.image_AUROC == pytest.approx(oracle.roc_auc_score(defective, scores))
    assert got.pixel_AUROC == pytest.approx(oracle.roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-4)
    assert got.pixel_AP == pytest.approx(oracle.average_precision_score(masks.ravel(), maps.ravel()), abs=1e-3)
    pits = np.array([s.defect in ("good", "pit") for s in samples])
    assert got.image_AUROC_by_defect["pit"] == pytest.approx(oracle.roc_auc_score(defective[pits], scores[pits]))
    assert list(got.image_AUROC_by_defect) == ["pit", "scratch"]
    pairs = [scores[index : index + 2].max() for index in range(0, len(scores), 2)]
    part_defective = [defective[index : index + 2].any() for index in range(0, len(scores), 2)]
    assert got.part_AUROC == pytest.approx(oracle.roc_auc_score(part_defective, pairs))
    assert 0 < got.pixel_AUPRO_005 < got.pixel_AUPRO < 1
    assert 0 < got.pro_3cad < 1
    assert 0 < got.image_F1Max <= 1
    counts = got.counts
    assert (counts.images, counts.good, counts.defective, counts.masked, counts.without_mask) == (19, 9, 10, 10, 0)
    assert (counts.parts, counts.defective_parts, counts.regions) == (10, 6, 10)
    assert got.to_dict()["counts"]["images"] == 19


def test_batches_have_one_size_and_results_keep_the_order(samples):
    runner, steps = FakeRunner(SIZE, max_batch=5), []
    result = evaluate(runner, samples, batch=8, progress=steps.append)
    assert runner.batches == [5, 5, 5, 5]
    assert sum(steps) == len(samples)
    one_by_one = evaluate(FakeRunner(SIZE), samples, batch=1)
    assert one_by_one == result
    few = FakeRunner(SIZE)
    assert [scored.sample for scored in score_samples(few, samples[:3])] == samples[:3]
    assert few.batches == [3]


def test_images_and_masks_are_resized_to_the_runner(tmp_path):
    samples = [_sample(tmp_path, index, size=(80, 48)) for index in range(2)]
    samples += [_sample(tmp_path, index, defect="pit", size=(80, 48)) for index in range(2, 4)]
    accuracy = evaluate(FakeRunner((20, 24)), samples).accuracy
    assert accuracy.counts.masked == 2
    assert accuracy.pixel_AUROC > 0.8


def test_defects_without_mask_stay_out_of_the_pixel_metrics_and_are_counted(samples, tmp_path):
    bare = [_sample(tmp_path, index, defect="pit", with_mask=False) for index in (50, 51)]
    empty = _sample(tmp_path, 52, defect="pit")
    write_png(empty.mask, np.zeros(SIZE, np.uint8))
    with_bare = evaluate(FakeRunner(SIZE), [*samples, *bare, empty]).accuracy
    without = evaluate(FakeRunner(SIZE), samples).accuracy
    assert with_bare.counts.without_mask == 3
    assert with_bare.counts.masked == without.counts.masked
    assert with_bare.counts.defective == without.counts.defective + 3
    for metric in ("pixel_AUROC", "pixel_AP", "pixel_AUPRO", "pixel_AUPRO_005", "pro_3cad"):
        assert getattr(with_bare, metric) == getattr(without, metric)


def test_what_the_samples_cannot_define_is_none(samples, tmp_path):
    good = evaluate(FakeRunner(SIZE), samples[:9]).accuracy
    pixel = [good.pixel_AUROC, good.pixel_AP, good.pixel_AUPRO, good.pixel_AUPRO_005, good.pro_3cad]
    assert [good.image_AUROC, good.image_F1Max, good.part_AUROC, *pixel] == [None] * 8
    assert good.image_AUROC_by_defect == {}
    bare = _sample(tmp_path, 60, defect="pit", with_mask=False)
    unmasked = evaluate(FakeRunner(SIZE), [*samples[:9], bare]).accuracy
    assert unmasked.image_AUROC is not None
    assert unmasked.pixel_AUROC is None


@pytest.mark.parametrize("content", [b"", b"no image", b"cut"])
def test_a_corrupt_image_is_named_and_never_skipped(samples, content):
    victim = samples[11].image
    victim.write_bytes(victim.read_bytes()[:-40] if content == b"cut" else content)
    with pytest.raises(DataError, match=str(victim)):
        evaluate(FakeRunner(SIZE), samples)


def test_a_bad_mask_is_named(samples):
    write_png(samples[12].mask, np.zeros((5, 5), np.uint8))
    with pytest.raises(DataError, match=str(samples[12].mask)):
        evaluate(FakeRunner(SIZE), samples)
    assert len(list(score_samples(FakeRunner(SIZE), samples))) == len(samples)  # needs no mask


def test_bad_calls_are_refused(samples):
    with pytest.raises(DataError, match="no samples"):
        evaluate(FakeRunner(SIZE), [])
    with pytest.raises(DataError, match="batch is 0"):
        evaluate(FakeRunner(SIZE), samples, batch=0)


def test_decoding_runs_no_further_ahead_than_two_batches(samples):
    scored = score_samples(FakeRunner(SIZE), samples, batch=3)
    seen = [next(scored).sample]
    time.sleep(0.3)  # whatever was asked for ahead has been read by now
    for sample in samples[6:]:
        sample.image.unlink()
    with pytest.raises(DataError, match=str(samples[6].image)):
        seen.extend(one.sample for one in scored)
    assert seen == samples[:6]


def test_a_model_that_answers_nan_or_another_size_is_refused(samples):
    def broken(images):
        return np.full(images.shape[:3], np.nan, np.float32), np.zeros(len(images), np.float32)

    def small(images):
        return np.zeros((len(images), 4, 4), np.float32), np.zeros(len(images), np.float32)

    with pytest.raises(ArtefactError, match="NaN or infinity"):
        mvtec_evaluation.evaluate_category(broken, samples, size_hw=SIZE)
    with pytest.raises(ArtefactError, match=r"gives maps \(8, 4, 4\)"):
        mvtec_evaluation.evaluate_category(small, samples, size_hw=SIZE)


def test_the_fake_runner_keeps_the_seam():
    known = np.random.default_rng(0).random(SIZE, dtype=np.float32)
    with FakeRunner(SIZE, anomaly_map=known, max_batch=2) as runner:
        maps, scores = runner.infer(np.zeros((2, *SIZE, 3), np.uint8))
        assert np.array_equal(maps, [known, known])
        assert scores.tolist() == [known.max()] * 2
        maps[:] = 0  # the caller's own
        assert runner.infer(np.zeros((1, *SIZE, 3), np.uint8)).pred_score[0] == known.max()
        for images in (np.zeros((3, *SIZE, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, *SIZE, 3))):
            with pytest.raises(DataError):
                runner.infer(images)
    with pytest.raises(ArtefactError, match="closed"):
        runner.infer(np.zeros((1, *SIZE, 3), np.uint8))
    with pytest.raises(DataError, match="anomaly_map is"):
        FakeRunner((8, 8), anomaly_map=known)


def test_mvtec_evaluation_takes_runners_functions_and_maps(samples):
    def brightness(images):
        maps = images.mean(axis=3, dtype=np.float32) / np.float32(255)
        return Prediction(maps, maps.max(axis=(1, 2)))

    expected = evaluate(FakeRunner(SIZE), samples).accuracy
    maps, _ = _known(samples)
    assert mvtec_evaluation.evaluate_category(FakeRunner(SIZE), samples) == expected
    assert mvtec_evaluation.evaluate_category(brightness, samples, size_hw=SIZE) == expected
    assert mvtec_evaluation.evaluate_maps(iter(maps), samples) == expected
    assert mvtec_evaluation.evaluate_maps(maps, samples, scores=-maps.max(axis=(1, 2))).image_AUROC == pytest.approx(
        1 - expected.image_AUROC
    )
    with pytest.raises(DataError, match="18 maps for 19 samples"):
        mvtec_evaluation.evaluate_maps(maps[:-1], samples)
    with pytest.raises(DataError, match="20 maps for 19 samples"):
        mvtec_evaluation.evaluate_maps([*maps, maps[0]], samples)
    with pytest.raises(DataError, match="2 scores for 19 samples"):
        mvtec_evaluation.evaluate_maps(maps, samples, scores=[1.0, 2.0])


def test_the_mean_is_over_categories_that_define_a_metric(samples):
    runner = FakeRunner(SIZE)
    result = mvtec_evaluation.evaluate_dataset(
        [("tile", runner, samples), ("core", runner, samples[4:12]), ("cap", runner, samples[:9])]
    )
    tile, core, mean = result.categories["tile"], result.categories["core"], result.mean()
    assert mean["image_AUROC"] == pytest.approx((tile.image_AUROC + core.image_AUROC) / 2)
    assert mean["pixel_AUPRO"] == pytest.approx((tile.pixel_AUPRO + core.pixel_AUPRO) / 2)
    only_good = mvtec_evaluation.evaluate_dataset([("cap", runner, samples[:9])])
    assert only_good.mean()["image_AUROC"] is None
    lines = result.table().splitlines()
    assert [line.split()[0] for line in lines] == ["category", "tile", "core", "cap", "mean"]
    assert lines[3].split()[1:] == ["-"] * 8
    assert lines[1].split()[1] == f"{100 * tile.image_AUROC:.1f}"
    assert len({len(line) for line in lines}) == 1
    assert result.to_dict()["categories"]["tile"]["image_AUROC"] == tile.image_AUROC


def test_memory_of_an_evaluation_does_not_grow_with_its_samples(tmp_path):
    pair = [_sample(tmp_path, 0, size=(256, 256)), _sample(tmp_path, 1, defect="pit", size=(256, 256))]
    evaluate(FakeRunner(), pair)
    peaks = {}
    for count in (40, 400):
        tracemalloc.start()
        evaluate(FakeRunner(), pair * (count // 2))
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[400] - peaks[40] < 2 << 20  # the maps alone would be 90 MiB more
    assert peaks[400] < 256 << 20


@pytest.mark.slow
def test_sixteen_thousand_images_stay_far_below_four_gibibytes(tmp_path):
    pair = [_sample(tmp_path, 0, size=(256, 256)), _sample(tmp_path, 1, defect="pit", size=(256, 256))]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = evaluate(FakeRunner(), pair * 8000)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"grown by {grown_mib:.0f} MiB to {before / 1024 + grown_mib:.0f} MiB")
    assert result.accuracy.counts.regions == 8000
    assert grown_mib < 512
