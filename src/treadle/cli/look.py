"""`status`, `explain`, `lineage`, `ledger`: looking, without changing anything."""

from __future__ import annotations

import click

from treadle.cli.options import ENVIRONMENT
from treadle.cli.output import Console, common, table
from treadle.loop.project import open_project


@click.command()
@ENVIRONMENT
@common
def status(*, environment: str | None, console: Console) -> int:
    """The loop at a glance."""
    from treadle.loop.service import status as look

    project = open_project(create=False, report=console.report)
    found = look(project, project.environment(environment))

    def render() -> str:
        width = max(len(name) for name, _ in found.lines)
        text = "\n".join(f"{name.ljust(width)}  {value}" for name, value in found.lines)
        if found.attention:
            text += "\n\nneeds attention:\n" + "\n".join(f"  - {item}" for item in found.attention)
        else:
            text += "\n\nnothing needs attention"
        return text + (f"\n\nnext: {found.next}" if found.next else "")

    console.result(found, render)
    return 0


@click.command()
@click.argument("thing", nargs=-1, required=True)
@ENVIRONMENT
@common
def explain(*, thing: tuple[str, ...], environment: str | None, console: Console) -> int:
    """Why did, or didn't, a step run, data get refused, a model get accepted or promoted, a
    retraining start.

    THING: a function, a data set, `data`, `model`, `promote`, `retrain`, `deploy`, `release N`, a
    run id, a decision id.
    """
    from treadle.loop.trace import explain as look

    project = open_project(create=False, report=console.report)
    found = look(project, " ".join(thing), project.environment(environment))
    console.result(found, "\n".join(found.lines))
    return 0


@click.command()
@click.argument("identifier", nargs=-1)
@click.option(
    "--from-data",
    "snapshot",
    metavar="SNAPSHOT",
    help="The reverse: which runs, models, releases and predictions came from it.",
)
@common
def lineage(*, identifier: tuple[str, ...], snapshot: str | None, console: Console) -> int:
    """From a prediction id back to its data: instance, release, model, run, code, data."""
    from treadle.loop import trace

    if bool(identifier) == (snapshot is not None):
        raise click.UsageError("give a prediction id, or --from-data SNAPSHOT")
    project = open_project(create=False, report=console.report)
    links = (
        trace.from_data(project, snapshot)
        if snapshot is not None
        else trace.lineage(project, " ".join(identifier))
    )

    def render() -> str:
        lines = []
        for link in links:
            lines.append(f"{link.kind:<11} {link.id}")
            for name, value in link.facts.items():
                if isinstance(value, dict):
                    lines.append(f"{'':<13} {name}:")
                    lines += [f"{'':<15} {n}: {v}" for n, v in value.items()]
                else:
                    lines.append(f"{'':<13} {name}: {value}")
        return "\n".join(lines)

    console.result({"links": links}, render)
    return 0


@click.command()
@ENVIRONMENT
@click.option(
    "--as-of", "moment", metavar="DATE", help="Who was champion then, and what came before."
)
@click.option("-n", "--limit", type=click.IntRange(1), help="At most so many entries.")
@click.option("--evidence", is_flag=True, help="With the numbers each decision rests on.")
@common
def ledger(
    *,
    environment: str | None,
    moment: str | None,
    limit: int | None,
    evidence: bool,
    console: Console,
) -> int:
    """Every decision, newest first: what, by which rule, on which evidence, by whom."""
    from treadle.loop import ledger as ledgers

    project = open_project(create=False, report=console.report)
    name = project.spec.place(project.environment(environment))
    until = ledgers.end_of(moment) if moment is not None else None
    entries = ledgers.ledger(project, name, until=until, limit=limit)
    champion = ledgers.champion_as_of(project, name, until) if until else None

    def render() -> str:
        lines = []
        if until:
            who = f"release {champion}" if champion is not None else "nobody"
            lines.append(f"champion of {name} at {until[:19]}Z: {who}\n")
        rows = [(d.at[:16], d.kind, d.subject, d.outcome, d.by, d.words) for d in entries]
        lines.append(
            table(rows, ("at", "decision", "on", "outcome", "by", "why"))
            if rows
            else "no decision yet"
        )
        if evidence:
            import json

            lines += [
                f"\n{d.id} {d.kind} {d.subject} ({d.rule})\n"
                + json.dumps(d.evidence, indent=2, default=str)
                for d in entries
            ]
        return "\n".join(lines)

    console.result({"environment": name, "champion": champion, "decisions": entries}, render)
    return 0
