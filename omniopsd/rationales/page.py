"""One sample's rationales as an HTML page with everything inside: stills, waveform, players, cues, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import omniopsd
from omniopsd.rationales.show import cue_text, facts
from omniopsd.report_media import MediaShelf
from omniopsd.samples import Sample
from rationale_cache.types import RationaleRecord


def sample_page(sample_id: str, records: Sequence[RationaleRecord], sample: Sample | None) -> str:
    """The page. Every text is escaped: rationales are other people's words."""
    style = Path(omniopsd.__file__).with_name("report.css").read_text(encoding="utf-8")
    body = "".join(_card(record) for record in records)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(sample_id)}</title><style>{style}</style></head><body><main>"
        f'<header class="top"><p class="brand">OmniOPSD rationales</p><h1>{escape(sample_id)}</h1></header>'
        f"{_sample(sample)}{body}</main></body></html>\n"
    )


def _sample(sample: Sample | None) -> str:
    if sample is None:
        return '<p class="note">The sample is not in a data file that was given: no media to show.</p>'
    paths = sample.inputs.paths
    media = MediaShelf().html(*([str(Path(paths.root, name)) for name in paths.of(kind)]
                                for kind in ("video", "audio", "image")))  # fmt: skip
    labels = f'<p class="note">Labels: {escape(", ".join(sample.labels))}</p>' if sample.labels else ""
    return f"{media}{labels}"


def _card(record: RationaleRecord) -> str:
    title = f"{record.request.mode}, {record.model_answered or record.request.model}, {record.made_at:%Y-%m-%d %H:%M} UTC"
    text = record.text if record.text is not None else f"no rationale: {record.reason}"
    cues = "".join(f"<li>{escape(cue_text(cue))}</li>" for cue in record.cues)
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts(record)
    )
    return (
        f"<h2>{escape(title)}</h2><pre>{escape(text)}</pre>{f'<ul>{cues}</ul>' if cues else ''}"
        f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'
    )
