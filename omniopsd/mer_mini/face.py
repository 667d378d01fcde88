"""The video: a cartoon face that goes from rest into its expression at a visible onset time."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from PIL import Image, ImageDraw

from omniopsd.mer_mini.look import Colour, Look

SIZE = 112
FPS = 8
SECONDS = 2.0
RAMP_SECONDS = 0.25
HEAD_RADIUS = 46.0
INK: Colour = (25, 18, 22)
MOUTH: Colour = (120, 12, 30)
WHITE: Colour = (250, 250, 250)
WATER: Colour = (40, 110, 255)
RED: Colour = (235, 40, 40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """What the muscles do.

    `curve` -1 (corners down) .. 1 (up); `opening`, `teeth`, `wave`, `tears`, `sweat`, `flush` 0..1;
    `brow_tilt` -1 (inner ends down) .. 1 (inner ends up); `brow_lift` 0..1; `eye` 1 at rest.
    """

    curve: float = 0.0
    opening: float = 0.0
    teeth: float = 0.0
    wave: float = 0.0
    brow_tilt: float = 0.0
    brow_lift: float = 0.0
    eye: float = 1.0
    tears: float = 0.0
    sweat: float = 0.0
    flush: float = 0.0


REST = Expression()
EXPRESSIONS: dict[str, Expression] = {
    "smile": Expression(curve=1.0, eye=0.8),
    "laugh": Expression(curve=1.0, opening=0.6, eye=0.35, brow_lift=0.3),
    "tears": Expression(curve=-0.9, tears=1.0, brow_tilt=0.4, eye=0.6),
    "droop": Expression(curve=-1.0, brow_tilt=0.5, eye=0.25),
    "glare": Expression(curve=-0.5, brow_tilt=-1.0, eye=0.7, flush=1.0),
    "teeth": Expression(teeth=1.0, brow_tilt=-1.0, eye=0.8, flush=0.6),
    "knit brows": Expression(wave=1.0, brow_tilt=1.0, brow_lift=0.3, eye=1.15),
    "sweat": Expression(wave=0.9, brow_tilt=0.9, sweat=1.0, eye=1.0),
    "gasp": Expression(opening=1.0, brow_lift=1.0, eye=1.3),
    "wide eyes": Expression(opening=0.6, brow_lift=1.0, eye=1.7),
    "relaxed": REST,
}


def draw_face_clip(rng: np.random.Generator, look: Look, cue: str, onset: float) -> np.ndarray:
    """All frames of a clip: uint8 [16, 112, 112, 3] at 8 fps.

    The face rests until `onset` (seconds) and is in full expression `RAMP_SECONDS` later. The cue
    "hidden" shows the back of the head throughout.
    """
    strength = float(rng.uniform(0.8, 1.0))
    radius = HEAD_RADIUS * float(rng.uniform(0.92, 1.0))
    offset, phase = rng.uniform(-3.0, 3.0, 2), rng.uniform(0.0, 2 * np.pi, 2)
    grain = rng.integers(-6, 7, (SIZE, SIZE, 1), dtype=np.int16)
    frames = []
    for index in range(int(FPS * SECONDS)):
        time = index / FPS
        x, y = SIZE / 2 + offset + 1.5 * np.sin(2 * np.pi * time / SECONDS + phase)
        head = _Head(look, float(x), float(y) + 4.0, radius)
        if cue == "hidden":
            head.draw_back()
        else:
            shown = strength * min(1.0, max(0.0, (time - onset) / RAMP_SECONDS + 0.5))
            head.draw_front(blend(EXPRESSIONS[cue], shown))
        frames.append(np.clip(np.asarray(head.image, np.int16) + grain, 0, 255).astype(np.uint8))
    return np.stack(frames)


def blend(target: Expression, share: float) -> Expression:
    """An expression between rest (share 0) and `target` (share 1)."""
    names = [field.name for field in fields(Expression)]
    return Expression(**{n: (1 - share) * getattr(REST, n) + share * getattr(target, n) for n in names})


class _Head:
    """One frame on its way."""

    def __init__(self, look: Look, x: float, y: float, radius: float) -> None:
        self.look, self.x, self.y, self.radius = look, x, y, radius
        self.image = Image.new("RGB", (SIZE, SIZE), look.background)
        self.pen = ImageDraw.Draw(self.image)

    def draw_back(self) -> None:
        """The head turned away: shoulders and hair."""
        self._shoulders()
        self._oval(0.0, 0.0, self.look.face_width + 0.04, 1.04, self.look.hair)
        for side in (-1, 1):
            self._oval(side * (self.look.face_width + 0.04), 0.1, 0.12, 0.18, self.look.skin)

    def draw_front(self, face: Expression) -> None:
        """The face with one expression."""
        self._shoulders()
        self._oval(0.0, -0.05, self.look.face_width + 0.06, 1.05, self.look.hair)
        mixed = (round(a + 0.55 * face.flush * (b - a)) for a, b in zip(self.look.skin, RED, strict=True))
        self._oval(0.0, 0.14, self.look.face_width, 1.52 - self.look.hair_line, tuple(mixed))
        for side in (-1, 1):
            self._eye(side, face)
            self._brow(side, face)
        self._mouth(face)
        if face.sweat > 0.3:
            self._oval(0.8 * self.look.face_width, -0.42, 0.13, 0.22 * face.sweat, WATER)

    def _shoulders(self) -> None:
        self._oval(0.0, 1.35, 1.1, 0.55, self.look.shirt)

    def _eye(self, side: int, face: Expression) -> None:
        x, width, height = side * self.look.eye_distance, 0.17, 0.15 * face.eye
        self._oval(x, -0.12, width * max(1.0, 0.85 * face.eye), height, WHITE, outline=INK)
        self._oval(x, -0.12, 0.09, min(0.09, height), INK)
        if face.tears > 0.2:
            self._oval(x, 0.2, 0.09, 0.25 * face.tears, WATER)

    def _brow(self, side: int, face: Expression) -> None:
        y, drop = -0.38 - 0.2 * face.brow_lift + 0.08 * max(0.0, -face.brow_tilt), 0.14 * face.brow_tilt
        inner, outer = self.look.eye_distance - 0.17, self.look.eye_distance + 0.2
        self._line([(side * inner, y - drop), (side * outer, y + drop)], INK, 6)

    def _mouth(self, face: Expression) -> None:
        if face.teeth > 0.3:
            self._teeth(face.teeth)
        elif face.opening > 0.2 and face.curve < 0.2:
            self._oval(0.0, 0.45, 0.13 + 0.12 * face.opening, 0.3 * face.opening, MOUTH, outline=INK)
        else:
            self._lips(face)

    def _teeth(self, share: float) -> None:
        self._box(-0.36, 0.44 - 0.13 * share, 0.36, 0.44 + 0.13 * share, WHITE)
        for x in (-0.12, 0.12):
            self._line([(x, 0.44 - 0.13 * share), (x, 0.44 + 0.13 * share)], INK, 2)

    def _lips(self, face: Expression) -> None:
        along = np.linspace(-1.0, 1.0, 13)
        bend = 0.26 * face.curve * (0.5 - along**2) + 0.11 * face.wave * np.sin(along * 2 * np.pi)
        line = [(0.38 * float(x), 0.45 + float(y)) for x, y in zip(along, bend, strict=True)]
        if face.opening > 0.2:
            low = [(x, y + 0.4 * face.opening * (1 - (x / 0.38) ** 2)) for x, y in reversed(line)]
            self.pen.polygon([self._at(*point) for point in (*line, *low)], fill=MOUTH, outline=INK)
        self._line(line, MOUTH, 5)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return self.x + x * self.radius, self.y + y * self.radius

    def _line(self, points: list[tuple[float, float]], colour: Colour, width: int) -> None:
        self.pen.line([self._at(*point) for point in points], fill=colour, width=width, joint="curve")

    def _box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.pen.rectangle(
            (*self._at(left, top), *self._at(right, bottom)), fill=colour, outline=INK, width=2
        )

    def _oval(
        self, x: float, y: float, w: float, h: float, colour: tuple[int, ...], outline: Colour | None = None
    ) -> None:
        box = (*self._at(x - w, y - h), *self._at(x + w, y + h))
        self.pen.ellipse(box, fill=colour, outline=outline, width=2 if outline else 0)
