"""The subcommands of `omniopsd rationales`: arguments in, one thin call out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omniopsd.rationales.making_commands import add_making
from rationale_cache.types import MODES

CACHE = "cache folder, or a run config with rationale_cache.path"
DATA = "data file of samples; may be repeated (default: those of the run config, when one is given)"


def add_commands(commands: Any) -> None:
    """Add `rationales` and its subcommands."""
    text = "look into a rationale cache, check it, fill it"
    top = commands.add_parser("rationales", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verbs = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_import(verbs)
    _add_export(verbs)
    _add_stats(verbs)
    _add_show(verbs)
    _add_verify(verbs)
    _add_diff(verbs)
    _add_compact(verbs)
    add_making(verbs)


def _import(options: argparse.Namespace) -> None:
    from omniopsd.rationales.place import cache_path
    from omniopsd.rationales.transfer import import_file

    cache, file = cache_path(options.cache), Path(options.file)
    done = import_file(cache, file, source=options.source or file.stem, mode=options.mode)
    empty = f"; {done.empty} rows have no rationale" if done.empty else ""
    print(f"{cache}: {done.new} records added, {done.known} were there{empty}")


def _export(options: argparse.Namespace) -> None:
    from omniopsd.rationales.place import cache_path
    from omniopsd.rationales.transfer import export_file
    from rationale_cache.reader import CacheReader

    with CacheReader(cache_path(options.cache)) as cache:
        chosen = (
            record
            for record in cache.records()
            if options.dataset in (None, record.dataset)
            and options.model in (None, record.request.model)
            and options.mode in (None, record.request.mode)
        )
        count = export_file(chosen, Path(options.file), plain=options.plain)
    print(f"{options.file}: {count} rows")


def _stats(options: argparse.Namespace) -> None:
    from rich.console import Console

    from omniopsd.rationales.place import cache_path, samples_of
    from omniopsd.rationales.stats import cache_stats, print_stats
    from rationale_cache.reader import CacheReader

    samples = samples_of(options.cache, options.data)
    with CacheReader(cache_path(options.cache)) as cache:
        found = cache_stats(cache.records(), samples)
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        print_stats(found, Console())


def _show(options: argparse.Namespace) -> None:
    from rich.console import Console

    from omniopsd.durable import write_durably
    from omniopsd.rationales.page import sample_page
    from omniopsd.rationales.place import cache_path, samples_of
    from omniopsd.rationales.show import show_sample
    from rationale_cache.errors import CacheError
    from rationale_cache.reader import CacheReader

    path = cache_path(options.cache)
    with CacheReader(path) as cache:
        records = cache.of_sample(options.sample, options.dataset)
    if not records:
        raise CacheError(
            f"{path}: no record of a sample {options.sample!r}; `omniopsd rationales stats` lists data sets"
        )
    named = [s for s in samples_of(options.cache, options.data) if s.sample_id == options.sample]
    sample = named[0] if named else None
    if options.html:
        write_durably(Path(options.html), sample_page(options.sample, records, sample).encode())
        print(options.html)
        return
    console = Console()
    show_sample(records, sample, console, pictures=console.is_terminal and console.color_system is not None)


def _verify(options: argparse.Namespace) -> None:
    from omniopsd.rationales.place import cache_path
    from rationale_cache.errors import CacheDamaged
    from rationale_cache.repair import repair
    from rationale_cache.verify import verify

    path = cache_path(options.cache)
    check = verify(path)
    if check.sound:
        waiting = f"; {check.replies} raw replies wait for `make`" if check.replies else ""
        print(
            f"{path}: sound: snapshot {check.snapshot}, {check.records} records in {len(check.segments)} segments{waiting}"
        )
        return
    if options.report_only:
        raise CacheDamaged("\n".join(check.faults))
    done = repair(path)
    if done.lost:
        raise CacheDamaged("\n".join(done.sentences))
    for sentence in done.sentences:
        print(sentence)
    print(f"{path}: mended, nothing is lost: snapshot {done.snapshot}, {done.records} records")


def _diff(options: argparse.Namespace) -> None:
    from rich.console import Console

    from omniopsd.rationales.difference import difference, print_difference
    from omniopsd.rationales.place import cache_path
    from rationale_cache.reader import CacheReader

    with CacheReader(cache_path(options.first)) as one, CacheReader(cache_path(options.second)) as other:
        found = difference(one, other)
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        print_difference(found, Console())


def _compact(options: argparse.Namespace) -> None:
    from omniopsd.rationales.place import cache_path
    from rationale_cache.reader import CacheReader
    from rationale_cache.writer import CacheWriter

    path = cache_path(options.cache)
    with CacheReader(path) as before:  # a wrong path does not become a cache
        segments = len(before.manifest.segments)
    with CacheWriter(path) as cache:
        cache.compact()
    with CacheReader(path) as after:
        print(f"{path}: {segments} segments became {len(after.manifest.segments)}, {len(after)} records")


def _add_import(verbs: Any) -> None:
    command = _verb(verbs, "import", _import, "add rationales made elsewhere, or exported from another cache")
    command.add_argument("cache", metavar="CACHE", help=f"{CACHE}; made when there is none")
    command.add_argument(
        "file", metavar="FILE", help="JSONL or Parquet: an export, or rows with id and rationale"
    )
    command.add_argument(
        "--source", metavar="NAME", help="who made them; part of the key (default: the file's name)"
    )
    command.add_argument(
        "--mode", choices=MODES, help="whether their author saw the label; needed for plain rows"
    )


def _add_export(verbs: Any) -> None:
    command = _verb(verbs, "export", _export, "write records to a JSONL or Parquet file")
    command.add_argument("cache", metavar="CACHE", help=CACHE)
    command.add_argument("file", metavar="FILE", help="file to make, .jsonl or .parquet")
    command.add_argument(
        "--plain", action="store_true", help="only id, dataset and rationale, for other programs"
    )
    command.add_argument("--dataset", metavar="NAME", help="only this data set")
    command.add_argument("--model", metavar="NAME", help="only what this model was asked")
    command.add_argument("--mode", choices=MODES, help="only this mode")


def _add_stats(verbs: Any) -> None:
    command = _verb(verbs, "stats", _stats, "coverage, lengths, cost, models, refusals, duplicates")
    command.add_argument("cache", metavar="CACHE", help=CACHE)
    _data_argument(command)
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_show(verbs: Any) -> None:
    command = _verb(verbs, "show", _show, "one sample's rationales, with its media")
    command.add_argument("cache", metavar="CACHE", help=CACHE)
    command.add_argument("sample", metavar="SAMPLE", help="the sample's id")
    command.add_argument("--dataset", metavar="NAME", help="only this data set")
    _data_argument(command)
    command.add_argument("--html", metavar="FILE", help="write a page instead, media inside")


def _add_verify(verbs: Any) -> None:
    text = "compute every checksum and every key anew; set damage aside"
    command = _verb(verbs, "verify", _verify, text)
    command.add_argument("cache", metavar="CACHE", help=CACHE)
    command.add_argument("--report-only", action="store_true", help="change nothing; needs no lock")


def _add_diff(verbs: Any) -> None:
    command = _verb(verbs, "diff", _diff, "what differs between two caches")
    command.add_argument("first", metavar="A", help=CACHE)
    command.add_argument("second", metavar="B", help=CACHE)
    command.add_argument("--json", action="store_true", help="print JSON, with all names")


def _add_compact(verbs: Any) -> None:
    command = _verb(verbs, "compact", _compact, "merge the cache's segments into as few as there need be")
    command.add_argument("cache", metavar="CACHE", help=CACHE)


def _data_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", action="append", default=[], metavar="FILE", help=DATA)


def _verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    command.set_defaults(run=run)
    return command
