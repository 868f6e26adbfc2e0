//! One process at a time.

use std::fs::{self, File};
use std::path::Path;

use anyhow::Context as _;

/// Waits until no other process, and no other thread, holds the lock on `path`.
///
/// It is held until the returned file is dropped; the system frees it also when the process dies.
pub(crate) fn file_lock(path: &Path) -> anyhow::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    }
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}
