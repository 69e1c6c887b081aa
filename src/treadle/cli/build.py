"""`treadle build`: from a model to a container image, without a daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from treadle.cli.options import ENVIRONMENT
from treadle.cli.output import Console, common, table


@click.command()
@click.argument("folder", metavar="[MODEL_DIR]", required=False, type=click.Path(path_type=Path))
@ENVIRONMENT
@click.option(
    "--for", "purpose", type=click.Choice(["serve", "batch", "train", "hub"]), default="serve",
    show_default=True, help="What the image does: answer, score files, train, or turn the loop on a cluster.",
)  # fmt: skip
@click.option(
    "--output", metavar="WHERE",
    help="registry/name[:tag], oci:DIR, tar:FILE, docker[:name[:tag]], minikube, kind, k3d or k3s (:NAME of the cluster).",
)  # fmt: skip
@click.option("--platform", "platforms", help="linux/amd64,linux/arm64 (default: this machine's).")
@click.option("--base", help="The image it is laid on, instead of `build: {base: …}`.")
@click.option(
    "--release", "number", type=click.IntRange(1), help="A release; by default the champion."
)
@click.option("--explain", is_flag=True, help="Which layer changed since the last image, and why.")
@click.option("--dry-run", is_flag=True, help="Plan only: nothing is built or sent.")
@click.option(
    "--update", is_flag=True, help="Resolve base and wheels anew instead of by treadle.lock."
)
@click.option("--force", is_flag=True, help="Move a tag that exists with other content.")
@click.option(
    "--dockerfile", "context", metavar="DIR", type=click.Path(path_type=Path),
    help="Write a Dockerfile and its context instead of an image.",
)  # fmt: skip
@common
def build(
    *,
    folder: Path | None,
    environment: str | None,
    purpose: Any,
    output: str | None,
    platforms: str | None,
    base: str | None,
    number: int | None,
    explain: bool,
    dry_run: bool,
    update: bool,
    force: bool,
    context: Path | None,
    console: Console,
) -> int:
    """Build an image of the champion (or of any MLflow model directory): same inputs, same digest;
    a new model replaces one layer. Prints the reference by digest and nothing else."""
    from treadle.loop import image
    from treadle.loop.project import open_project

    wishes = image.Wishes(
        purpose=purpose,
        output=output,
        platforms=tuple(filter(None, (platforms or "").split(","))),
        base=base,
        update=update,
        force=force,
        dry_run=dry_run,
        context=context,
    )
    if folder is not None:
        built = image.build_folder(folder, wishes, report=console.report)
    else:
        project = open_project(create=False, report=console.report, write=not dry_run)
        built = image.build(project, project.environment(environment), wishes, number=number)

    rows = [(c.platform, c.layer, c.action, c.reason) for c in built.changes]
    shown = table(rows, ("platform", "layer", "", "why"))
    if dry_run:
        console.result(built, shown)
        return 0
    if explain:
        console.line(shown)
    # A script takes what stands on stdout: the reference by digest and nothing else.
    console.result(built, built.reference)
    return 0
