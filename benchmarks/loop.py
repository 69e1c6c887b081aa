"""The same four steps as a plain script, with MLflow calls, as DVC stages and as a Treadle project.

    python benchmarks/loop.py [--rounds 5] [--json results.json] [--only plain,treadle]

A folder is made with 20,000 rows of CSV (20 features, always the same ones) and four variants of
load → split → logistic regression → evaluate. Whole processes are timed, one after the other, in
interleaved rounds (plain, MLflow, DVC, Treadle, plain, …), so that a busy machine slows all of
them; what is compared is the difference within a round. Every variant must give the same accuracy.

wall: from before the process is started until it has ended, seconds. CPU: user and system time of
the process and of all that it waited for (wait4), seconds. "beside": CPU of what it left behind
(Treadle's recorder, which writes to MLflow after the command has ended), seconds. MB: the largest
resident set of one of its processes.

DVC lives in a virtual environment of its own (`--dvc-venv`, made when absent from the extra
`benchmarks` in pyproject.toml); the code that it runs, like everybody's, runs in the interpreter
that runs this file.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROWS = 20_000
FEATURES = 20
ROUNDS = 5
QUICK = 3
"""Commands of a tenth of a second are run so often in a round."""
PYTHON = sys.executable
TREADLE = Path(sys.executable).parent / "treadle"
REPOSITORY = Path(__file__).resolve().parent.parent
VARIANTS = ("plain", "mlflow", "dvc", "treadle")

# ---- the four steps, said once -------------------------------------------------------------------

IMPORTS = {
    "load": "import pandas as pd\n",
    "split": "import pandas as pd\nfrom sklearn.model_selection import train_test_split\n",
    "model": "import pandas as pd\nfrom sklearn.linear_model import LogisticRegression\n",
    "evaluate": "import pandas as pd\nfrom sklearn.metrics import accuracy_score, roc_auc_score\n",
}
BODIES = {
    "load": """
def load(path: str) -> pd.DataFrame:
    return pd.read_csv(path)
""",
    "split": """
def split(rows: pd.DataFrame, seed: int = 0):
    return train_test_split(rows, test_size=0.25, random_state=seed)
""",
    "model": """
def model(train: pd.DataFrame, C: float = 1.0) -> LogisticRegression:
    return LogisticRegression(C=C, max_iter=500).fit(train.drop(columns="label"), train["label"])
""",
    "evaluate": """
def evaluate(model, holdout: pd.DataFrame) -> dict:
    features = holdout.drop(columns="label")
    return {
        "accuracy": float(accuracy_score(holdout["label"], model.predict(features))),
        "roc_auc": float(roc_auc_score(holdout["label"], model.predict_proba(features)[:, 1])),
    }
""",
}
PLAIN = """
if __name__ == "__main__":
    train, holdout = split(load("rows.csv"))
    print(json.dumps(evaluate(model(train), holdout)))
"""
# As MLflow's own quickstart has it; `requirements` is what its documentation offers against the
# seconds that finding the requirements takes.
MLFLOW = """
if __name__ == "__main__":
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment("bench")
    with mlflow.start_run():
        train, holdout = split(load("rows.csv"))
        fitted = model(train)
        metrics = evaluate(fitted, holdout)
        mlflow.log_params({"seed": 0, "C": 1.0})
        mlflow.log_metrics(metrics)
        features = train.drop(columns="label")
        mlflow.sklearn.log_model(
            fitted, name="model", signature=infer_signature(features, fitted.predict(features)),
            pip_requirements=REQUIREMENTS,
        )
    print(json.dumps(metrics))
"""
DVC_MAIN = {
    "load": 'load("rows.csv").to_pickle("rows.pkl")\n',
    "split": """
train, holdout = split(pd.read_pickle("rows.pkl"))
train.to_pickle("train.pkl")
holdout.to_pickle("holdout.pkl")
""",
    "model": """
with open("model.pkl", "wb") as file:
    pickle.dump(model(pd.read_pickle("train.pkl")), file)
""",
    "evaluate": """
with open("model.pkl", "rb") as file:
    fitted = pickle.load(file)
with open("metrics.json", "w") as file:
    json.dump(evaluate(fitted, pd.read_pickle("holdout.pkl")), file)
""",
}
DVC_YAML = """\
stages:
  load:
    cmd: {python} load.py
    deps: [load.py, rows.csv]
    outs: [rows.pkl]
  split:
    cmd: {python} split.py
    deps: [split.py, rows.pkl]
    outs: [train.pkl, holdout.pkl]
  model:
    cmd: {python} model.py
    deps: [model.py, train.pkl]
    outs: [model.pkl]
  evaluate:
    cmd: {python} evaluate.py
    deps: [evaluate.py, model.pkl, holdout.pkl]
    metrics: [metrics.json: {{cache: false}}]
"""
TREADLE_SPLIT = """
class Split(NamedTuple):
    train: pd.DataFrame
    holdout: pd.DataFrame


def split(rows: pd.DataFrame, seed: int = 0) -> Split:
    return Split(*train_test_split(rows, test_size=0.25, random_state=seed))
"""
TREADLE_YAML = """\
project: bench
pipeline: pipeline.py
data:
  rows: {files: rows.csv}
model: {result: model, task: binary, label: label}
test:
  holdout: holdout
  gates:
    - {metric: accuracy, at_least: 0.5}
    - {metric: roc_auc, at_least: 0.5}
deploy:
  local: {target: process, port: 0}
"""


def write_rows(path: Path, rows: int) -> None:
    """The CSV: always the same rows (the standard library's Mersenne Twister)."""
    source = random.Random(20_000)
    weights = [source.gauss(0, 0.6) for _ in range(FEATURES)]
    with open(path, "w", encoding="ascii") as file:
        file.write(",".join([*(f"x{i}" for i in range(FEATURES)), "label"]) + "\n")
        for _ in range(rows):
            values = [round(source.gauss(0, 1), 5) for _ in range(FEATURES)]
            score = sum(w * v for w, v in zip(weights, values, strict=True)) + source.gauss(0, 0.9)
            file.write(",".join([*(f"{v:.5f}" for v in values), str(int(score > 0))]) + "\n")


def script(names: Sequence[str], *, head: str, main: str) -> str:
    """One file of the steps `names`, their imports first."""
    lines = {line: None for name in names for line in IMPORTS[name].splitlines()}
    return head + "\n".join(lines) + "\n" + "\n".join(BODIES[name] for name in names) + main


# ---- measuring whole processes -------------------------------------------------------------------


@dataclass
class Sample:
    """One process, start to end."""

    wall: float
    cpu: float
    megabytes: float
    beside: float | None = None
    """CPU seconds of what it left running and that ended by itself; None: not asked for."""


@dataclass
class Row:
    """One line of a table: what is run, and what it is held against."""

    name: str
    section: str
    samples: list[Sample] = field(default_factory=list)
    floor: str | None = None
    """The row it is compared with, sample by sample."""
    allowed: float | None = None
    """Seconds it may take more than its floor (the issue's figure); None: no target."""

    def walls(self) -> list[float]:
        return [sample.wall for sample in self.samples]


ENVIRONMENT = {
    **{
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "MLFLOW_", "TREADLE_", "DVC_", "OMP_"))
    },
    "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_COLOR": "1",
}


class Failed(Exception):
    """A measured process ended with an error."""


def run(command: Sequence[str | Path], folder: Path) -> tuple[Sample, str]:
    """Run one process to its end; its measures and its standard output. Raises Failed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.sync()  # nobody waits for what another left to be written
        began = time.perf_counter()
        process = subprocess.Popen(
            [os.fspath(part) for part in command],
            cwd=folder,
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        text = out.read().decode()
        if process.returncode:
            raise Failed(
                f"{' '.join(map(str, command))} ended with {process.returncode}:\n"
                + text[-2000:]
                + err.read().decode()[-4000:]
            )
    per_megabyte = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes here
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / per_megabyte), text


def adopt_orphans() -> bool:
    """Make this process the parent of what its children leave behind, so that it can be waited for.

    Linux only (prctl); elsewhere False, and "beside" stays unknown.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_child_subreaper = 36
    return ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0) == 0


def children() -> Iterator[tuple[int, str]]:
    """This process's children: their numbers and command lines (Linux)."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            number = int(entry.name)
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                yield number, (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()


def wait_recorder(state: Path) -> float | None:
    """Wait until Treadle's recorder has delivered; its CPU seconds where they can be known."""
    if not sys.platform.startswith("linux"):
        with contextlib.suppress(FileNotFoundError), open(state / "recorder.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
        return None
    cpu = 0.0
    for number, command in children():
        if "treadle.clients.recorder" in command:
            _, _, usage = os.wait4(number, 0)
            cpu += usage.ru_utime + usage.ru_stime
    return cpu


def end_children() -> None:
    """End and reap what is left of the processes that this benchmark started."""
    if not sys.platform.startswith("linux"):
        return
    for _ in range(2):  # a supervisor's own child becomes ours when the supervisor has ended
        for number, _ in children():
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(number, signal.SIGTERM)
                os.waitpid(number, 0)


# ---- the variants --------------------------------------------------------------------------------


class Bench:
    """The folders of the variants and the rows measured so far."""

    def __init__(self, folder: Path, rows: int, only: Sequence[str], dvc: Path | None) -> None:
        self.folder, self.only, self.dvc = folder, only, dvc
        self.rows: dict[str, Row] = {}
        self.accuracy: dict[str, float] = {}
        self.edits = 0
        self.data = folder / "rows.csv"
        write_rows(self.data, rows)
        for name in (*only, "steps"):
            (folder / name).mkdir()
            shutil.copyfile(self.data, folder / name / "rows.csv")
        every = tuple(BODIES)
        (folder / "plain" / "plain.py").write_text(script(every, head="import json\n", main=PLAIN))
        if "mlflow" in only:
            head = "import json\nimport mlflow\nfrom mlflow.models import infer_signature\n"
            main = MLFLOW.replace("REQUIREMENTS", "None")
            (folder / "mlflow" / "default.py").write_text(script(every, head=head, main=main))
            given = MLFLOW.replace("REQUIREMENTS", repr(requirements()))
            (folder / "mlflow" / "given.py").write_text(script(every, head=head, main=given))
        if "dvc" in only:
            self.prepare_dvc()
        if "treadle" in only:
            self.prepare_treadle()
        self.prepare_steps()

    # -- preparation, not timed --

    def prepare_steps(self) -> None:
        """The last step alone, on inputs that lie ready: what an edit of it costs at least."""
        folder = self.folder / "steps"
        make = script(
            ("load", "split", "model"),
            head="import pickle\n",
            main="".join(DVC_MAIN[name] for name in ("load", "split", "model")),
        )
        (folder / "make.py").write_text(make)
        run([PYTHON, "make.py"], folder)
        main = """
print(json.dumps(evaluate(model(pd.read_pickle("train.pkl")), pd.read_pickle("holdout.pkl"))))
"""
        (folder / "model.py").write_text(
            script(("model", "evaluate"), head="import json\n", main=main)
        )
        main = DVC_MAIN["evaluate"]
        (folder / "evaluate.py").write_text(
            script(("evaluate",), head="import json, pickle\n", main=main)
        )

    def prepare_dvc(self) -> None:
        """A git repository with four stages; analytics and update checks are off."""
        assert self.dvc is not None
        folder = self.folder / "dvc"
        for name in BODIES:
            text = script((name,), head="import json, pickle\n", main=DVC_MAIN[name])
            (folder / f"{name}.py").write_text(text)
        (folder / "dvc.yaml").write_text(DVC_YAML.format(python=PYTHON))
        run(["git", "init", "--quiet"], folder)
        run([self.dvc, "init", "--quiet"], folder)
        run([self.dvc, "config", "core.analytics", "false"], folder)
        run([self.dvc, "config", "core.check_update", "false"], folder)
        run(["git", "add", "--all"], folder)
        run(
            [
                "git",
                "-c",
                "user.name=bench",
                "-c",
                "user.email=bench@localhost",
                "commit",
                "--quiet",
                "--message",
                "four stages",
            ],
            folder,
        )

    def prepare_treadle(self) -> None:
        """The same functions; the data set loads, the gates evaluate."""
        folder = self.folder / "treadle"
        head = "from typing import NamedTuple\n\n"
        lines = {line: None for name in ("split", "model") for line in IMPORTS[name].splitlines()}
        (folder / "pipeline.py").write_text(
            head + "\n".join(lines) + "\n\n" + TREADLE_SPLIT + "\n" + BODIES["model"]
        )
        (folder / "treadle.yaml").write_text(TREADLE_YAML)

    # -- timed --

    def measure(
        self,
        name: str,
        section: str,
        command: Sequence[str | Path],
        folder: str,
        *,
        floor: str | None = None,
        allowed: float | None = None,
    ) -> str:
        """One sample of a row; what the process printed."""
        row = self.rows.setdefault(name, Row(name, section, floor=floor, allowed=allowed))
        sample, text = run(command, self.folder / folder)
        row.samples.append(sample)
        return text

    def agree(self, variant: str, accuracy: float) -> None:
        """Hold a variant's accuracy against that of the others. Failed when they differ."""
        self.accuracy[variant] = accuracy
        if len({round(value, 9) for value in self.accuracy.values()}) > 1:
            raise Failed(f"the variants do not do the same: accuracies {self.accuracy}")

    def round(self) -> None:
        """Everything once, interleaved."""
        self.cold()
        self.unchanged()
        self.edited()

    def cold(self) -> None:
        """From an empty state (the files of the packages are in the page cache, compiled)."""
        section = "cold"
        text = self.measure("plain script", section, [PYTHON, "plain.py"], "plain")
        self.agree("plain", json.loads(text)["accuracy"])
        if "mlflow" in self.only:
            for name, file in (
                ("plain script with MLflow", "default.py"),
                ("plain script with MLflow, requirements given", "given.py"),
            ):
                folder = self.folder / "mlflow"
                (folder / "mlflow.db").unlink(missing_ok=True)
                shutil.rmtree(folder / "mlruns", ignore_errors=True)
                text = self.measure(name, section, [PYTHON, file], "mlflow", floor="plain script")
                self.agree(name, json.loads(text.strip().splitlines()[-1])["accuracy"])
        if "dvc" in self.only:
            assert self.dvc is not None
            folder = self.folder / "dvc"
            for name in (
                "dvc.lock",
                "rows.pkl",
                "train.pkl",
                "holdout.pkl",
                "model.pkl",
                "metrics.json",
            ):
                (folder / name).unlink(missing_ok=True)
            for name in ("cache", "tmp"):
                shutil.rmtree(folder / ".dvc" / name, ignore_errors=True)
            self.measure(
                "dvc repro", section, [self.dvc, "repro", "--quiet"], "dvc", floor="plain script"
            )
            self.agree("dvc", json.loads((folder / "metrics.json").read_text())["accuracy"])
        if "treadle" in self.only:
            self.empty_treadle()
            text = self.measure(
                "treadle train",
                section,
                [TREADLE, "train", "--json"],
                "treadle",
                floor="plain script",
                allowed=0.7,
            )
            self.recorded("treadle train")
            self.agree(
                "treadle train", json.loads(text)["runs"][0]["verdict"]["metrics"]["accuracy"]
            )
            self.empty_treadle()
            text = self.measure(
                "treadle up, with the service answering",
                section,
                [TREADLE, "up", "--json"],
                "treadle",
                floor="plain script",
            )
            self.recorded("treadle up, with the service answering")
            self.agree("treadle up", json.loads(text)["verdict"]["metrics"]["accuracy"])

    def recorded(self, name: str) -> None:
        """Wait for the recorder, so that it slows nobody else; its CPU goes to the last sample."""
        self.rows[name].samples[-1].beside = wait_recorder(self.folder / "treadle" / ".treadle")

    def empty_treadle(self) -> None:
        """Stop the service and forget everything."""
        folder = self.folder / "treadle"
        if (folder / ".treadle").exists():
            run([TREADLE, "down"], folder)
            end_children()
        shutil.rmtree(folder / ".treadle", ignore_errors=True)
        (folder / "data.schema.yaml").unlink(missing_ok=True)

    def unchanged(self) -> None:
        """Nothing changed since the last turn; Treadle's service is running."""
        section, click = "unchanged", "python -c 'import click'"
        for _ in range(QUICK):
            self.measure("python -c pass", section, [PYTHON, "-c", "pass"], "plain")
            self.measure(click, section, [PYTHON, "-c", "import click"], "plain")
            if "treadle" not in self.only:
                continue
            self.measure(
                "treadle --help", section, [TREADLE, "--help"], "treadle", floor=click, allowed=0.03
            )
            for name in ("plan", "up"):
                text = self.measure(
                    f"treadle {name}", section, [TREADLE, name], "treadle", floor=click, allowed=0.1
                )
                if "nothing to do" not in text:
                    raise Failed(f"`treadle {name}` found something to do:\n{text}")
            wait_recorder(self.folder / "treadle" / ".treadle")
        if "dvc" in self.only:
            assert self.dvc is not None
            self.measure("dvc --help", section, [self.dvc, "--help"], "dvc", floor=click)
            self.measure("dvc status", section, [self.dvc, "status"], "dvc", floor=click)
            text = self.measure(
                "dvc repro, unchanged", section, [self.dvc, "repro"], "dvc", floor=click
            )
            if "up to date" not in text:
                raise Failed(f"`dvc repro` found something to do:\n{text}")

    def edit(self, path: str, before: str, after: str) -> None:
        """Change a file as a person would: another number each time, equal in what it computes."""
        file = self.folder / path
        original = file.read_text()
        changed = original.replace(before, after, 1)
        if changed == original:
            raise Failed(f"{path} has no {before!r}")
        file.write_text(changed)

    def edited(self) -> None:
        """The last step was edited: fit again and evaluate; and the evaluation alone."""
        section = "edited"
        floor = "model and evaluate alone, inputs ready"
        self.measure(floor, section, [PYTHON, "model.py"], "steps")
        for variant, name, command in self.edit_commands():
            iterations, self.edits = 500 + self.edits, self.edits + 1
            path = {"dvc": "dvc/model.py", "treadle": "treadle/pipeline.py"}[variant]
            text = (self.folder / path).read_text()
            now = text.partition("max_iter=")[2].partition(")")[0]
            self.edit(path, f"max_iter={now})", f"max_iter={iterations + 1})")
            self.measure(
                name,
                section,
                command,
                variant,
                floor=floor,
                allowed=0.4 if name.startswith("treadle train") else None,
            )
            if variant == "treadle":
                self.recorded(name)
        floor = "evaluate alone, inputs ready"
        self.measure(floor, section, [PYTHON, "evaluate.py"], "steps")
        if "treadle" in self.only:
            self.measure(
                "treadle test, the gates alone",
                section,
                [TREADLE, "test"],
                "treadle",
                floor=floor,
            )
        if "dvc" in self.only:
            assert self.dvc is not None
            self.edit(
                "dvc/evaluate.py",
                "import json, pickle\n",
                f"import json, pickle\nedits = {self.edits}\n",
            )
            self.measure(
                "dvc repro, evaluate changed",
                section,
                [self.dvc, "repro", "--quiet"],
                "dvc",
                floor=floor,
            )

    def edit_commands(self) -> Iterator[tuple[str, str, list[str | Path]]]:
        if "dvc" in self.only:
            assert self.dvc is not None
            yield "dvc", "dvc repro, model changed", [self.dvc, "repro", "--quiet"]
        if "treadle" in self.only:
            yield "treadle", "treadle train, model() changed", [TREADLE, "train"]
            yield "treadle", "treadle up, model() changed, service swapped", [TREADLE, "up"]

    def close(self) -> None:
        """Stop what still runs."""
        if "treadle" in self.only and (self.folder / "treadle" / ".treadle").exists():
            with contextlib.suppress(Failed):
                run([TREADLE, "down"], self.folder / "treadle")
        end_children()


def requirements() -> list[str]:
    return [f"{name}=={importlib.metadata.version(name)}" for name in ("scikit-learn", "pandas")]


# ---- DVC's own virtual environment ---------------------------------------------------------------


def dvc_command(venv: Path) -> Path:
    """DVC in `venv`, installed there if need be (the extra `benchmarks`). Failed when it cannot."""
    command = venv / "bin" / "dvc"
    if not command.exists():
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        wanted = project["optional-dependencies"]["benchmarks"]
        say(f"installing {', '.join(wanted)} into {venv} ...")
        venv.parent.mkdir(parents=True, exist_ok=True)
        uv = shutil.which("uv")
        make = [uv, "venv", "--quiet", "--python", PYTHON] if uv else [PYTHON, "-m", "venv"]
        install = (
            [uv, "pip", "install", "--quiet", "--python", str(venv / "bin" / "python")]
            if uv
            else [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        )
        try:
            subprocess.run([*make, str(venv)], check=True)
            subprocess.run([*install, *wanted], check=True, stderr=subprocess.DEVNULL)
        except subprocess.CalledProcessError as error:
            raise Failed(
                f"DVC could not be installed into {venv}: {error}; leave it out with "
                "--only plain,mlflow,treadle"
            ) from error
    return command


# ---- the report ----------------------------------------------------------------------------------


def differences(row: Row, floor: Row) -> list[float]:
    """Seconds that each sample took more than the floor's sample of the same round.

    Where one was run oftener than the other, the floor's samples of a round are averaged.
    """
    ours, theirs = row.walls(), floor.walls()
    if len(ours) == len(theirs):
        return [a - b for a, b in zip(ours, theirs, strict=True)]
    each = len(theirs) // len(ours)
    return [a - statistics.fmean(theirs[i * each : (i + 1) * each]) for i, a in enumerate(ours)]


def spread(values: Sequence[float], digits: int) -> str:
    """Median [smallest–largest]."""
    return (
        f"{statistics.median(values):.{digits}f} "
        f"[{min(values):.{digits}f}–{max(values):.{digits}f}]"
    )


TITLES = {
    "cold": "Cold: from an empty state to the recorded model",
    "unchanged": "Unchanged: nothing to do",
    "edited": "The last step edited",
}


def report(rows: dict[str, Row]) -> str:
    """The tables as Markdown."""
    lines = []
    for section, title in TITLES.items():
        chosen = [row for row in rows.values() if row.section == section]
        if not chosen:
            continue
        digits = 3 if section == "unchanged" else 2
        lines += [
            f"### {title}",
            "",
            "| | wall s | CPU s | beside, CPU s | MB | against | seconds more | times "
            "| target | reached |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in chosen:
            cpu = statistics.median(sample.cpu for sample in row.samples)
            known = [s.beside for s in row.samples if s.beside is not None]
            beside = f"{statistics.median(known):.1f}" if known else "–"
            size = max(sample.megabytes for sample in row.samples)
            against, more, times, target, reached = "–", "–", "–", "–", "–"
            if row.floor is not None:
                floor = rows[row.floor]
                found = differences(row, floor)
                against, more = f"{floor.name}", spread(found, digits)
                times = f"{statistics.median(row.walls()) / statistics.median(floor.walls()):.1f}"
                if row.allowed is not None:
                    target = f"≤ + {row.allowed}"
                    reached = "yes" if statistics.median(found) <= row.allowed else "**no**"
            lines.append(
                f"| {row.name} | {spread(row.walls(), digits)} | {cpu:.{digits}f} | "
                f"{beside} | {size:.0f} | {against} | {more} | {times} | {target} "
                f"| {reached} |"
            )
        lines.append("")
    return "\n".join(lines)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": str(os.cpu_count()),
        "processor": processor,
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def versions(dvc: Path | None) -> dict[str, str]:
    """Of everything that was compared."""
    found = {}
    for name in ("treadle", "click", "pandas", "polars", "scikit-learn", "numpy", "mlflow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if dvc is not None:
        found["dvc"] = run([dvc, "--version"], Path.cwd())[1].strip()
    return found


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and end with 1 when a variant fails or differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--only", default=",".join(VARIANTS), help="variants, with commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample")
    parser.add_argument(
        "--dvc-venv",
        type=Path,
        metavar="DIR",
        default=Path.home() / ".cache" / "treadle-benchmarks" / "dvc",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="make the projects in this (new) folder and leave them there",
    )
    options = parser.parse_args(arguments)
    only = [name for name in VARIANTS if name in options.only.split(",") or name == "plain"]
    unknown = sorted(set(options.only.split(",")) - set(VARIANTS))
    if unknown:
        parser.error(f"there is no variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    if "mlflow" in only and importlib.util.find_spec("mlflow") is None:
        say("mlflow is not installed here: left out")
        only.remove("mlflow")
    make: Callable[[], contextlib.AbstractContextManager[str]] = tempfile.TemporaryDirectory
    if options.keep is not None:
        options.keep.mkdir(parents=True)
        make = lambda: contextlib.nullcontext(str(options.keep.resolve()))  # noqa: E731
    adopt_orphans()
    try:
        dvc = dvc_command(options.dvc_venv.expanduser().resolve()) if "dvc" in only else None
        facts, found, loads = machine(), versions(dvc), [os.getloadavg()[0]]
        with make() as folder:
            bench = Bench(Path(folder), options.rows, only, dvc)
            try:
                say("warming the page cache ...")
                bench.round()
                for row in bench.rows.values():
                    row.samples.clear()
                for number in range(options.rounds):
                    say(f"round {number + 1} of {options.rounds} ...")
                    bench.round()
                    loads.append(os.getloadavg()[0])
            finally:
                bench.close()
    except Failed as error:
        say(f"benchmark failed: {error}")
        return 1
    print(
        f"{options.rows:,} rows, {FEATURES} features, {options.rounds} rounds; accuracy "
        f"{bench.accuracy['plain']:.4f} in all of {len(bench.accuracy)} variants\n"
    )
    print(
        f"{facts['cores']} cores {facts['processor']}, {facts['memory']}, {facts['system']}, "
        f"Python {facts['python']}; load at the start {loads[0]:.1f}\n"
    )
    print(", ".join(f"{name} {version}" for name, version in found.items()) + "\n")
    print(report(bench.rows))
    if options.json is not None:
        options.json.write_text(
            json.dumps(
                {
                    "machine": facts,
                    "versions": found,
                    "loads": loads,
                    "rounds": options.rounds,
                    "rows": options.rows,
                    "accuracy": bench.accuracy,
                    "measured": {name: asdict(row) for name, row in bench.rows.items()},
                },
                indent=1,
            )
            + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
