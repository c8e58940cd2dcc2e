"""What a coordinator does not take the time for when it starts."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
import weft.coordinator.__main__
from pathlib import Path
from weft.config import read_layer_settings
from weft.coordinator.layers import open_layers
from weft.receipts import Domain, SigningKey
key = SigningKey.from_secret(b"s" * 32, Domain.PUBLISHER)
layers = open_layers(read_layer_settings(dict(pair.split("=") for pair in sys.argv[1:])), None, None, key, Path("."))
print(len(layers), "httpx" in sys.modules)
"""


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ((), "0 False"),
        (("USE_MOCK_DA=true",), "1 False"),
        (
            ("USE_MOCK_DA=true", "ENABLE_FALLBACK=true", "FALLBACK_DA_TYPE=emergency", "EMERGENCY_DA_URL=http://a:1"),
            "2 True",
        ),
    ],
)
def test_a_coordinator_whose_layers_need_no_network_imports_no_http_client(env: tuple[str, ...], said: str) -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, *env], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, said), ran.stderr
