"""How much can be told from a voice that is only measured? Emotions of unseen speakers by logistic regression.

    uv pip install --target runs/ravdess/smile opensmile==2.6.0 scikit-learn==1.9.1
    PYTHONPATH=runs/ravdess/smile python -m benchmarks.ravdess_evidence --clips RAVDESS_FOLDER --out FILE

An upper bound for rationales that are written without the label: the four measures of the example and
their words, and the 88 functionals of openSMILE's eGeMAPSv02. Speakers as in the example: trained on
actors 1 to 14, tested on 17 to 20. All but the raw functionals are relative to the speaker's own clips.
openSMILE is free for research only; neither package is needed elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "ravdess"))

import make_data
import voice_evidence

PENALTIES = (0.01, 0.1, 1.0, 10.0)
STEPS = (-1.2, -0.4, 0.4, 1.2)  # standard deviations: "very low" to "very high"


def main() -> None:
    options = _arguments()
    clips = make_data.read_clips(options.clips)
    waves = [make_data.read_wave(clip.path) for clip in clips]
    voices = [voice_evidence.measure(wave) for wave in waves]
    actors = np.array([clip.actor for clip in clips])
    cues = make_data.measured_cues(
        clips, {clip.name: voice for clip, voice in zip(clips, voices, strict=True)}
    )
    measures = np.array([[np.log2(v.pitch), v.melody, v.loudness, np.log(v.pace)] for v in voices])
    functionals = smile(waves)
    by_speaker = beside_speaker(functionals, actors)
    kinds = {
        "cues in words": one_hot([[cue.word for cue in cues[clip.name]] for clip in clips]),
        "measures": beside_speaker(measures, actors),
        "eGeMAPS, raw": functionals,
        "eGeMAPS": by_speaker,
        "eGeMAPS in five steps": one_hot(np.digitize(by_speaker, STEPS).tolist()),
    }
    labels = [clip.emotion for clip in clips]
    results = {name: accuracies(values, labels, actors) for name, values in kinds.items()}
    text = json.dumps({"penalties": PENALTIES, "accuracy": results}, indent=1)
    Path(options.out).write_text(text + "\n")
    print(text)


def accuracies(values: np.ndarray, labels: Sequence[str], actors: np.ndarray) -> list[float]:
    """On the test speakers, for each penalty."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = (np.isin(actors, list(make_data.ACTORS[name])) for name in ("train", "test"))
    names = np.array(labels)
    found = []
    for penalty in PENALTIES:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=3000))
        model.fit(values[train], names[train])
        found.append(round(float(model.score(values[test], names[test])), 3))
    return found


def beside_speaker(values: np.ndarray, actors: np.ndarray) -> np.ndarray:
    """Values [N,D] less the speaker's median, in the speaker's standard deviations."""
    out = np.empty_like(values)
    for actor in set(actors.tolist()):
        own = values[actors == actor]
        out[actors == actor] = (own - np.median(own, 0)) / (own.std(0) + 1e-9)
    return out


def one_hot(columns: Sequence[Sequence[object]]) -> np.ndarray:
    from sklearn.preprocessing import OneHotEncoder

    return np.asarray(OneHotEncoder(sparse_output=False).fit_transform(columns))


def smile(waves: Sequence[np.ndarray]) -> np.ndarray:
    """openSMILE's functionals [N,88]."""
    import opensmile

    extractor = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    return np.concatenate(
        [extractor.process_signal(wave, voice_evidence.RATE).to_numpy(float) for wave in waves]
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", required=True, help="folder with RAVDESS speech")
    parser.add_argument("--out", required=True, help="JSON file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
