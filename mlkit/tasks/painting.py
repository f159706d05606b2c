"""Painting `shapes`: closed outlines with a texture, one over the other, and the share of each pixel that they cover.

Every function takes one row of parameters an object and pixels on the last axis. Lengths are fractions of the
picture's side, so that one scene can be painted at any size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# columns of `outline` and `texture`
CORNERS, POINTED, LOBES, LOBE, LOPSIDED, STRETCH, HOLE, HOLE_AT = 0, 1, 2, 3, slice(4, 10), 10, 11, slice(12, 14)
OUTLINE = 14
ALONG, RADIAL, TURNS, WAVE, PRODUCT, FREQUENCY, SLANT, BIAS, CONTRAST = range(9)
TEXTURE = 9
ANGLES = 1024  # directions in which an outline is known


def pixel_centers(size: int) -> tuple[Tensor, Tensor]:
    """Return x and y of every pixel's center, (1, size * size) each, in [0, 1]."""
    line = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x.reshape(1, -1), y.reshape(1, -1)


def place(x: Tensor, y: Tensor, pose: Tensor, stretch: Tensor) -> tuple[Tensor, Tensor]:
    """Turn pixels into coordinates u, v (objects, pixels) of objects whose `pose` is center x, center y, angle, area.

    In u and v every object covers an area of 1.
    """
    cos, sin = pose[:, 2:3].cos(), pose[:, 2:3].sin()
    x, y, side = x - pose[:, :1], y - pose[:, 1:2], pose[:, 3:].sqrt()
    return (cos * x + sin * y) / (side * stretch), (cos * y - sin * x) * (stretch / side)


def boundary(outline: Tensor) -> Tensor:
    """Return how far outlines are from their centers in ANGLES directions, (objects, ANGLES): polygons, stars, petals.

    Scaled so that each covers an area of 1, its hole not counted.
    """
    theta = torch.linspace(0, 2 * math.pi, ANGLES + 1)[:-1]
    sector = 2 * math.pi / outline[:, CORNERS, None].round()
    polygon = (sector / 2).cos() / (theta.remainder(sector) - sector / 2).cos()
    radius = polygon ** outline[:, POINTED, None]
    radius = radius * (1 + outline[:, LOBE, None] * (outline[:, LOBES, None].round() * theta).cos())
    waves = outline[:, LOPSIDED].unflatten(1, (3, 2))
    for k in range(3):
        radius = radius + waves[:, k, :1] * ((k + 1) * theta).cos() + waves[:, k, 1:] * ((k + 1) * theta).sin()
    radius = radius.clamp(min=0.2)
    return radius / (math.pi * radius.square().mean(1, keepdim=True)).sqrt()


def coverage(outline: Tensor, u: Tensor, v: Tensor, pixels: Tensor) -> Tensor:
    """Return the share of each pixel inside the outlines and outside their holes, (objects, pixels).

    A unit of u and v is `pixels` (objects, 1) long.
    """
    direction = (torch.atan2(v, u) * (ANGLES / (2 * math.pi))).round().long() % ANGLES
    inside = boundary(outline).gather(1, direction) - torch.hypot(u, v)
    at = outline[:, HOLE_AT]
    beyond = torch.hypot(u - at[:, :1], v - at[:, 1:]) - outline[:, HOLE, None]
    beyond = beyond.where(outline[:, HOLE, None] > 0, 1.0)
    return (torch.minimum(inside, beyond) * pixels + 0.5).clamp(0, 1)


def pattern(texture: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return how much of the second color a pixel has: stripes, waves, checks, spots, rings, sectors, spirals."""
    frequency, slant = texture[:, FREQUENCY, None], texture[:, SLANT, None]
    cos, sin = slant.cos(), slant.sin()
    across = (frequency * (cos * v - sin * u)).sin()
    phase = texture[:, ALONG, None] * frequency * (cos * u + sin * v) + texture[:, WAVE, None] * across
    phase = phase + texture[:, RADIAL, None] * frequency * torch.hypot(u, v)
    phase = phase + texture[:, TURNS, None].round() * torch.atan2(v, u)
    value = phase.sin() * across.where(texture[:, PRODUCT, None] > 0, 1.0)
    return (0.5 + texture[:, CONTRAST, None] * (value - texture[:, BIAS, None])).clamp(0, 1)


def rgb(hsv: Tensor) -> Tensor:
    """Turn hue, saturation, value (..., 3) into red, green, blue; hue counts turns."""
    hue, saturation, value = hsv[..., :1], hsv[..., 1:2], hsv[..., 2:]
    ramp = (((hue * 6 + torch.tensor([0.0, 4.0, 2.0])) % 6) - 3).abs() - 1
    return value * (1 - saturation + saturation * ramp.clamp(0, 1))


def colored(colors: Tensor, share: Tensor) -> Tensor:
    """Mix two colors (objects, 6; hue, saturation, value each) by `share` (objects, pixels): (objects, 3, pixels)."""
    first, second = rgb(colors[:, :3])[..., None], rgb(colors[:, 3:])[..., None]
    return torch.lerp(first, second, share[:, None])


def stack(canvas: Tensor, paint: Tensor, cover: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Paint objects over the canvas from back to front.

    Args:
        canvas: (pictures, 3, pixels).
        paint: (pictures, objects, 3, pixels).
        cover: (pictures, objects, pixels), 0 where an object does not exist.
        order: (pictures, objects), which object comes first, second, ...

    Returns:
        The picture, and the share of each pixel (pictures, pixels) in which object 0 is seen.
    """
    rows, seen = torch.arange(len(canvas)), torch.zeros_like(cover[:, 0])
    for which in order.unbind(1):
        over = cover[rows, which]
        seen = torch.where((which == 0)[:, None], over, seen * (1 - over))
        canvas = torch.lerp(canvas, paint[rows, which], over[:, None])
    return canvas, seen
