"""`treadle init`: what a folder holds, and the first treadle.yaml that fits it. Writes nothing.

Every default carries its reason: a guess that is told can be corrected, a silent one cannot.
What lies in the folder is adopt_folder's to find, its Python adopt_code's, its rows adopt_rows'.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from treadle.base.errors import SpecError, UsageError
from treadle.plan import template
from treadle.plan.adopt_code import Code, read_folder
from treadle.plan.adopt_folder import Found, Query, data_sets, git_files, project_name, tables
from treadle.plan.adopt_rows import shape_of
from treadle.plan.template import Guess

SPEC_FILE = "treadle.yaml"


@dataclass(frozen=True)
class Proposal:
    """What `init` would write; `write` renders it."""

    folder: Path
    project: str
    kind: Literal["existing", "adopted", "sample"]
    guesses: tuple[Guess, ...] = ()
    """In the order in which they are shown."""
    environment: str = "local"
    spec: template.SpecTexts | None = None
    pipeline: template.PipelineTexts | None = None
    """None: there is one."""
    extra: dict[str, str] = field(default_factory=dict)
    """Other new files (the sample's data, .gitignore)."""
    appends: dict[str, str] = field(default_factory=dict)
    """Lines for files that exist and would need them: the caller may add them, with a word."""


def detect(folder: Path, query: Query | None = None) -> Proposal:
    """Look at `folder` (it may not exist yet) and propose a project.

    query: reads (database URL, SQL) into a polars frame, where databases may be looked into.
    """
    project = project_name(folder)
    if (folder / SPEC_FILE).exists():
        return _existing(folder, project)
    found, databases = data_sets(folder)
    notes: list[Guess] = []
    if not found and databases and query is not None:
        found = tables(databases, query, notes)
    elif databases:
        notes += [
            Guess("database", url, "seen, not used: name a query for it") for url in databases
        ]
    seen = _Seen(folder, project, found, read_folder(folder, notes), notes, query)
    return _adopt(seen) if seen.found or seen.code is not None else _sample(seen)


@dataclass(frozen=True)
class _Seen:
    """All that was found in a folder."""

    folder: Path
    project: str
    found: list[Found]
    code: Code | None
    notes: list[Guess]
    query: Query | None


def write(proposal: Proposal) -> dict[str, str]:
    """Relative path → text of every file of the proposal; existing ones are for the caller to keep."""
    files: dict[str, str] = {}
    if proposal.spec is not None:
        files[SPEC_FILE] = template.spec(proposal.spec)
    if proposal.pipeline is not None:
        files["pipeline.py"] = template.pipeline(proposal.pipeline)
    return files | proposal.extra


def ci_workflow(service: str, project: str, environment: str = "local") -> tuple[str, str]:
    """(path, text) of the workflow for `github` or `gitlab`: at most 40 lines, the user's own."""
    if service not in template.WORKFLOWS:
        raise UsageError(
            f"there is no workflow for {service!r}", hint=f"one of {', '.join(template.WORKFLOWS)}"
        )
    path, text = template.WORKFLOWS[service]
    return path, text.replace("PROJECT", project).replace("ENVIRONMENT", environment)


def _existing(folder: Path, project: str) -> Proposal:
    from treadle.plan.spec import load

    reason = f"{SPEC_FILE} is there: it stays as it is"
    try:
        spec = load(folder / SPEC_FILE)
    except SpecError as error:
        raise SpecError(
            f"{SPEC_FILE} is there and cannot be read, so nothing is proposed", error.mistakes
        ) from None
    guesses = (
        Guess("project", spec.project, reason),
        Guess("environment", spec.default_environment, "the first entry of deploy:"),
    )
    _, appends, _ = git_files(folder)
    return Proposal(
        folder, spec.project or project, "existing", guesses, spec.default_environment,
        appends=appends,
    )  # fmt: skip


def _sample(seen: _Seen) -> Proposal:
    """A whole small project with data that a formula made, so that the first turn can be tried."""
    ignored, appends, _ = git_files(seen.folder)
    folder, project = seen.folder, seen.project
    shape = template.SAMPLE_SHAPE(Guess)
    data = template.sample_data()
    spec = template.SpecTexts(
        project, "pipeline.py", "deliveries", "data/deliveries-*.csv", None, shape,
        Guess("model", "model", "pipeline.py: model()"),
        Guess("holdout", "holdout", "pipeline.py: split()"), floor=0.6,
    )  # fmt: skip
    guesses = (
        Guess("project", project, "the folder's name"),
        Guess("sample", "deliveries", "no data and no pipeline was found: a made-up example to begin with"),
        *seen.notes,
    )  # fmt: skip
    pipeline = template.PipelineTexts("deliveries", shape)
    return Proposal(
        folder, project, "sample", guesses, "local", spec, pipeline, {**data, **ignored}, appends
    )


def _adopt(seen: _Seen) -> Proposal:
    """The spec that fits what is there, and a pipeline where there is none."""
    folder, project, found, code = seen.folder, seen.project, seen.found, seen.code
    ignored, appends, git = git_files(folder)
    guesses = [Guess("project", project, "the folder's name")]
    main = found[0] if found else Found("rows", "data/*.parquet")
    data_reason = f"{len(main.files)} files" if len(main.files) > 1 else "the only file like it"
    if main.database:
        data_reason = f"the biggest table of {main.database}"
    if not found:
        data_reason = "no data file was found: name yours"
    elif len(found) > 1:
        data_reason += f"; also seen: {', '.join(one.pattern for one in found[1:4])}"
    names = {one.name for one in found}
    others: list[Found] = []
    if code is not None and code.wanted:
        free = [name for name in code.wanted if name not in names]
        if main.name not in code.wanted and free:
            data_reason += f"; called {free[0]} because {code.file} takes it by that name"
            main = Found(free[0], main.pattern, main.files, main.size_bytes, main.database)
        others = [one for one in found[1:] if one.name in code.wanted]
    shape = shape_of(folder, main, code, seen.query) if found else template.Shape(
        label=Guess("label", "label", "no data was found: name the column to predict")
    )  # fmt: skip
    if code is not None and code.label and not found:
        shape = template.Shape(label=Guess("label", code.label, f"{code.file} calls it so"))
    pipeline: template.PipelineTexts | None = None
    if code is None:
        pipeline = template.PipelineTexts(main.name, shape)
        result = Guess("model", "model", "pipeline.py: model(), written for these columns")
        holdout = Guess("holdout", "holdout", "pipeline.py: split()")
        guesses.append(Guess("pipeline", "pipeline.py", "there is none: a working one is written"))
    else:
        guesses.append(Guess("pipeline", code.file, f"its functions: {', '.join(code.functions)}"))
        result = Guess(
            "model", code.model or "model",
            f"{code.file}: {code.model}()" if code.model
            else f"{code.file} has no function by such a name: name the one that returns the model",
        )  # fmt: skip
        holdout = Guess(
            "holdout", code.holdout or "holdout",
            f"a result of {code.file}" if code.holdout
            else f"{code.file} has no such result: name the one that holds the rows to judge on",
        )  # fmt: skip
    guesses.append(Guess(f"data.{main.name}", main.pattern, data_reason))
    guesses += [g for g in (shape.key, shape.event_time, shape.label, shape.task, shape.known_later,
                            shape.features) if g is not None]  # fmt: skip
    guesses += [result, holdout, *seen.notes]
    if git:
        guesses.append(Guess("git", "yes", "commits are recorded with each run"))
    if appends:
        guesses.append(
            Guess(".gitignore", ".treadle/", "the state does not belong into git: add this line")
        )
    spec = template.SpecTexts(
        project, code.file if code else "pipeline.py", main.name, main.pattern, main.database, shape,
        result, holdout, others=tuple((one.name, one.pattern) for one in others),
        rows_note=data_reason,
    )  # fmt: skip
    return Proposal(
        folder, project, "adopted", tuple(guesses), "local", spec, pipeline, dict(ignored), appends
    )
