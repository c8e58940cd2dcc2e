"""Objects over HTTP: their records, what nodes report of what they hold, and where new ones go."""

from typing import Any

import pytest

from tests.coordinator.stores import ONE, OTHER, StoreNode, cluster, register, replicas
from tests.worlds import Door, Lender, run, seed_node
from weft.model.errors import JournalFailed
from weft.model.policy import NODE_LOST_MS


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
