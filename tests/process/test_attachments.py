"""Regions between processes: who may write, who may read, and that every byte arrives."""

import hashlib
import threading

import numpy
import pytest

import weft
from tests.process.conftest import DEADLINE_S, MIB, Pool, content_of
from weft.model.errors import (
    AttachmentConflict,
    BadArgument,
    PageUnavailable,
    RegionInUse,
    RegionNotFound,
    RegionNotSealed,
    RegionSealed,
    StaleGeneration,
    StillExported,
    WeftError,
)

pytestmark = pytest.mark.process


def test_what_four_threads_wrote_two_other_processes_read(pool: Pool) -> None:
    content = content_of(32 * MIB)
    region = pool.cluster.region("shared", size=len(content))
    with region.attach("exclusive") as memory:
        source = numpy.frombuffer(content, dtype="u1")
        barrier = threading.Barrier(4, timeout=DEADLINE_S)

        def write(quarter: int) -> None:
            barrier.wait()
            part = slice(quarter * len(content) // 4, (quarter + 1) * len(content) // 4)
            memory.numpy()[part] = source[part]

        writers = [threading.Thread(target=write, args=(quarter,)) for quarter in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(DEADLINE_S)
        assert memory.flush() >= len(content)
    region.seal()

    readers = [pool.run("digest", "shared") for _ in range(2)]

    expected = f"sha256 {hashlib.sha256(content).hexdigest()}"
    assert [reader.line_with("sha256", DEADLINE_S) for reader in readers] == [expected, expected]
    assert [reader.wait(DEADLINE_S) for reader in readers] == [0, 0]


def test_leaving_the_block_flushes_and_a_region_is_born_zero(pool: Pool) -> None:
    region = pool.cluster.region("scratch", size=4 * MIB)
    with region.attach("exclusive") as memory:
        memory.buffer[:5] = b"hello"
    with region.attach("exclusive") as memory:
        assert memory.read(0, 8) == b"hello\0\0\0"
        assert memory.read(4 * MIB - 4, 4) == b"\0\0\0\0"


def test_leaving_the_block_by_an_exception_gives_up_what_was_not_flushed(pool: Pool) -> None:
    region = pool.cluster.region("scratch", size=4 * MIB)

    def fail_while_writing() -> None:
        with region.attach("exclusive") as memory:
            memory.write(0, b"first")
            memory.flush()
            memory.write(0, b"other")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_writing()
    with region.attach("exclusive") as memory:
        assert memory.read(0, 5) == b"first"


def test_an_array_and_a_slice_of_odd_size_are_the_same_bytes(pool: Pool) -> None:
    region = pool.cluster.region("odd", size=3 * MIB + 123)
    with region.attach("exclusive") as memory:
        table = memory.numpy("<u4", shape=(100, 7), offset=4)
        table[:] = numpy.arange(700).reshape(100, 7)
        del table
        assert memory.size_bytes == len(memory) == 3 * MIB + 123
        assert memory.read(4 + 4 * 699, 4) == (699).to_bytes(4, "little")
        with pytest.raises(BadArgument, match="takes"):
            memory.numpy("u1", shape=3 * MIB + 124)
        with pytest.raises(BadArgument, match="outside"):
            memory.read(3 * MIB, 200)


def test_a_second_exclusive_attachment_is_refused_and_told_who_holds_it(pool: Pool) -> None:
    region = pool.cluster.region("scratch", size=4 * MIB)
    with region.attach("exclusive"), pytest.raises(AttachmentConflict, match="tests"):
        region.attach("exclusive")


def test_reading_needs_a_seal_and_a_sealed_region_takes_no_writer(pool: Pool) -> None:
    region = pool.cluster.region("scratch", size=4 * MIB)
    with pytest.raises(RegionNotSealed):
        region.attach("read")
    region.seal()
    with pytest.raises(RegionSealed):
        region.attach("exclusive")
    with region.attach("read"), region.attach("read") as second, region.attach("private") as third:
        assert second.read(0, 1) == third.read(0, 1) == b"\0"


def test_a_region_with_a_writer_is_not_sealed(pool: Pool) -> None:
    region = pool.cluster.region("scratch", size=4 * MIB)
    with region.attach("exclusive"), pytest.raises(WeftError) as refused:
        region.seal()
    assert isinstance(refused.value, RegionInUse)


def test_a_read_attachment_cannot_be_written_through_any_door(pool: Pool) -> None:
    region = pool.filled("sealed", content_of(4 * MIB))
    with region.attach("read") as memory:
        with pytest.raises(WeftError, match="read"):
            memory.write(0, b"x")
        array = memory.numpy()
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with memory.buffer as buffer, pytest.raises(TypeError, match="read-only"):
            buffer[0] = 1
        del array
        assert memory.read(0, 4) == content_of(4)


def test_what_is_written_through_a_private_attachment_stays_there(pool: Pool) -> None:
    content = content_of(4 * MIB)
    region = pool.filled("sealed", content)
    with region.attach("private") as mine, region.attach("read") as other:
        mine.buffer[:5] = b"mine!"
        assert mine.read(0, 8) == b"mine!" + content[5:8]
        assert other.read(0, 8) == content[:8]


def test_a_writer_whose_region_was_taken_over_reaches_no_lender_any_more(pool: Pool) -> None:
    region = pool.cluster.region("scratch", size=8 * MIB)
    old = region.attach("exclusive")
    old.write(0, b"old")
    with region.attach("exclusive", takeover=True) as new:
        new.write(0, b"new")
        new.flush()
        with pytest.raises(StaleGeneration):
            old.flush()
        with pytest.raises(PageUnavailable) as refused:
            old.read(6 * MIB, 1)
        assert refused.value.reason.startswith("stale_generation")
        assert new.read(0, 3) == b"new"
    old.detach(flush=False)


def test_a_holder_that_was_killed_is_taken_over_from(pool: Pool) -> None:
    region = pool.cluster.region("scratch", size=4 * MIB)
    holder = pool.run("hold", "scratch")
    holder.line_with("holding", DEADLINE_S)
    holder.kill()
    with pytest.raises(AttachmentConflict):
        region.attach("exclusive")
    with region.attach("exclusive", takeover=True) as memory:
        assert memory.read(0, 1) == b"\0"


def test_an_attachment_is_not_detached_under_an_array(pool: Pool) -> None:
    region = pool.cluster.region("scratch", size=4 * MIB)
    memory = region.attach("exclusive")
    array = memory.numpy()
    with pytest.raises(StillExported, match="1 live") as refused:
        memory.detach()
    assert isinstance(refused.value, BufferError)
    del array
    memory.detach()
    memory.detach()
    assert memory.detached
    with pytest.raises(WeftError, match="closed"):
        memory.read(0, 1)


def test_an_array_that_outlives_the_block_keeps_its_pages_and_a_warning_says_so(pool: Pool) -> None:
    region = pool.cluster.region("scratch", size=4 * MIB)

    def keep_an_array() -> "numpy.ndarray":
        with region.attach("exclusive") as memory:
            array = memory.numpy()
            array[0] = 7
            return array

    with pytest.warns(ResourceWarning, match="outlive"):
        array = keep_an_array()
    assert array[0] == 7
    with region.attach("exclusive") as again:
        assert again.read(0, 1) == b"\x07"


def test_a_region_asked_for_with_another_size_is_refused_with_both(pool: Pool) -> None:
    pool.cluster.region("scratch", size="4MiB")
    assert pool.cluster.region("scratch", size="4MiB").size_bytes == 4 * MIB
    with pytest.raises(BadArgument, match=r"4194304 bytes and 8388608"):
        pool.cluster.region("scratch", size="8MiB")
    with pytest.raises(RegionNotFound, match="give a size"):
        pool.cluster.region("other")


def test_a_deleted_region_gives_its_room_back(pool: Pool) -> None:
    pool.cluster.region("all", size=128 * MIB).wait_ready().delete()
    assert pool.cluster.capacity().free_bytes == 128 * MIB
    pool.cluster.region("all", size=128 * MIB).wait_ready()


def test_a_mapping_does_not_pass_through_fork(pool: Pool) -> None:
    child = pool.run("fork", "scratch")
    line = child.line_with("child", DEADLINE_S)
    assert "does not pass through fork" in line
    assert "over a connection of its own" in line
    assert child.line_with("parent", DEADLINE_S) == "parent still reads"
    assert child.wait(DEADLINE_S) == 0
    assert weft.connect(pool.url, secret=pool.secret).region("scratch").info.attachments == []
