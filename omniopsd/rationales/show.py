"""One sample's rationales in the terminal, with small pictures of its media where the terminal has colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av.error
import numpy as np
from PIL import Image
from rich.console import Console
from rich.text import Text

from omniopsd.report_media import video_stills, waveform
from omniopsd.samples import Sample
from rationale_cache.types import Cue, RationaleRecord
from rollout.messages import Part, TextPart

ROWS, FRAMES, COLUMNS = 12, 3, 78
BARS = " ▁▂▃▄▅▆▇█"


def show_sample(
    records: Sequence[RationaleRecord], sample: Sample | None, console: Console, *, pictures: bool
) -> None:
    """Print a sample's question, media and records."""
    if sample is not None:
        for message in sample.inputs.messages:
            console.print(Text(f"{message.role}: {_plain(message.parts)}", style="dim"))
        for line in media_lines(sample, pictures=pictures):
            console.print(line, soft_wrap=True)  # a path stays one word
    for record in records:
        for line in record_lines(record):
            console.print(line)


def record_lines(record: RationaleRecord) -> Iterator[Text]:
    """A record as text, the evidence first."""
    yield Text()
    yield Text(
        f"{record.request.mode} · {_models(record)} · {record.made_at:%Y-%m-%d %H:%M} UTC", style="bold"
    )
    if record.text is None:
        yield Text(f"no rationale: {record.reason}", style="yellow")
    else:
        yield Text(record.text)
    yield from (Text(f"  {cue_text(cue)}") for cue in record.cues)
    for name, value in facts(record):
        yield Text(f"{name:>9}  {value}", style="dim")


def facts(record: RationaleRecord) -> Iterator[tuple[str, str]]:
    """Where a record comes from, as pairs for people."""
    usage = record.usage
    cost = "price not known" if record.cost is None else f"${record.cost:.4f}"
    yield "key", record.key
    yield "prompt", f"{record.request.prompt_hash[:12]}, sampling {record.request.sampling}"
    if record.request.label is not None:
        yield "label", ", ".join(record.request.label)
    yield "usage", f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens, {cost}"
    yield "reply", f"{record.finish_reason or '-'} after {record.attempts} attempts, {record.latency:.1f} s"
    for verdict in record.verdicts:
        yield (
            "filter",
            f"{verdict.filter}: {'passed' if verdict.passed else 'failed'} {verdict.detail}".rstrip(),
        )


def cue_text(cue: Cue) -> str:
    """A cue with its span."""
    times = [f"{time:.2f}" for time in (cue.start, cue.end) if time is not None]
    span = f" {' to '.join(times)} s" if times else ""
    return f"[{cue.modality}{span}] {cue.text}"


def media_lines(sample: Sample, *, pictures: bool) -> Iterator[Text]:
    """The media of a sample: pictures and waveforms, or their names alone."""
    paths = sample.inputs.paths
    for kind, names in (("video", paths.videos), ("audio", paths.audios), ("image", paths.images)):
        for name in names:
            path = Path(paths.root, name)
            yield Text(f"{kind} {path}", style="cyan")
            if not pictures:
                continue
            try:
                yield from _picture_lines(path, kind)
            except (OSError, ValueError, av.error.FFmpegError) as error:
                yield Text(f"  cannot be shown: {error}", style="yellow")


def _picture_lines(path: Path, kind: str) -> Iterator[Text]:
    if kind == "image":
        with Image.open(path) as image:
            yield from half_blocks([image.convert("RGB")])
        return
    if kind == "video":
        yield from half_blocks(video_stills(path, FRAMES))
    if (wave := waveform(path)) is not None:
        yield Text(bars(wave, COLUMNS), style="green")


def half_blocks(images: Sequence[Image.Image]) -> list[Text]:
    """Pictures side by side, two pixels to a character: the upper one is its ink, the lower one its paper."""
    most = COLUMNS // len(images) - 1
    arrays = []
    for image in images:
        scale = min(2 * ROWS / image.height, most / image.width)
        size = (max(1, round(image.width * scale)), max(2, round(image.height * scale) // 2 * 2))
        arrays.append(np.asarray(image.convert("RGB").resize(size)))
    height = max(len(pixels) for pixels in arrays)
    lines = []
    for row in range(0, height, 2):
        line = Text()
        for pixels in arrays:
            for upper, lower in zip(*pixels[row : row + 2], strict=True) if row < len(pixels) else ():
                line.append("▀", style=f"rgb({_rgb(upper)}) on rgb({_rgb(lower)})")
            line.append(" ")
        lines.append(line)
    return lines


def bars(wave: np.ndarray, columns: int) -> str:
    """A waveform as one line of bars, scaled to its loudest column."""
    loud = np.abs(wave).max(axis=0)
    columns = min(columns, len(loud))
    peaks = np.array([part.max() for part in np.array_split(loud, columns)])
    levels = np.ceil(peaks / max(float(peaks.max()), 1e-6) * (len(BARS) - 1)).astype(int)
    return "".join(BARS[level] for level in levels)


def _rgb(pixel: np.ndarray) -> str:
    return ",".join(str(int(value)) for value in pixel)


def _models(record: RationaleRecord) -> str:
    asked, answered = record.request.model, record.model_answered
    return asked if answered in ("", asked) else f"{asked} (answered as {answered})"


def _plain(parts: Sequence[Part]) -> str:
    return "".join(part.text if isinstance(part, TextPart) else f"<{part.kind}>" for part in parts)
