"""TLS as Python asks for it: what moves under it, and which error says what does not go together."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import weft
from weft import _native
from weft.client.security import speak_tls
from weft.dataplane import issue_certificate, leave_tls, make_authority, prepare_tls, tls_names
from weft.dataplane.endpoint import Endpoint
from weft.model.errors import BadArgument, CertificateRefused, Misconfigured, NotSupported, TlsMismatch

SECRET = b"a test's secret"


class Authority:
    """A cluster's."""

    def __init__(self) -> None:
        self.certificate, self.key = make_authority(now_s=int(time.time()), lasts_s=3600)

    def speak(self, *names: str, made_s_ago: int = 0) -> None:
        certificate, key = issue_certificate(self.key, names, now_s=int(time.time()) - made_s_ago, lasts_s=3600)
        prepare_tls(authority=self.certificate.encode(), certificate=certificate.encode(), key=key.encode())


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture(autouse=True)
def plain_again() -> Iterator[None]:
    yield
    leave_tls()


def endpoint(name: str | None = None) -> Endpoint:
    return Endpoint.listen(secret=SECRET, name=name, transport="tcp")


def test_what_is_read_and_written_under_tls_is_what_there_is(authority: Authority) -> None:
    authority.speak("gpu-1")
    content = bytearray(range(256)) * 4096
    with (
        endpoint("owner") as owner,
        owner.register(content) as memory,
        endpoint() as other,
        other.connect(owner.metadata) as peer,
    ):
        into = bytearray(len(content))
        assert peer.read_now(memory.advertise(), into) == len(content)
        assert into == content
        peer.write(memory.advertise(), b"written", offset=5).wait()
        assert content[5:12] == b"written"
        # A process goes by its machine's name and its own.
        assert peer.name == "gpu-1:owner"


def test_two_that_agree_on_no_tls_say_so_by_class(authority: Authority) -> None:
    with endpoint("plain") as plain:
        authority.speak("gpu-1")
        with endpoint("secure") as secure:
            with pytest.raises(TlsMismatch, match="plain has no TLS; set WEFT_TLS_CA"):
                secure.connect(plain.address)
            with pytest.raises(TlsMismatch, match="gpu-1:secure speaks TLS only; set WEFT_TLS_CA"):
                plain.connect(secure.address)


def test_a_stranger_is_refused_by_class_peer_and_reason(authority: Authority) -> None:
    authority.speak("gpu-1")
    with endpoint("ours") as ours:
        Authority().speak("gpu-1")
        with endpoint("theirs") as theirs, pytest.raises(CertificateRefused, match="another authority") as refusal:
            theirs.connect(ours.address)
    assert refusal.value.peer == f"{ours.address[0]}:{ours.address[1]}"


def test_an_expired_certificate_stops_the_process_that_would_show_it(authority: Authority) -> None:
    with pytest.raises(Misconfigured, match=r"^WEFT_TLS_CERT has expired") as refusal:
        authority.speak("gpu-1", made_s_ago=7200)

    assert refusal.value.variable == "WEFT_TLS_CERT"
    assert tls_names() is None


def test_what_goes_past_tls_is_refused_under_it(authority: Authority) -> None:
    authority.speak("gpu-1")

    with pytest.raises(NotSupported, match="RDMA does not encrypt"):
        _native.use_rdma()
    with pytest.raises(BadArgument, match="tcpx receives past TLS"):
        Endpoint.listen(secret=SECRET, transport="tcpx")


def test_a_transport_that_goes_past_tls_and_certificates_are_a_contradiction(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate, key = issue_certificate(authority.key, ("gpu-1",), now_s=int(time.time()), lasts_s=3600)
    texts = {"WEFT_TLS_CA": authority.certificate, "WEFT_TLS_CERT": certificate, "WEFT_TLS_KEY": key}
    for variable, text in texts.items():
        path = tmp_path / variable
        path.touch(mode=0o600)
        path.write_text(text)
        monkeypatch.setenv(variable, str(path))
    monkeypatch.setenv("WEFT_TRANSPORT", "rdma")

    with pytest.raises(Misconfigured, match="WEFT_TRANSPORT=rdma goes past TLS"):
        weft.Endpoint(secret=SECRET)
    assert speak_tls({}) is None
    assert tls_names() == ("gpu-1",)
