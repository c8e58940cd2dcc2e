"""Objects that are deleted: gone for everybody at once, and from every holder when it hears of it."""

from typing import Any

import pytest

from tests.coordinator.stores import (
    ONE,
    OTHER,
    StoreNode,
    cluster,
    register,
    replicas,
    rounds,
    stored,
    two_of_which_one_copies,
)
from tests.worlds import Door, run
from weft.model.policy import NODE_LOST_MS


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
        nodes = await two_of_which_one_copies(door)
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
