//! The verbs library that is none, as a file to be loaded in place of libibverbs: `libibverbs.so.1` for tests of processes.
//!
//! A device is there while a file `device` is in the folder that `WEFT_FAKE_VERBS` names, for every process of it at once, as
//! if an adapter were plugged in and pulled out; `weft_fake_remove` pulls this process's out alone.
#![allow(clippy::undocumented_unsafe_blocks, reason = "each hands on what it was called with, under the same contract")]

#[path = "mod.rs"]
mod fake;

use std::ffi::{c_char, c_int, c_void};
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use fake::Fake;
use weft_verbs::ffi::Table;
use weft_verbs::ffi::layout::*;

/// How soon a device that is pulled out is gone.
const LOOK: Duration = Duration::from_millis(20);

static TABLE: LazyLock<Table> = LazyLock::new(fake::table);
static DEVICES: Mutex<Vec<Fake>> = Mutex::new(Vec::new());

/// Pulls every device of this process out; the next list has a new one, if the file is still there.
#[unsafe(no_mangle)]
pub extern "C" fn weft_fake_remove() {
    for device in DEVICES.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        device.remove();
    }
}

/// What this process did wrong so far: how many times, with each on standard error.
#[unsafe(no_mangle)]
pub extern "C" fn weft_fake_violations() -> c_int {
    let violations = fake::all_violations();
    for violation in &violations {
        eprintln!("fake verbs: {violation}");
    }
    c_int::try_from(violations.len()).unwrap_or(c_int::MAX)
}

fn is_plugged_in() -> bool {
    std::env::var_os("WEFT_FAKE_VERBS").is_some_and(|folder| Path::new(&folder).join("device").exists())
}

macro_rules! exported {
    ($($symbol:ident = $field:ident($($name:ident: $kind:ty),*) -> $result:ty;)*) => {
        $(
            /// As libibverbs says of it.
            ///
            /// # Safety
            /// As libibverbs says of it.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $symbol($($name: $kind),*) -> $result {
                unsafe { (TABLE.$field)($($name),*) }
            }
        )*
    };
}

exported! {
    ibv_free_device_list = free_device_list(list: *mut *mut ibv_device) -> ();
    ibv_get_device_name = get_device_name(device: *mut ibv_device) -> *const c_char;
    ibv_open_device = open_device(device: *mut ibv_device) -> *mut ibv_context;
    ibv_close_device = close_device(context: *mut ibv_context) -> c_int;
    ibv_query_device = query_device(context: *mut ibv_context, into: *mut ibv_device_attr) -> c_int;
    ibv_query_port = query_port(context: *mut ibv_context, port: u8, into: *mut ibv_port_attr) -> c_int;
    ibv_query_gid = query_gid(context: *mut ibv_context, port: u8, index: c_int, into: *mut ibv_gid) -> c_int;
    ibv_alloc_pd = alloc_pd(context: *mut ibv_context) -> *mut ibv_pd;
    ibv_dealloc_pd = dealloc_pd(domain: *mut ibv_pd) -> c_int;
    ibv_reg_mr = reg_mr(domain: *mut ibv_pd, at: *mut c_void, length: usize, access: c_int) -> *mut ibv_mr;
    ibv_dereg_mr = dereg_mr(memory: *mut ibv_mr) -> c_int;
    ibv_create_comp_channel = create_comp_channel(context: *mut ibv_context) -> *mut ibv_comp_channel;
    ibv_destroy_comp_channel = destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int;
    ibv_create_cq = create_cq(
        context: *mut ibv_context, entries: c_int, user: *mut c_void, channel: *mut ibv_comp_channel, vector: c_int
    ) -> *mut ibv_cq;
    ibv_destroy_cq = destroy_cq(queue: *mut ibv_cq) -> c_int;
    ibv_get_cq_event = get_cq_event(
        channel: *mut ibv_comp_channel, queue: *mut *mut ibv_cq, user: *mut *mut c_void
    ) -> c_int;
    ibv_ack_cq_events = ack_cq_events(queue: *mut ibv_cq, count: u32) -> ();
    ibv_create_qp = create_qp(domain: *mut ibv_pd, wanted: *mut ibv_qp_init_attr) -> *mut ibv_qp;
    ibv_modify_qp = modify_qp(pair: *mut ibv_qp, attributes: *mut ibv_qp_attr, mask: c_int) -> c_int;
    ibv_destroy_qp = destroy_qp(pair: *mut ibv_qp) -> c_int;
    ibv_get_async_event = get_async_event(context: *mut ibv_context, event: *mut ibv_async_event) -> c_int;
    ibv_ack_async_event = ack_async_event(event: *mut ibv_async_event) -> ();
}

/// The devices there are: one, while the file is there and nobody pulled it out.
///
/// # Safety
/// As libibverbs says of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_get_device_list(count: *mut c_int) -> *mut *mut ibv_device {
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    if is_plugged_in() && devices.is_empty() {
        devices.push(Fake::plug_in());
        // Without a thread it stays until it is pulled out by name.
        let _ = std::thread::Builder::new().name("fake-verbs".to_owned()).spawn(|| {
            while is_plugged_in() {
                std::thread::sleep(LOOK);
            }
            weft_fake_remove();
        });
    }
    unsafe { (TABLE.get_device_list)(count) }
}

/// The addresses of a device's ports, as newer libraries list them.
///
/// # Safety
/// As libibverbs says of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _ibv_query_gid_table(
    context: *mut ibv_context,
    entries: *mut ibv_gid_entry,
    room: usize,
    flags: u32,
    entry_bytes: usize,
) -> isize {
    let listed = TABLE.query_gid_table.expect("the table has it");
    unsafe { listed(context, entries, room, flags, entry_bytes) }
}
