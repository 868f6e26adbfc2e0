use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex around plain data, which a panic cannot leave half-written.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
