"""Pictures of generated scenes: anti-aliased sprites, made once each, pasted onto a ground."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia.data.scene_graph import COLOURS, WIDTH, Contact, Ground, Thing
from intarsia.types import Box

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

NOISE_SIZE = 2 * WIDTH
NOISE_GRAINS = (1, 8)  # pixels a grain
NOISE_DEPTH = 36  # grey levels
SUPERSAMPLING = 8


def render(things: Sequence[Thing], ground: Ground) -> Pixels:
    """Paint the things over the ground, first to last: (112, 112, 3) uint8."""
    canvas = _paint_ground(ground)
    for thing in things:
        keep, paint = _sprite(thing.colour, thing.shape, thing.texture, thing.diameter)
        height, width = keep.shape
        patch = canvas[thing.y : thing.y + height, 3 * thing.x : 3 * thing.x + width]
        np.copyto(patch, patch * keep + paint, casting="unsafe")
    return canvas.reshape(WIDTH, WIDTH, 3)


def extent(shape: str, diameter: int) -> tuple[int, int]:
    """Width and height of a sprite in pixels."""
    height, width = _coverage(shape, diameter).shape
    return width, height


def sprite_box(thing: Thing) -> tuple[int, int, int, int]:
    width, height = extent(thing.shape, thing.diameter)
    return thing.x, thing.y, thing.x + width, thing.y + height


def hidden_share(front: Thing, back: Thing) -> float:
    """The part of the back one's surface that the front one covers."""
    surface = _coverage(back.shape, back.diameter)
    return float((surface * _shadow(front, back)).sum() / surface.sum())


def visible_boxes(things: Sequence[Thing], contact: Contact | None) -> tuple[Box, ...]:
    """The tight box of the pixels that each thing has a part in."""
    boxes: list[Box] = [sprite_box(thing) for thing in things]
    if contact and contact.kind == "overlapping":
        back = things[contact.back]
        visible = _coverage(back.shape, back.diameter) * (1 - _shadow(things[contact.front], back))
        x0, y0, x1, y1 = _tight(visible)
        boxes[contact.back] = (back.x + x0, back.y + y0, back.x + x1, back.y + y1)
    return tuple(boxes)


def _shadow(front: Thing, back: Thing) -> Floats:
    """The front one's coverage on the back one's pixel grid."""
    shadow = np.zeros_like(_coverage(back.shape, back.diameter))
    (fx0, fy0, fx1, fy1), (bx0, by0, bx1, by1) = sprite_box(front), sprite_box(back)
    x0, y0, x1, y1 = max(fx0, bx0), max(fy0, by0), min(fx1, bx1), min(fy1, by1)
    if x0 < x1 and y0 < y1:
        part = _coverage(front.shape, front.diameter)[y0 - fy0 : y1 - fy0, x0 - fx0 : x1 - fx0]
        shadow[y0 - by0 : y1 - by0, x0 - bx0 : x1 - bx0] = part
    return shadow


def _paint_ground(ground: Ground) -> Pixels:
    """(112, 112 * 3): channels lie within the rows, which keeps array operations long."""
    row = np.frombuffer(bytes(ground.colour) * WIDTH, np.uint8)
    canvas = np.empty((WIDTH, 3 * WIDTH), np.uint8)
    canvas[:] = row
    if ground.noise is not None:
        grain, x, y = ground.noise
        canvas += _noise()[grain][y : y + WIDTH, 3 * x : 3 * (x + WIDTH)]
    return canvas


@cache
def _noise() -> list[Pixels]:
    """For each grain a field of grey levels, (2 * 112, 2 * 112 * 3)."""
    rng = np.random.default_rng(0)
    fields = []
    for grain in NOISE_GRAINS:
        side = NOISE_SIZE // grain
        cells = Image.fromarray(rng.integers(0, NOISE_DEPTH, (side, side), dtype=np.uint8))
        field = np.array(cells.resize((NOISE_SIZE, NOISE_SIZE), Image.Resampling.BILINEAR))
        fields.append(np.repeat(field, 3, axis=1))
    return fields


@cache
def _sprite(colour: str, shape: str, texture: str, diameter: int) -> tuple[Floats, Floats]:
    """The share of the ground that is kept and the paint that is added, each (h, w * 3)."""
    coverage = np.repeat(_coverage(shape, diameter), 3, axis=1)
    height, width = _coverage(shape, diameter).shape
    diagonal = np.add.outer(np.arange(height), np.arange(width)) // max(4, diameter // 6)
    is_stripe = np.repeat((texture == "striped") & (diagonal % 2 == 1), 3, axis=1)
    plain, stripe = (np.tile(rgb, width) for rgb in (COLOURS[colour], _stripe(colour)))
    paint = coverage * np.where(is_stripe, stripe, plain) + 0.5  # rounds when cut to uint8
    return 1 - coverage, paint.astype(np.float32)


def _stripe(colour: str) -> NDArray[np.float64]:
    """A dark shade of a light colour, a light tint of a dark one."""
    rgb = np.array(COLOURS[colour], float)
    is_light = rgb @ (0.299, 0.587, 0.114) > 130
    return np.asarray(0.45 * rgb if is_light else 0.2 * rgb + 0.8 * 255)


@cache
def _coverage(shape: str, diameter: int) -> Floats:
    """The share of each pixel that the shape covers, cropped to the pixels it touches."""
    side = diameter * SUPERSAMPLING
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    fine = _filled(shape, axis[None, :], axis[:, None]).astype(np.float32)
    cells = fine.reshape(diameter, SUPERSAMPLING, diameter, SUPERSAMPLING).mean(axis=(1, 3))
    x0, y0, x1, y1 = _tight(cells)
    return np.asarray(cells[y0:y1, x0:x1])


def _filled(shape: str, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points of the square from -1 to 1 (v downwards) belong to the shape."""
    radius = np.hypot(u, v)
    match shape:
        case "circle":
            return np.asarray(radius <= 1)
        case "ring":
            return np.asarray((radius <= 1) & (radius >= 0.56))
        case "square":
            return np.asarray(np.maximum(abs(u), abs(v)) <= 0.92)
        case "triangle":
            return np.asarray((abs(u) <= (v + 1) / 2) & (v <= 0.9))
        case "cross":
            return np.asarray(np.minimum(abs(u), abs(v)) <= 0.3)
        case "heart":
            x, y = 1.16 * u, 0.14 - 1.13 * v
            return np.asarray((x**2 + y**2 - 1) ** 3 <= x**2 * y**3)
        case _:
            return _star(u, v)


def _star(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Five points, one upwards; inner radius 0.42 of the outer."""
    radius = np.hypot(u, v)
    fifth = 2 * np.pi / 5
    angle = abs((np.arctan2(u, -v) + fifth / 2) % fifth - fifth / 2)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    inner_x, inner_y = 0.42 * np.cos(fifth / 2), 0.42 * np.sin(fifth / 2)
    return np.asarray((1 - x) * inner_y >= y * (1 - inner_x))


def _tight(mask: Floats) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
