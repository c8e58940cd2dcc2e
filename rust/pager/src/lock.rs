//! Locks that outlive a panic.
//!
//! A panic of one thread must not keep another from resolving faults. Everything the pager keeps under a lock is
//! consistent between any two statements that can panic, so a poisoned lock is taken like any other.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// `lock`, poisoned or not.
pub trait Held<T> {
    /// Takes the lock.
    fn held(&self) -> MutexGuard<'_, T>;
}

impl<T> Held<T> for Mutex<T> {
    fn held(&self) -> MutexGuard<'_, T> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `read` and `write`, poisoned or not.
pub trait Shared<T> {
    /// Takes the lock among others.
    fn shared(&self) -> RwLockReadGuard<'_, T>;
    /// Takes the lock alone.
    fn alone(&self) -> RwLockWriteGuard<'_, T>;
}

impl<T> Shared<T> for RwLock<T> {
    fn shared(&self) -> RwLockReadGuard<'_, T> {
        self.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, T> {
        self.write().unwrap_or_else(PoisonError::into_inner)
    }
}
