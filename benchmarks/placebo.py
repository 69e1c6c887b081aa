"""Does monitoring cry wolf, and does it see the wolf? Measured on the flights of 2013.

    python benchmarks/placebo.py [--repeats 200]

1. Drift, the real weeks May to December against January to April: alarms of Treadle's rule beside
   those of a plain Kolmogorov–Smirnov test (numbers) and χ² test (texts) per column and week.
2. Drift, placebo: the 35 real weeks in random order, 17 of them as training, 13 (91 days) as new.
3. Drift, planted into each real week of May and June: how often it is found in the first week.
4. Decay, the model of April kept all year: each week's quality and alarms.
5. Decay, placebo: 14 days as holdout and 91 days of service, all drawn from the same year's days
   (in runs of 1, 3 or 7 days, so that neighbours stay together): alarms per 91 days, budget 1.
6. Decay, planted in 5: a share of the answers is noise from day 42 on: weeks until the alarm.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "flights"))

from treadle.base.clock import UTC  # noqa: E402
from treadle.base.spec import FalseAlarms, MonitorSection, Truth  # noqa: E402
from treadle.data.profile import profile_frame  # noqa: E402
from treadle.monitor import drift, findings, quality, window  # noqa: E402
from treadle.monitor import truth as truths  # noqa: E402

KEY = ("carrier", "flight", "sched_dep")
SECTION = MonitorSection(
    window="7d", false_alarms=FalseAlarms(at_most=1, per="90d"), truth=Truth("arrivals", "1d")
)
DAY = 86_400_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    year = Year()
    print(
        f"α of a look: drift {findings.drift_alpha(SECTION):.4f}, "
        f"decay {findings.decay_alpha(SECTION):.4f}\n"
    )
    drift_of_the_year(year)
    drift_placebo(year, repeats)
    drift_planted(year)
    decay_of_the_year(year)
    decay_placebo(year, repeats)


class Year:
    """Training rows, the April model and its answers for the rest of the year, as windows."""

    def __init__(self) -> None:
        import pipeline

        data = ROOT / "examples" / "flights"
        first = _read(data / "data", "flights-*.parquet")
        later = _read(data / "later", "flights-*.parquet")
        parts = pipeline.split(first)
        self.features: list[str] = list(pipeline.FEATURES)
        model = pipeline.model(parts.train)

        def answer(frame: pd.DataFrame) -> np.ndarray:
            return model.predict_proba(frame[self.features])

        self.answer = answer
        self.train = _table(parts.train, self.features, answer(parts.train))
        self.train_time = _microseconds(parts.train["sched_dep"])
        self.profile = profile_of(self.train, self.features)
        self.placebo = drift.reference(
            self.train,
            self.train_time,
            self.profile,
            7 * 86400,
            [*self.features, "prediction"],
            block_s=86400,
        )
        self.holdout = quality.judge_arrays(
            parts.holdout["late"].to_numpy(),
            answer(parts.holdout),
            _microseconds(parts.holdout["sched_dep"]),
            "binary",
            (0, 1),
            86400,
        )
        self.later = later
        self.windows = windows_of(later, answer(later), self.features)
        arrivals = _read(data / "later", "arrivals-*.parquet")
        self.truth, _ = truths.normalise(arrivals, KEY, "late", "known_at")
        self.coverage, self.judged = [], []
        for closed in self.windows:
            due = findings.matures_at(closed.window, SECTION)
            joined, coverage = truths.join(
                closed.table, self.truth, KEY, due - _one_day(), known_by=due
            )
            self.coverage.append(coverage)
            self.judged.append(quality.judged(joined, "binary", (0, 1), 86400))


def windows_of(
    frame: pd.DataFrame, answers: np.ndarray, features: list[str]
) -> list[window.Closed]:
    """The year's requests, one an hour, through `window.advance`, day by day."""
    frame = frame.assign(p0=answers[:, 0], p1=answers[:, 1]).sort_values("sched_dep")
    closed: list[window.Closed] = []
    cursor: dict[str, Any] = {}
    rows: pa.Table | None = None
    texts = frame["sched_dep"].dt.strftime("%Y-%m-%dT%H:%M:%S")
    for day, part in frame.groupby(frame["sched_dep"].dt.floor("D")):
        records = []
        for hour, group in part.groupby(part["sched_dep"].dt.floor("h")):
            records.append(
                {
                    "id": f"local.1.bench.{hour:%Y%m%d%H}",
                    "time": f"{hour:%Y-%m-%dT%H}:00:00Z",
                    "release": 1,
                    "instance": "bench",
                    "rows": len(group),
                    "inputs": {n: _listed(group[n]) for n in features},
                    "extra": {
                        "flight": _listed(group["flight"]),
                        "sched_dep": texts[group.index].tolist(),
                    },
                    "outputs": {
                        "prediction_0": _listed(group["p0"]),
                        "prediction_1": _listed(group["p1"]),
                    },
                }
            )
        now = day.to_pydatetime().replace(tzinfo=UTC) + _one_day()
        found, cursor, rows = window.advance(
            records, "local", SECTION, "sched_dep", KEY, cursor, now, open_rows=rows
        )
        closed += found
    return [c._replace(table=drift.with_answers(c.table, "binary", (0, 1))) for c in closed]


def profile_of(table: pa.Table, features: list[str]) -> dict[str, Any]:
    """The training profile as the loop makes it."""
    import polars as pl

    return profile_frame(pl.from_arrow(table), [*features, "prediction"])


# ---- drift ---------------------------------------------------------------------------------------


def look(
    year: Year,
    table: pa.Table,
    form: dict[str, Any] | None = None,
    placebo: dict[str, Any] | None = None,
) -> list[drift.ColumnDrift]:
    return drift.compare(
        table,
        form or year.profile,
        placebo or year.placebo,
        year.features,
        findings.drift_alpha(SECTION),
        block_s=86400,
    )


def drift_of_the_year(year: Year) -> None:
    from scipy import stats

    print("1. drift, real weeks against January to April")
    ours, plain, columns = 0, 0, {}
    for closed in year.windows:
        found = look(year, closed.table)
        alarms = [one for one in found if one.alarm]
        ours += bool(alarms)
        for one in alarms:
            print(f"   {closed.window.start[:10]}  {findings._drift_words(one)}")
        small = 0.05 / (len(year.features) + 1)
        if not found:
            print(f"   {closed.window.start[:10]}  a partial window, not compared")
        hit = False
        for one in found:
            columns.setdefault(one.column, []).append(one.psi)
            now, then = closed.table[one.column], year.train[one.column]
            if one.ks is not None:
                p = stats.ks_2samp(_finite(then), _finite(now)).pvalue
            else:
                counts = [pd.Series(t.to_pandas()).value_counts() for t in (then, now)]
                both = pd.concat(counts, axis=1).fillna(0).to_numpy()
                p = stats.chi2_contingency(both).pvalue
            hit |= p < small
        plain += hit
    weeks = len(year.windows)
    print(
        f"   weeks with an alarm: Treadle {ours} of {weeks}, KS and χ² per column (Bonferroni "
        f"over columns) {plain} of {weeks}"
    )
    for name, values in columns.items():
        usual = year.placebo["columns"][name]["shape"]
        print(
            f"   {name:12} PSI median {np.median(values):.3f} largest {max(values):.3f}; "
            f"training's own weeks up to {max(usual):.3f}"
        )
    print()


def drift_placebo(year: Year, repeats: int) -> None:
    rng = np.random.default_rng(0)
    tables = [closed.table for closed in year.windows if closed.window.rows > 4000]
    weeks, runs, by_column = 0, 0, {}
    for _ in range(max(1, repeats // 4)):
        order = rng.permutation(len(tables))
        train = pa.concat_tables([tables[i] for i in order[:17]])
        time = np.concatenate(
            [
                n * 7 * DAY + (tables[i]["when"].cast(pa.int64()).to_numpy() - 4 * DAY) % (7 * DAY)
                for n, i in enumerate(order[:17])
            ]
        )
        form = profile_of(train, year.features)
        placebo = drift.reference(
            train, time, form, 7 * 86400, [*year.features, "prediction"], block_s=86400
        )
        alarms = 0
        for i in order[17:30]:
            found = [one.column for one in look(year, tables[i], form, placebo) if one.alarm]
            alarms += bool(found)
            for name in found:
                by_column[name] = by_column.get(name, 0) + 1
        weeks += alarms
        runs += 1
    share = findings.drift_alpha(SECTION) * 90 / 7
    print(
        f"2. drift, placebo (weeks in random order): {weeks / runs:.2f} alarms per 91 days in "
        f"{runs} runs; drift's part of the budget is {share:.2f}; by column {by_column}\n"
    )


def drift_planted(year: Year) -> None:
    print("3. drift, planted into each of the first 8 weeks (answers of the model recomputed)")
    rng = np.random.default_rng(1)

    def by(name: str, change: Any) -> Any:
        def planted(frame: pd.DataFrame) -> pd.DataFrame:
            return frame.assign(**{name: change(frame[name])})

        return planted

    train = year.train
    spread = {
        n: float(np.nanstd(train[n].to_numpy())) for n in ("distance", "sched_hour", "wind_speed")
    }
    new_carrier = lambda s: s.astype(object).where(rng.random(len(s)) > 0.2, "ZZ")  # noqa: E731
    some_carrier = lambda s: s.astype(object).where(rng.random(len(s)) > 0.05, "ZZ")  # noqa: E731
    lost = lambda s: s.astype(float).where(rng.random(len(s)) > 0.1)  # noqa: E731
    kinds = {
        "nothing": lambda frame: frame,
        "distance + 0.5 sd": by("distance", lambda s: s + 0.5 * spread["distance"]),
        "distance in km": by("distance", lambda s: s * 1.609),
        "sched_hour + 0.5 sd": by("sched_hour", lambda s: s + 0.5 * spread["sched_hour"]),
        "sched_hour in UTC (+5)": by("sched_hour", lambda s: (s + 5) % 24),
        "weekday counted from 0": by("weekday", lambda s: s - 1),
        "a new carrier, 20 %": by("carrier", new_carrier),
        "a new carrier, 5 %": by("carrier", some_carrier),
        "10 % of distance missing": by("distance", lost),
        "one origin gone": lambda f: f.assign(origin=f["origin"].replace({"LGA": "JFK"})),
        "wind_speed + 0.5 sd": by("wind_speed", lambda s: s + 0.5 * spread["wind_speed"]),
        "wind_speed all missing": by("wind_speed", lambda s: s * np.nan),
        "wind_speed in m/s": by("wind_speed", lambda s: s * 0.447),
    }
    weeks = (year.later["sched_dep"] - pd.Timestamp("2013-05-06")).dt.days // 7
    for name, change in kinds.items():
        hits, subjects = 0, {}
        for week in range(8):
            frame = change(year.later[weeks == week])
            table = _table(frame, year.features, year.answer(frame))
            table = table.append_column(
                "when", pa.array(_microseconds(frame["sched_dep"]), pa.timestamp("us", tz="UTC"))
            )
            found = [one.column for one in look(year, table) if one.alarm]
            hits += bool(found)
            for column in found:
                subjects[column] = subjects.get(column, 0) + 1
        print(f"   {name:26} alarm in {hits} of 8 weeks  {subjects or ''}")
    print()


# ---- decay ---------------------------------------------------------------------------------------


def measures() -> dict[str, quality.Measure]:
    from treadle.test import metrics

    def as_judged(truth: Any, prediction: Any) -> metrics.Judged:
        chance = np.column_stack([1 - prediction, prediction])
        return metrics.Judged(
            "binary", truth.astype(np.int64), (prediction >= 0.5).astype(np.int64), chance, (0, 1)
        )

    return quality.watched(
        "binary",
        lambda name, truth, prediction: metrics.value(name, as_judged(truth, prediction)),
        lambda name, truth, prediction, block: metrics.statistic(
            name, as_judged(truth, prediction), block
        ),
    )


def decay_of_the_year(year: Year) -> None:
    print("4. decay, the model of April kept all year")
    how = measures()
    release = quality.measure(year.holdout, how)
    for name, one in release.items():
        print(
            f"   at release {name} {one.value:.3f} (judged {one.goodness:.3f}, "
            f"95 % {one.interval[0]:.3f} to {one.interval[1]:.3f}, {one.blocks} days)"
        )
    print("   week        rows   truth  late  said  auc   expected  log loss  constant  alarms")
    alarms = []
    for number, closed in enumerate(year.windows):
        if not closed.window.rows:
            continue
        seen = quality.values(year.judged[number], how)
        guess = quality.estimate(closed.table, "binary")
        rows = quality.concatenate(year.judged[: number + 1])
        found = findings.look_at_quality(
            closed.window,
            section=SECTION,
            now=findings.matures_at(closed.window, SECTION),
            coverage=year.coverage[number],
            judged=rows,
            release_quality=release,
            measures=how,
        )
        names = [one.subject for one in found if one.alarm]
        worse = any(not one.alarm and one.kind == "decay" for one in found)
        alarms += [(closed.window.start[:10], one) for one in found if one.alarm]
        print(
            f"   {closed.window.start[:10]} {closed.window.rows:6} "
            f"{year.coverage[number].share:6.1%} {seen['rate']:5.2f} "
            f"{seen['predicted_rate']:5.2f} {seen['roc_auc']:5.3f}  {guess['roc_auc']:5.3f}    "
            f"{seen['log_loss']:7.3f}  {seen['log_loss_constant']:7.3f}   {', '.join(names)}"
            f"{' (worse than a constant)' if worse else ''}"
        )
    for start, one in alarms[:2]:
        print(f"   {start}: {one.text}")
    print(f"   weeks with an alarm: {len({start for start, _ in alarms})}\n")


def decay_placebo(year: Year, repeats: int) -> None:
    print(
        "5. and 6. decay, placebo and planted: days drawn from the year, budget "
        f"{findings.decay_alpha(SECTION) * 90 / 7:.2f} alarms per 90 days"
    )
    rows = quality.concatenate(year.judged)
    present = np.unique(rows.block)
    days = [np.flatnonzero(rows.block == block) for block in present]
    how = measures()
    rng = np.random.default_rng(2)
    alpha = findings.decay_alpha(SECTION)

    def drawn(chosen: np.ndarray, noise: float = 0.0, since: int = 0) -> quality.Judged:
        # A third of each day's rows keeps the measurement short; days make the uncertainty.
        parts = [days[i][rng.random(len(days[i])) < 1 / 3] for i in chosen]
        index = np.concatenate(parts)
        block = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        answer = rows.prediction[index].copy()
        if noise:
            lost = (block >= since) & (rng.random(len(index)) < noise)
            answer[lost] = rng.permutation(answer[lost])
        return quality.Judged(rows.truth[index], answer, block, "binary", (0, 1))

    for run, noise, times in (
        (1, 0.0, repeats),
        (3, 0.0, repeats),
        (7, 0.0, repeats),
        (3, 0.5, repeats // 4),
        (3, 1.0, repeats // 4),
    ):
        looks, any_, first = 0, 0, []
        for _ in range(max(1, times)):
            start = rng.integers(0, len(days) - run, (14 + 91) // run + 1)
            chosen = (start[:, None] + np.arange(run)).ravel()[: 14 + 91]
            release = quality.measure(drawn(chosen[:14]), how)
            service = drawn(chosen[14:], noise, 42)
            found = []
            for week in range(1, 14):
                part = service._where(service.block < week * 7)
                found.append(
                    any(one.alarm for one in quality.decay(part, release, how, alpha).comparisons)
                )
            looks += sum(found[:6]) if noise else sum(found)
            any_ += any(found[6:]) if noise else any(found)
            first += [found[6:].index(True) + 1] if any(found[6:]) else []
        if noise:
            weeks = f"median week {np.median(first):.0f}" if first else "never"
            print(
                f"   {noise:.0%} of the answers noise from day 42 on: found in "
                f"{any_ / times:.0%} of {times} runs within 7 weeks, {weeks}"
            )
        else:
            print(
                f"   no change, days in runs of {run}: {looks / times:.2f} looks with an alarm "
                f"per 91 days, {any_ / times:.0%} of {times} runs have any"
            )


# ---- helpers -------------------------------------------------------------------------------------


def _one_day() -> Any:
    import datetime

    return datetime.timedelta(days=1)


def _read(folder: Path, pattern: str) -> pd.DataFrame:
    return pd.concat(
        [pd.read_parquet(path) for path in sorted(folder.glob(pattern))], ignore_index=True
    )


def _table(frame: pd.DataFrame, features: list[str], answers: np.ndarray) -> pa.Table:
    table = pa.Table.from_pandas(frame[features], preserve_index=False)
    return table.append_column("prediction", drift.answers(answers, "binary", (0, 1)))


def _microseconds(times: pd.Series) -> np.ndarray:
    return times.astype("datetime64[us]").astype(np.int64).to_numpy()


def _listed(column: pd.Series) -> list[Any]:
    return [None if value != value else value for value in column.tolist()]  # noqa: PLR0124


def _finite(column: Any) -> np.ndarray:
    values = column.to_numpy().astype(float)
    return values[~np.isnan(values)]


if __name__ == "__main__":
    main()
