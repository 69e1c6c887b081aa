"""The year's demo: real flights replayed hour by hour through the running loop.

A scratch copy of examples/flights turns once on January to April. From then on a clock file is the
only source of now: for each hour one request asks the service for all flights of that hour, each
day's truth is handed in a day later, each month's file arrives when the month is over, and once a
window has closed the monitor looks. When the retraining rule says yes, a turn runs beside the
traffic: while it runs the year goes slower, so that the swap happens under requests.
"""

from __future__ import annotations

import datetime
import http.client
import os
import shutil
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.base import clock
from treadle.base.errors import TreadleError, UsageError
from treadle.base.log import Report, silent
from treadle.loop.project import Project, open_project

ENVIRONMENT = "local"
HOURS_A_SECOND_DURING_A_TURN = 4.0
KEY = ["carrier", "flight", "sched_dep"]


@dataclass
class Story:
    """What happened in the year, counted then and there."""

    folder: str
    requests: int = 0
    failed_requests: int = 0
    flights: int = 0
    turns: int = 0
    swaps: int = 0
    windows: int = 0
    drift_alarms: int = 0
    decay_alarms: int = 0
    seconds: float = 0.0
    last_id: str = ""
    events: list[str] = field(default_factory=list)
    text: str = ""


def drift(
    example: Path | None,
    *,
    until: str,
    scratch: Path | None,
    report: Report = silent,
    say: Callable[[str], Any] = print,
) -> Story:
    """Replay the year until the date `until`; returns the story. The service is down afterwards."""
    source = _example(example)
    end = min(clock.parse(until) + datetime.timedelta(days=1), clock.parse("2014-01-01"))
    folder = _scratch_copy(source, scratch)
    clock_file = folder / "clock"
    start = clock.parse("2013-05-01")
    clock.set_replay(clock_file, start)
    before = {name: os.environ.get(name) for name in ("TREADLE_CLOCK", "TREADLE_STATE")}
    os.environ["TREADLE_CLOCK"] = str(clock_file)
    os.environ.pop("TREADLE_STATE", None)
    year = Year(folder, source, clock_file, say)
    began = clock.elapsed()
    try:
        year.first_turn()
        year.replay(start, end)
        year.story.seconds = clock.elapsed() - began
        year.tell_the_end(report)
    finally:
        year.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return year.story


def _example(given: Path | None) -> Path:
    for folder in [given] if given else [Path.cwd(), Path.cwd() / "examples" / "flights"]:
        if (
            folder is not None
            and (folder / "later").is_dir()
            and (folder / "pipeline.py").is_file()
        ):
            return folder.resolve()
    raise UsageError(
        "the demo replays the flights example, and it is not here",
        hint="run it in a clone of the repository, or name it: --project examples/flights",
    )


def _scratch_copy(source: Path, scratch: Path | None) -> Path:
    if scratch is None:
        folder = Path(tempfile.mkdtemp(prefix="treadle-flights-"))
    else:
        folder = scratch.resolve()
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty", hint="name a new folder for the copy")
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("pipeline.py", "treadle.yaml"):
        shutil.copy2(source / name, folder / name)
    for name in ("data", "truth"):
        shutil.copytree(source / name, folder / name)
    spec = folder / "treadle.yaml"
    text = spec.read_text(encoding="utf-8")
    # Any free port: the demo must not collide with a service of the example itself.
    spec.write_text(text.replace("port: 8080", "port: 0"), encoding="utf-8")
    return folder


class Year:
    """The replay: the flights by hour, one keep-alive connection, the project beside it."""

    def __init__(
        self, folder: Path, source: Path, clock_file: Path, say: Callable[[str], Any]
    ) -> None:
        self.folder, self.source, self.clock_file, self.say = folder, source, clock_file, say
        self.story = Story(str(folder))
        self.connection: http.client.HTTPConnection | None = None
        self.turning: threading.Thread | None = None
        self.turn_error: BaseException | None = None
        self.turn_result: Any = None
        self.project: Project | None = None
        self.truth: list[Any] = []

    # ---- the beginning -----------------------------------------------------------------------

    def first_turn(self) -> None:
        """January to April: the first model, released and served."""
        from treadle.loop.turn import up

        self._say(f"a scratch copy of the flights is in {self.folder}")
        self.project = open_project(self.folder, create=True)
        result = up(self.project, ENVIRONMENT, reason="the demo's first turn")
        if result.release is None or result.verdict is None:
            raise TreadleError("the first turn released nothing: " + "; ".join(result.notes))
        self.story.turns += 1
        shown = _numbers(result.verdict.metrics)
        self._say(
            f"first turn on January to April: verdict {result.verdict.outcome} ({shown}), "
            f"release {result.release.number} answers at {result.address}"
        )
        self._connect(result.address)

    def _connect(self, address: str | None) -> None:
        parts = urllib.parse.urlsplit(address or "")
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)

    # ---- the year ----------------------------------------------------------------------------

    def replay(self, start: datetime.datetime, end: datetime.datetime) -> None:
        """Hour by hour until `end`."""
        next_look = start
        for hour, body, rows in self._hours(start, end):
            while next_look <= hour:
                self._at(next_look)
                self._day_begins(next_look)
                next_look += datetime.timedelta(days=1)
            self._at(hour)
            self._ask(body, rows)
            if self.turning is not None:
                self._pace()
        while next_look <= end + datetime.timedelta(days=2):
            self._at(next_look)
            self._day_begins(next_look)
            next_look += datetime.timedelta(days=1)
        self._finish_turn(wait=True)

    def _at(self, moment: datetime.datetime) -> None:
        clock.set_replay(self.clock_file, moment)

    def _hours(
        self, start: datetime.datetime, end: datetime.datetime
    ) -> Iterator[tuple[datetime.datetime, bytes, int]]:
        """Each hour's request body (MLflow's dataframe_split) and its number of flights."""
        import msgspec
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        assert self.project is not None
        features = list(self.project.spec.model.features or ())
        columns = list(dict.fromkeys([*features, *KEY]))
        encoder = msgspec.json.Encoder()
        for month in range(start.month, 13):
            name = f"flights-2013-{month:02d}.parquet"
            first = clock.parse(f"2013-{month:02d}-01")
            if first >= end:
                return
            table = pq.read_table(self.source / "later" / name, columns=columns)
            hours = pc.floor_temporal(table["sched_dep"], unit="hour").cast("int64").to_pylist()
            text = pc.strftime(table["sched_dep"], format="%Y-%m-%dT%H:%M:%S")
            table = table.set_column(columns.index("sched_dep"), "sched_dep", text)
            rows = list(zip(*(table[name].to_pylist() for name in columns), strict=True))
            begin = 0
            for index in range(1, len(rows) + 1):
                if index < len(rows) and hours[index] == hours[begin]:
                    continue
                moment = datetime.datetime.fromtimestamp(hours[begin] / 1e6, datetime.UTC)
                if moment >= end:
                    return
                split = {"columns": columns, "data": rows[begin:index]}
                yield moment, encoder.encode({"dataframe_split": split}), index - begin
                begin = index

    def _ask(self, body: bytes, rows: int) -> None:
        """One request on the kept-alive connection; never asked twice: a loss is a loss."""
        assert self.connection is not None
        self.story.requests += 1
        try:
            self.connection.request(
                "POST", "/invocations", body, {"Content-Type": "application/json"}
            )
            answer = self.connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.story.failed_requests += 1
            self._say(f"a request was lost: {type(error).__name__}: {error}")
            self.connection.close()
            return
        if answer.status != 200:
            self.story.failed_requests += 1
            self._say(f"a request was answered {answer.status}: {text[:200]!r}")
            return
        self.story.flights += rows
        self.story.last_id = f"{answer.headers['X-Prediction-Id']}.0"
        if answer.headers.get("Connection", "").lower() == "close":
            self.connection.close()

    def _pace(self) -> None:
        """While a turn runs the year goes slower: the turn takes about a day of it."""
        assert self.turning is not None
        self.turning.join(1 / HOURS_A_SECOND_DURING_A_TURN)
        if not self.turning.is_alive():
            self._finish_turn(wait=False)

    # ---- a day -------------------------------------------------------------------------------

    def _day_begins(self, day: datetime.datetime) -> None:
        """What happens at midnight: yesterday's truth, a month's file, a look at the windows."""
        self._truth_arrives(day)
        if day.day == 1 and day.month > 5:
            self._month_arrives(day.month - 1)
        if self.turning is None:
            self._look()

    def _truth_arrives(self, day: datetime.datetime) -> None:
        """Truth known by now (a day after the flight) is handed in, as `treadle truth` does."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        from treadle.loop.truth import add_truth

        assert self.project is not None
        since = day - datetime.timedelta(days=1)
        month = (since - datetime.timedelta(days=1)).month
        path = self.source / "later" / f"arrivals-2013-{month:02d}.parquet"
        if not path.exists() or since < clock.parse("2013-05-02"):
            return
        table = pq.read_table(path)
        known = table["known_at"].cast(pa.timestamp("us"))
        naive = pa.scalar(since.replace(tzinfo=None), pa.timestamp("us"))
        until = pa.scalar(day.replace(tzinfo=None), pa.timestamp("us"))
        arrived = table.filter(pc.and_(pc.greater_equal(known, naive), pc.less(known, until)))
        if arrived.num_rows:
            add_truth(self.project, ENVIRONMENT, arrived)

    def _month_arrives(self, month: int) -> None:
        name = f"flights-2013-{month:02d}.parquet"
        shutil.copy2(self.source / "later" / name, self.folder / "data" / name)
        self._say(f"{name} arrives in data/")

    def _look(self) -> None:
        """What `treadle monitor` does; a yes starts a turn beside the traffic."""
        from treadle.loop.monitor import monitor

        assert self.project is not None
        found = monitor(self.project, ENVIRONMENT)
        for window in found.new_windows:
            self.story.windows += 1
            self._say(
                f"window {window.start[:10]} to {window.end[:10]}: {window.rows} flights of "
                f"release {'+'.join(map(str, window.releases))}"
            )
        for window in found.judged:
            self._say(
                f"  truth for {window.start[:10]}: {_numbers(window.realised)} "
                f"({window.coverage:.0%} known)"
            )
        for finding in found.new_findings:
            if finding.alarm:
                self.story.drift_alarms += finding.kind == "drift"
                self.story.decay_alarms += finding.kind == "decay"
                self._say(f"  alarm ({finding.kind}): {finding.text}")
        if found.decided:
            self._say(f"  retrain? {found.answer}: {found.words}")
        if found.answer == "yes":
            self._start_turn(found.words)

    def _start_turn(self, words: str) -> None:
        from treadle.loop.turn import up

        def turn() -> None:
            try:
                project = open_project(self.folder, create=True)
                self.turn_result = up(project, ENVIRONMENT, reason=words, by="treadle")
            except BaseException as error:
                self.turn_error = error

        self.turn_result, self.turn_error = None, None
        self._say("  a turn begins beside the traffic")
        self.turning = threading.Thread(target=turn, name="turn")
        self.turning.start()

    def _finish_turn(self, *, wait: bool) -> None:
        if self.turning is None:
            return
        if wait:
            self.turning.join()
        self.turning = None
        if self.turn_error is not None:
            raise self.turn_error
        result = self.turn_result
        self.story.turns += 1
        verdict = result.verdict
        gates = [g for g in verdict.gates if g.outcome != "pass" or "champion" in g.gate]
        for gate in gates:
            self._say(f"  {gate.outcome}: {gate.text}")
        if result.promoted:
            self.story.swaps += 1
            self._say(
                f"  release {result.release.number} is the champion and answers; "
                f"{self.story.failed_requests} of {self.story.requests} requests were lost"
            )
        else:
            self._say(f"  verdict {verdict.outcome}: release {result.release.number} stays")

    # ---- the end -----------------------------------------------------------------------------

    def tell_the_end(self, report: Report) -> None:
        """The year's ledger and one prediction traced to its data."""
        from treadle.loop.ledger import ledger
        from treadle.loop.trace import lineage

        assert self.project is not None
        story = self.story
        lines = [
            "",
            f"the year: {story.requests:,} requests for {story.flights:,} flights, "
            f"{story.failed_requests} lost; {story.windows} windows, {story.drift_alarms} drift "
            f"alarms, {story.decay_alarms} decay alarms; {story.turns} turns, {story.swaps} swaps; "
            f"{story.seconds:.0f} seconds",
            "",
            "the ledger of the year (without the answers no):",
        ]
        for entry in reversed(ledger(self.project, ENVIRONMENT, until=None, limit=None)):
            if entry.kind == "retrain" and entry.outcome == "no":
                continue
            lines.append(
                f"  {entry.at[:10]} {entry.kind:<8} {entry.subject:<12} "
                f"{entry.outcome:<9} {entry.words}"
            )
        lines += ["", f"one prediction, {story.last_id}, traced to its data:"]
        for link in lineage(self.project, story.last_id):
            facts = {k: v for k, v in link.facts.items() if not isinstance(v, dict)}
            lines.append(
                f"  {link.kind:<10} {link.id}  "
                + ", ".join(f"{k} {v}" for k, v in list(facts.items())[:3])
            )
        lines += [
            "",
            f"look around: cd {story.folder} && TREADLE_CLOCK={self.clock_file} treadle ledger",
        ]
        story.text = "\n".join(lines)
        report("the year is over", detail=True)

    def close(self) -> None:
        """Stop the service; the scratch copy stays for looking around."""
        from treadle.loop.service import down

        if self.turning is not None:
            self.turning.join()
        if self.connection is not None:
            self.connection.close()
        if self.project is not None:
            down(self.project, ENVIRONMENT)

    def _say(self, text: str) -> None:
        moment = clock.text(clock.now())[:16].replace("T", " ")
        self.story.events.append(f"{moment} {text}")
        self.say(f"{moment}  {text}")


def _numbers(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())
