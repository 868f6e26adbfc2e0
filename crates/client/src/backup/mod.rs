//! Backups of all streams, and their restoration.
//!
//! A backup is a folder with a manifest, the server's own snapshot of each stream, and what the snapshots cannot have:
//! see the section on backups in docs/architecture.md. Files are read and written on the thread of the caller.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use client::Client;
//! use client::backup::{self, FileCopy, Manifest, Progress, Restored, StreamCopy};
//!
//! # async fn example(jobs: Client, other: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let folder = Path::new("backup");
//! let show = |progress: Progress| eprintln!("{}: {} bytes", progress.file, progress.bytes);
//! let manifest: Manifest = backup::take(jobs.nats(), folder, &show).await?;
//! for (name, StreamCopy { messages, .. }) in &manifest.streams {
//!     println!("{name}: {messages} messages");
//! }
//! for (name, FileCopy { bytes, sha256 }) in &manifest.files {
//!     println!("{name}: {bytes} bytes, {sha256}");
//! }
//!
//! // Later, with another server.
//! let manifest = backup::verify(folder, &show)?;
//! let Restored { dead_letters, removed, .. } =
//!     backup::restore(other.nats(), folder, &manifest, &[], &show).await?;
//! println!("{dead_letters} dead letters were put back, {removed} records removed");
//! # Ok(())
//! # }
//! ```

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
