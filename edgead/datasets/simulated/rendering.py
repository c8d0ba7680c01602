"""Render one image of one part: the Good surface, its flaw if it has one, the light, the camera."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from edgead.datasets.sample import GOOD
from edgead.datasets.simulated.deposits import wear
from edgead.datasets.simulated.light import Exposure, Ground, digitise, expose
from edgead.datasets.simulated.objects import OBJECTS, object_spec
from edgead.datasets.simulated.spec import Flaw, Lot, ObjectSpec
from edgead.datasets.simulated.surface import Canvas, Field, Surface
from edgead.errors import DataError, nearest
from edgead.images import Image, Mask

VISIBLE = 6.0  # levels of 255; the sensor's noise has a deviation of 1.7
SMALLEST = 10.0  # square reference pixels; less than this nobody would mark
_LOT, _POSE, _SURFACE, _WEAR, _PLAN, _FLAW, _SHOT, _SENSOR = range(8)  # streams of random numbers


@dataclass(frozen=True, eq=False)
class Rendering:
    """One simulated image with its labels.

    Attributes:
        image: uint8 ``(size, size, 3)`` RGB.
        mask: bool ``(size, size)``, the pixels that the defect visibly changes; empty where it cannot be seen.
        attributes: defect and severity (of the part); where visible also size, contrast, x and y (of the image).
    """

    image: Image
    mask: Mask
    attributes: dict[str, str]


def render(
    object_name: str,
    *,
    seed: int,
    part: int,
    view: str,
    illumination: str,
    defect: str = GOOD,
    size: int = 256,
) -> Rendering:
    """Render one image; the same arguments give the same bytes.

    A part has the same geometry in all its views and illuminations, and with and without its defect. Where the defect
    cannot be seen (another face, a light that hides it) the mask is empty and the image is the Good part's.

    Args:
        seed: of the whole production; not negative.
        part: number of the part; not negative.
        size: pixels to the side.

    Raises:
        DataError: an unknown object, view, illumination or defect, or a number out of range.
    """
    spec = object_spec(object_name)
    _check(spec, object_name, view=view, illumination=illumination, defect=defect)
    if seed < 0 or part < 0 or not 32 <= size <= 4096:
        raise DataError(f"seed {seed}, part {part}, size {size}: expected seed and part from 0, size from 32 to 4096")
    scene = _scene(object_name, seed, part, view, defect, size)
    view_key = _view_key(object_name, seed, part, view)
    good, flawed, mask = _pictures(scene, spec, view_key, illumination)
    attributes = {"defect": defect, "severity": scene.severity}
    if mask.any():
        attributes |= _measured(good, flawed, mask)
    noise = _stream(_SENSOR, (*view_key, spec.illuminations.index(illumination)))
    return Rendering(digitise(flawed if mask.any() else good, noise), mask, attributes)


@dataclass(frozen=True, eq=False)
class _Scene:
    """One view of one part, before it is lit; ``flawed`` is None where the view has no defect."""

    lot: Lot
    ground: Ground
    good: Surface
    flawed: Surface | None
    severity: str


@lru_cache(maxsize=2)  # the lights of a view follow each other and share its scene, which is most of the work
def _scene(object_name: str, seed: int, part: int, view: str, defect: str, size: int) -> _Scene:
    spec, view_key = OBJECTS[object_name], _view_key(object_name, seed, part, view)
    key = view_key[:-1]
    lot = _lot(_stream(_LOT, key))
    canvas = _posed(spec, _stream(_POSE, view_key), size)
    good, ground = spec.build(view, canvas, lot, _stream(_SURFACE, view_key))
    wear(good, _stream(_WEAR, view_key))
    if defect == GOOD:
        return _Scene(lot, ground, good, None, "none")
    flaw, number = spec.flaws[defect], spec.defects.index(defect)
    plan = _plan(flaw, _stream(_PLAN, (*key, number)))
    if view not in plan.strengths:
        return _Scene(lot, ground, good, None, plan.severity)
    strength = plan.strengths[view]
    while True:
        flawed = good.copy()
        flaw.apply(flawed, _stream(_FLAW, (*view_key, number)), strength)
        scene = _Scene(lot, ground, good, flawed, plan.severity)
        # A defective part that shows its defect nowhere would be labelled wrongly: make it stronger until it does.
        if view != plan.home or strength >= 1 or any(_pictures(scene, spec, view_key, n)[2].any() for n in spec.lights):
            return scene
        strength = min(1.0, strength + 0.2)


def _pictures(
    scene: _Scene, spec: ObjectSpec, view_key: tuple[int, ...], illumination: str
) -> tuple[Field, Field, Mask]:
    """Return the Good part, the part as it is, both without noise, and the mask of what differs."""
    light = spec.lights[illumination]
    shot_key = (*view_key, spec.illuminations.index(illumination))
    exposure = _exposure(scene.lot, _stream(_SHOT, shot_key))
    good = expose(scene.good, scene.ground, light, exposure)
    if scene.flawed is None:
        return good, good, np.zeros(good.shape[:2], bool)
    flawed = expose(scene.flawed, scene.ground, light, exposure)
    return good, flawed, _visible(good, flawed)


def _view_key(object_name: str, seed: int, part: int, view: str) -> tuple[int, ...]:
    return seed, part, list(OBJECTS).index(object_name), OBJECTS[object_name].views.index(view)


@dataclass(frozen=True)
class _Plan:
    """How strong the defect of a part is, 0 to 1, in each view in which it lies."""

    severity: str
    home: str
    strengths: dict[str, float]


def _plan(flaw: Flaw, rng: np.random.Generator) -> _Plan:
    strength = 0.15 + 0.85 * float(rng.random())
    views = [str(view) for view in rng.permutation(flaw.views)]
    strengths = {views[0]: strength}
    if len(views) > 1 and rng.random() < flaw.shared:
        strengths[views[1]] = 0.6 * strength
    severity = "subtle" if strength < 0.35 else "moderate" if strength < 0.7 else "obvious"
    return _Plan(severity, views[0], strengths)


def _lot(rng: np.random.Generator) -> Lot:
    wide, high, tone, age = (float(value) for value in rng.normal(size=4))
    return Lot((1 + 0.006 * wide, 1 + 0.006 * high), 1 + 0.05 * tone, float(np.clip(0.5 + 0.25 * age, 0, 1)))


def _posed(spec: ObjectSpec, rng: np.random.Generator, size: int) -> Canvas:
    turn, shift = spec.pose
    angle, across, down = rng.uniform(-1, 1, 3)
    return Canvas.posed(size, float(angle * turn), (float(across * shift), float(down * shift)))


def _exposure(lot: Lot, rng: np.random.Generator) -> Exposure:
    level = float(np.exp(rng.normal(0, 0.02))) * (1.05 - 0.10 * lot.age)
    warm = 0.02 * lot.age + float(rng.normal(0, 0.004))
    gain = (level * (1 + warm), level, level * (1 - warm))
    return Exposure(gain, blur=0.55 + 0.25 * float(rng.random()), vignetting=0.22)


def _visible(good: Field, changed: Field) -> Mask:
    """Return the pixels that changed visibly, closed over gaps, without specks."""
    step = 256 / good.shape[0]
    difference = cv2.blur(cv2.absdiff(good, changed).max(axis=2), (3, 3))
    reach = 2 * round(2 / step) + 1
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    closed = cv2.morphologyEx((difference > VISIBLE).astype(np.uint8), cv2.MORPH_CLOSE, ellipse)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] * step * step >= SMALLEST
    large[0] = False
    mask: Mask = large[labels] if count > 1 else np.zeros(labels.shape, bool)
    return mask


def _measured(good: Field, changed: Field, mask: Mask) -> dict[str, str]:
    """Describe a visible defect: share of the image, levels of contrast, and middle relative to the image."""
    rows, columns = np.nonzero(mask)
    contrast = float(np.abs(changed - good).max(axis=2)[mask].mean())
    return {
        "size": f"{mask.mean():.5f}",
        "contrast": f"{contrast:.1f}",
        "x": f"{(columns.mean() + 0.5) / mask.shape[1]:.3f}",
        "y": f"{(rows.mean() + 0.5) / mask.shape[0]:.3f}",
    }


def _stream(kind: int, key: tuple[int, ...]) -> np.random.Generator:
    return np.random.default_rng((kind, *key))


def _check(spec: ObjectSpec, object_name: str, *, view: str, illumination: str, defect: str) -> None:
    choices: Iterable[tuple[str, str, tuple[str, ...]]] = (
        ("view", view, spec.views),
        ("illumination", illumination, spec.illuminations),
        ("defect", defect, (GOOD, *spec.defects)),
    )
    for kind, word, valid in choices:
        if word not in valid:
            raise DataError(f"{object_name} has no {kind} '{word}'{nearest(word, valid)}")
