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
