from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from treadle.base.errors import UsageError
from treadle.base.records import GateResult, Verdict
from treadle.base.spec import GateSection, ModelSection, TestSection
from treadle.test.judge import JudgeInput, judge, key

TEST = TestSection(
    blocks="1d",
    gates=(
        GateSection("roc_auc", at_least=0.62),
        GateSection("log_loss", versus="champion", margin=0.005),
    ),
)


def world(days: int = 60, rows: int = 100, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training rows and a later holdout of 14 days; `x` and `z` carry signal."""
    rng = np.random.default_rng(seed)
    n = days * rows
    time = pd.Timestamp("2013-01-01") + pd.to_timedelta(np.arange(n) // rows, unit="D")
    frame = pd.DataFrame(
        {
            "id": np.arange(n),
            "time": time,
            "x": rng.normal(size=n),
            "z": rng.normal(size=n),
            "carrier": rng.choice(["AA", "UA"], n),
        }
    )
    logit = 1.2 * frame["x"] + 0.5 * frame["z"] - 1
    frame["late"] = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype("float64")
    frame["delay"] = 20 * frame["late"] + rng.normal(size=n)
    cut = pd.Timestamp("2013-01-01") + pd.Timedelta(days=days - 14)
    return frame[frame["time"] < cut], frame[frame["time"] >= cut].reset_index(drop=True)


def good(frame: pd.DataFrame) -> np.ndarray:
    p = 1 / (1 + np.exp(-(1.2 * frame["x"] + 0.5 * frame["z"] - 1).to_numpy()))
    return np.stack([1 - p, p], axis=1)


def fair(frame: pd.DataFrame) -> np.ndarray:
    p = 1 / (1 + np.exp(-(1.2 * frame["x"] - 1).to_numpy()))
    return np.stack([1 - p, p], axis=1)


def blind(frame: pd.DataFrame) -> np.ndarray:
    p = np.random.default_rng(9).random(len(frame))
    return np.stack([1 - p, p], axis=1)


def given(**changes: Any) -> JudgeInput:
    train, holdout = world()
    base = JudgeInput(
        test=TEST,
        model=ModelSection("model", "binary", "late"),
        holdout=holdout,
        predict=good,
        features=("x", "z"),
        classes=(0, 1),
        train=train,
        key=("id",),
        event_time="time",
        known_later=("delay",),
        model_digest="sha256:m",
        holdout_digest="sha256:h",
    )
    return dataclasses.replace(base, **changes)


def gate(verdict: Verdict, name: str) -> GateResult:
    return next(g for g in verdict.gates if g.gate.startswith(name))


def test_a_good_first_model_passes_with_all_its_numbers() -> None:
    verdict = judge(given())
    assert verdict.outcome == "pass", verdict.gates
    assert [g.gate for g in verdict.gates] == [
        "time_order",
        "leak",
        "baseline",
        "roc_auc at_least 0.62",
        "log_loss versus champion",
    ]
    assert gate(verdict, "log_loss versus").text.startswith("no champion yet")
    area = gate(verdict, "roc_auc")
    assert area.low < area.value < area.high
    assert "14 blocks of 1d" in area.text
    assert (verdict.rows, verdict.blocks, verdict.unlabelled) == (1400, 14, 0)
    assert verdict.metrics["roc_auc"] == pytest.approx(area.value)


def test_equal_inputs_give_an_equal_verdict() -> None:
    assert judge(given(predict_champion=fair)).digest == judge(given(predict_champion=fair)).digest


def test_a_much_worse_challenger_is_refused_and_a_better_one_passes() -> None:
    better = judge(given(predict_champion=fair, champion_name="release 3"))
    assert gate(better, "log_loss versus").outcome == "pass"
    assert "release 3: better by" in gate(better, "log_loss versus").text
    worse = judge(given(predict=blind, predict_champion=good))
    assert worse.outcome == "refuse"
    assert gate(worse, "log_loss versus").outcome == "refuse"
    assert gate(worse, "roc_auc").outcome == "refuse"


def test_what_the_days_do_not_tell_is_undecided_with_the_blocks_that_would() -> None:
    def nearly(frame: pd.DataFrame) -> np.ndarray:
        noise = np.random.default_rng(1).normal(size=len(frame)) * 0.2
        p = 1 / (1 + np.exp(-(1.2 * frame["x"] + 0.5 * frame["z"] - 1).to_numpy() - noise))
        return np.stack([1 - p, p], axis=1)

    spec = TestSection(
        blocks="1d", gates=(GateSection("log_loss", versus="champion", margin=0.003),)
    )
    verdict = judge(given(test=spec, predict=nearly, predict_champion=good))
    answer = gate(verdict, "log_loss versus")
    assert verdict.outcome == answer.outcome == "undecided"
    assert answer.low < -0.003 < answer.high
    assert verdict.blocks_needed is not None
    assert verdict.blocks_needed > 14
    assert f"about {verdict.blocks_needed} blocks would decide" in answer.text


def test_a_model_that_knows_nothing_does_not_beat_a_constant() -> None:
    verdict = judge(given(predict=blind, test=TestSection(blocks="1d")))
    assert gate(verdict, "baseline").outcome == "refuse"
    assert "no better than a constant" in gate(verdict, "baseline").text
    assert "constant rate 0.3" in gate(verdict, "baseline").text


def test_a_column_known_later_is_refused_by_name() -> None:
    verdict = judge(given(features=("x", "z", "delay")))
    assert verdict.outcome == "refuse"
    assert "learns from delay" in gate(verdict, "leak").text


def test_a_copy_of_the_label_waits_for_a_person_by_name_though_nobody_declared_it() -> None:
    verdict = judge(given(features=("x", "z", "delay"), known_later=()))
    assert gate(verdict, "leak").outcome == "undecided"
    assert gate(verdict, "leak").text.startswith("delay alone predicts the label")


def test_an_identifier_that_is_unique_in_each_row_is_no_leak() -> None:
    verdict = judge(given(features=("x", "z", "id", "carrier")))
    assert gate(verdict, "leak").outcome == "pass"
    assert gate(verdict, "leak").text.endswith("0.98 is suspicious)")


def test_rows_without_a_label_are_counted_and_not_judged() -> None:
    train, holdout = world()
    holdout.loc[::10, "late"] = np.nan
    verdict = judge(given(holdout=holdout))
    assert (verdict.rows, verdict.unlabelled) == (1260, 140)
    assert verdict.outcome == "pass"


def test_a_holdout_without_any_label_refuses() -> None:
    _, holdout = world()
    verdict = judge(given(holdout=holdout.assign(late=np.nan)))
    assert verdict.outcome == "refuse"
    assert verdict.gates[0].text == "no row of the holdout has a late (1400 rows without)"


def test_an_empty_holdout_refuses() -> None:
    _, holdout = world()
    assert judge(given(holdout=holdout.head(0))).outcome == "refuse"


def test_one_class_decides_nothing() -> None:
    _, holdout = world()
    verdict = judge(given(holdout=holdout.assign(late=0)))
    assert verdict.outcome == "undecided"
    assert "every row of the holdout has the late 0" in verdict.gates[0].text


def test_a_class_that_the_model_never_saw_is_named() -> None:
    _, holdout = world()
    holdout.loc[3, "late"] = 7
    assert "does not know: 7" in judge(given(holdout=holdout)).gates[0].text


def test_training_rows_from_the_time_of_the_holdout_are_refused() -> None:
    train, holdout = world()
    late = holdout.head(50).assign(id=lambda f: f["id"] + 10**6)
    verdict = judge(given(train=pd.concat([train, late])))
    assert gate(verdict, "time_order").outcome == "refuse"
    assert (
        "go up to 2013-02-16, but the holdout begins 2013-02-16" in gate(verdict, "time_order").text
    )


def test_rows_in_both_parts_are_refused() -> None:
    train, holdout = world()
    both = pd.concat([train, holdout.head(5).assign(time=train["time"].min())])
    verdict = judge(given(train=both))
    assert gate(verdict, "time_order").text.startswith(
        "5 rows of the holdout are also training rows"
    )


def test_without_times_and_keys_there_is_nothing_to_check() -> None:
    verdict = judge(given(event_time=None, key=()))
    assert gate(verdict, "time_order").outcome == "pass"
    assert "1400 rows taken as independent" in gate(verdict, "roc_auc").text


def test_few_blocks_leave_the_comparison_undecided() -> None:
    spec = dataclasses.replace(TEST, blocks="7d")
    verdict = judge(given(test=spec, predict_champion=fair))
    assert verdict.outcome == "undecided"
    assert "blocks are too few to tell, 6 are needed" in gate(verdict, "log_loss versus").text
    assert gate(verdict, "roc_auc").outcome == "pass"
    assert verdict.blocks_needed == 6


def test_attempts_on_one_holdout_are_shown() -> None:
    verdict = judge(given(attempts=3))
    assert verdict.attempts == 3
    assert gate(verdict, "attempts").text.startswith("3 different models were judged")
    assert verdict.outcome == "pass"


def test_a_model_that_gives_no_numbers_is_refused_in_words() -> None:
    def holes(frame: pd.DataFrame) -> np.ndarray:
        return np.where(np.arange(len(frame)) < 3, math.nan, 0.5)

    verdict = judge(given(predict=holes))
    assert verdict.gates[0].text == "the model gave no number for 3 of 1400 rows (NaN or infinite)"
    assert verdict.outcome == "refuse"


def test_a_model_that_fails_is_refused_in_words() -> None:
    def fails(frame: pd.DataFrame) -> np.ndarray:
        raise KeyError("temp")

    assert (
        "cannot predict the holdout: KeyError: 'temp'" in judge(given(predict=fails)).gates[0].text
    )


def test_a_champion_that_cannot_be_asked_leaves_the_comparison_undecided() -> None:
    verdict = judge(
        given(predict_champion=fair, champion_features=("x", "gone"), champion_name="release 2")
    )
    assert verdict.outcome == "undecided"
    assert gate(verdict, "log_loss versus").text == "release 2 needs gone, which the holdout lacks"


def test_a_missing_column_of_the_holdout_is_refused_by_name() -> None:
    assert judge(given(features=("x", "wind"))).gates[0].text == "the holdout has no column wind"


def test_polars_frames_give_the_same_verdict() -> None:
    train, holdout = world()
    other = given(
        train=pl.from_pandas(train), holdout=pl.from_pandas(holdout), predict_champion=fair
    )
    assert judge(other) == judge(given(predict_champion=fair))


def test_one_probability_or_two_make_no_difference() -> None:
    one = judge(given(predict=lambda frame: good(frame)[:, 1]))
    assert one.metrics == pytest.approx(judge(given()).metrics)


def test_classes_alone_are_judged_by_their_own_metrics() -> None:
    def classes(frame: pd.DataFrame) -> np.ndarray:
        return (good(frame)[:, 1] > 0.5).astype(int)

    verdict = judge(given(predict=classes))
    assert "roc_auc" not in verdict.metrics
    assert gate(verdict, "roc_auc").text == (
        "roc_auc needs probabilities, and the model gives classes alone"
    )
    floors = TestSection(blocks="1d", gates=(GateSection("accuracy", at_least=0.6),))
    assert judge(given(predict=classes, test=floors)).outcome == "pass"


def test_text_classes_and_several_of_them() -> None:
    train, holdout = world()
    names = np.array(["calm", "gale", "wind"])

    def label(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(late=names[pd.cut(frame["x"], [-9, -0.5, 0.5, 9], labels=False)])

    def predict(frame: pd.DataFrame) -> np.ndarray:
        noise = np.random.default_rng(0).normal(size=len(frame))
        bins = pd.cut(frame["x"] + noise, [-99, -0.5, 0.5, 99], labels=False)
        return np.eye(3)[bins] * 0.4 + 0.2

    spec = TestSection(blocks="1d", gates=(GateSection("f1_macro", at_least=0.3),))
    verdict = judge(
        given(
            train=label(train),
            holdout=label(holdout),
            predict=predict,
            features=("z", "x"),
            test=spec,
            model=ModelSection("model", "multiclass", "late"),
            classes=("calm", "gale", "wind"),
        )
    )
    assert gate(verdict, "baseline").outcome == "pass"
    assert gate(verdict, "f1_macro").outcome == "pass"
    assert gate(verdict, "leak").text.startswith("x alone predicts")


def test_a_regression_is_judged_against_the_training_mean() -> None:
    train, holdout = world()

    def predict(frame: pd.DataFrame) -> np.ndarray:
        return good(frame)[:, 1] * 20

    spec = TestSection(
        blocks="1d", gates=(GateSection("rmse", at_most=9.0), GateSection("mae", versus="champion"))
    )
    verdict = judge(
        given(
            predict=predict,
            model=ModelSection("model", "regression", "delay"),
            classes=(),
            test=spec,
            known_later=(),
            predict_champion=lambda f: np.zeros(len(f)),
        )
    )
    assert gate(verdict, "baseline").outcome == "pass"
    assert "(mean)" in gate(verdict, "baseline").text
    assert gate(verdict, "rmse at_most 9").outcome == "pass"
    assert set(verdict.metrics) == {"mae", "rmse", "r2", "mape", "median_absolute_error"}


def test_a_metric_of_another_task_is_a_mistake_that_lists_what_there_is() -> None:
    spec = TestSection(gates=(GateSection("roc_acu", at_least=0.5),))
    with pytest.raises(UsageError, match="no metric of the task binary") as caught:
        judge(given(test=spec))
    assert "did you mean roc_auc?" in str(caught.value.hint)


def test_a_floor_missed_within_chance_is_undecided_and_beyond_it_refused() -> None:
    value = judge(given()).metrics["roc_auc"]
    near = TestSection(blocks="1d", gates=(GateSection("roc_auc", at_least=value + 0.005),))
    verdict = judge(given(test=near))
    assert gate(verdict, "roc_auc").outcome == "undecided"
    assert verdict.blocks_needed > 14
    far = TestSection(blocks="1d", gates=(GateSection("roc_auc", at_least=value + 0.1),))
    assert gate(judge(given(test=far)), "roc_auc").outcome == "refuse"


def test_the_test_key_covers_model_champion_holdout_and_gates() -> None:
    model = ModelSection("model", "binary", "late")
    keys = {
        key("m", None, "h", TEST, model, data=[]),
        key("m", "c", "h", TEST, model, data=[]),
        key("n", None, "h", TEST, model, data=[]),
        key("m", None, "i", TEST, model, data=[]),
        key("m", None, "h", TestSection(), model, data=[]),
        key("m", None, "h", TEST, model, data=["known_later"]),
        key("m", None, "h", TEST, model, data=[], train="t"),
    }
    assert len(keys) == 7


def test_three_labels_are_no_binary_task() -> None:
    _, holdout = world()
    verdict = judge(given(holdout=holdout.assign(late=holdout["id"] % 3), classes=()))
    assert verdict.gates[0].text.startswith("late has 3 values, and a binary task has two")
