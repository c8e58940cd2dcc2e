"""Transfers: one slot each, from the first answer to the end; who finds none waits; who falls silent loses theirs."""

import errno
import hashlib
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import Buffer

from weft.agent.disk import RealDisk
from weft.agent.staging import Staging
from weft.agent.store import Store
from weft.agent.transfers import Transfers
from weft.dataplane.exchange import Chunk, Commit, Done, Fetch, Finish, Granted, Held, Offer, Refused, Stage, Staged
from weft.model.object import ObjectHash
from weft.model.policy import STAGING_IDLE_MS, STAGING_WAITING_MAX, TRANSFER_MS_BASE

CONTENT = b"some bytes on their way"
HASH = ObjectHash(hashlib.sha256(CONTENT).hexdigest())


class SlotBytes:
    """Slots without an engine: what is written is there, and how often each was lent and for what."""

    def __init__(self) -> None:
        self.content: dict[str, bytearray] = {}
        self.uses: dict[str, int] = {}
        self.lent: list[tuple[str, int, bool]] = []

    def back(self, slot: str, size_bytes: int) -> None:
        self.content[slot] = bytearray(1 << 16)

    def lend(self, slot: str, *, write: bool, lasts_ms: int) -> bytes:
        self.uses[slot] = self.uses.get(slot, 0) + 1
        self.lent.append((slot, self.uses[slot], write))
        return b"advert"

    def read(self, slot: str, into: Buffer) -> None:
        view = memoryview(into)
        view[:] = self.content[slot][: len(view)]

    def write(self, slot: str, data: Buffer) -> None:
        view = memoryview(data)
        self.content[slot][: len(view)] = view


class Desk:
    """A node's transfers with a clock that stands still."""

    def __init__(self, directory: Path, slots: int = 2) -> None:
        self.store = Store(directory, spare_bytes=0)
        self.memory = SlotBytes()
        self.now_ms = 0
        self.minted = 0
        self.stored: list[ObjectHash] = []
        self.corrupt: list[ObjectHash] = []
        self.transfers = Transfers[str](
            self.store,
            Staging(self.memory, self._mint, slots),
            now_ms=lambda: self.now_ms,
            stored=self.stored.append,
            found_corrupt=self.corrupt.append,
        )

    def _mint(self) -> int:
        self.minted += 1
        return self.minted

    def ask(self, request: Any, sender: str = "me") -> Any:
        return self.transfers.handle(sender, request, sender)

    def offer(self, content: bytes = CONTENT, sender: str = "me", errand: int = 1) -> Granted:
        name = ObjectHash(hashlib.sha256(content).hexdigest())
        answer = self.ask(Offer(object_hash=name, size_bytes=len(content), errand=errand), sender)
        assert isinstance(answer, Granted)
        return answer

    def send(self, slot: Granted, content: bytes = CONTENT) -> Any:
        self.memory.write(slot.slot, content)
        digest = hashlib.sha256(content).digest()
        return self.ask(Chunk(transfer_id=slot.transfer_id, index=0, digest=digest))

    def put(self, content: bytes = CONTENT) -> None:
        slot = self.offer(content, errand=99)
        assert self.send(slot, content) == Done()
        assert self.ask(Commit(transfer_id=slot.transfer_id)) == Done()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def code_of(answer: Any) -> str:
    assert isinstance(answer, Refused), answer
    return answer.code


def test_an_offered_object_is_kept_and_told_when_it_was_verified(desk: Desk) -> None:
    slot = desk.offer()
    assert desk.memory.lent == [(slot.slot, 1, True)]
    assert desk.send(slot) == Done()
    assert desk.store.hashes() == []
    assert desk.ask(Commit(transfer_id=slot.transfer_id)) == Done()
    assert (desk.store.hashes(), desk.stored, desk.transfers.count) == ([HASH], [HASH], 0)


def test_an_object_that_is_here_is_not_sent_again_and_is_told_again(desk: Desk) -> None:
    desk.put()
    assert desk.ask(Offer(object_hash=HASH, size_bytes=len(CONTENT), errand=2)) == Held()
    assert desk.stored == [HASH, HASH]


def test_an_object_is_staged_chunk_by_chunk_for_whoever_asks(desk: Desk) -> None:
    desk.put()
    slot = desk.ask(Fetch(object_hash=HASH, errand=2), "reader")
    assert isinstance(slot, Granted)
    assert desk.memory.lent[-1] == (slot.slot, 2, False)
    staged = desk.ask(Stage(transfer_id=slot.transfer_id, index=0), "reader")
    assert staged == Staged(size_bytes=len(CONTENT), digest=hashlib.sha256(CONTENT).digest())
    assert desk.memory.content[slot.slot][: len(CONTENT)] == CONTENT
    assert desk.ask(Finish(transfer_id=slot.transfer_id), "reader") == Done()
    assert desk.transfers.count == 0


def test_a_slot_that_is_used_again_shuts_out_who_had_it_before(tmp_path: Path) -> None:
    desk = Desk(tmp_path, slots=1)
    first = desk.offer()
    desk.ask(Finish(transfer_id=first.transfer_id))
    second = desk.offer(b"other")
    assert second.slot == first.slot
    assert desk.memory.uses[second.slot] == 2


@pytest.mark.parametrize("index", [-1, 1, 7])
def test_a_chunk_that_is_not_there_is_refused(desk: Desk, index: int) -> None:
    desk.put()
    slot = desk.ask(Fetch(object_hash=HASH, errand=2))
    assert code_of(desk.ask(Stage(transfer_id=slot.transfer_id, index=index))) == "bad_frame"


def test_bytes_that_did_not_arrive_as_they_were_sent_end_the_transfer(desk: Desk) -> None:
    slot = desk.offer()
    desk.memory.write(slot.slot, CONTENT[::-1])
    digest = hashlib.sha256(CONTENT).digest()
    assert code_of(desk.ask(Chunk(transfer_id=slot.transfer_id, index=0, digest=digest))) == "OBJECT_CORRUPT"
    assert code_of(desk.ask(Commit(transfer_id=slot.transfer_id))) == "unknown_handle"
    assert (desk.transfers.count, desk.store.hashes()) == (0, [])


def test_an_object_that_is_not_what_its_name_says_is_not_kept(desk: Desk) -> None:
    slot = desk.offer()
    assert desk.send(slot, CONTENT[::-1]) == Done()
    assert code_of(desk.ask(Commit(transfer_id=slot.transfer_id))) == "OBJECT_CORRUPT"
    assert (desk.store.hashes(), desk.stored) == ([], [])


def test_a_copy_that_went_bad_is_not_handed_out_and_is_told_on(desk: Desk) -> None:
    desk.put()
    path = desk.store.directory / "objects" / HASH[:2] / HASH
    path.write_bytes(CONTENT[::-1])
    slot = desk.ask(Fetch(object_hash=HASH, errand=2))
    assert code_of(desk.ask(Stage(transfer_id=slot.transfer_id, index=0))) == "OBJECT_CORRUPT"
    assert desk.corrupt == [HASH]


def test_a_copy_that_cannot_be_read_just_now_is_not_handed_out_and_is_kept(desk: Desk) -> None:
    class Busy(RealDisk):
        def read(self, path: Path, offset: int, into: memoryview) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

    desk.put()
    desk.store._disk = Busy()
    slot = desk.ask(Fetch(object_hash=HASH, errand=2))
    assert code_of(desk.ask(Stage(transfer_id=slot.transfer_id, index=0))) == "STORE_UNREADABLE"
    assert (desk.corrupt, desk.store.hashes()) == ([], [HASH])


def test_nobody_goes_on_with_somebody_elses_transfer(desk: Desk) -> None:
    slot = desk.offer()
    assert code_of(desk.ask(Commit(transfer_id=slot.transfer_id), "somebody else")) == "unknown_handle"
    assert desk.transfers.count == 1


@pytest.mark.parametrize("request_", [Chunk(transfer_id=1, index=1, digest=b""), Stage(transfer_id=1, index=0)])
def test_what_is_out_of_turn_ends_the_transfer(desk: Desk, request_: Any) -> None:
    desk.offer()
    assert code_of(desk.ask(request_)) == "bad_frame"
    assert desk.transfers.count == 0


def test_an_object_that_is_not_here_is_not_found(desk: Desk) -> None:
    assert code_of(desk.ask(Fetch(object_hash=HASH, errand=1))) == "OBJECT_NOT_FOUND"


def test_a_store_without_room_refuses_the_offer_and_keeps_its_slot(tmp_path: Path) -> None:
    desk = Desk(tmp_path, slots=1)
    desk.store._capacity_bytes = 5
    assert code_of(desk.ask(Offer(object_hash=HASH, size_bytes=len(CONTENT), errand=1))) == "STORE_FULL"
    assert desk.offer(b"five")


def test_who_finds_no_slot_waits_in_line_and_is_served_in_turn(desk: Desk) -> None:
    first, second = desk.offer(b"1"), desk.offer(b"2", errand=2)
    for number in (3, 4):
        name = ObjectHash(hashlib.sha256(bytes([number])).hexdigest())
        assert desk.ask(Offer(object_hash=name, size_bytes=1, errand=number), f"{number}") is None
    assert desk.transfers.next_in_line() is None
    desk.ask(Finish(transfer_id=first.transfer_id))
    turn = desk.transfers.next_in_line()
    assert turn is not None
    assert turn.whom == "3"
    assert isinstance(desk.ask(turn.request, turn.sender), Granted)
    assert desk.transfers.next_in_line() is None
    desk.ask(Finish(transfer_id=second.transfer_id))
    assert desk.transfers.next_in_line() is not None


def test_the_line_has_an_end(tmp_path: Path) -> None:
    desk = Desk(tmp_path, slots=0)
    offers = (Offer(object_hash=HASH, size_bytes=1, errand=number) for number in range(STAGING_WAITING_MAX + 1))
    answers = [desk.ask(one) for one in offers]
    assert answers[:-1] == [None] * STAGING_WAITING_MAX
    assert code_of(answers[-1]) == "busy"


def test_who_waits_for_too_long_is_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path, slots=0)
    desk.ask(Fetch(object_hash=HASH, errand=1))
    desk.store._sizes[HASH] = 1
    assert desk.ask(Fetch(object_hash=HASH, errand=1)) is None
    desk.now_ms = TRANSFER_MS_BASE
    assert desk.transfers.expire() == []
    desk.now_ms += 1
    assert [late.whom for late in desk.transfers.expire()] == ["me"]


def test_a_peer_that_falls_silent_loses_its_slot_and_what_it_had_sent(desk: Desk) -> None:
    slot = desk.offer()
    desk.send(slot)
    desk.now_ms = STAGING_IDLE_MS
    desk.transfers.expire()
    assert desk.transfers.count == 1
    desk.now_ms += 1
    desk.transfers.expire()
    assert desk.transfers.count == 0
    assert list((desk.store.directory / "incoming").iterdir()) == []
    assert code_of(desk.ask(Commit(transfer_id=slot.transfer_id))) == "unknown_handle"


def test_an_errand_that_is_begun_anew_takes_the_slot_of_its_earlier_attempt(tmp_path: Path) -> None:
    desk = Desk(tmp_path, slots=1)
    lost = desk.offer(errand=5)
    again = desk.offer(errand=5)
    assert again.transfer_id != lost.transfer_id
    assert desk.transfers.count == 1


def test_two_errands_of_one_peer_for_one_object_leave_each_other_alone(desk: Desk) -> None:
    desk.offer(errand=5)
    desk.offer(errand=6)
    assert desk.transfers.count == 2


def test_what_is_over_may_be_finished_again(desk: Desk) -> None:
    assert desk.ask(Finish(transfer_id=77)) == Done()


def test_closing_ends_every_transfer(desk: Desk) -> None:
    desk.offer()
    desk.transfers.close()
    assert desk.transfers.count == 0
    assert list((desk.store.directory / "incoming").iterdir()) == []
