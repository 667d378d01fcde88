"""Who is in the clip: colours, proportions and voice. None of it tells anything about the emotion.

Every identity field of the test looks is drawn from ranges that the train looks never touch, so
the test asks for the cues and not for the people.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

Looks = Literal["train", "test"]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One person. Hues 0..1 of the colour circle; lengths in units of the head's radius; pitch in Hz."""

    skin_hue: float
    hair_hue: float
    shirt_hue: float
    background_hue: float
    background_value: float
    face_width: float
    eye_distance: float
    hair_line: float
    base_pitch: float
    tilt: float
    formant: float

    @property
    def skin(self) -> Colour:
        return _rgb(self.skin_hue, 0.42, 0.95)

    @property
    def hair(self) -> Colour:
        return _rgb(self.hair_hue, 0.7, 0.38)

    @property
    def shirt(self) -> Colour:
        return _rgb(self.shirt_hue, 0.75, 0.7)

    @property
    def background(self) -> Colour:
        return _rgb(self.background_hue, 0.35, self.background_value)


Bands = tuple[tuple[float, float], ...]

# Hues of the test looks lie in the gaps between those of the train looks; lengths, brightness and
# voices lie beyond them. A model that learned the cues still reads most test looks; one that learned
# the people does not.
RANGES: dict[Looks, dict[str, Bands]] = {
    "train": {
        "skin_hue": ((0.00, 0.04), (0.10, 0.13), (0.19, 0.24)),
        "hair_hue": ((0.00, 0.10), (0.30, 0.40), (0.60, 0.70)),
        "shirt_hue": ((0.00, 0.06), (0.28, 0.36), (0.56, 0.62), (0.80, 0.88)),
        "background_hue": ((0.08, 0.18), (0.45, 0.55), (0.75, 0.85)),
        "background_value": ((0.44, 0.60),),
        "face_width": ((0.76, 0.90),),
        "eye_distance": ((0.36, 0.42),),
        "hair_line": ((0.54, 0.66),),
        "base_pitch": ((100.0, 170.0),),
        "tilt": ((0.8, 1.2),),
        "formant": ((450.0, 700.0),),
    },
    "test": {
        "skin_hue": ((0.05, 0.09), (0.14, 0.18)),
        "hair_hue": ((0.13, 0.25), (0.45, 0.55)),
        "shirt_hue": ((0.10, 0.22), (0.42, 0.50), (0.68, 0.75)),
        "background_hue": ((0.22, 0.40), (0.60, 0.70)),
        "background_value": ((0.62, 0.70),),
        "face_width": ((0.92, 1.00),),
        "eye_distance": ((0.43, 0.47),),
        "hair_line": ((0.68, 0.76),),
        "base_pitch": ((175.0, 225.0),),
        "tilt": ((1.25, 1.5),),
        "formant": ((720.0, 900.0),),
    },
}


def draw_look(rng: np.random.Generator, looks: Looks) -> Look:
    """Draw one person from the train or the test ranges."""
    return Look(**{field.name: _draw(rng, RANGES[looks][field.name]) for field in fields(Look)})


def _draw(rng: np.random.Generator, bands: Bands) -> float:
    return float(rng.uniform(*bands[int(rng.integers(len(bands)))]))


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
