"""The images nearest to flipping, side by side as torch and as the artefact see them."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from benchmarks.parity.certificate import Certificate
from benchmarks.parity.certifying import Certified
from benchmarks.parity.comparison import Near
from benchmarks.report.markup import Markup, join, tag
from benchmarks.report.picture import colour_bar, data_uri
from edgead.images import AnomalyMap, Image, outline, overlay, resize

_SIDE = 320  # pixels of a picture's longer side
_WHITE = (255, 255, 255)


def cards(certified: Certified) -> tuple[Markup, Markup]:
    """Draw the images that a comparison kept, all on one colour scale: the scale, and a card an image."""
    at = certified.certificate.threshold
    low, high = _colour_scale(certified.near, [] if at is None else [at.unsure, at.ng])
    drawn = [_card(near, certified.certificate, low, high) for near in certified.near]
    return colour_bar(low, high), tag("div", *drawn, class_="cards")


def _card(near: Near, found: Certificate, low: float, high: float) -> Markup:
    sample, at = near.shown.sample, found.threshold
    verdicts = (
        [] if at is None else [_verdict(at.unsure, at.ng, s) for s in (near.reference_score, near.candidate_score)]
    )
    marks = [tag("span", verdict, class_=f"verdict {verdict.lower()}") for verdict in dict.fromkeys(verdicts)]
    limit = None if at is None else at.ng
    panes = [
        tag("figure", tag("img", src=source, alt=alt, loading="lazy"), tag("small", alt))
        for alt, source in _pictures(near, low, high, limit)
    ]
    difference = near.candidate_score - near.reference_score
    scores = f"{near.reference_score:.6g} → {near.candidate_score:.6g} ({difference:+.1e})"
    room = f"room {near.room:.3g}" if at is not None else ""
    name = found.scores.image[near.place] if found.scores is not None else sample.image.name
    return tag(
        "div",
        tag("div", *panes, class_="panes"),
        tag(
            "p",
            tag("strong", "Good" if sample.is_good else sample.defect),
            join(marks, " → "),
            tag("span", scores, class_="score"),
            class_="line",
        ),
        tag("p", " · ".join(part for part in (name, room) if part), class_="facts"),
        class_="card",
    )


def _pictures(near: Near, low: float, high: float, limit: float | None) -> Iterator[tuple[str, str]]:
    height, width = near.shown.image.shape[:2]
    scale = _SIDE / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small = resize(near.shown.image, size)
    yield "image", data_uri(small)
    yield "torch", data_uri(_drawn(small, near.reference_map, low, high, limit))
    yield "artefact", data_uri(_drawn(small, near.candidate_map, low, high, limit))


def _drawn(image: Image, anomaly_map: AnomalyMap, low: float, high: float, limit: float | None) -> Image:
    drawn = overlay(image, anomaly_map, low=low, high=high)
    if limit is None:
        return drawn
    values = np.asarray(cv2.resize(anomaly_map, image.shape[1::-1], interpolation=cv2.INTER_LINEAR))
    return outline(drawn, values > limit, _WHITE)


def _colour_scale(near: tuple[Near, ...], limits: list[float]) -> tuple[float, float]:
    """Return the map values drawn as transparent and as full colour, one scale for all cards."""
    values = np.concatenate([[each.reference_map.min(), each.reference_map.max()] for each in near])
    low, high = float(values.min()), float(max(values.max(), *limits, values.min() + 1e-6))
    return low + (high - low) / 4, high


def _verdict(unsure: float, ng: float, score: float) -> str:
    return "NG" if score > ng else "UNSURE" if score > unsure else "OK"
