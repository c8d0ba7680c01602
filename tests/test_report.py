"""The report shows what was measured, names what was not, and lets no name become markup."""

from __future__ import annotations

import base64
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_runners import tiny

from benchmarks import results
from benchmarks.parity import binomial_upper
from benchmarks.report import SPEED_NAME, _gather, write_report
from benchmarks.report.charts import ticks
from benchmarks.report.gallery import choose
from benchmarks.report.markup import Markup, tag
from benchmarks.report.sections import _roc_points
from benchmarks.report.station import read_log
from edgead.bundle import Bundle, BundleInfo
from edgead.cfrg import checkpoint
from edgead.datasets.sample import Sample
from edgead.errors import ArtefactError, DataError
from edgead.evaluate import evaluate
from edgead.images import write_png
from edgead.metrics import auroc, bootstrap_auroc
from edgead.runtime.open import open_runner
from edgead.thresholds import Threshold

HW = (32, 48)
HOSTILE = "<script>alert('x')</script>\"&amp;\udcff"
PART = '"><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """Reads a page as a browser would; refuses tags that are closed out of turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("img", "meta"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def sample(folder: Path, number: int, brightness: int, defect: str, part: str, light: str = "1") -> Sample:
    """Write a dark image; a defective one has a bright square, and a mask of it."""
    image = np.full((64, 96, 3), 20 + number, np.uint8)
    mask = np.zeros((64, 96), np.uint8)
    mask[16:32, 32:64] = 255
    image[mask > 0] = brightness
    write_png(folder / f"{number}.png", image)
    if defect == "good":
        return Sample(folder / f"{number}.png", part=part, illumination=light)
    write_png(folder / f"{number}_mask.png", mask)
    return Sample(folder / f"{number}.png", part, defect, folder / f"{number}_mask.png", illumination=light)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Six Good parts, one of them bright; six with dents, one of them dark; one under a hostile name."""
    folder = tmp_path_factory.mktemp("images")
    good = [sample(folder, n, 40 + n if n else 140, "good", f"G{n}", "12"[n % 2]) for n in range(6)]
    bad = [sample(folder, n, 30 * n if n > 6 else 44, "dent", f"B{n}", "12"[n % 2]) for n in range(6, 9)]
    bad += [sample(folder, 9, 120, HOSTILE, PART)]
    return good + bad


def make(folder: Path, *, category: str = "tile") -> Bundle:
    bundle = Bundle.create(folder, BundleInfo(network="cfrg-lite0", category=category, size_hw=HW))
    bundle.add(
        "fp32",
        lambda path: tiny(path, hw=HW) and None,
        kind="onnx",
        precision="fp32",
        made_from=None,
        tools={},
    )
    return bundle


def threshold(ng: float = 100.0, unsure: float = 60.0, unit: str = "image", **changes: float) -> Threshold:
    values = {"false_reject_ppm": 2000.0, "confidence": 0.95, "n_good": 40, "guaranteed_ppm": 72000.0}
    fields = {"unsure": unsure, "ng": ng, "unit": unit, **values, "needed_good": 1497, "source": "held out"}
    return Threshold.from_dict({**fields, **changes})


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_it_holds_the_figures_of_evaluate(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = make(tmp_path / "run")
    bundle.set_threshold("fp32", threshold())
    with open_runner(bundle, "fp32", threads=1) as runner:
        known = evaluate(runner, samples)
    path = write_report(bundle, samples=samples, threads=1, seed=3)
    assert path == tmp_path / "run" / "report.html"
    text = read(path).text
    accuracy = known.accuracy
    for name in (
        "image_AUROC",
        "part_AUROC",
        "image_F1Max",
        "pixel_AUROC",
        "pixel_AP",
        "pixel_AUPRO",
        "pixel_AUPRO_005",
    ):
        assert re.search(rf"\b{name} [^.]*?[^.\d]{getattr(accuracy, name):.4f}\b", text), name
    assert 0 < accuracy.image_AUROC < 1
    labels = [not each.is_good for each in samples]
    low, high = bootstrap_auroc(known.scores, labels, [each.part for each in samples], seed=3)
    assert f"image AUROC {accuracy.image_AUROC:.3f}, 95 % interval {low:.3f} to {high:.3f}" in text
    # 140, and 210, 240 and 120 lie above the limit of 100
    assert "it finds 3 of 4 defective images and rejects 1 of 6 Good images" in text
    assert f"below {100 * binomial_upper(1, 6):.3g} % at 95 %" in text
    assert "at most 7.2 % of Good images will be rejected" in text
    assert "takes 1,457 more Good images" in text
    assert f"dent 3 {accuracy.image_AUROC_by_defect['dent']:.3f} 3 1 · 2" in text


def test_an_evaluation_that_is_known_is_not_measured_again(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = make(tmp_path / "run")
    with open_runner(bundle, "fp32", threads=1) as runner:
        known = evaluate(runner, samples)
    measured = read(write_report(bundle, samples=samples, threads=1)).text
    given = read(write_report(bundle, tmp_path / "other.html", samples=samples, evaluation=known, threads=1)).text
    assert given.partition("Report made")[0] == measured.partition("Report made")[0]
    with pytest.raises(DataError, match="10 samples for 9"):
        write_report(bundle, samples=samples[1:], evaluation=known, threads=1)


def test_it_stands_alone(tmp_path: Path, samples: list[Sample]) -> None:
    page = read(write_report(make(tmp_path / "run"), samples=samples, threads=1))
    assert not {"script", "link", "iframe", "object", "style src"} & set(page.tags)
    pointing = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert pointing
    assert all(value.startswith("data:image/jpeg;base64,") for value in pointing)
    assert "url(" not in (tmp_path / "run" / "report.html").read_text()


def test_names_never_become_markup(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = make(tmp_path / "<b>run & co", category=HOSTILE.replace("\udcff", ""))
    bundle.set_threshold("fp32", threshold())
    station = bundle.path / "station" / "verdicts.ndjson"
    station.parent.mkdir()
    station.write_text(line(0, station=PART, worst="<i>/'"))
    (bundle.path / "training").mkdir()
    (bundle.path / "training" / "metrics.jsonl").write_text('{"epoch": 0, "<u>_loss": 1.5}\n')
    page = read(write_report(bundle, samples=samples, threads=1))
    assert not {"script", "b", "i", "u"} & set(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "<script>alert('x')</script>\"&amp;\N{REPLACEMENT CHARACTER}" in page.text
    assert PART in page.text
    assert "NG parts by worst frame <i>/': 1" in page.text


def test_what_is_missing_is_said_with_the_command(tmp_path: Path, samples: list[Sample]) -> None:
    folder = tmp_path / "my run"
    text = read(write_report(make(folder), samples=samples, threads=1)).text
    for what, verb in (
        ("There is no threshold, so images have no verdict", "threshold"),
        ("Parity has not been measured", "parity"),
        ("Speed has not been measured", "bench"),
    ):
        assert f"{what}: run edgead {verb} '{folder}' ." in text
    assert "No station has run with this bundle: run edgead stream station.yaml ." in text
    assert "There is no record of a training" in text
    assert "not recorded in the bundle" in text
    assert "the bundle holds no checkpoint" in text
    assert "no threshold has been set, so nothing is judged yet" in text
    assert " NG " not in text.partition("What it sees")[2].partition("Accuracy")[0].replace("the NG limit", "")


def test_good_images_alone_define_no_auroc(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = make(tmp_path / "run")
    bundle.set_threshold("fp32", threshold())
    text = read(write_report(bundle, samples=[each for each in samples if each.is_good], threads=1)).text
    assert "Image AUROC not defined" in text
    assert "No ROC curve: it needs Good and defective test images." in text
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_parts_are_judged_by_their_largest_score(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = make(tmp_path / "run")
    bundle.set_threshold("fp32", threshold(unit="part"))
    # The dark dent (44) and a bright one (210) are one part now, found by the bright one.
    together = [each if each.part != "B7" else Sample(each.image, "B6", each.defect, each.mask) for each in samples]
    text = read(write_report(bundle, samples=together, threads=1)).text
    assert "it finds 3 of 3 defective parts and rejects 1 of 6 Good parts" in text
    assert "No defective part is judged OK" in text


def test_measured_speed_parity_training_and_station_are_shown(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = make(tmp_path / "run")
    bundle.set_threshold("fp32", threshold())
    gate = {"name": "map_abs", "value": 3.25e-6, "limit": 1e-4, "passed": True}
    failed = {"name": "flips", "value": 2.0, "limit": 0.0, "passed": False}
    parity = {"reference": "torch", "candidate": "ort", "images": 9, "map_abs": 3.25e-6, "flips": 2}
    bundle.set_parity("fp32", "onnxruntime", {**parity, "flips_at_most": 0.5, "gates": [gate, failed], "passed": False})
    row = {"runner": "fp32", "backend": "onnxruntime-cpu", "batch": 1, "threads": 2, "fps": 123.4}
    row |= {"mean_ms": 8.1, "p50_ms": 8.0, "p95_ms": 9.25, "p99_ms": 10.5}
    sha256 = {"fp32": bundle.artefacts["fp32"].sha256}
    results.save(bundle.path / SPEED_NAME, command="edgead bench", conditions={"sha256": sha256}, rows=[row])
    (bundle.path / "training").mkdir()
    history = [{"epoch": n, "student_loss": 1 / (n + 1), "seconds": 30} for n in range(4)]
    metrics = bundle.path / "training" / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(each) + "\n" for each in history) + '{"epoch": 4, "stud')
    log = bundle.path / "station" / "verdicts.ndjson"
    log.parent.mkdir()
    log.write_text("".join([line(0), line(1, verdict="OK")]))
    text = read(write_report(bundle, samples=samples, threads=1)).text
    assert "Images a second 123 p50 8.0 ms, p99 10.5 ms, batch 1, 2 threads" in text
    assert "8.10 ms 8.00 ms 9.25 ms 10.50 ms 123.4" in text
    assert "map_abs 3.25e-06 < 0.0001 passed flips 2 = 0 failed" in text
    assert "Parity with training failed 2 verdicts changed" in text
    assert "It does not agree with the network that was trained." in text
    assert "4 epochs, 2.0 minutes" in text
    assert "2 triggers = 1 OK + 1 NG every trigger ended as exactly one outcome" in text
    assert "older model" not in text

    untold = {"name": "image_AUROC_drop", "value": None, "limit": 0.005, "passed": False, "status": "not measured"}
    bundle.set_parity("fp32", "openvino", {**parity, "flips": None, "gates": [untold], "passed": False})
    bundle.set_parity("fp32", "openvino-bf16", {"passed": False, "error": "the model answers with NaN"})
    text = read(write_report(bundle, samples=samples, threads=1)).text
    assert "image_AUROC_drop \N{EN DASH} < 0.005 not measured" in text
    assert "On openvino-bf16: the model answers with NaN." in text

    results.save(bundle.path / SPEED_NAME, command="c", conditions={"sha256": {"fp32": "0" * 64}}, rows=[row])
    assert "These figures are of an older model" in read(write_report(bundle, samples=samples, threads=1)).text


def line(trigger: int, *, run: str = "a1", verdict: str = "NG", **changes: object) -> str:
    fields = {"schema": "edgead.verdict/1", "event_id": f"{run}-{trigger}", "trigger": trigger, "verdict": verdict}
    fields |= {"station": "s", "worst": "top/ring", "frames": 4, "latency_ms": 5.0 + trigger, "ng": 1.0}
    return json.dumps({**fields, "artefact": "fp32", **changes}) + "\n"


def test_the_log_of_a_station_is_held_to_its_law(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.ndjson"
    path.write_text(line(0, run="old") + "".join(line(n) for n in range(4)) + line(4, verdict="MISSED")[:-30])
    log = read_log(path)
    assert log is not None
    assert (log.runs, log.triggers, log.frames, log.unreadable, log.is_conserved) == (2, 4, 16, 1, True)
    assert log.latency_ms[0] == pytest.approx(6.5)
    path.write_text("".join(line(n) for n in (0, 1, 3)))
    assert not read_log(path).is_conserved  # trigger 2 is lost
    path.write_text("".join(line(n) for n in (0, 1, 1)))
    assert not read_log(path).is_conserved  # 2 verdicts on trigger 1
    path.write_text("rubbish\n[]\n{}\n")
    assert read_log(path) is None


def test_the_gallery_shows_misses_and_alarms_first(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = make(tmp_path / "run")
    bundle.set_threshold("fp32", threshold())
    with open_runner(bundle, "fp32", threads=1) as runner:
        groups = {
            group.title: group.chosen
            for group in choose(_gather(bundle, "fp32", runner, samples, evaluate(runner, samples), 0))
        }
    assert groups["Clearest finds"] == (8, 7)  # 240, 210
    assert groups["Worst misses"] == (6,)  # 44
    assert groups["Worst false alarms"] == (0,)  # 140
    assert set(groups["Every defect type"]) == {9, 7}  # by name: hostile, then dent, whose median is shown already
    assert groups["A usual Good image"] == (3,)


def test_pictures_show_the_mask_and_the_map(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = make(tmp_path / "run")
    bundle.set_threshold("fp32", threshold())
    page = read(write_report(bundle, samples=samples[-2:-1] + samples[:1], threads=1))
    sources = [value for name, value in page.attributes if name == "src"][1:4]  # after the colour scale
    plain, labelled, drawn = (
        cv2.imdecode(np.frombuffer(base64.b64decode(source.split(",")[1]), np.uint8), cv2.IMREAD_COLOR).astype(int)
        for source in sources
    )
    assert plain.shape == (267, 400, 3)  # the aspect of the image
    inside, outside = plain[100, 200], plain[10, 10]
    assert inside.min() > 200
    assert outside.max() < 60
    assert (np.abs(labelled - plain).max(axis=2) > 80).sum() > 100  # an outline
    assert np.abs(labelled - plain)[10, 10].max() < 10
    blue, _, red = drawn[100, 200]
    assert red - blue > 60
    assert np.abs(drawn - plain)[10, 10].max() < 12  # transparent where nothing is wrong


def test_a_changed_artefact_leaves_no_report(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = make(tmp_path / "run")
    path = bundle.path / "model.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArtefactError, match="bytes have changed"):
        write_report(bundle, samples=samples, threads=1)
    assert not (bundle.path / "report.html").exists()


def test_a_training_record_that_is_damaged_is_refused(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = make(tmp_path / "run")
    (bundle.path / "training").mkdir()
    (bundle.path / "training" / "metrics.jsonl").write_text('{"epoch"\n{"epoch": 1}\n')
    with pytest.raises(DataError, match="line 1 is no JSON"):
        write_report(bundle, samples=samples, threads=1)


def test_a_trained_bundle_tells_its_provenance(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = make(tmp_path / "run")
    written = {"format": 1, "provenance": {"seed": 7, "epochs": "<30>"}}
    bundle.add(
        "checkpoint",
        lambda path: checkpoint.write(written, path),
        kind="checkpoint",
        precision="fp32",
        made_from=None,
        tools={},
    )
    text = read(write_report(bundle, samples=samples, threads=1)).text
    assert "Training seed 7 · epochs <30>" in text
    for record in bundle.artefacts.values():
        assert record.sha256[:16] in text


def test_tags_escape_all_but_markup() -> None:
    made = tag("p", "1 < 2", Markup("<b>3</b>"), None, 0.123456789, class_='a"b', stroke_width=2, left_out=None)
    assert made == '<p class="a&quot;b" stroke-width="2">1 &lt; 2<b>3</b>0.123457</p>'
    assert tag("td", html.escape("<")) == "<td>&amp;lt;</td>"
    assert tag("td", "\x00\ud800") == "<td>\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}</td>"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 3), (0.9371, 0.9389), (0, 12345), (-1e-6, 2e-6), (5, 1e9)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    slack = 1e-6 * (high - low)
    assert all(low - slack <= tick <= high + slack for tick in found)
    steps = np.diff(found)
    assert np.allclose(steps, steps[0], rtol=1e-3)


def test_ticks_of_counts_are_whole() -> None:
    assert ticks(0, 1.18, whole=True) == [0, 1]
    assert ticks(1, 3, whole=True) == [1, 2, 3]
    assert ticks(0, 15, whole=True) == [0, 5, 10, 15]


def test_the_roc_curve_keeps_its_corners_and_its_area() -> None:
    random = np.random.default_rng(0)
    good, bad = (np.round(random.normal(mean, 1, 500), 1).tolist() for mean in (0, 1))
    points = np.array(_roc_points(good, bad))
    area = float(np.sum(np.diff(points[:, 0]) * (points[1:, 1] + points[:-1, 1]) / 2))
    assert area == pytest.approx(auroc([*good, *bad], [False] * 500 + [True] * 500), abs=1e-12)
    assert _roc_points([1, 2, 3], [4, 5]) == [(0, 0), (0, 1), (1, 1)]
    assert _roc_points([1, 1], [1]) == [(0, 0), (1, 1)]


def test_parts_are_judged_by_the_fusion_of_a_station(tmp_path: Path, samples: list[Sample]) -> None:
    """Good parts have two images, the first part a bright one; one defective part is dark."""
    paired = [
        Sample(s.image, f"G{n // 2}" if s.is_good else s.part, s.defect, s.mask, illumination="12"[n % 2])
        for n, s in enumerate(samples)
    ]
    bundle = make(tmp_path / "bundle")
    bundle.set_threshold("fp32", threshold(unit="part"))
    page = Page(write_report(bundle, samples=paired).read_text(encoding="utf-8")).text
    with open_runner(bundle, "fp32") as runner:
        found = evaluate(runner, paired)
    best: dict[str, float] = {}
    for one, score in zip(paired, found.scores, strict=True):
        best[one.part] = max(best.get(one.part, 0), score)
    escapes = sum(score <= 60 for part, score in best.items() if part[0] != "G")
    alarms = sum(score > 100 for part, score in best.items() if part[0] == "G")
    bad = len(best) - 3
    assert (escapes, alarms, bad) == (1, 1, 4)
    assert f"defective, but OK Good, but NG max {len(best)} {found.accuracy.part_AUROC:.3f}" in page
    assert f"{escapes} of {bad} {alarms} of 3" in page
    bundle.set_threshold("fp32", threshold())
    single = Page(write_report(bundle, samples=samples).read_text(encoding="utf-8")).text
    assert "defective, but OK" not in single
