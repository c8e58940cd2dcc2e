//! userfaultfd: a thread's missing page becomes a message, and the answer an `ioctl`.
//!
//! The layouts and numbers are those of `linux/userfaultfd.h` as of 6.8; they are written out here because the header on
//! a build machine may be older than the kernel a program runs on. See `Documentation/admin-guide/mm/userfaultfd.rst`.
//!
//! Every operation on a range answers `Result<(), Halt>`: done, or how far it came and why it stopped. Two of the
//! reasons are part of normal life: the page is already there, and the address space is changing (an event waits to
//! be read, and until it is the kernel installs nothing).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::memory::{PAGE_BYTES, Span};

const API: u64 = 0xAA;

const fn request(direction: u64, number: u64, size: usize) -> libc::c_ulong {
    (direction << 30 | (size as u64) << 16 | API << 8 | number) as libc::c_ulong
}
const READ_WRITE: u64 = 3;
/// `UFFDIO_UNREGISTER` and `UFFDIO_WAKE` are declared the wrong way round in the kernel's header, and stay so.
const READ: u64 = 2;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ApiArgument {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RangeArgument {
    start: u64,
    len: u64,
}

#[repr(C)]
struct RegisterArgument {
    range: RangeArgument,
    mode: u64,
    ioctls: u64,
}

/// `uffdio_copy` and `uffdio_move`: the last field is the number of bytes done, or a negative error.
#[repr(C)]
struct TransferArgument {
    target: u64,
    source: u64,
    len: u64,
    mode: u64,
    done: i64,
}

/// `uffdio_zeropage` and `uffdio_poison`.
#[repr(C)]
struct FillArgument {
    range: RangeArgument,
    mode: u64,
    done: i64,
}

#[repr(C)]
struct ProtectArgument {
    range: RangeArgument,
    mode: u64,
}

const UFFDIO_API: libc::c_ulong = request(READ_WRITE, 0x3F, size_of::<ApiArgument>());
const UFFDIO_REGISTER: libc::c_ulong = request(READ_WRITE, 0x00, size_of::<RegisterArgument>());
const UFFDIO_UNREGISTER: libc::c_ulong = request(READ, 0x01, size_of::<RangeArgument>());
const UFFDIO_WAKE: libc::c_ulong = request(READ, 0x02, size_of::<RangeArgument>());
const UFFDIO_COPY: libc::c_ulong = request(READ_WRITE, 0x03, size_of::<TransferArgument>());
const UFFDIO_ZEROPAGE: libc::c_ulong = request(READ_WRITE, 0x04, size_of::<FillArgument>());
const UFFDIO_MOVE: libc::c_ulong = request(READ_WRITE, 0x05, size_of::<TransferArgument>());
const UFFDIO_WRITEPROTECT: libc::c_ulong = request(READ_WRITE, 0x06, size_of::<ProtectArgument>());
const UFFDIO_POISON: libc::c_ulong = request(READ_WRITE, 0x08, size_of::<FillArgument>());
/// `_IO(0xAA, 0x00)` on `/dev/userfaultfd`.
const USERFAULTFD_IOC_NEW: libc::c_ulong = (API << 8) as libc::c_ulong;
/// Flag of the system call: faults that the kernel takes on behalf of a process are not handled.
const UFFD_USER_MODE_ONLY: libc::c_int = 1;

const REGISTER_MISSING: u64 = 1 << 0;
const REGISTER_WRITE_PROTECT: u64 = 1 << 1;
const COPY_PROTECTED: u64 = 1 << 1;
const WRITEPROTECT_ON: u64 = 1 << 0;

/// What a userfaultfd can do, as bits of the `UFFDIO_API` handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Nothing beyond missing faults.
    pub const NONE: Self = Self(0);
    /// `mremap` is told.
    pub const EVENT_REMAP: Self = Self(1 << 2);
    /// `madvise(DONTNEED)` and its kin are told.
    pub const EVENT_REMOVE: Self = Self(1 << 3);
    /// `munmap` is told.
    pub const EVENT_UNMAP: Self = Self(1 << 6);
    /// Write protection of anonymous memory.
    pub const WRITE_PROTECT: Self = Self(1 << 0);
    /// A fault names the thread that took it.
    pub const THREAD_ID: Self = Self(1 << 8);
    /// A page can be made to raise SIGBUS (Linux 6.6).
    pub const POISON: Self = Self(1 << 14);
    /// The kernel resolves write-protect faults by itself (Linux 6.7).
    pub const WRITE_PROTECT_ASYNC: Self = Self(1 << 15);
    /// Pages move between ranges without a copy (Linux 6.8).
    pub const MOVE: Self = Self(1 << 16);

    /// Both together.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in here.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What of `other` is not in here.
    pub const fn lacking(self, other: Self) -> Self {
        Self(other.0 & !self.0)
    }
}

/// A message of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A thread waits for a page.
    Fault {
        /// The page that was touched: an address rounded down to its page.
        address: u64,
        /// Whether it was touched to be written.
        write: bool,
        /// The thread that waits, where [`Features::THREAD_ID`] was asked for, else 0.
        thread: u32,
    },
    /// A range moved: `mremap` has put what was at `from` at `to`.
    Remap {
        /// Where the range was.
        from: u64,
        /// Where it is.
        to: u64,
        /// How long it is, in bytes.
        len: u64,
    },
    /// The content of a range is about to be dropped; the range stays mapped.
    Remove {
        /// First byte.
        start: u64,
        /// One past the last.
        end: u64,
    },
    /// A range was unmapped.
    Unmap {
        /// First byte.
        start: u64,
        /// One past the last.
        end: u64,
    },
    /// A kind this program did not ask for.
    Other(u8),
}

const MESSAGE_BYTES: usize = 32;

impl Message {
    fn parse(bytes: &[u8; MESSAGE_BYTES]) -> Self {
        let word =
            |index: usize| u64::from_ne_bytes(bytes[8 + index * 8..16 + index * 8].try_into().expect("eight bytes"));
        match bytes[0] {
            // The flags' bit 0 is UFFD_PAGEFAULT_FLAG_WRITE; the thread id is the low half of the third word.
            0x12 => Self::Fault {
                address: word(1) & !(PAGE_BYTES as u64 - 1),
                write: word(0) & 1 != 0,
                thread: u32::from_ne_bytes(bytes[24..28].try_into().expect("four bytes")),
            },
            0x14 => Self::Remap { from: word(0), to: word(1), len: word(2) },
            0x15 => Self::Remove { start: word(0), end: word(1) },
            0x16 => Self::Unmap { start: word(0), end: word(1) },
            kind => Self::Other(kind),
        }
    }
}

/// Why an operation on a range stopped.
#[derive(Debug)]
pub enum Why {
    /// The page at `done` is already there (`EEXIST`). Whoever waits for it has not been woken by this call.
    Present,
    /// The page at `done` to be moved is not there, or is pinned (`EBUSY`).
    Busy,
    /// An event waits to be read, and until it is nothing is installed (`EAGAIN`).
    Changing,
    /// No such range is registered any more (`ENOENT`), or the process is going away (`ESRCH`).
    Gone,
    /// Anything else; an invariant of ours does not hold, or memory ran out.
    Failed(io::Error),
}

/// An operation that did not cover its whole range.
#[derive(Debug)]
pub struct Halt {
    /// Bytes done before it stopped; whole pages.
    pub done: usize,
    /// Why it stopped there.
    pub why: Why,
}

impl Halt {
    fn new(done: usize, errno: i32) -> Self {
        let why = match errno {
            libc::EEXIST => Why::Present,
            libc::EBUSY => Why::Busy,
            libc::EAGAIN => Why::Changing,
            libc::ENOENT | libc::ESRCH => Why::Gone,
            other => Why::Failed(io::Error::from_raw_os_error(other)),
        };
        Self { done, why }
    }
}

/// A userfaultfd.
#[derive(Debug)]
pub struct Uffd {
    handle: OwnedFd,
    features: Features,
    kernel_faults: bool,
}

impl Uffd {
    /// Opens one, non-blocking and close-on-exec, with `wanted` features.
    ///
    /// Tried in turn: the system call (root, `CAP_SYS_PTRACE`, or `vm.unprivileged_userfaultfd=1`), `/dev/userfaultfd`
    /// (whoever may open it), and the system call for user-mode faults alone, which anybody may make but with which a
    /// system call on a missing page fails with `EFAULT` ([`Uffd::kernel_faults`] says which it became).
    ///
    /// # Errors
    /// `EPERM` when none of the three is allowed, `ENOSYS` without userfaultfd in the kernel, `EINVAL` when the kernel
    /// lacks a wanted feature (see [`Uffd::supported`]).
    pub fn open(wanted: Features) -> io::Result<Self> {
        let (handle, kernel_faults) = Self::open_raw()?;
        let mut argument = ApiArgument { api: API, features: wanted.0, ioctls: 0 };
        // SAFETY: the descriptor is a fresh userfaultfd and the argument is a live struct of the layout it expects.
        check(unsafe { libc::ioctl(handle.as_raw_fd(), UFFDIO_API, &raw mut argument) })?;
        Ok(Self { handle, features: wanted, kernel_faults })
    }

    /// All that this kernel can do. Opens a descriptor of its own for the question, since one handshake is all a
    /// descriptor gets.
    ///
    /// # Errors
    /// As [`Uffd::open`].
    pub fn supported() -> io::Result<Features> {
        let (handle, _) = Self::open_raw()?;
        let mut argument = ApiArgument { api: API, features: 0, ioctls: 0 };
        // SAFETY: as in `open`.
        check(unsafe { libc::ioctl(handle.as_raw_fd(), UFFDIO_API, &raw mut argument) })?;
        Ok(Features(argument.features))
    }

    fn open_raw() -> io::Result<(OwnedFd, bool)> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let refused = match userfaultfd(flags) {
            Ok(handle) => return Ok((handle, true)),
            Err(error) => error,
        };
        if let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd") {
            // SAFETY: this request takes its flags by value and touches no memory.
            let raw = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, flags) };
            if raw >= 0 {
                // SAFETY: the kernel just made this descriptor for us and nobody else holds it.
                return Ok((unsafe { OwnedFd::from_raw_fd(raw) }, true));
            }
        }
        if refused.raw_os_error() != Some(libc::EPERM) {
            return Err(refused);
        }
        userfaultfd(flags | UFFD_USER_MODE_ONLY).map(|handle| (handle, false))
    }

    /// The features it was opened with.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether a system call that meets a missing page faults (`true`) or fails with `EFAULT`.
    pub fn kernel_faults(&self) -> bool {
        self.kernel_faults
    }

    /// Registers `span` for missing faults, and for write protection if `protectable`. The span is whole pages of one
    /// kind of memory.
    ///
    /// # Errors
    /// `EINVAL` for memory that cannot be registered, `EBUSY` for memory that another userfaultfd holds.
    pub fn register(&self, span: Span, protectable: bool) -> io::Result<()> {
        let mode = if protectable { REGISTER_MISSING | REGISTER_WRITE_PROTECT } else { REGISTER_MISSING };
        let mut argument = RegisterArgument { range: range(span.base() as u64, span.len()), mode, ioctls: 0 };
        // SAFETY: the argument is a live struct of the expected layout; the kernel checks the range itself.
        check(unsafe { libc::ioctl(self.raw(), UFFDIO_REGISTER, &raw mut argument) })
    }

    /// Ends the registration of a range and wakes whoever waits in it. Missing pages read as zeros from then on, unless
    /// the caller took the right to touch them away first.
    ///
    /// # Errors
    /// `EINVAL` when nothing there is registered.
    pub fn unregister(&self, address: u64, len: usize) -> io::Result<()> {
        let mut argument = range(address, len);
        // SAFETY: as in `register`.
        check(unsafe { libc::ioctl(self.raw(), UFFDIO_UNREGISTER, &raw mut argument) })
    }

    /// Takes the oldest message, faults before events; `None` when there is none.
    ///
    /// One at a time, so that several handler threads share a burst instead of one of them taking it all.
    ///
    /// # Errors
    /// Whatever `read` says but `EAGAIN` and `EINTR`.
    pub fn next(&self) -> io::Result<Option<Message>> {
        let mut bytes = [0u8; MESSAGE_BYTES];
        match rustix::io::read(&self.handle, &mut bytes) {
            Ok(MESSAGE_BYTES) => Ok(Some(Message::parse(&bytes))),
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Copies `source` to `address` and wakes who waits there. With `protect` the pages come write-protected, which
    /// with [`Features::WRITE_PROTECT_ASYNC`] means: not written yet.
    ///
    /// # Errors
    /// Where it stopped, and why.
    pub fn copy(&self, address: u64, source: Span, protect: bool) -> Result<(), Halt> {
        let mode = if protect { COPY_PROTECTED } else { 0 };
        self.transfer(UFFDIO_COPY, address, source.base() as u64, source.len(), mode)
    }

    /// Moves the pages at `source` to `target` and wakes who waits there. Both are private anonymous memory, writable,
    /// and the target is registered here. What is moved leaves its old place empty.
    ///
    /// # Errors
    /// Where it stopped, and why: [`Why::Busy`] for a page that is pinned or shared with a child.
    pub fn shift(&self, target: u64, source: u64, len: usize) -> Result<(), Halt> {
        self.transfer(UFFDIO_MOVE, target, source, len, 0)
    }

    /// Maps the shared page of zeros and wakes who waits there.
    ///
    /// # Errors
    /// Where it stopped, and why.
    pub fn zero(&self, address: u64, len: usize) -> Result<(), Halt> {
        self.fill(UFFDIO_ZEROPAGE, address, len)
    }

    /// Makes every touch of the range raise SIGBUS (`EFAULT` or `EHWPOISON` in a system call), and wakes who waits there.
    ///
    /// # Errors
    /// Where it stopped, and why.
    pub fn poison(&self, address: u64, len: usize) -> Result<(), Halt> {
        self.fill(UFFDIO_POISON, address, len)
    }

    /// Wakes who waits in the range; they fault again if their page is still missing.
    ///
    /// # Errors
    /// `EINVAL` for a range that is none.
    pub fn wake(&self, address: u64, len: usize) -> io::Result<()> {
        let mut argument = range(address, len);
        // SAFETY: as in `register`.
        check(unsafe { libc::ioctl(self.raw(), UFFDIO_WAKE, &raw mut argument) })
    }

    /// Write-protects a range, or lifts the protection and wakes who waits there.
    ///
    /// # Errors
    /// [`Why::Changing`] and [`Why::Gone`] as elsewhere; nothing is known of how far it came.
    pub fn protect(&self, address: u64, len: usize, on: bool) -> Result<(), Halt> {
        let mut argument = ProtectArgument { range: range(address, len), mode: if on { WRITEPROTECT_ON } else { 0 } };
        // SAFETY: as in `register`.
        let result = unsafe { libc::ioctl(self.raw(), UFFDIO_WRITEPROTECT, &raw mut argument) };
        if result == 0 { Ok(()) } else { Err(Halt::new(0, errno())) }
    }

    /// `COPY` and `MOVE` stop early for a page that is present, for a signal, or because memory is short, and then say
    /// how much they did; asking again for the rest tells which it was.
    fn transfer(&self, request: libc::c_ulong, target: u64, source: u64, len: usize, mode: u64) -> Result<(), Halt> {
        let mut done = 0;
        while done < len {
            let mut argument = TransferArgument {
                target: target + done as u64,
                source: source + done as u64,
                len: (len - done) as u64,
                mode,
                done: 0,
            };
            // SAFETY: the argument is a live struct of the expected layout. The source is a span, mapped by its
            // constructor's contract (the kernel answers EFAULT otherwise), and the kernel installs only where this
            // descriptor is registered, over nothing that is there already.
            let result = unsafe { libc::ioctl(self.raw(), request, &raw mut argument) };
            done += advance(result, argument.done).map_err(|errno| Halt::new(done, errno))?;
        }
        Ok(())
    }

    fn fill(&self, request: libc::c_ulong, address: u64, len: usize) -> Result<(), Halt> {
        let mut done = 0;
        while done < len {
            let mut argument = FillArgument { range: range(address + done as u64, len - done), mode: 0, done: 0 };
            // SAFETY: as in `transfer`, without a source.
            let result = unsafe { libc::ioctl(self.raw(), request, &raw mut argument) };
            done += advance(result, argument.done).map_err(|errno| Halt::new(done, errno))?;
        }
        Ok(())
    }

    fn raw(&self) -> i32 {
        self.handle.as_raw_fd()
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Bytes that one call did, or the errno that says why it did none.
fn advance(result: libc::c_int, done: i64) -> Result<usize, i32> {
    if done > 0 {
        return Ok(done as usize);
    }
    if result == 0 {
        // A success that did nothing would loop for ever; the kernel does not do that.
        return Err(libc::EIO);
    }
    // The field holds the error of the operation, the call's own errno only "not all of it"; before the operation
    // began (a bad range, a change under way) the field may be untouched.
    if done < 0 { Err(i32::try_from(-done).unwrap_or(libc::EIO)) } else { Err(errno()) }
}

fn range(address: u64, len: usize) -> RangeArgument {
    RangeArgument { start: address, len: len as u64 }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn userfaultfd(flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the call takes flags by value and returns a descriptor or an error.
    let raw = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    let raw = i32::try_from(raw).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel just made this descriptor for us and nobody else holds it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Mapping;

    const WANTED: Features = Features::POISON.with(Features::EVENT_REMOVE);

    fn open() -> Option<Uffd> {
        match Uffd::open(WANTED) {
            Ok(uffd) => Some(uffd),
            Err(error) => {
                eprintln!("skipped: no userfaultfd here ({error})");
                None
            }
        }
    }

    #[test]
    fn the_requests_have_the_numbers_of_the_kernel_header() {
        assert_eq!(UFFDIO_API, 0xC018_AA3F);
        assert_eq!(UFFDIO_REGISTER, 0xC020_AA00);
        assert_eq!(UFFDIO_UNREGISTER, 0x8010_AA01);
        assert_eq!(UFFDIO_WAKE, 0x8010_AA02);
        assert_eq!(UFFDIO_COPY, 0xC028_AA03);
        assert_eq!(UFFDIO_ZEROPAGE, 0xC020_AA04);
        assert_eq!(UFFDIO_MOVE, 0xC028_AA05);
        assert_eq!(UFFDIO_WRITEPROTECT, 0xC018_AA06);
        assert_eq!(UFFDIO_POISON, 0xC020_AA08);
    }

    #[test]
    fn a_copy_over_a_present_page_says_how_far_it_came() {
        let Some(uffd) = open() else { return };
        let window = Mapping::anonymous(4 * PAGE_BYTES, true).expect("window");
        let source = Mapping::anonymous(4 * PAGE_BYTES, true).expect("source");
        uffd.register(window.span(), false).expect("register");
        let base = window.base() as u64;
        uffd.zero(base + 2 * PAGE_BYTES as u64, PAGE_BYTES).expect("zero");

        let halt = uffd.copy(base, source.span(), false).expect_err("page 2 is there");
        assert_eq!(halt.done, 2 * PAGE_BYTES);
        assert!(matches!(halt.why, Why::Present), "{halt:?}");
    }

    #[test]
    fn a_copy_to_a_range_that_is_not_registered_is_gone() {
        let Some(uffd) = open() else { return };
        let elsewhere = Mapping::anonymous(PAGE_BYTES, true).expect("mapping");
        let source = Mapping::anonymous(PAGE_BYTES, true).expect("source");
        let halt = uffd.copy(elsewhere.base() as u64, source.span(), false).expect_err("not registered");
        assert!(matches!(halt.why, Why::Gone), "{halt:?}");
    }

    #[test]
    fn a_fault_names_its_page_and_whether_it_writes() {
        let Some(uffd) = open() else { return };
        let window = Mapping::anonymous(2 * PAGE_BYTES, true).expect("window");
        uffd.register(window.span(), false).expect("register");
        let page = window.span().part(PAGE_BYTES, PAGE_BYTES).expect("page 1");
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || page.copy_from(&[7]));
            let message = loop {
                if let Some(message) = uffd.next().expect("read") {
                    break message;
                }
                std::thread::yield_now();
            };
            assert_eq!(message, Message::Fault { address: page.base() as u64, write: true, thread: 0 });
            uffd.zero(page.base() as u64, PAGE_BYTES).expect("zero");
            writer.join().expect("writer");
        });
    }
}
