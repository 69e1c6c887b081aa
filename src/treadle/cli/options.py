"""Options that several commands have."""

from __future__ import annotations

import click

ENVIRONMENT = click.option(
    "--env", "environment", metavar="NAME", help="An entry of deploy:; the first is the default."
)
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="FUNCTION.PARAMETER=VALUE",
    help="A hyperparameter for this run; with commas each value is tried (train).",
)
PODS = click.option(
    "--pods", type=click.IntRange(2), help="Of both together, where pods divide the requests."
)
REASON = click.option("--reason", default="", help="Why; it stands in the ledger under your name.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only the preview.")
YES = click.option("--yes", is_flag=True, help="Do not ask.")
