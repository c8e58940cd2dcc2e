//! Other processes of this machine: whose they are, what they share with this one, and their memory.
//!
//! A neighbour is spoken to over an abstract UNIX socket, a record at a time. The kernel says who made it. What both must
//! see change at once lies on a [`Slate`], a sealed page that one side makes and hands to the other.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use crate::memory::Span;

/// Longest record on a neighbour's socket, in bytes.
pub const RECORD_BYTES_MAX: usize = 4096;
/// Most pieces of memory one call hands to the kernel (`IOV_MAX`).
const VECTORS_MAX: usize = 1024;
/// Up to this many are put together without an allocation.
const VECTORS_FEW: usize = 4;

/// The kernel's name for what processes must share to be neighbours: its boot, and the namespaces of processes and
/// networks. Empty where it does not say.
pub fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let spaces = ["/proc/self/ns/pid", "/proc/self/ns/net"].map(std::fs::read_link);
    match (boot, spaces) {
        (Ok(boot), [Ok(processes), Ok(networks)]) => {
            format!("{} {} {}", boot.trim(), processes.display(), networks.display())
        }
        _ => String::new(),
    }
}

/// The user this process runs as.
pub fn user() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Whose process is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process that made the socket.
    pub process: i32,
    /// The user it ran as.
    pub user: u32,
}

/// A socket that hears neighbours.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Listens under an abstract name; it goes with the socket.
    ///
    /// # Errors
    /// `AddrInUse`, or a name that is too long.
    pub fn bind(name: &str) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        rustix::net::listen(&socket, 128)?;
        Ok(Self(socket))
    }

    /// The next neighbour; `WouldBlock` when there is none.
    ///
    /// # Errors
    /// The socket's.
    pub fn accept(&self) -> io::Result<Conversation> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(Conversation(rustix::net::accept_with(&self.0, flags)?))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A connection to a neighbour. No call of it waits.
#[derive(Debug)]
pub struct Conversation(OwnedFd);

impl Conversation {
    /// Connects to a listener's name.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens.
    pub fn connect(name: &str) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        Ok(Self(socket))
    }

    /// Who is at the other end, by the kernel's word.
    ///
    /// # Errors
    /// The socket's.
    pub fn credentials(&self) -> io::Result<Credentials> {
        let found = sockopt::socket_peercred(&self.0)?;
        Ok(Credentials { process: found.pid.as_raw_pid(), user: found.uid.as_raw() })
    }

    /// Sends one record, and a descriptor with it.
    ///
    /// # Errors
    /// `WouldBlock` when the neighbour does not take its records; its end.
    pub fn send(&self, record: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is room for one descriptor");
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.0, &[IoSlice::new(record)], &mut control, flags)?;
        Ok(())
    }

    /// Receives one record, and the descriptor that came with it. No bytes mean that the neighbour is gone.
    ///
    /// # Errors
    /// `WouldBlock` when none waits.
    pub fn receive(&self, record: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(record)], &mut control, flags)?;
        let mut found = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                found = descriptors.into_iter().next().or(found);
            }
        }
        Ok((received.bytes, found))
    }

    /// Whether the neighbour has ended the connection, or its process has ended.
    pub fn is_over(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut one = [PollFd::new(&self.0, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut one, Some(&now)) {
            Ok(_) => one[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
            Err(error) => error != rustix::io::Errno::INTR,
        }
    }
}

impl AsFd for Conversation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Places on a slate.
pub const PLACES: usize = 4095;
const SLATE_BYTES: usize = (PLACES + 1) * 16;

/// A page-aligned piece of memory that two processes see: a word of its maker's, and places of two counters each.
#[derive(Debug)]
pub struct Slate {
    base: *mut u8,
    descriptor: OwnedFd,
}

// SAFETY: all access goes through atomics within the mapping, which lives as long as the slate.
unsafe impl Send for Slate {}
// SAFETY: as above.
unsafe impl Sync for Slate {}

impl Slate {
    /// A fresh one, all zero, that can neither shrink nor grow.
    ///
    /// # Errors
    /// Out of memory or descriptors.
    pub fn make() -> io::Result<Self> {
        let descriptor = memfd_create("weft-slate", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&descriptor, SLATE_BYTES as u64)?;
        fcntl_add_seals(&descriptor, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(descriptor)
    }

    /// A neighbour's. It must be sealed: one that shrank under us would end this process.
    ///
    /// # Errors
    /// `InvalidData` for a descriptor that is no slate.
    pub fn take(descriptor: OwnedFd) -> io::Result<Self> {
        let sealed = fcntl_get_seals(&descriptor)?.contains(SealFlags::SHRINK);
        let size = rustix::fs::fstat(&descriptor)?.st_size;
        if !sealed || size != i64::try_from(SLATE_BYTES).expect("it is small") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Self::map(descriptor)
    }

    fn map(descriptor: OwnedFd) -> io::Result<Self> {
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe { mmap(std::ptr::null_mut(), SLATE_BYTES, rights, MapFlags::SHARED, &descriptor, 0)? };
        Ok(Self { base: base.cast(), descriptor })
    }

    /// The maker's word, by which a neighbour's memory is known to be its.
    pub fn word(&self) -> &AtomicU64 {
        // SAFETY: the mapping has its first sixteen bytes for this, aligned, for as long as `self` lives; both sides
        // touch them as atomics alone.
        unsafe { &*self.base.cast::<AtomicU64>() }
    }

    /// The two counters of a place.
    pub fn place(&self, index: usize) -> (&AtomicU32, &AtomicU32) {
        assert!(index < PLACES, "a slate has {PLACES} places");
        // SAFETY: the index was checked; each place is sixteen aligned bytes of the mapping, touched as atomics alone.
        unsafe {
            let at = self.base.add((index + 1) * 16);
            (&*at.cast::<AtomicU32>(), &*at.add(4).cast::<AtomicU32>())
        }
    }

    /// Where its word lies in this process.
    pub fn address(&self) -> u64 {
        self.base as u64
    }

    /// To hand it over.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Slate {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by us with this length and is unmapped once; borrows of it end before.
        unsafe {
            let _ = munmap(self.base.cast(), SLATE_BYTES);
        }
    }
}

/// A stretch of a neighbour's memory, by its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub length: usize,
}

/// Copies a neighbour's memory into this process. Whole, or an error.
///
/// # Errors
/// `PermissionDenied` where the kernel keeps processes apart, `NotFound` when the process is gone, `InvalidInput` for
/// memory that is not mapped.
pub fn read_memory(process: i32, from: &[Remote], into: &[Span]) -> io::Result<()> {
    // SAFETY: spans are mapped and writable by their constructors' contracts; the kernel checks the neighbour's side.
    copy(from, into, |local, remote| unsafe {
        libc::process_vm_readv(process, local.as_ptr(), local.len() as _, remote.as_ptr(), remote.len() as _, 0)
    })
}

/// Copies this process's memory into a neighbour's. Whole, or an error after which a part may be there.
///
/// # Errors
/// As [`read_memory`].
pub fn write_memory(process: i32, into: &[Remote], from: &[Span]) -> io::Result<()> {
    // SAFETY: spans are mapped and readable by their constructors' contracts; the kernel checks the neighbour's side.
    copy(into, from, |local, remote| unsafe {
        libc::process_vm_writev(process, local.as_ptr(), local.len() as _, remote.as_ptr(), remote.len() as _, 0)
    })
}

fn copy(
    remote: &[Remote],
    local: &[Span],
    call: impl Fn(&[libc::iovec], &[libc::iovec]) -> libc::ssize_t,
) -> io::Result<()> {
    let total: usize = local.iter().map(|span| span.len()).sum();
    assert_eq!(total, remote.iter().map(|part| part.length).sum::<usize>(), "both sides have the same length");
    let mut done = 0;
    while done < total {
        let ours = Vectors::of(local.iter().map(|span| (span.base() as u64, span.len())), done);
        let theirs = Vectors::of(remote.iter().map(|part| (part.base, part.length)), done);
        match call(ours.list(), theirs.list()) {
            moved if moved > 0 => done += usize::try_from(moved).expect("it is positive"),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// A list as the kernel takes it. A small copy costs half a microsecond, and an allocation a good part of that: a few pieces
/// lie here.
struct Vectors {
    few: [libc::iovec; VECTORS_FEW],
    count: usize,
    many: Vec<libc::iovec>,
}

impl Vectors {
    /// What is left of `parts` after `skip` bytes.
    fn of(parts: impl Iterator<Item = (u64, usize)>, mut skip: usize) -> Self {
        const NOTHING: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut made = Self { few: [NOTHING; VECTORS_FEW], count: 0, many: Vec::new() };
        for (base, length) in parts {
            if skip >= length {
                skip -= length;
                continue;
            }
            if made.count == VECTORS_MAX {
                break;
            }
            let vector = libc::iovec {
                iov_base: usize::try_from(base).expect("an address fits").wrapping_add(skip) as *mut libc::c_void,
                iov_len: length - skip,
            };
            skip = 0;
            if made.count < VECTORS_FEW {
                made.few[made.count] = vector;
            } else {
                if made.many.is_empty() {
                    made.many.extend_from_slice(&made.few);
                }
                made.many.push(vector);
            }
            made.count += 1;
        }
        made
    }

    fn list(&self) -> &[libc::iovec] {
        if self.many.is_empty() { &self.few[..self.count] } else { &self.many }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn a_slate_is_seen_by_whoever_was_handed_it() {
        let mine = Slate::make().expect("memory");
        let theirs = Slate::take(mine.descriptor().try_clone_to_owned().expect("a descriptor")).expect("it is one");
        mine.word().store(7, Ordering::SeqCst);
        theirs.place(PLACES - 1).1.store(9, Ordering::SeqCst);
        assert_eq!((theirs.word().load(Ordering::SeqCst), mine.place(PLACES - 1).1.load(Ordering::SeqCst)), (7, 9));
        let plain = memfd_create("plain", MemfdFlags::CLOEXEC).expect("memory");
        rustix::fs::ftruncate(&plain, SLATE_BYTES as u64).expect("memory");
        assert_eq!(Slate::take(plain).expect_err("it may shrink").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn memory_of_a_process_is_copied_over_uneven_pieces() {
        let own = i32::try_from(std::process::id()).expect("a process");
        let source: Vec<u8> = (0..200u8).collect();
        let at = |offset: usize, length| Remote { base: source.as_ptr() as u64 + offset as u64, length };
        let mut target = [0u8; 100];
        let (first, second) = target.split_at_mut(33);
        read_memory(own, &[at(0, 50), at(150, 50)], &[Span::of(first), Span::of(second)]).expect("it is ours");
        assert!(target[..50] == source[..50] && target[50..] == source[150..]);
        let gone = read_memory(own, &[Remote { base: 8, length: 1 }], &[Span::of(&mut [0])]);
        assert!(gone.is_err());
        let many: Vec<Remote> = (0..20).map(|index| at(index * 10, 5)).collect();
        let expected: Vec<u8> = (0..20).flat_map(|index| source[index * 10..index * 10 + 5].to_vec()).collect();
        read_memory(own, &many, &[Span::of(&mut target)]).expect("it is ours");
        assert_eq!(&target[..], &expected[..]);
    }
}
