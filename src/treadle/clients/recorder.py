"""The recorder: a process of its own that tells MLflow what the journal's outbox holds.

    python -m treadle.clients.recorder STATE_FOLDER

Messages are delivered at least once and applied idempotently: what MLflow called a thing (its run,
model, version) is kept in the journal under kind `mlflow`; an intent is kept before each making,
so that after a crash between making and keeping the thing is looked for by its `treadle.` tag
instead of being made twice. Where MLflow is absent, down or locked, messages stay pending and the
reason is kept (kind `recorder`, key `last`).

An alias that is not where this process left it was moved by a person: that is recorded (kind
`conflict`) and never overwritten. The conflict ends when both agree again, by either way out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from treadle.base import clock, crash
from treadle.base.digest import digest, short
from treadle.base.errors import StateError
from treadle.base.records import Message
from treadle.clients.journal import Changes, SqliteJournal
from treadle.clients.objects import DiskObjects
from treadle.clients.tracking import NOT_INSTALLED, note, tracking_uri

_VALUE_CHARACTERS = 6000
"""MLflow's limit for a parameter; a tag takes 8000."""
_BATCH = 100


class Gone(Exception):
    """A person deleted the run in MLflow: there is nothing left to tell about it."""


# ---- the process ---------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Deliver what is pending; 0 unless something stays pending."""
    folder = Path(arguments[0])
    lock = _lock(folder, arguments)
    if lock is None:
        return 0  # another recorder is at work, and looks again before it ends
    with contextlib.suppress(OSError):
        os.nice(10)  # the turn and the model server come first
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)
    journal = SqliteJournal(folder / "journal.db", create=False)
    try:
        recorder = Recorder(folder, journal)
        while True:
            whole = recorder.drain()
            # Whoever committed a message while we held the lock did not start a recorder: look
            # again after letting go, or that message would wait for the next command.
            fcntl.flock(lock, fcntl.LOCK_UN)
            if not whole or not recorder.waiting():
                return 0 if whole and not recorder.failed else 1
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
    finally:
        journal.close()


def _lock(folder: Path, arguments: list[str]) -> int | None:
    if "--lock-fd" in arguments:  # taken by who started us
        return int(arguments[arguments.index("--lock-fd") + 1])
    number = os.open(folder / "recorder.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        return None
    return number


class Recorder:
    """Takes messages from the outbox, one by one, to the projection."""

    def __init__(self, folder: Path, journal: SqliteJournal) -> None:
        self.folder = folder
        self.journal = journal
        self.failed: set[int] = set()
        """Messages that MLflow refused in this process; the next one tries again."""
        self._projection: Projection | None = None

    def waiting(self) -> list[tuple[int, Message]]:
        """What is pending and was not refused."""
        found = self.journal.pending(_BATCH + len(self.failed))
        return [(number, message) for number, message in found if number not in self.failed]

    def drain(self) -> bool:
        """Deliver all; False if MLflow cannot be used at all now."""
        error: str | None = None
        uri = _open_words(tracking_uri(self.folder))
        try:
            if self._projection is None:
                self._projection = Projection(self.folder, self.journal)
            while waiting := self.waiting():
                for number, message in waiting:
                    if (problem := self._deliver(self._projection, number, message)) is not None:
                        error = problem
            self._projection.look_at_aliases()
        except ImportError as problem_found:
            error = NOT_INSTALLED if _absent(problem_found) else f"MLflow fails: {problem_found}"
            note(self.journal, error, uri=uri)
            return False
        except Exception as problem_found:
            _print_trace()
            note(self.journal, f"MLflow at {uri}: {_words(problem_found)}", uri=uri)
            return False
        note(self.journal, error, uri=uri)
        return True

    def _deliver(self, projection: Projection, number: int, message: Message) -> str | None:
        """One message; the error in words if MLflow lives but will not take it."""
        try:
            crash.point("recorder.deliver.before")
            with contextlib.suppress(Gone):
                projection.apply(message, number)
            crash.point("recorder.deliver.after")
        except Exception as problem:
            _print_trace()
            projection.probe()  # raises if MLflow is gone: then every other message would fail too
            self.failed.add(number)
            return f"message {number} ({message.kind}): {_words(problem)}"
        self.journal.delivered([number])
        return None


def _absent(error: ImportError) -> bool:
    return isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "mlflow"


def _words(error: Exception) -> str:
    """The first line of an error, without what a URL may hold in secret."""
    text = _open_words(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:500] if text else 'no message'}"


def _open_words(text: str) -> str:
    """`text` without the user and password of the URLs in it."""
    return re.sub(r"(?<=://)[^/\s@]*@", "…@", text)


def _print_trace() -> None:
    """The traceback for recorder.log, which may be sent around: no passwords."""
    print(_open_words(traceback.format_exc()), file=sys.stderr, flush=True)


# ---- the projection ------------------------------------------------------------------------------


class Projection:
    """One MLflow (a tracking URI, a registry URI, an experiment) and what we told it."""

    def __init__(self, folder: Path, journal: SqliteJournal) -> None:
        """Import MLflow, make the database file if it is ours to make, and reach the server.

        Raises ImportError, and whatever MLflow raises when it cannot be reached.
        """
        self.folder = folder
        self.journal = journal
        self.objects = DiskObjects(folder / "objects")
        uri = tracking_uri(folder)
        registry = os.environ.get("MLFLOW_REGISTRY_URI") or uri
        self.ours = "MLFLOW_TRACKING_URI" not in os.environ or uri == tracking_uri(folder, {})
        import mlflow

        if self.ours:
            make_database(folder / "mlflow.db")
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(registry)
        self.client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=registry)
        self.target = short(digest([uri, registry]))
        self.probe()
        self._experiments: dict[str, str] = {}

    def probe(self) -> None:
        """Raises if MLflow cannot be reached."""
        self.client.search_experiments(max_results=1)

    def apply(self, message: Message, number: int) -> None:
        """Make MLflow say what the message says; twice is the same as once."""
        payload = message.payload
        if message.kind == "run":
            self._run(payload)
        elif message.kind == "model":
            self._model(payload["project"], payload["model"], payload["run"])
        elif message.kind == "release":
            project = payload["project"] or self._project_of(payload["release"]["run"])
            self._version(project, payload["release"], payload["model"], payload["verdict"])
        elif message.kind == "alias":
            for alias, wanted in payload["aliases"].items():
                named = wanted and self._named(payload["environment"], *wanted)
                self._alias(payload["project"], payload["environment"], alias, named, number)
        elif message.kind == "windows":
            self._windows(payload)
        else:
            raise ValueError(f"no such kind of message: {message.kind}")

    # -- what the journal knows

    def _project_of(self, run: str) -> str:
        """The project's name by a run's record; every run of a journal is of one project."""
        record = self.journal.get("run", run)
        if record is None:
            record = dict(self.journal.list("run", newest_first=True, limit=1)).popitem()[1]
        return str(record["project"])

    def _named(self, environment: str, release: int, model: str) -> dict[str, Any]:
        """The records of a release and its model."""
        records = {
            "release": self.journal.get("release", f"{environment}/{release:06}"),
            "model": self.journal.get("model", model),
        }
        for kind, record in records.items():
            if record is None:
                raise StateError(f"the journal has no record of the {kind} of release {release}")
        return records

    # -- what MLflow calls our things

    def _memo(self, key: str) -> dict[str, Any] | None:
        return self.journal.get("mlflow", f"{self.target}/{key}")

    def _remember(self, key: str, value: dict[str, Any]) -> None:
        self.journal.commit(Changes().put("mlflow", f"{self.target}/{key}", value))

    def _forget(self, *prefixes: str) -> None:
        changes = Changes()
        for prefix in prefixes:
            for key, _ in self.journal.list("mlflow", f"{self.target}/{prefix}"):
                changes.delete("mlflow", key)
        self.journal.commit(changes)

    def _once(self, key: str, find: Callable[[], str | None], make: Callable[[], str]) -> str:
        """MLflow's id of a thing; made if it never was. An intent without an id is looked for."""
        memo = self._memo(key)
        if memo is not None and memo.get("id"):
            return str(memo["id"])
        found = find() if memo is not None else None
        if memo is None:
            self._remember(key, {"id": None})
        identifier = found or make()
        self._remember(key, {"id": identifier})
        return identifier

    # -- experiment

    def _experiment(self, project: str) -> str:
        """The id of MLFLOW_EXPERIMENT_NAME, or of the experiment named like the project."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or project
        if name in self._experiments:
            return self._experiments[name]
        found = self.client.get_experiment_by_name(name)
        if found is None:
            place = (self.folder / "mlartifacts" / name).resolve().as_uri() if self.ours else None
            try:
                self.client.create_experiment(name, artifact_location=place)
            except Exception as error:
                if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self.client.get_experiment_by_name(name)
        if found.lifecycle_stage == "deleted":
            raise StateError(
                f"the MLflow experiment {name!r} was deleted; restore it "
                f"(`mlflow experiments restore -x {found.experiment_id}`) or set "
                "MLFLOW_EXPERIMENT_NAME to another name"
            )
        # Another birth under the same name: the database was replaced, and our ids mean nothing.
        born = {"id": found.experiment_id, "born": found.creation_time}
        known = self._memo(f"experiment/{name}")
        if known is not None and known != born:
            self._forget("run/", "model/", "version/", "alias/", "registered/", "experiment/")
        if known != born:
            self._remember(f"experiment/{name}", born)
        self._experiments[name] = found.experiment_id
        return str(found.experiment_id)

    # -- runs

    def _run_id(self, project: str, run: str, make: Callable[[str], str]) -> str:
        experiment = self._experiment(project)

        def find() -> str | None:
            found = self.client.search_runs(
                [experiment], filter_string=f"tags.`treadle.run_id` = '{run}'", max_results=1
            )
            return found[0].info.run_id if found else None

        return self._once(f"run/{run}", find, lambda: make(experiment))

    def _run(self, payload: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        run, verdict = payload["run"], payload["verdict"]
        tags = {
            "treadle.run_id": run["id"],
            "treadle.environment": run["environment"],
            "treadle.code": run["code"],
            "treadle.reason": run["reason"],
            "mlflow.user": run["by"],
            "mlflow.source.name": f"{run['project']}/treadle.yaml",
            "mlflow.source.type": "PROJECT",
            "mlflow.source.git.commit": (run["commit"] or "").rstrip("+"),
            "treadle.commit": run["commit"] or "",
            "treadle.model": run["model"] or "",
            "treadle.verdict": run["verdict"] or "",
            "treadle.outcome": verdict["outcome"] if verdict else "",
            "treadle.error": run["error"] or "",
            **{f"treadle.data.{name}": value for name, value in run["snapshots"].items()},
            **{f"treadle.step.{name}": value for name, value in run["steps"].items()},
        }
        tags = {key: str(value)[:_VALUE_CHARACTERS] for key, value in tags.items() if value}
        identifier = self._run_id(
            run["project"],
            run["id"],
            lambda experiment: (
                self.client.create_run(
                    experiment, start_time=_millis(run["started"]), tags=tags, run_name=run["id"]
                ).info.run_id
            ),
        )
        told = self._living_run(identifier)
        params = [
            Param(key, _value(value))
            for key, value in run["parameters"].items()
            if key not in told.data.params
        ]
        at = _millis(run["ended"] or run["started"])
        numbers = dict(run["metrics"])
        if verdict:
            numbers |= verdict["metrics"]
            numbers |= {f"champion.{k}": v for k, v in verdict["champion_metrics"].items()}
        metrics = [
            Metric(key, float(value), at, 0)
            for key, value in numbers.items()
            if value is not None and key not in told.data.metrics
        ]
        fresh = [RunTag(k, v) for k, v in tags.items() if told.data.tags.get(k) != v]
        for some_params, some_metrics, some_tags in _batches(params, metrics, fresh):
            self.client.log_batch(identifier, some_metrics, some_params, some_tags)
        if payload["snapshots"]:
            self.client.log_inputs(
                identifier,
                [
                    DatasetInput(
                        Dataset(
                            name=s["dataset"],
                            digest=short(s["digest"], 32),  # MLflow takes 36 characters
                            source_type="treadle",
                            source=json.dumps({"path": s["source"], "snapshot": s["digest"]}),
                            schema=_schema(s["columns"]),
                            profile=json.dumps(
                                {"num_rows": s["rows"], "files": s["parts"], "bytes": s["bytes"]}
                            ),
                        ),
                        [InputTag("mlflow.data.context", "training")],
                    )
                    for s in payload["snapshots"]
                ],
            )
        if verdict:
            self.client.log_dict(identifier, verdict, "verdict.json")
        if run["error"]:
            self.client.log_text(identifier, run["error"], "error.txt")
        if payload["model"]:
            self._model(run["project"], payload["model"], run["id"])
        if run["status"] != "RUNNING" and (
            told.info.status != run["status"] or told.info.end_time != at
        ):
            self.client.set_terminated(identifier, status=run["status"], end_time=at)

    def _living_run(self, identifier: str) -> Any:
        try:
            told = self.client.get_run(identifier)
        except Exception as error:
            if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                raise Gone from error
            raise
        if told.info.lifecycle_stage == "deleted":
            raise Gone
        return told

    def _windows(self, payload: dict[str, Any]) -> None:
        """Points of one run for each environment, which stays open: monitoring does not end."""
        from mlflow.entities import Metric

        project, environment = payload["project"], payload["environment"]
        name = f"monitor {environment}"
        identifier = self._run_id(
            project,
            f"monitor/{environment}",
            lambda experiment: (
                self.client.create_run(
                    experiment,
                    run_name=name,
                    start_time=min((_millis(w["start"]) for w in payload["windows"]), default=None),
                    tags={
                        "treadle.run_id": f"monitor/{environment}",
                        "treadle.environment": environment,
                    },
                ).info.run_id
            ),
        )
        self._living_run(identifier)
        for window in payload["windows"]:
            at = _millis(window["end"])
            numbers = {
                "rows": window["rows"],
                "coverage": window["coverage"],
                **{f"realised.{k}": v for k, v in window["realised"].items()},
                **{f"estimated.{k}": v for k, v in window["estimated"].items()},
            }
            # The step is the end's second: a point told again has the same place.
            points = [
                Metric(k, float(v), at, at // 1000) for k, v in numbers.items() if v is not None
            ]
            self.client.log_batch(identifier, points)
        for alarm in payload["alarms"]:
            window_id, _, text = alarm.partition(" ")
            self.client.set_tag(identifier, f"treadle.alarm.{window_id}", text)

    # -- models

    def _model(self, project: str, model: dict[str, Any], run: str) -> str:
        """MLflow's id of the logged model (one for each different model), linked to the run."""
        from mlflow.entities import LoggedModelOutput

        experiment = self._experiment(project)
        name = digest_of_model(model)
        key = f"model/{name}"
        memo = self._memo(f"run/{run}")
        run_id = memo["id"] if memo else None

        def find() -> str | None:
            found = self.client.search_logged_models(
                [experiment], filter_string=f"tags.`treadle.model` = '{name}'", max_results=1
            )
            return found[0].model_id if found else None

        def make() -> str:
            return str(
                self.client.create_logged_model(
                    experiment,
                    name=project,
                    source_run_id=run_id,
                    model_type=model["flavor"],
                    params={"task": model["task"], "label": model["label"]},
                    tags={
                        "treadle.model": name,
                        "treadle.content": model["content"],
                        "treadle.run_id": run,
                        "treadle.flavor": model["flavor"],
                    },
                ).model_id
            )

        identifier = self._once(key, find, make)
        logged = self._existing(lambda: self.client.get_logged_model(identifier))
        if logged is None:  # a person deleted it
            self._forget(key)
            identifier = self._once(key, lambda: None, make)
            logged = self.client.get_logged_model(identifier)
        if str(logged.status) not in ("READY", "LoggedModelStatus.READY"):
            folder = self.objects.tree(
                model["content"],
                self.folder / "models" / model["content"].removeprefix("sha256:"),
            )
            self.client.log_model_artifacts(identifier, os.fspath(folder))
            self.client.finalize_logged_model(identifier, "READY")
        if run_id is not None:
            told = self.client.get_run(run_id)
            outputs = told.outputs.model_outputs if told.outputs else []
            if identifier not in [output.model_id for output in outputs]:
                self.client.log_outputs(run_id, [LoggedModelOutput(identifier, 0)])
        return identifier

    def _existing(self, get: Callable[[], Any]) -> Any | None:
        try:
            return get()
        except Exception as error:
            if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
                return None
            # Some stores answer INVALID_PARAMETER_VALUE for an alias that is not there.
            if "not found" in str(error).lower():
                return None
            raise

    def _registered(self, project: str) -> None:
        """The registered model; another birth under its name makes our version numbers void."""
        found = self._existing(lambda: self.client.get_registered_model(project))
        if found is None:
            self.client.create_registered_model(project, tags={"treadle.project": project})
            found = self.client.get_registered_model(project)
        born = {"born": found.creation_timestamp}
        known = self._memo(f"registered/{project}")
        if known is not None and known != born:
            self._forget(f"version/{project}/", f"alias/{project}/")
        if known != born:
            self._remember(f"registered/{project}", born)

    def _version(
        self,
        project: str,
        release: dict[str, Any],
        model: dict[str, Any],
        verdict: dict[str, Any] | None = None,
    ) -> str:
        """The version number of a model in the registry, with the release's tags."""
        logged = self._model(project, model, release["run"])
        self._registered(project)
        name = digest_of_model(model)
        key = f"version/{project}/{name}"

        def find() -> str | None:
            for version in self.client.search_model_versions(f"name = '{project}'"):
                if version.tags.get("treadle.model") == name:
                    return str(version.version)
            return None

        def make() -> str:
            memo = self._memo(f"run/{release['run']}")
            version = self.client.create_model_version(
                project,
                source=f"models:/{logged}",
                run_id=memo["id"] if memo else None,
                model_id=logged,
                await_creation_for=60,
                tags={"treadle.model": name, "treadle.content": model["content"]},
            )
            return str(version.version)

        number = self._once(key, find, make)
        known = self._existing(lambda: self.client.get_model_version(project, number))
        if known is None:  # a person deleted the version
            self._forget(key)
            number = self._once(key, lambda: None, make)
            known = self.client.get_model_version(project, number)
        tags = {
            f"treadle.release.{release['environment']}": str(release["number"]),
            "treadle.run_id": release["run"],
        }
        if verdict:
            tags |= {"treadle.verdict": verdict["digest"], "treadle.outcome": verdict["outcome"]}
        for tag, value in tags.items():
            if known.tags.get(tag) != value:
                self.client.set_model_version_tag(project, number, tag, value)
        linked = json.dumps([{"name": project, "version": int(number)}])
        self.client.set_logged_model_tags(logged, {"mlflow.modelVersions": linked})
        return number

    # -- aliases

    def _alias(
        self,
        project: str,
        environment: str,
        alias: str,
        wanted: dict[str, Any] | None,
        number: int,
    ) -> None:
        """Move an alias, unless it is not where we left it: then a person moved it."""
        key = f"alias/{project}/{alias}"
        version = self._version(project, wanted["release"], wanted["model"]) if wanted else None
        if version is None and self._memo(key) is None:
            return  # nothing to remove
        self._registered(project)
        memo = self._memo(key) or {"version": None, "number": 0}
        if memo["number"] > number:
            return  # a newer message was told before this one
        now = self._alias_now(project, alias)
        facts = {
            "environment": environment,
            "number": number,
            "wanted": version,
            "release": wanted["release"]["number"] if wanted else None,
        }
        ours = {memo["version"], version}
        if "moving" in memo:  # we died at it: the alias is where it was, or where it should be
            ours.add(memo["moving"])
        if now not in ours:
            self._remember(key, {**facts, "version": memo["version"]})
            self._conflict(project, environment, alias, facts, now)
            return
        self._remember(key, {**facts, "version": now, "moving": version})
        if version is None and now is not None:
            self.client.delete_registered_model_alias(project, alias)
        elif version is not None and now != version:
            self.client.set_registered_model_alias(project, alias, version)
        self._settle(key, {**facts, "version": version}, environment, alias)

    def _alias_now(self, project: str, alias: str) -> str | None:
        found = self._existing(lambda: self.client.get_model_version_by_alias(project, alias))
        return None if found is None else str(found.version)

    def _settle(self, key: str, memo: dict[str, Any], environment: str, alias: str) -> None:
        self.journal.commit(
            Changes()
            .put("mlflow", f"{self.target}/{key}", memo)
            .delete("conflict", f"{environment}/{alias}")
        )

    def look_at_aliases(self) -> None:
        """Find aliases that a person moved, and conflicts that ended."""
        for full, memo in self.journal.list("mlflow", f"{self.target}/alias/"):
            key = full.removeprefix(f"{self.target}/")
            _, project, alias = key.split("/", 2)
            if self._existing(lambda: self.client.get_registered_model(project)) is None:  # noqa: B023
                continue  # the whole registry is new: nobody moved an alias
            now = self._alias_now(project, alias)
            environment, wanted = memo["environment"], memo["wanted"]
            known = self.journal.get("conflict", f"{environment}/{alias}")
            if now == wanted:
                if memo["version"] != wanted or "moving" in memo or known:
                    settled = {k: v for k, v in memo.items() if k != "moving"}
                    self._settle(key, {**settled, "version": wanted}, environment, alias)
            elif "moving" not in memo:  # else its message is still pending and will move it
                self._conflict(project, environment, alias, memo, now)

    def _conflict(
        self, project: str, environment: str, alias: str, memo: dict[str, Any], now: str | None
    ) -> None:
        """Keep what was found, with both ways out."""
        version, release = memo["wanted"], memo["release"]
        theirs, chosen = "removed", None
        if now is not None:
            theirs = f"moved to version {now}"
            found = self.client.get_model_version(project, now)
            chosen = found.tags.get(f"treadle.release.{environment}")
            if chosen:
                theirs += f" (release {chosen})"
        ours = f"release {release} (version {version})" if release else "none"
        back = (
            f"set the alias {alias} back to version {version} in MLflow"
            if version
            else f"remove the alias {alias} in MLflow"
        )
        adopt = (
            f"make release {chosen} the champion here too: treadle rollback --to {chosen}"
            if chosen
            else "what MLflow names is no release of this environment and cannot be adopted here"
        )
        value = {
            "project": project,
            "environment": environment,
            "alias": alias,
            "ours": version,
            "ours_release": release,
            "theirs": now,
            "theirs_release": int(chosen) if chosen else None,
            "words": f"the alias {alias} of {project} was {theirs} in MLflow by hand, here "
            f"{environment} has {ours}: {back}, or {adopt}",
            "ways_out": [back, adopt],
        }
        key = f"{environment}/{alias}"
        known = self.journal.get("conflict", key)
        if known is None or {k: v for k, v in known.items() if k != "found"} != value:
            found_at = clock.text(clock.now())
            self.journal.commit(Changes().put("conflict", key, {**value, "found": found_at}))


def digest_of_model(model: dict[str, Any]) -> str:
    """The digest of a Model record that came as plain values."""
    from treadle.base.plain import from_plain
    from treadle.base.records import Model

    return from_plain(Model, model).digest


# ---- MLflow's file -------------------------------------------------------------------------------


def make_database(path: Path) -> None:
    """Make MLflow's SQLite file, in WAL mode, whole or not at all (its lock is held by us).

    MLflow's own first use runs dozens of migrations: killed or done twice at once in between, they
    leave a file that neither works nor is made again.
    """
    if path.exists():
        return
    import mlflow

    for old in path.parent.glob(f".{path.name}.new*"):
        old.unlink()
    new = path.with_name(f".{path.name}.new")
    with contextlib.closing(sqlite3.connect(new)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{new}")
    client.search_experiments(max_results=1)
    client._tracking_client.store.engine.dispose()
    with contextlib.closing(sqlite3.connect(new)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.rename(new, path)


# ---- values --------------------------------------------------------------------------------------


def _millis(text: str) -> int:
    return int(clock.parse(text).timestamp() * 1000)


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _VALUE_CHARACTERS else text[: _VALUE_CHARACTERS - 1] + "…"


def _schema(columns: list[dict[str, Any]]) -> str | None:
    """The columns as MLflow's UI reads them."""
    kinds = {
        "integer": "long",
        "float": "double",
        "boolean": "boolean",
        "timestamp": "datetime",
        "date": "datetime",
        "binary": "binary",
    }
    if not columns:
        return None
    return json.dumps(
        {
            "mlflow_colspec": [
                {
                    "type": kinds.get(c["type"], "string"),
                    "name": c["name"],
                    "required": not c["nullable"],
                }
                for c in columns
            ]
        }
    )


def _batches(*lists: list[Any]) -> Iterator[tuple[list[Any], ...]]:
    """As many batches as MLflow's limit of a hundred of each asks for."""
    for start in range(0, max(map(len, lists)), _BATCH):
        yield tuple(some[start : start + _BATCH] for some in lists)


if __name__ == "__main__":
    started = time.monotonic()
    code = main(sys.argv[1:])
    print(
        f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} recorder "
        f"{os.getpid()}: {'done' if code == 0 else 'something waits'} "
        f"after {time.monotonic() - started:.1f} s",
        flush=True,
    )
    sys.exit(code)
