"""`shapes`: 1,000 made-up kinds of objects, 10 pictures with masks each, or more. No download, painted when asked for.

A class is a family of outlines with a texture, two colors and statistics of size and pose. A picture shows one object
of its class among two to four others, each of a kind made for it alone; some are decoys that have the outline, the
texture or the colors of the target. So neither what is common to all pictures nor what stands out finds the target:
only its class does. As kinds of distractors are never classes, no pixel is labeled differently in two pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import torch
from torch import Tensor

from mlkit.seeding import seeded
from mlkit.tasks import painting
from mlkit.tasks.base import content_hash

CLASSES, PICTURES = 1000, 10
SPLITS = {"train": range(560), "val": range(560, 760), "test": range(760, 1000)}  # sizes as FSS-1000 in paper 000
OTHERS = 4  # distractors of a picture at most; two at least
AREAS = (0.055, 0.3)  # share of the picture that a class's objects cover on average, from rare to common size
SEEN = 0.05  # a target of which less is seen, or less than half, comes to the front
DECOY = 0.3  # how often a distractor borrows from the target
PAINTER = 1  # changes with whatever changes a pixel
Parameters = dict[str, Tensor]


def _uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


def _some(generator: torch.Generator, chance: float, value: Tensor) -> Tensor:
    """Keep `value` with this chance, else 0."""
    return value.where(torch.rand(value.shape, generator=generator) < chance, 0.0)


def _outlines(generator: torch.Generator, *shape: int) -> Tensor:
    draw = lambda low, high, *more: _uniform(generator, *shape, *more, low=low, high=high)  # noqa: E731
    corners, lobes = draw(2.5, 6.5), draw(1.5, 7.5)
    pointed = _some(generator, 0.6, draw(0.7, 1.8))
    lobe = _some(generator, 0.4, draw(0.15, 0.4))
    hole = _some(generator, 0.3, draw(0.17, 0.3))
    turn, far = draw(0, 2 * math.pi), _some(generator, 0.5, draw(0.05, 0.3))
    at = (far * turn.cos(), far * turn.sin())
    columns = [corners, pointed, lobes, lobe, *draw(-0.12, 0.12, 6).unbind(-1), draw(-0.5, 0.5).exp(), hole, *at]
    return torch.stack(columns, -1)


PATTERNS = torch.tensor([  # along, radial, turns, wave, product
    [1, 0, 0, 0, 0], [1, 0, 0, 1.5, 0], [1, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 4, 0, 0], [0, 0.8, 2, 0, 0],
    [0, 0, 0, 0, 0],
])  # fmt: skip


def _textures(generator: torch.Generator, *shape: int) -> Tensor:
    kind = torch.randint(len(PATTERNS), shape, generator=generator)
    frequency, slant = _uniform(generator, *shape, low=7, high=17), _uniform(generator, *shape, high=math.pi)
    bias, contrast = _uniform(generator, *shape, low=-0.4, high=0.4), _uniform(generator, *shape, low=0.7, high=3)
    return torch.cat([PATTERNS[kind], torch.stack([frequency, slant, bias, contrast], -1)], -1)


def _colors(generator: torch.Generator, *shape: int) -> Tensor:
    low, high = torch.tensor([0.0, 0.15, 0.2] * 2), torch.tensor([1.0, 1.0, 1.0] * 2)
    return low + (high - low) * torch.rand(*shape, 6, generator=generator)


def _kinds(generator: torch.Generator, *shape: int) -> Parameters:
    """Draw kinds of objects: `outline`, `texture`, `colors`, and `pose`: log area, angle and the spread of both."""
    area = _uniform(generator, *shape, low=math.log(AREAS[0]), high=math.log(AREAS[1]))
    angle, turning = _uniform(generator, *shape, high=2 * math.pi), _uniform(generator, *shape, low=0.1, high=1.5)
    spread = _uniform(generator, *shape, low=0.05, high=0.2)
    return {
        "outline": _outlines(generator, *shape),
        "texture": _textures(generator, *shape),
        "colors": _colors(generator, *shape),
        "pose": torch.stack([area, angle, spread, turning], -1),
    }


def _varied(generator: torch.Generator, kinds: Parameters) -> Parameters:
    """Draw one object of each kind; `pose` becomes x, y, angle, area."""

    def near(name: str, spread: Sequence[float]) -> Tensor:
        return kinds[name] + torch.randn(kinds[name].shape, generator=generator) * torch.tensor(spread)

    log_area, angle, spread, turning = kinds["pose"].unbind(-1)
    normal = torch.randn(2, *angle.shape, generator=generator).clamp(-2, 2)
    area = (log_area + spread * normal[0]).exp().clamp(0.07, 0.37)
    margin = (0.42 * area.sqrt()).clamp(max=0.5)[..., None]  # most of it lies in the picture
    center = margin + (1 - 2 * margin) * torch.rand(*area.shape, 2, generator=generator)
    return {
        "outline": near("outline", [0, 0.05, 0, 0.03, *[0.025] * 6, 0.05, 0, 0, 0]),
        "texture": near("texture", [0] * 5 + [0.4, 0.06, 0.06, 0.1]),
        "colors": near("colors", [0.015, 0.06, 0.06] * 2).clamp(0, 1),
        "pose": torch.cat([center, (angle + turning * normal[1])[..., None], area[..., None]], -1),
    }


@cache
def _scenes() -> Parameters:
    """Draw what the first ten pictures of every class show: tensors (classes, pictures, ...)."""
    generator = seeded("shapes", PAINTER)
    return _around(_kinds(generator, CLASSES), generator)


@cache
def _targets() -> Parameters:
    return _kinds(seeded("shapes", PAINTER), CLASSES)


def _more(number: int, block: int) -> Parameters:
    """Draw what ten further pictures of one class show, tensors (pictures, ...); block 1 follows the first ten."""
    kind = {name: tensor[number : number + 1] for name, tensor in _targets().items()}
    return {name: tensor[0] for name, tensor in _around(kind, seeded("shapes", PAINTER, number, block)).items()}


def _around(kinds: Parameters, generator: torch.Generator) -> Parameters:
    """Draw ten scenes for each kind of target: tensors (classes, pictures, ...); object 0 is the target."""
    classes = len(kinds["pose"])
    target = {name: k[:, None, None].expand(-1, PICTURES, 1, -1) for name, k in kinds.items()}
    others = _kinds(generator, classes, PICTURES, OTHERS)
    decoy = torch.rand(classes, PICTURES, OTHERS, generator=generator) < DECOY
    borrowed = torch.randint(3, decoy.shape, generator=generator).masked_fill_(~decoy, -1)
    for i, name in enumerate(("outline", "texture", "colors")):
        others[name] = torch.where((borrowed == i)[..., None], target[name], others[name])
    together = {name: torch.cat([target[name], others[name]], 2) for name in target}
    count = torch.randint(2, OTHERS + 1, (classes, PICTURES, 1), generator=generator)
    ground = _colors(generator, classes, PICTURES)
    ground[..., 3:] = torch.lerp(ground[..., :3], ground[..., 3:], 0.4)  # quieter than what lies on it
    return _varied(generator, together) | {
        "exists": torch.arange(1 + OTHERS) <= count,
        "depth": torch.rand(classes, PICTURES, 1 + OTHERS, generator=generator),
        "ground": torch.cat([_textures(generator, classes, PICTURES), ground], -1),
        "light": _uniform(generator, classes, PICTURES, 7, low=-1, high=1),
    }


def paint(scenes: Parameters, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paint scenes (pictures, ...) at `size` x `size` pixels; the generator gives the camera's noise.

    Returns:
        Pictures (pictures, 3, size, size) and the share of each pixel that shows the target (pictures, size, size),
        both uint8.
    """
    x, y = painting.pixel_centers(size)
    cover, skin = objects(scenes, x, y)
    target = cover[:, 0].mean(1, keepdim=True)
    in_front = (scenes["depth"] > scenes["depth"][:, :1])[..., None]
    seen = (cover[:, 0] * (1 - cover * in_front).prod(1)).mean(1, keepdim=True)
    hidden = seen < (target / 2).clamp(min=SEEN)
    depth = torch.cat([scenes["depth"][:, :1] + hidden, scenes["depth"][:, 1:]], 1)
    pictures, mask = painting.stack(_background(scenes["ground"], x, y), skin, cover, depth.argsort(1))
    pictures = _lit(pictures, scenes["light"], x, y, generator)
    return _bytes(pictures).unflatten(-1, (size, size)), _bytes(mask).unflatten(-1, (size, size))


def objects(scenes: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cover (pictures, objects, pixels) and the skin (pictures, objects, 3, pixels) of every object alone.

    x and y (1, pixels) are places of the picture, in [0, 1].
    """
    shape = scenes["exists"].shape
    outline, texture, colors, pose = (scenes[name].flatten(0, 1) for name in ("outline", "texture", "colors", "pose"))
    u, v = painting.place(x, y, pose, outline[:, painting.STRETCH, None])
    cover = painting.coverage(outline, u, v, pose[:, 3:].sqrt() * math.sqrt(x.shape[1]))
    skin = painting.colored(colors, painting.pattern(texture, u, v))
    return cover.unflatten(0, shape) * scenes["exists"][..., None], skin.unflatten(0, shape)


def _background(ground: Tensor, x: Tensor, y: Tensor) -> Tensor:
    texture, colors = ground.split([painting.TEXTURE, 6], -1)
    return painting.colored(colors, painting.pattern(texture, 1.5 * (x - 0.5), 1.5 * (y - 0.5)))


def _lit(pictures: Tensor, light: Tensor, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Apply the light's strength and tint, its fall-off across the picture, and noise."""
    gain = 0.95 + 0.2 * light[:, :1, None] + 0.07 * light[:, 1:4, None]
    falling = 1 + 0.3 * (light[:, 4:5] * (x - 0.5) + light[:, 5:6] * (y - 0.5))[:, None]
    noise = torch.randn(pictures.shape, generator=generator) * 0.02 * (1 + light[:, 6:, None])
    return pictures * gain * falling + noise


def _bytes(values: Tensor) -> Tensor:
    return (values * 255).round().clamp(0, 255).byte()


@dataclass(frozen=True, eq=False)
class Shapes:
    """Pictures and masks of some classes of `shapes`, ten painted when one of them is first asked for."""

    split: str
    size: int
    classes: tuple[int, ...] = field(repr=False)
    pictures: int = PICTURES  # of each class, a multiple of ten
    painted: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    device: torch.device | str = "cpu"
    name: str = "shapes"
    stand_in: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(f"shape{k:04d}" for k in self.classes)

    @property
    def offsets(self) -> Tensor:
        """Pairs of class k are offsets[k]:offsets[k+1]; (classes + 1,), int64."""
        return self.pictures * torch.arange(len(self.classes) + 1)

    @cached_property
    def content_hash(self) -> str:
        """Sixteen hex digits over what decides every pixel: the painter, the size and the classes."""
        more = {"pictures": self.pictures} if self.pictures != PICTURES else {}
        return content_hash({"painter": PAINTER, "size": self.size, **more}, {"classes": torch.tensor(self.classes)})

    def pairs(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures (..., 3, size, size) and masks (..., size, size), uint8, of the pairs `index` (...)."""
        rows = [self._ten(k // PICTURES) for k in index.flatten().tolist()]
        within = (index.flatten() % PICTURES).tolist()
        found = [torch.stack([row[part][i] for row, i in zip(rows, within, strict=True)]) for part in (0, 1)]
        return tuple(part.unflatten(0, index.shape) for part in found)

    def labeled(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures as `pairs` does, and the label of every pixel (..., size, size), int64: c + 1 for class c."""
        pictures, masks = self.pairs(index)
        labels = 1 + (index // self.pictures).to(masks.device)
        return pictures, (masks > 127) * labels[..., None, None]

    def _ten(self, which: int) -> tuple[Tensor, Tensor]:
        """Return pictures and masks 10 `which` to 10 `which` + 9."""
        if which not in self.painted:
            k, block = divmod(which, self.pictures // PICTURES)
            number = self.classes[k]
            scenes = _more(number, block) if block else {name: tensor[number] for name, tensor in _scenes().items()}
            words = (number, block) if block else (number,)
            pictures, masks = paint(scenes, self.size, seeded("shapes", "noise", self.size, *words))
            self.painted[which] = pictures.to(self.device), masks.to(self.device)
        return self.painted[which]

    def to(self, device: torch.device | str) -> Shapes:
        """Keep what is painted on `device`."""
        return _shared(self.split, self.size, self.classes, self.pictures, str(device))


def shapes(
    split: str = "train", *, size: int = 64, classes: int | None = None, pictures: int = PICTURES, device: str = "cpu"
) -> Shapes:
    """Return pictures of one split, 560 train, 200 val or 240 test classes, or "train+val"; painted once a process.

    Args:
        split: its name.
        size: side of the pictures, in pixels.
        classes: the first so many classes of it; None for all.
        pictures: of each class, a multiple of ten; the first ten are always the same.
        device: where they are kept.

    Raises:
        ValueError: The split is not known, or a number is out of its range.
    """
    parts = {**SPLITS, "train+val": range(760)}
    if split not in parts or size < 16:
        raise ValueError(f"expected a split of {', '.join(parts)} and size >= 16; got {split!r}, size {size}")
    most, wanted = len(parts[split]), classes if classes is not None else len(parts[split])
    if not 1 <= wanted <= most or pictures < PICTURES or pictures % PICTURES:
        raise ValueError(
            f"expected 1 to {most} classes of split {split!r} and a multiple of {PICTURES} pictures each, got {wanted} "
            f"and {pictures}"
        )
    return _shared(split, size, tuple(parts[split][:wanted]), pictures, device)


@cache
def _shared(split: str, size: int, classes: tuple[int, ...], pictures: int, device: str) -> Shapes:
    return Shapes(split, size, classes, pictures, device=device)
