"""The error tree: one branch for each thing that a caller would do differently.

TreadleError                    exit 1   something failed; the message says what and the fix
├── UsageError                  exit 2   a flag, a name or an argument that cannot be
│   └── SpecError               exit 2   mistakes in treadle.yaml, all of them at once
├── PipelineError               exit 1   the functions cannot be wired (unknown name, cycle)
│   └── StepFailed              exit 1   a function of the user raised, died or returned None
├── Refused                     exit 3   a rule said no; nothing was changed
│   ├── DataRefused             exit 3   bad data, with every violation
│   └── GateRefused             exit 3   a model that did not pass
├── Unreachable                 exit 4   a backend, a database, a service, a journal is not there
├── Undecided                   exit 5   the evidence does not decide; a person may
├── StateError                  exit 1   the state on disk cannot be used
│   ├── StateCorrupt            exit 1   a blob, ledger entry or file is not what its digest says
│   ├── StateVersion            exit 1   written by a newer (or too old) Treadle
│   ├── StateBusy               exit 1   another process turns this loop
│   └── DiskFull                exit 1   no space left; what was written before is intact
├── MissingExtra                exit 1   an optional library is absent; names the pip command
└── Bug                         exit 1   our fault: says so and asks for a report
"""

from __future__ import annotations

from collections.abc import Sequence


class TreadleError(Exception):
    """An error a user can act on: what and where in `message`, the way out in `hint`."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_dict(self) -> dict[str, object]:
        """The error as plain values, for `--json`."""
        return {"error": type(self).__name__, "message": self.message, "hint": self.hint}


class UsageError(TreadleError):
    """A flag, a name or an argument that cannot be."""

    exit_code = 2


class SpecError(UsageError):
    """Mistakes in treadle.yaml; `mistakes` holds one rendered text for each."""

    def __init__(
        self, message: str, mistakes: Sequence[str] = (), *, hint: str | None = None
    ) -> None:
        super().__init__("\n\n".join([message, *mistakes]), hint=hint)
        self.mistakes = tuple(mistakes)


class PipelineError(TreadleError):
    """The functions of the pipeline cannot be wired: an unknown name, a cycle, two homes."""


class StepFailed(PipelineError):
    """A function of the user raised, died or returned nothing; `user_traceback` shows only it."""

    def __init__(self, message: str, *, user_traceback: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.user_traceback = user_traceback


class Refused(TreadleError):
    """A rule said no; nothing was changed."""

    exit_code = 3


class DataRefused(Refused):
    """Bad data; the message lists every violation with counts and example rows.

    `violations` holds the records (`base.records.Violation`) where the data itself is to blame.
    """

    def __init__(
        self, message: str, violations: Sequence[object] = (), *, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.violations = tuple(violations)


class GateRefused(Refused):
    """A model that did not pass its gates."""


class Unreachable(TreadleError):
    """A backend, database, service or journal is not there."""

    exit_code = 4


class Undecided(TreadleError):
    """The evidence does not decide; a person may, with `treadle approve`."""

    exit_code = 5


class StateError(TreadleError):
    """The state on disk cannot be used."""


class StateCorrupt(StateError):
    """A blob, a ledger entry or a file is not what its digest says."""


class StateVersion(StateError):
    """The state was written by a newer Treadle, or by one too old to migrate from."""


class StateBusy(StateError):
    """Another process turns this loop; the message names it."""


class DiskFull(StateError):
    """No space left on the device; everything written before is intact."""


class MissingExtra(TreadleError):
    """An optional library is absent; the hint is the pip command that brings it."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {library}, which is not installed",
            hint=f"pip install 'treadle[{extra}]'",
        )


class Bug(TreadleError):
    """Treadle's own fault."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="this is a bug in Treadle: please report it with the trace")
