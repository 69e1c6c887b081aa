"""`render`: what a cluster would be given, as files for people and for GitOps."""

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
@common
def render(*, environment: str | None, output: str, console: Console) -> int:
    """The champion's Kubernetes objects as YAML: the same bytes on every machine. Nothing is sent."""
    from treadle.loop.manifests import render as rendered
    from treadle.loop.project import open_project

    project = open_project(create=False, report=console.report)
    found = rendered(project, project.environment(environment))
    for words in found.left_out:
        console.line(f"left out: {words}")
    if output == "-":
        console.result({"objects": found.objects}, found.text.rstrip("\n"))
        return 0
    files = found.write(Path(output))
    console.result({"files": [str(path) for path in files]}, "\n".join(map(str, files)))
    return 0
