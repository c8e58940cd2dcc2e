//! Those who reach a server's memory without asking the server.
//!
//! A queue pair's peer reads and writes by a key, and no code of ours runs here meanwhile. So whoever gave keys out is told
//! before a right ends, and the end is answered only once the keys are of no use any more. What if it cannot take one back?
//! It says so, and whoever raised the gate is told that somebody may still be inside.

use std::sync::{Arc, PoisonError, RwLock};

/// Hands out ways to reach memory that no gate sees.
pub trait Bypass: Send + Sync {
    /// Takes back every way into a region that was given under a generation below `lowest`. Whether nobody can use one any
    /// more.
    fn raise(&self, region_id: &str, lowest: u64) -> bool;

    /// Takes back every way into one extent, and lets go of its memory.
    fn release(&self, region_id: &str, index: u32);

    /// Lets nothing land any more that `writer` sends over a connection older than `epoch`. Whether that is certain.
    fn fence(&self, writer: u64, epoch: u64) -> bool;
}

/// All of them that one store knows.
#[derive(Default)]
pub struct Bypasses(RwLock<Vec<Arc<dyn Bypass>>>);

impl Bypasses {
    pub(crate) fn add(&self, bypass: Arc<dyn Bypass>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(bypass);
    }

    pub(crate) fn remove(&self, bypass: &Arc<dyn Bypass>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|known| !Arc::ptr_eq(known, bypass));
    }

    /// Asks every one, also when an earlier one could not. Whether all could.
    pub(crate) fn all(&self, ask: impl Fn(&dyn Bypass) -> bool) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let unable = known.iter().filter(|bypass| !ask(bypass.as_ref())).count();
        unable == 0
    }
}

impl std::fmt::Debug for Bypasses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bypasses").finish_non_exhaustive()
    }
}
