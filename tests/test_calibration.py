"""Calibration: which images, which ranges, and what the card says of them; oracles in numpy and scipy."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import scipy.stats
from onnx import TensorProto, helper, numpy_helper

from edgead.bundle import Bundle
from edgead.datasets import Dataset, Sample, open_dataset
from edgead.errors import ArtefactError, ConfigError, DataError, EdgeadError
from edgead.images import write_png
from export.calibration import (
    METHODS,
    Chosen,
    Listed,
    Ranges,
    batches,
    candidates,
    card,
    choice,
    choose,
    collect,
    list_path,
    read_list,
    write_list,
)
from export.calibration.histogram import BINS, COARSE, SLOTS, Histogram
from export.calibration.methods import Distribution, amax_of

Values = npt.NDArray[np.float32]
SIDE = 32


def seen(*images: Values) -> Histogram:
    histogram = Histogram()
    for values in images:
        histogram.add(values, float(np.abs(values).max()))
    return histogram


def distribution(values: npt.NDArray[Any], bins: int, top: float) -> Distribution:
    """Count with numpy."""
    size = np.abs(values)
    counts = np.histogram(size[size > 0], bins=bins, range=(0, top))[0]
    return Distribution(counts, int((size == 0).sum()), top, float(size.max()))


# Histograms


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_one_pass_with_growing_bins_counts_what_numpy_counts_with_the_range_known(order: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    images = [
        (random.normal(0, 10.0**power, (3, 400, 257)) * (random.random((3, 400, 257)) > 0.3)).astype(np.float32)
        for power in (-3, -1, 0, 2)
    ]
    found = seen(*(images[index] for index in order)).distribution()
    peak = max(np.abs(image).max() for image in images)
    assert found.peak == peak
    assert peak < found.top <= 2 * peak, "at least half of the bins lie below the peak"
    wanted = distribution(np.concatenate(images), BINS, found.top)
    np.testing.assert_array_equal(found.counts, wanted.counts)
    assert found.zeros == wanted.zeros > 0


def test_a_peak_on_the_edge_of_the_range_is_counted_below_the_next_one() -> None:
    found = seen(np.array([0.5, 1.0], np.float32), np.array([2.0, -4.0], np.float32)).distribution()
    assert found.top == 8.0
    assert np.nonzero(found.counts)[0].tolist() == [BINS // 16, BINS // 8, BINS // 4, BINS // 2]


def test_images_drawn_anew_count_as_often_as_they_were_drawn() -> None:
    random = np.random.default_rng(1)
    images = [random.normal(0, scale, 5000).astype(np.float32) for scale in (0.1, 1.0, 30.0)]
    images[1][:100] = 0
    histogram = seen(*images)
    (found,) = histogram.resampled(np.array([[2.0, 1.0, 0.0]]))
    wanted = distribution(np.concatenate([images[0], images[0], images[1]]), COARSE, histogram.top)
    np.testing.assert_array_equal(found.counts, wanted.counts)
    assert found.zeros == 100


def test_more_images_than_slots_share_them() -> None:
    histogram = seen(*(np.array([float(number + 1)], np.float32) for number in range(SLOTS + 2)))
    assert histogram.slots == SLOTS
    first = np.zeros((1, SLOTS))
    first[0, 1] = 1
    (found,) = histogram.resampled(first)
    bins = [int(value * COARSE / histogram.top) for value in (2.0, SLOTS + 2.0)]
    assert np.nonzero(found.counts)[0].tolist() == bins


# Methods

SHAPES: dict[str, Callable[[np.random.Generator], npt.NDArray[np.float64]]] = {
    "normal": lambda random: random.normal(0, 3, 200_000),
    "relu": lambda random: np.maximum(random.normal(-1, 1, 200_000), 0),
    "heavy tail": lambda random: random.standard_t(2, 200_000),
    "outlier": lambda random: np.append(random.normal(0, 1, 200_000), [40.0, -40.0]),
}


@pytest.fixture(params=SHAPES)
def values(request: pytest.FixtureRequest) -> Values:
    return SHAPES[request.param](np.random.default_rng(2)).astype(np.float32)


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99, 100.0])
def test_percentile_is_numpys_within_one_bin(values: Values, percentile: float) -> None:
    found = seen(values).distribution()
    amax = amax_of(found, "percentile", percentile=percentile)
    wanted = np.quantile(np.abs(values), percentile / 100, method="inverted_cdf")
    assert amax == pytest.approx(wanted, abs=found.top / BINS)


def test_percentile_of_a_tensor_of_almost_only_zeros_is_that_of_the_others() -> None:
    values = np.zeros(1_000_000, np.float32)
    values[:50] = np.linspace(1, 2, 50)
    assert np.quantile(values, 0.9999) == 0
    assert amax_of(seen(values).distribution(), "percentile") == pytest.approx(2.0, abs=0.05)


def quantised(values: npt.NDArray[Any], amax: float) -> npt.NDArray[Any]:
    return np.clip(np.round(values / (amax / 127)), -127, 127) * (amax / 127)


def test_mse_is_as_small_as_trying_every_clipping_point_on_the_values_themselves(values: Values) -> None:
    peak = float(np.abs(values).max())

    def error(amax: float) -> float:
        return float(((values - quantised(values, amax)) ** 2).mean())

    tried = min(error(amax) for amax in np.linspace(peak / 50, peak, 400))
    found = amax_of(seen(values).distribution(), "mse")
    assert error(found) <= 1.02 * tried
    assert error(found) <= error(peak)


def divergence(counts: npt.NDArray[Any], bins: int) -> float:
    """Follow the slides of "8-bit inference with TensorRT" (GTC 2017) bin by bin."""
    reference = [float(count) for count in counts[:bins]]
    original = list(reference)
    reference[-1] += float(sum(counts[bins:]))
    candidate = [0.0] * bins
    for level in range(128):
        members = [index for index in range(bins) if index * 128 // bins == level]
        filled = [index for index in members if reference[index] > 0]
        for index in filled:
            candidate[index] = sum(original[member] for member in members) / len(filled)
    if not sum(candidate):
        return float("inf")
    return float(scipy.stats.entropy(reference, np.maximum(np.array(candidate) / sum(candidate), 1e-9)))


@pytest.mark.parametrize("shape", ["normal", "relu", "outlier"])
def test_entropy_clips_where_the_divergence_of_the_slides_is_least(shape: str) -> None:
    values = SHAPES[shape](np.random.default_rng(3)).astype(np.float32)
    found = distribution(values, 512, 64.0 if shape == "outlier" else float(np.abs(values).max()))
    amax = amax_of(found, "entropy", candidates=512)
    every = {bins: divergence(found.counts, bins) for bins in range(128, 513)}
    best = min(every, key=lambda bins: every[bins])
    assert every[min(round(amax / found.top * 512), 512)] <= every[best] * (1 + 1e-6)


def test_entropy_clips_an_outlier_with_2048_bins_and_never_with_128() -> None:
    values = SHAPES["outlier"](np.random.default_rng(4))
    fine, coarse = (amax_of(distribution(values, bins, 40.0001), "entropy") for bins in (2048, 128))
    assert 3 < fine < 10
    assert coarse == pytest.approx(40)
    assert 3 < amax_of(seen(values.astype(np.float32)).distribution(), "entropy") < 10


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_positive_range_that_is_not_above_the_peak(values: Values, method: str) -> None:
    amax = amax_of(seen(values).distribution(), method)
    assert 0 < amax <= np.abs(values).max()
    if method == "max":
        assert amax == np.abs(values).max()
    assert amax_of(seen(np.zeros(9, np.float32), np.zeros(9, np.float32)).distribution(), method) == 1.0
    assert amax_of(seen(np.array([0.0, -3.0], np.float32)).distribution(), method) == pytest.approx(3.0)
    assert 0 < amax_of(seen(np.array([1e-38, 1e-44], np.float32)).distribution(), method) <= np.float32(1e-38)
    assert amax_of(seen(np.array([3e38, 1.0], np.float32)).distribution(), method) <= 3.0001e38


# Ranges


def weighted_inputs(path: Path) -> list[str]:
    graph = onnx.load(path).graph
    return list(dict.fromkeys(node.input[0] for node in graph.node if node.op_type in ("Conv", "ConvTranspose")))


def all_tensors(path: Path, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """Hold every tensor of every image in memory, from a session without any optimisation."""
    model = onnx.load(path)
    present = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output]
    for name in names:
        if name not in present:
            model.graph.output.append(helper.make_empty_tensor_value_info(name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    runs = [session.run(names, {"image": image[None]}) for image in images]
    return {name: np.stack(found) for name, *found in zip(names, *runs, strict=True)}


@pytest.fixture(scope="module")
def lite(exported: Bundle, smooth_images: npt.NDArray[np.uint8]) -> tuple[Path, list[str], dict[str, Any], Ranges]:
    path = exported.file("fp32")
    tensors = weighted_inputs(path)
    ticks: list[int] = []
    ranges = collect(path, [smooth_images[:3], smooth_images[3:8]], tensors, threads=1, progress=ticks.append)
    assert ticks == [1] * 8
    return path, tensors, all_tensors(path, smooth_images[:8]), ranges


def test_the_peak_of_every_float32_tensor_is_numpys(lite: tuple[Path, list[str], dict[str, Any], Ranges]) -> None:
    path, _, held, ranges = lite
    computed = {name: value for name, value in held.items() if value.dtype == np.float32}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    constants = {name: value for name, value in weights.items() if value.dtype == np.float32}
    assert set(ranges.peak) == set(computed) | set(constants)
    assert len(computed) > 200
    for name, value in {**computed, **constants}.items():
        assert ranges.peak[name] == pytest.approx(float(np.abs(value).max()), rel=1e-3, abs=1e-6), name


def test_histograms_and_maxima_are_numpys_on_all_activations(
    lite: tuple[Path, list[str], dict[str, Any], Ranges],
) -> None:
    _, tensors, held, ranges = lite
    assert list(ranges.histograms) == tensors
    assert len(tensors) > 60
    for column, name in enumerate(tensors):
        found = ranges.histograms[name].distribution()
        values = np.abs(held[name])
        assert found.counts.sum() + found.zeros == values.size
        by_image = values.reshape(8, -1).max(axis=1)
        np.testing.assert_allclose(ranges.maxima[:, column], by_image, rtol=1e-3, atol=1e-6)
        counts = np.histogram(values[values > 0], bins=BINS, range=(0, found.top))[0]
        # Fused and unfused sessions round differently: values move to the next bin, never further.
        moved = np.abs(np.cumsum(found.counts) + found.zeros - np.cumsum(counts) - (values == 0).sum()).max()
        assert moved <= 2e-3 * values.size + 2, name
        wanted = np.quantile(values, 0.999, method="inverted_cdf")
        if wanted > 0:
            amax = ranges.amax("percentile", percentile=99.9)[name]
            assert amax == pytest.approx(wanted, abs=2 * found.top / BINS), name


def test_how_images_are_batched_changes_nothing(
    lite: tuple[Path, list[str], dict[str, Any], Ranges], smooth_images: npt.NDArray[np.uint8]
) -> None:
    path, tensors, _, ranges = lite
    again = collect(path, (image[None] for image in smooth_images[:8]), tensors, threads=1)
    assert again.peak == ranges.peak
    for method in ("max", "percentile"):
        assert again.amax(method) == ranges.amax(method)


def test_tensors_in_the_middle_of_the_graph_are_asked_for_by_name(
    exported: Bundle, smooth_images: npt.NDArray[np.uint8]
) -> None:
    path = exported.file("fp32")
    with pytest.raises(ArtefactError, match="computes no float32 tensor 'teacher_99'"):
        collect(path, [smooth_images], ["teacher_99"])
    with pytest.raises(ArtefactError, match="computes no float32 tensor 'image'"):
        collect(path, [smooth_images], ["image"])
    assert collect(path, [smooth_images[:2]], []).amax("max") == {}


# A graph small enough to know every value: pixels = image, scaled = pixels * gain, rectified = relu(scaled - 300)


def small_model(path: Path, *extra: onnx.NodeProto, gain: float = 2.0, side: int = SIDE) -> Path:
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "gain"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "offset"], ["moved"]),
        helper.make_node("Relu", ["moved"], ["rectified"]),
        helper.make_node("Sub", ["pixels", "pixels"], ["nothing"]),
        *extra,
        helper.make_node("ReduceMax", ["rectified"], ["anomaly_map"], axes=[3], keepdims=0),
        helper.make_node("ReduceMax", ["anomaly_map"], ["pred_score"], axes=[1, 2], keepdims=0),
    ]
    shape: list[str | int | None] = ["batch", side, side]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [*shape, 3])],
        [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, shape[:1]),
        ],
        [
            numpy_helper.from_array(np.array(gain, np.float32), "gain"),
            numpy_helper.from_array(np.array(300, np.float32), "offset"),
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def grey(*levels: int, side: int = SIDE) -> npt.NDArray[np.uint8]:
    return np.stack([np.full((side, side, 3), level, np.uint8) for level in levels])


def test_ranges_of_a_graph_whose_values_are_known(tmp_path: Path) -> None:
    ranges = collect(small_model(tmp_path / "m.onnx"), [grey(10, 200)], ["scaled", "moved", "rectified", "nothing"])
    assert ranges.images == 2
    assert ranges.peak == {
        "gain": 2, "offset": 300, "zero": 0, "pixels": 200, "scaled": 400, "moved": 280, "rectified": 100, "nothing": 0,
        "anomaly_map": 100, "pred_score": 100,
    }  # fmt: skip
    assert ranges.maxima.tolist() == [[20, 280, 0, 0], [400, 100, 100, 0]]
    assert ranges.amax("max") == {"scaled": 400, "moved": 280, "rectified": 100, "nothing": 1}
    assert ranges.model_sha256 == hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("operator", "inputs", "word"),
    [("Log", ["moved"], "NaN"), ("Reciprocal", ["pixels"], "infinite"), ("Log", ["pixels"], "infinite")],
)
@pytest.mark.parametrize("tensors", [["hidden"], ["scaled", "broken"]])
def test_nan_and_infinity_name_the_first_tensor_even_where_a_later_one_hides_them(
    tmp_path: Path, operator: str, inputs: list[str], word: str, tensors: list[str]
) -> None:
    broken = helper.make_node(operator, inputs, ["broken"])
    hidden = helper.make_node("Min", ["broken", "zero"], ["hidden"])
    path = small_model(tmp_path / "m.onnx", broken, hidden)
    images = grey(200, 200)
    images[1, 5, 7] = 0  # one pixel of the second image is enough
    with pytest.raises(ArtefactError, match=f"tensor 'broken' is {word} for calibration image 2"):
        collect(path, [images], tensors)


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    side, images = 256, 60
    path = small_model(tmp_path / "m.onnx", side=side)
    tensors = ["pixels", "scaled", "rectified"]
    one_image = 4 * side * side * 3 * len(tensors)
    picture = np.random.default_rng(0).integers(0, 255, (1, side, side, 3), np.uint8)

    def stream() -> Iterator[npt.NDArray[np.uint8]]:
        for _ in range(images):
            yield picture

    collect(path, [picture, picture], tensors, threads=1)  # imports and caches are not counted
    tracemalloc.start()
    try:
        collect(path, stream(), tensors, threads=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * one_image + 3 * 1.5e6, f"{peak / 1e6:.0f} MB, all activations are {images * one_image / 1e6:.0f}"


def test_spread_tells_a_range_that_hangs_on_one_image_from_a_firm_one(tmp_path: Path) -> None:
    path = small_model(tmp_path / "m.onnx")
    firm = collect(path, [grey(*[200] * 20)], ["scaled", "rectified", "nothing"])
    lone = collect(path, [grey(*[60] * 19, 250)], ["scaled"])
    for method in METHODS:
        assert firm.spread(method) == {"scaled": 0.0, "rectified": 0.0, "nothing": 0.0}
        assert lone.spread(method)["scaled"] == lone.spread(method)["scaled"], "the same seed gives the same spread"
    # The image of 250 is in 64 % of the draws: the ranges found are 120 and 500.
    assert lone.spread("max")["scaled"] == pytest.approx((500 - 120) / 500)


def test_spread_of_the_largest_value_is_that_of_a_bootstrap_by_hand(tmp_path: Path) -> None:
    levels = np.random.default_rng(5).integers(100, 250, 30)
    ranges = collect(small_model(tmp_path / "m.onnx"), [grey(*levels.tolist())], ["scaled"])
    random = np.random.default_rng(6)
    drawn = np.sort([random.choice(2 * levels, 30).max() for _ in range(4000)])
    wanted = float(drawn[3800] - drawn[200]) / (2 * levels.max())
    assert ranges.spread("max")["scaled"] == pytest.approx(wanted, abs=0.02)
    assert ranges.spread("percentile")["scaled"] == pytest.approx(wanted, abs=0.02)


# Choice


def drawn(folder: Path, views: int = 2, lights: int = 3, parts: int = 24) -> list[Sample]:
    """Draw parts whose looks drift: the first half alike, then ever brighter, a few with another pattern."""
    samples = []
    for part in range(parts):
        random = np.random.default_rng(part)
        base = 60 if part < parts // 2 else 60 + 12 * (part - parts // 2)
        for view in range(views):
            for light in range(lights):
                pixels = random.integers(0, 8, (SIDE, SIDE, 3)) + base + 10 * light
                if part % 11 == 10:
                    pixels[:: 2 + view] //= 2
                path = folder / f"{part:03}_V{view}_L{light}.png"
                write_png(path, np.clip(pixels, 0, 255).astype(np.uint8))
                samples.append(Sample(path, str(part), view=str(view), illumination=str(light)))
    return samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return drawn(tmp_path_factory.mktemp("drawn"))


def strata(samples: tuple[Sample, ...] | list[Sample]) -> Counter[tuple[str, str]]:
    return Counter((sample.view, sample.illumination) for sample in samples)


def looks(samples: tuple[Sample, ...] | list[Sample]) -> npt.NDArray[np.float64]:
    """Describe images by means of 8x8 blocks: another description than the one that the choice uses."""
    import cv2

    pixels = np.stack([np.asarray(cv2.imread(str(sample.image)), np.float64) for sample in samples])
    blocks: npt.NDArray[np.float64] = pixels.reshape(len(samples), 4, SIDE // 4, 4, SIDE // 4, 3).mean(axis=(2, 4))
    return blocks.reshape(len(samples), -1)


def radius(all_: list[Sample], chosen: tuple[Sample, ...] | list[Sample]) -> float:
    """Return how far the image least well covered is from the nearest chosen one."""
    distance = np.linalg.norm(looks(all_)[:, None] - looks(chosen)[None], axis=2)
    return float(distance.min(axis=1).max())


def test_choice_covers_every_view_and_light_evenly(samples: list[Sample]) -> None:
    chosen = choose(samples, 24, (SIDE, SIDE))
    assert strata(chosen.samples) == {(view, light): 4 for view in "01" for light in "012"}
    assert len({sample.image for sample in chosen.samples}) == 24
    assert all(sample in samples for sample in chosen.samples)
    assert chosen.considered == len(samples)


def test_choice_covers_looks_that_the_first_n_and_a_random_draw_miss(samples: list[Sample]) -> None:
    chosen = choose(samples, 24, (SIDE, SIDE))
    first = [sample for sample in samples if int(sample.part) < 4]
    assert strata(first) == strata(chosen.samples), "the same number of each view and light"
    assert radius(samples, chosen.samples) < 0.5 * radius(samples, first)
    random = np.random.default_rng(0)
    others = [radius(samples, [samples[i] for i in random.choice(len(samples), 24, replace=False)]) for _ in range(20)]
    assert radius(samples, chosen.samples) < np.median(others)
    assert 0 < chosen.radius < choose(samples, 8, (SIDE, SIDE)).radius


def test_choice_takes_common_looks_too(samples: list[Sample]) -> None:
    common = [sample for sample in choose(samples, 72, (SIDE, SIDE)).samples if int(sample.part) < 12]
    assert len(common) >= 72 // 6, "half of all images look like these"


def test_the_same_seed_chooses_the_same_images_whatever_their_order(samples: list[Sample]) -> None:
    once = choose(samples, 30, (SIDE, SIDE), seed=3)
    assert choose(samples[::-1], 30, (SIDE, SIDE), seed=3) == once
    assert choose(samples, 30, (SIDE, SIDE), seed=4).samples != once.samples


def test_a_rare_view_gives_all_it_has_and_the_others_fill_up(samples: list[Sample]) -> None:
    few = [sample for sample in samples if sample.view == "0" or int(sample.part) < 2]
    found = strata(choose(few, 36, (SIDE, SIDE)).samples)
    assert sorted(found.values()) == [2, 2, 2, 10, 10, 10]
    everything = choose(few, 10_000, (SIDE, SIDE))
    assert len(everything.samples) == len(few)
    assert everything.radius == 0


def test_a_large_data_set_is_sampled_before_it_is_read(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "POOL", 48)
    chosen = choose(samples, 12, (SIDE, SIDE))
    assert chosen.considered == 48
    assert strata(chosen.samples) == {(view, light): 2 for view in "01" for light in "012"}


def test_identical_images_do_not_stop_the_choice(tmp_path: Path) -> None:
    for number in range(9):
        write_png(tmp_path / f"{number}.png", grey(50)[0])
    same = [Sample(tmp_path / f"{number}.png", str(number)) for number in range(9)]
    assert len({sample.image for sample in choose(same, 6, (SIDE, SIDE)).samples}) == 6


def test_validation_images_are_taken_only_where_training_has_too_few(samples: list[Sample]) -> None:
    dataset = Dataset("sim", "x", tuple(samples[:20]), tuple(samples[20:30]), tuple(samples[30:]))
    assert candidates(dataset, 20) == dataset.train
    assert candidates(dataset, 21) == dataset.train + dataset.validation


def test_batches_are_what_the_network_sees(samples: list[Sample]) -> None:
    found = list(batches(samples[:3], (16, 24)))
    assert [(batch.shape, str(batch.dtype)) for batch in found] == [((1, 16, 24, 3), "uint8")] * 3


# The list


class Home(NamedTuple):
    """A data set of eight training images, and its list."""

    root: Path
    dataset: Dataset
    path: Path
    chosen: Chosen

    def read(self) -> Listed:
        return read_list(self.path, self.dataset, self.root)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    root = tmp_path / "data"
    for number in range(9):
        write_png(root / "tile" / "train" / "good" / f"{number} a.png", grey(30 * number)[0])
    write_png(root / "tile" / "test" / "good" / "100.png", grey(211)[0])
    write_png(root / "tile" / "test" / "scratch" / "200.png", grey(222)[0])
    dataset = open_dataset("mvtec", root, "tile", validation=0.1)
    chosen = choose(candidates(dataset, 6), 6, (SIDE, SIDE), held_out=dataset.test)
    path = list_path(tmp_path / "calibration_data", "tile")
    write_list(path, chosen, dataset, root)
    return Home(root, dataset, path, chosen)


def test_a_list_is_read_back_as_it_was_written(home: Home) -> None:
    listed = home.read()
    assert listed.samples == home.chosen.samples
    assert [home.root / name for name in listed.paths] == [sample.image for sample in home.chosen.samples]
    assert (listed.dataset, listed.category, listed.seed, listed.method) == ("mvtec", "tile", 0, home.chosen.method)
    assert listed.sha256 == hashlib.sha256(home.path.read_bytes()).hexdigest()
    assert listed.counts() == {"views": {"0": 6}, "illuminations": {"0": 6}}


def test_a_list_names_no_path_of_this_machine_and_is_the_same_wherever_the_data_lies(
    home: Home, tmp_path: Path
) -> None:
    text = home.path.read_text()
    assert str(tmp_path) not in text
    moved = Path(shutil.copytree(home.root, tmp_path / "elsewhere" / "data"))
    dataset = open_dataset("mvtec", moved, "tile", validation=0.1)
    assert read_list(home.path, dataset, moved).paths == home.read().paths
    again = home.path.with_name("again.txt")
    write_list(again, choose(candidates(dataset, 6), 6, (SIDE, SIDE)), dataset, moved)
    assert again.read_text() == text


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_checks_the_list_too(home: Home) -> None:
    done = subprocess.run(["sha256sum", "--strict", "-c", home.path], cwd=home.root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == 6


def test_a_list_of_windows_line_ends_is_read(home: Home) -> None:
    paths = home.read().paths
    home.path.write_bytes(home.path.read_bytes().replace(b"\n", b"\r\n"))
    assert home.read().paths == paths


def edit(pattern: str, to: str) -> Callable[[Home], object]:
    def change(home: Home) -> None:
        text, count = re.subn(pattern, lambda _: to, home.path.read_text(), count=1, flags=re.MULTILINE)
        assert count == 1
        home.path.write_text(text)

    return change


def repeat(home: Home) -> None:
    lines = home.path.read_text().splitlines()
    home.path.write_text("\n".join([*lines, lines[-1]]))


def instead(name: str) -> Callable[[Home], object]:
    """Put another image of the data set in place of the last one, with its true sha256."""

    def change(home: Home) -> None:
        sha = hashlib.sha256((home.root / name).read_bytes()).hexdigest()
        home.path.write_text("\n".join([*home.path.read_text().splitlines()[:-1], f"{sha}  {name}"]))

    return change


def folder(home: Home) -> None:
    home.path.unlink()
    home.path.mkdir()


def unlisted(home: Home) -> None:
    write_png(home.root / "tile" / "train" / "good" / "new.png", grey(7)[0])
    instead("tile/train/good/new.png")(home)


BAD_LISTS: dict[str, tuple[Callable[[Home], object], str]] = {
    "no list": (lambda home: home.path.unlink(), "no calibration list here"),
    "a folder": (folder, "no calibration list here"),
    "empty file": (lambda home: home.path.write_text(""), "the list is empty"),
    "other text": (lambda home: home.path.write_text("hello\n"), "line 1: expected '# edgead calibration list"),
    "another format": (edit("format 1", "format 2"), "line 1: expected '# edgead calibration list, format 1'"),
    "bytes": (lambda home: home.path.write_bytes(b"# \xff\xfe"), "not UTF-8"),
    "header only": (edit(r"(?s)^[0-9a-f]{64}.*", ""), "lists no image"),
    "cut": (lambda home: home.path.write_text(home.path.read_text()[:-90]), "no line of a list|lists . images"),
    "one line less": (edit(r"^[0-9a-f]{64}.*\n", ""), "lists 5 images, its header says 6"),
    "one image": (edit(r"(?s)# count: 6\n.*", f"# count: 1\n{'0' * 64}  a.png\n"), "one single calibration image"),
    "no seed": (edit("^# seed.*\n", ""), "the line '# seed: ...' is missing"),
    "seed in words": (edit("^# seed: .*$", "# seed: one"), "seed 'one' is no whole number"),
    "another category": (edit("^# category: tile", "# category: bottle"), "is for category 'bottle', not 'tile'"),
    "another data set": (edit("^# dataset: mvtec", "# dataset: visa"), "is for dataset 'visa', not 'mvtec'"),
    "malformed": (edit(r"^[0-9a-f]{64}  ", "zzz "), "no line of a list"),
    "no path": (edit(r"  tile/.*$", ""), "no line of a list"),
    "leaves the root": (edit(r"  tile/", "  tile/../../tile/"), "leaves the data set's root"),
    "absolute": (edit(r"  tile/", "  /tile/"), "leaves the data set's root"),
    "drive": (edit(r"  tile/", "  C:/tile/"), "leaves the data set's root"),
    "twice": (repeat, "stands in line .* already"),
    "missing image": (lambda home: home.chosen.samples[2].image.unlink(), "is missing"),
    "changed image": (lambda home: write_png(home.chosen.samples[2].image, grey(99)[0]), "has changed since"),
    "unknown image": (unlisted, "is no image of this data set"),
    "test image": (instead("tile/test/good/100.png"), "100.png is a test image"),
    "defect": (instead("tile/test/scratch/200.png"), "200.png shows the defect 'scratch'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LISTS)
def test_bad_lists_are_refused_in_one_line_with_the_command(home: Home, case: str) -> None:
    change, expected = BAD_LISTS[case]
    change(home)
    with pytest.raises(DataError, match=expected) as caught:
        home.read()
    assert "\n" not in str(caught.value)
    assert "edgead quantize RUN --choose-again" in str(caught.value)


def test_a_list_that_cannot_be_written_whole_is_not_written(home: Home, tmp_path: Path) -> None:
    before = home.path.read_bytes()
    home.chosen.samples[3].image.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        write_list(home.path, home.chosen, home.dataset, home.root)
    assert home.path.read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeadError, match="cannot be "):
        write_list(tmp_path / "file" / "tile" / "calibration.txt", home.chosen, home.dataset, home.root)
    with pytest.raises(DataError, match="lies outside the data set's root"):
        write_list(home.path, home.chosen, home.dataset, home.root / "tile" / "test")


@pytest.mark.parametrize("category", ["", "..", "a/b", "a\\b", "c:", "a\nb"])
def test_a_category_that_is_no_folder_name_is_refused(category: str) -> None:
    with pytest.raises(DataError, match="cannot name a folder"):
        list_path(Path("calibration_data"), category)


# Bad input to the choice and the ranges


def test_bad_input_to_the_choice_is_refused(home: Home, tmp_path: Path) -> None:
    size, train = (SIDE, SIDE), list(home.dataset.train)
    defect = next(sample for sample in home.dataset.test if not sample.is_good)
    tested = next(sample for sample in home.dataset.test if sample.is_good)
    views = [Sample(sample.image, sample.part, view=str(n)) for n, sample in enumerate(train)]
    (tmp_path / "text.png").write_text("no image")
    broken = Sample(tmp_path / "text.png", "x")
    cases: list[tuple[list[Sample], int, type[EdgeadError], str]] = [
        ([], 6, DataError, "no calibration images to choose from"),
        (train[:1], 6, DataError, "one single calibration image to choose from"),
        (train, 1, DataError, "one single calibration image asked for"),
        (train, 0, DataError, "no calibration images asked for"),
        (train, -3, DataError, "no calibration images asked for"),
        (views, 4, ConfigError, f"4 calibration images cannot cover {len(views)} combinations"),
        ([*train, defect], 6, DataError, r"200.png: shows the defect 'scratch'"),
        ([*train, tested], 6, DataError, r"100.png: a test image"),
        ([*train, broken], 60, DataError, "text.png"),
    ]
    for samples, count, error, expected in cases:
        with pytest.raises(error, match=expected) as caught:
            choose(samples, count, size, held_out=home.dataset.test)
        assert "\n" not in str(caught.value)


def other_model(path: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(small_model(path))
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def set_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    del model.graph.node[0]
    model.graph.node.insert(0, helper.make_node("Identity", ["image"], ["pixels"]))


def half(model: onnx.ModelProto) -> None:
    model.graph.node.insert(1, helper.make_node("Cast", ["pixels"], ["halved"], to=TensorProto.FLOAT16))


def open_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"


def foreign(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Gelu", ["scaled"], ["bent"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path, "cannot be read"),
    "a folder": (lambda path: path.mkdir(), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text": (lambda path: path.write_text("no model"), "no ONNX file"),
    "truncated": (lambda path: path.write_bytes(small_model(path).read_bytes()[:-40]), "ONNX"),
    "float input": (lambda path: other_model(path, set_input), "not an inspection model"),
    "open size": (lambda path: other_model(path, open_size), r"image is \[0, 0, 32, 3\]"),
    "foreign operator": (lambda path: other_model(path, foreign), "the type of 'bent' .Gelu. cannot be told"),
    "half precision": (lambda path: other_model(path, half), "not an fp32 model"),
    "infinite weight": (lambda path: small_model(path, gain=float("inf")), "NaN or infinity"),
    "NaN weight": (lambda path: small_model(path, gain=float("nan")), "NaN or infinity"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models_are_refused_in_one_line_with_the_command(tmp_path: Path, case: str) -> None:
    make, expected = BAD_MODELS[case]
    make(tmp_path / "m.onnx")
    with pytest.raises(ArtefactError, match=expected) as caught:
        collect(tmp_path / "m.onnx", [grey(1, 2)], ["scaled"])
    assert "\n" not in str(caught.value)
    assert "edgead export" in str(caught.value)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([], "no calibration images"),
        ([grey(1)], "one single calibration image"),
        ([grey(1, 2).astype(np.float32)], "images are float32"),
        ([grey(1, 2, side=16)], "resize them"),
        ([grey(1, 2)[..., 0]], "shape"),
    ],
)
def test_bad_images_are_refused(tmp_path: Path, images: list[npt.NDArray[Any]], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        collect(small_model(tmp_path / "m.onnx"), images, ["scaled"])


@pytest.mark.parametrize(
    ("method", "percentile", "expected"),
    [
        ("kl", 99.99, "no calibration method 'kl'"),
        ("entrophy", 99.99, "did you mean 'entropy'"),
        ("percentile", 0.9999, "percentile of 0.9999 is wrong"),
        ("percentile", 100.1, "percentile of 100.1 is wrong"),
        ("percentile", float("nan"), "percentile of nan is wrong"),
    ],
)
def test_bad_methods_are_refused(tmp_path: Path, method: str, percentile: float, expected: str) -> None:
    ranges = collect(small_model(tmp_path / "m.onnx"), [grey(1, 2)], [])
    for ask in (ranges.amax, ranges.spread):
        with pytest.raises(ConfigError, match=expected):
            ask(method, percentile=percentile)


# The card


def test_the_card_names_the_images_that_stretch_the_ranges(home: Home, tmp_path: Path) -> None:
    listed = home.read()
    tensors = ["pixels", "scaled", "rectified", "nothing"]
    ranges = collect(small_model(tmp_path / "m.onnx"), batches(listed.samples, (SIDE, SIDE)), tensors)
    found: Any = card(ranges, listed, "max")
    levels = [int(Path(name).stem.split()[0]) * 30 for name in listed.paths]
    brightest = listed.paths[int(np.argmax(levels))]
    assert found["images"] == {
        "count": 6, "list_sha256": listed.sha256, "dataset": "mvtec", "category": "tile", "choice": listed.method,
        "seed": 0, "views": {"0": 6}, "illuminations": {"0": 6},
    }  # fmt: skip
    assert found["method"] == {"name": "max"}
    assert found["model_sha256"] == ranges.model_sha256
    assert {"edgead", "numpy", "onnx", "onnxruntime"} == set(found["tools"])
    assert found["tensors"] == {
        "count": 4, "zero": ["nothing"], "seen": 10, "largest": {"name": "scaled", "peak": 2 * max(levels)},
    }  # fmt: skip
    assert found["stretching"] == [{"image": brightest, "tensors": 3}]
    scaled = found["ranges"]["scaled"]
    assert (scaled["amax"], scaled["peak"], scaled["image"]) == (2 * max(levels), 2 * max(levels), brightest)
    assert scaled["stretch"] == pytest.approx(max(levels) / np.median(levels), rel=1e-3)
    assert scaled["spread"] > 0
    assert found["ranges"]["nothing"]["stretch"] is None
    assert found["ranges"]["nothing"]["image"] is None, "all images share its largest value"
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert card(ranges, listed, "percentile", percentile=99.5)["method"] == {"name": "percentile", "percentile": 99.5}
    assert card(ranges, listed, "max") == found


def test_the_card_of_a_whole_network_is_compact(
    lite: tuple[Path, list[str], dict[str, Any], Ranges], tmp_path: Path
) -> None:
    _, tensors, _, ranges = lite
    names = tuple(f"magnetic_core/train/good/P{number:04}_V1_L2.png" for number in range(8))
    samples = tuple(Sample(tmp_path / name, name) for name in names)
    listed = Listed(samples, names, "0" * 64, "sim", "magnetic_core", "m", 0)
    for method in ("percentile", "mse"):
        text = json.dumps(card(ranges, listed, method), allow_nan=False)
        assert len(text) < 40_000, "of 74 tensors"
        assert len(json.loads(text)["ranges"]) == len(tensors)


def test_the_card_refuses_a_list_of_other_images(home: Home, tmp_path: Path) -> None:
    ranges = collect(small_model(tmp_path / "m.onnx"), [grey(1, 2)], ["scaled"])
    with pytest.raises(DataError, match="ranges of 2 images cannot be described by a list of 6"):
        card(ranges, home.read(), "max")
