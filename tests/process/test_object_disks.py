"""Real disks that are full or read-only: what cannot be kept is refused with the reason, what is kept is served."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.disks import MIB, mount, small_disk
from tests.process.farm import Farm, farm
from weft.model.errors import ObjectNotStored
from weft.model.policy import STORE_SPARE_BYTES

pytestmark = pytest.mark.process


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, a little larger than what a store leaves to others."""
    with small_disk(tmp_path / "disk", STORE_SPARE_BYTES + 16 * MIB) as made:
        yield made


def offered(cluster: Farm, object_hash: str) -> list[str]:
    """Where an object would be put now."""
    return cluster.cluster.ask(cluster.cluster.coordinator.object_targets(object_hash)).targets


def test_a_read_only_disk_refuses_to_keep_and_goes_on_to_serve(disk: Path) -> None:
    with farm() as cluster:
        cluster.start("a", objects=disk / "store")
        kept = cluster.cluster.put(b"kept", replicas=1)
        mount("-o", "remount,ro", str(disk))

        with pytest.raises(ObjectNotStored) as refused:
            cluster.cluster.put(b"not kept", replicas=1)

        assert "did not let this node begin a file: Read-only file system" in str(refused.value)
        assert cluster.cluster.get(kept) == b"kept"
        mount("-o", "remount,rw", str(disk))
        later = cluster.cluster.put(b"not kept", replicas=1)
        assert cluster.cluster.get(later) == b"not kept"


def test_a_full_disk_is_offered_nothing_more_and_goes_on_to_serve(disk: Path) -> None:
    with farm() as cluster:
        cluster.start("a", objects=disk / "store")
        kept = cluster.cluster.put(b"kept", replicas=1)
        filler = disk / "somebody else's"
        with filler.open("wb") as file:
            file.write(bytes(17 * MIB))

        with pytest.raises(ObjectNotStored):
            cluster.cluster.put(bytes(MIB), replicas=1)

        assert cluster.cluster.get(kept) == b"kept"
        assert list((disk / "store" / "incoming").iterdir()) == []
        filler.unlink()
        (short,) = [one.hash for one in cluster.cluster.ask(cluster.cluster.coordinator.objects(absent=True)).objects]
        cluster.settled(lambda: offered(cluster, short) == ["a"])
        assert cluster.cluster.get(cluster.cluster.put(bytes(MIB), replicas=1)) == bytes(MIB)
