//! A connection that receives into a bounce buffer and that nobody waits on.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use weft_sys::event::Interest;
use weft_sys::socket::{self, Wait};
use weft_wire::{HEADER_BYTES, WireError};

use super::{Bounce, TcpxOptions};
use crate::book::{Body, Book, Sink, Waiting};
use crate::driven::{Driven, Finished, Forgotten, Submission};
use crate::tcp::{ConnectOptions, TcpLane};
use crate::waited::Connection;
use crate::{Identity, PeerIdentity, TransportError};

/// Most bytes one turn moves either way: other lanes of the same driver wait meanwhile.
const TURN_BYTES_MAX: usize = 4 << 20;

/// A connected, authenticated TCP connection whose answers are unpacked from a bounce buffer, driven without waiting.
pub struct TcpxDriven {
    stream: TcpStream,
    peer: PeerIdentity,
    book: Book,
    pub(super) bounce: Bounce,
    body: Option<Body>,
    /// Whether somebody else takes the answer under way out of the bounce buffer.
    pub(super) by_blocks: bool,
    open: bool,
}

impl TcpxDriven {
    /// Connects and shakes hands, which waits.
    ///
    /// # Errors
    /// As [`TcpLane::connect`], `Unreachable` when there is no memory for the bounce buffer, and `BadArgument` where TLS is
    /// spoken.
    pub fn connect(
        address: SocketAddr,
        label: &str,
        identity: &Identity,
        options: &ConnectOptions,
        tcpx: TcpxOptions,
    ) -> Result<Self, TransportError> {
        let unreachable = |cause| TransportError::Unreachable { peer: label.to_owned(), cause };
        let bounce = Bounce::new(tcpx).map_err(unreachable)?;
        let (stream, peer, book) = TcpLane::connect(address, label, identity, options)?.into_socket("tcpx")?;
        Ok(Self { stream, peer, book, bounce, body: None, by_blocks: false, open: true })
    }

    /// Sends what one call takes. Whether anything moved.
    fn send(&mut self, budget: &mut usize, wait: Wait) -> Result<bool, TransportError> {
        if !self.book.is_unsent() {
            return Ok(false);
        }
        match self.book.send((*budget).max(1), |spans| socket::send(&self.stream, spans, wait)) {
            Ok(sent) => {
                *budget = budget.saturating_sub(sent);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(self.disconnected("sending", Some(error))),
        }
    }

    /// What waits in the buffer, or one receive, and all that follows from it. Whether anything moved.
    fn receive(
        &mut self,
        finished: &mut Vec<Finished>,
        budget: &mut usize,
        wait: Wait,
    ) -> Result<bool, TransportError> {
        if self.take(finished)? {
            return Ok(true);
        }
        if !self.bounce.has_room() {
            // Slots are held by whoever took blocks, and nothing else can be received until they come back.
            return Err(TransportError::BadArgument(
                "the bounce buffer is full of blocks that were not given back; give them back before asking for more"
                    .into(),
            ));
        }
        match self.bounce.receive(&self.stream, wait) {
            Ok(0) => return Err(self.disconnected("receiving", None)),
            Ok(got) => *budget = budget.saturating_sub(got),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(false);
            }
            Err(error) => return Err(self.disconnected("receiving", Some(error))),
        }
        self.take(finished)?;
        Ok(true)
    }

    /// Takes heads and bodies out of the buffer for as long as their places are known. Whether anything moved.
    fn take(&mut self, finished: &mut Vec<Finished>) -> Result<bool, TransportError> {
        let mut moved = false;
        loop {
            if self.body.is_none() {
                // A waiter says where an answer goes when its turn comes, and it takes one answer at a time.
                let waits = moved && self.book.oldest().is_some_and(Waiting::is_waited_on);
                if waits || self.book.oldest().is_none() || self.bounce.waiting() < HEADER_BYTES {
                    return Ok(moved);
                }
                let mut head = [0; HEADER_BYTES];
                self.bounce.take_bytes(&mut head);
                self.body = Some(self.book.answer(&head).map_err(|cause| self.garbage(cause))?);
                moved = true;
            }
            let before = self.body.as_ref().map_or(0, |body| body.done);
            let complete = self.take_body(finished);
            moved |= complete || self.body.as_ref().is_some_and(|body| body.done > before);
            if !complete {
                return Ok(moved);
            }
        }
    }

    /// Takes what waits of the body under way. Whether that completed it.
    fn take_body(&mut self, finished: &mut Vec<Finished>) -> bool {
        let body = self.body.as_mut().expect("a body is under way");
        match &mut body.sink {
            Sink::Spans if self.by_blocks => {}
            Sink::Spans => {
                let front = self.book.oldest().expect("a body belongs to the oldest");
                body.done = self.bounce.unpack(&front.into, body.done, body.total);
            }
            Sink::Collect(bytes) => body.done += self.bounce.take_bytes(&mut bytes[body.done..]),
            Sink::Drop => body.done += self.bounce.drop_bytes(body.total - body.done),
        }
        self.end_if_complete(finished)
    }

    /// Counts bytes that somebody else took out of the buffer.
    pub(super) fn taken(&mut self, bytes: usize, finished: &mut Vec<Finished>) {
        self.body.as_mut().expect("a body is under way").done += bytes;
        self.end_if_complete(finished);
    }

    fn end_if_complete(&mut self, finished: &mut Vec<Finished>) -> bool {
        let Some(body) = self.body.take_if(|body| body.is_complete()) else { return false };
        finished.extend(self.book.end(body));
        self.by_blocks = false;
        true
    }

    fn garbage(&mut self, cause: WireError) -> TransportError {
        self.close();
        TransportError::Garbage { peer: self.peer.name.clone(), cause }
    }

    fn disconnected(&mut self, doing: &'static str, cause: Option<io::Error>) -> TransportError {
        self.close();
        TransportError::Disconnected { peer: self.peer.name.clone(), doing, cause }
    }
}

impl Driven for TcpxDriven {
    fn submit(&mut self, submission: Submission) {
        self.book.submit(submission);
    }

    fn advance(&mut self, finished: &mut Vec<Finished>) -> Result<bool, TransportError> {
        if !self.open {
            return Err(TransportError::Closed { peer: self.peer.name.clone() });
        }
        let (mut out, mut into) = (TURN_BYTES_MAX, TURN_BYTES_MAX);
        let mut moved = false;
        loop {
            let sent = out > 0 && self.send(&mut out, Wait::No)?;
            let received = into > 0 && self.receive(finished, &mut into, Wait::No)?;
            moved |= sent || received;
            if !(sent || received) || self.book.outstanding() == 0 {
                return Ok(moved);
            }
        }
    }

    fn forget(&mut self, id: u64) -> Forgotten {
        self.book.forget(id, self.body.as_mut())
    }

    fn outstanding(&self) -> usize {
        self.book.outstanding()
    }

    fn readiness(&self) -> Option<(BorrowedFd<'_>, Interest)> {
        Some((self.stream.as_fd(), Interest { readable: true, writable: self.book.is_unsent() }))
    }

    fn transport(&self) -> &'static str {
        "tcpx"
    }

    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn close(&mut self) {
        if self.open {
            self.open = false;
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Connection for TcpxDriven {
    fn book(&mut self) -> &mut Book {
        &mut self.book
    }

    fn under_way(&self) -> Option<&Body> {
        self.body.as_ref()
    }

    fn is_open(&self) -> bool {
        self.open
    }

    fn is_unsent(&self) -> bool {
        self.book.is_unsent()
    }

    fn send_step(&mut self, wait: Wait) -> Result<bool, TransportError> {
        let mut budget = usize::MAX;
        self.send(&mut budget, wait)
    }

    fn receive_step(&mut self, finished: &mut Vec<Finished>, wait: Wait) -> Result<bool, TransportError> {
        let mut budget = usize::MAX;
        self.receive(finished, &mut budget, wait)
    }
}

impl Drop for TcpxDriven {
    fn drop(&mut self) {
        self.close();
    }
}
