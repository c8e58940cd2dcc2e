"""What works beside a coordinator: the handoff watcher of the home profile, and tokens that change while it runs."""

import hmac
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.worlds import Door, run
from weft.config import Profile, check_tokens
from weft.config.process import TOKEN_LENGTH_MIN
from weft.coordinator.handoffs import HandoffWatch
from weft.coordinator.tokens import TokenFile
from weft.handoff import Handoff, HandoffDirectory, write_handoff
from weft.model.errors import BadToken, MissingToken
from weft.serve import Gate
from weft.serve.auth import fingerprint
from weft.telemetry import Log


def test_a_file_beside_the_coordinator_of_a_home_binds_its_pool(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        watch = HandoffWatch(HandoffDirectory(tmp_path), door.coordinator.bindings, lambda pid: True, 1_000)
        watch.look()
        assert (await door.ok("GET", "/engines"))["engines"] == []
        path = write_handoff(tmp_path, Handoff(url="http://127.0.0.1:8081", pool_id="default"))
        watch.look()
        (bound,) = (await door.ok("GET", "/engines"))["engines"]
        assert (bound["node_id"], bound["pool"], bound["replica"]) == (None, "default", "r0")
        door.clock.advance(1_000)
        watch.look()
        assert (await door.ok("GET", "/engines"))["engines"] == [bound]
        path.unlink()
        watch.look()
        assert (await door.ok("GET", "/engines"))["engines"] == []

    run(story)


class TokenWorld:
    """A gate whose tokens are partly in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self.gate = Gate(("fixed",))
        log = Log(self, lambda: 0)  # type: ignore[arg-type]
        self.file = TokenFile(self.gate, ("fixed",), path, log, self.check)
        self.host, self.profile = "127.0.0.1", Profile()

    def check(self, tokens: tuple[str, ...]) -> None:
        check_tokens(self.host, self.profile, tokens)

    def write(self, text: str) -> None:
        self.lines.append(text)

    def flush(self) -> None:
        pass

    def put(self, text: str) -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.path)

    def accepts(self, token: str) -> bool:
        try:
            self.gate.check(f"Bearer {token}".encode())
        except BadToken:
            return False
        return True

    def accepted(self, *tokens: str) -> list[bool]:
        return [self.accepts(token) for token in tokens]


@pytest.fixture
def world(tmp_path: Path) -> TokenWorld:
    return TokenWorld(tmp_path / "tokens")


def test_tokens_rotate_without_a_restart(world: TokenWorld) -> None:
    world.put("old\n")
    world.file.look()
    assert world.accepted("fixed", "old", "new") == [True, True, False]
    world.put("old,new\n")
    world.file.look()
    assert world.accepted("fixed", "old", "new") == [True, True, True]
    world.put("new\n")
    world.file.look()
    assert world.accepted("fixed", "old", "new") == [True, False, True]


def test_a_token_too_short_to_start_with_is_too_short_to_rotate_to(world: TokenWorld) -> None:
    world.host, world.profile = "0.0.0.0", Profile(cloud=True)
    old, new = "o" * TOKEN_LENGTH_MIN, "n" * TOKEN_LENGTH_MIN
    world.put(old)
    world.file.look()
    for text in ("hush", f"{new},hush", "n" * (TOKEN_LENGTH_MIN - 1)):
        world.put(text)
        world.file.look()
        world.file.look(always=True)
        assert world.accepted(old, new, "hush") == [True, False, False]
    assert all("hush" not in line for line in world.lines), "no token is ever in a line"
    assert any("stay as they are" in line and "fewer than 32 letters" in line for line in world.lines)
    world.put(new)
    world.file.look()
    assert world.accepted(old, new) == [False, True]


@pytest.mark.parametrize("text", ["", " , \n", "a b", "\x00"])
def test_a_file_that_cannot_be_used_leaves_the_tokens_as_they_are(world: TokenWorld, text: str) -> None:
    world.put("old")
    world.file.look()
    world.put(text)
    world.file.look()
    world.file.look()
    assert world.accepted("old") == [True]
    assert sum("stay as they are" in line for line in world.lines) == 1
    world.put("new")
    world.file.look()
    assert world.accepted("old", "new") == [False, True]


def test_a_file_that_is_gone_leaves_the_tokens_as_they_are(world: TokenWorld) -> None:
    world.put("old")
    world.file.look()
    world.path.unlink()
    world.file.look()
    assert world.accepted("old") == [True]


def test_a_file_written_in_the_same_instant_is_read_when_told_to(world: TokenWorld) -> None:
    world.put("old")
    world.file.look()
    status = world.path.stat()
    world.path.write_text("new")
    os.utime(world.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    world.file.look()
    assert world.accepted("new") == [False]
    world.file.look(always=True)
    assert world.accepted("old", "new") == [False, True]


def test_no_token_is_ever_written_into_the_log(world: TokenWorld) -> None:
    world.put("a-very-secret-token")
    world.file.look()
    world.put("another secret token with spaces")
    world.file.look()
    assert not any("secret" in line for line in world.lines)


class Watched(bytes):
    """A header that notices when it is compared letter by letter, which takes longer the more of it is right."""

    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        raise AssertionError("a token was compared with ==")


@pytest.mark.parametrize("token", [b"good", b"fine", b"goof", b"xxxx", b"x"])
def test_a_token_is_compared_in_constant_time_and_with_every_token_there_is(
    monkeypatch: pytest.MonkeyPatch, token: bytes
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr("weft.serve.auth.hmac", SimpleNamespace(compare_digest=compare))
    gate = Gate(("good", "fine"))
    is_let_in = True
    try:
        gate.check(Watched(b"Bearer " + token))
    except BadToken:
        is_let_in = False
    assert is_let_in is (token in (b"good", b"fine"))
    assert len(compared) == (2 if is_let_in else 4), "each token once, and for a stranger each digest once more"


def test_a_fingerprint_is_six_digits_of_the_digest() -> None:
    assert fingerprint(b"Bearer test") == "token:9f86d0"
    assert Gate(("test",)).check(b"Bearer test") == "token:9f86d0"
    assert fingerprint(None) is None


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Bearer", b"Bearer ", b"bearer good", b"Basic good", b"Bearer a\x01b", b"Bearer " + b"x" * 9_000],
)
def test_what_is_no_bearer_token_is_missing(header: bytes | None) -> None:
    with pytest.raises(MissingToken) as refusal:
        Gate(("good",)).check(header)
    assert refusal.value.number == 40_101


@pytest.mark.parametrize("token", [b"goo", b"goods", b"Good", b"xood", b"x"])
def test_a_token_that_is_not_one_of_them_is_bad(token: bytes) -> None:
    with pytest.raises(BadToken) as refusal:
        Gate(("good", "fine")).check(b"Bearer " + token)
    assert refusal.value.number == 40_102


@pytest.mark.parametrize("header", [b"Bearer fine", b"Bearer  fine ", b"Bearer \tfine"])
def test_a_token_lets_in_however_its_header_is_spaced_and_whichever_it_is(header: bytes) -> None:
    gate = Gate(("good", "fine"))
    assert gate.check(header) == fingerprint(b"Bearer fine")
    gate.accept(("good",))
    with pytest.raises(BadToken):
        gate.check(header)


def test_a_gate_that_exempts_this_machine_asks_others() -> None:
    gate = Gate(("good",), loopback_exempt=True)
    for host in ("127.0.0.1", "::1"):
        assert gate.check(None, client_host=host) == "localhost"
    for other in ("10.0.0.1", None, "localhost.example.org"):
        with pytest.raises(MissingToken):
            gate.check(None, client_host=other)


def test_in_the_cloud_numbers_and_health_are_open_and_the_rest_is_not() -> None:
    async def story(door: Door) -> None:
        assert (await door("GET", "/health")).status_code == 200
        assert (await door("GET", "/metrics", accept="text/plain")).status_code == 200
        for path in ("/v2/nodes", "/cluster", "/nodes"):
            answer = await door("GET", path, x_correlation_id="wish-9")
            assert answer.status_code == 401
            assert answer.headers["x-correlation-id"] == "wish-9"
            assert answer.headers["www-authenticate"] == "Bearer"
        refused = (await door("GET", "/v2/nodes", authorization="Bearer wrong-token")).json()
        assert refused["code"] == "BAD_TOKEN"
        assert "wrong-token" not in str(refused)
        assert "wrong-token" not in door.log.getvalue()
        assert "token:" in door.log.getvalue()

    run(story, home=False, tokens=("right",))


def test_who_called_is_told_by_fingerprint() -> None:
    async def story(door: Door) -> None:
        body = {"node_id": "a", "machine_id": "m", "address": "a:1"}
        await door.ok("POST", "/v2/nodes/register", body, authorization="Bearer test")
        assert '"by": "token:9f86d0"' in door.log.getvalue()

    run(story, home=False, tokens=("test",))


def test_a_correlation_id_is_echoed_or_made_on_every_answer() -> None:
    async def story(door: Door) -> None:
        made: set[Any] = set()
        for method, path in [("GET", "/health"), ("GET", "/nope"), ("GET", "/v2/nodes"), ("POST", "/register")]:
            answer = await door(method, path, b"{" if method == "POST" else None)
            made.add(answer.headers["x-correlation-id"])
            echoed = await door(method, path, x_correlation_id="mine")
            assert echoed.headers["x-correlation-id"] == "mine"
            unsafe = await door(method, path, x_correlation_id="x" * 200)
            assert unsafe.headers["x-correlation-id"] != "x" * 200
        assert len(made) == 4
        for one in made:
            assert [len(part) for part in one.split("-")] == [8, 4, 4, 4, 12]
            assert one.split("-")[2][0] == "4"

    run(story)
