"""Settings of layers: what the storage seed's variables say, and sentences that name the one that is wrong."""

import pytest

from weft.config import CelestiaSettings, MockSettings, read_layer_settings
from weft.model.errors import Misconfigured

NAMESPACE = "00" * 19 + "77656674000000000001"
CELESTIA = {"DA_RPC_URL": "http://localhost:26658", "DA_NAMESPACE": NAMESPACE}
MOCK = {"USE_MOCK_DA": "true"}
KEY = "ab" * 32
QUORUM = {
    **MOCK,
    "ENABLE_FALLBACK": "true",
    "FALLBACK_DA_TYPE": "quorum",
    "QUORUM_VALIDATORS": f"https://a:1#{KEY}, 127.0.0.1:2",
}


def test_nothing_set_is_no_layer() -> None:
    settings = read_layer_settings({})
    assert (settings.primary, settings.secondary, settings.emergency) == (None, None, None)


def test_the_mock_asks_for_nothing_else() -> None:
    assert read_layer_settings({**MOCK, "DA_RPC_URL": "", "DA_NETWORK": "mainnet"}).primary == MockSettings()


def test_the_seeds_defaults_hold() -> None:
    settings = read_layer_settings(CELESTIA).primary
    assert isinstance(settings, CelestiaSettings)
    assert (settings.timeout_ms, settings.retry_count, settings.retry_delay_ms) == (30_000, 3, 1_000)
    assert (settings.network, settings.token, settings.auth_header) == ("local", None, "Authorization")
    assert settings.namespace == bytes.fromhex(NAMESPACE)


def test_a_token_without_a_network_means_mainnet() -> None:
    settings = read_layer_settings({**CELESTIA, "DA_AUTH_TOKEN": "token"}).primary
    assert isinstance(settings, CelestiaSettings)
    assert settings.network == "mainnet"


def test_no_retries_is_a_number_of_retries() -> None:
    settings = read_layer_settings({**CELESTIA, "DA_RETRY_COUNT": "0"}).primary
    assert isinstance(settings, CelestiaSettings)
    assert settings.retry_count == 0


def test_both_fallbacks_can_be_there_at_once() -> None:
    settings = read_layer_settings(
        {**QUORUM, "FALLBACK_DA_TYPE": "quorum,emergency", "EMERGENCY_DA_URL": "http://127.0.0.1:9/"}
    )
    assert settings.secondary is not None
    assert settings.emergency is not None
    assert settings.emergency.url == "http://127.0.0.1:9"
    assert [one.url for one in settings.secondary.validators] == ["https://a:1", "http://127.0.0.1:2"]
    assert [one.public_key for one in settings.secondary.validators] == [bytes.fromhex(KEY), None]
    assert (settings.secondary.threshold_percent, settings.secondary.timeout_ms) == (67, 5_000)


def test_a_fallback_that_is_not_enabled_is_not_read() -> None:
    assert read_layer_settings({**MOCK, "FALLBACK_DA_TYPE": "quorum"}).secondary is None


@pytest.mark.parametrize(
    ("env", "variable"),
    [
        ({"DA_RPC_URL": "http://a"}, "DA_NAMESPACE"),
        ({"DA_NAMESPACE": NAMESPACE}, "DA_RPC_URL"),
        ({"DA_AUTH_TOKEN": "token"}, "DA_RPC_URL"),
        ({**CELESTIA, "DA_RPC_URL": "localhost:26658"}, "DA_RPC_URL"),
        ({**CELESTIA, "DA_RPC_URL": "http://user:word@a"}, "DA_RPC_URL"),
        ({**CELESTIA, "DA_NAMESPACE": "00" * 29}, "DA_NAMESPACE"),
        ({**CELESTIA, "DA_NAMESPACE": "00" * 28}, "DA_NAMESPACE"),
        ({**CELESTIA, "DA_NAMESPACE": "494b2129dbaad4e657477b5c37c0b257cdd2b62b7400d8a4252afe5aa0"}, "DA_NAMESPACE"),
        ({**CELESTIA, "DA_NETWORK": "moon"}, "DA_NETWORK"),
        ({**CELESTIA, "DA_NETWORK": "mainnet"}, "DA_AUTH_TOKEN"),
        ({**CELESTIA, "DA_AUTH_TOKEN": "one,two"}, "DA_AUTH_TOKEN"),
        ({**CELESTIA, "DA_TIMEOUT_MS": "0"}, "DA_TIMEOUT_MS"),
        ({**CELESTIA, "DA_RETRY_COUNT": "-1"}, "DA_RETRY_COUNT"),
        ({**CELESTIA, "WEFT_DA_AUTH_HEADER": "x y"}, "WEFT_DA_AUTH_HEADER"),
        ({**CELESTIA, "WEFT_DA_GAS_PRICE": "cheap"}, "WEFT_DA_GAS_PRICE"),
        ({**MOCK, "ENABLE_FALLBACK": "true"}, "FALLBACK_DA_TYPE"),
        ({**MOCK, "FALLBACK_DA_TYPE": "quorum,quorum"}, "FALLBACK_DA_TYPE"),
        ({**MOCK, "FALLBACK_DA_TYPE": "celestia"}, "FALLBACK_DA_TYPE"),
        ({"ENABLE_FALLBACK": "true", "FALLBACK_DA_TYPE": "emergency"}, "ENABLE_FALLBACK"),
        ({**MOCK, "ENABLE_FALLBACK": "true", "FALLBACK_DA_TYPE": "emergency"}, "EMERGENCY_DA_URL"),
        ({**QUORUM, "QUORUM_VALIDATORS": ""}, "QUORUM_VALIDATORS"),
        ({**QUORUM, "QUORUM_VALIDATORS": "https://far.example:1"}, "QUORUM_VALIDATORS"),
        ({**QUORUM, "QUORUM_VALIDATORS": "https://a:1#abcd"}, "QUORUM_VALIDATORS"),
        ({**QUORUM, "QUORUM_VALIDATORS": f"https://a:1#{KEY},https://b:1#{KEY}"}, "QUORUM_VALIDATORS"),
        ({**QUORUM, "QUORUM_VALIDATORS": "127.0.0.1:2,http://127.0.0.1:2/"}, "QUORUM_VALIDATORS"),
        ({**QUORUM, "QUORUM_THRESHOLD": "101"}, "QUORUM_THRESHOLD"),
        ({**QUORUM, "QUORUM_SIGNATURE_TIMEOUT_MS": "soon"}, "QUORUM_SIGNATURE_TIMEOUT_MS"),
    ],
)
def test_a_wrong_setting_is_named(env: dict[str, str], variable: str) -> None:
    with pytest.raises(Misconfigured, match=variable) as wrong:
        read_layer_settings(env)
    assert wrong.value.variable == variable


@pytest.mark.parametrize(
    "wrong",
    [
        {**CELESTIA, "DA_RPC_URL": "https://me:hunter2@celestia.example"},
        {**CELESTIA, "DA_RPC_URL": "https://celestia.example/?token=hunter2"},
        {**QUORUM, "QUORUM_VALIDATORS": f"https://me:hunter2@a:1#{KEY}"},
        {**MOCK, "ENABLE_FALLBACK": "true", "FALLBACK_DA_TYPE": "emergency", "EMERGENCY_DA_URL": "http://:hunter2@e"},
    ],
)
def test_the_sentence_about_a_wrong_address_holds_no_password(wrong: dict[str, str]) -> None:
    with pytest.raises(Misconfigured) as refused:
        read_layer_settings(wrong)
    assert "hunter2" not in str(refused.value)
