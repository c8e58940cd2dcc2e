"""Healing as nodes hear of it: reports in one beat, plans in the reply to the next."""

from tests.coordinator.stores import ONE, cluster, register, replicas, rounds, stored, two_of_which_one_copies
from tests.worlds import Door, run
from weft.model.policy import NODE_LOST_MS


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
        nodes = await two_of_which_one_copies(door)
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
        await stored(door, *nodes)
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
        await stored(door, *nodes)
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
        nodes = await two_of_which_one_copies(door)
        before = nodes[1].plan
        nodes[1].find(ONE, "corrupt")
        await nodes[1].beat()
        assert nodes[1].copies() == [ONE]
        assert nodes[1].plan > before

    run(story)
