//! `weft.h`: the engine for C, by the names of uccl_engine. Converts and does nothing else.
//!
//! The header is the contract of every function here: pointers are what it says, handles are those that were given out
//! and not given back. `state` holds what lies behind them.

#![allow(clippy::missing_safety_doc, reason = "weft.h says what callers promise, once for all of them")]
#![allow(missing_docs, reason = "weft.h says what each does")]

mod state;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::time::{Duration, Instant};

use weft_engine::{Direction, Failure, Part};
use weft_sys::memory::Span;
use weft_wire::{ITEM_BYTES, Item};

use state::{Conn, Engine, fail, fail_with};

/// How long accepting and connecting wait.
const ACCEPT_MAX: Duration = Duration::from_secs(5);

/// Runs `work` with what a handle points at; -1, or another value for nothing, when it is null.
macro_rules! with {
    ($handle:expr, $none:expr) => {
        // SAFETY: a handle that is not null was made by `Box::into_raw` in `create`, `connect` or `accept` and was not given
        // back, as the header asks; all of its state is shared behind locks.
        match unsafe { $handle.as_ref() } {
            Some(found) => found,
            None => return fail_with("the handle is null", $none),
        }
    };
}

#[unsafe(no_mangle)]
pub extern "C" fn weft_last_error() -> *const c_char {
    state::last_error()
}

#[unsafe(no_mangle)]
pub extern "C" fn uccl_engine_create(_num_cpus: c_int, _in_python: bool) -> *mut Engine {
    match Engine::start() {
        Ok(engine) => Box::into_raw(Box::new(engine)),
        Err(reason) => fail_with(&reason, std::ptr::null_mut()),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_destroy(engine: *mut Engine) {
    if !engine.is_null() {
        // SAFETY: made by `Box::into_raw` in `create`, and given back once.
        drop(unsafe { Box::from_raw(engine) });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_get_metadata(engine: *mut Engine, metadata: *mut *mut c_char) -> c_int {
    let engine = with!(engine, -1);
    if metadata.is_null() {
        return fail_with("there is no room for the metadata", -1);
    }
    let text = format!("{}?\0", engine.endpoint.address());
    // SAFETY: `metadata` is not null and points at room for a pointer, as the header asks.
    unsafe { metadata.write(copied(text.as_bytes())) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_connect(
    engine: *mut Engine,
    ip: *const c_char,
    _remote_gpu: *const c_char,
    port: c_int,
    _same_process: bool,
) -> *mut Conn {
    let engine = with!(engine, std::ptr::null_mut());
    if ip.is_null() {
        return fail_with("the address is null", std::ptr::null_mut());
    }
    // SAFETY: not null, and a C string as the header asks.
    let text = unsafe { CStr::from_ptr(ip) }.to_string_lossy();
    match engine.connect(&text, port) {
        Ok(conn) => Box::into_raw(Box::new(conn)),
        Err(failure) => fail(&failure, std::ptr::null_mut()),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_accept(
    engine: *mut Engine,
    ip: *mut c_char,
    ip_size: usize,
    remote_gpu: *mut c_int,
) -> *mut Conn {
    let engine = with!(engine, std::ptr::null_mut());
    match engine.accept(Instant::now() + ACCEPT_MAX) {
        Ok(Some(conn)) => {
            let text = format!("{}\0", conn.link.address.ip());
            if !ip.is_null() && ip_size >= text.len() {
                // SAFETY: the caller's room is at least as long as what is copied.
                unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), ip, text.len()) };
            }
            if !remote_gpu.is_null() {
                // SAFETY: not null, and room for an int as the header asks.
                unsafe { remote_gpu.write(0) };
            }
            Box::into_raw(Box::new(conn))
        }
        Ok(None) => fail_with("nobody connected in time", std::ptr::null_mut()),
        Err(failure) => fail(&failure, std::ptr::null_mut()),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_start_listener(conn: *mut Conn) -> c_int {
    let _ = with!(conn, -1);
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_stop_accept(engine: *mut Engine) -> c_int {
    with!(engine, -1).stop_accepting();
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_conn_destroy(conn: *mut Conn) {
    if !conn.is_null() {
        // SAFETY: made by `Box::into_raw` in `connect` or `accept`, and given back once.
        drop(unsafe { Box::from_raw(conn) });
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_conn_is_local(conn: *mut Conn) -> bool {
    with!(conn, false).link.transport() == "ipc"
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_reg(engine: *mut Engine, data: usize, size: usize, mr: *mut u64) -> c_int {
    let engine = with!(engine, -1);
    if data == 0 || mr.is_null() {
        return fail_with("the memory or the room for its number is null", -1);
    }
    // SAFETY: the caller says that this memory is mapped and stays so until mr_destroy.
    let span = unsafe { Span::from_raw(data as *mut u8, size) };
    match engine.endpoint.memory().register(span) {
        Ok(number) => {
            // SAFETY: not null, and room for a number as the header asks.
            unsafe { mr.write(number) };
            0
        }
        Err(failure) => fail(&failure, -1),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_mr_destroy(engine: *mut Engine, mr: u64) -> c_int {
    match with!(engine, -1).endpoint.release(mr) {
        Ok(()) => 0,
        Err(failure) => fail(&failure, -1),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_prepare_fifo(
    engine: *mut Engine,
    mr: u64,
    data: *const c_void,
    size: usize,
    item: *mut c_char,
) -> c_int {
    let engine = with!(engine, -1);
    if item.is_null() {
        return fail_with("there is no room for the item", -1);
    }
    match engine.advertise(mr, data as u64, size as u64) {
        Ok(made) => {
            let bytes = made.encode();
            // SAFETY: the caller's room has sixty-four bytes as the header asks.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), item, ITEM_BYTES) };
            0
        }
        Err(failure) => fail(&failure, -1),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_update_fifo(item: *mut c_char, address: u64, size: u32) -> c_int {
    if item.is_null() {
        return fail_with("there is no item", -1);
    }
    // SAFETY: an item has sixty-four bytes, of which the first twelve are these two.
    unsafe {
        std::ptr::copy_nonoverlapping(address.to_le_bytes().as_ptr().cast(), item, 8);
        std::ptr::copy_nonoverlapping(size.to_le_bytes().as_ptr().cast(), item.add(8), 4);
    }
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_read(
    conn: *mut Conn,
    mr: u64,
    data: *mut c_void,
    size: usize,
    item: *const c_char,
    transfer: *mut u64,
) -> c_int {
    // SAFETY: as for the vector of one.
    unsafe { begin(conn, Direction::Read, &[mr], &[data.cast_const()], &[size], item, transfer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_write(
    conn: *mut Conn,
    mr: u64,
    data: *const c_void,
    size: usize,
    item: *const c_char,
    transfer: *mut u64,
) -> c_int {
    // SAFETY: as for the vector of one.
    unsafe { begin(conn, Direction::Write, &[mr], &[data], &[size], item, transfer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_read_vector(
    conn: *mut Conn,
    mrs: *const u64,
    data: *const *mut c_void,
    sizes: *const usize,
    items: *const c_char,
    count: c_int,
    transfer: *mut u64,
) -> c_int {
    // SAFETY: the caller's arrays have `count` entries as the header asks.
    unsafe { begin_many(conn, Direction::Read, mrs, data.cast(), sizes, items, count, transfer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_write_vector(
    conn: *mut Conn,
    mrs: *const u64,
    data: *const *const c_void,
    sizes: *const usize,
    items: *const c_char,
    count: c_int,
    transfer: *mut u64,
) -> c_int {
    // SAFETY: the caller's arrays have `count` entries as the header asks.
    unsafe { begin_many(conn, Direction::Write, mrs, data, sizes, items, count, transfer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_send(
    conn: *mut Conn,
    mr: u64,
    data: *const c_void,
    size: usize,
    transfer: *mut u64,
) -> c_int {
    let conn = with!(conn, -1);
    if transfer.is_null() {
        return fail_with("the room for the transfer's number is null", -1);
    }
    match conn.send(mr, data as u64, size) {
        Ok(number) => {
            // SAFETY: not null, and room for a number as the header asks.
            unsafe { transfer.write(number) };
            0
        }
        Err(failure) => fail(&failure, -1),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_recv(conn: *mut Conn, mr: u64, data: *mut c_void, max_size: usize) -> c_int {
    match with!(conn, -1).receive(mr, data as u64, max_size) {
        Ok(_) => 0,
        Err(failure) => fail(&failure, -1),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_xfer_status(conn: *mut Conn, transfer: u64) -> bool {
    with!(conn, true).state(transfer, Duration::ZERO) != 0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn weft_xfer_state(conn: *mut Conn, transfer: u64, wait_ms: u64) -> c_int {
    with!(conn, -1).state(transfer, Duration::from_millis(wait_ms))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn weft_xfer_release(conn: *mut Conn, transfer: u64) {
    // SAFETY: as `with!`.
    if let Some(conn) = unsafe { conn.as_ref() } {
        conn.release(transfer);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_send_notif_v(
    conn: *mut Conn,
    name: *const c_char,
    name_size: usize,
    message: *const c_void,
    message_size: usize,
) -> c_int {
    let conn = with!(conn, -1);
    // SAFETY: the caller's buffers have these sizes; null counts as none.
    let (name, message) = unsafe { (bytes(name.cast(), name_size), bytes(message.cast(), message_size)) };
    match conn.notify(name, message) {
        Ok(()) => 0,
        Err(failure) => fail(&failure, -1),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uccl_engine_get_notif_v(
    engine: *mut Engine,
    name: *mut *mut c_char,
    name_size: *mut usize,
    message: *mut *mut c_char,
    message_size: *mut usize,
) -> c_int {
    let engine = with!(engine, -1);
    if name.is_null() || name_size.is_null() || message.is_null() || message_size.is_null() {
        return fail_with("there is no room for the notification", -1);
    }
    let Some(notice) = engine.next_notice() else { return 0 };
    // SAFETY: none is null, and each is room for what is written as the header asks.
    unsafe {
        name.write(copied(&notice.name));
        name_size.write(notice.name.len());
        message.write(copied(&notice.bytes));
        message_size.write(notice.bytes.len());
    }
    1
}

/// # Safety
/// As [`begin`], with arrays of `count` entries.
#[expect(clippy::too_many_arguments, reason = "the header's own")]
unsafe fn begin_many(
    conn: *mut Conn,
    direction: Direction,
    mrs: *const u64,
    data: *const *const c_void,
    sizes: *const usize,
    items: *const c_char,
    count: c_int,
    transfer: *mut u64,
) -> c_int {
    let Some(count) = usize::try_from(count).ok().filter(|count| *count > 0) else {
        return fail_with("a vector has at least one part", -1);
    };
    if mrs.is_null() || data.is_null() || sizes.is_null() {
        return fail_with("an array of the vector is null", -1);
    }
    // SAFETY: not null, and of `count` entries by this function's contract.
    unsafe {
        let mrs = std::slice::from_raw_parts(mrs, count);
        let data = std::slice::from_raw_parts(data, count);
        let sizes = std::slice::from_raw_parts(sizes, count);
        begin(conn, direction, mrs, data, sizes, items, transfer)
    }
}

/// # Safety
/// The handle is one, memory is registered and stays, `items` has sixty-four bytes for each part, `transfer` is room for
/// a number; null is refused.
unsafe fn begin(
    conn: *mut Conn,
    direction: Direction,
    mrs: &[u64],
    data: &[*const c_void],
    sizes: &[usize],
    items: *const c_char,
    transfer: *mut u64,
) -> c_int {
    let conn = with!(conn, -1);
    if items.is_null() || transfer.is_null() {
        return fail_with("the items or the room for the transfer's number is null", -1);
    }
    // SAFETY: sixty-four bytes for each part by this function's contract.
    let items = unsafe { std::slice::from_raw_parts(items.cast::<u8>(), mrs.len() * ITEM_BYTES) };
    let parts: Result<Vec<Part>, Failure> = mrs
        .iter()
        .zip(data)
        .zip(sizes)
        .zip(items.chunks_exact(ITEM_BYTES))
        .map(|(((mr, data), size), item)| {
            let item = Item::decode(item).map_err(|cause| Failure::argument(cause.to_string()))?;
            conn.part(*mr, *data as u64, *size, &item)
        })
        .collect();
    match parts.and_then(|parts| conn.begin(direction, &parts)) {
        Ok(number) => {
            // SAFETY: not null, and room for a number by this function's contract.
            unsafe { transfer.write(number) };
            0
        }
        Err(failure) => fail(&failure, -1),
    }
}

/// # Safety
/// `base` has `length` bytes that nobody writes meanwhile, or is null.
unsafe fn bytes<'a>(base: *const u8, length: usize) -> &'a [u8] {
    if base.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: this function's contract.
    unsafe { std::slice::from_raw_parts(base, length) }
}

/// A copy that C may free. Null where there is no memory for it.
fn copied(bytes: &[u8]) -> *mut c_char {
    // SAFETY: malloc gives room for as many bytes as are asked for, or null; at least one, so that null means failure.
    unsafe {
        let room = libc::malloc(bytes.len().max(1)).cast::<u8>();
        if !room.is_null() {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), room, bytes.len());
        }
        room.cast()
    }
}
