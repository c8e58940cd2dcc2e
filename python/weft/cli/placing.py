"""`weft placement` and `weft schedule`: where a key belongs, and which node suits a workload."""

import click
import msgspec
from rich.console import Console
from rich.table import Table

from weft.cli.connection import call, coordinator_option, json_option
from weft.cli.failure import CommandFailed, failures_as_sentences
from weft.model.errors import NoSuitableNode


@click.command()
@click.argument("key", metavar="HASH")
@click.option("--rf", type=click.IntRange(0, 1_024), default=3, show_default=True, help="How many replicas.")
@coordinator_option
@json_option
def placement(key: str, rf: int, coordinator: str | None, as_json: bool) -> None:
    """Show the nodes an object's hash belongs on, the first one first."""
    with failures_as_sentences(), call(coordinator) as client:
        nodes: list[str] = client.place_key(hash=key, rf=rf)
    if as_json:
        click.echo(msgspec.json.encode(nodes).decode())
    else:
        click.echo("\n".join(nodes) if nodes else "no node can hold it")


@click.command()
@click.option("--cpu", type=click.FloatRange(0, 1), help="The share of its processors that has to be free.")
@click.option("--ram-mb", type=click.FloatRange(0), help="The memory that has to be free, in MB.")
@click.option("--gpu", type=click.FloatRange(0), help="How much of its GPU has to be free.")
@click.option("--max-latency-ms", type=click.FloatRange(0), help="The longest it may take to answer.")
@click.option("--io-tolerance", type=click.FloatRange(0, 1), help="The most I/O pressure the workload bears.")
@click.option("--explain", is_flag=True, help="Show what was thought of every node.")
@coordinator_option
@json_option
def schedule(
    cpu: float | None,
    ram_mb: float | None,
    gpu: float | None,
    max_latency_ms: float | None,
    io_tolerance: float | None,
    explain: bool,
    coordinator: str | None,
    as_json: bool,
) -> None:
    """Show the node that suits a workload best."""
    needs = {
        "cpu_req": cpu,
        "ram_req_mb": ram_mb,
        "gpu_req": gpu,
        "max_latency_ms": max_latency_ms,
        "io_tolerance": io_tolerance,
    }
    with failures_as_sentences(), call(coordinator) as client:
        try:
            chosen = client.schedule(explain=explain, **needs)
        except NoSuitableNode as error:
            if explain and not as_json:
                _show(error.facts.get("explanation", []))
            elif explain:
                click.echo(msgspec.json.encode({"node_id": None, "explanation": error.facts["explanation"]}).decode())
            raise CommandFailed("no suitable node; --explain says why each was refused") from error
    if as_json:
        click.echo(msgspec.json.encode(chosen).decode())
        return
    click.echo(chosen.node_id)
    if chosen.explanation is not None:
        _show(msgspec.to_builtins(chosen.explanation))


def _show(explanation: list[dict[str, object]]) -> None:
    table = Table()
    table.add_column("node")
    table.add_column("score", justify="right")
    table.add_column("refused because")
    for verdict in explanation:
        score = verdict["score"]
        table.add_row(
            str(verdict["node_id"]),
            f"{score:.4f}" if isinstance(score, float | int) else "-",
            str(verdict["refused"] or ""),
        )
    Console().print(table)
