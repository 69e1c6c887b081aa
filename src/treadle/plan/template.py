"""The texts that `treadle init` writes: treadle.yaml, a pipeline, a sample, CI workflows."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

GITIGNORE = ".treadle/\n__pycache__/\n.venv/\n"
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./*-]*")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "nan", "inf"}
_GATES = {
    "binary": (("roc_auc", "at_least: 0.55"), ("log_loss", "versus: champion, margin: 0.01")),
    "multiclass": (("log_loss", "versus: champion, margin: 0.01"),),
    "regression": (("r2", "at_least: 0.0"), ("mae", "versus: champion")),
}


@dataclass(frozen=True)
class Guess:
    """One default and why it was taken."""

    name: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Shape:
    """What the rows are, each with its reason; None: nothing fits."""

    label: Guess
    rows: int | None = None
    key: Guess | None = None
    event_time: Guess | None = None
    task: Guess | None = None
    known_later: Guess | None = None
    features: Guess | None = None
    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    blocks: str | None = None
    label_type: str = ""


@dataclass(frozen=True)
class SpecTexts:
    """All that treadle.yaml says."""

    project: str
    pipeline: str
    dataset: str
    pattern: str
    database: str | None
    shape: Shape
    model: Guess
    holdout: Guess
    others: tuple[tuple[str, str], ...] = ()
    rows_note: str = ""
    floor: float | None = None


@dataclass(frozen=True)
class PipelineTexts:
    """All that the written pipeline depends on."""

    dataset: str
    shape: Shape


def scalar(value: str) -> str:
    """A text as a YAML scalar, quoted where a plain one would be something else."""
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    # JSON's pairs of half characters are not YAML's; what cannot be seen is written by its number.
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)


def sequence(values: Iterable[str]) -> str:
    """`[a, b]`."""
    return f"[{', '.join(scalar(value) for value in values)}]"


def _line(text: str, comment: str = "") -> str:
    comment = " ".join(comment.split())
    if not comment:
        return text
    return f"{text:<34}  # {comment}" if len(text) < 70 else f"{text}  # {comment}"


def spec(texts: SpecTexts) -> str:
    """treadle.yaml with the reason of each default as a comment."""
    shape = texts.shape
    lines = [
        "# yaml-language-server: $schema=.treadle/schema.json",
        f"project: {scalar(texts.project)}",
        f"pipeline: {scalar(texts.pipeline)}",
        "",
        "data:",
        f"  {texts.dataset}:",
    ]
    if texts.database is not None:
        lines += [_line(f"    query: {scalar(texts.pattern)}", texts.rows_note),
                  f"    database: {scalar(texts.database)}"]  # fmt: skip
    else:
        lines.append(_line(f"    files: {scalar(texts.pattern)}", texts.rows_note))
    if shape.key is not None:
        lines.append(_line(f"    key: {sequence(shape.key.value)}", shape.key.reason))
    if shape.event_time is not None:
        time = shape.event_time
        lines.append(_line(f"    event_time: {scalar(time.value)}", time.reason))
    if shape.known_later is not None:
        later = shape.known_later
        lines.append(_line(f"    known_later: {sequence(later.value)}", later.reason))
    for name, pattern in texts.others:
        lines.append(
            _line(f"  {name}: {{files: {scalar(pattern)}}}", "a function takes it by name")
        )
    task = str(shape.task.value) if shape.task is not None else "binary"
    task_reason = shape.task.reason if shape.task else "binary, multiclass or regression"
    lines += [
        "",
        "model:",
        _line(f"  result: {scalar(texts.model.value)}", texts.model.reason),
        _line(f"  task: {task}", task_reason),
        _line(f"  label: {scalar(shape.label.value)}", shape.label.reason),
    ]
    if shape.features is not None and shape.features.value:
        lines.append(f"  # {' '.join(shape.features.reason.split())}")
        lines.append(f"  features: {sequence(shape.features.value)}")
    lines += ["", "test:", _line(f"  holdout: {scalar(texts.holdout.value)}", texts.holdout.reason)]
    if shape.blocks is not None:
        lines.append(_line(f"  blocks: {shape.blocks}", "rows of one block are taken as dependent"))
    lines.append("  gates:")
    for metric, rule in _GATES[task]:
        floor = f"at_least: {texts.floor}" if texts.floor and "at_least" in rule else rule
        lines.append(f"    - {{metric: {metric}, {floor}}}")
    lines += [
        "",
        "deploy:",
        _line("  local: {target: process, port: 8080}", "the first environment is the default"),
        "",
        "monitor:",
        "  window: 7d",
        "  # truth: {data: NAME, matures: 1d}    a data set that says later what was right",
        _line("retrain: {when: [drift], cooldown: 7d}", "with truth: [decay, drift]"),
    ]
    return "\n".join(lines) + "\n"


def pipeline(texts: PipelineTexts) -> str:
    """pipeline.py: an honest split and gradient boosted trees, plain functions of scikit-learn."""
    shape = texts.shape
    task = str(shape.task.value) if shape.task is not None else "binary"
    label = shape.label.value if re.fullmatch(r"[\w -]+", shape.label.value) else "the label"
    kind = "Regressor" if task == "regression" else "Classifier"
    names = {"frame": texts.dataset, "label": json.dumps(shape.label.value)}
    time = shape.event_time.value if shape.event_time is not None else None
    constants = [f"TEXTS = {_names(shape.texts)}", f"NUMBERS = {_names(shape.numbers)}",
                 "FEATURES = TEXTS + NUMBERS", f"LABEL = {names['label']}"]  # fmt: skip
    if time is not None:
        constants.append(f"EVENT_TIME = {json.dumps(time)}")
    cast = f'.astype("{shape.label_type}")' if shape.label_type and task != "regression" else ""
    split = _TIME_SPLIT if time is not None else _RANDOM_SPLIT
    split = split.replace("ROWS", texts.dataset)
    day = ".normalize()  # whole days" if shape.blocks == "1d" else ""
    split = split.replace("WHOLE_DAYS", day)
    return _PIPELINE.format(
        project_line=f"Predicts {label}: an honest split and gradient boosted trees.",
        kind=kind, constants="\n".join(constants), split=split, cast=cast,
    )  # fmt: skip


def _names(names: Iterable[str]) -> str:
    items = [json.dumps(name, ensure_ascii=False) for name in names]
    line = f"[{', '.join(items)}]"
    return line if len(line) <= 80 else "[\n" + "".join(f"    {item},\n" for item in items) + "]"


_PIPELINE = '''"""{project_line}

Plain functions, called by their names: a parameter takes the data set or the result of that name, a
parameter with a default is a hyperparameter (treadle train --set model.learning_rate=0.05,0.1).
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoosting{kind}
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

# An allow-list: what is not known when a prediction is asked for does not belong here.
{constants}


class Split(NamedTuple):
    """Rows to learn from and rows to judge on."""

    train: pd.DataFrame
    holdout: pd.DataFrame


{split}

def model(train: pd.DataFrame, learning_rate: float = 0.1, iterations: int = 100) -> Pipeline:
    """Gradient boosted trees; a text that was never seen and a missing value get an answer too."""
    encode = ColumnTransformer(
        [
            ("texts", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), TEXTS),
            ("numbers", "passthrough", NUMBERS),
        ]
    )
    trees = HistGradientBoosting{kind}(
        learning_rate=learning_rate, max_iter=iterations, early_stopping=False, random_state=0
    )
    pipeline = Pipeline([("encode", encode), ("trees", trees)])
    return pipeline.fit(train[FEATURES], train[LABEL]{cast})
'''

_TIME_SPLIT = '''def split(ROWS: pd.DataFrame, holdout_share: float = 0.2) -> Split:
    """Holds out the latest rows: every row of the holdout is later than every row learned from."""
    times = pd.to_datetime(ROWS[EVENT_TIME])
    first_held_out = times.quantile(1 - holdout_share)WHOLE_DAYS
    held_out = times >= first_held_out
    learned = ~held_out & ROWS[LABEL].notna()
    return Split(
        train=ROWS.loc[learned].reset_index(drop=True),
        holdout=ROWS.loc[held_out].reset_index(drop=True),
    )
'''

_RANDOM_SPLIT = '''def split(ROWS: pd.DataFrame, holdout_share: float = 0.2) -> Split:
    """Holds out a share of the rows, drawn at random but the same each time: no column orders them."""
    held_out = ROWS.sample(frac=holdout_share, random_state=0).sort_index()
    learned = ROWS.drop(index=held_out.index)
    return Split(
        train=learned.loc[learned[LABEL].notna()].reset_index(drop=True),
        holdout=held_out.reset_index(drop=True),
    )
'''


# ---- the sample ----------------------------------------------------------------------------------


def SAMPLE_SHAPE(guess: Callable[[str, Any, str], Guess]) -> Shape:  # noqa: N802
    """The sample's columns; `guess` makes a Guess (adopt imports this module, not the reverse)."""
    numbers = ("distance_km", "items", "hour", "rain_mm")
    texts = ("courier", "weekday")
    return Shape(
        label=guess("label", "late", "delivered after the promised time"),
        key=guess("key", ["order_id"], "unique"),
        event_time=guess("event_time", "ordered_at", "orders rows and makes an honest split"),
        task=guess("task", "binary", "late is 0 or 1"),
        known_later=guess("known_later", ["minutes"], "how long it took: known only afterwards"),
        features=guess("features", [*texts, *numbers], "what is known when the order comes in"),
        numbers=numbers, texts=texts, blocks="1d", label_type="int8",
    )  # fmt: skip


def sample_data() -> dict[str, str]:
    """Three months of made-up deliveries as CSV, the same on every machine."""
    draw = random.Random(20260101).random  # noqa: S311 - made-up data, the same on every machine
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    couriers = (("bike", 0.0), ("scooter", -3.0), ("van", 4.0))
    head = "order_id,ordered_at,courier,weekday,hour,distance_km,items,rain_mm,minutes,late\n"
    files: dict[str, str] = {}
    order = 1000
    for month in (1, 2, 3):
        lines = [head]
        for day in range(1, 29):
            # 1 January 2026 is a Thursday; months of the sample end with their 28th day.
            weekday = days[(3 + (0, 31, 59)[month - 1] + day - 1) % 7]
            rain = round(max(0.0, draw() * 12 - 7), 1)
            for _ in range(30):
                order += 1
                hour, minute = 10 + int(draw() * 12), int(draw() * 60)
                courier, speed = couriers[int(draw() * 3)]
                distance, items = round(0.5 + draw() * 7.5, 1), 1 + int(draw() * 5)
                busy = 7.0 if hour in (12, 13, 18, 19, 20) else 0.0
                busy += 4.0 if weekday in ("Fri", "Sat") else 0.0
                noise = sum(draw() for _ in range(6)) * 6 - 18
                minutes = 14 + 2.2 * distance + 0.8 * items + 1.5 * rain + busy + speed + noise
                minutes = max(5, math.floor(minutes))
                lines.append(
                    f"{order},2026-{month:02}-{day:02}T{hour:02}:{minute:02}:00,{courier},{weekday},"
                    f"{hour},{distance},{items},{rain},{minutes},{int(minutes > 32)}\n"
                )
        files[f"data/deliveries-2026-{month:02}.csv"] = "".join(lines)
    return files


# ---- CI ------------------------------------------------------------------------------------------

_GITHUB = """\
# Written by `treadle init --ci github`; yours from here on.
name: PROJECT
on:
  pull_request:
  push: {branches: [main]}
permissions: {contents: read}
jobs:
  check:
    if: github.event_name == 'pull_request'
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v5
      - uses: actions/setup-python@v6
        with: {python-version: "3.12"}
      - run: pip install "treadle[mlflow,sklearn]"
      - run: if [ -f requirements.txt ]; then pip install -r requirements.txt; fi
      - run: treadle plan
      - run: treadle train
  release:
    if: github.event_name == 'push'
    # The runner that keeps this environment's .treadle/: any other has no journal, and --existing
    # refuses to begin a second one (exit 4).
    runs-on: [self-hosted, treadle]
    concurrency: PROJECT-ENVIRONMENT
    steps:
      - uses: actions/checkout@v5
        with: {clean: false}  # a clean checkout would delete .treadle/
      - run: pip install "treadle[mlflow,sklearn]"
      - run: if [ -f requirements.txt ]; then pip install -r requirements.txt; fi
      - run: treadle up --env ENVIRONMENT --existing
"""

_GITLAB = """\
# Written by `treadle init --ci gitlab`; yours from here on.
default:
  image: python:3.12
  before_script:
    - pip install "treadle[mlflow,sklearn]"
    - if [ -f requirements.txt ]; then pip install -r requirements.txt; fi
check:
  rules:
    - if: $CI_PIPELINE_SOURCE == "merge_request_event"
  script:
    - treadle plan
    - treadle train
release:
  rules:
    - if: $CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH && $CI_PIPELINE_SOURCE == "push"
  # The runner (shell executor) that keeps this environment's .treadle/: any other has no journal,
  # and --existing refuses to begin a second one (exit 4).
  tags: [treadle]
  resource_group: PROJECT-ENVIRONMENT
  variables:
    GIT_CLEAN_FLAGS: -ffd -e .treadle/  # the default would delete .treadle/
  script:
    - treadle up --env ENVIRONMENT --existing
"""

WORKFLOWS = {
    "github": (".github/workflows/treadle.yml", _GITHUB),
    "gitlab": (".gitlab-ci.yml", _GITLAB),
}
"""Service → (path, text with PROJECT and ENVIRONMENT to be replaced)."""
