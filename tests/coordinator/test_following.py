"""A coordinator that follows: it says that it does, whom, and how far, and is not taken for one that fails."""

import asyncio
from typing import Any

from tests.worlds import coordinator_door
from weft.coordinator.app import Limits
from weft.ledger import MemoryJournal
from weft.ledger.layers import MemoryLayer
from weft.model.availability import Role
from weft.model.errors import JournalFailed

LEASE_MS = 3_600_000


class Shared(MemoryJournal):
    """Reached by two, out of reach when it is told to be; it ends with neither."""

    is_down = False

    async def close(self) -> None: ...

    async def wait(self, after: Any, ms_max: int) -> None:
        await asyncio.sleep(0.005)
        if self.is_down:
            raise JournalFailed("out of reach")


def door(journal: Shared, name: str, **settings: Any) -> Any:
    limits = Limits(sweep_ms=3_600_000, term_lease_ms=LEASE_MS)
    return coordinator_door(journal, limits, shared=journal, address=f"http://{name}", **settings)


def test_a_follower_says_that_it_is_one_whom_it_follows_and_how_far() -> None:
    async def story() -> None:
        journal = Shared()
        async with door(journal, "one") as writer, door(journal, "other") as follower:
            await writer.ok("POST", "/cluster", {"name": "c"})
            told = await writer.ok("GET", "/health")
            assert (told["status"], told["role"], told["writer"]) == ("healthy", "writer", "http://one")
            told = await follower.ok("GET", f"/health?at_least={told['position']}")
            assert (told["status"], told["role"], told["writer"]) == ("healthy (following)", "follower", "http://one")
            assert (told["position"], told["cluster_active"]) == (await journal.tail(), True)
            assert (await follower("GET", "/ready")).status_code == 503, "a command is not for it"

    asyncio.run(story())


def test_a_follower_that_hears_of_nobody_for_a_lease_says_that_it_is_not_well() -> None:
    async def story() -> None:
        journal = Shared()
        async with door(journal, "one") as writer, door(journal, "other") as follower:
            await writer.ok("POST", "/cluster", {"name": "c"})
            assert (await follower.ok("GET", "/health"))["status"] == "healthy (following)"
            journal.is_down = True
            follower.clock.advance(LEASE_MS + 1)
            told = await follower.ok("GET", "/health")
            assert (told["status"], told["role"]) == ("degraded (following)", "follower")

    asyncio.run(story())


def test_a_follower_says_nothing_of_layers_it_does_not_look_at() -> None:
    async def story() -> None:
        journal = Shared()
        async with door(journal, "one") as writer:
            layers = {Role.PRIMARY: MemoryLayer(writer.clock, writer.coordinator.writer._random)}
            async with door(journal, "other", layers=layers) as follower:
                told = await follower.ok("GET", "/health")
                assert told["status"] == "healthy (following)"
                assert (told["da_available"], told["da_health"], told["da_state"]) == (False, None, None)
                info = await follower.ok("GET", "/system/info")
                assert (info["da_status"], info["da_state"]) == ("NotWatched", None)

    asyncio.run(story())


def test_a_coordinator_that_is_stopping_takes_no_commands_and_says_so() -> None:
    async def story() -> None:
        async with door(Shared(), "one") as writer:
            writer.coordinator.writer.close()
            told = await writer.ok("GET", "/health")
            assert (told["status"], told["role"]) == ("unavailable", "stopping")

    asyncio.run(story())
