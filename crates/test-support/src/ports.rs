//! The ports that a server chose.

use std::fs;
use std::path::Path;

use serde::Deserialize;

/// The ports that a nats-server listens on, as it wrote them into the folder that its option
/// `--ports_file_dir` names.
///
/// A server that is told to listen on port -1 takes a free one itself, so no other process can take
/// it between the choice and the use. It writes the file when it accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// For clients.
    pub client: u16,
    /// For the monitoring pages.
    pub monitoring: u16,
}

impl Ports {
    /// Reads the ports of the server that writes into `folder`, or nothing as long as it has not
    /// written them out.
    #[must_use]
    pub fn read(folder: &Path) -> Option<Self> {
        fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
            // The file is not written in one go, so for a moment it may not be whole.
            Self::parse(&fs::read(entry.path()).ok()?)
        })
    }

    fn parse(file: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Urls {
            nats: Vec<String>,
            monitoring: Vec<String>,
        }
        let port = |urls: &[String]| urls.first()?.rsplit_once(':')?.1.parse().ok();
        let urls: Urls = serde_json::from_slice(file).ok()?;
        Some(Self {
            client: port(&urls.nats)?,
            monitoring: port(&urls.monitoring)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_from_the_urls() {
        let file =
            br#"{"nats":["nats://127.0.0.1:39523"],"monitoring":["http://127.0.0.1:41983"]}"#;
        assert_eq!(
            Ports::parse(file),
            Some(Ports {
                client: 39523,
                monitoring: 41983
            })
        );
    }

    #[test]
    fn a_file_that_is_half_written_gives_no_ports() {
        assert_eq!(Ports::parse(br#"{"nats":["nats://127.0.0.1:395"#), None);
        assert_eq!(Ports::parse(b""), None);
    }

    #[test]
    fn an_empty_folder_gives_no_ports() {
        assert_eq!(Ports::read(tempfile::tempdir().unwrap().path()), None);
    }
}
