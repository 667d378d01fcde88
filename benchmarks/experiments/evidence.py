"""docs/evidence.md and its figures, made of the raw JSON alone.

    python -m benchmarks.experiments.evidence

Nothing in the page is written by hand but the sentences of the YAMLs and of this file, so a run more changes the
page, and a test fails while the page is not what this script writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.experiments.charts import intervals
from benchmarks.experiments.spec import Claim, Experiment, read_experiment
from benchmarks.experiments.speech import speech
from benchmarks.experiments.summary import Estimate, Results, estimate, line, paired, read_results, values
from benchmarks.experiments.tables import table

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "experiments"
PAGE = ROOT / "docs" / "evidence.md"
FIGURES = ROOT / "docs" / "figures"
SPEECH = ROOT / "benchmarks" / "results" / "ravdess_arms.json"
HEAD = """# Evidence

Controlled experiments with mini-omni (a Qwen2.5-Omni thinker of about two million parameters) on mer-mini, drawn and
spoken clips made by a program. They test the mechanism and the code at a scale where seeds are cheap. **Nothing
here is a MER-UniBench result**, and no figure here says how a model of billions of parameters will do.

Made by `python -m benchmarks.experiments.evidence` from the raw JSON in `benchmarks/results/experiments/`; each
experiment runs by `python -m benchmarks.experiments benchmarks/experiments/NAME.yaml` and goes on where it was
broken off. Every arm runs through the same loop, learner and evaluation; the seeds decide training clips, order and
sampling, and arms are compared seed by seed. Intervals are Student's t over seeds, 95 %. "Not told apart" is what it
says: no proof that two arms are alike. Verdicts are not corrected for their number: of twenty, one may be chance.

Tests: **in-domain** new clips as in training; **looks** other faces, colours and voices; **noise** over frames,
picture and sound; **missing** one medium taken away; **conflict** the words say another emotion than face, voice and
posture (no such clip is trained on). Chance is 0.17. Rationales are free text, a quarter of them wrong in one
modality. Calibration is of the answer given the reasoning that the model wrote before it.
"""


def main() -> None:
    """Write the page and the figures."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    page, figures = build()
    PAGE.write_text(page)
    for name, content in figures.items():
        (FIGURES / name).write_text(content)
    print(f"wrote {PAGE} and {len(figures)} figures")


def build() -> tuple[str, dict[str, str]]:
    """The page, and the figures by file name."""
    experiments = [read_experiment(path) for path in sorted(Path(__file__).parent.glob("*.yaml"))]
    results = {e.name: read_results(RESULTS / e.name) for e in experiments}
    page, figures = [HEAD], {}
    for experiment in experiments:
        own = results[experiment.name]
        page.append(f"## {experiment.name}\n\n{experiment.question}\n")
        if not own:
            page.append("Not run yet.\n")
            continue
        page.append(_seeds(experiment, own))
        page += _tables(experiment, own, results)
        name = f"evidence-{experiment.name}.svg"
        figures[name] = intervals(f"{experiment.name}: accuracy", _bars(experiment, own))
        page.append(f"![Accuracy by arm and test, with intervals](figures/{name})\n")
        if experiment.claims:
            page.append(_claims(experiment.claims, experiment.name, results))
        if experiment.alarms:
            page.append(_alarms(own))
        if experiment.gap:
            page.append(_gap(experiment, own))
    page.append(speech(SPEECH))
    return "\n".join(page), figures


def _seeds(experiment: Experiment, own: Results) -> str:
    counts = {arm: len(own.get(arm, {})) for arm in experiment.arms}
    whole = min(counts.values())
    text = f"Seeds that stand for every arm: {whole} of {experiment.seeds}."
    if len(set(counts.values())) > 1:
        text += " By arm: " + ", ".join(f"{arm} {count}" for arm, count in counts.items()) + "."
    return text + f" Items of each test: {experiment.test_clips}.\n"


def _tables(experiment: Experiment, own: Results, results: dict[str, Results]) -> list[str]:
    arms = [arm for arm in experiment.arms if arm in own]
    accuracy = [
        [
            arm,
            *(
                _show(estimate(list(values(own[arm], test, "accuracy").values())))
                for test in experiment.tests
            ),
        ]
        for arm in arms
    ]
    tables = ["Accuracy.\n", table(["arm", *experiment.tests], accuracy)]
    told = [arm for arm in arms if any("tests_with_evidence" in run for run in own[arm].values())]
    if told:
        rows = [[arm, *_row(own, arm, experiment, "tests_with_evidence")] for arm in told]
        tables += [
            "Accuracy with the rationale in the prompt at test time.\n",
            table(["arm", *experiment.tests], rows),
        ]
    tables += ["In-domain.\n", _more(own, arms)]
    differences = _differences(experiment, own, results, arms)
    if differences:
        tables += [
            f"Accuracy less that of {experiment.reference}, seed by seed.\n",
            table(["arm", *experiment.tests], differences),
        ]
    return tables


def _row(own: Results, arm: str, experiment: Experiment, part: str) -> list[str]:
    found = [values(own[arm], test, "accuracy", part) for test in experiment.tests]
    return [_show(estimate(list(one.values()))) if one else "" for one in found]


def _more(own: Results, arms: Sequence[str]) -> str:
    columns = {
        "macro-F1": "macro_f1",
        "calibration error": "calibration_error",
        "Brier": "brier",
        "form": "format_rate",
        "tokens": "length",
        "tokens, 95th pct": "length_p95",
        "distinct texts": "distinct_texts",
        "distinct answers": "distinct_answers",
    }
    rows = []
    for arm in arms:
        means = [
            estimate(list(values(own[arm], "in-domain", name).values())).mean for name in columns.values()
        ]
        rows.append([arm, *(f"{mean:.1f}" if mean > 1.5 else f"{mean:.2f}" for mean in means)])
    return table(["arm", *columns], rows)


def _differences(
    experiment: Experiment, own: Results, results: dict[str, Results], arms: Sequence[str]
) -> list[list[str]]:
    rows = []
    for arm in arms:
        if arm == experiment.reference:
            continue
        found = [
            _difference(experiment.name, arm, experiment.reference, test, results)
            for test in experiment.tests
        ]
        if all(found):
            rows.append([arm, *(f"{_signed(d)} {d.verdict()}" for d in found if d)])
    return rows


def _difference(name: str, one: str, other: str, test: str, results: dict[str, Results]) -> Estimate | None:
    pair = [_accuracies(name, arm, test, results) for arm in (one, other)]
    return paired(*pair)


def _accuracies(name: str, arm: str, test: str, results: dict[str, Results]) -> dict[int, float]:
    """By seed; `arm` as in a claim."""
    arm, _, evidence = arm.partition("@")
    experiment, _, own = arm.rpartition("/")
    runs = results.get(experiment or name, {}).get(own, {})
    return values(runs, test, "accuracy", "tests_with_evidence" if evidence else "tests")


def _claims(claims: Sequence[Claim], name: str, results: dict[str, Results]) -> str:
    rows = []
    for claim in claims:
        for test in claim.tests:
            found = _difference(name, claim.better, claim.worse, test, results)
            if found is not None:
                rows.append([claim.says, test, _signed(found), str(found.seeds), _judged(claim, found)])
    return "What was expected, and what came. Difference in accuracy, seed by seed.\n\n" + table(
        ["claim", "test", "difference", "seeds", "verdict"], rows
    )


def _judged(claim: Claim, found: Estimate) -> str:
    """Held, refuted, open, or one seed; a claim of no gain holds unless there is one."""
    verdict = found.verdict()
    if verdict == "one seed":
        return verdict
    if not claim.gain:
        return "refuted" if verdict == "higher" else "held"
    return {"higher": "held", "lower": "refuted"}.get(verdict, "open")


def _alarms(own: Results) -> str:
    """When each alarm first held, run by run, and `format_rate` on the way."""
    rows = []
    for arm, runs in own.items():
        for seed, run in sorted(runs.items()):
            first = [f"{name} at step {step}" for name, step in sorted(run["first_alarms"].items())]
            rates = run["curves"]["format_rate"]
            shown = [f"{rates[at - 1]:.2f}" for at in (1, 10, 15, 20, 30) if at <= len(rates)]
            rows.append([arm, str(seed), ", ".join(first) or "none", " ".join(shown)])
    return "First alarms, with the default thresholds.\n\n" + table(
        ["arm", "seed", "alarms", "form at steps 1, 10, 15, 20, 30"], rows
    )


def _gap(experiment: Experiment, own: Results) -> str:
    """Gain over the start model against the pre-flight gap, over all arms and seeds."""
    points = []
    for runs in own.values():
        for run in runs.values():
            gap = run["teacher_gap"]["teacher"] - run["teacher_gap"]["student"]
            accuracy = run["tests"]["in-domain"]["measures"]["accuracy"]
            points.append((gap, accuracy - run["teacher_gap"]["student"]))
    if len({gap for gap, _ in points}) < 3:
        return "Too few levels for a line.\n"
    slope, intercept, fit = line(points)
    return (
        f"In-domain accuracy less the start model's on its training clips, against teacher less student there: "
        f"slope {slope:.2f}, intercept {intercept:+.2f}, R² {fit:.2f} over {len(points)} runs.\n"
    )


def _bars(experiment: Experiment, own: Results) -> list[tuple[str, list[tuple[str, Estimate]]]]:
    return [
        (
            arm,
            [
                (test, estimate(list(values(own[arm], test, "accuracy").values())))
                for test in experiment.tests
            ],
        )
        for arm in experiment.arms
        if arm in own
    ]


def _show(one: Estimate) -> str:
    return f"{one.mean:.3f}" + ("" if one.half is None else f" ± {one.half:.3f}")


def _signed(one: Estimate) -> str:
    return f"{one.mean:+.3f}" + ("" if one.half is None else f" ± {one.half:.3f}")


if __name__ == "__main__":
    main()
