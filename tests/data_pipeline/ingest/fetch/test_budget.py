"""Room for large pictures: first come first, all or nothing, given back by who gives up."""

import asyncio

from data_pipeline.ingest.fetch.body import SMALL, Room
from data_pipeline.ingest.fetch.budget import Budget


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_first_come_first() -> None:
    async def run() -> None:
        budget = Budget(10)
        assert await budget.take(6) == 6
        big, small = asyncio.create_task(budget.take(8)), asyncio.create_task(budget.take(1))
        await settle()
        assert not big.done() and not small.done(), "who asks for little does not overtake"
        budget.give_back(6)
        assert await big == 8 and await small == 1
        assert budget.taken == 9

    asyncio.run(run())


def test_more_than_there_is_is_all_there_is() -> None:
    async def run() -> None:
        budget = Budget(10)
        assert await budget.take(1000) == 10

    asyncio.run(run())


def test_who_gives_up_leaves_nothing_behind() -> None:
    async def run() -> None:
        budget = Budget(10)
        await budget.take(10)
        waiting = [asyncio.create_task(budget.take(size)) for size in (9, 4, 6)]
        await settle()
        waiting[0].cancel()
        await settle()
        budget.give_back(10)
        waiting[1].cancel()  # its turn has come, but it has not run yet
        await settle()
        assert await waiting[2] == 6
        assert budget.taken == 6
        budget.give_back(6)
        assert budget.taken == 0

    asyncio.run(run())


def test_a_picture_that_grows_gives_back_what_it_held() -> None:
    """Else two that hold some and wait for more would wait for each other."""

    async def run() -> None:
        budget = Budget(4 * SMALL)
        async with asyncio.timeout(5) as clock:
            room = Room(budget, clock)
            await room.need(SMALL)
            assert budget.taken == 0, "small ones need none"
            await room.need(2 * SMALL)
            await room.need(4 * SMALL)
            assert budget.taken == 4 * SMALL
            room.release()
        assert budget.taken == 0

    asyncio.run(run())
