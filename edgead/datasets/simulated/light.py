"""Light a surface and take its picture: Lambert and a mirror lobe, occlusion, shadow, lens and sensor."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgead.datasets.simulated.surface import Canvas, Colour, Field, Surface, noise, planes, ramp, streaks
from edgead.images import Image


@dataclass(frozen=True)
class Light:
    """One illumination of a station.

    Attributes:
        azimuth_deg: where the lamp stands, 0 right, 90 below, 180 left of the image; None for a ring about the lens.
        elevation_deg: above the table; low values graze the surface and show relief.
        key: strength of the lamp.
        ambient: strength of the light that comes from everywhere.
        colour: of the lamp.
        spread: how much wider than a point the lamp is; divides the sharpness of reflections.
    """

    azimuth_deg: float | None
    elevation_deg: float
    key: float
    ambient: float
    colour: Colour = (1.0, 1.0, 1.0)
    spread: float = 1.0


@dataclass(frozen=True)
class Exposure:
    """What the camera does to one image: gain of the three channels, blur of the lens, vignetting."""

    gain: Colour
    blur: float
    vignetting: float


@dataclass(frozen=True)
class Ground:
    """What the part lies on."""

    albedo: Field  # (3, H, W)
    height: Field


def belt(rng: np.random.Generator, canvas: Canvas, colour: Colour) -> Ground:
    """Make a woven conveyor belt with a little dust."""
    weave = np.sin(canvas.x * np.float32(1.9)) * np.sin(canvas.y * np.float32(1.9))
    relief = 0.12 * weave + 0.15 * noise(rng, canvas, 2.0)
    shade = 1 + 0.07 * noise(rng, canvas, 48, octaves=3) + 0.06 * weave
    return Ground(shade * planes(colour), relief.astype(np.float32))


def nest(rng: np.random.Generator, canvas: Canvas, colour: Colour) -> Ground:
    """Make a milled plastic nest with tool marks."""
    marks = streaks(rng, canvas, 0.4, 2.5)
    shade = 1 + 0.05 * noise(rng, canvas, 60, octaves=2) + 0.04 * marks
    return Ground(shade * planes(colour), (0.10 * marks).astype(np.float32))


def expose(surface: Surface, ground: Ground, light: Light, exposure: Exposure) -> Field:
    """Return what the sensor would see without noise: float32 ``(H, W, 3)``, 0 to 255, gamma 2."""
    cover = ramp(surface.inside, surface.canvas.step)
    radiance = _radiance(surface, ground, light, cover)
    radiance *= _field_of_light(surface.canvas, light, exposure.vignetting)
    gain = np.array(exposure.gain, np.float32) * np.array(light.colour, np.float32) * np.float32(255**2)
    radiance *= gain.reshape(3, 1, 1)
    sigma = max(exposure.blur / surface.canvas.step, 0.3)
    seen = cv2.GaussianBlur(cv2.merge(list(radiance)), (0, 0), sigma)
    return np.asarray(cv2.sqrt(np.clip(seen, 0, 255**2)), np.float32)


def digitise(exposed: Field, rng: np.random.Generator) -> Image:
    """Add shot and read noise (constant under gamma 2) and quantise to uint8 ``(H, W, 3)``."""
    grain = rng.standard_normal(exposed.shape[:2], dtype=np.float32) * np.float32(1.7)
    shifted = np.roll(grain, (17, 31), axis=(0, 1))
    coloured = cv2.merge((0.8 * grain + 0.6 * shifted, grain, 0.8 * grain - 0.6 * shifted))
    return np.asarray(cv2.add(exposed, coloured, dtype=cv2.CV_8U), np.uint8)


def _radiance(surface: Surface, ground: Ground, light: Light, cover: Field) -> Field:
    height = ground.height + cover * (surface.height - ground.height)
    albedo = ground.albedo + cover * (surface.albedo - ground.albedo)
    gloss, metal = cover * surface.gloss, cover * surface.metal
    step = surface.canvas.step
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=-0.125 / step)
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=-0.125 / step)
    nz = np.asarray(1 / np.sqrt(1 + dx * dx + dy * dy), np.float32)
    nx, ny = np.asarray(dx * nz, np.float32), np.asarray(dy * nz, np.float32)
    around = cv2.blur(height, (2 * round(4 / step) + 1,) * 2)
    open_sky = np.clip(1 + 0.16 * (height - around), 0.35, 1.1) * _shadow(cover, light, step)
    facing, lobe = _lamp(nx, ny, nz, surface.sharpness, light)
    scattered = open_sky * (light.ambient * (0.55 + 0.45 * nz) + light.key * facing)
    sky = light.ambient * (0.30 + 0.9 * np.abs(nx + 0.4 * ny) + 0.10 * nz)
    mirrored = gloss * open_sky * (light.key * lobe + sky)
    # A metal's mirror image has the metal's colour, and a metal scatters nothing.
    albedo *= (1 - metal) * scattered + mirrored * metal
    albedo += mirrored * (1 - metal)
    return np.asarray(albedo, np.float32)


def _lamp(nx: Field, ny: Field, nz: Field, sharpness: Field, light: Light) -> tuple[Field, Field]:
    """Return the Lambert factor of the lamp and the strength of its mirror image, 0 to 1."""
    elevation = np.deg2rad(light.elevation_deg)
    narrow = sharpness * np.float32(1 / light.spread)
    if light.azimuth_deg is None:
        tilt = np.sqrt(np.maximum(1 - nz * nz, 0)) - np.float32(np.sin((np.pi / 2 - elevation) / 2))
        return nz * np.float32(np.sin(elevation)), cv2.exp(narrow * tilt * tilt * np.float32(-0.5))
    azimuth = np.deg2rad(light.azimuth_deg)
    lx, ly, lz = np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)
    facing = np.maximum(nx * np.float32(lx) + ny * np.float32(ly) + nz * np.float32(lz), 0)
    norm = np.sqrt(2 * (1 + lz))
    half = nx * np.float32(lx / norm) + ny * np.float32(ly / norm) + nz * np.float32((lz + 1) / norm)
    return facing, cv2.exp(narrow * (half - 1))


def _shadow(cover: Field, light: Light, step: float) -> Field:
    """Return the light that reaches the ground beside the part: contact shadow, and the lamp's shadow behind it."""
    small = cv2.resize(cover, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    contact = cv2.GaussianBlur(small, (0, 0), 1.6 / step)
    if light.azimuth_deg is None:
        cast = contact
    else:
        azimuth, reach = np.deg2rad(light.azimuth_deg), 2.2 / step / np.tan(np.deg2rad(light.elevation_deg))
        move = np.array([[1, 0, -np.cos(azimuth) * reach], [0, 1, -np.sin(azimuth) * reach]])
        cast = cv2.warpAffine(contact, move, contact.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    dark = cv2.resize(0.45 * contact + 0.40 * cast, cover.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(1 - dark * (1 - cover), np.float32)


def _field_of_light(canvas: Canvas, light: Light, vignetting: float) -> Field:
    """Return the lamp's fall-off over the field, and the lens's."""
    line = np.linspace(-1, 1, canvas.size, dtype=np.float32)
    square = line * line
    fall = 1 - np.float32(vignetting) * 0.5 * (square[None, :] + square[:, None])
    if light.azimuth_deg is not None:
        azimuth = np.deg2rad(light.azimuth_deg)
        lean = np.float32(0.16 * np.cos(azimuth)) * line[None, :] + np.float32(0.16 * np.sin(azimuth)) * line[:, None]
        fall = fall * (1 + lean)
    return np.asarray(fall, np.float32)
