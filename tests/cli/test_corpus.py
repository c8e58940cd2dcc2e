"""What the demo moves: files laid end to end until there is enough."""

import hashlib
from pathlib import Path

import pytest

from weft.cli.demo.corpus import BLOCK_BYTES, Corpus, fingerprint
from weft.cli.demo.report import histogram_line
from weft.model.errors import BadArgument


def test_a_small_file_is_repeated_and_cut(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc" * 1000)

    corpus = Corpus.of_file(file, 10_000)

    assert (corpus.size_bytes, corpus.file_count) == (10_000, 1)
    assert b"".join(corpus.blocks()) == (b"abc" * 4000)[:10_000]


def test_a_large_file_is_taken_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 20_000)

    corpus = Corpus.of_file(file, 1)

    assert corpus.size_bytes == 256 * 20_000
    assert [len(block) for block in corpus.blocks()] == [BLOCK_BYTES, BLOCK_BYTES, 256 * 20_000 - 2 * BLOCK_BYTES]


def test_pythons_own_files_are_the_same_bytes_each_time() -> None:
    corpus = Corpus.of_python(3_000_000)

    assert corpus.file_count > 10
    assert fingerprint(corpus.blocks()) == fingerprint(corpus.blocks())


def test_a_fingerprint_is_the_hash_and_the_count_of_every_byte() -> None:
    seen = fingerprint([b"aab", b"c"])

    assert seen.sha256 == hashlib.sha256(b"aabc").hexdigest()
    assert (seen.histogram[ord("a")], seen.histogram[ord("b")], sum(seen.histogram)) == (2, 1, 4)


def test_the_histogram_shows_what_is_there_and_what_is_not() -> None:
    line = histogram_line(fingerprint([bytes([0]) * 100 + bytes([255])]))

    assert (len(line), line[0], line[1], line[-1]) == (16, "█", " ", "▁")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(BadArgument, match="is empty"):
        Corpus.of_file(file, 10)
