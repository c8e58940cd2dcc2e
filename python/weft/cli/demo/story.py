"""What the demo does, in order. Each step prints what it is about and ends within a deadline.

1. a coordinator and three nodes, each a process of its own
2. real files go into a region over the three lenders, are flushed, and the region is sealed
3. another process reads them through its mapping and is compared with the files
4. one lender is killed; a child touches one of its pages and is ended by a signal, with a line that says why
5. the lender comes back under its name and port; what it held is lost, and says so instead of reading as zeros
"""

import secrets
import signal
import time

import msgspec
from rich.console import Console
from rich.progress import Progress

from weft.cli.demo.cluster import COORDINATOR, OWN_SETTINGS, Node, start_coordinator, start_node
from weft.cli.demo.corpus import Corpus, fingerprint
from weft.cli.demo.crew import Crew, describe_status
from weft.cli.demo.reader import Reading, ReadSoFar
from weft.cli.demo.report import progress_bar, show_reading
from weft.cli.failure import CommandFailed
from weft.client import Attachment, Cluster, LayoutInfo, connect
from weft.client.sizes import format_size
from weft.dataplane import leave_tls
from weft.model.errors import PageUnavailable
from weft.model.policy import PAGE_BYTES, STRIPE_BYTES

LENDERS = ("ada", "grace", "hedy")
REGION = "demo"

# How long the child may take until it has attached.
_START_S = 15.0
# How long the reader may take for everything; at 256 MiB it takes a few seconds.
_READ_S = 40.0
# How long a touched page may take to end in a signal: the fault deadline and some for the process to die.
_SIGNAL_S = 10.0


def tell(console: Console, corpus: Corpus) -> None:
    """Runs the demo. Raises CommandFailed when anything is not as promised."""
    secret = secrets.token_hex(32)
    # Nothing of the person's own cluster may leak into this one, nor this one into it.
    # Processes of one machine would map each other's memory; what is shown is what happens between machines.
    with Crew({"WEFT_SECRET": secret, "WEFT_TRANSPORT": "tcp"}, without=OWN_SETTINGS) as crew:
        url = start_coordinator(crew)
        console.print(f"coordinator at {url}", highlight=False)
        console.print("everything moves over TCP, as between machines")
        lend_bytes = _share_bytes(corpus.size_bytes)
        nodes = {name: start_node(crew, name, url, lend_bytes) for name in LENDERS}
        for node in nodes.values():
            console.print(node.line, highlight=False)
        with connect(url, secret=secret) as cluster:
            # The demo's nodes have no certificates, whatever a person has set for a cluster of their own.
            leave_tls()
            _put(console, cluster, corpus)
            _read(console, crew, url, corpus)
            _lose_a_lender(console, crew, cluster, url, nodes["grace"], lend_bytes)
    console.print("\nevery process has ended and nothing is left behind")


def _put(console: Console, cluster: Cluster, corpus: Corpus) -> None:
    """The files go in through an exclusive attachment; flushing sends them home, sealing lets many read them."""
    console.print(
        f"\nputting {format_size(corpus.size_bytes)} of {corpus.file_count:,} files into region {REGION!r} "
        f"over {len(LENDERS)} lenders",
        highlight=False,
    )
    region = cluster.region(REGION, size=corpus.size_bytes)
    with region.attach("exclusive") as memory:
        with progress_bar(console) as bar:
            _write(bar, memory, corpus)
        started_s = time.monotonic()
        flushed_bytes = memory.flush()
        duration_s = time.monotonic() - started_s
    console.print(f"flushed {format_size(flushed_bytes)} in {duration_s:.2f} s, sealed", highlight=False)
    region.seal()


def _write(bar: Progress, memory: Attachment, corpus: Corpus) -> None:
    """Written by asking and not by touching: should a lender be lost here, the demo has a sentence to end with."""
    written = bar.add_task("write", total=corpus.size_bytes)
    offset = 0
    for block in corpus.blocks():
        offset += memory.write(offset, block)
        bar.update(written, completed=offset)


def _read(console: Console, crew: Crew, url: str, corpus: Corpus) -> None:
    """Another process reads; its bytes are compared with the files themselves."""
    reader = crew.start(
        "reader", "-m", "weft.cli.demo.reader", REGION, str(corpus.size_bytes), environment={COORDINATOR: url}
    )
    with progress_bar(console) as bar:
        seen = bar.add_task("read", total=corpus.size_bytes)
        while not (line := reader.line_with("{", _READ_S)).startswith('{"fingerprint"'):
            bar.update(seen, completed=msgspec.json.decode(line, type=ReadSoFar).read_bytes)
        bar.update(seen, completed=corpus.size_bytes)
    reading = msgspec.json.decode(line, type=Reading)
    reader.wait(_READ_S)
    expected = fingerprint(corpus.blocks())
    if reading.fingerprint != expected:
        raise CommandFailed(
            f"the bytes that came back are not those of the files: SHA-256 {reading.fingerprint.sha256} "
            f"instead of {expected.sha256}; please report this"
        )
    show_reading(console, reading, -(-corpus.size_bytes // PAGE_BYTES))
    console.print(f"SHA-256 {expected.sha256}: equal to the files read directly", highlight=False)


def _lose_a_lender(console: Console, crew: Crew, cluster: Cluster, url: str, node: Node, lend_bytes: int) -> None:
    """A killed lender's pages end in a signal and a reason, and after its return in an exception: never in zeros."""
    region = cluster.region(REGION)
    offset = _offset_at(region.layout, node.name)
    child = crew.start("child", "-m", "weft.cli.demo.toucher", REGION, str(offset), environment={COORDINATOR: url})
    child.line_with("attached", _START_S)
    console.print(f"\nkill -9 {node.child.pid} ({node.name}); a child touches byte {offset:,}, which lived there:")
    node.child.kill()
    child.say("touch")
    status = child.wait(_SIGNAL_S)
    console.print(f"  {child.last_line}", highlight=False, soft_wrap=True)
    console.print(f"  child {child.pid} ended by {describe_status(status)}", highlight=False)
    if status != -signal.SIGBUS:
        raise CommandFailed(f"the child should have been ended by SIGBUS and ended by {describe_status(status)}")

    console.print(f"\n{node.name} comes back at the same port:")
    again = start_node(crew, node.name, url, lend_bytes, port=node.port)
    console.print(f"  {again.line}", highlight=False)
    with region.attach("read") as memory:
        try:
            memory.read(offset, PAGE_BYTES)
        except PageUnavailable as lost:
            console.print(f"  read byte {offset:,}: {type(lost).__name__}: {lost}", highlight=False, soft_wrap=True)
            if not lost.reason.startswith("extent_lost"):
                raise CommandFailed(f"the page should have been lost and is unavailable for {lost.reason}") from lost
        else:
            raise CommandFailed("a page whose only copy died was read; please report this")


def _offset_at(layout: LayoutInfo, node_id: str) -> int:
    """The first byte of the region that a node holds: extent k of a band begins with its stripe k."""
    for band in layout.bands:
        for turn, extent in enumerate(band.extents):
            if any(replica.node_id == node_id for replica in extent.replicas):
                return (band.first_stripe + turn) * layout.stripe_bytes
    raise CommandFailed(f"node {node_id} holds no part of region {REGION!r}")


def _share_bytes(size_bytes: int) -> int:
    """What each lender lends: its third in whole stripes."""
    stripes = -(-size_bytes // STRIPE_BYTES)
    return -(-stripes // len(LENDERS)) * STRIPE_BYTES
