from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.plan.schedule import Schedule, due, next_time, parse


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_time_of_day_is_every_day_in_utc_unless_a_zone_is_named():
    assert parse("05:00") == Schedule("0 5 * * *", "UTC")
    assert parse("5:30 Europe/Berlin") == Schedule("30 5 * * *", "Europe/Berlin")
    assert next_time("05:00 Europe/Berlin", utc("2026-07-01T00:00")) == utc("2026-07-01T03:00")
    assert next_time("05:00 Europe/Berlin", utc("2026-12-01T00:00")) == utc("2026-12-01T04:00")


def test_cron_fields_with_names_and_a_zone():
    assert next_time("15 6 * * MON America/New_York", utc("2026-11-22T00:00")) == utc(
        "2026-11-23T11:15"
    )


def test_the_hour_that_summer_time_skips_still_runs_that_day_and_the_repeated_one_runs_once():
    skipped = next_time("30 2 * * * Europe/Berlin", utc("2026-03-28T12:00"))
    assert utc("2026-03-29T00:30") <= skipped <= utc("2026-03-29T01:30")
    first = next_time("30 2 * * * Europe/Berlin", utc("2026-10-24T12:00"))
    second = next_time("30 2 * * * Europe/Berlin", first)
    assert second - first > timedelta(hours=20)


@pytest.mark.parametrize(
    ("at", "word"),
    [
        ("", "five cron fields"),
        ("25:00", "no time of day"),
        ("05:60", "no time of day"),
        ("5", "no time"),
        ("* * * *", "no time"),
        ("0 0 30 2 *", "day-of-month"),
        ("61 * * * *", "minute"),
        ("05:00 Berlin", "Europe/Berlin"),
        ("05:00 Europe/Berln", "Europe/Berlin"),
        ("05:00 Europe", "no time zone"),
        ("05:00 ../../etc/passwd", "no time zone"),
        ("05:00 Europe/Berlin please", "one time zone"),
        ("0 0 5 * * *", "no time zone"),
    ],
)
def test_a_wrong_time_is_a_value_error_that_says_why(at, word):
    with pytest.raises(ValueError) as error:
        parse(at)
    assert word.lower() in str(error.value).lower()


def test_due_counts_missed_moments_as_one_and_what_never_ran_is_due():
    now = utc("2026-11-22T12:00")
    assert due("05:00", None, now)
    assert not due("05:00", utc("2026-11-22T05:00"), now)
    assert due("05:00", utc("2026-11-15T05:00"), now)
    assert not due("05:00", now, now)
    assert due("12:00", utc("2026-11-22T11:59:59"), now)


@given(
    st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2040, 1, 1)),
    st.sampled_from(
        ["05:00", "*/7 * * * *", "30 2 * * * Europe/Berlin", "0 0 29 2 *", "0 9 L * *"]
    ),
)
def test_the_next_moment_is_later_and_nothing_lies_between(moment, at):
    after = moment.replace(tzinfo=UTC)
    found = next_time(at, after)
    assert found > after
    assert not due(at, after, found - timedelta(microseconds=1))
    assert due(at, after, found)


@given(st.text(max_size=30))
def test_any_text_is_a_schedule_or_a_value_error(text):
    try:
        parse(text)
    except ValueError:
        pass
