"""Who may reach memory: the secret, the grant, its time and its region, checked by lenders without asking."""

import contextlib
import secrets
import time

import msgspec
import pytest

import weft
from tests.process.conftest import MIB, Pool, content_of
from weft.api.bodies.region import AttachmentOpenedBody
from weft.client.region import _bands
from weft.dataplane import RegionMemory
from weft.model.errors import PageUnavailable, WeftError
from weft.model.grant import grant_key, mint, verify

pytestmark = pytest.mark.process


def mapped(
    pool: Pool, opened: AttachmentOpenedBody, *, secret: str | None = None, grant: bytes | None = None
) -> RegionMemory:
    """A mapping made by hand, as somebody would who does not use the client."""
    return RegionMemory.map(
        region=opened.region.name,
        size_bytes=opened.region.size_bytes,
        mode=opened.mode,
        bands=_bands(opened.region.layout),
        peers=[(node_id, one.tcp_addr, one.tcp_port) for node_id, one in opened.endpoints.items()],
        grant=opened.grant if grant is None else grant,
        cluster_id=bytes.fromhex(pool.cluster.describe().cluster_id),
        secret=(pool.secret if secret is None else secret).encode(),
        holder="tests",
        incarnation=secrets.randbits(63) + 1,
        fault_timeout_ms=2000,
    )


def refusal_of(memory: RegionMemory) -> str:
    """Why the first page does not come."""
    with memory, pytest.raises(PageUnavailable) as refused:
        memory.read(0, 1)
    return str(refused.value.reason)


@pytest.fixture
def opened(pool: Pool) -> AttachmentOpenedBody:
    """A read attachment of a sealed region, opened at the coordinator and not mapped yet."""
    pool.filled("sealed", content_of(4 * MIB))
    return pool.cluster.ask(pool.cluster.coordinator.attach("sealed", "read", "tests"))


def test_a_grant_opens_the_region_it_names(pool: Pool, opened: AttachmentOpenedBody) -> None:
    with mapped(pool, opened) as memory:
        assert memory.read(0, 16) == content_of(16)


def test_without_the_clusters_secret_no_greeting_is_answered(pool: Pool, opened: AttachmentOpenedBody) -> None:
    assert refusal_of(mapped(pool, opened, secret="another secret")).startswith("wrong_secret")


def test_a_grant_that_was_changed_is_forged(pool: Pool, opened: AttachmentOpenedBody) -> None:
    changed = bytearray(opened.grant)
    changed[5] |= 2  # The right to write.

    assert refusal_of(mapped(pool, opened, grant=bytes(changed))).startswith("grant_forged")


def test_a_grant_whose_time_is_over_is_refused(pool: Pool, opened: AttachmentOpenedBody) -> None:
    key = grant_key(pool.secret.encode())
    now_ms = time.time_ns() // 1_000_000
    late = mint(msgspec.structs.replace(verify(opened.grant, key, now_ms), expires_at_ms=now_ms - 1000), key)

    refusal = refusal_of(mapped(pool, opened, grant=late))
    assert refusal.startswith("grant_expired")
    assert "by the clock of a" in refusal


def test_a_grant_of_another_region_does_not_open_this_one(pool: Pool, opened: AttachmentOpenedBody) -> None:
    pool.filled("other", content_of(4 * MIB, "other"))
    other = pool.cluster.ask(pool.cluster.coordinator.attach("other", "read", "tests"))

    # Extents are looked up by the grant's own region, so what comes is that region's bytes or nothing.
    with mapped(pool, opened, grant=other.grant) as memory, contextlib.suppress(PageUnavailable):
        assert memory.read(0, 16) == content_of(16, "other")


def test_an_attachment_needs_the_secret_and_says_where_it_was_looked_for(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: "object"
) -> None:
    monkeypatch.delenv("WEFT_SECRET", raising=False)
    monkeypatch.setenv("WEFT_DATA_DIR", str(tmp_path))
    pool.filled("sealed", content_of(4 * MIB))

    with weft.connect(pool.url) as cluster, pytest.raises(WeftError, match="WEFT_SECRET"):
        cluster.region("sealed").attach("read")
