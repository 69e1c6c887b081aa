"""Profiles: what the columns of a table look like, as plain JSON that can be merged and compared.

    {"rows": n,
     "columns": {
        name: {"kind": "numeric", "edges": [e1 < … < ek], "counts": [c0 … ck], "missing": m}
        name: {"kind": "category", "counts": {value: n, at most 50}, "other": n, "missing": m}},
     "days": {"2013-01-01": n}}            only from a scan of a data set with event_time

Numeric: counts[i] are the values x with edges[i-1] < x <= edges[i]; the first and the last bin are
open, so infinities fall into them; a missing value is null or NaN. Edges are quantiles of the first
data (at most 19, so at most 20 bins) and stay the same afterwards: give `like`. Decimals and
durations (in seconds) are numeric. Category: texts, and booleans as "true" and "false"; a text
longer than 200 characters counts as other. Times, bytes and nested columns are left out.
Everything sums: counts + missing (+ other) = rows, and merging adds up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from treadle.base.distance import ks_from_counts, psi

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Profile = dict[str, Any]
BINS = 20
CATEGORIES = 50
LONGEST = 200
_SAMPLE = 131_072


def quantile_edges(values: NDArray[np.float64]) -> list[float]:
    """At most BINS - 1 increasing edges at equally spaced quantiles of the finite `values`."""
    import numpy as np

    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return []
    # An edge is a value that occurs: whole numbers keep whole edges.
    marks = np.quantile(finite, np.arange(1, BINS) / BINS, method="inverted_cdf")
    return [float(edge) + 0.0 for edge in np.unique(marks)]


def numeric_column(values: NDArray[np.float64], edges: Sequence[float]) -> dict[str, Any]:
    """The entry of a numeric column; NaN is missing."""
    import numpy as np

    known = values[~np.isnan(values)]
    bins = np.searchsorted(np.asarray(edges, dtype=float), known, side="left")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    return {
        "kind": "numeric",
        "edges": [float(edge) for edge in edges],
        "counts": [int(count) for count in counts],
        "missing": int(values.size - known.size),
    }


def category_column(
    counts: Iterable[tuple[str, int]],
    missing: int,
    other: int = 0,
    keep: Iterable[str] | None = None,
) -> dict[str, Any]:
    """The entry of a category column: the commonest CATEGORIES values, ties by the text.

    `keep`: values to count by name whatever their rank (those of an earlier profile).
    """
    ranked = sorted(counts, key=lambda item: (-item[1], item[0]))
    first = set() if keep is None else set(keep)
    kept: dict[str, int] = {}
    for value, count in sorted(ranked, key=lambda item: item[0] not in first):
        if len(value) <= LONGEST and count and (value in first or len(kept) < CATEGORIES):
            kept[value] = count
        else:
            other += count
    return {"kind": "category", "counts": kept, "other": other, "missing": missing}


def profile_frame(
    frame: Any, columns: Iterable[str] | None = None, like: Profile | None = None
) -> Profile:
    """The profile of a pandas or polars frame.

    `columns`: which (default all that have a kind). `like`: an earlier profile, whose edges and
    named categories are used again, so that the two can be compared and merged.
    """
    import numpy as np

    is_pandas = hasattr(frame, "iloc")
    wanted = list(frame.columns) if columns is None else list(columns)
    entries: dict[str, Any] = {}
    for name in wanted:
        earlier = None if like is None else like["columns"].get(name)
        found = _pandas_values(frame[name]) if is_pandas else _polars_values(frame[name])
        if found is None:
            continue
        if isinstance(found, np.ndarray):
            if earlier is not None and earlier["kind"] == "numeric":
                edges = earlier["edges"]
            else:
                step = max(1, found.size // _SAMPLE)
                edges = quantile_edges(found[::step])
            entries[name] = numeric_column(found, edges)
        else:
            counts, missing = found
            keep = earlier["counts"] if earlier and earlier["kind"] == "category" else None
            entries[name] = category_column(counts.items(), missing, keep=keep)
    return {"rows": len(frame), "columns": entries}


def _pandas_values(series: Any) -> NDArray[np.float64] | tuple[Counter[str], int] | None:
    import numpy as np
    import pandas as pd

    types = pd.api.types
    if types.is_bool_dtype(series.dtype):
        counts = series.value_counts(dropna=True)
        texts = Counter({str(bool(value)).lower(): int(count) for value, count in counts.items()})
        return texts, int(series.isna().sum())
    if types.is_numeric_dtype(series.dtype) and not types.is_complex_dtype(series.dtype):
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    if types.is_timedelta64_dtype(series.dtype):
        return np.asarray(series.dt.total_seconds().to_numpy(dtype=np.float64))
    if types.is_datetime64_any_dtype(series.dtype):
        return None
    if series.dtype == object:
        known = series.dropna()
        if known.empty:
            return Counter(), len(series)
        if all(isinstance(value, bool) for value in known):
            return Counter(str(value).lower() for value in known), len(series) - len(known)
        if not all(isinstance(value, str) for value in known):
            try:
                return np.asarray(pd.to_numeric(series.astype(float)).to_numpy(dtype=np.float64))
            except (TypeError, ValueError):
                return None
    counts = series.value_counts(dropna=True)
    texts = Counter()
    for value, count in counts.items():
        texts[str(value)] += int(count)
    return texts, int(series.isna().sum())


def _polars_values(series: Any) -> NDArray[np.float64] | tuple[Counter[str], int] | None:
    import numpy as np
    import polars as pl

    dtype = series.dtype
    if dtype == pl.Boolean or isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        counts = series.drop_nulls().cast(pl.String).value_counts()
        return Counter(dict(counts.iter_rows())), series.null_count()
    if dtype == pl.Null:
        return Counter(), len(series)
    if isinstance(dtype, pl.Duration):
        series = series.dt.total_microseconds() / 1e6
    elif not dtype.is_numeric():
        return None
    return np.asarray(series.cast(pl.Float64).fill_null(float("nan")).to_numpy())


def merge(left: Profile, right: Profile) -> Profile:
    """The profile of the rows of both; ValueError where numeric edges or kinds differ.

    A column that only one side has is missing in every row of the other. Exact, except that beyond
    CATEGORIES values the rarest are no longer named (their rows stay in `other`).
    """
    columns: dict[str, Any] = {}
    for name in dict.fromkeys([*left["columns"], *right["columns"]]):
        first, second = left["columns"].get(name), right["columns"].get(name)
        if first is None or second is None:
            entry = dict(first or second)
            entry["missing"] += (left if first is None else right)["rows"]
            columns[name] = entry
            continue
        if first["kind"] != second["kind"]:
            raise ValueError(
                f"column {name} is {first['kind']} in one profile, {second['kind']} in the other"
            )
        missing = first["missing"] + second["missing"]
        if first["kind"] == "numeric":
            if first["edges"] != second["edges"]:
                raise ValueError(f"column {name} has different edges in the two profiles")
            counts = [a + b for a, b in zip(first["counts"], second["counts"], strict=True)]
            columns[name] = {
                "kind": "numeric",
                "edges": first["edges"],
                "counts": counts,
                "missing": missing,
            }
        else:
            total = Counter(first["counts"])
            total.update(second["counts"])
            columns[name] = category_column(
                total.items(), missing, first["other"] + second["other"]
            )
    merged: Profile = {"rows": left["rows"] + right["rows"], "columns": columns}
    if "days" in left or "days" in right:
        days: Counter[str] = Counter(left.get("days", {}))
        days.update(right.get("days", {}))
        merged["days"] = dict(sorted(days.items()))
    return merged


def paired_counts(
    left: Mapping[str, Any], right: Mapping[str, Any]
) -> tuple[list[int], list[int]] | None:
    """The counts of two entries bin by bin; None where they cannot be compared.

    Categories: every value that either side names, then the rest. A value that only one side names
    may hide in the other's rest; that is exact where both were made with the same `like`.
    """
    if left["kind"] != right["kind"]:
        return None
    if left["kind"] == "numeric":
        return (left["counts"], right["counts"]) if left["edges"] == right["edges"] else None
    names = sorted({*left["counts"], *right["counts"]})
    return (
        [*(left["counts"].get(name, 0) for name in names), left["other"]],
        [*(right["counts"].get(name, 0) for name in names), right["other"]],
    )


def distances(
    left: Mapping[str, Any], right: Mapping[str, Any]
) -> tuple[float, float | None] | None:
    """PSI and (for numeric columns) KS of two entries; None where they cannot be compared."""
    pair = paired_counts(left, right)
    if pair is None:
        return None
    return psi(*pair), ks_from_counts(*pair) if left["kind"] == "numeric" else None
