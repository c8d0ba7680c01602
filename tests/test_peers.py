"""The peers: each method against an oracle of its own, its ONNX file against torch, and the command from end to end."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.spatial.distance import cdist, mahalanobis

from benchmarks import results
from benchmarks.peers import elpv, measuring
from benchmarks.peers.__main__ import main
from benchmarks.peers.descent import batches, descend
from benchmarks.peers.detector import CFRG_TAPS, PAPER_TAPS, DetectorRunner, Good, concatenated, open_teacher
from benchmarks.peers.efficientad import EfficientAD, change_light, hard_loss
from benchmarks.peers.keeping import hold_against_torch, keep
from benchmarks.peers.padim import PaDiM, gaussians
from benchmarks.peers.patchcore import PatchCore, PatchCoreDetector, coreset
from benchmarks.peers.rd4ad import RD4AD, disagreement, distillation
from benchmarks.peers.record import Record
from benchmarks.peers.speed import bundles, measure_speed
from benchmarks.peers.stfpm import STFPM, difference, discrepancy, mean_map
from edgead.bundle import BundleInfo
from edgead.cli import main as edgead
from edgead.config import load_train
from edgead.errors import ArtefactError, ConfigError, DataError, TrainingError
from edgead.runtime.openvino_runner import OpenVINORunner

ROOT = Path(__file__).parents[1]
Images = npt.NDArray[np.uint8]


class Steps:
    """Counts what is reported, and keeps the losses."""

    def __init__(self) -> None:
        self.total = 0
        self.losses: list[float] = []

    def __call__(self, steps: int = 1, note: str = "") -> None:
        self.total += steps
        if note.startswith("loss"):
            self.losses.append(float(note.split()[1]))


quiet = Steps()


@pytest.fixture(scope="module")
def good(smooth_images: Images) -> Good:
    return Good(smooth_images[:12], smooth_images[12:])


def normalised(images: Images) -> torch.Tensor:
    """Bring images to Lite0's scale, as its package says: (x - 127) / 128."""
    return torch.from_numpy(((images.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2).copy())


def smoothed(coarse: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Enlarge a map with aligned corners and smooth it, by scipy."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    grid = np.stack(np.meshgrid(*[np.linspace(0, side - 1, size) for side in coarse.shape], indexing="ij"))
    enlarged = map_coordinates(coarse.astype(np.float64), grid, order=1)
    return np.asarray(gaussian_filter(enlarged, 4, truncate=4, mode="reflect"))


def test_the_teacher_has_the_strides_that_the_taps_promise() -> None:
    for taps, strides, channels in ((PAPER_TAPS, (4, 8, 16), (24, 40, 112)), (CFRG_TAPS, (8, 16, 32), (40, 112, 192))):
        teacher = open_teacher(taps)
        assert (teacher.strides, teacher.channels) == (strides, channels)
        shapes = [tuple(level.shape) for level in teacher(torch.zeros(1, 3, 64, 96))]
        assert shapes == [(1, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]
        assert not teacher.training
        assert not any(p.requires_grad for p in teacher.parameters())


def test_peers_share_the_weights_that_cfrg_lite0_starts_from() -> None:
    from edgead.cfrg import checkpoint
    from edgead.cfrg.model import build

    cfrg = build("cfrg-lite0", 64).eval()
    checkpoint.load_teacher(cfrg, None)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for theirs, ours in zip(open_teacher(CFRG_TAPS)(pixels), cfrg.teacher(pixels), strict=True):
            assert torch.equal(theirs, ours)


def test_levels_kept_are_those_of_each_image_alone(good: Good) -> None:
    reported = Steps()
    kept = good.levels(PAPER_TAPS, reported)
    again = good.levels((10,), reported)
    with torch.no_grad():
        wanted = open_teacher(PAPER_TAPS)(normalised(good.train[7:8]))
    for level, alone in zip(kept, wanted, strict=True):
        torch.testing.assert_close(level[7:8], alone, rtol=1e-4, atol=1e-4)
    assert again[0] is kept[2]
    assert reported.total == 2 * len(good.train)


def test_concatenated_levels_agree_with_opencv() -> None:
    random = np.random.default_rng(0)
    fine, coarse = (random.normal(size=(1, 3, side, side)).astype(np.float32) for side in (8, 4))
    got = concatenated([torch.from_numpy(fine), torch.from_numpy(coarse)])[0].numpy()
    np.testing.assert_array_equal(got[:3], fine[0])
    for channel in range(3):
        wanted = cv2.resize(coarse[0, channel], (8, 8), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(got[3 + channel], wanted, atol=1e-6)


def test_the_coreset_is_the_greedy_one() -> None:
    points = np.random.default_rng(1).normal(size=(60, 5))
    distances = cdist(points, points)
    wanted = [17]
    while len(wanted) < 12:
        wanted.append(int(np.argmax(distances[:, wanted].min(axis=1))))
    reported = Steps()
    got = coreset(torch.from_numpy(points), 12, 17, reported, 30)
    assert got.tolist() == wanted
    assert reported.total == 30


def test_a_coreset_of_equal_points_names_none_twice() -> None:
    assert sorted(coreset(torch.ones(6, 3), 6, 2).tolist()) == list(range(6))


def test_patchcore_scores_as_the_paper_says(good: Good) -> None:
    detector = PatchCore(share=0.1, neighbours=5).fit(good, seed=0, advance=quiet)
    assert isinstance(detector, PatchCoreDetector)
    assert len(detector.bank) == round(0.1 * 12 * 8 * 8)
    assert len(set(map(tuple, detector.bank.tolist()))) > 10
    image = good.validation[:1]
    with torch.no_grad():
        levels = [level.double().numpy()[0] for level in detector.teacher(normalised(image))]
        anomaly_map, score = (value.numpy()[0] for value in detector(torch.from_numpy(image)))
    pooled = []
    for level in levels:  # means over the neighbours that are there
        padded, there = np.pad(level, ((0, 0), (1, 1), (1, 1))), np.pad(np.ones(level.shape[1:]), 1)
        rows, columns = level.shape[1:]
        shifts = [(slice(a, a + rows), slice(b, b + columns)) for a in range(3) for b in range(3)]
        pooled.append(sum(padded[:, a, b] for a, b in shifts) / sum(there[a, b] for a, b in shifts))
    deep = np.stack([cv2.resize(channel, (8, 8), interpolation=cv2.INTER_LINEAR) for channel in pooled[1]])
    patches = np.concatenate([pooled[0], deep]).reshape(152, 64).T
    bank = (detector.bank + detector.centre).double().numpy()
    distances = cdist(patches, bank)
    nearest = distances.min(axis=1)
    np.testing.assert_allclose(anomaly_map, smoothed(nearest.reshape(8, 8), 64), rtol=1e-3, atol=1e-3)
    star = int(nearest.argmax())
    memory = int(distances[star].argmin())
    around = np.argsort(cdist(bank[memory : memory + 1], bank)[0])[:5]
    weight = 1 - np.exp(nearest[star]) / np.exp(distances[star, around]).sum()
    assert score == pytest.approx(weight * nearest[star], rel=1e-3)


def test_the_seed_draws_patchcores_bank(good: Good) -> None:
    banks = [PatchCore(share=0.02).fit(good, seed=seed, advance=quiet).bank for seed in (0, 0, 1)]
    assert torch.equal(banks[0], banks[1])
    assert not torch.equal(banks[0], banks[2])


def test_whitening_gives_the_mahalanobis_distance() -> None:
    random = np.random.default_rng(2)
    patches = random.normal(size=(3, 40, 6)) @ random.normal(size=(6, 6))
    mean, whiten = gaussians(torch.from_numpy(patches), 0.01)
    point = random.normal(size=6)
    for position in range(3):
        inverse = np.linalg.inv(np.cov(patches[position].T) + 0.01 * np.eye(6))
        wanted = mahalanobis(point, patches[position].mean(axis=0), inverse)
        got = np.linalg.norm((point - mean[position, 0].numpy()) @ whiten[position].numpy())
        assert got == pytest.approx(wanted, rel=1e-4)


def test_padim_maps_the_mahalanobis_distance(good: Good) -> None:
    detector = PaDiM(channels=9).fit(good, seed=3, advance=quiet)
    assert len(detector.chosen) == 9 == len(set(detector.chosen.tolist()))
    with torch.no_grad():
        train = concatenated(detector.teacher(normalised(good.train)))[:, detector.chosen].double().numpy()
        image = good.validation[:1]
        levels = concatenated(detector.teacher(normalised(image)))[0, detector.chosen].double().numpy()
        anomaly_map, score = (value.numpy()[0] for value in detector(torch.from_numpy(image)))
    wanted = np.zeros((16, 16))
    for y, x in np.ndindex(16, 16):
        samples = train[:, :, y, x]
        inverse = np.linalg.inv(np.cov(samples.T) + 0.01 * np.eye(9))
        wanted[y, x] = mahalanobis(levels[:, y, x], samples.mean(axis=0), inverse)
    np.testing.assert_allclose(anomaly_map, smoothed(wanted, 64), rtol=2e-3)
    assert score == pytest.approx(anomaly_map.max())


def test_coarse_gaussians_are_of_means(good: Good) -> None:
    detector = PaDiM(taps=CFRG_TAPS, stride=16, channels=None).fit(good, seed=0, advance=quiet)
    with torch.no_grad():
        fine, middle, deep = (level[0].numpy() for level in detector.teacher(normalised(good.validation[:1])))
        got = detector.patches(detector.teacher(normalised(good.validation[:1])))[:, 0].T.reshape(344, 4, 4).numpy()
    np.testing.assert_allclose(got[:40], fine.reshape(40, 4, 2, 4, 2).mean(axis=(2, 4)), atol=1e-5)
    np.testing.assert_array_equal(got[40:152], middle)
    larger = [cv2.resize(channel, (4, 4), interpolation=cv2.INTER_LINEAR) for channel in deep]
    np.testing.assert_allclose(got[152:], larger, atol=1e-5)


def test_stfpm_follows_its_equations() -> None:
    random = np.random.default_rng(3)
    teacher, student = ([random.normal(size=(2, c, s, s)) for c, s in ((5, 4), (7, 2))] for _ in range(2))
    wanted = 0.0
    for t, s in zip(teacher, student, strict=True):
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (t, s)]
        losses = 0.5 * np.linalg.norm(unit[0] - unit[1], axis=1) ** 2
        np.testing.assert_allclose(difference(torch.from_numpy(t), torch.from_numpy(s)).numpy(), losses)
        wanted += losses.mean()
    got = discrepancy([torch.from_numpy(t) for t in teacher], [torch.from_numpy(s) for s in student])
    assert float(got) == pytest.approx(wanted)


def test_stfpm_multiplies_its_levels(good: Good) -> None:
    detector = STFPM(epochs=1, batch=6).fit(good, seed=0, advance=quiet)
    image = good.validation[:1]
    with torch.no_grad():
        levels = zip(detector.teacher(normalised(image)), detector.student(normalised(image)), strict=True)
        small = [difference(t, s)[0].numpy() for t, s in levels]
        anomaly_map, score = detector(torch.from_numpy(image))
    large = [cv2.resize(level, (64, 64), interpolation=cv2.INTER_LINEAR) for level in small]
    np.testing.assert_allclose(anomaly_map[0].numpy(), np.prod(large, axis=0), rtol=1e-3, atol=1e-5)
    assert float(score) == float(anomaly_map.max())


def test_stfpm_keeps_the_epoch_that_held_out_images_prefer(good: Good) -> None:
    notes: list[str] = []
    hasty = STFPM(epochs=4, batch=6, learning_rate=2.0)  # it gets worse on the way
    detector = hasty.fit(good, seed=0, advance=lambda _, note="": notes.append(note))
    found = [float(note.split()[6].rstrip(",")) for note in notes if note.startswith("epoch")]
    assert len(found) == 4
    assert min(found) < found[-1]
    assert mean_map(detector, good.validation) == pytest.approx(min(found), rel=1e-2)


def test_reverse_distillation_compares_by_cosine() -> None:
    random = np.random.default_rng(4)
    teacher, recovered = (random.normal(size=(2, 6, 3, 3)) for _ in range(2))
    wanted = np.array([[1 - np.vdot(teacher[n, :, y, x], recovered[n, :, y, x])
                        / np.linalg.norm(teacher[n, :, y, x]) / np.linalg.norm(recovered[n, :, y, x])
                        for y, x in np.ndindex(3, 3)] for n in range(2)])  # fmt: skip
    pair = torch.from_numpy(teacher), torch.from_numpy(recovered)
    np.testing.assert_allclose(disagreement(*pair).numpy().reshape(2, 9), wanted)
    assert float(distillation([pair[0]] * 2, [pair[1]] * 2)) == pytest.approx(2 * wanted.mean())


def test_reverse_distillation_learns_what_good_looks_like(good: Good) -> None:
    one = Good(np.repeat(good.train[:1], 4, axis=0), good.validation)
    heard = Steps()
    detector = RD4AD(epochs=12, batch=4).fit(one, seed=0, advance=heard)
    assert heard.losses[-1] < 0.7 * heard.losses[0]
    with torch.no_grad():  # and in eval mode it does what it has learnt
        levels = detector.teacher(normalised(one.train[:1]))
        assert float(distillation(levels, detector.recover(levels))) < 0.8 * heard.losses[0]
    shapes = [[tuple(level.shape) for level in levels] for levels in (
        detector.teacher(normalised(good.train[:2])),
        detector.recover(detector.teacher(normalised(good.train[:2]))),
    )]  # fmt: skip
    assert shapes[0] == shapes[1]


def test_hard_features_teach_the_student() -> None:
    random = np.random.default_rng(5)
    teacher, student = random.normal(size=(2, 1, 4, 10, 10))
    squared = np.sort(((teacher - student) ** 2).ravel())
    got = hard_loss(torch.from_numpy(teacher), torch.from_numpy(student), 0.9)
    assert float(got) == pytest.approx(squared[squared >= np.quantile(squared, 0.9)].mean())


def test_light_changes_by_a_fifth_at_most(smooth_images: Images) -> None:
    random = np.random.default_rng(6)
    image = smooth_images[0]
    changed = [change_light(image, random).astype(float) for _ in range(30)]
    assert all(each.shape == image.shape for each in changed)
    assert all(np.abs(each - image).max() <= 0.2 * 255 + 1 for each in changed)
    assert max(np.abs(each - image).mean() for each in changed) > 5


def test_efficientad_brings_both_maps_to_one_scale(good: Good) -> None:
    few = Good(good.train[:4], good.validation)
    detector = EfficientAD(epochs=1).fit(few, seed=0, advance=quiet)
    images = torch.from_numpy(good.validation)
    with torch.no_grad():
        taught = detector.teach(detector.normalise(torch.from_numpy(few.train)))
        maps = [value.double().numpy() for value in detector.maps(detector.normalise(images))]
        anomaly_map, score = detector(images)
    assert float(taught.mean()) == pytest.approx(0, abs=0.02)
    assert 0.8 < float(taught.std()) < 1.05
    scaled = []
    for values in maps:
        low, high = np.quantile(values, (0.9, 0.995))
        scaled.append(0.1 * (values - low) / (high - low))
    wanted = [cv2.resize(each, (64, 64), interpolation=cv2.INTER_LINEAR) for each in (scaled[0] + scaled[1]) / 2]
    np.testing.assert_allclose(anomaly_map.numpy(), wanted, atol=2e-3)
    np.testing.assert_array_equal(score.numpy(), anomaly_map.amax((1, 2)).numpy())


def test_batches_cover_each_epoch_and_follow_the_seed() -> None:
    first = [batch.tolist() for batch in batches(10, 3, 2, seed=1)]
    assert first == [batch.tolist() for batch in batches(10, 3, 2, seed=1)]
    assert first != [batch.tolist() for batch in batches(10, 3, 2, seed=2)]
    assert [len(batch) for batch in first] == [3] * 6
    assert len({index for batch in first[:3] for index in batch}) == 9
    assert [len(batch) for batch in batches(2, 3, 1, seed=0)] == [2]


def test_a_loss_that_is_not_finite_stops_the_fit() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([weight], 1.0)
    with pytest.raises(TrainingError, match="the loss became nan at step 1"):
        descend(iter([torch.tensor([1.0]), torch.tensor([-1.0])]), lambda x: (weight * x.log()).sum(), optimiser, quiet)


@pytest.mark.parametrize(
    "name",
    ["padim", *(pytest.param(n, marks=pytest.mark.slow) for n in ("patchcore", "stfpm", "rd4ad", "efficientad"))],
)
def test_the_model_kept_is_what_torch_computes(name: str, good: Good, tmp_path: Path) -> None:
    chosen = {"padim": PaDiM(channels=5), "patchcore": PatchCore(share=0.05)}.get(name)
    detector = (chosen or measuring.method(name, epochs=1)).fit(good, seed=0, advance=quiet)
    bundle = keep(detector, tmp_path / name, BundleInfo(network=name, category="x", size_hw=(64, 64)), good.train[:3])
    wanted = DetectorRunner(detector, threads=1).infer(good.validation)
    with OpenVINORunner(bundle.file("fp32"), threads=1) as runner:  # ONNX Runtime has been asked when it was written
        got = runner.infer(good.validation)
    scale = float(wanted.anomaly_map.max())
    np.testing.assert_allclose(got.anomaly_map, wanted.anomaly_map, atol=2e-3 * scale)
    np.testing.assert_allclose(got.pred_score, wanted.pred_score, atol=2e-3 * scale)
    other = (chosen or measuring.method(name, epochs=1)).fit(Good(good.train[1:], good.train), seed=7, advance=quiet)
    with pytest.raises(ArtefactError, match="differs from torch"):
        hold_against_torch(other, bundle.file("fp32"), good.train[:3])
    speeds = measure_speed(bundles(tmp_path), good.validation, threads=1, seconds=0.1)
    assert [(row["method"], row["backend"]) for row in speeds] == [(name, "onnxruntime"), (name, "openvino")]
    assert all(
        row["fps"] == pytest.approx(1e3 / row["p50_ms"], rel=0.01) and row["times_ours"] is None for row in speeds
    )


ROW = {
    "method": "padim", "seed": 0, "image_AUROC": 0.5, "image_F1Max": 0.5, "pixel_AUROC": 0.5, "pixel_AP": None,
    "pixel_AUPRO": None, "pixel_AUPRO_005": None, "part_AUROC": 0.5, "image_AUROC_interval": [0.4, 0.6],
    "pixel_AUPRO_interval": None, "by_defect": {"crack": 0.5}, "fit_minutes": 1.0, "evaluate_minutes": 1.0,
}  # fmt: skip


def describe(methods: list[str], seeds: int) -> str:
    return f"{','.join(methods)} {seeds}"


def test_a_record_goes_on_and_refuses_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    record = Record(path, describe, {"size": 64})
    assert not record.has("padim", 0, {"channels": 5})
    record.add(dict(ROW), {"channels": 5})
    record.add({**ROW, "seed": 1, "image_AUROC": 0.9, "image_AUROC_interval": [0.8, 1.0]}, {"channels": 5})
    again = Record(path, describe, {"size": 64})
    assert again.has("padim", 1, {"channels": 5})
    assert not again.has("padim", 2, {"channels": 5})
    written = results.read(path)
    assert written.command == "padim 2"
    assert [run["seed"] for run in written.conditions["runs"]] == [0, 1]
    assert list(written.rows) == again.summaries()
    summary = again.summaries()[0]
    assert (summary["image_AUROC"], summary["image_AUROC_range"], summary["seeds"]) == (0.7, [0.5, 0.9], 2)
    assert (summary["pixel_AUPRO"], summary["pixel_AUPRO_interval"]) == (None, None)
    assert summary["image_AUROC_interval"] == [0.6, 0.8]
    with pytest.raises(ConfigError, match="padim was measured with other settings \\(channels\\)"):
        again.has("padim", 2, {"channels": 6})
    with pytest.raises(ConfigError, match="was measured with size 64, not 128"):
        Record(path, describe, {"size": 128})
    path.write_text("{")
    with pytest.raises(DataError, match="measure it again"):
        Record(path, describe, {"size": 64})


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A train.yaml over twelve Good and six defective images in the layout of MVTec."""
    folder = tmp_path_factory.mktemp("tiles")
    random = np.random.default_rng(8)
    for split, defect, count in (("train", "good", 8), ("test", "good", 4), ("test", "spot", 6)):
        for index in range(count):
            image = np.clip(random.normal(120, 4, (64, 64, 3)), 0, 255).astype(np.uint8)
            if defect == "spot":
                mask = np.zeros((64, 64), np.uint8)
                cv2.circle(mask, (20 + 4 * index, 30), 8, 255, -1)
                image[mask > 0] = 10
                path = folder / "data/tile/ground_truth/spot" / f"{index:03}_mask.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), mask)
            path = folder / f"data/tile/{split}/{defect}/{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
    text = "dataset: {kind: mvtec, root: data, category: tile, validation: 0.25}\nsize: 64\nprecision: 32-true\n"
    (folder / "train.yaml").write_text(text)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["peers", *map(str, words)])
    return main()


def test_the_command_measures_goes_on_and_times(
    tiles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, kept = tiles / "peers.json", tiles / "kept"
    common = (tiles, "--methods", "padim", "--save", out, "--keep", kept)
    assert run(monkeypatch, *common, "--seeds", "1") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["padim", "1", "1.0"]
    first = results.read(out)
    assert first.rows[0]["pixel_AUPRO"] > 0.8
    assert first.rows[0]["image_AUROC_interval"] == [1.0, 1.0]
    assert first.conditions["images"] == {"train": 6, "validation": 2, "test": 10}
    assert first.conditions["methods"]["padim"]["channels"] == 100
    assert run(monkeypatch, *common, "--seeds", "2") == 0
    assert "1 of 2 measured before" in capsys.readouterr().err
    runs = results.read(out).conditions["runs"]
    assert [each["seed"] for each in runs] == [0, 1]
    assert runs[0] == first.conditions["runs"][0]
    speed = ("--speed", "--seconds", "0.1", "--keep", kept, "--save", tiles / "speed.json")
    assert run(monkeypatch, tiles, *speed) == 0
    assert {row["backend"] for row in results.read(tiles / "speed.json").rows} == {"onnxruntime", "openvino"}


@pytest.fixture(scope="module")
def ours(tiles: Path) -> Path:
    """The prefix of one run of ``cfrg-lite0``, seed 0, on the same images."""
    words = ["train", str(tiles / "train.yaml"), "--network", "cfrg-lite0", "--epochs", "1", "--seed", "0"]
    assert edgead([*words, "--out", str(tiles / "ours-0")]) == 0
    return tiles / "ours"


def test_our_runs_are_measured_like_peers(
    tiles: Path, ours: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--methods", "padim", "--ours", ours, "--keep", tiles / "beside", "--save")
    assert run(monkeypatch, tiles, *words, tiles / "beside.json", "--seeds", "1") == 0
    found = results.read(tiles / "beside.json")
    assert f"--ours {ours} --methods padim --seeds 1 --save" in found.command
    assert [row["method"] for row in found.rows] == ["padim", "cfrg-lite0-64"]
    assert set(found.rows[0]) == set(found.rows[1])
    assert found.conditions["methods"]["cfrg-lite0-64"]["epochs"] == 1
    assert run(monkeypatch, tiles, *words, tiles / "more.json", "--seeds", "2") == 2
    assert "ours-1" in capsys.readouterr().err
    shutil.copytree(tiles / "ours-0", tiles / "ours-1")
    assert run(monkeypatch, tiles, *words, tiles / "more.json", "--seeds", "2") == 2
    assert "ours-1: was trained with seed 0, not 1; train it" in capsys.readouterr().err
    assert not (tiles / "more.json").exists()
    (tiles / "ours-0/training/metrics.jsonl").unlink()
    assert run(monkeypatch, tiles, *words, tiles / "none.json", "--seeds", "1") == 2
    assert "no journal of a training" in capsys.readouterr().err


@pytest.mark.slow
def test_all_peers_are_measured_alike(tiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(measuring.METHODS)
    words = ("--methods", ",".join(names), "--epochs", "1", "--seeds", "1", "--save", tiles / "all.json")
    assert run(monkeypatch, tiles, *words, "--keep", tiles / "all") == 0
    rows = results.read(tiles / "all.json").rows
    assert [row["method"] for row in rows] == names
    assert all(set(row) == set(rows[0]) for row in rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "padmi"], "there is no method 'padmi', did you mean 'padim'?"),
        (["--methods", ","], "--methods names none"),
        (["--seeds", "0"], "--seeds is 0; expected 1 or more"),
        (["--epochs", "-1"], "--epochs is -1; expected 1 or more"),
        (["--seconds", "0"], "--seconds is 0.0; expected more than 0"),
        (["--root", "nowhere"], "nowhere"),
        (["--speed", "--keep", "nothing_kept"], "no peers kept there"),
    ],
)
def test_wrong_words_are_answered_in_one_line(
    tiles: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiles)
    assert run(monkeypatch, ".", "--save", "wrong.json", *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("benchmarks.peers: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tiles / "wrong.json").exists()


def test_a_missing_recipe_is_answered_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path / "none.yaml", "--save", tmp_path / "out.json") == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().err


def test_settings_are_plain_json() -> None:
    for name in (*measuring.METHODS, *measuring.VARIANTS):
        values = measuring.settings(measuring.method(name, epochs=3))
        assert json.loads(json.dumps(values)) == values
        assert values.get("epochs", 3) == 3


def test_elpv_becomes_a_dataset_of_sure_cells(tmp_path: Path) -> None:
    source, out = tmp_path / "package", tmp_path / "elpv"
    (source / "images").mkdir(parents=True)
    lines = []
    for index in range(24):
        cv2.imwrite(str(source / f"images/cell{index:04}.png"), np.full((40, 40), index, np.uint8))
        share = (0.0, 0.0, 1.0, 0.3333333333333333)[index % 4]
        lines.append(f"images/cell{index:04}.png  {share}    {'mono' if index < 16 else 'poly'}")
    (source / "labels.csv").write_text("\n".join(lines) + "\n")
    assert elpv.write_dataset(source, "mono", out) == {"good": 8, "defect": 4}
    dataset = load_train(out / "train.yaml").dataset.open()
    assert sum(not sample.is_good for sample in dataset.test) == 4
    every = [*dataset.train, *dataset.validation, *dataset.test]
    assert sorted(sample.image.stem for sample in every) == [f"cell{i:04}" for i in range(16) if i % 4 != 3]
    with pytest.raises(ConfigError, match="no category 'mnoo', did you mean 'mono'"):
        elpv.write_dataset(source, "mnoo", out)
    (source / "labels.csv").write_text("cell 1\n")
    with pytest.raises(DataError, match="no labels of ELPV"):
        elpv.write_dataset(source, "mono", out)
