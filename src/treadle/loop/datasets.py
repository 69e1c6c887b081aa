"""The data sets of a project: their snapshots, their checks, and what a person does about them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from treadle.base import clock, crash
from treadle.base.digest import digest, short
from treadle.base.errors import DataRefused, TreadleError, UsageError
from treadle.base.plain import from_plain, to_plain
from treadle.base.records import Snapshot, Violation
from treadle.clients.journal import Changes
from treadle.clients.objects import Objects
from treadle.data import schema as schemas
from treadle.data import snapshot as snapshots
from treadle.loop.project import Project, person

if TYPE_CHECKING:
    from treadle.data.diff import DataDiff
    from treadle.loop.chain import Chain

RULES = 1
"""Version of the checks: raised when equal rows would be judged differently."""


def look(project: Project, name: str, *, store: bool) -> Snapshot:
    """The data set's snapshot now; with `store` its new files are stored and committed.

    The truth may begin empty: a glob that matches nothing yet is a snapshot without parts.
    """
    section = project.spec.data[name]
    truth = project.spec.monitor.truth
    if truth is not None and truth.data == name and section.files is not None:
        import glob

        if not glob.glob(str(project.folder / section.files), recursive=True):
            return Snapshot(name, "files", (), (), section.key, section.event_time)
    changes = Changes()
    found = snapshots.take(
        name,
        section,
        project.folder,
        project.journal,
        project.objects,
        changes,
        project.report,
        dry=not store,
        environ=project.environ,
    )
    if store and changes:
        project.commit(changes)
    return found


def check_key(project: Project, name: str, snapshot: Snapshot) -> str:
    """What a data set's check depends on: the rows, the spec, and the rules a person keeps."""
    return digest(
        {
            "rules": RULES,
            "snapshot": snapshot.digest,
            "section": to_plain(project.spec.data[name]),
            "model": to_plain(project.spec.model),
            "schema": schemas.file_digest(schemas.where(project.folder)),
        }
    )


# ---- the check -----------------------------------------------------------------------------------


@dataclass
class Checking:
    """A check that runs in a process of its own, beside the import of the user's code."""

    names: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    done: bool = False


def begin_check(chain: Chain) -> Checking:
    """Start checking what is not checked yet; `end_check` waits for it and judges."""
    names = tuple(name for name in chain.unchecked if chain.snapshots[name].parts)
    if not names or not chain.stale_steps:
        return Checking(names)
    command = [
        sys.executable,
        "-P",
        "-m",
        "treadle.loop.checker",
        str(chain.project.folder),
        *names,
    ]
    return Checking(
        names, subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    )


def end_check(chain: Chain, checking: Checking) -> None:
    """Wait for the check, keep what it found, and raise DataRefused if a rule said no."""
    if checking.done:
        return
    checking.done = True
    reports = _reports(chain, checking)
    project = chain.project
    learned = {name: report["schema"] for name, report in reports.items() if report["learned"]}
    if learned:
        schemas.save(
            schemas.where(project.folder),
            {name: from_plain(schemas.Schema, value) for name, value in learned.items()},
        )
        crash.point("data.learned")
        project.report(
            f"learned the rules of {', '.join(learned)} into {schemas.FILE}, which is "
            "yours from now on",
            phase="data",
        )
    changes = Changes()
    for name in project.spec.data:
        if name not in reports and chain.snapshots[name].parts:
            # Rules of another data set were learned: this one's check stands as it was.
            previous = project.journal.get("checked_last", name)
            if previous is not None and previous["snapshot"] == chain.snapshots[name].digest:
                changes.put("checked", check_key(project, name, chain.snapshots[name]), previous)
    refusals: list[Violation] = []
    for name, report in reports.items():
        violations = [from_plain(Violation, value) for value in report["violations"]]
        refused = [v for v in violations if v.severity == "refuse"]
        snapshot = chain.snapshots[name]
        value = {
            "snapshot": snapshot.digest,
            "refused": [v.text for v in refused],
            "warned": [v.text for v in violations if v.severity == "warn"],
            "violations": report["violations"],
            "rows": report["rows"],
        }
        changes.put("checked", check_key(project, name, snapshot), value)
        changes.put("checked_last", name, value)
        changes.put("profile", snapshot.digest, report["profile"])
        words = _words(name, snapshot, violations)
        changes.decide(
            project.decision(
                "data",
                chain.place,
                name,
                "refuse" if refused else "accept",
                "data acceptable",
                words,
                {
                    "snapshot": snapshot.digest,
                    "rows": report["rows"],
                    "violations": report["violations"][:20],
                },
            )
        )
        if refused:
            changes.put("refused", name, {"words": refused[0].text, "snapshot": snapshot.digest})
            refusals += refused
        else:
            changes.delete("refused", name)
        for violation in violations:
            if violation.severity == "warn":
                project.report(f"data {name}: {violation.text}", warning=True)
        if not refused:
            project.report(words, phase="data")
    project.commit(changes)
    if refusals:
        raise refusal(refusals)


def check(chain: Chain) -> None:
    """Check what is not checked yet, here and now; raise for what was refused before too."""
    end_check(chain, begin_check(chain))
    refuse_known(chain)


def refuse_known(chain: Chain) -> None:
    """Raise DataRefused when present data was checked before and refused."""
    found: list[Violation] = []
    for name in chain.refused:
        key = check_key(chain.project, name, chain.snapshots[name])
        checked: Any = chain.project.journal.get("checked", key)
        found += [
            from_plain(Violation, value)
            for value in checked["violations"]
            if value["severity"] == "refuse"
        ]
    if found:
        raise refusal(found)


def refusal(violations: Sequence[Violation]) -> DataRefused:
    """The error that lists every violation."""
    lines = []
    for v in violations:
        rows = f" ({v.rows:,} rows)" if v.rows else ""
        lines.append(f"  {v.dataset}: {v.text}{rows}")
        lines += [f"      {example}" for example in v.examples[:3]]
    count = f"{len(violations)} rule{'s' if len(violations) != 1 else ''}"
    softer = [v for v in violations if v.rule not in schemas.STRUCTURE]
    hint = "mend the data, then `treadle up`; until then the champion keeps serving"
    if softer:
        hint = (
            "mend the data, or accept it: treadle data accept "
            f"{softer[0].dataset} --reason '…'; until then the champion keeps serving"
        )
    return DataRefused(
        f"the data breaks {count}; nothing was trained\n" + "\n".join(lines), hint=hint
    )


def _words(name: str, snapshot: Snapshot, violations: Sequence[Violation]) -> str:
    rows = f"{name}: {snapshot.rows:,} rows in {len(snapshot.parts)} files"
    refused = [v for v in violations if v.severity == "refuse"]
    if refused:
        return f"{rows}; " + "; ".join(v.text for v in refused[:3])
    warned = len(violations)
    return rows + (
        f", {warned} warning{'s' if warned != 1 else ''}" if warned else ", no violation"
    )


def _reports(chain: Chain, checking: Checking) -> dict[str, Any]:
    if not checking.names:
        return {}
    if checking.process is None:
        return {
            name: scan_report(chain.project, name, chain.snapshots[name]) for name in checking.names
        }
    out, _ = checking.process.communicate()
    try:
        answer = json.loads(out)
    except ValueError:
        # It died without a word (killed for memory, say): here the error shows where it is.
        return {
            name: scan_report(chain.project, name, chain.snapshots[name]) for name in checking.names
        }
    if "error" in answer:
        from treadle.base import errors

        kind = getattr(errors, answer["error"], TreadleError)
        error = TreadleError.__new__(kind)
        TreadleError.__init__(error, answer["message"], hint=answer["hint"])
        raise error
    reports: dict[str, Any] = answer["reports"]
    return reports


def scan_report(project: Project, name: str, snapshot: Snapshot) -> dict[str, Any]:
    """One data set's scan as plain values: violations, profile, schema, learned, rows."""
    from treadle.data.scan import scan

    for part in snapshot.parts:  # a damaged blob is not bad data
        project.objects.path(part.content, verify=True)
    known = schemas.load(schemas.where(project.folder)).get(name)
    trained_on = project.spec.training_data() == name
    report = scan(
        snapshot,
        project.objects,
        project.spec.data[name],
        known,
        model=project.spec.model if trained_on else None,
    )
    plain: dict[str, Any] = to_plain(report)
    return plain


# ---- looking -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """One snapshot."""

    dataset: str
    digest: str
    rows: int
    files: int
    size_bytes: int
    used_by: int


def show(project: Project) -> list[Shown]:
    """Every snapshot, data set by data set, the present one first."""
    runs = [value for _, value in project.journal.list("run")]
    found = []
    for name in project.spec.data:
        latest = project.journal.get("snapshot", name)
        present = from_plain(Snapshot, latest).digest if latest else None
        mine = [
            from_plain(Snapshot, value)
            for _, value in project.journal.list("snapshot_by")
            if value["dataset"] == name
        ]
        for snapshot in sorted(mine, key=lambda s: (s.digest != present, -s.rows)):
            used = sum(snapshot.digest in run["snapshots"].values() for run in runs)
            found.append(
                Shown(
                    name,
                    snapshot.digest,
                    snapshot.rows,
                    len(snapshot.parts),
                    sum(part.size_bytes for part in snapshot.parts),
                    used,
                )
            )
    return found


def diff(project: Project, a: str, b: str | None) -> DataDiff:
    """Rows, schema and distributions between two snapshots (by default: stored and present)."""
    from treadle.data.diff import diff as compare

    before = find(project, a)
    if b is not None:
        return compare(before, find(project, b), project.objects)
    # What the files hold now is compared where it lies: looking stores nothing.
    after = look(project, before.dataset, store=False)
    return compare(before, after, cast("Objects", _Beside(project, after)))


class _Beside:
    """The object store, and beside it a snapshot's own files where they are not stored yet."""

    def __init__(self, project: Project, snapshot: Snapshot) -> None:
        self._objects = project.objects
        self._files = {part.content: project.folder / part.path for part in snapshot.parts}

    def path(self, digest: str, *, verify: bool = False) -> Path:
        """A local file with that content."""
        if not self._objects.has(digest) and digest in self._files:
            return self._files[digest]
        return self._objects.path(digest, verify=verify)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)


def find(project: Project, identifier: str) -> Snapshot:
    """A snapshot by its digest's first hex digits, or a data set's last one by its name."""
    if identifier in project.spec.data:
        stored = project.journal.get("snapshot", identifier)
        if stored is None:
            raise UsageError(f"data {identifier} was never read", hint="treadle up")
        return from_plain(Snapshot, stored)
    wanted = identifier.rpartition("@")[2].removeprefix("sha256:")
    found = [
        from_plain(Snapshot, value)
        for key, value in project.journal.list("snapshot_by")
        if len(wanted) >= 4 and key.removeprefix("sha256:").startswith(wanted)
    ]
    if len(found) != 1:
        raise UsageError(
            f"no snapshot is called `{identifier}`"
            if not found
            else f"`{identifier}` names {len(found)} snapshots",
            hint="`treadle data show` lists them",
        )
    return found[0]


# ---- a person's answer ---------------------------------------------------------------------------


@dataclass(frozen=True)
class AcceptedData:
    """What a person accepted."""

    datasets: tuple[str, ...]
    words: str


def accept(
    project: Project, dataset: str | None, reason: str, *, confirm: Callable[[str], bool]
) -> AcceptedData:
    """Widen the rules that the present data breaks, in data.schema.yaml and in the ledger."""
    if not reason.strip():
        raise UsageError("an acceptance needs a reason", hint="--reason 'why'")
    names = [dataset] if dataset else list(project.spec.data)
    if dataset is not None and dataset not in project.spec.data:
        raise UsageError(
            f"there is no data set `{dataset}`",
            hint="treadle.yaml has " + ", ".join(project.spec.data),
        )
    by = person(project.environ)
    path = schemas.where(project.folder)
    place = project.spec.place(project.environment(None))
    taken: list[str] = []
    lines: list[str] = []
    with project.require_state().turn_lock("treadle data accept", True, project.report):
        known = schemas.load(path)
        wider: dict[str, schemas.Schema] = {}
        changes = Changes()
        for name in names:
            snapshot = look(project, name, store=True)
            if not snapshot.parts:
                continue
            report = scan_report(project, name, snapshot)
            violations = [from_plain(Violation, value) for value in report["violations"]]
            if not violations:
                continue
            wider[name] = schemas.accept(
                known.get(name) or from_plain(schemas.Schema, report["schema"]),
                violations,
                from_plain(schemas.Schema, report["observed"]),
                reason=reason,
                by=by,
                at=clock.text(clock.now()),
                named=report["named"],
            )
            taken.append(name)
            lines += [f"{name}: {violation.text}" for violation in violations]
            changes.delete("refused", name)
            changes.decide(
                project.decision(
                    "accept",
                    place,
                    name,
                    "accepted",
                    "a person's answer",
                    f"{by} accepts {name}@{short(snapshot.digest)}: {reason}",
                    {
                        "snapshot": snapshot.digest,
                        "violations": report["violations"][:20],
                        "reason": reason,
                    },
                    by,
                )
            )
        if not taken:
            raise UsageError(
                "the present data breaks no rule: there is nothing to accept", hint="treadle plan"
            )
        if not confirm("\n".join(lines)):
            raise UsageError("nothing was accepted", hint="--yes accepts without asking")
        schemas.save(path, wider)
        project.commit(changes)
    return AcceptedData(
        tuple(taken),
        f"accepted {len(lines)} violations in {', '.join(taken)}; {Path(path).name} was widened",
    )
