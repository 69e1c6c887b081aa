"""`approve`, `promote`, `rollback` and `traffic`: a person's moves."""

from __future__ import annotations

import click

from treadle.cli.options import DRY_RUN, ENVIRONMENT, PODS, REASON, YES
from treadle.cli.output import Console, common
from treadle.loop.project import open_project


@click.command()
@click.argument("identifier", metavar="ID", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why; it stands in the ledger under your name.")
@ENVIRONMENT
@common
def approve(
    *, identifier: tuple[str, ...], reason: str, environment: str | None, console: Console
) -> int:
    """Answer an undecided verdict, a held release or a retraining that awaits approval.

    ID is what `treadle status` shows under "needs attention": a decision id, a model digest,
    `release N` or `retrain`.
    """
    from treadle.loop.decide import approve as decide

    project = open_project(create=False, write=True, report=console.report)
    done = decide(project, project.environment(environment), " ".join(identifier), reason)
    console.result(
        {"decision": done.decision, "next": done.next},
        f"{done.decision.words}\n\nnext: {done.next}",
    )
    return 0


@click.command()
@click.option("--from", "source", metavar="NAME", required=True, help="Where it runs already.")
@ENVIRONMENT
@click.option(
    "--release", "number", type=click.IntRange(1), help="A release of it; by default its champion."
)
@click.option(
    "--weight", type=click.IntRange(1, 99), metavar="PERCENT",
    help="Only a share of the requests, beside the champion (Kubernetes; then: treadle traffic).",
)  # fmt: skip
@PODS
@REASON
@DRY_RUN
@YES
@common
def promote(
    *,
    source: str,
    environment: str | None,
    number: int | None,
    weight: int | None,
    pods: int | None,
    reason: str,
    dry_run: bool,
    yes: bool,
    console: Console,
) -> int:
    """The champion of one environment becomes that of another: the same model, the same image;
    nothing is trained or built again."""
    from treadle.loop import promotion

    if pods is not None and weight is None:
        raise click.UsageError("--pods belongs to --weight")
    share = None if weight is None else promotion.Share(weight, pods)
    project = open_project(create=False, write=True, report=console.report)
    source, name = project.environment(source), project.environment(environment)
    would = promotion.preview(project, source, name, number, share)
    if dry_run:
        console.result(would, would.words)
        return 0
    if not yes:
        console.line(would.words)
        if not console.ask("promote?", "--yes"):
            return 1
    done = promotion.promote(project, source, name, number, reason, share)
    console.result(done, f"{done.words}\n\nnext: treadle status --env {done.environment}")
    return 0


@click.command()
@ENVIRONMENT
@click.option(
    "--to", "number", type=click.IntRange(1), help="A release; by default the one before."
)
@REASON
@DRY_RUN
@YES
@common
def rollback(
    *,
    environment: str | None,
    number: int | None,
    reason: str,
    dry_run: bool,
    yes: bool,
    console: Console,
) -> int:
    """Back to the previous (or a named) release; no retraining. The one rolled back is held."""
    from treadle.loop.decide import preview_rollback
    from treadle.loop.decide import rollback as roll_back

    project = open_project(create=False, write=True, report=console.report)
    name = project.environment(environment)
    preview = preview_rollback(project, name, number)
    if dry_run:
        console.result({"preview": preview}, preview.text)
        return 0
    if not yes:
        console.line(preview.text)
        if not console.ask("roll back?", "--yes"):
            return 1
    done = roll_back(project, name, preview.release, reason)
    console.result(done, f"{preview.text}\n\n{done.words}\n\nnext: treadle status")
    return 0


@click.command()
@ENVIRONMENT
@click.option(
    "--release", "number", type=click.IntRange(1),
    help="The release beside the champion; by default the one that has a share.",
)  # fmt: skip
@click.option(
    "--weight", type=click.IntRange(0, 100), metavar="PERCENT",
    help="Its share; 0 gives all back to the champion, 100 makes it champion.",
)  # fmt: skip
@PODS
@REASON
@DRY_RUN
@YES
@common
def traffic(
    *,
    environment: str | None,
    number: int | None,
    weight: int | None,
    pods: int | None,
    reason: str,
    dry_run: bool,
    yes: bool,
    console: Console,
) -> int:
    """Divide the requests of a Kubernetes environment between the champion and another release;
    without --weight: how they are divided now."""
    from treadle.loop import traffic as shares

    if weight is None and (number is not None or pods is not None):
        raise click.UsageError("--release and --pods belong to --weight")
    if weight is None:
        project = open_project(create=False, report=console.report)
        now = shares.present(project, project.environment(environment))
        console.result(now, now.words)
        return 0
    project = open_project(create=False, write=True, report=console.report)
    name = project.environment(environment)
    asked = shares.Asked(number, weight, pods, reason)
    would = shares.preview(project, name, asked)
    if dry_run:
        console.result(would, would.words)
        return 0
    if not yes:
        console.line(would.words)
        if not console.ask("divide the requests so?", "--yes"):
            return 1
    done = shares.shift(project, name, asked)
    console.result(done, f"{done.words}\n\nnext: treadle status --env {name}")
    return 0
