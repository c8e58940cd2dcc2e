"""Options of the whole suite, and the engines its tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import NatsCluster, NatsServer, PostgresServer


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write down pinned texts as they are now")


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One NATS server for all tests; each uses a stream of its own name."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    yield server
    server.kill()


@pytest.fixture
def nats_cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    """Three NATS servers for one test, which may kill some."""
    cluster = NatsCluster(tmp_path)
    yield cluster
    cluster.kill()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL server for all tests; each uses a schema of its own name."""
    server = PostgresServer()
    yield server
    server.kill()
