//! Backups of all streams, and their restoration.
//!
//! A backup is a folder with a manifest, the server's own snapshot of each stream, and what the snapshots cannot have:
//! see the section on backups in docs/architecture.md. Files are read and written on the thread of the caller.

mod files;
mod manifest;
mod repair;
mod restore;
mod take;

pub use manifest::{FileCopy, MANIFEST, Manifest, StreamCopy};
pub use restore::{Restored, existing, restore, verify};
pub use take::take;

/// How far a backup or a restoration is, for a display.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The file that is written or read.
    pub file: &'static str,
    /// How many bytes of it were written or read.
    pub bytes: u64,
    /// How many bytes it has, if that is known.
    pub of: Option<u64>,
}
