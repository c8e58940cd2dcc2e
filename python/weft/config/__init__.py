"""Settings: read once from flags and environment, checked whole, and passed on as values.

Nothing else reads the environment. A wrong setting stops the process at its start with a sentence that names the
variable. The seeds' own names come first; what they lack is prefixed WEFT_.
"""

from weft.config.availability import read_availability_policy
from weft.config.layers import (
    CelestiaSettings,
    EmergencySettings,
    LayerSettings,
    MockSettings,
    QuorumSettings,
    ValidatorSettings,
    read_layer_settings,
)
from weft.config.process import (
    HEARTBEAT_S,
    RUNTIME_DIR,
    SECRET_FILE,
    WATCH_INTERVAL_MS,
    CoordinatorSettings,
    Profile,
    check_tokens,
    client_token,
    coordinator_url,
    count_of,
    create_secret,
    data_directory,
    find_secret,
    is_loopback,
    is_set,
    is_web_url,
    join_address,
    rdma_choice,
    read_coordinator_settings,
    read_profile,
    read_token_file,
    read_tokens,
    split_address,
    split_tokens,
)
from weft.config.tls import TlsSettings, is_tls_set, read_tls
from weft.config.witness import WitnessSettings, read_witness_settings

__all__ = [
    "HEARTBEAT_S",
    "RUNTIME_DIR",
    "SECRET_FILE",
    "WATCH_INTERVAL_MS",
    "CelestiaSettings",
    "CoordinatorSettings",
    "EmergencySettings",
    "LayerSettings",
    "MockSettings",
    "Profile",
    "QuorumSettings",
    "TlsSettings",
    "ValidatorSettings",
    "WitnessSettings",
    "check_tokens",
    "client_token",
    "coordinator_url",
    "count_of",
    "create_secret",
    "data_directory",
    "find_secret",
    "is_loopback",
    "is_set",
    "is_tls_set",
    "is_web_url",
    "join_address",
    "rdma_choice",
    "read_availability_policy",
    "read_coordinator_settings",
    "read_layer_settings",
    "read_profile",
    "read_tls",
    "read_token_file",
    "read_tokens",
    "read_witness_settings",
    "split_address",
    "split_tokens",
]
