"""Looking back: a prediction's lineage, the reverse from data, the ledger, and why things happened.

Reads stored records only; what it says was decided then, with the evidence of then.
"""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from treadle.base import clock
from treadle.base.digest import short
from treadle.base.errors import TreadleError, UsageError
from treadle.base.plain import from_plain
from treadle.base.records import Decision, Model, Release, Run, Snapshot, Step, Verdict
from treadle.loop.project import Project
from treadle.plan import stale

PREDICTION_ID = re.compile(
    r"(?P<environment>[A-Za-z0-9_-]+)\.(?P<release>\d+)\.(?P<instance>[A-Za-z0-9-]+)"
    r"\.(?P<ulid>[0-9A-HJKMNP-TV-Z]{26})(?:\.(?P<row>\d+))?"
)


@dataclass(frozen=True)
class Link:
    """One station on the way from a prediction to its data."""

    kind: str
    id: str
    facts: dict[str, Any] = field(default_factory=dict)


def lineage(project: Project, identifier: str) -> list[Link]:
    """Prediction id → instance → release → model → run → code, parameters, data snapshots.

    Also takes `release N`, a run id and a digest (or its first hex digits) of a model.
    Raises UsageError when nothing has that id, saying what ids look like.
    """
    match = PREDICTION_ID.fullmatch(identifier)
    if match:
        return list(_from_prediction(project, match))
    release = _named_release(project, identifier)
    if release is not None:
        return list(_from_release(project, release))
    run = project.journal.get("run", identifier)
    if run is not None:
        return list(_from_run(project, from_plain(Run, run)))
    model = find_model(project, identifier)
    if model is not None:
        runs = [r for r in _runs(project) if r.model == model.digest]
        links = [_model_link(model)]
        return links + [link for run_ in runs[:1] for link in _from_run(project, run_)]
    raise UsageError(
        f"nothing here has the id `{identifier}`",
        hint="a prediction id is ENV.RELEASE.INSTANCE.ULID[.ROW], as `treadle predict` prints it; "
        "`release 3`, a run id or a model digest work too",
    )


def _from_prediction(project: Project, match: re.Match[str]) -> Iterator[Link]:
    environment, number = match["environment"], int(match["release"])
    made_ms = _ulid_millis(match["ulid"])
    facts: dict[str, Any] = {
        "at": clock.text(datetime.datetime.fromtimestamp(made_ms / 1000, clock.UTC))
    }
    if match["row"] is not None:
        facts["row"] = int(match["row"])
    facts |= _captured(project, environment, match)
    yield Link("prediction", match[0], facts)
    rollouts = [
        value
        for name in _scoring_for(project, environment)
        for _, value in project.journal.list("rollout", f"{name}/")
        if value["instance"] and f"{match['instance']}-".startswith(f"{value['instance']}-")
    ]
    # On a cluster the name of an instance begins alike for all releases of an environment.
    rollouts.sort(key=lambda value: (value["release"] != number, -len(value["instance"])))
    if rollouts:
        # A server and a CronJob keep their names from release to release, and one name may begin
        # with another: the longest, and of that the release's own.
        longest = max(len(one["instance"]) for one in rollouts)
        named = [one for one in rollouts if len(one["instance"]) == longest]
        rollouts = [one for one in named if one["release"] == number][-1:] or named[-1:]
        yield Link(
            "instance", match["instance"], _pick(rollouts[0], "address", "started", "status")
        )
        if rollouts[0].get("image"):
            yield _image_link(project, rollouts[0]["image"])
    elif match["instance"].startswith("b"):
        yield Link("instance", match["instance"], {"note": "a batch scoring"})
    else:
        yield Link("instance", match["instance"], {"note": "no rollout of it is recorded here"})
    yield from _from_release(project, project.release(environment, number))


def _scoring_for(project: Project, environment: str) -> list[str]:
    """The environment, and those that score with its champion."""
    spec = project.spec
    return [environment, *(n for n in spec.deploy if n != environment and spec.place(n) == environment)]  # fmt: skip


def _captured(project: Project, environment: str, match: re.Match[str]) -> dict[str, Any]:
    """The captured request of the prediction, where it was sampled."""
    from treadle.base import segments

    folder = project.environment_folder(environment) / "capture"
    if environment in project.spec.deploy:
        from treadle.loop import places

        with contextlib.suppress(TreadleError):  # an engine that is away does not hide the rest
            places.collect(project, environment)
    if not folder.is_dir():
        return {}
    whole = match[0] if match["row"] is None else match[0].rpartition(".")[0]
    for captured in segments.read_segments(folder):
        record = captured.record
        if record.id == whole:
            row = int(match["row"] or 0)
            inputs = {n: c[row] for n, c in record.inputs.items() if row < len(c)}
            extra = {n: c[row] for n, c in record.extra.items() if row < len(c)}
            answer = {n: c[row] for n, c in record.outputs.items() if row < len(c)}
            return {"inputs": inputs, "with": extra, "answer": answer}
    return {}


def _from_release(project: Project, release: Release) -> Iterator[Link]:
    facts: dict[str, Any] = {
        "created": release.created, "by": release.by, "reason": release.reason,
    }  # fmt: skip
    if release.compiled is not None:
        from treadle.loop.learn import compiled_words

        facts["compiled"] = compiled_words(release.compiled)
    yield Link("release", f"{release.environment} {release.number}", facts)
    model = project.journal.get("model", release.model)
    if model is not None:
        yield _model_link(from_plain(Model, model))
    verdict = project.journal.get("verdict", release.verdict)
    if verdict is not None:
        found = from_plain(Verdict, verdict)
        yield Link(
            "verdict",
            short(found.digest),
            {"outcome": found.outcome, "rows": found.rows, **found.metrics},
        )
    run = project.journal.get("run", release.run)
    if run is not None:
        yield from _from_run(project, from_plain(Run, run))


def _from_run(project: Project, run: Run) -> Iterator[Link]:
    yield Link(
        "run",
        run.id,
        {"started": run.started, "status": run.status, "by": run.by, "reason": run.reason},
    )
    yield Link(
        "code",
        short(run.code),
        {"commit": run.commit, "steps": {n: short(k) for n, k in run.steps.items()}},
    )
    yield Link("parameters", short(run.digest), dict(run.parameters))
    for name, digest in run.snapshots.items():
        yield Link("data", f"{name}@{short(digest)}", _snapshot_facts(project, digest))


def _image_link(project: Project, digest: str) -> Link:
    """The container image that answered, and what it is made of."""
    found = project.journal.get("image", digest)
    if found is None:
        return Link("image", digest, {"note": "no build of it is recorded here"})
    bases = {name: plan["base"] for name, plan in found["plans"].items()}
    wheels = {
        name: value.partition(" ")[0]
        for plan in found["plans"].values()
        for part in plan["parts"]
        if part["kind"] == "wheels"
        for name, value in part["content"].items()
    }
    return Link(
        "image", digest,
        {"purpose": found["purpose"], "base": bases, "wheels": dict(sorted(wheels.items()))},
    )  # fmt: skip


def _model_link(model: Model) -> Link:
    return Link(
        "model",
        short(model.digest),
        {
            "flavor": model.flavor,
            "task": model.task,
            "label": model.label,
            "content": model.content,
            "size_bytes": model.size_bytes,
        },
    )


def _snapshot_facts(project: Project, digest: str) -> dict[str, Any]:
    found = project.journal.get("snapshot_by", digest)
    if found is None:
        return {"digest": digest}
    snapshot = from_plain(Snapshot, found)
    return {
        "digest": digest,
        "rows": snapshot.rows,
        "files": {part.path: part.content for part in snapshot.parts},
    }


def from_data(project: Project, identifier: str) -> list[Link]:
    """The reverse: a snapshot (digest, its start, or a data set's name) → runs, models, releases.

    For each release also how many predictions were captured in closed windows.
    """
    digest, dataset = _find_snapshot(project, identifier)
    links = [Link("data", f"{dataset}@{short(digest)}", _snapshot_facts(project, digest))]
    runs = [run for run in _runs(project) if digest in run.snapshots.values()]
    links += [Link("run", run.id, {"status": run.status, "started": run.started}) for run in runs]
    models = {run.model for run in runs if run.model}
    for environment in project.spec.deploy:
        if project.spec.place(environment) != environment:
            continue
        for release in project.releases(environment):
            if release.run in {run.id for run in runs} or release.model in models:
                windows = [
                    w
                    for _, w in project.journal.list("window", f"{environment}/")
                    if release.number in w["releases"]
                ]
                links.append(
                    Link(
                        "release",
                        f"{environment} {release.number}",
                        {
                            "model": short(release.model),
                            "created": release.created,
                            "windows": len(windows),
                            "predictions": sum(w["rows"] for w in windows),
                        },
                    )
                )
    return links


def _find_snapshot(project: Project, identifier: str) -> tuple[str, str]:
    latest = project.journal.get("snapshot", identifier)
    if latest is not None:
        return from_plain(Snapshot, latest).digest, identifier
    wanted = identifier.rpartition("@")[2].removeprefix("sha256:")
    found = [
        (key, value["dataset"])
        for key, value in project.journal.list("snapshot_by")
        if len(wanted) >= 4 and key.removeprefix("sha256:").startswith(wanted)
    ]
    if len(found) != 1:
        raise UsageError(
            f"{'no snapshot has' if not found else f'{len(found)} snapshots have'} "
            f"the digest `{identifier}`",
            hint=f"`treadle data show` lists them; data sets: {', '.join(project.spec.data)}",
        )
    return found[0]


def _runs(project: Project) -> list[Run]:
    return [from_plain(Run, value) for _, value in project.journal.list("run", newest_first=True)]


def find_model(project: Project, identifier: str) -> Model | None:
    """A model by its record's or content's digest, or the first (four or more) hex digits."""
    wanted = identifier.removeprefix("sha256:")
    if len(wanted) < 4 or not re.fullmatch(r"[0-9a-f]+", wanted):
        return None
    for key, value in project.journal.list("model", newest_first=True):
        if key.removeprefix("sha256:").startswith(wanted) or value["content"].removeprefix(
            "sha256:"
        ).startswith(wanted):
            return from_plain(Model, value)
    return None


def _named_release(project: Project, identifier: str) -> Release | None:
    match = re.fullmatch(
        r"(?:release )?(?:(?P<env>[A-Za-z0-9_-]+)[ /])?(?P<number>\d{1,6})", identifier.strip()
    )
    if match is None:
        return None
    environment = project.environment(match["env"])
    return project.release(environment, int(match["number"]))


def _ulid_millis(ulid: str) -> int:
    number = 0
    for letter in ulid[:10]:
        number = number * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(letter)
    return number


def _pick(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value[name] for name in names if value.get(name)}


# ---- explain -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explanation:
    """Why something is as it is, in plain lines, with the decisions they rest on."""

    thing: str
    lines: tuple[str, ...]
    decisions: tuple[Decision, ...] = ()


def explain(project: Project, thing: str, environment: str) -> Explanation:
    """Why did / didn't a step run, data get refused, a model get accepted, a retraining start …

    thing: a function, a data set, `data`, `model`, `verdict`, `release N`, `promote`, `retrain`,
    `deploy`, a decision id, a run id or a prediction id.
    """
    environment = project.spec.place(environment)
    decisions = project.journal.ledger(environment)
    for decision in decisions:
        if decision.id == thing:
            return _explain_decisions(thing, [decision])
    kinds = {
        "data": ("data", "accept"),
        "model": ("verdict",),
        "verdict": ("verdict", "approve"),
        "promote": ("promote", "hold", "rollback"),
        "release": ("release", "promote"),
        "retrain": ("retrain",),
        "deploy": ("deploy", "traffic"),
        "traffic": ("traffic",),
        "rollback": ("rollback",),
        "hold": ("hold", "rollback"),
    }
    if thing in project.spec.data:
        entries = [d for d in decisions if d.kind in ("data", "accept") and d.subject == thing]
        head = _explain_data(project, thing)
        return Explanation(thing, (*head, *_words(entries[:3])), tuple(entries[:3]))
    step = project.journal.get("step_last", thing)
    lines = _explain_step(project, thing, step) if step is not None else []
    if thing in kinds:
        about = [d for d in decisions if d.kind in kinds[thing]][:5]
        return Explanation(thing, (*_explain_decisions(thing, about).lines, *lines), tuple(about))
    if lines:
        return Explanation(thing, tuple(lines))
    release = _named_release(project, thing)
    if release is not None:
        about = [
            d
            for d in decisions
            if d.subject in (f"release {release.number}", short(release.model))
            or d.evidence.get("release") == release.number
            or d.evidence.get("model") == release.model
        ]
        return _explain_decisions(f"release {release.number}", about)
    run = project.journal.get("run", thing)
    if run is not None:
        found = from_plain(Run, run)
        lines = [
            f"run {found.id} started {found.started} because: {found.reason}",
            f"it is {found.status}" + (f": {found.error}" if found.error else ""),
        ]
        return Explanation(thing, tuple(lines))
    functions = [key for key, _ in project.journal.list("step_last")]
    raise UsageError(
        f"there is nothing called `{thing}` to explain",
        hint="functions: "
        + ", ".join(functions)
        + "; data sets: "
        + ", ".join(project.spec.data)
        + "; or data, model, promote, retrain, deploy, `release N`, a run id, a decision id",
    )


def _explain_decisions(thing: str, decisions: list[Decision]) -> Explanation:
    if not decisions:
        return Explanation(thing, (f"nothing was decided about {thing} yet",))
    return Explanation(thing, tuple(_words(decisions)), tuple(decisions))


def _words(decisions: list[Decision]) -> list[str]:
    return [
        f"{d.at[:19]}Z {d.kind} {d.subject}: {d.outcome} by {d.by} ({d.rule}): {d.words}"
        for d in decisions
    ]


def _explain_data(project: Project, name: str) -> list[str]:
    found = project.journal.get("snapshot", name)
    if found is None:
        return [f"data {name} was never read"]
    snapshot = from_plain(Snapshot, found)
    return [
        f"data {name} is at {short(snapshot.digest)}: {snapshot.rows:,} rows "
        f"in {len(snapshot.parts)} files"
    ]


def _explain_step(project: Project, name: str, last: dict[str, Any]) -> list[str]:
    from treadle.loop.walk import walk

    lines = []
    stored = project.journal.get("step", last["key"])
    if stored is not None:
        step = from_plain(Step, stored)
        lines.append(f"{name}() last ran in {step.seconds:.2f} s and depends on:")
        lines += [f"  {what} = {_value(digest)}" for what, digest in sorted(step.depends.items())]
    ran = project.journal.get("step_before", last["key"])
    if ran is not None:
        words = stale.explain_changes(ran["depends"], last["depends"])
        lines.append("it ran because: " + ("; ".join(words) or ran["why"]))
    planned = walk(project, project.environment(None)).plan()
    for action in planned.actions:
        if action.phase == "code" and action.subject == f"{name}()":
            verb = {"run": "run", "keep": "keep"}.get(action.action, action.action)
            lines.append(f"the next turn would {verb} it: {action.reason}")
            lines += [f"  {words}" for words in action.changed]
    return lines


def _value(text: str) -> str:
    return short(text) if text.startswith("sha256:") else text
