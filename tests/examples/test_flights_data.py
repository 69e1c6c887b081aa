"""The committed files of examples/flights, and its pipeline called as ordinary functions."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
KEY = ["carrier", "flight", "sched_dep"]
KNOWN_LATER = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
COLUMNS = {
    "carrier": "string",
    "flight": "int16",
    "tailnum": "string",
    "origin": "string",
    "dest": "string",
    "sched_dep": "timestamp[us]",
    "sched_arr_minute": "int16",
    "distance": "int16",
    "sched_hour": "int8",
    "weekday": "int8",
    "temp": "double",
    "dewp": "double",
    "humid": "double",
    "wind_dir": "int16",
    "wind_speed": "double",
    "wind_gust": "double",
    "precip": "double",
    "pressure": "double",
    "visib": "double",
    "dep_time": "int16",
    "dep_delay": "int16",
    "arr_time": "int16",
    "arr_delay": "int16",
    "air_time": "int16",
    "late": "int8",
}
ROWS = [27004, 24951, 28834, 28330, 28796, 28243, 29425, 29327, 27574, 28889, 27268, 28135]
WITHOUT_LABEL = [606, 1340, 932, 766, 668, 1168, 1132, 571, 564, 271, 297, 1115]


def month_files(name: str, first: str) -> list[Path]:
    """The twelve files of one data set in the order of months; `first` holds January to April."""
    folders = [first] * 4 + ["later"] * 8
    return [FLIGHTS / folders[i] / f"{name}-2013-{i + 1:02d}.parquet" for i in range(12)]


@pytest.fixture(scope="module")
def year() -> list[pd.DataFrame]:
    return [pd.read_parquet(file) for file in month_files("flights", "data")]


@pytest.fixture(scope="module")
def truth() -> list[pd.DataFrame]:
    return [pd.read_parquet(file) for file in month_files("arrivals", "truth")]


@pytest.fixture(scope="module")
def pipeline() -> ModuleType:
    found = importlib.util.spec_from_file_location("flights_pipeline", FLIGHTS / "pipeline.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def spec() -> dict[str, dict[str, object]]:
    loaded: dict[str, dict[str, object]] = YAML(typ="safe").load(FLIGHTS / "treadle.yaml")
    return loaded


@pytest.fixture(scope="module")
def three_weeks(year: list[pd.DataFrame]) -> pd.DataFrame:
    return year[0][year[0]["sched_dep"] < "2013-01-22"]


def test_no_file_but_the_months_lies_in_the_data_folders() -> None:
    lying = {*(FLIGHTS / "data").iterdir(), *(FLIGHTS / "truth").iterdir()}
    lying |= set((FLIGHTS / "later").iterdir())
    assert lying == {*month_files("flights", "data"), *month_files("arrivals", "truth")}


def test_all_files_together_take_at_most_ten_megabytes() -> None:
    files = month_files("flights", "data") + month_files("arrivals", "truth")
    assert sum(file.stat().st_size for file in files) <= 10_000_000


def test_every_month_has_its_flights_and_the_year_336776(year: list[pd.DataFrame]) -> None:
    assert [len(month) for month in year] == ROWS
    assert sum(ROWS) == 336_776


def test_a_file_holds_the_flights_of_its_own_month(year: list[pd.DataFrame]) -> None:
    for number, month in enumerate(year, start=1):
        assert month["sched_dep"].dt.to_period("M").unique().astype(str) == [f"2013-{number:02d}"]


def test_cancelled_and_diverted_flights_have_no_label(year: list[pd.DataFrame]) -> None:
    assert [int(month["late"].isna().sum()) for month in year] == WITHOUT_LABEL
    for month in year:
        assert (month["late"].isna() == month["arr_delay"].isna()).all()


def test_late_means_more_than_fifteen_minutes(year: list[pd.DataFrame]) -> None:
    flights = pd.concat(year)
    arrived = flights[flights["late"].notna()]
    assert ((arrived["arr_delay"] > 15) == (arrived["late"] == 1)).all()
    assert {15.0, 16.0} <= set(arrived["arr_delay"])


def test_every_file_has_the_same_columns_and_types() -> None:
    for file in month_files("flights", "data"):
        schema = pq.read_schema(file)
        assert {field.name: str(field.type) for field in schema} == COLUMNS
        assert schema.metadata is None


def test_the_key_is_unique_over_the_year_and_sorts_each_file(year: list[pd.DataFrame]) -> None:
    flights = pd.concat(year, ignore_index=True)
    assert not flights.duplicated(KEY).any()
    assert flights[KEY].notna().all(axis=None)
    ordered = flights.sort_values(["sched_dep", "carrier", "flight"], kind="stable")
    assert (ordered.index == flights.index).all()


def test_truth_repeats_key_and_label_and_is_known_a_day_later(
    year: list[pd.DataFrame], truth: list[pd.DataFrame]
) -> None:
    for flights, known in zip(year, truth, strict=True):
        assert list(known.columns) == [*KEY, "late", "known_at"]
        pd.testing.assert_frame_equal(known[[*KEY, "late"]], flights[[*KEY, "late"]])
        assert (known["known_at"] - known["sched_dep"] == pd.Timedelta(days=1)).all()


def test_the_months_that_follow_have_227657_flights_in_4656_hours(year: list[pd.DataFrame]) -> None:
    later = pd.concat(year[4:])
    assert len(later) == 227_657
    assert later["sched_dep"].dt.floor("h").nunique() == 4_656


def test_calendar_columns_agree_with_the_scheduled_departure(year: list[pd.DataFrame]) -> None:
    flights = pd.concat(year)
    assert (flights["sched_hour"] == flights["sched_dep"].dt.hour).all()
    assert (flights["weekday"] == flights["sched_dep"].dt.day_of_week + 1).all()
    assert flights["sched_arr_minute"].between(0, 1439).all()


def test_few_flights_lack_the_weather_of_their_hour(year: list[pd.DataFrame]) -> None:
    flights = pd.concat(year)
    assert int(flights["temp"].isna().sum()) == 1_573
    assert int(flights["wind_speed"].isna().sum()) == 1_634


def test_the_spec_names_columns_that_exist(spec: dict[str, dict[str, object]]) -> None:
    flights = spec["data"]["flights"]
    assert isinstance(flights, dict)
    assert flights["known_later"] == KNOWN_LATER
    assert flights["key"] == KEY
    assert {*KNOWN_LATER, *KEY, flights["event_time"], spec["model"]["label"]} <= set(COLUMNS)


def test_the_features_of_spec_and_pipeline_agree_and_none_is_known_later(
    spec: dict[str, dict[str, object]], pipeline: ModuleType
) -> None:
    assert spec["model"]["features"] == pipeline.FEATURES
    assert set(pipeline.FEATURES) <= set(COLUMNS)
    assert set(pipeline.FEATURES).isdisjoint({*KNOWN_LATER, "late"})


def test_the_pipeline_imports_nothing_of_treadle() -> None:
    for name in ("pipeline.py", "make_data.py", "measure_year.py"):
        assert "import treadle" not in (FLIGHTS / name).read_text()
        assert "from treadle" not in (FLIGHTS / name).read_text()


def test_the_holdout_is_the_last_whole_days_and_keeps_rows_without_label(
    three_weeks: pd.DataFrame, pipeline: ModuleType
) -> None:
    train, holdout = pipeline.split(three_weeks, holdout_days=7)
    assert train["sched_dep"].max() < pd.Timestamp(2013, 1, 15) <= holdout["sched_dep"].min()
    assert holdout["sched_dep"].dt.date.nunique() == 7
    assert train["late"].notna().all()
    assert holdout["late"].isna().any()
    unlabelled = int(three_weeks["late"].isna().sum() - holdout["late"].isna().sum())
    assert len(train) + len(holdout) + unlabelled == len(three_weeks)


@pytest.mark.parametrize("label_type", ["float64", "Int8", "boolean"])
def test_a_model_learns_from_any_nullable_label_and_tells_late_from_on_time(
    three_weeks: pd.DataFrame, pipeline: ModuleType, label_type: str
) -> None:
    train, holdout = pipeline.split(three_weeks.astype({"late": label_type}), holdout_days=7)
    fitted = pipeline.model(train, iterations=10)
    assert fitted.classes_.tolist() == [0, 1]
    late = fitted.predict_proba(holdout)[:, 1]
    known = holdout["late"].notna()
    happened = holdout.loc[known, "late"].astype("int8").to_numpy()
    assert late[known][happened == 1].mean() > late[known][happened == 0].mean()


def test_an_unknown_destination_and_missing_weather_get_an_answer(
    three_weeks: pd.DataFrame, pipeline: ModuleType
) -> None:
    fitted = pipeline.model(pipeline.split(three_weeks).train, iterations=5)
    asked = three_weeks[pipeline.FEATURES].iloc[[0]].to_dict("records")[0]
    request = pd.DataFrame([asked | {"dest": "ZZZ", "wind_speed": None}])
    answer = fitted.predict_proba(request)
    assert answer.shape == (1, 2)
    assert np.isfinite(answer).all()


def test_the_same_rows_give_the_same_model(three_weeks: pd.DataFrame, pipeline: ModuleType) -> None:
    train, holdout = pipeline.split(three_weeks)
    first, second = (pipeline.model(train, iterations=5) for _ in range(2))
    assert (first.predict_proba(holdout) == second.predict_proba(holdout)).all()


def test_the_model_is_written_and_read_by_skops_without_code_of_ours(
    three_weeks: pd.DataFrame, pipeline: ModuleType
) -> None:
    skops = pytest.importorskip("skops.io")
    train, holdout = pipeline.split(three_weeks)
    fitted = pipeline.model(train, iterations=5)
    written = skops.dumps(fitted)
    unknown = skops.get_untrusted_types(data=written)
    assert all(name.startswith("sklearn.") for name in unknown)
    read = skops.loads(written, trusted=unknown)
    assert (read.predict_proba(holdout) == fitted.predict_proba(holdout)).all()
