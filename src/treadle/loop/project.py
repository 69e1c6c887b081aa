"""A project: the folder with its treadle.yaml, the spec in it and the state beside it."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.base import clock
from treadle.base.errors import Unreachable, UsageError
from treadle.base.log import Report, silent
from treadle.base.plain import from_plain
from treadle.base.records import Decision, DecisionKind, Release
from treadle.base.spec import BatchTarget, DataSection, DeployTarget, ServingTarget, Spec
from treadle.clients.journal import Changes, Journal
from treadle.clients.memory import MemoryJournal, MemoryObjects
from treadle.clients.objects import Objects
from treadle.clients.state import State, refuse_lost

SPEC_FILE = "treadle.yaml"


@dataclass
class Project:
    """What every command starts from."""

    folder: Path
    spec: Spec
    journal: Journal
    objects: Objects
    state: State | None
    """None for a project that was never turned: reading it must not write."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    report: Report = silent

    @property
    def spec_path(self) -> Path:
        """The project's treadle.yaml."""
        return self.folder / SPEC_FILE

    def environment(self, name: str | None) -> str:
        """The named environment, or the default. UsageError with what exists."""
        if name is None:
            return self.spec.default_environment
        if name not in self.spec.deploy:
            raise UsageError(
                f"there is no environment `{name}` in {SPEC_FILE}",
                hint=f"`deploy:` has {', '.join(self.spec.deploy)}",
            )
        return name

    def target(self, environment: str) -> DeployTarget:
        """The environment's entry of `deploy:`."""
        return self.spec.deploy[environment]

    def serving_target(self, environment: str) -> ServingTarget:
        """The serving target: of a batch environment, the one it scores with."""
        target = self.spec.deploy[self.spec.place(environment)]
        assert not isinstance(target, BatchTarget)
        return target

    def batch_target(self, environment: str) -> BatchTarget | None:
        """The batch target, if the environment is one."""
        target = self.spec.deploy[environment]
        return target if isinstance(target, BatchTarget) else None

    def environment_folder(self, environment: str) -> Path:
        """Where the environment's server keeps its files; made when there is a state."""
        if self.state is None:
            return self.folder / ".treadle" / "environments" / environment
        return self.state.environment_folder(environment)

    def require_state(self) -> State:
        """The state, or an error that says the project was never turned."""
        if self.state is None:
            raise never_turned(self.folder)
        return self.state

    # ---- what the journal says about an environment ------------------------------------------

    def release_state(self, environment: str) -> dict[str, Any]:
        """Champion, previous and held releases of the environment."""
        found = self.journal.get("release_state", self.spec.place(environment))
        return dict(found) if found else {"champion": None, "previous": [], "held": {}}

    def release(self, environment: str, number: int) -> Release:
        """One release of an environment. UsageError if it does not exist."""
        found = self.journal.get("release", release_key(self.spec.place(environment), number))
        if found is None:
            raise UsageError(
                f"environment `{environment}` has no release {number}",
                hint="`treadle ledger` lists them",
            )
        return from_plain(Release, found)

    def releases(self, environment: str) -> list[Release]:
        """All releases of the environment, oldest first."""
        place = self.spec.place(environment)
        return [from_plain(Release, v) for _, v in self.journal.list("release", f"{place}/")]

    def champion(self, environment: str) -> Release | None:
        """The environment's champion."""
        number = self.release_state(environment)["champion"]
        return None if number is None else self.release(environment, number)

    def training_section(self) -> DataSection | None:
        """The `data:` entry that the model learns from, if there is exactly one."""
        name = self.spec.training_data()
        return self.spec.data[name] if name else None

    def last_training(self, place: str) -> dict[str, Any] | None:
        """The newest run of this place that came to an end with a verdict, as plain values."""
        for _, run in self.journal.list("run", newest_first=True):
            known = run["environment"] in self.spec.deploy
            if (
                run["status"] == "FINISHED"
                and run["verdict"]
                and known
                and self.spec.place(run["environment"]) == place
            ):
                return dict(run)
        return None

    def decision(
        self,
        kind: DecisionKind,
        environment: str,
        subject: str,
        outcome: str,
        rule: str,
        words: str,
        evidence: dict[str, object],
        by: str | None = None,
    ) -> Decision:
        """A ledger entry of now; the journal fills in the chain when it is committed."""
        return Decision(
            id=clock.ulid(),
            at=clock.text(clock.now()),
            environment=environment,
            kind=kind,
            subject=subject,
            outcome=outcome,
            rule=rule,
            words=words,
            evidence=evidence,
            by=by or "treadle",
        )

    def commit(self, changes: Changes) -> None:
        """One atomic transaction; needs a state that may be written."""
        self.journal.commit(changes)


def release_key(place: str, number: int) -> str:
    """The journal's key of a release; sorts by number."""
    return f"{place}/{number:06d}"


def person(environ: Mapping[str, str] | None = None) -> str:
    """Who gives a decision: the CI actor, else the user's name."""
    environ = os.environ if environ is None else environ
    for name in ("GITHUB_ACTOR", "GITLAB_USER_LOGIN"):
        if environ.get(name):
            return str(environ[name])
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def find_folder(start: Path | None = None) -> Path:
    """The nearest folder upward that holds a treadle.yaml. UsageError if there is none."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / SPEC_FILE).is_file():
            return folder
    raise UsageError(
        f"there is no {SPEC_FILE} in {here} or above it",
        hint="`treadle init` makes one, or change to the project's folder",
    )


def never_turned(folder: Path) -> Unreachable:
    """What a command answers that needs a journal where none is."""
    return Unreachable(
        f"{folder} was never turned here: it has no journal",
        hint="treadle up; or set TREADLE_STATE to the folder where its state is kept",
    )


def _write_schema(folder: Path) -> None:
    """The JSON Schema that treadle.yaml's first line names, for editors."""
    import json

    from treadle.clients.files import write_file
    from treadle.plan.spec import json_schema

    write_file(folder / "schema.json", json.dumps(json_schema(), indent=1).encode())


def open_project(
    start: Path | None = None,
    *,
    create: bool,
    existing: bool = False,
    report: Report = silent,
    write: bool = False,
) -> Project:
    """Open the project around `start`.

    create: make the state if it is not there (only `up` and its like do); with `existing` a missing
    state is an error instead (a CI runner must not begin a second ledger). write: the state is
    written to, and must be there.
    """
    from treadle.plan import spec as spec_reader

    folder = find_folder(start)
    state: State | None = None
    if (State.folder_of(folder) / "journal.db").exists():
        state = State.open(folder, create=False, read_only=not (create or write))
    else:
        refuse_lost(State.folder_of(folder))
    if state is None and write:
        raise never_turned(folder)
    if state is None and existing:
        raise Unreachable(
            f"{folder} has no journal, and --existing refuses to begin one: a second ledger would "
            "not know the champion",
            hint="run where the environment's .treadle/ is kept (a self-hosted runner), or set "
            "TREADLE_STATE to it",
        )
    if state is None and create:
        # The spec is read before the state is made: a mistake in it leaves nothing behind.
        spec_reader.load(folder / SPEC_FILE, None)
        state = State.open(folder, create=True)
    journal: Journal = state.journal if state else MemoryJournal()
    objects: Objects = state.objects if state else MemoryObjects()
    spec = spec_reader.load(folder / SPEC_FILE, journal)
    if (create or write) and state is not None:
        remembered = spec_reader.remember(folder / SPEC_FILE, spec)
        if journal.get(remembered[0], remembered[1]) is None:
            changes = Changes()
            changes.puts.append(remembered)
            _write_schema(state.folder)  # first: the record says that both are done
            journal.commit(changes)
    return Project(folder, spec, journal, objects, state, report=report)
