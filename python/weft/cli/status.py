"""`weft status`: the nodes, how they reach each other, and the regions, as a table or as JSON."""

import click
import msgspec
from msgspec import Struct
from rich.table import Table

from weft.cli.connection import connect, coordinator_option, json_option
from weft.cli.failure import failures_as_sentences
from weft.cli.output import console
from weft.cli.region import region_table
from weft.client import ClusterInfo, EndpointInfo, MemberBody, PeerInfo, RegionList
from weft.client.sizes import format_size
from weft.config import join_address


class Status(Struct, frozen=True, kw_only=True):
    """All that `weft status` shows, in the coordinator's own words."""

    cluster: ClusterInfo
    endpoints: dict[str, EndpointInfo]
    regions: RegionList


@click.command()
@coordinator_option
@json_option
def status(coordinator: str | None, as_json: bool) -> None:
    """Show the nodes and the regions."""
    with failures_as_sentences(), connect(coordinator) as cluster:
        shown = Status(cluster=cluster.describe(), endpoints=cluster.endpoints().endpoints, regions=cluster.capacity())
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2))
        return
    out = console()
    out.print(
        f"cluster {shown.cluster.name}: {shown.cluster.nodes} nodes, {format_size(shown.regions.lent_bytes)} lent, "
        f"{format_size(shown.regions.free_bytes)} free"
    )
    out.print(_node_table(shown))
    for reason in _reasons(shown):
        out.print(reason)
    if shown.regions.regions:
        out.print(region_table(shown.regions.regions))


def _node_table(shown: Status) -> Table:
    table = Table()
    table.add_column("node")
    table.add_column("status")
    table.add_column("endpoint")
    table.add_column("transport")
    table.add_column("lends", justify="right")
    table.add_column("free", justify="right")
    table.add_column("incarnation")
    table.add_column("last beat", justify="right")
    table.add_column("peers")
    for member in shown.cluster.members:
        endpoint = shown.endpoints.get(str(member.node_id))
        table.add_row(
            str(member.node_id),
            member.status,
            _address(endpoint),
            "-" if endpoint is None else endpoint.transport_type,
            format_size(member.lend_bytes),
            format_size(member.free_bytes),
            member.incarnation or "-",
            _age(member),
            "\n".join(_peer(peer) for peer in member.peers) or "-",
        )
    return table


def _peer(peer: PeerInfo) -> str:
    """How one peer is reached, and what moved by that and by what was used before."""
    moved = ", ".join(f"{format_size(count)} by {transport}" for transport, count in sorted(peer.moved_bytes.items()))
    how = f"{peer.node_id}: {peer.transport}, {peer.rtt_us:.0f} us, {peer.tier}"
    return f"{how}, {moved}" if moved else how


def _reasons(shown: Status) -> list[str]:
    """Why better transports are not used, said by who does not use them."""
    return [
        f"{member.node_id}: {reason}"
        for member in shown.cluster.members
        for peer in member.peers
        for reason in peer.reasons
    ]


def _address(endpoint: EndpointInfo | None) -> str:
    if endpoint is None or endpoint.tcp_addr is None or endpoint.tcp_port is None:
        return "-"
    return join_address(endpoint.tcp_addr, endpoint.tcp_port)


def _age(member: MemberBody) -> str:
    return "never" if member.last_beat_ms_ago is None else f"{member.last_beat_ms_ago / 1000:.1f} s ago"
