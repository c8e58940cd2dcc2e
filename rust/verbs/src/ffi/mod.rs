//! The one place that speaks to libibverbs; everything unsafe of this crate is below it.
//!
//! `layout` is the ABI, `library` the functions, and the rest one object a file, each closed when dropped and holding
//! what it was made from: a queue pair outlives neither its completion queue nor its domain, a domain not its device. So
//! teardown happens in the only order the kernel takes.

#[expect(missing_docs, reason = "fields are those of the C structures, in the header's words")]
pub mod layout;

mod completions;
mod device;
mod library;
mod memory;
mod queue_pair;

pub use completions::{Completion, CompletionQueue};
pub use device::{Device, DeviceEvent, Domain, Port};
pub use library::{Library, Table};
pub use memory::{Access, MemoryRegion};
pub use queue_pair::{Bounds, QueuePair, Remote, State, Verb, Work};
