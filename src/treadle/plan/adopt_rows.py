"""`treadle init`, what a sample of the rows says: key, time, label, task, features.

Every default carries its reason: a guess that is told can be corrected, a silent one cannot.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.plan import template
from treadle.plan.adopt_code import Code
from treadle.plan.adopt_folder import SUFFIXES, Found, Query, suffix_of
from treadle.plan.template import Guess

if TYPE_CHECKING:
    import polars as pl

_LABELS = (
    "label", "target", "y", "outcome", "class", "churn", "churned", "survived", "fraud", "is_fraud",
    "default", "late", "delayed", "failed", "failure", "converted", "clicked", "price", "demand",
    "sales", "amount", "rating", "quality", "diagnosis", "species", "duration",
)  # fmt: skip
_TIMES = ("event_time", "timestamp", "datetime", "time", "date", "ts", "created_at", "occurred_at")
_SAMPLE_ROWS = 10_000
_WHOLE_BYTES = 500_000_000


def _frame(
    folder: Path, found: Found, query: Query | None, rows: int | None
) -> pl.DataFrame | None:
    """The first `rows` rows of a data set (None: all), or None where it cannot be read."""
    import polars as pl

    try:
        if found.database is not None:
            assert query is not None
            limit = "" if rows is None else f" LIMIT {rows}"
            return query(found.database, found.pattern + limit)
        files = [folder / name for name in found.files]
        form = SUFFIXES[suffix_of(files[0].name) or ".csv"]
        if form == "parquet":
            lazy = pl.concat([pl.scan_parquet(file) for file in files], how="diagonal_relaxed")
            return (lazy if rows is None else lazy.head(rows)).collect()
        frames: list[pl.DataFrame] = []
        for file in files:
            if form == "jsonl":
                frames.append(pl.read_ndjson(file, infer_schema_length=None, n_rows=rows))
            else:
                frames.append(pl.read_csv(
                    file, separator="\t" if form == "tsv" else ",", n_rows=rows,
                    try_parse_dates=True, null_values=["NA", "N/A", "NULL", "null", "NaN", "nan"],
                    infer_schema_length=_SAMPLE_ROWS,
                ))  # fmt: skip
            if rows is not None and sum(frame.height for frame in frames) >= rows:
                break
        frame = pl.concat(frames, how="diagonal_relaxed")
        return frame if rows is None else frame.head(rows)
    except Exception:  # no guess about a file that cannot be read: the first turn says why
        return None


def shape_of(folder: Path, found: Found, code: Code | None, query: Query | None) -> template.Shape:
    """The rows of a data set in words of the spec, each with its reason."""
    frame = _frame(folder, found, query, _SAMPLE_ROWS)
    whole = frame
    if found.size_bytes <= _WHOLE_BYTES and frame is not None and frame.height >= _SAMPLE_ROWS:
        whole = _frame(folder, found, query, None)
    if frame is None or whole is None or not frame.width or not frame.height:
        return template.Shape(label=Guess("label", "label", "the data cannot be read: name it"))
    time = _event_time(frame)
    key = _key(whole, time.value if time else None)
    label = _label(frame, code, [*(key.value if key else []), time.value if time else ""])
    task = _task(frame, label.value)
    later = _known_later(frame, label.value, task.value)
    left = {label.value, *(key.value if key else []), *later, time.value if time else ""}
    numbers, texts, dropped = _features(frame, left)
    if code is not None:  # the code's own choice; without one, whatever the model was fitted on
        chosen = [n for n in code.features if n in frame.columns and n not in later]
        numbers, texts = [], [n for n in dict.fromkeys(chosen) if n != label.value]
        dropped = []
    reason = "an allow-list: " + (f"left out are {', '.join(dropped)}" if dropped else "all others")
    return template.Shape(
        rows=whole.height if whole.height > frame.height or frame.height < _SAMPLE_ROWS else None,
        key=key, event_time=time, label=label, task=task,
        known_later=Guess("known_later", later, "they tell the label alone: known only afterwards?")
        if later else None,
        features=Guess("features", [*texts, *numbers], reason if code is None else
                       f"{code.file}: FEATURES") if texts or numbers else None,
        numbers=tuple(numbers), texts=tuple(texts),
        blocks=_blocks(whole, time.value) if time else None,
        label_type=_label_type(frame, label.value),
    )  # fmt: skip


def _event_time(frame: pl.DataFrame) -> Guess | None:
    temporal = [name for name, kind in frame.schema.items() if kind.is_temporal()]
    temporal = [name for name in temporal if str(frame.schema[name]).startswith("Date")]
    if not temporal:
        return None
    for word in _TIMES:
        if word in (name.lower() for name in temporal):
            name = next(name for name in temporal if name.lower() == word)
            return Guess("event_time", name, "a time by its name and type: it orders the rows")
    if len(temporal) == 1:
        return Guess("event_time", temporal[0], "the only time column: it orders the rows")
    others = ", ".join(temporal[1:])
    return Guess("event_time", temporal[0], f"the first time column (others: {others})")


def _key(frame: pl.DataFrame, time: str | None) -> Guess | None:
    ids = [
        name for name, kind in frame.schema.items()
        if (kind.is_integer() or str(kind) == "String")
        and re.fullmatch(r"id|.*_id|id_.*|uuid|key|.*_key|.*_no|.*_number", name.lower())
    ]  # fmt: skip
    rows = f"{frame.height:,}"
    for columns in [[name] for name in ids] + [[name, time] for name in ids if time]:
        some = frame.select(columns)
        if some.null_count().sum_horizontal()[0] == 0 and some.n_unique() == frame.height:
            return Guess("key", columns, f"unique in the {rows} rows that were read")
    return None


def _label(frame: pl.DataFrame, code: Code | None, taken: list[str]) -> Guess:
    columns = [name for name in frame.columns if name not in taken]
    if code is not None and code.label in columns:
        return Guess("label", code.label, f"{code.file} calls it so")
    lower = {name.lower(): name for name in reversed(columns)}
    for word in _LABELS:
        if word in lower:
            return Guess(
                "label", lower[word], "by its name; correct it if another is to be predicted"
            )
    for prefix in ("is_", "has_", "will_", "target_", "label_"):
        for name in columns:
            if name.lower().startswith(prefix) and frame[name].drop_nulls().n_unique() == 2:
                return Guess("label", name, "two values, by its name; correct it if it is another")
    booleans = [name for name in columns if str(frame.schema[name]) == "Boolean"]
    if booleans:
        return Guess(
            "label", booleans[-1], "the last yes-or-no column; correct it if it is another"
        )
    plain = [name for name in columns if frame.schema[name].is_numeric()] or columns
    name = plain[-1] if plain else frame.columns[-1]
    return Guess("label", name, "the last column; correct it if another is to be predicted")


def _task(frame: pl.DataFrame, label: str) -> Guess:
    values = frame[label].drop_nulls()
    count = values.n_unique()
    kind = values.dtype
    if count <= 2:
        shown = ", ".join(str(value) for value in values.unique().sort().to_list())
        return Guess("task", "binary", f"{label} has the values {shown}")
    if not kind.is_numeric():
        return Guess("task", "multiclass", f"{label} is text with {count} values")
    whole = kind.is_integer() and int(values.max()) - int(values.min()) + 1 == count  # type: ignore[arg-type]
    if whole and count <= 12 and values.len() > 20 * count:
        return Guess("task", "multiclass", f"{label} has {count} whole values in a row")
    return Guess("task", "regression", f"{label} is a number with {count} values")


def _known_later(frame: pl.DataFrame, label: str, task: str) -> list[str]:
    """Numeric columns that tell the label alone: nobody is that lucky before the fact."""
    import polars as pl

    clean = frame.filter(pl.col(label).is_not_null())
    found: list[str] = []
    for name, kind in frame.schema.items():
        if name == label or not kind.is_numeric():
            continue
        pair = (
            clean.select(name, label).drop_nulls().filter(pl.col(name).cast(pl.Float64).is_finite())
        )
        if pair.height < 50 or pair[name].n_unique() < 3:
            continue
        if task == "regression":
            strength = pair.select(pl.corr(name, label)).item()
            if strength is not None and abs(strength) > 0.9999:
                found.append(name)
        elif task == "binary":
            ranks, truth = pair[name].rank(), pair[label] == pair[label].max()
            ones = int(truth.sum())
            zeros = pair.height - ones
            if min(ones, zeros) < 10:
                continue
            # Mann-Whitney: the probability that a random one ranks above a random zero.
            area = (float(ranks.filter(truth).sum()) - ones * (ones + 1) / 2) / (ones * zeros)
            if max(area, 1 - area) > 0.999:
                found.append(name)
    return found


def _features(frame: pl.DataFrame, left: set[str]) -> tuple[list[str], list[str], list[str]]:
    """(numbers, texts, left out) among the columns that are not already something else."""
    numbers: list[str] = []
    texts: list[str] = []
    dropped: list[str] = []
    for name, kind in frame.schema.items():
        if name in left:
            continue
        values = frame[name]
        if kind.is_numeric() or (str(kind) == "Boolean" and values.null_count() == 0):
            identifies = re.fullmatch(r"id|.*_id|uuid", name.lower()) and kind.is_integer()
            (dropped if identifies else numbers).append(name)
        elif str(kind) in ("String", "Boolean", "Categorical") or str(kind).startswith("Enum"):
            unique = values.drop_nulls().n_unique()
            (dropped if unique > max(50, values.len() // 2) else texts).append(name)
        else:
            dropped.append(name)
    return numbers, texts, dropped


def _blocks(frame: pl.DataFrame, time: str) -> str | None:
    """A day, or else an hour, where a fifth of the time (the holdout) has ten such blocks."""
    import polars as pl

    times = frame[time].drop_nulls().cast(pl.Datetime("us"))
    if times.len() < 2:
        return None
    span_s = (times.max() - times.min()).total_seconds()  # type: ignore[operator, union-attr]
    for text, seconds in (("1d", 86400.0), ("1h", 3600.0)):
        if span_s * 0.2 / seconds >= 10:
            return text
    return None


def _label_type(frame: pl.DataFrame, label: str) -> str:
    kind = frame.schema[label]
    if str(kind) == "Boolean":
        return "int8"
    return "int64" if kind.is_integer() else ""
