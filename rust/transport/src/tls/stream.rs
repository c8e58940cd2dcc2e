//! The edge at which a connection is plain or under TLS. Everything above sees bytes.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use weft_sys::memory::Span;
use weft_sys::socket::{self, Wait};

use super::{CertificateFault, Tls, TlsFault, TlsStream};
use crate::TransportError;
use crate::tls::verify::covers;

/// A connection. Choosing costs one comparison a call to the kernel, and plain bytes take the way they always took.
pub(crate) enum Stream {
    /// Bytes as they are.
    Plain(TcpStream),
    /// Bytes in records.
    Tls(Box<TlsStream>),
    /// Handed on.
    Gone,
}

impl Stream {
    /// The client's end of a connection that was just made.
    ///
    /// # Errors
    /// As [`TlsStream::connect`].
    pub fn connect(
        socket: TcpStream,
        tls: Option<&Tls>,
        label: &str,
        deadline: Instant,
    ) -> Result<Self, TransportError> {
        Ok(match tls {
            None => Self::Plain(socket),
            Some(tls) => Self::Tls(Box::new(TlsStream::connect(socket, tls, label, deadline)?)),
        })
    }

    /// The server's end of one that was just accepted.
    ///
    /// # Errors
    /// As [`TlsStream::accept`].
    pub fn accept(socket: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        Ok(match tls {
            None => Self::Plain(socket),
            Some(tls) => Self::Tls(Box::new(TlsStream::accept(socket, tls)?)),
        })
    }

    /// Receives into `spans`, in order. Zero means that the peer closed.
    ///
    /// # Errors
    /// As [`socket::receive`]; under TLS as [`TlsStream::receive`].
    #[inline]
    pub fn receive(&mut self, spans: &[Span], wait: Wait) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket::receive(&*socket, spans, wait),
            Self::Tls(tls) => tls.receive(spans, wait),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Sends `spans`, in order; may send fewer bytes than they hold.
    ///
    /// # Errors
    /// As [`socket::send`]; under TLS as [`TlsStream::send`].
    #[inline]
    pub fn send(&mut self, spans: &[Span], wait: Wait) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket::send(&*socket, spans, wait),
            Self::Tls(tls) => tls.send(spans, wait),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Whether bytes that were sent still wait for room in the kernel. Never of a plain connection.
    #[inline]
    pub fn is_unflushed(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.is_unflushed())
    }

    /// Hands them to the kernel.
    ///
    /// # Errors
    /// As [`TlsStream::flush`].
    pub fn flush(&mut self, wait: Wait) -> io::Result<()> {
        match self {
            Self::Tls(tls) => tls.flush(wait),
            Self::Plain(_) | Self::Gone => Ok(()),
        }
    }

    /// The socket, where bytes go through it as they are and may be counted and received past this.
    pub fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(_) | Self::Gone => None,
        }
    }

    /// Receives what the socket has and makes nothing of it.
    ///
    /// # Errors
    /// As [`socket::receive`].
    pub fn discard(&self, into: Span) -> io::Result<usize> {
        socket::receive(self.socket()?, &[into], Wait::No)
    }

    /// Ends the connection, on this side or on both.
    ///
    /// # Errors
    /// The socket's.
    pub fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        if let Self::Tls(tls) = self {
            tls.say_goodbye();
        }
        self.socket()?.shutdown(how)
    }

    /// Whether the peer may go by `name`: anybody may on a plain connection, where the secret is all there is.
    ///
    /// # Errors
    /// The fault, when its certificate is for somebody else.
    pub fn check_name(&self, name: &str) -> Result<(), TlsFault> {
        match self {
            Self::Tls(tls) if !covers(tls.peer_names(), name) => {
                Err(TlsFault::TheirCertificate(CertificateFault::WrongName {
                    claimed: name.to_owned(),
                    held: tls.peer_names().to_vec(),
                }))
            }
            _ => Ok(()),
        }
    }

    /// Makes a plain connection of one on which the peer began without TLS; what it said so far.
    pub fn become_plain(&mut self) -> Vec<u8> {
        match std::mem::replace(self, Self::Gone) {
            Self::Tls(tls) => {
                let (socket, said) = tls.into_plain();
                *self = Self::Plain(socket);
                said
            }
            other => {
                *self = other;
                Vec::new()
            }
        }
    }

    fn socket(&self) -> io::Result<&TcpStream> {
        match self {
            Self::Plain(socket) => Ok(socket),
            Self::Tls(tls) => Ok(tls.socket()),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Tls(_) => "Tls",
            Self::Gone => "Gone",
        })
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.as_fd(),
            Self::Tls(tls) => tls.socket().as_fd(),
            Self::Gone => unreachable!("what was handed on is not asked"),
        }
    }
}
