//! One connection under TLS: plain bytes on this side, records on the socket.
//!
//! It behaves as a socket does, so that what stands above need not know it: a receive brings what there is, a send takes
//! what it can, neither waits longer than one call to the kernel. Two things differ, and both are asked for:
//!
//! - What a send took may still lie here, encrypted, because the kernel had no room: [`TlsStream::is_unflushed`]. The
//!   memory it came from is free all the same.
//! - What arrived may be more than the receive had room for. No descriptor announces the rest, so a driver receives until
//!   nothing comes before it sleeps.
//!
//! Bytes leave only after their record was authenticated, so a record that was altered, cut short, repeated or left out
//! ends the connection and never reaches anybody's memory.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};
use weft_sys::memory::Span;
use weft_sys::socket::{self, Wait};
use weft_wire::{HEADER_BYTES, Header, Kind};

use super::buffers::{Output, Room, Source};
use super::verify::names;
use super::{Tls, TlsFault};
use crate::TransportError;

/// What a record holds at most (RFC 8446, section 5.1).
const RECORD_BYTES_MAX: usize = 16 << 10;
/// What a record adds to what it holds, and room for a change of keys before it.
const OVERHEAD_BYTES: usize = 256;
/// What the socket is read into at first; the longest record fits.
const INPUT_BYTES_MIN: usize = RECORD_BYTES_MAX + 2 * OVERHEAD_BYTES;
/// What it grows to while whole buffers arrive: few calls for bulk, and it stays in the cache between them.
const INPUT_BYTES_MAX: usize = 256 << 10;
/// What one send encrypts: enough that the call to the kernel is cheap beside it, little enough that the peer has something
/// to decrypt meanwhile.
const SEND_BYTES_MAX: usize = 64 << 10;
/// What may be encrypted while the kernel has no room: the next bytes are ready when it has, and it stays in the cache.
const AHEAD_BYTES_MAX: usize = 256 << 10;
/// Longest sentence of a plain refusal that is kept, in bytes.
const DETAIL_BYTES_MAX: usize = 4096;
/// First bytes of TLS records; anything else is no TLS.
const RECORD_KINDS: std::ops::RangeInclusive<u8> = 20..=23;

enum Side {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What one step of the machine came to.
enum Step {
    /// There is more to do with what is here.
    Again,
    /// Bytes arrived.
    Arrived,
    /// The handshake needs more from the peer.
    Blocked,
    /// The handshake is over, nothing of what is here is left, and what was to be written was.
    Ready,
    /// The peer will say nothing more.
    Over,
}

/// What is to be written once the machine is ready for it.
enum Work<'a> {
    Nothing,
    Bytes(&'a [u8]),
    Goodbye,
}

/// A connection under TLS.
pub(crate) struct TlsStream {
    socket: TcpStream,
    side: Side,
    /// Whether the handshake is over.
    ready: bool,
    /// Whether anything of the peer's was taken for TLS yet.
    begun: bool,
    over: bool,
    /// Whether a fault ended it.
    ended: bool,
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// Decrypted, and more than the receive that met it had room for.
    surplus: Vec<u8>,
    surplus_taken: usize,
    stage: Vec<u8>,
    output: Output,
    peer_names: Vec<String>,
}

impl TlsStream {
    /// Agrees on TLS with the server behind `socket`, whose calls sleep in slices. Waits until `deadline` at most.
    ///
    /// # Errors
    /// `Tls`, `TimedOut`, `Disconnected`.
    pub fn connect(socket: TcpStream, tls: &Tls, label: &str, deadline: Instant) -> Result<Self, TransportError> {
        // The name is not looked at: who the server is comes out in its hello.
        let name = ServerName::DnsName(DnsName::try_from("weft").expect("a name"));
        let client = UnbufferedClientConnection::new(Arc::clone(&tls.client), name)
            .map_err(|error| TransportError::Tls { peer: label.to_owned(), fault: error.into() })?;
        let mut stream = Self::new(socket, Side::Client(Box::new(client)));
        while !stream.ready {
            // Also when something came: a peer that sends a byte now and then must not hold this for longer.
            if Instant::now() >= deadline {
                return Err(TransportError::TimedOut { peer: label.to_owned(), doing: "agreeing on TLS" });
            }
            match stream.agree(Wait::Yes) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(TransportError::Disconnected {
                        peer: label.to_owned(),
                        doing: "agreeing on TLS",
                        cause: None,
                    });
                }
                Err(error) => {
                    let fault = stream.explained(error, deadline);
                    return Err(TransportError::broken_by(label.to_owned(), "agreeing on TLS", Some(fault)));
                }
            }
        }
        Ok(stream)
    }

    /// Takes what a client begins; the handshake goes on with each receive.
    ///
    /// # Errors
    /// None that a configuration that was built can meet; rustls's sentence otherwise.
    pub fn accept(socket: TcpStream, tls: &Tls) -> io::Result<Self> {
        let server = UnbufferedServerConnection::new(Arc::clone(&tls.server))
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self::new(socket, Side::Server(Box::new(server))))
    }

    fn new(socket: TcpStream, side: Side) -> Self {
        Self {
            socket,
            side,
            ready: false,
            begun: false,
            over: false,
            ended: false,
            input: vec![0; INPUT_BYTES_MIN],
            start: 0,
            end: 0,
            surplus: Vec::new(),
            surplus_taken: 0,
            stage: Vec::new(),
            output: Output::default(),
            peer_names: Vec::new(),
        }
    }

    /// The socket beneath.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The names of the peer's certificate; empty until the handshake is over.
    pub fn peer_names(&self) -> &[String] {
        &self.peer_names
    }

    /// Whether bytes that a send took still wait for the kernel.
    pub fn is_unflushed(&self) -> bool {
        !self.output.is_empty()
    }

    /// What came instead of TLS, and the socket it came by: of use after a receive failed with `PeerIsPlain`.
    pub fn into_plain(self) -> (TcpStream, Vec<u8>) {
        (self.socket, self.input[self.start..self.end].to_vec())
    }

    /// Receives into `spans`, in order. Zero means that the peer closed.
    ///
    /// # Errors
    /// The socket's; `WouldBlock` when nothing whole has come yet; `InvalidData` with a [`TlsFault`] in it.
    pub fn receive(&mut self, spans: &[Span], wait: Wait) -> io::Result<usize> {
        if !self.ready {
            self.agree(wait)?;
            if !self.ready {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        let mut room = Room::new(spans);
        self.take_surplus(&mut room);
        self.decrypt(&mut room)?;
        if room.filled == 0 && !self.over {
            // One call to the kernel: whoever waits looks at its deadline between two.
            self.pull(wait)?;
            self.decrypt(&mut room)?;
        }
        match room.filled {
            0 if self.over => Ok(0),
            0 => Err(io::ErrorKind::WouldBlock.into()),
            filled => Ok(filled),
        }
    }

    /// Takes a part of `spans`, from their start; how much of them. What it took need not have left yet.
    ///
    /// # Errors
    /// The socket's; `WouldBlock` while much of what was taken before waits for the kernel.
    pub fn send(&mut self, spans: &[Span], wait: Wait) -> io::Result<usize> {
        if self.output.waiting().len() >= AHEAD_BYTES_MAX {
            let flushed = self.flush(wait);
            if self.output.waiting().len() >= AHEAD_BYTES_MAX {
                flushed?;
            }
        }
        let mut stage = std::mem::take(&mut self.stage);
        stage.resize(RECORD_BYTES_MAX, 0);
        let (mut taken, mut source) = (0, Source::new(spans));
        let encrypted = loop {
            let length = source.take(&mut stage[..RECORD_BYTES_MAX.min(SEND_BYTES_MAX - taken)]);
            if length == 0 {
                break Ok(taken);
            }
            if let Err(error) = self.write(&Work::Bytes(&stage[..length])) {
                break Err(error);
            }
            taken += length;
        };
        self.stage = stage;
        let taken = encrypted?;
        // Waiting can wait: there may be more to encrypt meanwhile.
        match self.flush(Wait::No) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Err(error),
            _ => Ok(taken),
        }
    }

    /// Hands what was taken to the kernel, with one call.
    ///
    /// # Errors
    /// The socket's; `WouldBlock` when some of it is left.
    pub fn flush(&mut self, wait: Wait) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let sent = socket::send(&self.socket, &[Span::of_const(self.output.waiting())], wait)?;
        self.output.sent(sent);
        if self.output.is_empty() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    /// Tells the peer that nothing more comes, if that can be told without waiting.
    pub fn say_goodbye(&mut self) {
        if self.ready && !self.is_unflushed() && self.write(&Work::Goodbye).is_ok() {
            let _ = self.flush(Wait::No);
        }
    }

    /// Goes on with the handshake, by one call to the kernel.
    fn agree(&mut self, wait: Wait) -> io::Result<()> {
        self.steps_of_handshake()?;
        self.flush(wait)?;
        if self.ready {
            return Ok(());
        }
        self.pull(wait)?;
        if self.over {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !self.begun {
            if !RECORD_KINDS.contains(&self.input[self.start]) {
                // Whole, so that it can be answered in its own words.
                let whole = self.end - self.start >= HEADER_BYTES;
                return Err(if whole {
                    TlsFault::PeerIsPlain(String::new()).into_io()
                } else {
                    io::ErrorKind::WouldBlock.into()
                });
            }
            self.begun = true;
        }
        self.steps_of_handshake()?;
        self.flush(wait)
    }

    fn steps_of_handshake(&mut self) -> io::Result<()> {
        if !self.begun && self.end > self.start {
            return Ok(());
        }
        loop {
            match self.step(&Work::Nothing, &mut Room::new(&[]))? {
                Step::Again | Step::Arrived => {}
                Step::Blocked => return Ok(()),
                Step::Ready => {
                    self.ready = true;
                    let shown = match &self.side {
                        Side::Client(client) => client.peer_certificates(),
                        Side::Server(server) => server.peer_certificates(),
                    };
                    let shown: Option<&CertificateDer<'_>> = shown.and_then(<[_]>::first);
                    self.peer_names = shown.and_then(|shown| names(shown).ok()).unwrap_or_default();
                    return Ok(());
                }
                Step::Over => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Decrypts what is here into `room`, and stops when that is full.
    fn decrypt(&mut self, room: &mut Room<'_>) -> io::Result<()> {
        while self.start < self.end && !room.is_full() {
            match self.step(&Work::Nothing, room)? {
                Step::Again | Step::Arrived => {}
                Step::Blocked | Step::Ready => return Ok(()),
                Step::Over => {
                    self.over = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Encrypts. What has arrived and stands before it in the machine becomes surplus: it is no more than the input holds.
    fn write(&mut self, work: &Work<'_>) -> io::Result<()> {
        loop {
            match self.step(work, &mut Room::new(&[]))? {
                Step::Again | Step::Arrived => {}
                Step::Ready => return Ok(()),
                Step::Blocked | Step::Over => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// One call to the kernel for more of the peer's bytes; notes when there will be none.
    fn pull(&mut self, wait: Wait) -> io::Result<()> {
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let got = socket::receive(&self.socket, &[Span::of(&mut self.input[self.end..])], wait)?;
        self.end += got;
        self.over = got == 0;
        if self.end == self.input.len() && self.input.len() < INPUT_BYTES_MAX {
            self.input.resize((self.input.len() * 2).min(INPUT_BYTES_MAX), 0);
        }
        Ok(())
    }

    fn take_surplus(&mut self, room: &mut Room<'_>) {
        if self.surplus_taken < self.surplus.len() {
            self.surplus_taken += room.put(&self.surplus[self.surplus_taken..]);
            if self.surplus_taken == self.surplus.len() {
                self.surplus.clear();
                self.surplus_taken = 0;
            }
        }
    }

    /// One step of the machine over what is here. After a fault there is no other.
    fn step(&mut self, work: &Work<'_>, room: &mut Room<'_>) -> io::Result<Step> {
        if self.ended {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.step_now(work, room).map_err(|fault| {
            self.ended = true;
            // The machine has an alert ready for the peer. It is asked once: more would be about what follows the fault.
            let _ = self.step_now(&Work::Nothing, &mut Room::new(&[]));
            let _ = self.flush(Wait::No);
            fault.into_io()
        })
    }

    /// The machine keeps places in the input between steps, so that it is always shown all that it did not let go of.
    fn step_now(&mut self, work: &Work<'_>, room: &mut Room<'_>) -> Result<Step, TlsFault> {
        let incoming = &mut self.input[self.start..self.end];
        let (surplus, output) = (&mut self.surplus, &mut self.output);
        let (discard, step) = match &mut self.side {
            Side::Client(client) => carry_out(client.process_tls_records(incoming), work, room, surplus, output),
            Side::Server(server) => carry_out(server.process_tls_records(incoming), work, room, surplus, output),
        };
        self.start += discard;
        step
    }

    /// A fault of the handshake; where the peer turned out to speak no TLS, with what it said of that.
    fn explained(&mut self, error: io::Error, deadline: Instant) -> io::Error {
        if !matches!(TlsFault::of_io(&error), Some(TlsFault::PeerIsPlain(_))) {
            return error;
        }
        loop {
            let bytes = &self.input[self.start..self.end];
            let head: &[u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().expect("a head's worth came");
            let Ok(header) = Header::decode(head) else {
                return TlsFault::Damaged("it speaks neither TLS nor Weft's wire".to_owned()).into_io();
            };
            let length = usize::try_from(header.length).unwrap_or(usize::MAX);
            if header.kind != Kind::Refusal || length > DETAIL_BYTES_MAX {
                return error;
            }
            if let Some(detail) = bytes.get(HEADER_BYTES..HEADER_BYTES + length) {
                return TlsFault::PeerIsPlain(String::from_utf8_lossy(detail).into_owned()).into_io();
            }
            let pulled = self.pull(Wait::Yes);
            let waits = pulled.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            if self.over || (pulled.is_err() && !waits) || Instant::now() >= deadline {
                return error;
            }
        }
    }
}

/// Does what the machine asks for.
fn carry_out<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    work: &Work<'_>,
    room: &mut Room<'_>,
    surplus: &mut Vec<u8>,
    output: &mut Output,
) -> (usize, Result<Step, TlsFault>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Step::Arrived),
                Some(Err(error)) => break Err(error.into()),
                Some(Ok(record)) => {
                    discard += record.discard;
                    let put = room.put(record.payload);
                    surplus.extend_from_slice(&record.payload[put..]);
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut encode)) => output
            .append(RECORD_BYTES_MAX, |room| match encode.encode(room) {
                Ok(written) => Ok(written),
                Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => Err(required_size),
                Err(EncodeError::AlreadyEncoded) => Ok(0),
            })
            .map(|()| Step::Again),
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            // The output sends it before anything else.
            transmit.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Blocked),
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            let written = match work {
                Work::Nothing => Ok(()),
                Work::Bytes(bytes) => {
                    output.append(bytes.len() + OVERHEAD_BYTES, |room| too_small(traffic.encrypt(bytes, room)))
                }
                Work::Goodbye => output.append(OVERHEAD_BYTES, |room| too_small(traffic.queue_close_notify(room))),
            };
            written.map(|()| Step::Ready)
        }
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Over),
        Ok(_) => Err(TlsFault::Damaged("a state of TLS that is not used here".to_owned())),
    };
    (discard, step)
}

/// How much was written, or how much room that takes.
fn too_small(written: Result<usize, EncryptError>) -> Result<usize, usize> {
    match written {
        Ok(written) => Ok(written),
        Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => Err(required_size),
        // A machine that may not encrypt any more says so by writing nothing, which the caller sees.
        Err(EncryptError::EncryptExhausted) => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use rustls::crypto::CipherSuiteCommon;
    use rustls::{SupportedCipherSuite, Tls13CipherSuite};

    use super::super::config::provider;
    use super::*;
    use crate::Authority;

    /// Keys of these may encrypt so few records before they are changed, instead of some sixteen million.
    const RECORDS_PER_KEY: u64 = 64;

    fn tls_that_changes_keys_often() -> Tls {
        let now_s = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        let root = Authority::make(now_s, 86_400).unwrap();
        let issued = Authority::of_key(&root.key).unwrap().issue(&["a".to_owned()], now_s, 86_400).unwrap();
        let mut provider = provider();
        let SupportedCipherSuite::Tls13(usual) = provider.cipher_suites[0];
        let common = CipherSuiteCommon { confidentiality_limit: RECORDS_PER_KEY, ..copy(&usual.common) };
        let hasty =
            Tls13CipherSuite { common, hkdf_provider: usual.hkdf_provider, aead_alg: usual.aead_alg, quic: usual.quic };
        provider.cipher_suites = vec![SupportedCipherSuite::Tls13(Box::leak(Box::new(hasty)))];
        let (authority, certificate) = (root.certificate.as_bytes(), issued.certificate.as_bytes());
        Tls::from_pem_with(authority, certificate, issued.key.as_bytes(), provider).unwrap()
    }

    fn copy(common: &CipherSuiteCommon) -> CipherSuiteCommon {
        CipherSuiteCommon {
            suite: common.suite,
            hash_provider: common.hash_provider,
            confidentiality_limit: common.confidentiality_limit,
        }
    }

    /// Two ends that have agreed; the sockets' calls sleep in slices.
    fn pair(tls: &Tls) -> (TlsStream, TlsStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        for socket in [&client, &server] {
            socket::set_waits(socket, Duration::from_millis(50)).unwrap();
        }
        let mut server = TlsStream::accept(server, tls).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let (client, server) = std::thread::scope(|scope| {
            let client = scope.spawn(|| TlsStream::connect(client, tls, "server", deadline).unwrap());
            while !server.ready {
                assert!(Instant::now() < deadline);
                let _ = server.receive(&[], Wait::Yes);
            }
            (client.join().unwrap(), server)
        });
        (client, server)
    }

    fn receive_exact(stream: &mut TlsStream, into: &mut [u8]) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut filled = 0;
        while filled < into.len() {
            assert!(Instant::now() < deadline, "{filled} of {} bytes came", into.len());
            match stream.receive(&[Span::of(&mut into[filled..])], Wait::Yes) {
                Ok(0) => panic!("the peer closed"),
                Ok(got) => filled += got,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
            }
        }
    }

    fn send_all(stream: &mut TlsStream, mut bytes: &[u8]) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !bytes.is_empty() || stream.is_unflushed() {
            assert!(Instant::now() < deadline, "{} bytes are left", bytes.len());
            let sent = if bytes.is_empty() {
                stream.flush(Wait::Yes).map(|()| 0)
            } else {
                stream.send(&[Span::of_const(bytes)], Wait::Yes)
            };
            match sent {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
            }
        }
    }

    #[test]
    fn keys_are_changed_on_the_way_and_nobody_notices() {
        let (mut client, mut server) = pair(&tls_that_changes_keys_often());
        let bytes: Vec<u8> = (0..10_000_000u32).map(|index| (index / 7) as u8).collect();
        // Ten times as many records as a key is good for, each way.
        assert!(bytes.len() as u64 > 9 * RECORDS_PER_KEY * RECORD_BYTES_MAX as u64);
        for _ in 0..2 {
            std::thread::scope(|scope| {
                scope.spawn(|| send_all(&mut server, &bytes));
                let mut back = vec![0; bytes.len()];
                receive_exact(&mut client, &mut back);
                assert!(back == bytes);
            });
            std::thread::scope(|scope| {
                scope.spawn(|| send_all(&mut client, &bytes));
                let mut back = vec![0; bytes.len()];
                receive_exact(&mut server, &mut back);
                assert!(back == bytes);
            });
        }
    }
}
