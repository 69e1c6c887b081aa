"""`python -m treadle.operate score`: files in, scores out, once; for a Job, and for anybody.

Exit codes are the command line's: 2 and 3 for input that no second try would make right, 4 where the
object store does not answer, 1 for everything else; 143 when the process was told to end. What came
of it is also written to `--result` as JSON, for whoever started the process.
"""
# ruff: noqa: RUF009 - `option` is dataclasses.field

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.base import clock
from treadle.base.digest import digest
from treadle.base.errors import StateCorrupt, TreadleError, UsageError
from treadle.operate import options as settings
from treadle.operate import threads
from treadle.operate.options import count, file, label, names, natural, option, word, yes

if TYPE_CHECKING:
    from treadle.operate.scoring.scorer import ScoreReport

ENDED = 143
"""The exit code of a process that was told to end (128 + SIGTERM)."""
_MOST = 4096
"""Kubernetes keeps so much of what a container leaves (terminationMessagePath)."""
_log = logging.getLogger("treadle.score")


@dataclass(frozen=True)
class Options:
    """What one scoring is to do."""

    model: Path = option(file, Path(), "MLflow model directory", metavar="DIR")
    input: str = option(str, "", "files or a glob: a path, claim://NAME/PATH, s3://BUCKET/KEY")
    output: str = option(str, "", "a .parquet file, or a folder (…/), in the same words")
    prefix: str = option(word, "scores", "in a folder: begin of the file's name, before the time")
    environment: str = option(word, "local", "first part of every prediction id")
    release: int = option(natural, 0, "second part of every prediction id")
    instance: str | None = option(word, None, "third part of every prediction id; random")
    record: str = option(label, "", "digest of the model's record, a lineage column")
    run: str = option(label, "", "the run that made it, a lineage column")
    content: str = option(label, "", "digest of the model directory, compared")
    files: Path | None = option(
        file, None, "a file {path: digest}: every file of the model is compared", metavar="JSON"
    )
    features: tuple[str, ...] = option(names, (), "columns that must be there")
    chunk_rows: int = option(count, 50_000, "in memory at once")
    force: bool = option(yes, False, "replace an output that exists (of a folder never)")
    trust_pickle: bool = option(yes, False, "load formats that can run code")
    threads: int | None = option(count, None, "of a prediction; the CPUs of the container")
    claims: Path = option(file, Path("/claims"), "where claims are mounted", metavar="DIR")
    s3_endpoint: str | None = option(label, None, "of an object store that is not Amazon's")
    s3_region: str | None = option(label, None, "of the bucket")
    result: Path | None = option(file, None, "what came of it, as JSON", metavar="FILE")


SETTINGS = settings.settings_of(Options)


class _Ended(BaseException):
    """The process was told to end."""


def add_arguments(commands: Any) -> None:
    """The command `score` and its arguments."""
    parser = commands.add_parser(
        "score", help="score files into Parquet", allow_abbrev=False,
        epilog="Each option is also a variable: --chunk-rows is TREADLE_CHUNK_ROWS. The object "
        "store's keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    )  # fmt: skip
    for target, setting in SETTINGS.items():
        settings.add_argument(parser, target, setting)


def run(arguments: argparse.Namespace, environ: MutableMapping[str, str]) -> int:
    """The process's exit code."""

    def end(*_: object) -> None:
        raise _Ended

    result: Path | None = None
    try:
        # The first process of a container has no handler of its own: without one it would not end.
        signal.signal(signal.SIGTERM, end)
        options = read(arguments, environ)
        result = options.result
        number = threads.settle(1, options.threads, environ)
        logging.basicConfig(
            level=logging.INFO, stream=sys.stderr,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )  # fmt: skip
        done = _score(options, number)
        _log.info("scored %d rows of %d files into %s in %.1f s", done.rows, len(done.inputs),
                  done.output, done.seconds)  # fmt: skip
        told = {name: value for name, value in asdict(done).items() if name not in ("inputs", "columns")}  # fmt: skip
        _leave(result, {**told, "files": len(done.inputs), "release": options.release})
        return 0
    except TreadleError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  fix: {error.hint}", file=sys.stderr)
        _leave(result, {**error.as_dict(), "code": error.exit_code})
        return error.exit_code
    except _Ended:
        print("error: told to end; nothing was written", file=sys.stderr)
        _leave(result, {"error": "Ended", "message": "told to end", "code": ENDED})
        return ENDED
    except Exception as error:
        _log.exception("the scoring failed")
        _leave(result, {"error": type(error).__name__, "message": str(error), "code": 1})
        return 1


def read(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Options:
    """The options of a scoring. UsageError names what cannot be."""
    options = Options(**settings.given_values(SETTINGS, arguments, environ))
    for name, value in (
        ("model", options.model != Path()), ("input", options.input), ("output", options.output),
    ):  # fmt: skip
        if not value:
            raise UsageError(
                f"which {name}?", hint=f"--{name}, or the variable {SETTINGS[name].variable}"
            )
    if options.files is not None and not os.access(options.files, os.R_OK):
        raise UsageError(f"--files: {options.files} cannot be read")
    return options


def _score(options: Options, number: int) -> ScoreReport:
    import pyarrow as pa

    from treadle.operate.model import loaded
    from treadle.operate.scoring.places import Places, Store
    from treadle.operate.scoring.scorer import score

    pa.set_cpu_count(number)
    pa.set_io_thread_count(max(2, number))
    places = Places(options.claims, Store(options.s3_endpoint, options.s3_region))
    inputs = places.find(options.input)
    moment = clock.now().strftime("%Y%m%d%H%M%S")
    sink = places.sink(options.output, f"{options.prefix}-{moment}.parquet")
    files = None if options.files is None else json.loads(options.files.read_text("utf-8"))
    model = loaded.load(options.model, files=files, trust_pickle=options.trust_pickle)
    if options.content and model.content and options.content != model.content:
        raise StateCorrupt(
            f"the model directory is not what was released: wanted {options.content}, "
            f"found {model.content}"
        )
    _log.info("release %d (%s) scores %d files into %s", options.release, model.flavor,
              len(inputs), sink.shown)  # fmt: skip
    return score(
        inputs, model.predict_frame, sink, environment=options.environment,
        release=options.release, model=options.record or model.content, run=options.run,
        snapshot=digest({one.shown: one.digest() for one in inputs}), instance=options.instance,
        features=options.features or model.features, chunk_rows=options.chunk_rows,
        # What is named by the time is new; another of the same second is not written over.
        force=options.force and options.output.endswith(".parquet"), report=lambda line, **_: _log.info("%s", line),
    )  # fmt: skip


def _leave(path: Path | None, told: dict[str, Any]) -> None:
    """Write what came of it where it was asked for, within what Kubernetes keeps of it."""
    if path is None:
        return
    text = json.dumps(told)
    if len(text.encode()) > _MOST and "message" in told:
        spare = len(text.encode()) - _MOST + 200
        cut = str(told["message"]).encode()[: -spare or None].decode("utf-8", "ignore")
        text = json.dumps({**told, "message": f"{cut}…", "hint": None})
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        _log.warning("%s cannot be written: %s", path, error)
