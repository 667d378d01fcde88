"""The nine sets of MER-UniBench: what is asked, which clips are scored, how, and where the official files lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Metric = Literal["hit_rate", "waf", "ew_f1"]


class UnknownSetError(ValueError):
    """A name that is none of the nine sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the official release keeps a set: paths below `folder`, which users also name as in `other_folders`."""

    folder: str
    other_folders: tuple[str, ...]
    labels: str
    video: str
    video_suffixes: tuple[str, ...]
    audio: str
    subtitles: str
    subtitle_column: str
    face: str = "openface_face"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSet:
    """One of the nine. `name` is the key in every score table, `title` the name in print.

    `classes` stand in the order of the integer labels when `integer_labels` is true; `label_range` bounds the
    sentiment value; `split` is the dictionary of the label file that holds the scored clips (None: a CSV), and
    `name_pattern` picks the scored clips of that dictionary; `clips` is the official number of them.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    metric: Metric
    clips: int
    layout: Layout
    split: str | None = None
    name_pattern: str = ""
    classes: tuple[str, ...] = ()
    integer_labels: bool = False
    label_range: tuple[float, float] | None = None


MER_CLASSES = ("neutral", "angry", "happy", "sad", "worried", "surprise")
MELD_CLASSES = ("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise")
IEMOCAP_CLASSES = ("happy", "sad", "neutral", "anger")
POLISHED = "transcription-engchi-polish.csv"


def _layout(
    folder: str,
    *other_folders: str,
    labels: str = "label.npz",
    video: str = "video",
    suffixes: tuple[str, ...] = (".mp4",),
    audio: str = "audio",
    subtitles: str = POLISHED,
    column: str = "english",
) -> Layout:
    return Layout(
        folder=folder,
        other_folders=other_folders,
        labels=labels,
        video=video,
        video_suffixes=suffixes,
        audio=audio,
        subtitles=subtitles,
        subtitle_column=column,
    )


NINE: tuple[BenchSet, ...] = (
    BenchSet(
        name="MER2023",
        title="MER2023",
        aliases=("MER2023-SEMI", "MER2023-MULTI", "MER-MULTI", "MER23"),
        metric="hit_rate",
        clips=411,
        split="test1_corpus",
        classes=MER_CLASSES,
        layout=_layout(
            "mer2023-dataset-process", "mer2023-process", labels="label-6way.npz", suffixes=(".mp4", ".avi")
        ),
    ),
    BenchSet(
        name="MER2024",
        title="MER2024",
        aliases=("MER2024-SEMI", "MER-SEMI", "MER24"),
        metric="hit_rate",
        clips=1169,
        split="test1_corpus",
        classes=MER_CLASSES,
        layout=_layout(
            "mer2024-dataset-process",
            "mer2024-process",
            labels="label-6way.npz",
            suffixes=(".mp4", ".avi"),
            subtitles="transcription_merge.csv",
            column="chinese",
        ),
    ),
    BenchSet(
        name="MELD",
        title="MELD",
        aliases=(),
        metric="hit_rate",
        clips=2610,
        split="test_corpus",
        classes=MELD_CLASSES,
        integer_labels=True,
        layout=_layout("meld-process", video="subvideo", audio="subaudio"),
    ),
    BenchSet(
        name="IEMOCAP",
        title="IEMOCAP",
        aliases=("IEMOCAPFour", "IEMOCAP4", "IEMOCAP-4way", "IEMO"),
        metric="hit_rate",
        clips=1241,
        split="whole_corpus",
        name_pattern=r".{4}5",
        classes=IEMOCAP_CLASSES,
        integer_labels=True,
        layout=_layout(
            "iemocap-process",
            "iemocapfour-process",
            labels="label_4way.npz",
            video="subvideo-tgt",
            suffixes=(".avi",),
            audio="subaudio",
        ),
    ),
    BenchSet(
        name="MOSI",
        title="CMU-MOSI",
        aliases=("CMUMOSI",),
        metric="waf",
        clips=686,
        split="test_corpus",
        label_range=(-3.0, 3.0),
        layout=_layout("cmumosi-process", "mosi-process", video="subvideo", audio="subaudio"),
    ),
    BenchSet(
        name="MOSEI",
        title="CMU-MOSEI",
        aliases=("CMUMOSEI",),
        metric="waf",
        clips=4659,
        split="test_corpus",
        label_range=(-3.0, 3.0),
        layout=_layout("cmumosei-process", "mosei-process", video="subvideo_new", audio="subaudio"),
    ),
    BenchSet(
        name="SIMS",
        title="CH-SIMS",
        aliases=("CHSIMS",),
        metric="waf",
        clips=457,
        split="test_corpus",
        label_range=(-1.0, 1.0),
        layout=_layout("sims-process"),
    ),
    BenchSet(
        name="SIMSv2",
        title="CH-SIMS v2",
        aliases=("CHSIMSv2", "SIMS2", "CHSIMS2"),
        metric="waf",
        clips=1034,
        split="test_corpus",
        label_range=(-1.0, 1.0),
        layout=_layout("simsv2-process", video="video_new"),
    ),
    BenchSet(
        name="OVMERDPlus",
        title="OV-MERD+",
        aliases=("OVMERD+", "OVMERD-Plus", "OV+"),
        metric="ew_f1",
        clips=532,
        layout=_layout(
            "ovmerdplus-process",
            "ovmerd-plus-process",
            labels="ovlabel.csv",
            subtitles="subtitle_eng.csv",
            column="sentence",
        ),
    ),
)


def bench_set(name: str) -> BenchSet:
    """The set of a name; case, spaces, `-` and `_` do not matter. Raises UnknownSetError."""
    wanted = _plain(name)
    for one in NINE:
        names = (one.name, one.title, *one.aliases, one.layout.folder, *one.layout.other_folders)
        if wanted in {_plain(known) for known in names}:
            return one
    raise UnknownSetError(
        f"{name!r} is not a set of MER-UniBench; write one of {', '.join(one.name for one in NINE)}"
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()
