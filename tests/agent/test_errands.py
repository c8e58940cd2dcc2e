"""Errands: what a plan asks for is done once, what became true is said until it was heard, everything is bounded."""

import pytest

from weft.agent.errands import Errands, Finding, WantedCopy
from weft.model.ids import Generation, NodeId
from weft.model.object import ObjectHash
from weft.model.policy import COPIES_AT_ONCE_MAX, OBJECT_REPORTS_MAX


def name(number: int) -> ObjectHash:
    return ObjectHash(f"{number:064x}")


def copy(number: int) -> WantedCopy:
    return WantedCopy(object_hash=name(number), size_bytes=1, sources=(NodeId("a"),))


def held(number: int) -> Finding:
    return Finding(object_hash=name(number), state="held")


def planned(generation: int, *copies: int, drops: tuple[int, ...] = (), checks: tuple[int, ...] = ()) -> Errands:
    errands = Errands()
    aim(errands, generation, *copies, drops=drops, checks=checks)
    return errands


def aim(
    errands: Errands, generation: int, *copies: int, drops: tuple[int, ...] = (), checks: tuple[int, ...] = ()
) -> bool:
    wanted = [copy(number) for number in copies]
    return errands.aim(
        Generation(generation), wanted, [name(number) for number in drops], [name(number) for number in checks]
    )


def test_an_older_plan_and_the_same_plan_again_are_no_news() -> None:
    errands = planned(5, 1)
    assert not aim(errands, 5, 2)
    assert not aim(errands, 4, 2)
    assert aim(errands, 6, 2)
    found = errands.next_copy(0.0)
    assert found is not None
    assert found.object_hash == name(2)


def test_few_copies_are_under_way_at_once() -> None:
    errands = planned(1, *range(10))
    begun = []
    while (wanted := errands.next_copy(0.0)) is not None:
        errands.begin_copy(wanted)
        begun.append(wanted.object_hash)
    assert begun == [name(number) for number in range(COPIES_AT_ONCE_MAX)]
    errands.end(held(0))
    assert errands.next_copy(0.0) == copy(COPIES_AT_ONCE_MAX)


def test_a_copy_that_is_done_is_not_made_again_by_the_same_plan() -> None:
    errands = planned(1, 1)
    errands.begin_copy(copy(1))
    errands.end(held(1))
    assert errands.next_copy(0.0) is None


def test_a_copy_that_failed_waits_and_is_forgotten_when_no_plan_wants_it() -> None:
    errands = planned(1, 1)
    errands.begin_copy(copy(1))
    errands.fail(Finding(object_hash=name(1), state="failed", error="no"), again_at_s=10.0)
    assert errands.next_copy(9.9) is None
    assert errands.next_again_s(9.9) == 10.0
    assert errands.next_copy(10.0) == copy(1)
    aim(errands, 2)
    assert (errands.next_copy(99.0), errands.next_again_s(99.0)) == (None, None)


def test_what_failed_wakes_nobody_while_as_many_copies_are_made_as_may_be() -> None:
    errands = planned(1, *range(COPIES_AT_ONCE_MAX + 1))
    errands.begin_copy(copy(0))
    errands.fail(Finding(object_hash=name(0), state="failed", error="no"), again_at_s=10.0)
    for number in range(1, COPIES_AT_ONCE_MAX + 1):
        errands.begin_copy(copy(number))
    assert errands.next_copy(10.0) is None
    assert errands.next_again_s(10.0) is None, "or the node would spin until one of them ends"
    errands.end(held(1))
    assert errands.next_again_s(0.0) == 10.0


def test_what_was_begun_is_not_begun_again_by_a_newer_plan() -> None:
    errands = planned(1, 1, drops=(2,), checks=(3,))
    errands.begin_copy(copy(1))
    errands.begin(name(2))
    errands.begin(name(3))
    aim(errands, 2, 1, drops=(2,), checks=(3,))
    assert (errands.next_copy(0.0), errands.next_drop(), errands.next_check(0.0)) == (None, None, None)


def test_a_finding_is_said_until_a_beat_with_it_was_answered() -> None:
    errands = Errands()
    errands.find(held(1))
    lost = errands.word()
    assert errands.word() == lost
    errands.heard(errands.word())
    assert errands.word().findings == ()


def test_a_newer_finding_of_an_object_replaces_the_older_and_outlives_its_answer() -> None:
    errands = Errands()
    errands.find(held(1))
    said = errands.word()
    errands.find(Finding(object_hash=name(1), state="corrupt"))
    errands.heard(said)
    assert [finding.state for finding in errands.word().findings] == ["corrupt"]


def test_an_inventory_is_said_in_parts_and_complete_with_the_last() -> None:
    errands = Errands()
    count = 2 * OBJECT_REPORTS_MAX + 3
    errands.take_inventory(7, [name(number) for number in range(count)])
    said: set[ObjectHash] = set()
    words = 0
    while errands.is_eager:
        word = errands.word()
        assert len(word.findings) <= OBJECT_REPORTS_MAX
        said |= {finding.object_hash for finding in word.findings}
        assert word.complete is (len(said) == count)
        assert word.inventory == 7
        errands.heard(word)
        words += 1
    assert (words, len(said)) == (3, count)


def test_an_empty_inventory_is_complete_at_once() -> None:
    errands = Errands()
    errands.take_inventory(7, [])
    assert errands.is_eager
    assert errands.word().complete
    errands.heard(errands.word())
    assert not errands.is_eager


def test_what_is_lost_while_the_inventory_is_told_is_not_told_as_held() -> None:
    errands = Errands()
    errands.take_inventory(7, [name(1), name(2)])
    errands.find(Finding(object_hash=name(1), state="dropped"))
    errands.heard(errands.word())
    assert errands.word().findings == ()
    errands.take_inventory(8, [name(1)])
    errands.find(Finding(object_hash=name(1), state="corrupt"))
    assert [(one.object_hash, one.state) for one in errands.word().findings] == [(name(1), "corrupt")]


def test_an_answer_to_an_earlier_inventory_does_not_count_for_the_later() -> None:
    errands = Errands()
    errands.take_inventory(7, [name(1)])
    late = errands.word()
    errands.take_inventory(8, [name(1), name(2)])
    errands.heard(late)
    assert len(errands.word().findings) == 2
    assert errands.is_eager


def test_a_look_that_came_to_nothing_is_put_off_and_others_go_before_it() -> None:
    errands = planned(1, checks=(1, 2))
    errands.begin(name(1))
    errands.put_off(name(1), again_at_s=10.0)
    assert errands.word().findings == ()
    assert errands.next_check(9.9) == name(2)
    errands.begin(name(2))
    assert (errands.next_check(9.9), errands.next_again_s(9.9)) == (None, 10.0)
    aim(errands, 2, checks=(1, 2))
    assert (errands.next_check(9.9), errands.next_check(10.0)) == (None, name(1))
    # Due, and waiting for something else to end: nothing to wake up for.
    assert errands.next_again_s(10.0) is None


@pytest.mark.parametrize("state", ["held", "missing", "corrupt"])
def test_a_check_ends_with_whatever_it_found(state: str) -> None:
    errands = planned(1, checks=(1,))
    errands.begin(name(1))
    errands.end(Finding(object_hash=name(1), state=state))  # type: ignore[arg-type]
    assert errands.next_check(0.0) is None
    assert [finding.state for finding in errands.word().findings] == [state]
