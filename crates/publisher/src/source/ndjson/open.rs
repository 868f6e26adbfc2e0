use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bootstrap::Beat;

use super::reader::JobReader;

/// An open input, before anything is read.
pub(crate) struct OpenInput {
    /// The path, or `standard input`.
    pub(crate) name: String,
    /// Length in bytes; `None` if it is not a regular file.
    pub(crate) length: Option<u64>,
    reader: Box<dyn Read + Send>,
}

impl OpenInput {
    /// Opens a file, or standard input if the path is `-`.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self {
                name: "standard input".to_owned(),
                length: None,
                reader: Box::new(io::stdin()),
            });
        }
        let name = path.display().to_string();
        let failed = || format!("cannot read the input {name}");
        let file = File::open(path).with_context(failed)?;
        let metadata = file.metadata().with_context(failed)?;
        if metadata.is_dir() {
            bail!("{}: it is a directory", failed());
        }
        Ok(Self {
            length: metadata.is_file().then_some(metadata.len()),
            reader: Box::new(file),
            name,
        })
    }

    /// Starts to read; see [`JobReader::start`].
    pub(crate) fn read(
        self,
        longest: usize,
        durable: bool,
        life: Option<Beat>,
    ) -> anyhow::Result<JobReader> {
        JobReader::start(self.reader, longest, durable, life)
    }
}

/// Whether two paths lead to the same file.
pub(crate) fn same_file(one: &Path, other: &Path) -> bool {
    let canonical = |path: &Path| -> Option<PathBuf> { path.canonicalize().ok() };
    canonical(one).is_some_and(|one| canonical(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_cannot_be_read_is_named() {
        let error = OpenInput::open(Path::new("/no/such/file")).err().unwrap();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
        let error = OpenInput::open(Path::new("/")).err().unwrap();
        assert!(error.to_string().contains("directory"), "{error}");
    }
}
