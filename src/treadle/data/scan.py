"""Is this data acceptable, and what does it look like: one streaming pass over a snapshot.

Structure refuses from the first day: a missing column, a changed type, a type that differs between
files, a duplicate key, a missing value in the key or in event_time, no rows, a label of one class.
Learned rules (`data/schema.py`) warn until a person confirms them: ranges, categories, missing
shares, infinities, rows. A learned range or list of categories that fewer rows leave than the
tolerance says only ever warns. Every violation is found, with counts and a few rows.

No range is learned for columns of the key, event_time, times and dates, and for columns whose name
has a calendar or numbering word in it (`CALENDAR`, `NUMBERING`: sched_hour, arr_time, user_id):
they move on by nature. Categories are learned for texts of at most 50 values outside the key.

Memory stays flat: aggregates and histograms are sums; texts are grouped only where a sample shows
at most GROUPED values, else the commonest of the sample are counted; keys are compared by 64-bit
hashes, beyond SORTED_ROWS rows through a scratch file in several passes, and a suspected duplicate
is confirmed on the values themselves.
"""

from __future__ import annotations

import itertools
import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from treadle.base.records import Column, Digested, Snapshot, Violation
from treadle.base.spec import DataSection, ModelSection
from treadle.clients.objects import Objects
from treadle.data.profile import CATEGORIES, Profile, category_column, quantile_edges
from treadle.data.schema import OPEN_ABOVE, ColumnRule, Schema, Tolerance
from treadle.data.source import format_of
from treadle.data.tables import columns_of, lazy_frame
from treadle.data.types import numeric

CALENDAR = frozenset(
    (
        "year",
        "years",
        "month",
        "months",
        "day",
        "days",
        "hour",
        "hours",
        "minute",
        "minutes",
        "second",
        "seconds",
        "week",
        "weeks",
        "weekday",
        "weekend",
        "dow",
        "doy",
        "quarter",
        "season",
        "date",
        "time",
        "timestamp",
        "datetime",
        "at",
        "on",
        "since",
        "until",
    )
)
NUMBERING = frozenset(
    (
        "id",
        "ids",
        "uuid",
        "key",
        "number",
        "no",
        "nr",
        "num",
        "index",
        "idx",
        "seq",
        "sequence",
        "version",
        "offset",
    )
)
SAMPLE_ROWS = 131_072
GROUPED = 1_000
SORTED_ROWS = 4_000_000
EXAMPLES = 3
_CHOSEN_HASHES = 10_000
_SLICES = 8
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@dataclass(frozen=True)
class ScanReport(Digested):
    """What a scan found; plain values throughout, so it can be kept and shown again."""

    dataset: str
    rows: int
    violations: tuple[Violation, ...]
    profile: dict[str, Any]
    """See `data/profile.py`, with `days` where the data set has an event_time."""
    schema: Schema
    """The rules that were applied: the given ones, or those learned here (`learned`)."""
    observed: Schema
    """What this snapshot by itself would teach."""
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By column: type, missing (share), low, high, infinite, distinct (exact up to GROUPED)."""
    named: tuple[str, ...] = ()
    """Columns that treadle.yaml names."""
    learned: bool = False
    """No rules were given: `schema` should be saved."""

    @property
    def refused(self) -> bool:
        """Whether any violation stops the turn."""
        return any(violation.severity == "refuse" for violation in self.violations)

    @property
    def warnings(self) -> tuple[Violation, ...]:
        """What does not stop the turn but should be looked at."""
        return tuple(v for v in self.violations if v.severity == "warn")


def moves_on(name: str) -> bool:
    """Whether a column's name says that its values move on by nature (calendar, numbering)."""
    words = {word.lower() for word in _WORD.findall(name)}
    return bool(words & (CALENDAR | NUMBERING))


def scan(
    snapshot: Snapshot,
    objects: Objects,
    section: DataSection,
    learned: Schema | None,
    *,
    model: ModelSection | None = None,
    like: Profile | None = None,
) -> ScanReport:
    """Check and profile a snapshot.

    `model`: given for the data set that the model is trained on, so that label and features are
    checked. `like`: an earlier profile whose edges are used again. The result depends on nothing
    but the arguments.
    """
    if snapshot.kind == "paths":
        return _scan_paths(snapshot, learned)
    with _readable(snapshot, objects) as lazy:
        return _Scan(snapshot, lazy, section, learned, model, like).run()


def _scan_paths(snapshot: Snapshot, learned: Schema | None) -> ScanReport:
    violations = [
        Violation(snapshot.dataset, "empty", None, f"{part.path} has no bytes", 1, (), "warn")
        for part in snapshot.parts
        if part.size_bytes == 0
    ]
    observed = Schema(snapshot.dataset, rows=snapshot.rows)
    schema = learned or observed
    violations += _volume(snapshot, schema)
    profile = {"rows": snapshot.rows, "columns": {}}
    return ScanReport(
        snapshot.dataset,
        snapshot.rows,
        tuple(violations),
        profile,
        schema,
        observed,
        learned=learned is None,
    )


@contextmanager
def _readable(snapshot: Snapshot, objects: Objects) -> Iterator[pl.LazyFrame]:
    """The rows as a lazy frame whose columns can be read one by one.

    Text is turned into Parquet once, in a scratch file, because every query would parse all of it.
    """
    lazy = lazy_frame(snapshot, objects)
    if all(format_of(part.path) == "parquet" for part in snapshot.parts):
        yield lazy
        return
    with tempfile.TemporaryDirectory(prefix="treadle-scan-") as scratch:
        path = Path(scratch) / "rows.parquet"
        lazy.sink_parquet(path, compression="lz4", statistics=False, engine="streaming")
        yield pl.scan_parquet(path)


def _volume(snapshot: Snapshot, schema: Schema) -> list[Violation]:
    if schema.rows is None or snapshot.rows >= schema.rows * (1 - schema.tolerance.shrink):
        return []
    return [
        Violation(
            snapshot.dataset, "volume", None,
            f"{snapshot.rows:,} rows; at least {schema.rows * (1 - schema.tolerance.shrink):,.0f} were "
            f"expected (rows {schema.rows:,}, shrink {schema.tolerance.shrink:g})",
            rows=snapshot.rows, severity=_severity(schema),
        )
    ]  # fmt: skip


def _severity(schema: Schema) -> Any:
    return "refuse" if schema.confirmed else "warn"


class _Scan:
    """One scan; the methods fill in `violations`, `entries` and `facts`."""

    def __init__(
        self,
        snapshot: Snapshot,
        lazy: pl.LazyFrame,
        section: DataSection,
        learned: Schema | None,
        model: ModelSection | None,
        like: Profile | None,
    ) -> None:
        self.snapshot, self.lazy, self.section = snapshot, lazy, section
        self.learned, self.model, self.like = learned, model, like
        self.dataset, self.rows = snapshot.dataset, snapshot.rows
        self.columns = {column.name: column for column in snapshot.columns}
        self.violations: list[Violation] = []
        self.facts: dict[str, dict[str, Any]] = {}
        self.values: dict[str, list[str] | None] = {}
        """By text column: its values where they were grouped, sorted; None where there are too many."""
        wanted = [*section.key, *([section.event_time] if section.event_time else [])]
        self.named = list(dict.fromkeys([*wanted, *section.known_later]))
        if model is not None:
            self.named = list(dict.fromkeys([*self.named, model.label, *(model.features or ())]))
        self.shown = [name for name in dict.fromkeys(wanted) if name in self.columns]

    def broken(
        self, rule: str, column: str | None, text: str, rows: int = 0,
        examples: Iterable[str] = (), severity: Any = "refuse",
    ) -> None:  # fmt: skip
        """Note a violation."""
        self.violations.append(
            Violation(self.dataset, rule, column, text, rows, tuple(examples), severity)
        )

    def run(self) -> ScanReport:
        self.structure()
        profile: Profile = {"rows": self.rows, "columns": {}}
        if self.rows:
            profile = self.measure()
            self.keys()
            self.times()
        observed = self.teach()
        schema = self.learned or observed
        if self.rows:
            self.label()
            self.rules(schema)
            self.violations += _volume(self.snapshot, schema)
        order = {"refuse": 0, "warn": 1}
        found = sorted(self.violations, key=lambda v: order[v.severity])
        return ScanReport(
            self.dataset,
            self.rows,
            tuple(found),
            profile,
            schema,
            observed,
            self.facts,
            tuple(self.named),
            learned=self.learned is None,
        )

    # ---- structure -------------------------------------------------------------------------------

    def structure(self) -> None:
        """Columns and types, from the snapshot alone."""
        import difflib

        have = list(self.columns)
        if self.rows == 0:
            self.broken("empty", None, "there is not a single row")
        for name in self.named:
            if name not in self.columns:
                near = difflib.get_close_matches(name, have, n=1)
                hint = (
                    f"; did you mean {near[0]}?" if near else f"; there are {', '.join(have[:30])}"
                )
                self.broken(
                    "missing_column",
                    name,
                    f"treadle.yaml names column {name}, which is not there{hint}",
                )
        self.parts()
        event_time = self.section.event_time
        if event_time in self.columns and self.rows:
            kind = self.columns[event_time].type
            if not (kind in ("date", "timestamp", "timestamp_utc") or numeric(kind)):
                self.broken(
                    "event_time",
                    event_time,
                    f"event_time {event_time} is {kind}; wanted: a time, a date or a number",
                )
        if self.learned is None:
            return
        for name, rule in self.learned.columns.items():
            column = self.columns.get(name)
            if column is None:
                if not rule.optional and name not in self.named:
                    self.broken(
                        "missing_column", name, f"column {name} ({rule.type}) is not there any more"
                    )
            elif not _fits(rule.type, column.type):
                self.broken(
                    "type_changed", name, f"column {name} is {column.type}; it was {rule.type}"
                )

    def parts(self) -> None:
        """Files that lack a column, or have it in a type that does not go with the others'."""
        own = [
            (part, {c.name: c for c in columns_of(self.snapshot, part)})
            for part in self.snapshot.parts
        ]
        if all(part.columns is None for part, _ in own):
            return
        for name, column in self.columns.items():
            lacking = [part for part, columns in own if name not in columns and part.rows]
            optional = (
                self.learned is not None
                and name in self.learned.columns
                and self.learned.columns[name].optional
            )
            if lacking and not optional:
                self.broken(
                    "missing_column", name,
                    f"column {name} is not in {_names(part.path for part in lacking)}, though in other files",
                    sum(part.rows or 0 for part in lacking),
                )  # fmt: skip
            kinds: dict[str, list[str]] = {}
            for part, columns in own:
                if name in columns and columns[name].type != "null":
                    kinds.setdefault(columns[name].type, []).append(part.path)
            if len(kinds) > 1 and column.type == "string":
                known = (
                    self.learned is not None
                    and name in self.learned.columns
                    and self.learned.columns[name].type == "string"
                )
                if "string" not in kinds or not known:
                    text = "; ".join(f"{kind} in {_names(paths)}" for kind, paths in kinds.items())
                    self.broken("type_conflict", name, f"column {name} is {text}")

    # ---- the pass --------------------------------------------------------------------------------

    def sample(self) -> pl.DataFrame:
        """Rows from all over the snapshot, at most SAMPLE_ROWS."""
        if self.rows <= SAMPLE_ROWS:
            return self.lazy.collect(engine="streaming")
        size = SAMPLE_ROWS // _SLICES
        step = (self.rows - size) // (_SLICES - 1)
        slices = [self.lazy.slice(number * step, size) for number in range(_SLICES)]
        return pl.concat([part.collect(engine="streaming") for part in slices])

    def measure(self) -> Profile:
        """Everything that sums, in one pass: missing, extremes, histograms, categories, days."""
        sample = self.sample()
        wanted: list[pl.Expr] = []
        groups: dict[str, pl.LazyFrame] = {}
        edges: dict[str, list[float]] = {}
        tops: dict[str, list[str]] = {}
        for index, column in enumerate(self.snapshot.columns):
            name = column.name
            wanted.append(pl.col(name).null_count().alias(f"{index} null"))
            if column.type in ("string", "boolean"):
                text = pl.col(name).cast(pl.String) if column.type == "boolean" else pl.col(name)
                common = sample[name].drop_nulls().cast(pl.String).value_counts(sort=True)
                if common.height > GROUPED:
                    tops[name] = sorted(common[name].head(CATEGORIES).to_list())
                    text = pl.when(text.is_in(tops[name])).then(text)
                    wanted.append(pl.col(name).approx_n_unique().alias(f"{index} distinct"))
                groups[name] = self.lazy.select(text.alias("value")).group_by("value").len()
            elif numeric(column.type) or column.type == "duration":
                edges[name] = self.edges(name, _number(pl.col(name), column), sample)
                wanted += self.numbers(index, column, edges[name])
            elif column.type in ("date", "timestamp", "timestamp_utc"):
                wanted += [
                    pl.col(name).min().cast(pl.String).alias(f"{index} low"),
                    pl.col(name).max().cast(pl.String).alias(f"{index} high"),
                ]
        days = self.day()
        lazies = [self.lazy.select(wanted), *groups.values(), *([] if days is None else [days])]
        # One by one, each reading its own columns: `collect_all` would share the scan by keeping all
        # rows in memory (617 MB against 285 at 1,000,000 rows, and more time).
        answers = [each.collect(engine="streaming") for each in lazies]
        sums = answers[0].row(0, named=True)
        profile: Profile = {"rows": self.rows, "columns": {}}
        for index, column in enumerate(self.snapshot.columns):
            name, missing = column.name, int(sums[f"{index} null"])
            facts: dict[str, Any] = {"type": column.type}
            self.facts[name] = facts
            if name in edges:
                missing += int(sums[f"{index} nan"] or 0)
                profile["columns"][name] = self.histogram(index, edges[name], missing, sums)
                facts["low"], facts["high"] = sums[f"{index} low"], sums[f"{index} high"]
                facts["infinite"] = int(sums[f"{index} infinite"] or 0)
            elif name in groups:
                table = answers[1 + list(groups).index(name)].drop_nulls("value")
                counts = [(str(value), int(count)) for value, count in table.iter_rows()]
                other = self.rows - missing - sum(count for _, count in counts)
                profile["columns"][name] = category_column(counts, missing, other, self.kept(name))
                facts["distinct"] = int(sums[f"{index} distinct"]) if name in tops else len(counts)
                self.values[name] = (
                    None if name in tops or len(counts) > GROUPED else sorted(v for v, _ in counts)
                )
            elif f"{index} low" in sums:
                facts["low"], facts["high"] = sums[f"{index} low"], sums[f"{index} high"]
            facts["missing"] = missing / self.rows
        if days is not None:
            table = answers[-1].drop_nulls("day").sort("day")
            profile["days"] = {str(day): int(count) for day, count in table.iter_rows()}
        return profile

    def kept(self, name: str) -> list[str] | None:
        entry = None if self.like is None else self.like["columns"].get(name)
        return list(entry["counts"]) if entry and entry["kind"] == "category" else None

    def edges(self, name: str, expression: pl.Expr, sample: pl.DataFrame) -> list[float]:
        entry = None if self.like is None else self.like["columns"].get(name)
        if entry and entry["kind"] == "numeric":
            return list(entry["edges"])
        values = sample.select(expression.alias(name))[name].cast(pl.Float64).drop_nulls()
        return quantile_edges(np.asarray(values.to_numpy()))

    def numbers(self, index: int, column: Column, edges: list[float]) -> list[pl.Expr]:
        value = _number(pl.col(column.name), column)
        finite = value
        special = [pl.lit(0).alias(f"{index} nan"), pl.lit(0).alias(f"{index} infinite")]
        if column.type == "float":
            finite = pl.when(value.is_finite()).then(value)
            special = [
                value.is_nan().sum().alias(f"{index} nan"),
                value.is_infinite().sum().alias(f"{index} infinite"),
            ]
        # Whole numbers are compared as such: beyond 2**53 a float would round them.
        marks: list[float | int] = [
            int(edge) if column.type in ("integer", "unsigned") and edge.is_integer() else edge
            for edge in edges
        ]
        return [
            *special,
            finite.min().cast(pl.Float64).alias(f"{index} low"),
            finite.max().cast(pl.Float64).alias(f"{index} high"),
            *((value <= mark).sum().alias(f"{index} {place}") for place, mark in enumerate(marks)),
        ]

    def histogram(
        self, index: int, edges: list[float], missing: int, sums: Mapping[str, Any]
    ) -> dict[str, Any]:
        below = [int(sums[f"{index} {place}"] or 0) for place in range(len(edges))]
        upto = [0, *below, self.rows - missing]
        counts = [b - a for a, b in itertools.pairwise(upto)]
        return {"kind": "numeric", "edges": edges, "counts": counts, "missing": missing}

    def day(self) -> pl.LazyFrame | None:
        name = self.section.event_time
        column = self.columns.get(name or "")
        if column is None or column.type not in ("date", "timestamp", "timestamp_utc"):
            return None
        return (
            self.lazy.select(pl.col(column.name).cast(pl.Date).alias("day")).group_by("day").len()
        )

    # ---- keys and times --------------------------------------------------------------------------

    def keys(self) -> None:
        """Missing and duplicate keys."""
        key = [name for name in self.section.key if name in self.columns]
        for name in key:
            share = self.facts[name]["missing"]
            if share:
                count = round(share * self.rows)
                self.broken(
                    "missing_key", name, f"key column {name} is missing in {count:,} rows", count,
                    self.examples(_missing(self.columns[name])),
                )  # fmt: skip
        if not key or len(key) < len(self.section.key):
            return
        hashed = pl.col(key[0]).hash(0)
        for seed, name in enumerate(key[1:], 1):
            hashed = hashed ^ pl.col(name).hash(seed)
        suspects = self.repeated(self.lazy.select(hashed.alias("hash")))
        if suspects.size == 0:
            return
        chosen = suspects[:_CHOSEN_HASHES]
        groups = (
            self.lazy.select(*key, hashed.alias("\0hash"))
            .filter(pl.col("\0hash").is_in(pl.Series(chosen).implode()))
            .group_by(key)
            .agg(pl.len().alias("\0rows"))
            .filter(pl.col("\0rows") > 1)
            .sort(["\0rows", *key], descending=[True, *[False] * len(key)])
            .collect(engine="streaming")
        )
        if groups.is_empty():
            return
        count = int(groups["\0rows"].sum()) - groups.height
        more = suspects.size > chosen.size
        examples = [
            ", ".join(f"{name}={row[name]}" for name in key) + f": {row[chr(0) + 'rows']} rows"
            for row in groups.head(EXAMPLES).iter_rows(named=True)
        ]
        text = f"key ({', '.join(key)}) should be unique: {'more than ' if more else ''}{count:,} rows repeat one"
        self.broken("duplicate_key", None, text, count, examples)

    def repeated(self, hashes: pl.LazyFrame) -> NDArray[np.uint64]:
        """Hashes that occur more than once, sorted; memory for SORTED_ROWS of them at a time."""
        if self.rows <= SORTED_ROWS:
            return _repeats(hashes.collect(engine="streaming")["hash"].to_numpy())
        import pyarrow as pa

        passes = 1 << max(1, math.ceil(math.log2(self.rows / SORTED_ROWS)))
        shift = np.uint64(64 - passes.bit_length() + 1)
        found = []
        with tempfile.TemporaryDirectory(prefix="treadle-keys-") as scratch:
            path = Path(scratch) / "hashes.arrow"
            hashes.sink_ipc(path, compression="uncompressed", engine="streaming")
            for number in range(passes):
                kept = []
                with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
                    for index in range(reader.num_record_batches):
                        values = reader.get_batch(index).column(0).to_numpy()
                        kept.append(values[(values >> shift) == np.uint64(number)])
                found.append(_repeats(np.concatenate(kept)))
                if sum(part.size for part in found) > _CHOSEN_HASHES:
                    break
        return np.concatenate(found)

    def times(self) -> None:
        """Rows without event_time cannot be put before or after others."""
        name = self.section.event_time
        if name not in self.columns or name in self.section.key:
            return
        share = self.facts[name]["missing"]
        if share:
            count = round(share * self.rows)
            self.broken(
                "missing_time", name, f"event_time {name} is missing in {count:,} rows", count,
                self.examples(_missing(self.columns[name])),
            )  # fmt: skip

    # ---- rules -----------------------------------------------------------------------------------

    def label(self) -> None:
        """What the model should predict is there and differs."""
        if self.model is None or self.model.label not in self.columns:
            return
        name, task = self.model.label, self.model.task
        facts = self.facts[name]
        if facts["missing"] == 1:
            self.broken("label", name, f"label {name} is missing in every row", self.rows)
            return
        if facts.get("infinite"):
            self.broken(
                "label",
                name,
                f"label {name} is infinite in {facts['infinite']:,} rows",
                facts["infinite"],
            )
        if task == "regression":
            if self.columns[name].type in ("string", "boolean"):
                self.broken(
                    "label",
                    name,
                    f"label {name} is {self.columns[name].type}; task regression wants a number",
                )
            return
        known = ~_missing(self.columns[name])
        table = (
            self.lazy.filter(known).group_by(pl.col(name)).len().sort("len", descending=True)
            .head(GROUPED).collect(engine="streaming")
        )  # fmt: skip
        classes = [f"{value}: {count:,} rows" for value, count in table.head(EXAMPLES).iter_rows()]
        if table.height == 1:
            self.broken(
                "label",
                name,
                f"label {name} has one class only: there is nothing to tell apart",
                self.rows,
                classes,
            )
        elif task == "binary" and table.height > 2:
            self.broken(
                "label",
                name,
                f"label {name} has {table.height} classes; task binary wants 2",
                self.rows,
                classes,
            )

    def teach(self) -> Schema:
        """The rules that this snapshot by itself would give."""
        rules = {}
        for name, column in self.columns.items():
            facts = self.facts.get(name, {})
            free = name in self.section.key or name == self.section.event_time
            bounds = None
            if (
                numeric(column.type)
                and not free
                and not moves_on(name)
                and facts.get("low") is not None
            ):
                bounds = (float(facts["low"]), float(facts["high"]))
            listed = None
            values = self.values.get(name)
            if column.type == "string" and not free and values and len(values) <= OPEN_ABOVE:
                listed = tuple(values)
            missing = None if name in self.section.key else round(facts.get("missing", 0.0), 6)
            rules[name] = ColumnRule(column.type, missing, bounds, listed)
        return Schema(self.dataset, rules, rows=self.rows, tolerance=Tolerance())

    def rules(self, schema: Schema) -> None:
        """The learned rules, column by column."""
        limit = schema.tolerance
        for name, rule in schema.columns.items():
            column, facts = self.columns.get(name), self.facts.get(name)
            if column is None or facts is None:
                continue
            share = facts["missing"]
            if rule.missing is not None and share > rule.missing + limit.missing:
                count = round(share * self.rows)
                self.broken(
                    "missing", name,
                    f"{name} is missing in {share:.1%} of the rows; {rule.missing:.1%} was known "
                    f"(tolerance {limit.missing:g})",
                    count, self.examples(_missing(column)), _severity(schema),
                )  # fmt: skip
            is_label = self.model is not None and name == self.model.label
            if facts.get("infinite") and not rule.infinite and not is_label:
                self.broken(
                    "infinite", name, f"{name} is infinite in {facts['infinite']:,} rows",
                    facts["infinite"], self.examples(pl.col(name).is_infinite(), name), _severity(schema),
                )  # fmt: skip
            if rule.range is not None and numeric(column.type) and facts.get("low") is not None:
                self.range(name, column, rule.range, schema)
            if rule.categories is not None and column.type == "string":
                self.categories(name, rule.categories, schema)

    def range(self, name: str, column: Column, bounds: tuple[float, float], schema: Schema) -> None:
        low, high = bounds
        facts = self.facts[name]
        if facts["low"] >= low and facts["high"] <= high:
            return
        value = _number(pl.col(name), column)
        outside = (value < low) | (value > high)
        if column.type == "float":
            outside = outside & value.is_finite()
        count = int(self.lazy.select(outside.sum()).collect(engine="streaming").item() or 0)
        if count:
            self.leaves(
                "range", name, count, schema.tolerance.outside, outside, schema,
                f"outside {low:g} to {high:g} (seen {facts['low']:g} to {facts['high']:g})",
            )  # fmt: skip

    def categories(self, name: str, listed: tuple[str, ...], schema: Schema) -> None:
        values = self.values.get(name)
        new = None if values is None else sorted(set(values) - set(listed))
        if new == []:
            return
        outside = ~pl.col(name).is_in(list(listed)) & pl.col(name).is_not_null()
        count = int(self.lazy.select(outside.sum()).collect(engine="streaming").item() or 0)
        if count:
            what = (
                _names(map(repr, new)) if new else f"about {self.facts[name]['distinct']:,} values"
            )
            self.leaves(
                "category", name, count, schema.tolerance.new_categories, outside, schema,
                f"with categories that are not listed: {what}",
            )  # fmt: skip

    def leaves(
        self, rule: str, name: str, count: int, tolerance: float, which: pl.Expr, schema: Schema, text: str
    ) -> None:  # fmt: skip
        share = count / self.rows
        within = share <= tolerance
        self.broken(
            rule, name,
            f"{name} has {count:,} rows ({share:.2%}) {text}; tolerance {tolerance:g}"
            + (", kept" if within else ""),
            count, self.examples(which, name), "warn" if within else _severity(schema),
        )  # fmt: skip

    def examples(self, which: pl.Expr, *more: str) -> list[str]:
        """A few rows, by key, event_time and the columns in question."""
        names = list(dict.fromkeys([*self.shown, *more])) or list(self.columns)[:4]
        rows = self.lazy.filter(which).select(names).head(EXAMPLES).collect(engine="streaming")
        return [
            ", ".join(f"{name}={value}" for name, value in row.items())
            for row in rows.iter_rows(named=True)
        ]


def _number(expression: pl.Expr, column: Column) -> pl.Expr:
    """A column as numbers: decimals as floats, durations in seconds."""
    if column.type.startswith("decimal"):
        return expression.cast(pl.Float64)
    if column.type == "duration":
        return expression.dt.total_microseconds() / 1e6
    return expression


def _missing(column: Column) -> pl.Expr:
    value = pl.col(column.name)
    return (
        value.is_null() | value.is_nan().fill_null(False)
        if column.type == "float"
        else value.is_null()
    )


def _repeats(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    ordered = np.sort(values)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _fits(known: str, seen: str) -> bool:
    """Whether values of the type seen are values of the known type too."""
    if known == seen or "null" in (known, seen):
        return True
    if known.startswith("decimal") and seen.startswith("decimal"):
        return True
    return (known, seen) in (("float", "integer"), ("float", "unsigned"), ("timestamp", "date"))


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - EXAMPLES} more" if len(listed) > EXAMPLES else ""
    return ", ".join(listed[:EXAMPLES]) + more
