"""Published results on MER-UniBench, to stand beside a run's own in its tables. Percent, copied as printed.

Sources: (a) the AffectGPT paper (arXiv 2501.16566); (b) Table 1 of OmniOPSD (arXiv 2606.15920), whose baselines are
copied from other papers; (c) arXiv 2607.12787 and (d) arXiv 2606.27652, read in a summary only. AffectGPT's numbers
take the best checkpoint of each set on the test set itself.
"""

from __future__ import annotations

from dataclasses import dataclass

ORDER = ("MER2023", "MER2024", "MELD", "IEMOCAP", "MOSI", "MOSEI", "SIMS", "SIMSv2", "OVMERDPlus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One printed row; `scores` in the order of `ORDER`, empty where only the mean is known."""

    system: str
    inputs: str
    scores: tuple[float, ...]
    mean: float
    source: str


def _row(system: str, source: str, mean: float, *scores: float, inputs: str = "A+V+T") -> Published:
    return Published(system=system, inputs=inputs, scores=scores, mean=mean, source=source)


PUBLISHED: tuple[Published, ...] = (
    _row("PandaGPT", "a", 52.92, 40.21, 51.89, 37.88, 44.04, 61.92, 67.61, 68.38, 67.23, 37.12),
    _row("R1-Omni", "b", 59.61, 64.17, 67.43, 43.20, 51.58, 58.02, 56.48, 71.82, 68.58, 55.24),
    _row("Emotion-LLaMA", "a", 64.17, 59.38, 73.62, 46.76, 55.47, 66.13, 67.66, 78.32, 77.23, 52.97),
    _row(
        "AffectGPT, Qwen3-8B retrain",
        "c",
        73.93,
        76.72,
        79.68,
        55.99,
        59.32,
        78.46,
        78.48,
        88.30,
        86.94,
        61.47,
    ),
    _row("Light-MER 0.6B", "c", 74.61, 75.66, 80.04, 57.02, 61.46, 80.04, 77.23, 89.05, 87.74, 63.28),
    _row("AffectGPT", "a", 74.77, 78.54, 78.80, 55.65, 60.54, 81.30, 80.90, 88.49, 86.18, 62.52),
    _row("Emotion-LLaMAv2", "b", 78.91, 77.28, 86.90, 51.32, 84.05, 86.28, 87.69, 87.72, 86.02, 62.90),
    _row("AffectGPT-R1", "b", 79.48, 84.32, 93.75, 63.12, 74.26, 79.39, 79.24, 88.25, 84.97, 68.05),
    _row("MER-R1 (Qwen2.5-Omni)", "d", 83.50),
    _row("OmniOPSD", "b", 84.19, 85.79, 92.43, 71.89, 89.09, 90.06, 89.03, 90.76, 89.14, 59.52),
    _row(
        "AffectGPT", "a", 72.18, 72.94, 73.41, 56.63, 55.68, 83.46, 80.74, 82.99, 83.75, 59.98, inputs="A+T"
    ),
    _row(
        "AffectGPT-R1",
        "b",
        77.24,
        81.69,
        93.49,
        63.74,
        63.85,
        80.13,
        80.01,
        84.49,
        82.31,
        65.49,
        inputs="A+T",
    ),
    _row("OmniOPSD", "b", 80.81, 77.27, 86.47, 71.06, 86.50, 88.90, 87.37, 87.14, 86.52, 56.09, inputs="A+T"),
    _row(
        "AffectGPT", "a", 74.31, 74.58, 75.29, 57.63, 62.19, 82.39, 81.57, 87.20, 86.29, 61.65, inputs="V+T"
    ),
    _row(
        "AffectGPT-R1",
        "b",
        75.95,
        77.72,
        85.29,
        61.09,
        67.42,
        78.78,
        79.07,
        85.91,
        85.85,
        62.42,
        inputs="V+T",
    ),
    _row("OmniOPSD", "b", 79.74, 76.32, 85.27, 68.16, 79.84, 88.29, 88.12, 87.53, 87.94, 56.24, inputs="V+T"),
)
SOURCES = (
    "(a) AffectGPT, arXiv 2501.16566; (b) OmniOPSD, arXiv 2606.15920, baselines copied from other papers; "
    "(c) arXiv 2607.12787, second hand; (d) arXiv 2606.27652, second hand."
)
