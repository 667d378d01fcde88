"""The still image: a drawn person whose arms, head and back carry the cue."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from omniopsd.mer_mini.look import Colour, Look

SIZE = 112
INK: Colour = (25, 18, 22)
Point = tuple[float, float]

# Elbow and hand of the left arm (x to the right, y down, pixels from the left shoulder); the right
# arm mirrors them. A pose without entry in RIGHT_ARMS is symmetric.
ARMS: dict[str, tuple[Point, Point]] = {
    "arms up": ((-12.0, -18.0), (-16.0, -44.0)),
    "slumped": ((3.0, 18.0), (8.0, 40.0)),
    "fists": ((-22.0, 14.0), (2.0, 20.0)),
    "hand at mouth": ((-6.0, 22.0), (-4.0, 40.0)),
    "hands on head": ((-24.0, -10.0), (2.0, -28.0)),
    "arms down": ((-6.0, 22.0), (-8.0, 42.0)),
}
RIGHT_ARMS: dict[str, tuple[Point, Point]] = {"hand at mouth": ((18.0, 8.0), (-13.0, -13.0))}


def draw_posture(rng: np.random.Generator, look: Look, cue: str) -> np.ndarray:
    """One picture: uint8 [112, 112, 3]. The cue "blocked" hides the body behind a wall."""
    image = Image.new("RGB", (SIZE, SIZE), look.background)
    pen = ImageDraw.Draw(image)
    x, y = SIZE / 2 + float(rng.uniform(-4, 4)), 50.0 + float(rng.uniform(-3, 3))
    if cue == "slumped":
        y += 14.0
    _body(pen, look, x, y, bent=cue == "slumped")
    if cue == "blocked":
        _wall(pen, look, y)
    else:
        _arms(rng, pen, look, cue, x, y)
    grain = rng.integers(-6, 7, (SIZE, SIZE, 1), dtype=np.int16)
    return np.clip(np.asarray(image, np.int16) + grain, 0, 255).astype(np.uint8)


def _body(pen: ImageDraw.ImageDraw, look: Look, x: float, y: float, *, bent: bool) -> None:
    """Legs, trunk and head; `y` is the height of the shoulders."""
    width = 17.0 * look.face_width
    pen.line([(x - 8, y + 38), (x - 9, SIZE)], fill=INK, width=9)
    pen.line([(x + 8, y + 38), (x + 9, SIZE)], fill=INK, width=9)
    pen.rounded_rectangle((x - width, y - 5, x + width, y + 42), 9, fill=look.shirt)
    head_x, head_y = (x + 12, y - 4) if bent else (x, y - 20)
    radius = 14.0
    box = (
        head_x - radius * look.face_width,
        head_y - radius,
        head_x + radius * look.face_width,
        head_y + radius,
    )
    pen.ellipse(box, fill=look.skin)
    pen.pieslice(box, 150 if not bent else 200, 390 if not bent else 440, fill=look.hair)


def _arms(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, look: Look, cue: str, x: float, y: float
) -> None:
    width = 17.0 * look.face_width
    hand = 9.0 if cue == "fists" else 6.0
    for side, pose in ((-1, ARMS[cue]), (1, RIGHT_ARMS.get(cue, ARMS[cue]))):
        turn = 1.0 if side == -1 or cue in RIGHT_ARMS else -1.0
        start = (x + side * (width - 3), y)
        points = [start]
        for dx, dy in pose:
            points.append(
                (start[0] + turn * dx + float(rng.uniform(-2, 2)), y + dy + float(rng.uniform(-2, 2)))
            )
        pen.line(points, fill=INK, width=10, joint="curve")
        pen.line(points, fill=look.shirt, width=7, joint="curve")
        end_x, end_y = points[-1]
        box = (end_x - hand, end_y - hand, end_x + hand, end_y + hand)
        pen.ellipse(box, fill=look.skin, outline=INK, width=2)


def _wall(pen: ImageDraw.ImageDraw, look: Look, y: float) -> None:
    """Hides everything below the chin. In the shirt's colour: its shape tells it, not a hue."""
    pen.rectangle((0, y - 12, SIZE, SIZE), fill=look.shirt)
    for row in range(int(y) - 12, SIZE, 14):
        pen.line([(0, row), (SIZE, row)], fill=INK, width=3)
