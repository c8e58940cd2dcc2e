"""The quorum: who counts, when it is enough, when it can no longer be, and what is read when some are away or lie."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.ledger.stages import CLUSTER, QuorumStage, SystemClock
from weft.coordinator.layers import check_layers
from weft.ledger.layer import Commitment, Cursor, LayerHealth, commit_to
from weft.ledger.layers import EmergencyLayer, HttpxHttp, QuorumLayer, ValidatorAddress
from weft.ledger.layers.ports import Answer
from weft.ledger.layers.quorum import threshold_of
from weft.model.availability import Role
from weft.model.errors import BlobMissing, LayerFailed, LayerRefused, LayerUnknown, Misconfigured
from weft.receipts import Domain, PublicKey, SigningKey, validator_statement

DEADLINE_S = 20.0
BLOB = b"a batch"


def play(tmp_path: Path, story: Callable[[QuorumStage], Awaitable[None]], **how: object) -> None:
    async def tell() -> None:
        async with asyncio.timeout(DEADLINE_S):
            stage = QuorumStage(tmp_path, **how)  # type: ignore[arg-type]
            await stage.open()
            try:
                await story(stage)
            finally:
                await stage.close()

    asyncio.run(tell())


async def listed(layer: QuorumLayer, after: Cursor) -> tuple[list[bytes], Cursor]:
    found: list[bytes] = []
    while True:
        scan = await layer.scan(after, 100)
        found += [kept.blob for kept in scan.kept]
        after = scan.after
        if scan.is_end:
            return found, after


@pytest.mark.parametrize(("count", "threshold"), [(1, 1), (3, 3), (4, 3), (5, 4), (7, 5), (10, 7)])
def test_the_threshold_is_a_share_of_the_validators_and_three_at_least(count: int, threshold: int) -> None:
    assert threshold_of(count, 67) == threshold


def test_three_of_four_are_enough(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        await stage.witnesses[0].stop()
        receipt = await stage.layer.put(BLOB)
        assert receipt.commitment == commit_to(BLOB)
        assert await stage.layer.probe() is LayerHealth.HEALTHY

    play(tmp_path, story)


def test_two_of_four_fail_at_once_and_the_error_names_who_is_missing(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        await stage.layer.put(b"the layer knows its height")
        await asyncio.gather(stage.witnesses[0].stop(), stage.witnesses[1].stop())
        began_s = time.monotonic()
        with pytest.raises(LayerFailed, match="3 must") as failure:
            await stage.layer.put(BLOB)
        assert not isinstance(failure.value, LayerUnknown)
        assert time.monotonic() - began_s < 2.0, "long before the time signatures are collected for"
        assert set(failure.value.failed) == {witness.running.url for witness in stage.witnesses[:2]}
        assert await stage.layer.probe() is LayerHealth.UNAVAILABLE

    play(tmp_path, story)


def test_a_put_that_failed_below_the_threshold_succeeds_when_it_is_put_again(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        await stage.layer.put(b"first")
        await asyncio.gather(stage.witnesses[0].stop(), stage.witnesses[1].stop())
        with pytest.raises(LayerFailed):
            await stage.layer.put(BLOB)
        await asyncio.gather(stage.witnesses[0].start(), stage.witnesses[1].start())
        await stage.layer.put(BLOB)
        assert (await listed(stage.layer, Cursor("")))[0] == [b"first", BLOB]

    play(tmp_path, story)


def test_a_blob_that_too_few_keep_is_no_outcome_that_a_scan_settles(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        await stage.layer.put(b"first")
        await asyncio.gather(stage.witnesses[0].stop(), stage.witnesses[1].stop())
        for _ in range(2):
            with pytest.raises(LayerFailed) as failure:
                await stage.layer.put(BLOB)
            assert not isinstance(failure.value, LayerUnknown), "whoever scans finds it, and must not take it for kept"
            assert BLOB in (await listed(stage.layer, Cursor("")))[0]

    play(tmp_path, story)


def test_validators_that_were_not_waited_for_keep_the_blob_too(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        await stage.settled((await stage.layer.put(BLOB)).commitment)

    play(tmp_path, story)


class Forger(HttpxHttp):
    """Answers puts itself, as validators that lie would: it says who signs what, for each of the urls."""

    def __init__(self, sign: Callable[[str, Commitment], tuple[str, bytes]], keys: dict[str, PublicKey]) -> None:
        super().__init__()
        self._sign, self._keys = sign, keys

    async def send(self, method: str, url: str, **rest: object) -> Answer:
        host, _, tail = url.removeprefix("http://").partition("/")
        if method == "PUT":
            commitment = Commitment(tail.removeprefix("blob/"))
            name, signature = self._sign(host, commitment)
            said = f'"commitment":"{commitment}","height":1,"validator_id":"{name}","signature_hex":"{signature.hex()}"'
        else:
            said = '"status":"healthy","height":0,"public_key":"' + self._keys[host].hex() + '"'
        return Answer(200, {}, f"{{{said}}}".encode())


KEYS = {f"v{number}": SigningKey(bytes([number]) * 32, Domain.VALIDATOR) for number in range(4)}


def forged(sign: Callable[[str, Commitment], tuple[str, bytes]], keys: dict[str, PublicKey]) -> LayerFailed:
    async def tell() -> LayerFailed:
        addresses = [ValidatorAddress(f"http://{host}", key) for host, key in keys.items()]
        layer = QuorumLayer(
            Forger(sign, keys), SystemClock(), addresses, CLUSTER, None, threshold_percent=67, timeout_ms=1_000
        )
        with pytest.raises(LayerFailed) as failure:
            await layer.put(BLOB)
        return failure.value

    return asyncio.run(tell())


def signed(key: SigningKey, commitment: Commitment, name: str) -> bytes:
    return key.sign(validator_statement(CLUSTER, commitment, name))


PINNED = {host: key.public for host, key in KEYS.items()}


def test_four_validators_that_sign_as_themselves_are_four() -> None:
    async def tell() -> None:
        http = Forger(lambda host, commitment: (host, signed(KEYS[host], commitment, host)), PINNED)
        addresses = [ValidatorAddress(f"http://{host}", key) for host, key in PINNED.items()]
        layer = QuorumLayer(http, SystemClock(), addresses, CLUSTER, None, threshold_percent=100, timeout_ms=1_000)
        await layer.put(BLOB)

    asyncio.run(tell())


def test_a_validator_that_signs_under_several_addresses_counts_once() -> None:
    behind = {"v0": "v0", "v1": "v0", "v2": "v0", "v3": "v3"}

    def sign(host: str, commitment: Commitment) -> tuple[str, bytes]:
        return behind[host], signed(KEYS[behind[host]], commitment, behind[host])

    failure = forged(sign, {host: KEYS[name].public for host, name in behind.items()})
    assert failure.signed == ["v0", "v3"]
    assert "counted already" in failure.message


def test_two_keys_under_one_name_count_once() -> None:
    failure = forged(lambda host, commitment: ("v0", signed(KEYS[host], commitment, "v0")), PINNED)
    assert failure.signed == ["v0"]


def test_a_signature_that_was_not_verified_never_counts() -> None:
    failure = forged(lambda host, commitment: (host, bytes(64)), PINNED)
    assert failure.signed == []


@pytest.mark.parametrize("what", ["another blob", "another cluster", "another name", "another purpose"])
def test_a_signature_over_something_else_never_counts(what: str) -> None:
    def sign(host: str, commitment: Commitment) -> tuple[str, bytes]:
        key, name, cluster = KEYS[host], host, CLUSTER
        match what:
            case "another blob":
                commitment = commit_to(b"another")
            case "another cluster":
                cluster = PublicKey(bytes(32))
            case "another name":
                name = "somebody"
            case "another purpose":
                key = SigningKey(bytes([int(host[1:])]) * 32, Domain.PUBLISHER)
        return host, key.sign(validator_statement(cluster, commitment, name))

    assert forged(sign, PINNED).signed == []


def test_a_validator_is_known_by_the_key_of_the_settings_and_by_no_other() -> None:
    impostor = SigningKey(b"\x77" * 32, Domain.VALIDATOR)
    failure = forged(lambda host, commitment: (host, signed(impostor, commitment, host)), PINNED)
    assert failure.signed == []


def test_a_validator_without_a_key_is_known_by_the_first_it_shows(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        await stage.layer.put(BLOB)
        other = stage.witnesses[0]
        await other.stop()
        other._key = SigningKey(b"\x77" * 32, Domain.VALIDATOR)
        await asyncio.gather(other.start(), stage.witnesses[1].stop())
        with pytest.raises(LayerFailed):
            await stage.layer.put(b"two signatures and an impostor's")

    play(tmp_path, story, pinned=False)


def test_the_wrong_token_is_refused_and_not_tried_again(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        await stage.layer.put(b"first")
        for validator in stage.layer._validators:
            validator._server._headers["authorization"] = "Bearer wrong"
        with pytest.raises(LayerRefused, match="token"):
            await stage.layer.put(BLOB)

    play(tmp_path, story)


def test_two_validators_of_one_name_are_refused_at_the_start_and_the_variable_is_named(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        await stage.layer.check_members(5_000)
        await stage.witnesses[3].stop()
        await stage.layer.check_members(5_000)
        for witness in stage.witnesses[:2]:
            await witness.stop()
            witness._name = "the-host"
            await witness.start()
        with pytest.raises(Misconfigured, match="both have the name the-host") as refusal:
            await check_layers({Role.SECONDARY: stage.layer})
        assert refusal.value.variable == "QUORUM_VALIDATORS"
        assert all(witness.running.url in refusal.value.message for witness in stage.witnesses[:2])

    play(tmp_path, story)


def test_one_validator_under_two_addresses_is_refused_at_the_start(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        twice = stage.witnesses[0].running.url.replace("127.0.0.1", "localhost")
        stage.layer._validators[1].url = stage.layer._validators[1]._server.url = twice
        with pytest.raises(Misconfigured, match="both have the key"):
            await stage.layer.check_members(5_000)

    play(tmp_path, story, pinned=False)


def test_validators_under_one_name_are_one_to_a_check_as_they_are_to_a_put(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        assert await stage.layer.probe() is LayerHealth.HEALTHY
        await stage.take_away()
        for witness in stage.witnesses:
            witness._name = "the-host"
        await stage.bring_back()
        assert await stage.layer.probe() is LayerHealth.UNAVAILABLE
        with pytest.raises(LayerFailed, match="counted already"):
            await stage.layer.put(BLOB)

    play(tmp_path, story)


def test_a_check_with_the_wrong_token_fails_as_a_put_would(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        addresses = [ValidatorAddress(one.running.url, None) for one in stage.witnesses]
        quorum = QuorumLayer(
            stage.http, SystemClock(), addresses, CLUSTER, "wrong", threshold_percent=67, timeout_ms=5_000
        )
        assert await quorum.probe() is LayerHealth.UNAVAILABLE
        url = stage.witnesses[0].running.url
        assert await EmergencyLayer(stage.http, SystemClock(), url, "wrong").probe() is LayerHealth.UNAVAILABLE
        assert await EmergencyLayer(stage.http, SystemClock(), url, "token").probe() is LayerHealth.HEALTHY

    play(tmp_path, story)


def test_a_blob_that_one_validator_lost_is_read_from_another(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        receipt = await stage.layer.put(BLOB)
        await stage.settled(receipt.commitment)
        for witness in stage.witnesses[:3]:
            witness.damage(receipt.commitment)
        assert await stage.layer.get(receipt.commitment) == BLOB
        assert (await listed(stage.layer, Cursor("")))[0] == [BLOB]

    play(tmp_path, story)


def test_no_history_is_skipped_when_too_few_validators_answer_to_know_it_whole(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        await stage.layer.put(BLOB)
        await asyncio.gather(*(witness.stop() for witness in stage.witnesses[:3]))
        with pytest.raises(LayerFailed, match="missed"):
            await stage.layer.scan(Cursor(""), 10)
        with pytest.raises(LayerFailed) as failure:
            await stage.layer.get(commit_to(b"who knows"))
        assert not isinstance(failure.value, BlobMissing)

    play(tmp_path, story)


def test_no_history_is_skipped_when_a_validator_comes_back_with_what_it_alone_keeps(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        await stage.settled((await stage.layer.put(b"everybody has it")).commitment)
        lonely = stage.witnesses[3]
        others = stage.witnesses[:3]
        _, cursor = await listed(stage.layer, Cursor(""))
        await asyncio.gather(*(witness.stop() for witness in others))
        with pytest.raises(LayerFailed):
            await stage.layer.put(BLOB)
        await asyncio.gather(lonely.stop(), *(witness.start() for witness in others))
        await stage.layer.put(b"the others go on")
        found, cursor = await listed(stage.layer, cursor)
        assert found == [b"the others go on"]
        await lonely.start()
        found, cursor = await listed(stage.layer, cursor)
        assert found == [BLOB]
        assert (await listed(stage.layer, cursor))[0] == []

    play(tmp_path, story)


def test_heights_grow_from_one_coordinator_to_the_next(tmp_path: Path) -> None:
    async def story(stage: QuorumStage) -> None:
        heights = []
        for number in range(4):
            # Each time another validator is away, so no two puts are signed by the same three.
            await stage.witnesses[number].stop()
            heights.append((await stage.new_layer().put(b"blob %d" % number)).height)
            await stage.witnesses[number].start()
        assert heights == sorted(set(heights))

    play(tmp_path, story)


def test_a_validator_that_hangs_holds_up_neither_puts_nor_reads(tmp_path: Path) -> None:
    async def hang(*_: object) -> None:
        await asyncio.sleep(DEADLINE_S)

    async def story(stage: QuorumStage) -> None:
        receipt = await stage.layer.put(BLOB)
        validator = stage.layer._validators[0]
        for verb in ("put", "get", "list", "health"):
            setattr(validator, verb, hang)
        began_s = time.monotonic()
        await stage.layer.put(b"another")
        assert await stage.layer.get(receipt.commitment) == BLOB
        assert (await listed(stage.layer, Cursor("")))[0] == [BLOB, b"another"]
        assert await stage.layer.probe() is LayerHealth.HEALTHY
        assert time.monotonic() - began_s < 4.0

    play(tmp_path, story)
