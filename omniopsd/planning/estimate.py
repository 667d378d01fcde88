"""One number with the formula that gave it and the numbers that went in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Source = Literal["exact", "rendered", "measured", "data sheet", "assumption"]
STRENGTH: tuple[Source, ...] = ("exact", "rendered", "measured", "data sheet", "assumption")
FUNCTIONS = {"max": max, "min": min, "ceil": math.ceil, "floor": math.floor}


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """An input: its value and where it comes from."""

    value: float
    source: Source


Input = Known | int | float
"""A bare number is exact: it follows from the config or the model's own config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """`value` in `unit` is `formula` over `inputs`; `source` is that of the least certain input."""

    name: str
    value: float
    unit: str
    formula: str
    inputs: dict[str, float]
    source: Source
    note: str = ""

    @property
    def known(self) -> Known:
        """As an input of another estimate."""
        return Known(value=self.value, source=self.source)


def estimate(name: str, unit: str, formula: str, /, note: str = "", **inputs: Input) -> Estimate:
    """Compute `formula`, arithmetic over the names of `inputs` with max, min, ceil and floor.

    The text that is shown is the text that is computed; inputs that it does not name are left out.
    """
    code = compile(formula, name, "eval")
    known = {
        key: value if isinstance(value, Known) else exact(value)
        for key, value in inputs.items()
        if key in code.co_names
    }
    values = {key: one.value for key, one in known.items()}
    value = float(eval(code, {"__builtins__": {}, **FUNCTIONS}, values))
    return Estimate(
        name=name,
        value=value,
        unit=unit,
        formula=formula,
        inputs=values,
        source=weakest(one.source for one in known.values()),
        note=note,
    )


def total(name: str, unit: str, parts: Iterable[Estimate], note: str = "") -> Estimate:
    """The sum of some estimates, each an input under its own name."""
    inputs = {part.name.replace(" ", "_").replace("-", "_"): part.known for part in parts}
    return estimate(name, unit, " + ".join(inputs) or "0", note, **inputs)


def exact(value: float) -> Known:
    """A number that nobody can dispute."""
    return Known(value=float(value), source="exact")


def weakest(sources: Iterable[Source]) -> Source:
    """The least certain of some sources; exact when there are none."""
    return max(sources, key=STRENGTH.index, default="exact")
