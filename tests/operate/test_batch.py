"""Batching waits for nobody, splits exactly, and lets a bad query fail alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.operate.batch import Batcher, Job, Nobody, Overloaded, TooLate
from treadle.operate.limits import Limits


@dataclass(frozen=True)
class Work:
    """Some numbers to double; a negative one fails."""

    values: tuple[int, ...]
    key: Any = "k"

    @property
    def rows(self) -> int:
        return len(self.values)


class Model:
    """Doubles every value; records its calls and the threads they were on."""

    def __init__(self, sleep_s: float = 0.0) -> None:
        self.calls: list[list[Work]] = []
        self.threads: set[int] = set()
        self.sleep_s = sleep_s

    def __call__(self, works: list[Work]) -> list[int]:
        self.calls.append(works)
        self.threads.add(threading.get_ident())
        time.sleep(self.sleep_s)
        if any(value < 0 for work in works for value in work.values):
            raise ValueError("a negative value")
        return [2 * value for work in works for value in work.values]


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 30))


def seen(job: Job[Work, list[int]]) -> list[int] | Exception:
    if job.value is None:
        assert job.error is not None
        return job.error
    return job.value[job.start : job.stop]


async def ask(batcher: Batcher[Work, list[int]], *works: Work) -> list[list[int] | Exception]:
    """Submit all at once and wait for the answers, in the order of the works."""
    loop = asyncio.get_running_loop()
    waits = []
    for work in works:
        future = loop.create_future()
        waits.append(future)

        def done(job: Job[Work, list[int]], future: Any = future) -> None:
            assert not future.done(), "answered twice"
            future.set_result(seen(job))

        batcher.submit(work, done)
    return await asyncio.gather(*waits)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            Work,
            st.lists(st.integers(-1, 9), min_size=1, max_size=5).map(tuple),
            st.sampled_from(["a", "b"]),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 40),
)
def test_every_query_gets_its_own_rows_whatever_its_neighbours(
    works: list[Work], most: int
) -> None:
    async def body() -> None:
        model = Model()
        batcher = Batcher(model, Limits(max_batch_rows=most))
        answers = await ask(batcher, *works)
        for work, answer in zip(works, answers, strict=True):
            if min(work.values) < 0:
                assert isinstance(answer, ValueError)
            else:
                assert answer == [2 * value for value in work.values]
        for call in model.calls:
            assert len({work.key for work in call}) == 1
            assert len(call) == 1 or sum(work.rows for work in call) <= most
        assert batcher.waiting == batcher.waiting_rows == 0 and not batcher.busy
        batcher.close()

    run(body)


def test_what_comes_during_a_call_shares_the_next_one() -> None:
    async def body() -> None:
        model = Model(sleep_s=0.1)
        batcher = Batcher(model, Limits())
        first = asyncio.ensure_future(ask(batcher, Work((0,))))
        await asyncio.sleep(0.03)
        others = [asyncio.ensure_future(ask(batcher, Work((n,)))) for n in range(1, 20)]
        assert await asyncio.gather(first, *others) == [[[2 * n]] for n in range(20)]
        assert [len(call) for call in model.calls] == [1, 19]
        batcher.close()

    run(body)


def test_a_long_call_leaves_the_loop_free_and_a_short_one_stays_on_it() -> None:
    async def body() -> None:
        model = Model()
        batcher = Batcher(model, Limits())
        for number in range(50):
            await ask(batcher, Work((number,)))
        assert threading.get_ident() in model.threads  # known to be short by now
        model.sleep_s, model.threads = 0.2, set()
        for number in range(15):  # the first is a surprise, then it is expected to be long
            await ask(batcher, Work((number,)))
            if len(model.threads) > 1:
                break
        assert threading.get_ident() in model.threads and len(model.threads) == 2
        turns = 0
        asked = asyncio.ensure_future(ask(batcher, Work((1,))))
        while not asked.done():
            turns += 1
            await asyncio.sleep(0.005)
        assert turns > 5
        batcher.close()

    run(body)


def test_a_client_that_left_is_dropped_from_the_queue() -> None:
    async def body() -> None:
        model = Model(sleep_s=0.05)
        batcher = Batcher(model, Limits())
        asked = asyncio.ensure_future(ask(batcher, Work((1,))))
        await asyncio.sleep(0.01)
        told: list[Any] = []
        batcher.submit(Work((2,)), told.append).cancel()
        assert await asked == [[2]] and await ask(batcher, Work((3,))) == [[6]]
        assert told == [] and [w.values for call in model.calls for w in call] == [(1,), (3,)]
        batcher.close()

    run(body)


def test_a_full_queue_refuses_and_recovers() -> None:
    async def body() -> None:
        shed: list[str] = []

        class Watch(Nobody):
            def shed(self, reason: str) -> None:
                shed.append(reason)

        model = Model(sleep_s=0.05)
        batcher = Batcher(model, Limits(max_queue_requests=3, max_queue_rows=4), Watch())
        running = asyncio.ensure_future(ask(batcher, Work((1,))))
        await asyncio.sleep(0.01)
        waiting = [asyncio.ensure_future(ask(batcher, Work((n,)))) for n in (2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await ask(batcher, Work((4, 4, 4)))
        waiting.append(asyncio.ensure_future(ask(batcher, Work((5,)))))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await ask(batcher, Work((6,)))
        assert await asyncio.gather(running, *waiting) == [[[2]], [[4]], [[6]], [[10]]]
        assert await ask(batcher, Work((7,) * 9)) == [[14] * 9]  # alone it may be larger than all
        assert shed == ["queue_rows", "queue_requests"]
        batcher.close()

    run(body)


def test_what_is_too_late_is_said_while_the_model_still_works() -> None:
    async def body() -> None:
        model = Model(sleep_s=0.6)
        batcher = Batcher(model, Limits(deadline_s=0.15))
        begun = asyncio.get_running_loop().time()
        running = asyncio.ensure_future(ask(batcher, Work((1,))))
        await asyncio.sleep(0.01)
        waiting = asyncio.ensure_future(ask(batcher, Work((2,))))
        (late,), (later,) = await asyncio.gather(running, waiting)
        assert isinstance(late, TooLate) and isinstance(later, TooLate)
        assert asyncio.get_running_loop().time() - begun < 0.6  # nobody waited for the model
        batcher.close()
        assert [w.values for call in model.calls for w in call] == [(1,)]

    run(body)


def test_who_cannot_take_an_answer_keeps_none_from_its_neighbours() -> None:
    async def body() -> None:
        batcher = Batcher(Model(), Limits())

        def broken(_job: Job[Work, list[int]]) -> None:
            raise RuntimeError("the connection is gone")

        batcher.submit(Work((1,)), broken)
        assert await ask(batcher, Work((2,)), Work((3,))) == [[4], [6]]
        assert await ask(batcher, Work((4,))) == [[8]]
        batcher.close()

    run(body)
