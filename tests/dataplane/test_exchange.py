"""What peers say to each other of objects: what is none of it is refused, whatever bytes it is made of."""

from collections.abc import Callable
from typing import Any

import pytest

from weft.dataplane.exchange import decode_answer, decode_request
from weft.model.errors import BadFrame


@pytest.mark.parametrize("decode", [decode_request, decode_answer])
@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x81\xa4type\xa1\xff", b"\x81\xa1\xff\x00", b"\x90"])
def test_bytes_that_are_no_message_are_a_bad_frame(decode: Callable[[bytes], Any], payload: bytes) -> None:
    with pytest.raises(BadFrame):
        decode(payload)
