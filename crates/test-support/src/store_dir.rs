//! Telling nats-server where to keep what it stores.

use std::path::Path;

use anyhow::Context as _;

/// The variable from which `deploy/nats.conf` reads the folder for the files of JetStream, and this
/// folder as the server has to be told it: a variable is read like any other part of the
/// configuration, where a blank or a `#` would end a value that is not quoted.
///
/// # Errors
///
/// When the path holds what quotes do not help against.
pub fn store_dir_env(folder: &Path) -> anyhow::Result<(&'static str, String)> {
    let path = folder
        .to_str()
        .filter(|path| !path.contains(['"', '\\', '\n', '\r']))
        .with_context(|| {
            format!(
                "nats-server cannot be told to store in {}: choose a folder without quotes, \
                 backslashes and line breaks in its name",
                folder.display()
            )
        })?;
    Ok(("NATS_STORE_DIR", format!("\"{path}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_quoted() {
        let (variable, value) = store_dir_env(Path::new("/a b/#c")).unwrap();
        assert_eq!(
            (variable, value.as_str()),
            ("NATS_STORE_DIR", "\"/a b/#c\"")
        );
    }

    #[test]
    fn a_folder_that_quotes_do_not_help_is_named() {
        let error = store_dir_env(Path::new("/a\"b")).unwrap_err();
        assert!(error.to_string().contains("/a\"b"), "{error}");
    }
}
