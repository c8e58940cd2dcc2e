//! TCP sockets: what the standard library lacks. Options, and sends and receives over spans of shared memory.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rustix::net::sockopt;

use crate::memory::Span;

/// Most spans one call hands to the kernel (`IOV_MAX` is 1024; a header and a full range list need one more call).
pub const SPANS_MAX: usize = 1024;

/// Whether a call may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Returns `WouldBlock` at once.
    No,
    /// Sleeps, at most for the socket's receive or send time-out.
    Yes,
}

impl Wait {
    pub(crate) const fn flags(self) -> libc::c_int {
        match self {
            Self::No => libc::MSG_DONTWAIT,
            Self::Yes => 0,
        }
    }
}

/// What a socket of Weft is set to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Congestion control to insist on; `None` takes cubic where it may be chosen.
    pub congestion: Option<String>,
    /// Send buffer where the congestion control paces (bbr), in bytes: a small one keeps pacing from stalling bulk.
    pub paced_send_buffer_bytes: usize,
    /// Idle time and interval of keep-alive probes.
    pub keep_alive: Duration,
    /// Unanswered probes after which the peer counts as dead.
    pub keep_alive_probes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            congestion: None,
            paced_send_buffer_bytes: 128 << 10,
            keep_alive: Duration::from_secs(1),
            keep_alive_probes: 3,
        }
    }
}

/// Applies `options`. A congestion control that was not asked for by name is a preference, one that was is a demand.
///
/// # Errors
/// The option that failed, by the kernel's error; `NotFound` or `PermissionDenied` for a demanded congestion control.
pub fn configure<Fd: AsFd>(socket: Fd, options: &Options) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, options.keep_alive)?;
    sockopt::set_tcp_keepintvl(&socket, options.keep_alive)?;
    sockopt::set_tcp_keepcnt(&socket, options.keep_alive_probes)?;
    // Unacknowledged data counts like unanswered probes: keep-alive alone does not run while a send is outstanding.
    let silent = options.keep_alive * (options.keep_alive_probes + 1);
    sockopt::set_tcp_user_timeout(&socket, u32::try_from(silent.as_millis()).unwrap_or(u32::MAX))?;
    match &options.congestion {
        Some(name) => sockopt::set_tcp_congestion(&socket, name)?,
        None => {
            let _ = sockopt::set_tcp_congestion(&socket, "cubic");
        }
    }
    if sockopt::tcp_congestion(&socket)?.starts_with("bbr") {
        sockopt::set_socket_send_buffer_size(&socket, options.paced_send_buffer_bytes)?;
    }
    Ok(())
}

/// The congestion control a connected socket runs with.
pub fn congestion<Fd: AsFd>(socket: Fd) -> io::Result<String> {
    Ok(sockopt::tcp_congestion(socket)?)
}

/// Connects within `timeout`, configured before the first byte.
pub fn connect(address: SocketAddr, options: &Options, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    configure(&stream, options)?;
    Ok(stream)
}

/// Listens on the first free port of `ports`. The socket that found the port is the one that listens, so nobody can take
/// it in between.
///
/// # Errors
/// `AddrInUse` when every port is taken; any other error of binding at once.
pub fn listen(host: std::net::IpAddr, ports: std::ops::RangeInclusive<u16>) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in ports {
        match TcpListener::bind((host, port)) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                return Ok(listener);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Bounds how long a sleeping receive or send may last before it returns `WouldBlock`.
pub fn set_waits<Fd: AsFd>(socket: Fd, wait: Duration) -> io::Result<()> {
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(wait))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(wait))?;
    Ok(())
}

/// Bytes that wait to be received.
pub fn readable_bytes<Fd: AsFd>(socket: Fd) -> io::Result<usize> {
    Ok(usize::try_from(rustix::io::ioctl_fionread(socket)?).unwrap_or(usize::MAX))
}

/// Receives into `spans`, in order. Zero means that the peer closed (or that the spans are empty).
pub fn receive<Fd: AsFd>(socket: Fd, spans: &[Span], wait: Wait) -> io::Result<usize> {
    if let [span] = spans {
        // SAFETY: a span is mapped and writable for its length by its constructor's contract.
        let got = unsafe { libc::recv(socket.as_fd().as_raw_fd(), span.base().cast(), span.len(), wait.flags()) };
        return check(got);
    }
    let mut vectors = Vectors::new();
    let mut message = vectors.message(spans);
    // SAFETY: the message names `vectors`, which lives across the call, and spans that are mapped and writable.
    let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, wait.flags()) };
    check(got)
}

/// Sends `spans`, in order; may send fewer bytes than they hold.
pub fn send<Fd: AsFd>(socket: Fd, spans: &[Span], wait: Wait) -> io::Result<usize> {
    let flags = wait.flags() | libc::MSG_NOSIGNAL;
    if let [span] = spans {
        // SAFETY: a span is mapped and readable for its length by its constructor's contract.
        let sent = unsafe { libc::send(socket.as_fd().as_raw_fd(), span.base().cast(), span.len(), flags) };
        return check(sent);
    }
    let mut vectors = Vectors::new();
    let message = vectors.message(spans);
    // SAFETY: the message names `vectors`, which lives across the call, and spans that are mapped and readable.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, flags) };
    check(sent)
}

fn check(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The kernel's form of a span list; short lists (header and a few pieces) stay on the stack.
pub(crate) struct Vectors {
    few: [libc::iovec; 20],
    many: Vec<libc::iovec>,
}

impl Vectors {
    pub(crate) fn new() -> Self {
        Self { few: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 20], many: Vec::new() }
    }

    pub(crate) fn message(&mut self, spans: &[Span]) -> libc::msghdr {
        let spans = &spans[..spans.len().min(SPANS_MAX)];
        let vector = |span: &Span| libc::iovec { iov_base: span.base().cast(), iov_len: span.len() };
        let (base, count) = if spans.len() <= self.few.len() {
            for (slot, span) in self.few.iter_mut().zip(spans) {
                *slot = vector(span);
            }
            (self.few.as_mut_ptr(), spans.len())
        } else {
            self.many = spans.iter().map(vector).collect();
            (self.many.as_mut_ptr(), self.many.len())
        };
        // SAFETY: an all-zero msghdr is the documented empty message.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = base;
        message.msg_iovlen = count;
        message
    }
}
