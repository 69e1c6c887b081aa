"""`render` and `lint`: what a cluster would be given, and what people would give it."""

from __future__ import annotations

from pathlib import Path

import click

from treadle.cli.options import ENVIRONMENT
from treadle.cli.output import Console, common


@click.command()
@ENVIRONMENT
@click.option(
    "--output", metavar="DIR|-", default="-", show_default=True,
    help="A folder, a file for each object; - for standard output.",
)  # fmt: skip
@click.option(
    "--api-versions", "-a", "versions", multiple=True, metavar="GROUP/VERSION",
    help="An API that the cluster has beside its own, as monitoring.coreos.com/v1 or "
    "gateway.networking.k8s.io/v1; no cluster is asked.",
)  # fmt: skip
@common
def render(
    *, environment: str | None, output: str, versions: tuple[str, ...], console: Console
) -> int:
    """The champion's Kubernetes objects as YAML: the same bytes on every machine. Nothing is sent."""
    from treadle.loop.manifests import render as rendered
    from treadle.loop.project import open_project

    project = open_project(create=False, report=console.report)
    given = [one.strip() for some in versions for one in some.split(",") if one.strip()]
    found = rendered(project, project.environment(environment), given)
    for words in found.left_out:
        console.line(f"left out: {words} (--api-versions says that it is)")
    if output == "-":
        console.result({"objects": found.objects}, found.text.rstrip("\n"))
        return 0
    files = found.write(Path(output))
    console.result({"files": [str(path) for path in files]}, "\n".join(map(str, files)))
    return 0


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--kubernetes", "version", default=None, metavar="1.NN", help="By which version's schemas."
)
@common
def lint(*, files: tuple[Path, ...], version: str | None, console: Console) -> int:
    """What is wrong with Kubernetes YAML: line, column, what and the fix. Offline; exit code 1 if
    anything is, 0 for warnings alone."""
    from treadle.loop.lint import look

    found = look(files, version)
    wrong = sum(not one.warning for one in found)
    counts = [f"{wrong} thing{'s'[: wrong != 1]} wrong"] if wrong else []
    if warnings := len(found) - wrong:
        counts.append(f"{warnings} warning{'s'[: warnings != 1]}")
    number = ", ".join(counts) or "nothing is wrong"
    console.result({"findings": found}, "\n\n".join([one.text for one in found] or [number]))
    console.line(f"{number} in {len(files)} file{'s'[: len(files) != 1]}" if found else "")
    return 1 if wrong else 0
