"""The two implementations of what both sides mint and check agree byte for byte, and the bytes are pinned."""

from weft import _native
from weft.dataplane.endpoint import Endpoint
from weft.model import policy
from weft.model.attachment import Mode, Right
from weft.model.grant import Grant, grant_key, mint
from weft.model.ids import ClusterId, Generation, RegionId

CLUSTER_ID = ClusterId(b"0123456789abcdef")


def test_a_grant_minted_in_python_is_the_grant_minted_in_rust() -> None:
    grant = Grant(
        cluster_id=CLUSTER_ID,
        region_id=RegionId("r00112233aabbccdd"),
        generation=Generation(7),
        mode=Mode.EXCLUSIVE,
        rights=Right.READ | Right.WRITE,
        holder="borrower",
        expires_at_ms=1_700_000_000_000,
    )
    assert mint(grant, grant_key(b"secret")) == _native.wire_vectors()["grant"]


def test_the_bytes_of_a_read_are_those_in_the_wire_document() -> None:
    header = _native.wire_vectors()["header_read"]
    assert (
        header.hex()
        == (
            "57454654010300000000000000000000"  # WEFT, version 1, read, no flags, lane 0, no ranges
            "05000000000000000200000000000000"  # request 5, handle 2
            "00100000000000000020000000000000"  # offset 4096, length 8192
            "000000000000000000000000" + header[60:].hex()  # tag 0, zero, the checksum
        )
    )


def test_a_client_hello_starts_with_the_cluster_and_ends_with_the_name() -> None:
    hello = _native.wire_vectors()["client_hello"]
    assert hello == CLUSTER_ID + bytes([9]) * 32 + bytes.fromhex("0807060504030201") + b"borrower"


def test_the_limits_compiled_into_the_core_are_the_policy() -> None:
    limits = _native.LIMITS
    assert limits["page_bytes"] == policy.PAGE_BYTES
    assert limits["payload_bytes_max"] == policy.PAYLOAD_BYTES_MAX
    assert limits["ranges_max"] == policy.RANGES_COUNT_MAX


def test_endpoints_that_hold_one_secret_are_of_one_cluster_in_c_too() -> None:
    with Endpoint.listen(secret=b"a test's secret") as endpoint:
        assert endpoint.cluster_id.hex() == "271d17f03dbd9b4d084051d50d6c1a3f"
