"""Data to verdict: the calls of code, build and test, with their records committed as they end."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from treadle.base import clock, crash
from treadle.base.digest import short
from treadle.base.plain import from_plain, to_plain
from treadle.base.records import Model, Run, Verdict
from treadle.clients import tracking
from treadle.clients.journal import Changes
from treadle.loop import chain as links
from treadle.loop import walk
from treadle.loop.chain import Chain

EXAMPLE_ROWS = 5
PROFILE_ROWS = 200_000
"""At most so many training rows make the profile that drift compares with (evenly spaced)."""


# ---- the run -------------------------------------------------------------------------------------


def all_parameters(chain: Chain) -> dict[str, Any]:
    """Every hyperparameter of the needed functions by `function.parameter`: defaults and --set."""
    assert chain.graph is not None
    return chain.graph.parameters(chain.parameters)


def begin_run(chain: Chain, *, by: str, reason: str) -> Run:
    """Record that a run has begun, before anything of the user's runs."""
    from treadle.loop.recovery import process_name

    project = chain.project
    run = Run(
        id=clock.ulid(),
        project=project.spec.project,
        environment=chain.environment,
        started=clock.text(clock.now()),
        status="RUNNING",
        parameters=all_parameters(chain),
        snapshots={n: s.digest for n, s in chain.snapshots.items() if n in used_data(chain)},
        code=chain.code,
        commit=commit_of(project.folder),
        by=by,
        reason=reason,
        process=process_name(),
    )
    project.commit(Changes().put("run", run.id, run).put("turning", "current", {"run": run.id}))
    return run


def end_run(chain: Chain, run: Run, *, error: BaseException | None = None) -> Run:
    """Record how a run ended, and put the news for MLflow into the outbox, in one commit."""
    project = chain.project
    done = replace(
        run,
        ended=clock.text(clock.now()),
        status="FAILED" if error else "FINISHED",
        error=_words(error) if error else None,
        steps={step.name: step.hit.key for step in chain.planned if step.hit is not None},
    )
    model = project.journal.get("model", done.model) if done.model else None
    verdict = project.journal.get("verdict", done.verdict) if done.verdict else None
    changes = Changes().put("run", done.id, done).delete("turning", "current")
    changes.tell(
        tracking.run_message(
            done,
            [chain.snapshots[name] for name in done.snapshots],
            from_plain(Model, model) if model else None,
            from_plain(Verdict, verdict) if verdict else None,
        )
    )
    project.commit(changes)
    return done


def _words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted by a person"
    return f"{type(error).__name__}: {error}"[:2000]


def used_data(chain: Chain) -> list[str]:
    """The data sets that the pipeline reads."""
    assert chain.graph is not None
    return [name for name in chain.project.spec.data if name in chain.graph.used_datasets]


def unrecorded(chain: Chain) -> bool:
    """Whether model and verdict stand, but the run that made them died before it could say so."""
    model = chain.model
    if model is None or chain.verdict is None:
        return False
    if chain.champion is not None and chain.champion.model == model.digest:
        return False
    return not any(run["model"] == model.digest for _, run in chain.project.journal.list("run"))


def commit_of(folder: Path) -> str | None:
    """The git commit, with `+` when tracked files of the folder changed; None outside git."""
    import subprocess

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if not commit:
        return None
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
    return commit + ("+" if changed else "")


# ---- code ----------------------------------------------------------------------------------------


def execute(chain: Chain, run: Run, *, checked: Callable[[], None]) -> None:
    """Run the stale steps; each finished step is committed at once.

    The rows are checked beside the import of the user's module: `checked` waits for that, and
    raises DataRefused before the first row reaches a step.
    """
    from treadle.code import execute as executor
    from treadle.code import pipeline
    from treadle.data import load

    project = chain.project
    if not chain.stale_steps:
        checked()
        return
    assert chain.graph is not None
    names = ", ".join(f"{step.name}()" for step in chain.stale_steps)
    project.report(f"running {names}", phase="code")
    uncached = [name for name, section in project.spec.steps.items() if not section.cache]
    for advice in pipeline.advice(chain.graph, uncached):
        project.report(advice, warning=True)

    def load_dataset(name: str, kind: str) -> object:
        checked()
        snapshot = chain.snapshots[name]
        if snapshot.kind == "paths":
            return load.paths(
                snapshot, project.objects, project.folder, temporary_folder(chain) / "paths"
            )
        return load.frame(snapshot, project.objects, "polars" if kind == "polars" else "pandas")

    done = executor.run(
        chain.planned,
        chain.graph,
        load_dataset,
        project.objects,
        project.journal,
        project.commit,
        project.report,
        project.spec.trust == "pickle",
        run_id=run.id,
    )
    checked()
    chain.planned = [replace(step, hit=done.get(step.name, step.hit)) for step in chain.planned]


# ---- build ---------------------------------------------------------------------------------------


def build(chain: Chain) -> Model:
    """Package the model result, unless an equal one is there; commits the Model record."""
    project, spec = chain.project, chain.project.spec
    if chain.model is not None:
        return chain.model
    from treadle.build import package
    from treadle.code import store
    from treadle.data.profile import profile_frame

    result = chain.result(spec.model.result)
    assert result is not None
    value = store.load(result, project.objects, trust_pickle=spec.trust == "pickle")
    train = training_frame(chain)
    section = chain.project.training_section()
    excluded: tuple[str, ...] = ()
    if section is not None:
        excluded = (*section.key, *section.known_later)
        excluded += (section.event_time,) if section.event_time else ()
    folder = Path(tempfile.mkdtemp(prefix="model-", dir=temporary_folder(chain)))
    try:
        target = folder / "model"
        model = package.package(
            value,
            spec.model,
            train.head(EXAMPLE_ROWS),
            target,
            train_features=train,
            trust_pickle=spec.trust == "pickle",
            excluded=excluded,
            holdout=_compared_on(chain),
        )
        content, _ = project.objects.put_tree(target)
        crash.point("build.packaged")
        assert content == model.content
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    step = max(1, len(train) // PROFILE_ROWS)
    profile = profile_frame(train.iloc[::step], list(model.features))
    blob = json.dumps(profile, sort_keys=True).encode()
    model = replace(model, profile=project.objects.put_bytes(blob))
    project.commit(
        Changes()
        .put("model", model.digest, model)
        .put("model_of", links.model_key(chain, result), model.digest)
    )
    project.report(
        f"model {short(model.digest)}: {model.flavor}, {len(model.features)} features, "
        f"{model.size_bytes / 1e3:,.0f} kB",
        phase="build",
    )
    told = parity(chain, model)
    if told is not None:
        project.report(compiled_words(told), phase="build", warning=not told["accepted"])
    chain.model = model
    return model


def _compared_on(chain: Chain) -> Any:
    """The rows that a compiled form is compared on; None where none is asked for."""
    from treadle.code import store

    if chain.project.spec.model.compile is None:
        return None
    holdout = chain.result(chain.project.spec.test.holdout)
    assert holdout is not None
    return as_pandas(store.load(holdout, chain.project.objects))


def parity(chain: Chain, model: Model) -> dict[str, Any] | None:
    """What the comparison of the model's compiled form said; None where none was asked for."""
    content = model.files.get("compiled/parity.json")
    if content is None:
        return None
    found: dict[str, Any] = json.loads(chain.project.objects.read(content))
    return found


def compiled_words(told: dict[str, Any]) -> str:
    """The same in a sentence."""
    if not told["accepted"]:
        return f"no compiled form, the original answers: {told['why']}"
    worst = told["worst"]["absolute"]
    shown = f"at most {worst:g} apart" if worst else "equal"
    return f"compiled ({told['form']}): {shown} on {told['rows']:,} rows of the holdout"


def discard_damaged(chain: Chain) -> bool:
    """Delete what is damaged of the steps' results, so that their steps run again; whether any was.

    For when a result could not be read: it looks at every byte.
    """
    project = chain.project
    found = False
    for step in chain.planned:
        for result in step.hit.results if step.hit is not None else ():
            damaged = links.damaged_blobs(result.content, project.objects)
            if damaged:
                found = True
                project.report(
                    f"result {result.name} of {step.name}() is damaged and is made again: blob "
                    + ", ".join(damaged),
                    warning=True,
                )
                for content in {*damaged, result.content}:
                    project.objects.delete(content)
    if found:
        walk.look_at_steps(chain)
    return found


def temporary_folder(chain: Chain) -> Path:
    """A folder on the state's own disk."""
    assert chain.project.state is not None
    folder = chain.project.state.folder / "tmp"
    folder.mkdir(exist_ok=True)
    return folder


def training_frame(chain: Chain) -> Any:
    """The frame that the model's function learned from, as pandas."""
    from treadle.base.errors import PipelineError
    from treadle.code import store

    label = chain.project.spec.model.label
    for result in links.model_inputs(chain):
        if result.format == "parquet":
            frame = as_pandas(store.load(result, chain.project.objects))
            if label in frame.columns or chain.project.spec.model.features:
                return frame
    raise PipelineError(
        f"{chain.project.spec.model.result}() takes no frame: its features and their types are "
        "read from the frame that it learns from",
        hint="give it a DataFrame (the training rows, with the label) as a parameter",
    )


def as_pandas(frame: Any) -> Any:
    """A pandas frame, whatever kind the user's function works with."""
    return frame.to_pandas() if hasattr(frame, "to_pandas") else frame


# ---- test ----------------------------------------------------------------------------------------


def judge(chain: Chain, model: Model) -> Verdict:
    """The verdict on `model`, unless it stands already; commits it with its ledger entry."""
    project, spec = chain.project, chain.project.spec
    if chain.verdict is not None:
        return chain.verdict
    verdict = verdict_on(chain, model)
    holdout = chain.result(spec.test.holdout)
    assert holdout is not None
    failed = [g for g in verdict.gates if g.outcome == verdict.outcome]
    words = {
        "pass": f"passed {len(verdict.gates)} gates on {verdict.rows:,} rows",
        "refuse": "; ".join(g.text for g in failed),
        "undecided": "; ".join(g.text for g in failed),
    }[verdict.outcome]
    decision = project.decision(
        "verdict",
        chain.place,
        short(model.digest),
        verdict.outcome,
        "model acceptable",
        words,
        {
            "verdict": verdict.digest,
            "model": model.digest,
            "champion": verdict.champion,
            "gates": to_plain(verdict.gates),
            "metrics": verdict.metrics,
            "attempts": verdict.attempts,
            "blocks": verdict.blocks,
        },
    )
    attempted = set(project.journal.get("attempts", holdout.content) or [])
    project.commit(
        Changes()
        .put("verdict", verdict.digest, verdict)
        .put("verdict_of", links.verdict_key(chain, model, holdout), verdict.digest)
        .put("attempts", holdout.content, sorted(attempted | {model.digest}))
        .decide(decision)
    )
    shown = ", ".join(f"{name} {value:.3f}" for name, value in verdict.metrics.items())
    project.report(
        f"{verdict.outcome}: {words if verdict.outcome != 'pass' else shown}", phase="test"
    )
    chain.verdict = verdict
    return verdict


def verdict_on(chain: Chain, model: Model) -> Verdict:
    """Judge one model on the present holdout against the present champion; writes nothing."""
    from treadle.code import store
    from treadle.test.judge import JudgeInput
    from treadle.test.judge import judge as judge_model

    project, spec = chain.project, chain.project.spec
    holdout = chain.result(spec.test.holdout)
    assert holdout is not None
    champion = chain.champion
    champion_model = None
    if champion is not None and champion.model != model.digest:
        champion_model = from_plain(Model, project.journal.get("model", champion.model))
    section = chain.project.training_section()
    attempted = set(project.journal.get("attempts", holdout.content) or [])
    return judge_model(
        JudgeInput(
            test=spec.test,
            model=spec.model,
            key=section.key if section else (),
            event_time=section.event_time if section else None,
            known_later=section.known_later if section else (),
            features=model.features,
            holdout=as_pandas(store.load(holdout, project.objects)),
            train=training_frame(chain),
            predict=predictor(chain, model),
            predict_champion=predictor(chain, champion_model) if champion_model else None,
            champion_features=champion_model.features if champion_model else (),
            model_digest=model.digest,
            champion_digest=champion_model.digest if champion_model else None,
            holdout_digest=holdout.content,
            classes=model.classes,
            champion_classes=champion_model.classes if champion_model else (),
            champion_name=f"release {champion.number}" if champion else None,
            attempts=len(attempted | {model.digest}),
        )
    )


def predictor(chain: Chain, model: Model) -> Callable[[Any], Any]:
    """The packaged directory's own predict: what is judged is what will be served."""
    from treadle.operate.model import loaded as operate_model

    assert chain.project.state is not None
    folder = chain.project.state.model_folder(model.content)
    loaded = operate_model.load(
        folder, files=model.files, trust_pickle=chain.project.spec.trust == "pickle"
    )
    return loaded.predict_frame
