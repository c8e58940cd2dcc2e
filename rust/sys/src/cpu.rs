//! Which CPUs the calling thread may run on, and putting it on one.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How many CPUs the calling thread may run on; one when the kernel does not say.
pub fn allowed_count() -> usize {
    sched_getaffinity(None).map_or(1, |set| set.count() as usize)
}

/// A set of CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus(CpuSet);

impl Cpus {
    /// Those that the calling thread may run on now.
    ///
    /// # Errors
    /// Machines with more CPUs than the set has room for (1024).
    pub fn allowed() -> io::Result<Self> {
        Ok(Self(sched_getaffinity(None)?))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.count() as usize
    }

    /// Whether `cpu` is one of them.
    pub fn has(&self, cpu: usize) -> bool {
        cpu < CpuSet::MAX_CPU && self.0.is_set(cpu)
    }

    /// Lets the calling thread run on these and no others.
    ///
    /// # Errors
    /// Where none of them is there, or the machine's administrator says otherwise.
    pub fn confine(&self) -> io::Result<()> {
        Ok(sched_setaffinity(None, &self.0)?)
    }
}

/// Lets the calling thread run on `cpu` alone.
///
/// # Errors
/// As [`Cpus::confine`].
pub fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut one = CpuSet::new();
    one.set(cpu);
    Ok(sched_setaffinity(None, &one)?)
}

/// The CPU that thread `tid` of any process runs on, or ran on last; `None` once it is gone.
pub fn last_cpu_of(tid: u32) -> Option<usize> {
    let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
    // The name is in parentheses and may hold anything; the processor is field 39, and behind the name comes field 3.
    stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().nth(39 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_run_on_one_cpu_and_a_confined_one_on_those_it_had() {
        let allowed = Cpus::allowed().expect("affinity");
        let cpu = (0..CpuSet::MAX_CPU).rfind(|&cpu| allowed.has(cpu)).expect("some CPU");
        pin_to(cpu).expect("pin");
        let pinned = Cpus::allowed().expect("affinity");
        assert!(pinned.count() == 1 && pinned.has(cpu));
        assert_eq!(last_cpu_of(rustix::thread::gettid().as_raw_pid() as u32), Some(cpu));
        allowed.confine().expect("unpin");
        assert_eq!(Cpus::allowed().expect("affinity"), allowed);
    }
}
