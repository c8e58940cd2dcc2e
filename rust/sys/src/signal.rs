//! Signals, for threads that should not see any.

use std::io;

/// Blocks every signal that can be blocked in the calling thread, so that a handler of the program it lives in never
/// runs on its stack.
///
/// # Errors
/// None that the kernel is known to give.
pub fn block_all() -> io::Result<()> {
    // SAFETY: a zeroed signal set is a valid argument for `sigfillset`, which initialises it; the mask of the calling
    // thread alone changes.
    let error = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}
