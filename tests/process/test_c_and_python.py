"""An endpoint of C and one of Python: one engine, one wire, one item."""

import os
from pathlib import Path

import pytest

from weft.cli.demo.cluster import OWN_SETTINGS
from weft.cli.demo.crew import Crew
from weft.client.uccl import Endpoint

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
LIBRARIES = [TARGET / profile / "deps" / "libweft.so" for profile in ("debug", "release")]

CRATES = ("capi", "engine", "sys", "transport", "unpack", "verbs", "wire")

# What a C program does, by the calls of weft.h: reads what an item names, changes it, and writes it back.
READER = """
import ctypes, sys
from ctypes import byref, c_size_t, c_uint64, c_void_p
weft = ctypes.CDLL(sys.argv[1])
weft.uccl_engine_create.restype = weft.uccl_engine_connect.restype = c_void_p
weft.weft_last_error.restype = ctypes.c_char_p
item, port, mr, transfer = bytes.fromhex(sys.argv[3]), int(sys.argv[2]), c_uint64(), c_uint64()
def done(answer):
    assert answer == 0, weft.weft_last_error()
    assert weft.weft_xfer_state(conn, transfer, c_uint64(10_000)) == 1, weft.weft_last_error()
engine = c_void_p(weft.uccl_engine_create(1, False))
conn = c_void_p(weft.uccl_engine_connect(engine, b"127.0.0.1", b"", port, False))
assert conn, weft.weft_last_error()
own = ctypes.create_string_buffer(8)
assert weft.uccl_engine_reg(engine, c_size_t(ctypes.addressof(own)), c_size_t(8), byref(mr)) == 0
done(weft.uccl_engine_read(conn, mr, own, c_size_t(8), item, byref(transfer)))
print("read", own.raw.decode(), flush=True)
own.raw = own.raw.upper()
done(weft.uccl_engine_write(conn, mr, own, c_size_t(8), item, byref(transfer)))
assert weft.uccl_engine_send_notif_v(conn, b"done", c_size_t(4), b"", c_size_t(0)) == 0
weft.uccl_engine_conn_destroy(conn)
weft.uccl_engine_destroy(engine)
"""


def test_c_reads_and_writes_by_an_item_of_python() -> None:
    import ctypes

    # One that was built before its sources changed may speak another wire than the module Python has.
    changed = max(path.stat().st_mtime for crate in CRATES for path in (ROOT / "rust" / crate / "src").rglob("*.rs"))
    library = next((path for path in LIBRARIES if path.exists() and path.stat().st_mtime >= changed), None)
    if library is None:
        pytest.skip("libweft.so is not built from these sources; cargo test --package weft-capi builds it")
    secret = "a secret for tests"
    memory = ctypes.create_string_buffer(b"python's", 8)
    with Crew({"WEFT_SECRET": secret}, without=OWN_SETTINGS) as crew, Endpoint(secret=secret.encode()) as endpoint:
        ok, mr = endpoint.reg(ctypes.addressof(memory), 8)
        assert ok
        ok, item = endpoint.advertise(mr, ctypes.addressof(memory), 8)
        assert ok
        port = endpoint.parse_metadata(endpoint.get_metadata())[1]
        child = crew.start("reader", "-c", READER, str(library), str(port), item.hex())
        assert child.wait(30) == 0, child.lines
        assert child.lines == ["read python's"]
        assert memory.raw == b"PYTHON'S"
        assert endpoint.get_notifications() == [(b"done", b"")]
