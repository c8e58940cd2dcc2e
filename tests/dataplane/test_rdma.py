"""RDMA as a process asks for it, on machines that have none; `make test-rdma` is where it is real."""

import subprocess
import sys

import pytest

from weft.dataplane import Lender, prepare_rdma, report_rdma
from weft.model.errors import NotSupported


def test_a_process_that_may_not_use_rdma_does_not_look_for_it() -> None:
    assert prepare_rdma("off").device is None


def test_a_machine_without_a_device_says_why_and_goes_on() -> None:
    state = prepare_rdma()
    if state.device is not None:
        pytest.skip(f"this machine has {state.device}")
    assert "RDMA" in state.reason
    assert report_rdma() is None


def test_a_device_that_was_named_and_is_missing_is_an_error() -> None:
    if prepare_rdma().device is not None:
        pytest.skip("this machine has a device")
    with pytest.raises(NotSupported, match="RDMA"):
        prepare_rdma("none_of_that_name")


def test_a_lender_without_rdma_has_nothing_to_publish() -> None:
    if prepare_rdma().device is not None:
        pytest.skip("this machine has a device")
    lender = Lender.listen(
        host="127.0.0.1", port_first=0, port_last=0, cluster_id=bytes(16), secret=b"s", name="a", incarnation=1
    )
    try:
        assert lender.lend_rdma() is None
    finally:
        lender.close()


LOOKING_AND_CONNECTING = """
import threading
from weft.dataplane import prepare_rdma
from weft.dataplane.endpoint import Endpoint

def work():
    for _ in range(50):
        prepare_rdma()
        Endpoint.caller(secret=b"s", name="n", cluster_id=bytes(16)).close()

threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_threads_that_look_for_a_device_and_threads_that_make_endpoints_do_not_wait_for_each_other() -> None:
    # A process of its own: one that holds its own interpreter up could not be ended from inside.
    subprocess.run([sys.executable, "-c", LOOKING_AND_CONNECTING], timeout=30, check=True)
