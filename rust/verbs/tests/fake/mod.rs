//! A verbs library that is none: devices of this process, joined by a wire that is a copy of memory.
//!
//! It keeps libibverbs' contracts and checks that its user does: which attributes a transition names, in which order things
//! are posted and destroyed, that keys fit the memory. What a user does wrong is a *violation*, kept until a test asks. And
//! it fails on request: a device is told after how many more pieces of work something happens.
//!
//! Devices of one process are joined by its memory; those of several by `between`, where `WEFT_FAKE_VERBS` says so.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "one contract for all of them, above the first")]

mod between;
mod calls;
mod wire;
mod work;

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::sync::Arc;

use calls::*;
use weft_verbs::ffi::{Library, Table};
use wire::*;

/// What happens to a piece of work, or to the device at its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ends with this status, carried out or not: nobody can tell.
    Ends(u32),
    /// As above, and it was carried out.
    EndsAfter(u32),
    /// It is carried out, and nobody is told.
    Silent,
    /// It is not even taken.
    Refused(i32),
    /// The device is pulled out.
    Removed,
}

/// A device of the fake library.
pub struct Fake {
    index: usize,
    /// Its name.
    pub name: String,
}

impl Fake {
    /// Plugs a device in.
    pub fn plug_in() -> Self {
        let mut pipe = [0; 2];
        // SAFETY: two descriptors are written.
        assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) }, 0);
        let mut wire = wire();
        let index = wire.devices.len();
        let name = format!("fake{index}");
        let mut gid = [0; 16];
        gid[10..12].fill(0xff);
        let process = u8::try_from(between::number()).unwrap();
        gid[12..].copy_from_slice(&[
            10,
            99,
            process | u8::try_from(index >> 8).unwrap(),
            u8::try_from(index & 255).unwrap(),
        ]);
        wire.devices.push(FakeDevice {
            name: CString::new(name.clone()).unwrap(),
            gid,
            faults: VecDeque::new(),
            removed: false,
            posted: 0,
            violations: Vec::new(),
            alive: HashMap::new(),
            events: VecDeque::new(),
            pipe,
        });
        Self { index, name }
    }

    /// The library.
    pub fn library() -> Arc<Library> {
        // SAFETY: the functions below keep the contracts.
        unsafe { Library::from_table(table()) }
    }

    /// Lets `fault` happen after `posts` more pieces of work.
    pub fn inject(&self, posts: u32, fault: Fault) {
        wire().devices[self.index].faults.push_back((posts, fault));
    }

    /// Pulls the device out now.
    pub fn remove(&self) {
        remove(&mut wire(), self.index);
    }

    /// Pieces of work posted so far.
    pub fn posted(&self) -> u64 {
        wire().devices[self.index].posted
    }

    /// What its user did wrong so far.
    pub fn violations(&self) -> Vec<String> {
        wire().devices[self.index].violations.clone()
    }

    /// Objects that are still there.
    pub fn alive(&self) -> Vec<(&'static str, i64)> {
        let wire = wire();
        let mut alive: Vec<_> = wire.devices[self.index]
            .alive
            .iter()
            .map(|(kind, count)| (*kind, *count))
            .filter(|(_, n)| *n != 0)
            .collect();
        alive.sort_unstable();
        alive
    }
}

/// What users of all devices did wrong so far.
pub fn all_violations() -> Vec<String> {
    wire().devices.iter().flat_map(|device| device.violations.clone()).collect()
}

/// The library's functions.
pub fn table() -> Table {
    Table {
        get_device_list,
        free_device_list,
        get_device_name,
        open_device,
        close_device,
        query_device,
        query_port,
        query_gid,
        query_gid_table: Some(query_gid_table),
        alloc_pd,
        dealloc_pd,
        reg_mr,
        dereg_mr,
        create_comp_channel,
        destroy_comp_channel,
        create_cq,
        destroy_cq,
        get_cq_event,
        ack_cq_events,
        create_qp,
        modify_qp,
        destroy_qp,
        get_async_event,
        ack_async_event,
    }
}
