"""Objects over HTTP, and healing as nodes hear of it: reports in one beat, plans in the reply to the next."""

from typing import Any

import pytest

from tests.worlds import Door, Lender, run, seed_node
from weft.model.errors import JournalFailed
from weft.model.policy import NODE_LOST_MS

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


def test_object_registry_speaks_the_seeds_own_bodies() -> None:
    async def story(door: Door) -> None:
        body = {"hash": "abc123def456...", "size": 1048576, "colour": "ignored"}
        assert await door.ok("POST", "/object/register", body) == {"ok": True}
        shown = await door.ok("GET", "/object/abc123def456...")
        assert (shown["hash"], shown["size"], shown["replicas"]) == ("abc123def456...", 1048576, [])
        assert await door.ok("POST", "/object/register", {**body, "size": 7}) == {"ok": True}
        assert (await door.ok("GET", "/object/abc123def456..."))["size"] == 1048576

    run(story)


def test_replica_missing_and_healed_are_bookkeeping_for_nodes_of_any_door() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/register", {"id": "node-1", "zone": "zone-a", "addr": "10.0.0.1:50051"})
        await register(door)
        mark = {"hash": ONE, "node_id": "node-1"}
        assert await door.ok("POST", "/replica/mark_healed", mark) == {"ok": True}
        assert await replicas(door) == ["node-1"]
        assert await door.ok("POST", "/replica/mark_missing", mark) == {"ok": True}
        assert await replicas(door) == []

    run(story)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", f"/object/{OTHER}", None, 404, "OBJECT_NOT_FOUND"),
        ("POST", "/replica/mark_healed", {"hash": OTHER, "node_id": "a"}, 404, "OBJECT_NOT_FOUND"),
        ("POST", "/replica/mark_healed", {"hash": ONE, "node_id": "nobody"}, 404, "NODE_NOT_FOUND"),
        ("POST", "/replica/mark_missing", {"hash": OTHER, "node_id": "nobody"}, 200, None),
        ("POST", "/object/register", {"hash": "a b", "size": 1}, 422, "INVALID_FIELD"),
        ("POST", "/object/register", {"hash": ONE, "size": -1}, 422, "INVALID_FIELD"),
        ("POST", "/object/register", {"hash": ONE, "size": 1, "rf": 0}, 422, "INVALID_FIELD"),
        ("GET", f"/objects/{OTHER}/targets", None, 404, "OBJECT_NOT_FOUND"),
        ("GET", f"/objects/{ONE}/targets?without=a%20b", None, 422, "INVALID_FIELD"),
        ("GET", "/objects?limit=0", None, 422, "INVALID_FIELD"),
    ],
)
def test_what_is_wrong_about_an_object_is_told(
    method: str, path: str, body: Any, status: int, code: str | None
) -> None:
    async def story(door: Door) -> None:
        await cluster(door, "a")
        await register(door)
        answer = await door(method, path, body)
        assert answer.status_code == status
        assert answer.json().get("code") == code

    run(story)


def test_an_unknown_object_is_not_found_in_the_seeds_words() -> None:
    async def story(door: Door) -> None:
        assert (await door("GET", f"/object/{OTHER}")).json()["error"] == "not found"

    run(story)


def test_the_case_of_a_sha256_does_not_make_two_objects_of_one() -> None:
    async def story(door: Door) -> None:
        await register(door, "AB" * 32)
        assert (await door.ok("GET", f"/object/{'ab' * 32}"))["hash"] == "ab" * 32
        assert (await door.ok("GET", "/objects"))["total"] == 1

    run(story)


def test_a_node_is_asked_for_everything_it_holds_before_its_word_counts() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c"})
        await register(door)
        node = StoreNode(door, "a", (ONE, OTHER))
        await node.join()
        assert node.inventory != 0
        assert await replicas(door) == []
        await node.beat()
        assert await replicas(door) == ["a"], "what is not registered is passed over"

    run(story)


def test_a_copy_the_books_have_and_its_node_does_not_name_is_missing() -> None:
    async def story(door: Door) -> None:
        (node,) = await cluster(door, "a")
        await register(door)
        node.find(ONE, "held")
        await node.beat()
        assert await replicas(door) == ["a"]
        node.restart()
        node.held, node.inventory, node.told, node.plan = {}, 0, 0, 0
        await node.beat()
        assert await replicas(door) == ["a"], "nothing was said yet"
        await node.beat()
        await node.beat()
        assert await replicas(door) == []

    run(story)


def test_what_a_node_does_not_name_is_missing_also_when_that_could_not_be_written_at_once() -> None:
    async def story(door: Door) -> None:
        (node,) = await cluster(door, "a")
        await register(door)
        node.find(ONE, "held")
        await node.beat()
        node.restart()
        node.held, node.inventory, node.told, node.plan = {}, 0, 0, 0
        await node.beat()
        node.inventory = node.target["inventory"]
        append = door.coordinator._journal.append
        door.coordinator._journal.append = failing
        assert (await door("POST", "/nodes/a/beat", node.body())).status_code == 503
        door.coordinator._journal.append = append
        await node.beat()
        assert await replicas(door) == []

    run(story)


async def failing(*_: object) -> None:
    raise JournalFailed("the disk reports an error", path="a test's")


def test_auto_re_replication_a_plan_reaches_the_target_in_its_beat_and_nothing_is_planned_after_it() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b", "c", "d", "e")
        await register(door)
        for node in nodes[:3]:
            node.find(ONE, "held")
            await node.beat()
        assert door.coordinator.healer.plan.is_empty
        dead, *living = nodes
        for _ in range(3):
            await door.pass_time(NODE_LOST_MS // 2)
            for node in living:
                await node.beat()
        await door.coordinator.sweep.look()
        listed = await door.ok("GET", "/objects?under_replicated=1")
        assert [one["hash"] for one in listed["objects"]] == [ONE]
        assert (listed["under_replicated"], listed["healing"]) == (1, 1)
        (copy,) = door.coordinator.healer.plan.copies
        assert copy.target in ("d", "e")
        assert set(copy.sources) == {"b", "c"}

        await rounds(door, *living)

        assert await replicas(door) == sorted(["b", "c", copy.target])
        assert (await door.ok("GET", "/objects?under_replicated=1"))["objects"] == []
        before = door.coordinator.writer.state.marks.position
        door.coordinator.healer.look()
        assert door.coordinator.healer.plan.is_empty
        assert door.coordinator.writer.state.marks.position == before
        assert dead.node_id not in await replicas(door)

    run(story)


def test_a_node_that_lost_more_copies_than_one_command_takes_has_all_of_them_taken_out_of_the_books() -> None:
    async def story(door: Door) -> None:
        hashes = [f"{number:064x}" for number in range(1, 2_501)]
        (one,) = await cluster(door, "a")
        state = door.coordinator.writer.state
        for start in range(0, len(hashes), 1_000):
            for object_hash in hashes[start : start + 1_000]:
                await register(door, object_hash)
                one.find(object_hash, "held")
            await one.beat()
        assert {found.replicas for found in state.objects.values()} == {("a",)}

        one.restart()
        one.held.clear()
        await one.beat()
        before = state.marks.position
        await one.beat()

        assert {found.replicas for found in state.objects.values()} == {()}
        assert state.marks.position == before + 3

    run(story)


def test_a_beat_that_waits_is_answered_when_there_is_something_to_copy() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b")
        await register(door, rf=2)
        await nodes[1].beat()
        waiting = door.during(nodes[1].beat(30_000))
        nodes[0].find(ONE, "held")
        await nodes[0].beat()
        await waiting
        assert nodes[1].copies() == [ONE]

    run(story)


def test_a_plan_has_a_generation_that_grows_also_over_a_new_term() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b")
        first = nodes[1].plan
        await register(door, rf=2)
        nodes[0].find(ONE, "held")
        await nodes[0].beat()
        await nodes[1].beat()
        assert nodes[1].plan > first > 2**32

    run(story)


def test_replica_added_follows_the_report_and_never_the_plan() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b")
        await register(door, rf=2)
        nodes[0].find(ONE, "held")
        await nodes[0].beat()
        await nodes[1].beat()
        assert nodes[1].copies() == [ONE]
        assert await replicas(door) == ["a"]
        nodes[1].find(ONE, "failed", error="the disk is slow")
        await nodes[1].beat()
        assert await replicas(door) == ["a"]
        assert nodes[1].copies() == [ONE], "it is tried again"
        nodes[1].find(ONE, "held")
        await nodes[1].beat()
        assert await replicas(door) == ["a", "b"]

    run(story)


def test_a_corrupt_copy_is_off_the_books_and_made_anew_where_it_was() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b")
        await register(door, rf=2)
        for node in nodes:
            node.find(ONE, "held")
            await node.beat()
        nodes[1].find(ONE, "corrupt")
        await nodes[1].beat()
        assert await replicas(door) == ["a"]
        assert nodes[1].copies() == [ONE]
        await rounds(door, *nodes)
        assert await replicas(door) == ["a", "b"]

    run(story)


def test_a_copy_somebody_marks_missing_is_looked_at_again_by_its_node() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b")
        await register(door, rf=2)
        for node in nodes:
            node.find(ONE, "held")
            await node.beat()
        await door.ok("POST", "/replica/mark_missing", {"hash": ONE, "node_id": "b"})
        assert await replicas(door) == ["a"]
        await nodes[1].beat()
        assert nodes[1].target["checks"] == [ONE]
        nodes[1].find(ONE, "held")
        await nodes[1].beat()
        assert await replicas(door) == ["a", "b"]
        assert nodes[1].target["checks"] == []

    run(story)


def test_a_source_whose_bytes_were_wrong_is_asked_to_look_at_its_copy() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b")
        await register(door, rf=2)
        nodes[0].find(ONE, "held")
        await nodes[0].beat()
        nodes[1].find(ONE, "failed", error="a sent other bytes", doubted=["a"])
        await nodes[1].beat()
        await nodes[0].beat()
        assert nodes[0].target["checks"] == [ONE]
        nodes[0].find(ONE, "corrupt")
        await nodes[0].beat()
        listed = await door.ok("GET", "/objects?absent=1")
        assert [(one["hash"], one["state"]) for one in listed["objects"]] == [(ONE, "absent")]
        assert door.coordinator.healer.plan.is_empty

    run(story)


def test_a_draining_node_is_copied_from_and_its_copies_do_not_count() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b", "c")
        await register(door, rf=2)
        for node in nodes[:2]:
            node.find(ONE, "held")
            await node.beat()
        await door.ok("POST", "/nodes/a/drain")
        await door.coordinator.sweep.look()
        await rounds(door, *nodes)
        assert await replicas(door) == ["a", "b", "c"]

    run(story)


def test_a_node_that_is_asked_for_the_same_again_has_a_new_generation_for_it() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b")
        await register(door, rf=2)
        nodes[0].find(ONE, "held")
        await nodes[0].beat()
        await nodes[1].beat()
        before = nodes[1].plan
        nodes[1].find(ONE, "corrupt")
        await nodes[1].beat()
        assert nodes[1].copies() == [ONE]
        assert nodes[1].plan > before

    run(story)


def test_what_is_put_goes_to_nodes_that_keep_objects_and_not_to_those_that_refused() -> None:
    async def story(door: Door) -> None:
        await cluster(door, "a", "b", "c")
        await door.ok("POST", "/register", {"id": "cellar", "zone": "z", "addr": "10.0.0.1:1", "capacity_gb": 9_000})
        await register(door)
        assert set((await door.ok("GET", f"/objects/{ONE}/targets"))["targets"]) == {"a", "b", "c"}
        assert set((await door.ok("GET", f"/objects/{ONE}/targets?without=a,b"))["targets"]) == {"c"}

    run(story)


def test_nodes_that_could_keep_an_object_and_cannot_now_are_named_with_the_reason() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b", "c", "d")
        storeless = Lender(door, "no-store")
        await storeless.join()
        await door.ok("POST", "/nodes", seed_node("stranger"))
        await register(door, rf=4)
        path = f"/objects/{ONE}/targets"
        answer = await door.ok("GET", path)
        assert (sorted(answer["targets"]), answer["passed_over"]) == (["a", "b", "c", "d"], {})
        for _ in range(3):
            await door.pass_time(NODE_LOST_MS // 2)
            for one in (nodes[0], nodes[2], storeless):
                await one.beat()
        await door.ok("POST", "/nodes/c/drain")
        answer = await door.ok("GET", path)
        assert answer["targets"] == ["a"]
        assert answer["passed_over"] == {"b": "it is offline", "d": "it is offline"}
        nodes[3].restart()
        nodes[3].inventory = 0
        await nodes[3].beat()
        answer = await door.ok("GET", f"{path}?without=a")
        assert answer["targets"] == []
        assert answer["passed_over"] == {"b": "it is offline", "d": "it has yet to say what it holds"}

    run(story)


def test_the_list_comes_in_pages_in_order_of_hash() -> None:
    async def story(door: Door) -> None:
        names = sorted(f"{number:064x}" for number in range(7))
        for name in reversed(names):
            await register(door, name)
        seen: list[str] = []
        after: str | None = ""
        while after is not None:
            page = await door.ok("GET", f"/objects?limit=3&after={after}")
            seen += [one["hash"] for one in page["objects"]]
            after = page["next"]
        assert seen == names
        assert (page["total"], page["absent"], page["under_replicated"]) == (7, 7, 0)

    run(story)


def test_what_is_short_of_copies_and_what_has_none_are_listed_apart_and_only_the_first_is_planned_for() -> None:
    async def story(door: Door) -> None:
        await door.ok("POST", "/cluster", {"name": "c"})
        for one in (ONE, OTHER):
            await register(door, one, rf=2)
        for node in (StoreNode(door, "a", (ONE,)), StoreNode(door, "b")):
            await node.ready()

        async def listed(query: str) -> list[str]:
            return [one["hash"] for one in (await door.ok("GET", f"/objects?{query}"))["objects"]]

        assert await listed("absent=1") == [OTHER]
        assert await listed("under_replicated=1") == [ONE]
        assert await listed("under_replicated=1&absent=1") == [ONE, OTHER]
        assert [copy.object_hash for copy in door.coordinator.healer.plan.copies] == [ONE]

    run(story)


def test_objects_are_there_after_a_restart_from_the_journal(tmp_path: Any) -> None:
    async def first(door: Door) -> None:
        (node,) = await cluster(door, "a")
        await register(door)
        node.find(ONE, "held")
        await node.beat()

    async def second(door: Door) -> None:
        shown = await door.ok("GET", f"/object/{ONE}")
        assert (shown["size"], shown["replicas"], shown["rf"]) == (1_048_576, ["a"], 3)

    run(first, tmp_path)
    run(second, tmp_path)


def test_a_node_without_a_store_hears_nothing_of_objects() -> None:
    async def story(door: Door) -> None:
        lender = Lender(door, "a")
        await door.found(lender)
        assert (await lender.beat())["store"] is None

    run(story)


async def stored(door: Door, *nodes: StoreNode, object_hash: str = ONE) -> None:
    """An object all these nodes hold."""
    await register(door, object_hash, rf=len(nodes))
    for node in nodes:
        node.find(object_hash, "held")
        await node.beat()


def test_a_deleted_object_is_gone_for_everybody_and_its_holders_hear_of_it_in_their_beats() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b")
        await stored(door, *nodes)
        await stored(door, *nodes, object_hash=OTHER)
        waiting = door.during(nodes[1].beat(30_000))
        assert await door.ok("DELETE", f"/object/{ONE}") == {"ok": True}
        await waiting
        assert nodes[1].target["drops"] == [ONE]
        for path in (f"/object/{ONE}", f"/objects/{ONE}/targets"):
            assert (await door("GET", path)).json()["code"] == "OBJECT_NOT_FOUND"
        listed = await door.ok("GET", "/objects")
        assert [one["hash"] for one in listed["objects"]] == [OTHER]
        assert (listed["total"], listed["deleting"], listed["under_replicated"], listed["absent"]) == (1, 1, 0, 0)
        assert "weft_objects_deleting 1" in (await door("GET", "/metrics", accept="text/plain")).text
        await rounds(door, *nodes)
        assert [node.held for node in nodes] == [{OTHER: None}] * 2
        assert (await door.ok("GET", "/objects"))["deleting"] == 0
        assert door.coordinator.healer.plan.is_empty

    run(story)


def test_a_delete_whose_answer_was_lost_can_be_sent_again() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a")
        await stored(door, *nodes)
        path = f"/object/{ONE}"
        assert (await door("DELETE", path, weft_request_id="once")).status_code == 200
        assert (await door("DELETE", path)).status_code == 200, "it is on its way out"
        await rounds(door, *nodes)
        assert (await door("DELETE", path, weft_request_id="once")).status_code == 200, "the first one's answer"
        assert (await door("DELETE", path)).json()["code"] == "OBJECT_NOT_FOUND"

    run(story)


def test_a_holder_that_was_away_lets_go_of_a_deleted_object_when_it_is_back() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b")
        await stored(door, *nodes)
        for _ in range(3):
            await door.pass_time(NODE_LOST_MS // 2)
            await nodes[0].beat()
        await door.coordinator.sweep.look()
        await door.ok("DELETE", f"/object/{ONE}")
        await rounds(door, nodes[0])
        assert (await door.ok("GET", "/objects"))["deleting"] == 1
        await nodes[1].beat()
        await door.coordinator.sweep.look()
        await rounds(door, *nodes)
        assert nodes[1].held == {}
        assert (await door.ok("GET", "/objects"))["deleting"] == 0

    run(story)


@pytest.mark.parametrize("deleted", ["before", "after"])
def test_a_holder_that_left_the_cluster_lets_go_of_a_deleted_object_when_it_is_back(deleted: str) -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b")
        await stored(door, *nodes)
        await stored(door, *nodes, object_hash=OTHER)
        if deleted == "before":
            await door.ok("DELETE", f"/object/{ONE}")
        await door("DELETE", "/nodes/b")
        if deleted == "after":
            await door.ok("DELETE", f"/object/{ONE}")
        await rounds(door, nodes[0])
        listed = await door.ok("GET", "/objects")
        assert (listed["total"], listed["deleting"]) == (1, 1)
        assert door.coordinator.healer.plan.is_empty
        back = StoreNode(door, "b", tuple(nodes[1].held))
        await back.ready()
        await rounds(door, nodes[0], back)
        assert back.held == {OTHER: None}
        assert (await door.ok("GET", "/objects"))["deleting"] == 0
        assert await replicas(door, OTHER) == ["a", "b"]

    run(story)


def test_a_copy_on_its_way_to_a_node_is_called_back_when_its_object_is_deleted() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a", "b")
        await register(door, rf=2)
        nodes[0].find(ONE, "held")
        await nodes[0].beat()
        await nodes[1].beat()
        assert nodes[1].copies() == [ONE]
        await door.ok("DELETE", f"/object/{ONE}")
        await rounds(door, nodes[0])
        assert (await door.ok("GET", "/objects"))["deleting"] == 0, "the books know of no copy any more"
        nodes[1].find(ONE, "held")
        await nodes[1].beat()
        assert nodes[1].target["drops"] == [ONE], "and the one that arrived is let go of all the same"
        nodes[1].find(ONE, "dropped")
        await nodes[1].beat()
        assert nodes[1].target["drops"] == []

    run(story)


def test_a_deleted_object_is_put_anew_only_after_its_holders_let_go() -> None:
    async def story(door: Door) -> None:
        nodes = await cluster(door, "a")
        await stored(door, *nodes)
        await door.ok("DELETE", f"/object/{ONE}")
        answer = await door("POST", "/object/register", {"hash": ONE, "size": 1_048_576})
        assert (answer.status_code, answer.json()["code"], answer.json()["temporary"]) == (
            409,
            "OBJECT_BEING_DELETED",
            True,
        )
        await rounds(door, *nodes)
        await register(door)
        assert await replicas(door) == []

    run(story)


def test_a_deletion_outlives_the_coordinator(tmp_path: Any) -> None:
    async def before(door: Door) -> None:
        await stored(door, *await cluster(door, "a"))
        await door.ok("DELETE", f"/object/{ONE}")

    async def after(door: Door) -> None:
        node = StoreNode(door, "a", (ONE,))
        assert (await door.ok("GET", "/objects"))["deleting"] == 1
        await rounds(door, node)
        assert node.held == {}
        assert (await door.ok("GET", "/objects"))["deleting"] == 0

    run(before, tmp_path)
    run(after, tmp_path)
