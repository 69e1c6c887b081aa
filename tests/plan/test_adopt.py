from __future__ import annotations

import random
import sys
import types
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from sklearn.metrics import r2_score, roc_auc_score

from treadle.base.errors import SpecError, UsageError
from treadle.plan.adopt import ci_workflow, detect, write
from treadle.plan.spec import load
from treadle.plan.template import scalar

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"


def adopted(folder: Path, **options) -> dict[str, object]:
    """Detect, write what is new, and load the spec: what `treadle init` does."""
    proposal = detect(folder, **options)
    for name, text in write(proposal).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(text)
    return {guess.name: guess.value for guess in proposal.guesses}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small trees wait longer for busy cores than they compute."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def functions(path: Path) -> types.ModuleType:
    module = types.ModuleType("made_pipeline")
    sys.modules["made_pipeline"] = module
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    return module


def rows(count: int, seed: int = 0) -> pl.DataFrame:
    draw = random.Random(seed)
    colour = [draw.choice(["red", "green", None]) for _ in range(count)]
    size = [draw.gauss(0, 1) for _ in range(count)]
    y = [
        (1.0 if c == "red" else 0.0) + s + draw.gauss(0, 0.3)
        for c, s in zip(colour, size, strict=True)
    ]
    return pl.DataFrame({"colour": colour, "size": size, "flag": [s > 0 for s in size], "y": y})


def test_an_empty_folder_becomes_a_sample_that_learns_something(tmp_path):
    folder = tmp_path / "My Project!"
    folder.mkdir()
    guesses = adopted(folder)
    assert guesses["project"] == "my-project"
    assert guesses["sample"] == "deliveries"
    spec = load(folder / "treadle.yaml")
    assert spec.data["deliveries"].known_later == ("minutes",)
    frame = pd.concat(pd.read_csv(f) for f in sorted(folder.glob("data/*.csv")))
    assert frame["order_id"].is_unique
    assert 0.2 < frame["late"].mean() < 0.6
    code = functions(folder / "pipeline.py")
    train, holdout = code.split(frame.reset_index(drop=True))
    assert train["ordered_at"].max() < holdout["ordered_at"].min()
    assert holdout["ordered_at"].str[:10].nunique() >= 10
    fitted = code.model(train)
    area = roc_auc_score(holdout["late"], fitted.predict_proba(holdout[code.FEATURES])[:, 1])
    assert area > spec.test.gates[0].at_least + 0.1


def test_the_sample_is_the_same_each_time_and_says_nothing_of_the_label(tmp_path):
    assert write(detect(tmp_path)) == write(detect(tmp_path))
    assert sum(len(text) for text in write(detect(tmp_path)).values()) < 300_000


def test_a_csv_without_key_or_time_becomes_a_regression_that_works(tmp_path):
    rows(400).write_csv(tmp_path / "houses.csv")
    guesses = adopted(tmp_path)
    assert guesses["label"] == "y"
    assert guesses["task"] == "regression"
    spec = load(tmp_path / "treadle.yaml")
    assert spec.data["houses"].files == "houses.csv"
    assert spec.data["houses"].key == ()
    assert spec.model.features == ("colour", "size", "flag")
    code = functions(tmp_path / "pipeline.py")
    train, holdout = code.split(pd.read_csv(tmp_path / "houses.csv"))
    fitted = code.model(train)
    assert r2_score(holdout["y"], fitted.predict(holdout[code.FEATURES])) > 0.6


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl", "tsv"])
def test_months_of_any_format_become_one_data_set_with_key_time_and_a_binary_task(tmp_path, suffix):
    (tmp_path / "data").mkdir()
    for month in (1, 2):
        frame = rows(300, month).with_columns(
            pl.int_range(month * 1000, month * 1000 + 300).alias("order_id"),
            pl.datetime_range(
                pl.datetime(2026, month, 1), pl.datetime(2026, month, 26), "2h", eager=True
            ).head(300).alias("ordered_at"),
            (pl.col("y") > 0.5).alias("late"),
        ).drop("y")  # fmt: skip
        path = tmp_path / "data" / f"orders-2026-0{month}.{suffix}"
        if suffix == "parquet":
            frame.write_parquet(path)
        elif suffix == "jsonl":
            frame.with_columns(pl.col("ordered_at").dt.to_string()).write_ndjson(path)
        else:
            frame.write_csv(path, separator="\t" if suffix == "tsv" else ",")
    rows(5).write_csv(tmp_path / "data" / "orders-old.csv")
    guesses = adopted(tmp_path)
    spec = load(tmp_path / "treadle.yaml")
    assert list(spec.data) == ["orders"]
    section = spec.data["orders"]
    assert len(list(tmp_path.glob(section.files))) == 2
    assert section.key == ("order_id",)
    assert (guesses["label"], guesses["task"]) == ("late", "binary")
    if suffix != "jsonl":
        assert section.event_time == "ordered_at"
        assert spec.test.blocks == "1d"
    assert set(spec.model.features) == {"colour", "size", "flag"}


def test_a_multiclass_text_label_works(tmp_path):
    frame = rows(300).with_columns(
        pl.when(pl.col("size") > 0.5).then(pl.lit("a")).when(pl.col("size") < -0.5).then(pl.lit("b"))
        .otherwise(pl.lit("c")).alias("species")
    ).drop("y")  # fmt: skip
    frame.write_csv(tmp_path / "iris.csv")
    guesses = adopted(tmp_path)
    assert (guesses["label"], guesses["task"]) == ("species", "multiclass")
    load(tmp_path / "treadle.yaml")
    code = functions(tmp_path / "pipeline.py")
    train, holdout = code.split(pd.read_csv(tmp_path / "iris.csv"))
    assert (code.model(train).predict(holdout[code.FEATURES]) == holdout["species"]).mean() > 0.8


def test_a_column_that_tells_the_label_alone_is_taken_for_known_later(tmp_path):
    frame = rows(300).with_columns((pl.col("y") > 0.5).cast(pl.Int8).alias("late"))
    frame.write_csv(tmp_path / "d.csv")
    guesses = adopted(tmp_path)
    assert guesses["label"] == "y"  # by its name; then `late` is a feature
    frame.rename({"y": "delay_minutes"}).write_csv(tmp_path / "d.csv")
    (tmp_path / "treadle.yaml").unlink()
    (tmp_path / "pipeline.py").unlink()
    assert adopted(tmp_path)["known_later"] == ["delay_minutes"]
    spec = load(tmp_path / "treadle.yaml")
    assert "delay_minutes" not in spec.model.features


def test_the_example_without_its_spec_is_recognised(tmp_path):
    (tmp_path / "pipeline.py").write_text((FLIGHTS / "pipeline.py").read_text())
    (tmp_path / "data").mkdir()
    for file in (FLIGHTS / "data").glob("*.parquet"):
        (tmp_path / "data" / file.name).symlink_to(file)
    before = (tmp_path / "pipeline.py").read_text()
    guesses = adopted(tmp_path)
    assert guesses["data.flights"] == "data/flights-*.parquet"
    assert guesses["event_time"] == "sched_dep"
    assert "arr_delay" in guesses["known_later"]
    assert guesses["features"] == list(functions(tmp_path / "pipeline.py").FEATURES)
    assert guesses["label"] == "late"
    assert guesses["model"] == "model"
    assert guesses["holdout"] == "holdout"
    assert (tmp_path / "pipeline.py").read_text() == before
    assert list(load(tmp_path / "treadle.yaml").data) == ["flights"]


def test_the_data_set_takes_the_name_that_the_pipeline_asks_for(tmp_path):
    rows(200).write_csv(tmp_path / "export.csv")
    (tmp_path / "train.py").write_text(
        "TARGET = 'y'\n"
        "def clean(df):\n    return df\n"
        "def test(clean):\n    return clean\n"
        "def fit(clean, depth=3) -> 'RandomForestRegressor':\n    ...\n"
        "if __name__ == '__main__':\n    fit(clean(None))\n"
    )
    adopted(tmp_path)
    spec = load(tmp_path / "treadle.yaml")
    assert spec.pipeline == "train.py"
    assert spec.data["df"].files == "export.csv"
    assert (spec.model.result, spec.test.holdout, spec.model.label) == ("fit", "test", "y")
    assert not (tmp_path / "pipeline.py").exists()


def test_a_script_that_acts_when_imported_is_not_taken_and_said_so(tmp_path):
    rows(200).write_csv(tmp_path / "export.csv")
    (tmp_path / "train.py").write_text("def model(df):\n    ...\nprint(model(None))\n")
    proposal = detect(tmp_path)
    assert "pipeline.py" in write(proposal)
    assert any("acts when it is imported" in guess.reason for guess in proposal.guesses)


def test_a_pipeline_with_a_syntax_error_is_kept_and_named(tmp_path):
    (tmp_path / "pipeline.py").write_text("def model(:\n")
    proposal = detect(tmp_path)
    assert "pipeline.py" not in write(proposal)
    assert any("cannot be read" in guess.reason for guess in proposal.guesses)


def test_an_existing_project_is_left_alone(tmp_path):
    for name, text in write(detect(tmp_path)).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    proposal = detect(tmp_path)
    assert proposal.kind == "existing"
    assert write(proposal) == {}
    (tmp_path / "treadle.yaml").write_text("projet: x")
    with pytest.raises(SpecError, match="nothing is proposed"):
        detect(tmp_path)


def test_gitignore_is_made_or_its_line_proposed(tmp_path):
    assert ".treadle/" in write(detect(tmp_path))[".gitignore"]
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    proposal = detect(tmp_path)
    assert ".gitignore" not in write(proposal)
    assert proposal.appends == {".gitignore": ".treadle/"}
    (tmp_path / ".gitignore").write_text("*.pyc\n/.treadle\n")
    assert detect(tmp_path).appends == {}


def test_a_database_is_looked_into_where_that_is_possible(tmp_path):
    import sqlite3

    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE small (a)")
        connection.execute('CREATE TABLE "my orders" (order_id INTEGER, size REAL, y REAL)')
        connection.executemany(
            'INSERT INTO "my orders" VALUES (?, ?, ?)', [(n, n % 7, n * 1.5) for n in range(100)]
        )
    connection.close()

    def query(url: str, sql: str) -> pl.DataFrame:
        assert url == "sqlite:///shop.db"
        with sqlite3.connect(tmp_path / "shop.db") as opened:
            cursor = opened.execute(sql)
            names = [column[0] for column in cursor.description]
            return pl.DataFrame(cursor.fetchall(), schema=names, orient="row")

    adopted(tmp_path, query=query)
    section = load(tmp_path / "treadle.yaml").data["my_orders"]
    assert section.query == 'SELECT * FROM "my orders"'
    assert section.database == "sqlite:///shop.db"
    assert section.key == ("order_id",)


def test_files_that_cannot_be_read_still_give_a_spec(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"nonsense")
    adopted(tmp_path)
    assert load(tmp_path / "treadle.yaml").model.label == "label"


def test_a_virtual_environment_and_hidden_folders_are_no_data(tmp_path):
    for folder in (".treadle", "env", "node_modules"):
        (tmp_path / folder).mkdir()
        rows(3).write_csv(tmp_path / folder / "x.csv")
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    assert detect(tmp_path).kind == "sample"


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_a_workflow_is_short_parses_and_runs_the_three_commands(service):
    path, text = ci_workflow(service, "flights", "production")
    assert len(text.splitlines()) <= 40
    found = YAML(typ="safe", pure=True).load(text)
    assert path == {"github": ".github/workflows/treadle.yml", "gitlab": ".gitlab-ci.yml"}[service]
    if service == "github":
        check = [step.get("run") for step in found["jobs"]["check"]["steps"]]
        release = [step.get("run") for step in found["jobs"]["release"]["steps"]]
        assert found["jobs"]["release"]["steps"][0]["with"] == {"clean": False}
    else:
        check, release = found["check"]["script"], found["release"]["script"]
        assert "-x" not in found["release"]["variables"]["GIT_CLEAN_FLAGS"]
    assert check[-2:] == ["treadle plan", "treadle train"]
    assert release[-1] == "treadle up --env production --existing"
    assert "PROJECT" not in text


def test_an_unknown_service_is_a_usage_error():
    with pytest.raises(UsageError, match="jenkins"):
        ci_workflow("jenkins", "x")


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"))))
def test_any_text_is_itself_again_behind_yaml(text):
    assert YAML(typ="safe", pure=True).load(f"a: [{scalar(text)}, x]\n")["a"][0] == text


NAMES = st.sampled_from(
    ["id", "y", "a b", "no", "null", "1", "x:y", "#", "été", "'", "class", "ts", "late", "- a"]
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        NAMES,
        st.sampled_from([
            [1, 2, 3, 4], [0, 1, 0, 1], [0.5, None, 2.5, 1.0], ["a", "b", "c", "c"], [True, False, None, True],
            [None, None, None, None], ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"],
        ]),
        min_size=1, max_size=5,
    ),
    st.sampled_from([0, 1, 20]),
)  # fmt: skip
def test_any_small_table_gives_a_spec_that_loads_and_code_that_parses(tmp_path, columns, times):
    for old in tmp_path.iterdir():
        old.unlink()
    pl.DataFrame({k: v * times for k, v in columns.items()}).write_csv(tmp_path / "t.csv")
    texts = write(detect(tmp_path))
    (tmp_path / "treadle.yaml").write_text(texts["treadle.yaml"])
    load(tmp_path / "treadle.yaml")
    compile(texts["pipeline.py"], "pipeline.py", "exec")
