//! The files of a backup.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufRead as _, BufReader, BufWriter, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jetstream::Message;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::manifest::{FileCopy, MANIFEST, Manifest};

/// Makes a folder that only its owner may read; one that exists must be empty.
pub(super) fn make_folder(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let mut entries =
                fs::read_dir(folder).with_context(|| format!("cannot read {shown}"))?;
            ensure!(entries.next().is_none(), "{shown} is not empty");
        }
        Err(error) => return Err(error).with_context(|| format!("cannot make {shown}")),
    }
    // The mode of a new folder depends on the umask as well.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot keep others from {shown}"))
}

fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("cannot sync {}", folder.display()))
}

/// A file that is written.
pub(super) struct Writing {
    path: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    pub(super) bytes: u64,
}

impl Writing {
    pub(super) fn new(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let path = folder.join(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self {
            path,
            file: BufWriter::new(file),
            hash: Sha256::new(),
            bytes: 0,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        let written = self.file.write_all(bytes);
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    pub(super) fn write_line(&mut self, line: &Line) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.write(&text)
    }

    /// Syncs the file.
    pub(super) fn finish(self) -> anyhow::Result<FileCopy> {
        let synced = self
            .file
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error);
        let synced = synced.and_then(|file| file.sync_all());
        synced.with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(FileCopy {
            bytes: self.bytes,
            sha256: hex(&self.hash.finalize()),
        })
    }
}

/// Writes the manifest, which makes the files a backup.
pub(super) fn write_manifest(folder: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let unfinished = format!("{MANIFEST}.part");
    let mut writing = Writing::new(folder, &unfinished)?;
    let mut text = serde_json::to_vec_pretty(manifest)?;
    text.push(b'\n');
    writing.write(&text)?;
    writing.finish()?;
    // The other files have to be there before the manifest is.
    sync_folder(folder)?;
    let renamed = fs::rename(folder.join(&unfinished), folder.join(MANIFEST));
    renamed.with_context(|| format!("cannot make {}", folder.join(MANIFEST).display()))?;
    sync_folder(folder)?;
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    sync_folder(parent.unwrap_or(Path::new(".")))
}

/// Compares a file with what the manifest says of it.
pub(super) fn check(
    folder: &Path,
    name: &str,
    wanted: &FileCopy,
    read: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let path = folder.join(name);
    let shown = path.display();
    let about = fs::symlink_metadata(&path).with_context(|| format!("cannot read {shown}"))?;
    ensure!(about.is_file(), "{shown} is not a file");
    ensure!(
        about.len() == wanted.bytes,
        "{shown} is damaged: it has {} bytes instead of {}",
        about.len(),
        wanted.bytes
    );
    let mut file = File::open(&path).with_context(|| format!("cannot read {shown}"))?;
    let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        let count = file.read(&mut buffer);
        let count = count.with_context(|| format!("cannot read {shown}"))?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        bytes += count as u64;
        read(bytes);
    }
    let found = hex(&hash.finalize());
    ensure!(
        found == wanted.sha256,
        "{shown} is damaged: its SHA-256 is {found} instead of {}",
        wanted.sha256
    );
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A message in a file, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    /// Its sequence in the stream that it was read from.
    pub(super) sequence: u64,
    subject: String,
    headers: Vec<(String, String)>,
    /// Base64.
    payload: String,
}

impl Line {
    pub(super) fn of(sequence: u64, message: &Message) -> Self {
        let headers = message.headers.iter().flat_map(|(name, values)| {
            let values = values.iter();
            values.map(move |value| (name.to_string(), value.as_str().to_owned()))
        });
        Self {
            sequence,
            subject: message.subject.clone(),
            headers: headers.collect(),
            payload: BASE64.encode(&message.payload),
        }
    }

    pub(super) fn message(&self) -> anyhow::Result<Message> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name: HeaderName = name.parse().context("not the name of a header")?;
            let value: HeaderValue = value.parse().context("not the value of a header")?;
            headers.append(name, value);
        }
        Ok(Message {
            subject: self.subject.clone(),
            headers,
            payload: BASE64.decode(&self.payload)?.into(),
        })
    }
}

/// The lines of a file.
pub(super) fn lines(
    folder: &Path,
    name: &str,
) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Line>>> {
    let path = folder.join(name);
    let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = BufReader::new(file).lines().enumerate();
    Ok(lines.map(move |(index, line)| {
        let wrong = || format!("{}, line {}", path.display(), index + 1);
        let line = line.with_context(wrong)?;
        match serde_json::from_str(&line) {
            Ok(line) => Ok(line),
            Err(error) => bail!("{}: {error}", wrong()),
        }
    }))
}
