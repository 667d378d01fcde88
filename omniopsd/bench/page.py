"""`report.html` of a benchmark run: one file with everything inside, without scripts, readable years later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import yaml

import omniopsd.report
from omniopsd.bench.board import GAMED, Board
from omniopsd.bench.confusion import ClipResult, Confusion
from omniopsd.bench.datasets import NINE
from omniopsd.bench.published import ORDER, PUBLISHED, SOURCES
from omniopsd.bench.scoring import ScoredSet, percent
from omniopsd.report import POLICY
from omniopsd.report_media import MediaShelf

WORST = 4
LEVELS = 6
MEDIA_BYTES = 12_000_000
STYLE = (
    ".marks{border-left:4px solid var(--secret-line);background:var(--secret);padding:10px 16px 10px 30px;"
    "border-radius:0 8px 8px 0;margin:18px 0 0;font-size:14px}"
    "td.n,th.n{text-align:right} td.h{text-align:center;padding:6px 8px} tr.own th,tr.own td{font-weight:650}"
    ".dim td,.dim th{color:var(--soft)} h3{margin:26px 0 8px} .card h3{margin:0}"
    "#scores td,#scores th{padding:7px 8px;font-size:13.5px}"
    "#confusion thead th{text-align:center} #confusion thead th:first-child{text-align:left}"
)


def bench_page(board: Board, worst: Mapping[str, Sequence[ClipResult]]) -> str:
    """The whole page; `worst` holds each set's clips, worst first."""
    shelf = MediaShelf(MEDIA_BYTES)
    body = [
        _header(board),
        _section("scores", "Scores", _score_table(board) + f'<p class="note">{escape(_notes(board))}</p>'),
        _section("intervals", "95 % intervals", _interval_table(board)),
        _section("labels", "Labels and what the metric hides", _habit_table(board)),
        _section("sanity", "Answers without a model", _sanity_table(board)),
    ]
    if any(board.conditions.values()):
        body.append(_section("conditions", "By condition", _condition_table(board)))
    body.append(
        _section("confusion", "Classes", "".join(_confusion(board, one) for one in board.scored.sets))
    )
    clips = "".join(_worst(one, worst[one.score.name], shelf) for one in board.scored.sets)
    body.append(_section("worst", "Worst clips", clips))
    facts = yaml.safe_dump(dict(board.facts), sort_keys=False, allow_unicode=True)
    body.append(
        _section(
            "facts",
            "How it was made",
            f"<details><summary>Facts</summary><pre>{escape(facts)}</pre></details>",
        )
    )
    css = Path(omniopsd.report.__file__).with_name("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(board.title)}</title><style>{css}{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _header(board: Board) -> str:
    tiles = ""
    if board.scored.mean is not None:
        low, high = board.intervals["mean"]
        tiles = (
            f'<div class="tiles"><div class="tile"><b>{board.score_cells()["mean"]}</b><span>mean of nine, '
            f"95 % {100 * low:.1f} to {100 * high:.1f}</span></div></div>"
        )
    marks = "".join(f"<li>{escape(mark)}</li>" for mark in board.marks)
    links = "".join(
        f'<a href="#{anchor}">{title}</a>'
        for anchor, title in (("scores", "Scores"), ("labels", "Labels"), ("sanity", "Without a model"),
                              ("confusion", "Classes"), ("worst", "Worst clips"), ("facts", "Facts"))
    )  # fmt: skip
    return (
        f'<header class="top"><p class="brand">OmniOPSD benchmark</p><h1>{escape(board.title)}</h1>{tiles}'
        f'<ul class="marks">{marks}</ul><nav>{links}</nav></header>'
    )


def _notes(board: Board) -> str:
    return SOURCES if board.comparable else "These are not scores on MER-UniBench."


def _score_table(board: Board) -> str:
    titles = {one.name: one.title for one in NINE}
    head = ["System", "Inputs", *(titles[name] for name in ORDER), "Mean", "Source"]
    cells = board.score_cells()
    rows = [_row([board.system, board.inputs, *_ordered(cells), "this run"], css="own")]
    if board.comparable:
        rows += [
            _row(
                [
                    p.system,
                    p.inputs,
                    *([f"{s:.2f}" for s in p.scores] or [""] * len(ORDER)),
                    f"{p.mean:.2f}",
                    p.source,
                ],
                css="dim",
            )
            for p in PUBLISHED
        ]
    return _table(head, rows)


def _ordered(cells: Mapping[str, str]) -> list[str]:
    return [cells.get(name, "\u2013") for name in (*ORDER, "mean")]


def _interval_table(board: Board) -> str:
    values = {one.score.name: one.score.safe for one in board.scored.sets}
    if board.scored.safe_mean is not None:
        values["mean"] = board.scored.safe_mean / 100
    rows = []
    for name, value in values.items():
        low, high = board.intervals[name]
        text = f"{100 * low:.1f} to {100 * high:.1f}"
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td class="n">{100 * value:.2f}</td><td class="n">{text}</td>'
            f'<td class="plot">{_plot(value, low, high)}</td></tr>'
        )
    note = "1,000 bootstrap samples of the clips, percentile method; a wheel without a value counts 0 here."
    return _table(["Set", "Score", "95 %", "0 to 100"], rows) + f'<p class="note">{note}</p>'


def _plot(value: float, low: float, high: float) -> str:
    def x(share: float) -> float:
        return 5 + 200 * min(1.0, max(0.0, share))

    grid = "".join(
        f'<line class="grid" x1="{at}" x2="{at}" y1="0" y2="16"/>' for at in (5, 55, 105, 155, 205)
    )
    return (
        f'<svg viewBox="0 0 210 16" role="img" aria-label="score with interval">{grid}'
        f'<line class="line c1" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="8" y2="8"/>'
        f'<circle class="dot c1" cx="{x(value):.1f}" cy="8" r="3.5"/></svg>'
    )


def _habit_table(board: Board) -> str:
    cells = {one.bench_set.title: board.habit_cells(one) for one in board.scored.sets}
    rows = [_row([title, *values.values()]) for title, values in cells.items()]
    kept = "kept: clips that count, on each wheel (neutral and words that a wheel does not have drop out). "
    cut = "cut: replies that ended at the length limit. no media: clips counted as wrong. "
    return (
        _table(["Set", *next(iter(cells.values()))], rows)
        + f'<p class="note">{escape(kept + cut + GAMED)}</p>'
    )


def _sanity_table(board: Board) -> str:
    names = [one.score.name for one in board.scored.sets]
    rows = [_row(["This run", *(board.score_cells()[name] for name in names)], css="own")]
    for one in board.sanity:
        found = [one.scores.get(name) for name in names]
        rows.append(_row([one.name, *(percent(score.safe) if score else "\u2013" for score in found)]))
    return _table(["Answer", *names], rows)


def _condition_table(board: Board) -> str:
    head, *rows = board.condition_rows()
    return _table(head, [_row(cells) for cells in rows])


def _confusion(board: Board, one: ScoredSet) -> str:
    confusion: Confusion = board.confusions[one.score.name]
    rows = []
    for name, count, shares in zip(confusion.rows, confusion.counts, confusion.shares, strict=True):
        heat = "".join(
            f'<td class="h d{round(LEVELS * min(1.0, share))}">{share:.0%}</td>' for share in shares
        )
        rows.append(f'<tr><th scope="row">{escape(name)}<small>n = {count:,}</small></th>{heat}</tr>')
    return (
        f"<h3>{escape(one.bench_set.title)}</h3>{_table(['Gold', *confusion.columns], rows)}"
        f'<p class="note">{escape(confusion.note)}</p>'
    )


def _worst(one: ScoredSet, clips: Sequence[ClipResult], shelf: MediaShelf) -> str:
    paths = {sample.sample_id.partition("/")[2]: sample.inputs.paths for sample in one.prepared.samples}
    shown = [clip for clip in clips if clip.value < 1 and clip.name in paths][:WORST]
    cards = "".join(_card(one, clip, shelf) for clip in shown)
    return f'<h3>{escape(one.bench_set.title)}</h3><div class="cards">{cards or "<p>none</p>"}</div>'


def _card(one: ScoredSet, clip: ClipResult, shelf: MediaShelf) -> str:
    sample = next(s for s in one.prepared.samples if s.sample_id.partition("/")[2] == clip.name)
    root = Path(sample.inputs.paths.root)
    media = shelf.html(
        [str(root / path) for path in sample.inputs.paths.videos],
        [str(root / path) for path in sample.inputs.paths.audios],
        [],
    )
    facts = [("gold", str(one.prepared.gold[clip.name])), ("step A", one.labels[clip.name])]
    if clip.name in one.polarity:
        facts.append(("step B", one.polarity[clip.name]))
    listed = "".join(f"<div><h4>{name}</h4><p>{escape(text)}</p></div>" for name, text in facts)
    return (
        f'<article class="card"><header><h3>{escape(clip.name)}</h3><p class="facts">'
        f"<span>{100 * clip.value:.0f} of 100</span></p></header>{media}"
        f'<div class="sides"><div>{listed}</div><div><h4>The model said</h4>'
        f'<p class="tokens">{escape(one.replies[clip.name])}</p></div></div></article>'
    )


def _section(anchor: str, title: str, body: str) -> str:
    return f'<section id="{anchor}"><h2>{title}</h2>{body}</section>'


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _row(cells: Sequence[str], css: str = "") -> str:
    return f'<tr class="{css}">{"".join(_cells(cells))}</tr>'


def _cells(cells: Sequence[str]) -> Iterator[str]:
    for at, cell in enumerate(cells):
        yield f'<th scope="row">{escape(cell)}</th>' if at == 0 else f"<td>{escape(cell)}</td>"
