from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.base import clock


@given(st.datetimes(), st.integers(-14 * 60, 14 * 60))
def test_a_moment_survives_its_text(moment, minutes):
    if not datetime(1, 1, 3) < moment < datetime(9999, 12, 28):
        return
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert clock.parse(clock.text(aware)) == aware


@given(st.lists(st.datetimes(min_value=datetime(1, 1, 3)), min_size=2, max_size=5))
def test_texts_sort_like_times(moments):
    aware = [m.replace(tzinfo=UTC) for m in moments]
    assert sorted(map(clock.text, aware)) == [clock.text(m) for m in sorted(aware)]


def test_a_bare_date_is_its_midnight_in_utc():
    assert clock.parse("2013-05-01") == datetime(2013, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7d", 604800), ("1h30m", 5400), ("500ms", 0.5), ("1.5h", 5400), ("2w", 1209600), ("0s", 0)],
)
def test_durations(text, seconds):
    assert clock.duration_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "7", "d", "7 d", "-7d", "7d ", "7y", "1h,30m", "7D", "٧d", "1e3s", "7d\n"]
)
def test_what_is_no_duration_is_a_value_error(text):
    with pytest.raises(ValueError, match="no duration"):
        clock.duration_s(text)


@given(st.text(max_size=8))
def test_any_text_is_a_duration_or_a_value_error(text):
    try:
        assert clock.duration_s(text) >= 0
    except ValueError:
        pass


def test_the_replayed_clock_rules_now_and_ids(tmp_path, monkeypatch):
    path = tmp_path / "clock"
    moment = datetime(2013, 5, 1, 6, tzinfo=UTC)
    clock.set_replay(path, moment)
    monkeypatch.setenv("TREADLE_CLOCK", str(path))
    assert clock.now() == moment
    clock.set_replay(path, moment + timedelta(hours=1))
    assert clock.now() == moment + timedelta(hours=1)
    assert list(tmp_path.iterdir()) == [path]


def test_ids_increase_within_a_process_even_when_the_clock_goes_back(tmp_path, monkeypatch):
    path = tmp_path / "clock"
    monkeypatch.setenv("TREADLE_CLOCK", str(path))
    made = []
    for year in (2013, 2013, 2012, 2030):
        clock.set_replay(path, datetime(year, 5, 1, tzinfo=UTC))
        made += [clock.ulid() for _ in range(50)]
    assert made == sorted(set(made))
    assert all(len(item) == 26 and not set(item) & set("ILOU") for item in made)


def test_ids_of_many_threads_are_all_different():
    made: list[str] = []

    def work() -> None:
        made.extend([clock.ulid() for _ in range(500)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 4000


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=300))
def test_ids_taken_in_bulk_are_never_given_twice(steps):
    several = [clock.Ulids() for _ in range(3)]
    ids, last = [], ["", "", ""]
    for which, refresh in steps:
        if which == 3:
            ids.append(clock.ulid())
            continue
        if refresh:
            several[which].refresh()
        if len(ids) % 3:
            ids.append(several[which].take())
        else:
            ids += [one.decode()[2:] for one in several[which].several("p.", 3)]
        assert last[which] < ids[-1]
        last[which] = ids[-1]
    assert len(set(ids)) == len(ids) and all(len(one) == 26 for one in ids)


def test_a_moment_that_is_used_up_begins_another():
    many = clock.Ulids()
    many.take()
    many._next = many._end - 1
    assert many.take() < many.take()
    many._next = many._end - 1
    first, second = many.several("", 2)
    assert first < second and many.take().encode() > second


@given(st.integers(0, 5000), st.integers(1, 3000))
def test_ids_in_bulk_are_those_that_are_taken_one_by_one(begin: int, count: int) -> None:
    many = clock.Ulids()
    many.refresh()
    many._next = begin
    made = many.several("a.b.", count)
    many._next = begin
    assert made == [f"a.b.{many.take()}".encode() for _ in range(count)]
