"""The fifth seed's names: what its users and its tests rely on, and what theirs got wrong."""

import ctypes
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from weft._native import Advert, wire_vectors
from weft.client import uccl
from weft.client.uccl import ITEM_BYTES, Endpoint, parse_metadata, update_item
from weft.model.errors import BadArgument


class Buffer:
    """Memory with an address."""

    def __init__(self, content: bytes) -> None:
        self.memory = ctypes.create_string_buffer(content, len(content))
        self.ptr, self.size = ctypes.addressof(self.memory), len(content)

    @property
    def content(self) -> bytes:
        return self.memory.raw


class Pair:
    """Two endpoints, and a connection each way."""

    def __init__(self, **how: Any) -> None:
        self.owner = Endpoint(secret=b"tests", name="owner", **how)
        self.other = Endpoint(secret=b"tests", name="other", **how)
        ok, self.to_owner = self.other.add_remote_endpoint(self.owner.get_metadata())
        assert ok
        ok, ip, device, self.to_other = self.owner.accept()
        assert (ok, ip, device) == (True, "127.0.0.1", "")

    def done(self, endpoint: Endpoint, transfer: int) -> bool:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            ok, done = endpoint.poll_async(transfer)
            if done:
                return ok
            time.sleep(0.001)
        raise AssertionError("the transfer did not end")


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.other.close()
    made.owner.close()


def item_of(pair: Pair, buffer: Buffer) -> bytes:
    ok, mr = pair.owner.reg(buffer.ptr, buffer.size)
    assert ok
    ok, item = pair.owner.advertise(mr, buffer.ptr, buffer.size)
    assert ok
    return item


def test_an_item_has_the_seeds_layout(pair: Pair) -> None:
    buffer = Buffer(bytes(1000))
    item = item_of(pair, buffer)
    assert len(item) == ITEM_BYTES
    address, size = struct.unpack_from("<QI", item)
    assert (address, size) == (buffer.ptr, 1000)


def test_an_item_is_the_same_in_both_implementations() -> None:
    vectors = wire_vectors()
    assert uccl._pack(Advert(vectors["advert"]), 0x7FFF_FFFF_FF00, 1000) == vectors["item"]


def test_reads_and_writes_by_address_in_all_their_forms(pair: Pair) -> None:
    theirs, ours = Buffer(bytes(range(256)) * 4), Buffer(bytes(1024))
    item = item_of(pair, theirs)
    ok, mr = pair.other.reg(ours.ptr, ours.size)
    assert ok
    assert pair.other.read(pair.to_owner, mr, ours.ptr, ours.size, item)
    assert ours.content == theirs.content
    ours.memory[0:5] = b"hello"
    ok, transfer = pair.other.write_async(pair.to_owner, mr, ours.ptr, 5, item)
    assert ok
    assert pair.done(pair.other, transfer)
    assert theirs.content[:6] == b"hello\x05"
    ptrs, sizes = [ours.ptr, ours.ptr + 512], [256, 256]
    items = [update_item(item, theirs.ptr + 256, 256), update_item(item, theirs.ptr + 700, 256)]
    assert pair.other.readv(pair.to_owner, [mr, mr], ptrs, sizes, items, 2)
    assert ours.content[:256] == theirs.content[256:512]
    assert ours.content[512:768] == theirs.content[700:956]
    ok, transfer = pair.other.writev_async(pair.to_owner, [mr, mr], ptrs, sizes, items, 2)
    assert ok
    assert pair.done(pair.other, transfer)


def test_polling_again_answers_the_same_and_an_unknown_transfer_has_failed(pair: Pair) -> None:
    theirs, ours = Buffer(bytes(64)), Buffer(bytes(64))
    item = item_of(pair, theirs)
    _, mr = pair.other.reg(ours.ptr, ours.size)
    _, transfer = pair.other.read_async(pair.to_owner, mr, ours.ptr, 64, item)
    assert pair.done(pair.other, transfer)
    assert [pair.other.poll_async(transfer) for _ in range(3)] == [(True, True)] * 3
    assert pair.other.poll_async(999_999) == (False, True)
    assert pair.other.failure(999_999)


def test_a_transfer_that_fails_says_so_for_ever_and_why(pair: Pair) -> None:
    theirs, ours = Buffer(bytes(64)), Buffer(bytes(64))
    _, theirs_mr = pair.owner.reg(theirs.ptr, theirs.size)
    _, item = pair.owner.advertise(theirs_mr, theirs.ptr, 64)
    assert pair.owner.dereg(theirs_mr)
    _, mr = pair.other.reg(ours.ptr, ours.size)
    ok, transfer = pair.other.read_async(pair.to_owner, mr, ours.ptr, 64, item)
    assert ok
    assert not pair.done(pair.other, transfer)
    assert pair.other.poll_async(transfer) == (False, True)
    assert "buffer" in pair.other.failure(transfer)


@pytest.mark.parametrize("change", [(-1, 0), (0, 1), (1, 0), (64, 1), (2**31, 0)])
def test_an_item_patched_to_reach_beyond_its_range_is_refused_by_its_owner(pair: Pair, change: tuple[int, int]) -> None:
    around, ours = Buffer(bytes(200)), Buffer(b"x" * 100)
    _, theirs_mr = pair.owner.reg(around.ptr, around.size)
    _, item = pair.owner.advertise(theirs_mr, around.ptr + 50, 64)
    _, mr = pair.other.reg(ours.ptr, ours.size)
    patched = update_item(item, around.ptr + 50 + change[0], 64 + change[1])
    assert not pair.other.write(pair.to_owner, mr, ours.ptr, 64 + change[1], patched)
    assert around.content == bytes(200)


def test_the_calls_own_size_never_exceeds_what_the_item_names(pair: Pair) -> None:
    theirs, ours = Buffer(bytes(64)), Buffer(b"x" * 100)
    item = item_of(pair, theirs)
    _, mr = pair.other.reg(ours.ptr, ours.size)
    assert not pair.other.write(pair.to_owner, mr, ours.ptr, 65, item)
    assert pair.other.write_async(pair.to_owner, mr, ours.ptr, 65, item) == (False, 0)


@pytest.mark.parametrize("byte", range(12, 64))
def test_an_item_whose_other_bytes_were_altered_opens_nothing(pair: Pair, byte: int) -> None:
    theirs, ours = Buffer(bytes(64)), Buffer(b"x" * 64)
    item = bytearray(item_of(pair, theirs))
    item[byte] ^= 4
    _, mr = pair.other.reg(ours.ptr, ours.size)
    assert not pair.other.write(pair.to_owner, mr, ours.ptr, 64, bytes(item))
    assert theirs.content == bytes(64)


def test_numbers_are_fresh_for_each_registration_even_of_the_same_memory(pair: Pair) -> None:
    buffer = Buffer(bytes(100))
    numbers = [pair.owner.reg(buffer.ptr, buffer.size)[1] for _ in range(3)]
    assert len(set(numbers)) == 3
    assert all(pair.owner.dereg(number) for number in numbers)
    assert not pair.owner.dereg(numbers[0])
    assert pair.owner.reg(buffer.ptr, buffer.size)[1] not in numbers


def test_regv_registers_all_or_none(pair: Pair) -> None:
    one, two = Buffer(bytes(10)), Buffer(bytes(10))
    ok, numbers = pair.owner.regv([one.ptr, two.ptr], [10, 10])
    assert ok
    assert len(numbers) == 2
    before = pair.owner.reg(one.ptr, 10)[1]
    assert pair.owner.regv([one.ptr, 0], [10, 10]) == (False, [])
    assert pair.owner.regv([one.ptr, two.ptr], [10, 0]) == (False, [])
    with pytest.raises(BadArgument):
        pair.owner.regv([one.ptr], [10, 10])
    assert pair.owner.dereg(before)


def test_adverts_come_all_or_none_and_stay_inside_the_registration(pair: Pair) -> None:
    buffer = Buffer(bytes(100))
    _, mr = pair.owner.reg(buffer.ptr, buffer.size)
    ok, items = pair.owner.advertisev([mr, mr], [buffer.ptr, buffer.ptr + 50], [50, 50], 2)
    assert ok
    assert len(items) == 2
    assert pair.owner.advertisev([mr, mr], [buffer.ptr, buffer.ptr + 51], [50, 50]) == (False, [])
    assert pair.owner.advertise(mr, buffer.ptr - 1, 10) == (False, b"")
    assert pair.owner.advertise(mr + 1, buffer.ptr, 10) == (False, b"")
    assert pair.owner.advertise(1, mr, buffer.ptr, 100)[0], "the older form names the connection first"


def test_a_read_response_is_queued_for_what_was_advertised_alone(pair: Pair) -> None:
    buffer = Buffer(bytes(100))
    item = item_of(pair, buffer)
    assert pair.owner.queue_read_response(pair.to_other, item)
    assert pair.owner.queue_read_response(pair.to_other, update_item(item, buffer.ptr + 50, 50))
    assert not pair.owner.queue_read_response(pair.to_other, update_item(item, buffer.ptr + 50, 51))
    assert not pair.owner.queue_read_response(pair.to_other, bytes(64))
    assert not pair.owner.queue_read_response(99, item)


def test_send_and_receive_with_and_without_tags(pair: Pair) -> None:
    theirs, ours = Buffer(bytes(100)), Buffer(b"y" * 100)
    _, theirs_mr = pair.owner.reg(theirs.ptr, theirs.size)
    _, mr = pair.other.reg(ours.ptr, ours.size)
    ok, tagged = pair.owner.recv_async_with_tag(pair.to_other, theirs_mr, theirs.ptr, 10, 2**63)
    assert ok
    ok, plain = pair.owner.recv_async(pair.to_other, theirs_mr, theirs.ptr + 50, 10)
    assert ok
    assert pair.other.send(pair.to_owner, mr, ours.ptr, 10)
    assert pair.done(pair.owner, plain)
    assert pair.owner.poll_async(tagged) == (True, False)
    ok, sent = pair.other.send_async_with_tag(pair.to_owner, mr, ours.ptr, 5, 2**63)
    assert ok
    assert pair.done(pair.other, sent)
    assert pair.done(pair.owner, tagged)
    assert theirs.content == b"y" * 5 + bytes(45) + b"y" * 10 + bytes(40)


def test_rows_are_sent_and_received_part_by_part_as_one_transfer(pair: Pair) -> None:
    theirs, ours = Buffer(bytes(100)), Buffer(bytes(range(100)))
    _, theirs_mr = pair.owner.reg(theirs.ptr, theirs.size)
    _, mr = pair.other.reg(ours.ptr, ours.size)
    there = ([theirs_mr] * 3, [theirs.ptr, theirs.ptr + 40, theirs.ptr + 80], [10, 20, 20])
    here = ([mr] * 3, [ours.ptr + 90, ours.ptr + 60, ours.ptr], [10, 20, 20])
    ok, received = pair.owner.recvv_async(pair.to_other, *there, 3, tag=5)
    assert ok
    assert pair.owner.poll_async(received) == (True, False)
    assert pair.other.sendv(pair.to_owner, *here, 3, tag=5)
    assert pair.done(pair.owner, received)
    assert pair.owner.poll_async(received) == (True, True)
    content = ours.content
    assert theirs.content == content[90:] + bytes(30) + content[60:80] + bytes(20) + content[:20]
    ok, sent = pair.other.sendv_async(pair.to_owner, *here)
    assert ok
    assert pair.owner.recvv(pair.to_other, *there)
    assert pair.done(pair.other, sent)


def test_a_row_with_one_bad_part_is_not_begun(pair: Pair) -> None:
    ours = Buffer(bytes(100))
    _, mr = pair.other.reg(ours.ptr, ours.size)
    assert pair.other.sendv_async(pair.to_owner, [mr, mr], [ours.ptr, ours.ptr + 90], [10, 11]) == (False, 0)
    assert not pair.other.recvv(pair.to_owner, [mr, mr + 1], [ours.ptr, ours.ptr], [10, 10])
    assert pair.other._endpoint.status().transfers == 0
    with pytest.raises(BadArgument, match="different lengths"):
        pair.other.sendv(pair.to_owner, [mr], [ours.ptr], [10], 2)


def test_a_row_of_which_a_part_fails_has_failed_and_says_why(pair: Pair) -> None:
    theirs, ours = Buffer(bytes(100)), Buffer(bytes(100))
    _, theirs_mr = pair.owner.reg(theirs.ptr, theirs.size)
    _, mr = pair.other.reg(ours.ptr, ours.size)
    assert pair.owner.recvv_async(pair.to_other, [theirs_mr] * 2, [theirs.ptr] * 2, [10, 10])[0]
    ok, sent = pair.other.sendv_async(pair.to_owner, [mr] * 2, [ours.ptr] * 2, [10, 11])
    assert ok
    assert not pair.done(pair.other, sent)
    assert "11 bytes" in pair.other.failure(sent)


def test_a_vector_of_items_that_name_places_of_two_buffers_in_turn_is_one_transfer(pair: Pair) -> None:
    one, two, ours = Buffer(bytes(100)), Buffer(bytes(100)), Buffer(b"x" * 400)
    items = [item_of(pair, one), item_of(pair, two)]
    _, mr = pair.other.reg(ours.ptr, ours.size)
    vector = [update_item(items[index % 2], (one, two)[index % 2].ptr + 20 * index, 10 + index) for index in range(4)]
    sizes, ptrs = [10, 11, 12, 13], [ours.ptr + 50 * index for index in range(4)]
    assert pair.other.writev(pair.to_owner, [mr] * 4, ptrs, sizes, vector, 4)
    assert one.content == b"x" * 10 + bytes(30) + b"x" * 12 + bytes(48)
    assert two.content == bytes(20) + b"x" * 11 + bytes(29) + b"x" * 13 + bytes(27)
    assert pair.other.readv(pair.to_owner, [mr] * 4, ptrs, sizes, vector)


def test_a_vector_with_an_item_that_was_altered_writes_nothing(pair: Pair) -> None:
    one, two, ours = Buffer(bytes(100)), Buffer(bytes(100)), Buffer(b"x" * 100)
    good, bad = item_of(pair, one), bytearray(item_of(pair, two))
    bad[63] ^= 1
    _, mr = pair.other.reg(ours.ptr, ours.size)
    row = ([mr] * 2, [ours.ptr] * 2, [100] * 2, [good, bytes(bad)])
    assert not pair.other.writev(pair.to_owner, *row)
    ok, transfer = pair.other.writev_async(pair.to_owner, *row)
    assert ok
    assert not pair.done(pair.other, transfer)
    assert (one.content, two.content) == (bytes(100), bytes(100))


def test_what_is_not_registered_is_not_moved(pair: Pair) -> None:
    theirs, ours = Buffer(bytes(64)), Buffer(bytes(64))
    item = item_of(pair, theirs)
    _, mr = pair.other.reg(ours.ptr, 32)
    assert not pair.other.read(pair.to_owner, mr, ours.ptr, 64, item)
    assert not pair.other.read(pair.to_owner, mr + 7, ours.ptr, 32, item)
    assert pair.other.send_async(pair.to_owner, mr, ours.ptr + 30, 3) == (False, 0)


def test_a_bogus_endpoint_cannot_be_removed(pair: Pair) -> None:
    assert not pair.other.remove_remote_endpoint(4711)


def test_an_endpoint_is_removed_once(pair: Pair) -> None:
    assert pair.other.remove_remote_endpoint(pair.to_owner)
    assert not pair.other.remove_remote_endpoint(pair.to_owner)


def test_adding_an_endpoint_twice_is_adding_it_once(pair: Pair) -> None:
    assert pair.other.add_remote_endpoint(pair.owner.get_metadata()) == (True, pair.to_owner)


def test_an_endpoint_that_was_removed_can_be_added_again_and_works(pair: Pair) -> None:
    theirs, ours = Buffer(b"z" * 64), Buffer(bytes(64))
    item = item_of(pair, theirs)
    _, mr = pair.other.reg(ours.ptr, ours.size)
    pair.other.remove_remote_endpoint(pair.to_owner)
    ok, again = pair.other.add_remote_endpoint(pair.owner.get_metadata())
    assert ok
    assert again != pair.to_owner
    assert pair.other.read(again, mr, ours.ptr, 64, item)
    assert ours.content == theirs.content


def test_a_transfer_after_removal_fails_and_moves_nothing(pair: Pair) -> None:
    theirs, ours = Buffer(b"z" * 64), Buffer(bytes(64))
    item = item_of(pair, theirs)
    _, mr = pair.other.reg(ours.ptr, ours.size)
    pair.other.remove_remote_endpoint(pair.to_owner)
    assert not pair.other.read(pair.to_owner, mr, ours.ptr, 64, item)
    assert pair.other.read_async(pair.to_owner, mr, ours.ptr, 64, item) == (False, 0)
    assert ours.content == bytes(64)


def test_notifications_of_any_size_reach_the_other_side(pair: Pair) -> None:
    for size in (0, 256, 257, 8 << 20):
        assert pair.other.send_notification(pair.to_owner, b"name\x00", b"m" * size)
    assert [(name, len(message)) for name, message in pair.owner.get_notifications()] == [
        (b"name\x00", size) for size in (0, 256, 257, 8 << 20)
    ]


def test_metadata_says_address_port_and_device(pair: Pair) -> None:
    host, port, device = parse_metadata(pair.owner.get_metadata())
    assert (host, device) == ("127.0.0.1", "")
    assert port > 0
    ok, connection = pair.other.connect(host, 0, port)
    assert ok
    assert connection != pair.to_owner


def test_an_endpoint_on_ipv6_is_found_by_its_metadata() -> None:
    with Endpoint(secret=b"tests", host="::1") as owner, Endpoint(secret=b"tests", host="::1") as other:
        assert parse_metadata(owner.get_metadata())[0] == "::1"
        ok, connection = other.add_remote_endpoint(owner.get_metadata())
        assert ok
        assert other.send_notification(connection, b"over", b"six")
        assert owner.accept()[1] == "::1"


def test_peers_are_let_in_without_being_accepted() -> None:
    with Endpoint(secret=b"tests") as owner, Endpoint(secret=b"tests") as other:
        assert owner.start_passive_accept()
        theirs, ours = Buffer(b"z" * 64), Buffer(bytes(64))
        _, theirs_mr = owner.reg(theirs.ptr, theirs.size)
        _, item = owner.advertise(theirs_mr, theirs.ptr, theirs.size)
        _, mr = other.reg(ours.ptr, ours.size)
        _, connection = other.add_remote_endpoint(owner.get_metadata())
        assert other.read(connection, mr, ours.ptr, ours.size, item)
        assert ours.content == theirs.content


def test_nobody_and_nonsense_are_no_endpoints(pair: Pair) -> None:
    gone = Endpoint(secret=b"tests")
    metadata = gone.get_metadata()
    gone.close()
    assert pair.other.add_remote_endpoint(metadata) == (False, 0)
    assert pair.other.add_remote_endpoint(b"nonsense") == (False, 0)
    assert pair.other.accept(timeout_ms=1) == (False, "", "", 0)
