"""The pictures of a report: which test images to show, and how each is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from benchmarks.report.charts import gauge
from benchmarks.report.findings import Findings, Unit
from benchmarks.report.markup import Markup, count, join, missing, section, tag
from benchmarks.report.picture import colour_bar, data_uri
from edgead.evaluate import Scored, score_samples
from edgead.images import outline, overlay, read_image, read_mask, resize, resize_mask
from edgead.runtime.runner import Runner
from edgead.thresholds import Threshold, Verdict

MAX_TYPES = 12

_SIDE = 400  # pixels of a picture's longer side: sharp where it is shown at half of that
_GREEN, _WHITE = (0, 255, 90), (255, 255, 255)


@dataclass(frozen=True)
class Group:
    """Pictures under one heading; ``chosen`` are indices of samples."""

    title: str
    note: str
    chosen: tuple[int, ...]


def choose(found: Findings, *, each: int = 2) -> list[Group]:
    """Choose what a customer asks for first: clear finds, misses, false alarms, then each defect type.

    A part stands for itself by the image with its largest score, which is the one that decided. Without a threshold
    there are neither misses nor alarms, only the lowest scores of defects and the highest of Good.
    """
    units = sorted(found.units, key=lambda unit: unit.score)
    bad = [unit for unit in units if not unit.is_good]
    good = [unit for unit in reversed(units) if unit.is_good]
    groups = []
    if found.threshold is None:
        groups.append(_group("Highest scores of defects", "", bad[::-1][:each]))
        groups.append(_group("Lowest scores of defects", "What a threshold would miss first.", bad[:each]))
        groups.append(_group("Highest scores of Good", "What a threshold would reject first.", good[:each]))
    else:
        ng = [unit for unit in reversed(bad) if found.threshold.verdict(unit.score) is Verdict.NG]
        note = f"{len(ng)} of {count(len(bad), f'defective {found.unit}')} judged NG, highest first."
        groups.append(_group("Clearest finds", note, ng[:each]))
        groups += [_misses(bad, found.unit, found.threshold, each), _alarms(good, found.unit, found.threshold, each)]
    shown = {index for group in groups for index in group.chosen}
    groups.append(_by_type(bad, shown))
    if good:
        note = f"The Good {found.unit} with the median score."
        groups.append(_group(f"A usual Good {found.unit}", note, [good[len(good) // 2]]))
    return [group for group in groups if group.chosen]


def gallery(found: Findings, runner: Runner) -> Markup:
    """Draw the chosen test images; raises as ``score_samples`` does."""
    groups = choose(found)
    wanted = sorted({index for group in groups for index in group.chosen})
    samples = [found.samples[index] for index in wanted]
    low, high = colour_scale(found)
    cards = {}
    for index, scored in zip(wanted, score_samples(runner, samples), strict=True):
        cards[index] = _card(found, scored, found.scores[index], low, high)
    shown = [
        tag(
            "div",
            tag("h3", group.title, tag("small", group.note)),
            tag("div", *(cards[index] for index in group.chosen), class_="cards"),
            class_="group" if len(group.chosen) > 1 else "group one",
        )
        for group in groups
    ]
    ask = (
        None
        if found.threshold
        else missing("There is no threshold, so images have no verdict", "threshold", found.path)
    )
    note = (
        "Each: the image as the camera gave it; the labelled defect outlined in green; the anomaly map over the image, "
        "with what lies above the NG limit outlined in white. All maps share one colour scale."
    )
    return section("What it sees", ask, colour_bar(low, high), tag("div", *shown, class_="groups"), note=note)


def colour_scale(found: Findings) -> tuple[float, float]:
    """Return the map values drawn as transparent and as full colour: from half the limit to the usual defect."""
    good = [score for score, sample in zip(found.scores, found.samples, strict=True) if sample.is_good]
    bad = [score for score, sample in zip(found.scores, found.samples, strict=True) if not sample.is_good]
    limit = found.threshold.ng if found.threshold else max(good or bad)
    low = limit / 2 if limit > 0 else 2 * limit
    high = max(float(np.median(bad or good)), limit + (limit - low) / 2)
    return low, high if high > low else low + 1


def _group(title: str, note: str, chosen: Sequence[Unit]) -> Group:
    return Group(title, note, tuple(unit.image for unit in chosen))


def _misses(bad: Sequence[Unit], unit: str, threshold: Threshold, each: int) -> Group:
    missed = [one for one in bad if threshold.verdict(one.score) is Verdict.OK]
    if missed:
        note = f"{len(missed)} of {count(len(bad), f'defective {unit}')} judged OK, lowest first."
        return _group("Worst misses", note, missed[:each])
    return _group(f"No defective {unit} is judged OK", "Nearest to it, the lowest scores of defects:", bad[:each])


def _alarms(good: Sequence[Unit], unit: str, threshold: Threshold, each: int) -> Group:
    alarms = [one for one in good if threshold.verdict(one.score) is Verdict.NG]
    if alarms:
        note = f"{len(alarms)} of {count(len(good), f'Good {unit}')} judged NG, highest first."
        return _group("Worst false alarms", note, alarms[:each])
    return _group(f"No Good {unit} is judged NG", "Nearest to it, the highest scores of Good:", good[:each])


def _by_type(bad: Sequence[Unit], shown: set[int]) -> Group:
    """Choose for each defect type its median, or what is nearest to the median and not shown yet."""
    names = sorted({unit.defect for unit in bad})
    typical = []
    for name in names[:MAX_TYPES]:
        own = [unit for unit in bad if unit.defect == name]
        middle = (len(own) - 1) / 2
        nearest = [own[i] for i in sorted(range(len(own)), key=lambda i: abs(i - middle))]
        typical.append(next((unit for unit in nearest if unit.image not in shown), nearest[0]))
    left_out = len(names) - MAX_TYPES
    note = "Each type's median score." + (f" {left_out} more types are left out." if left_out > 0 else "")
    return _group("Every defect type", note, typical)


def _card(found: Findings, scored: Scored, score: float, low: float, high: float) -> Markup:
    sample, threshold = scored.sample, found.threshold
    verdict = threshold.verdict(score) if threshold else None
    where = [("part", sample.part), ("view", sample.view), ("light", sample.illumination)]
    extra = ", ".join(f"{key} {value}" for key, value in sorted(sample.attributes.items()) if not _is_number(value))
    title = tag("strong", "Good" if sample.is_good else sample.defect)
    mark = tag("span", verdict.value, class_=f"verdict {verdict.value.lower()}") if verdict else None
    facts = join((join((tag("span", name), " ", value)) for name, value in where), " · ")
    panes = [
        tag("img", src=source, alt=alt, loading="lazy")
        for alt, source in _pictures(scored, low, high, threshold.ng if threshold else None)
    ]
    limit = f", limit {threshold.ng:.4g}" if threshold else ""
    lines = [tag("p", title, mark, tag("span", f"score {score:.4g}{limit}", class_="score"), class_="line")]
    if threshold:
        lines.append(gauge(score, threshold, found.span))
    lines.append(tag("p", facts, class_="facts"))
    if extra:
        lines.append(tag("p", extra, class_="facts"))
    return tag("div", tag("div", *panes, class_="panes"), *lines, class_="card")


def _pictures(scored: Scored, low: float, high: float, limit: float | None) -> Iterator[tuple[str, str]]:
    """Yield what to call each picture, and the picture."""
    sample = scored.sample
    image = read_image(sample.image)
    height, width = image.shape[:2]
    scale = _SIDE / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small = resize(image, size)
    yield f"image of {sample.part}", data_uri(small)
    labelled = small
    if not sample.is_good and sample.mask is not None:
        labelled = outline(small, resize_mask(read_mask(sample.mask, expected_hw=(height, width)), size), _GREEN)
    yield f"labelled defect of {sample.part}", data_uri(labelled)
    drawn = overlay(small, scored.anomaly_map, low=low, high=high)
    if limit is not None:
        values = np.asarray(cv2.resize(scored.anomaly_map, size[::-1], interpolation=cv2.INTER_LINEAR))
        drawn = outline(drawn, values > limit, _WHITE)
    yield f"anomaly map of {sample.part}", data_uri(drawn)


def _is_number(value: str) -> bool:
    """Tell numbers, of which a dataset can carry a dozen, from words, of which a picture is better understood."""
    try:
        float(value)
    except ValueError:
        return False
    return True
