//! TCP whose payload stays in a device's memory (`devmem`, Linux 6.12 and newer): the receive, and the way back.
//!
//! A card puts payload into a buffer that was bound to one of its queues; the receive names the places in control
//! messages, and they are given back when they were read. What the messages say is read elsewhere, without a socket. On a
//! connection whose card has no such buffer (loopback never has one) the same receive brings plain bytes.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::memory::Span;
use crate::socket::{Vectors, Wait};

const MSG_SOCK_DEVMEM: libc::c_int = 0x0200_0000;
const SO_DEVMEM_DONTNEED: libc::c_int = 80;

/// What a receive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the stream, wherever they lie. Zero means that the peer closed.
    pub bytes: usize,
    /// Bytes of control messages.
    pub control_bytes: usize,
    /// Whether there were more of these than there was room for.
    pub control_truncated: bool,
}

/// Receives: what the card did not place goes into `spans`, what there is to say about the rest into `control`.
///
/// # Errors
/// `EFAULT` where the kernel cannot hand out bytes of a device on this socket; any error of a receive.
pub fn receive<Fd: AsFd>(socket: Fd, spans: &[Span], control: &mut [u64], wait: Wait) -> io::Result<Received> {
    let mut vectors = Vectors::new();
    let mut message = vectors.message(spans);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = std::mem::size_of_val(control);
    // SAFETY: the message names `vectors` and `control`, which live across the call, and spans that are mapped and
    // writable by their constructors' contract.
    let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, wait.flags() | MSG_SOCK_DEVMEM) };
    let bytes = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    Ok(Received {
        bytes,
        control_bytes: message.msg_controllen,
        control_truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// Gives places back, as (first token, how many); at most 128 of these and 1,024 tokens a call. Returns how many tokens the
/// kernel knew.
///
/// # Errors
/// `ENOPROTOOPT` where the kernel has no such thing, `EINVAL` beyond the bounds.
pub fn give_back<Fd: AsFd>(socket: Fd, runs: &[(u32, u32)]) -> io::Result<usize> {
    let words: Vec<[u32; 2]> = runs.iter().map(|(first, count)| [*first, *count]).collect();
    let bytes = libc::socklen_t::try_from(std::mem::size_of_val(words.as_slice())).expect("bounded by the kernel");
    // SAFETY: the kernel reads `bytes` bytes of `words`, which lives across the call.
    let freed = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, SO_DEVMEM_DONTNEED, words.as_ptr().cast(), bytes)
    };
    usize::try_from(freed).map_err(|_| io::Error::last_os_error())
}

/// Whether this kernel knows the interface: the half that can be asked without a card.
///
/// # Errors
/// Why not, as a sentence.
pub fn probe() -> Result<(), String> {
    let socket = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))
        .map_err(|error| format!("no socket to ask on: {error}"))?;
    match give_back(&socket, &[(0, 1)]) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            Err("the kernel is older than 6.12 or was built without CONFIG_NET_DEVMEM".to_owned())
        }
        Err(error) => Err(format!("the kernel refused to take pages of a device back: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_of_a_connection_without_a_device_are_plain() {
        if let Err(reason) = probe() {
            println!("skipped: {reason}");
            return;
        }
        let (mut client, server) = pair();
        client.write_all(b"plain bytes").unwrap();
        let (mut into, mut control) = ([0u8; 32], [0u64; 64]);
        let got = receive(&server, &[Span::of(&mut into)], &mut control, Wait::Yes).unwrap();
        assert_eq!(got, Received { bytes: 11, control_bytes: 0, control_truncated: false });
        assert_eq!(&into[..11], b"plain bytes");
    }

    #[test]
    fn the_kernel_takes_back_at_most_its_bound() {
        if let Err(reason) = probe() {
            println!("skipped: {reason}");
            return;
        }
        let (client, _server) = pair();
        assert_eq!(give_back(&client, &[(0, 1); 128]).unwrap(), 0);
        assert_eq!(give_back(&client, &[(0, 1); 129]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
