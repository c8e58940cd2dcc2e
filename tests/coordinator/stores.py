"""Nodes that keep objects, as tests play them: what they hold, what they report, what they are asked to do."""

from typing import Any

from tests.worlds import Door, Lender

ONE, OTHER = "1" * 64, "2" * 64
ROOM = 1 << 40


class StoreNode(Lender):
    """A node that keeps objects it does not have: it says what it holds, and remembers what it is asked to do."""

    def __init__(self, door: Door, node_id: str, held: tuple[str, ...] = ()) -> None:
        super().__init__(door, node_id, lend_stripes=0)
        self.held = dict.fromkeys(held)
        self.said: list[dict[str, Any]] = []
        self.inventory = 0
        self.told = 0
        self.plan = 0
        self.target: dict[str, Any] = {}

    def body(self, wait_ms: int = 0) -> dict[str, Any]:
        body = super().body(wait_ms)
        findings = list(self.said)
        if self.inventory != self.told:
            findings += [{"hash": one, "state": "held"} for one in self.held]
        body["observations"]["store"] = {
            "plan": self.plan,
            "used_bytes": 0,
            "free_bytes": ROOM,
            "inventory": self.inventory,
            "complete": self.inventory != 0,
            "findings": findings,
        }
        return body

    async def beat(self, wait_ms: int = 0) -> Any:
        inventory = self.inventory
        reply = await super().beat(wait_ms)
        self.target = reply["store"]
        self.said, self.told = [], inventory
        self.inventory, self.plan = self.target["inventory"], self.target["plan"]
        return reply

    def find(self, object_hash: str, state: str, **more: Any) -> None:
        """Something to say with the next beat."""
        self.said.append({"hash": object_hash, "state": state, **more})
        if state == "held":
            self.held[object_hash] = None
        else:
            self.held.pop(object_hash, None)

    async def ready(self) -> None:
        """Joined, and everything said that it holds."""
        await self.join()
        await self.beat()
        await self.beat()

    def copies(self) -> list[str]:
        return [copy["hash"] for copy in self.target["copies"]]


async def cluster(door: Door, *names: str, held: tuple[str, ...] = ()) -> list[StoreNode]:
    await door.ok("POST", "/cluster", {"name": "c"})
    nodes = [StoreNode(door, name, held) for name in names]
    for one in nodes:
        await one.ready()
    return nodes


async def register(door: Door, object_hash: str = ONE, **more: Any) -> None:
    await door.ok("POST", "/object/register", {"hash": object_hash, "size": 1_048_576, **more})


async def replicas(door: Door, object_hash: str = ONE) -> list[str]:
    return list((await door.ok("GET", f"/object/{object_hash}"))["replicas"])


async def rounds(door: Door, *nodes: StoreNode, count: int = 6) -> None:
    """So many beats of every node, each of which does at once what it is asked to."""
    for _ in range(count):
        for one in nodes:
            await one.beat()
            for copy in one.target["copies"]:
                one.find(copy["hash"], "held")
            for dropped in one.target["drops"]:
                one.find(dropped, "dropped")
            for checked in one.target["checks"]:
                one.find(checked, "held" if checked in one.held else "missing")


async def stored(door: Door, *nodes: StoreNode, object_hash: str = ONE) -> None:
    """An object all these nodes hold."""
    await register(door, object_hash, rf=len(nodes))
    for node in nodes:
        node.find(object_hash, "held")
        await node.beat()


async def two_of_which_one_copies(door: Door) -> list[StoreNode]:
    """Two nodes; the first holds an object, and the second was just told to copy it."""
    nodes = await cluster(door, "a", "b")
    await register(door, rf=2)
    nodes[0].find(ONE, "held")
    await nodes[0].beat()
    await nodes[1].beat()
    assert nodes[1].copies() == [ONE]
    return nodes
