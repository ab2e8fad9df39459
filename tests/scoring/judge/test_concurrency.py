import asyncio

import pytest

from nbench.scoring.judge.concurrency import AdaptiveLimit


def test_slots_are_bounded_and_given_first_come_first_served() -> None:
    order: list[int] = []

    async def work(limit: AdaptiveLimit, number: int) -> None:
        await limit.acquire()
        order.append(number)
        await asyncio.sleep(0.001)
        limit.release()

    async def main() -> AdaptiveLimit:
        limit = AdaptiveLimit(start=3, most=3)
        await asyncio.gather(*(work(limit, number) for number in range(20)))
        return limit

    limit = asyncio.run(main())
    assert order == list(range(20))
    assert limit.peak == 3
    assert limit.under_way == 0


def test_a_round_of_answers_gives_one_more_slot_up_to_the_most() -> None:
    limit = AdaptiveLimit(start=4, most=6)
    for _ in range(5):
        limit.answered()
    assert limit.limit == 5
    for _ in range(100):
        limit.answered()
    assert limit.limit == 6


def test_an_overload_halves_once_per_round_and_leaves_one_slot() -> None:
    limit = AdaptiveLimit(start=16, most=16)
    now = limit.overloaded(0)
    assert limit.limit == 8
    assert limit.overloaded(0) == now  # a request of the same round that fails too
    assert limit.limit == 8
    for _ in range(10):
        now = limit.overloaded(now)
    assert limit.limit == 1


def test_a_cancelled_wait_loses_no_slot() -> None:
    async def main() -> None:
        limit = AdaptiveLimit(start=1, most=1)
        await limit.acquire()
        first, second = (asyncio.create_task(limit.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        limit.release()  # gives the slot to the first, which is cancelled before it runs
        first.cancel()
        await asyncio.wait_for(second, 1)
        assert first.cancelled()
        limit.release()
        await asyncio.wait_for(limit.acquire(), 1)

    asyncio.run(main())


@pytest.mark.parametrize(("start", "most"), [(0, 4), (5, 4)])
def test_bounds_that_make_no_sense_are_refused(start: int, most: int) -> None:
    with pytest.raises(ValueError, match="1 <= start <= most"):
        AdaptiveLimit(start, most)
