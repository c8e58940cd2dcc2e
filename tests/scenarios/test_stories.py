"""Stories: text files of commands and what came of them, told to a whole coordinator.

    join a lends 8          node a joins, says where it is, and beats; it will hold whatever it is told to
    beat a                  node a beats once and takes the answer to heart
    restart a               node a's process dies; its next beat is another life's
    mute a                  node a stops beating while requests are under way
    POST /path {...}        a request; lenders that are not muted beat, and time passes, while it is under way
    wait 11000              time passes, and the timers look
    reopen                  the coordinator is stopped and another begins on its journal

`pytest tests/scenarios --rewrite` writes down what came of them now; the difference is a claim to be argued.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.worlds import Door, Lender, coordinator_door
from weft.ledger import MemoryJournal

STORIES = sorted((Path(__file__).parent / "stories").glob("*.txt"))


class KeptJournal(MemoryJournal):
    """A journal that outlives its coordinator."""

    async def close(self) -> None:
        pass


class Teller:
    """Carries out the lines of a story, one after the other."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.lenders: dict[str, Lender] = {}
        self.muted: set[str] = set()

    async def tell(self, line: str) -> list[str]:
        verb, *words = line.split(maxsplit=2)
        if verb.isupper():
            return await self.request(verb, words[0], words[1] if len(words) > 1 else None)
        if verb == "join":
            return await self.join(words[0], words[1])
        if verb == "wait":
            return await self.wait(words[0])
        return await self.of_lender(verb, words[0])

    async def join(self, name: str, rest: str) -> list[str]:
        self.lenders[name] = Lender(self.door, name, lend_stripes=int(rest.removeprefix("lends ")))
        await self.lenders[name].join()
        return []

    async def of_lender(self, verb: str, name: str) -> list[str]:
        if verb == "beat":
            return await self.beat(name)
        assert verb in ("restart", "mute"), f"no story knows how to {verb}"
        if verb == "restart":
            self.lenders[name].restart()
        else:
            self.muted.add(name)
        return []

    async def beat(self, name: str) -> list[str]:
        lender = self.lenders[name]
        answer = await self.door("POST", f"/nodes/{name}/beat", lender.body())
        if answer.status_code != 200:
            return [show(answer.status_code, answer.json())]
        reply = answer.json()
        lender.generation, lender.extents = reply["generation"], reply["extents"]
        held = [
            f"{one['name']}[{one['index']}] {one['size_bytes'] >> 20} MiB from {one['generation']}"
            for one in lender.extents
        ]
        return [f"holds {', '.join(held) or 'nothing'}"]

    async def wait(self, ms: str) -> list[str]:
        await self.door.pass_time(int(ms))
        await self.door.coordinator.sweep.look()
        return []

    async def request(self, method: str, path: str, body: str | None) -> list[str]:
        speaking = [lender for name, lender in self.lenders.items() if name not in self.muted]
        content = body.encode() if body is not None else None
        answer = await self.door.during(self.door(method, path, content), *speaking)
        return [show(answer.status_code, answer.json())]


def show(status: int, body: Any) -> str:
    """An answer on one line. Grants are left out and layouts drawn, or nobody would read it."""
    return f"{status} {json.dumps(condense(body), ensure_ascii=False)}"


def condense(body: Any) -> Any:
    if isinstance(body, list):
        return [condense(one) for one in body]
    if not isinstance(body, dict):
        return body
    shown = {name: condense(value) for name, value in body.items()}
    if "grant" in body:
        shown["grant"] = "…"
    if "layout" in body:
        shown["layout"] = draw(body["layout"])
    return shown


def draw(layout: Any) -> str:
    """A layout as "stripes 0-3 over a b, 4-4 over a"."""
    bands = [
        f"{band['first_stripe']}-{band['first_stripe'] + band['stripes'] - 1} over "
        + " ".join(extent["replicas"][0]["node_id"] for extent in band["extents"])
        for band in layout["bands"]
    ]
    return f"stripes {', '.join(bands)}"


async def tell(story: str) -> str:
    """The story with what came of each of its lines."""
    introduction, _, script = story.partition("\n\n")
    commands = [line.removeprefix("> ") for line in script.splitlines() if line.startswith("> ")]
    told = [introduction]
    journal = KeptJournal()
    lenders: dict[str, Lender] = {}
    while commands:
        async with coordinator_door(journal) as door:
            teller = Teller(door)
            for lender in lenders.values():
                lender.door = door
            teller.lenders = lenders
            while commands:
                line = commands.pop(0)
                outcome = [] if line == "reopen" else await teller.tell(line)
                told.append("\n".join([f"> {line}", *outcome]))
                if line == "reopen":
                    break
    return "\n\n".join(told) + "\n"


@pytest.mark.parametrize("path", STORIES, ids=[path.stem for path in STORIES])
def test_the_story_goes_as_it_is_written(path: Path, request: pytest.FixtureRequest) -> None:
    story = path.read_text()
    told = asyncio.run(tell(story))
    if request.config.getoption("--rewrite"):
        path.write_text(told)
    else:
        assert told == story
