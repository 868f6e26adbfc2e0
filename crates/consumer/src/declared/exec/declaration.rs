//! The keys of a handler that runs a program, and the checks when the consumer starts.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use common::{JobKind, WireDuration};
use rustix::fs::{Access, access};
use serde::Deserialize;

use super::Exec;
use crate::declared::arguments::CommandLine;
use crate::declared::environment::{Variable, Variables};
use crate::declared::mistake::KeyMistake;
use crate::declared::result::Form;
use crate::declared::size::Size;
use crate::keep::Keep;

/// The `PATH` of handlers that set none. It is fixed, so that the same program is found however the
/// consumer was started.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The keys of a handler that runs a program.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::declared) struct Declaration {
    exec: CommandLine,
    timeout: Option<WireDuration>,
    keep: Option<Keep>,
    #[serde(default)]
    stdin: Input,
    #[serde(default)]
    result: Form,
    #[serde(default)]
    env: Vec<Variable>,
    dir: Option<PathBuf>,
    #[serde(default = "succeeded")]
    success_codes: Vec<ExitCode>,
    transient_codes: Option<Vec<ExitCode>>,
    #[serde(default)]
    max_output: Size,
}

/// What a program reads on standard input.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Input {
    /// The payload as JSON.
    #[default]
    Json,
    /// The payload, which has to be a string, as plain text.
    Text,
    /// Nothing.
    None,
}

/// An exit code of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub(super) struct ExitCode(pub(super) u8);

impl TryFrom<i64> for ExitCode {
    type Error = String;

    fn try_from(code: i64) -> Result<Self, String> {
        let code = u8::try_from(code).map_err(|_| format!("invalid exit code {code}: 0 to 255"))?;
        Ok(Self(code))
    }
}

fn succeeded() -> Vec<ExitCode> {
    vec![ExitCode(0)]
}

/// `EX_TEMPFAIL` of `sysexits.h`: a temporary failure.
const TEMPORARY_FAILURE: ExitCode = ExitCode(75);

impl Declaration {
    /// Checks what depends on this machine: the program, its folder and the variables. Relative paths
    /// start at `folder`.
    pub(in crate::declared) fn handler(
        self,
        kind: JobKind,
        folder: &Path,
        from: Variables<'_>,
    ) -> Result<Exec, KeyMistake> {
        let mut variables = vec![("PATH".to_owned(), OsString::from(PATH))];
        for variable in self.env {
            let value = variable
                .value(from)
                .map_err(|text| KeyMistake::new("env", text))?;
            variables.retain(|(name, _)| *name != variable.name);
            variables.push((variable.name, value));
        }
        let path = variables.iter().find(|(name, _)| name == "PATH");
        let path = path.map(|(_, path)| path.clone()).unwrap_or_default();
        let name = self.exec.program.clone();
        let program = find(&name, folder, &path).map_err(|text| KeyMistake::new("exec", text))?;
        // Not the consumer's own folder: a program may write to it, or keep it from being unmounted.
        let dir = self
            .dir
            .map_or_else(|| PathBuf::from("/"), |dir| folder.join(dir));
        if !dir.is_dir() {
            return Err(KeyMistake::new(
                "dir",
                format!("there is no folder {}", dir.display()),
            ));
        }
        if self.success_codes.is_empty() {
            return Err(KeyMistake::new(
                "success-codes",
                "it lists no exit code".to_owned(),
            ));
        }
        let both = |code: &&ExitCode| self.success_codes.contains(code);
        if let Some(ExitCode(code)) = self.transient_codes.iter().flatten().find(both) {
            let text = format!("{code} is among `success-codes` too");
            return Err(KeyMistake::new("transient-codes", text));
        }
        Ok(Exec {
            kind,
            name,
            program,
            read_payload: self.exec.read_payload(),
            arguments: self.exec.arguments,
            variables,
            dir,
            input: self.stdin,
            result: self.result,
            success_codes: self.success_codes,
            transient_codes: self
                .transient_codes
                .unwrap_or_else(|| vec![TEMPORARY_FAILURE]),
            max_output: self.max_output,
            timeout: self.timeout.map(WireDuration::get),
            keep: self.keep,
        })
    }
}

/// The path of a program.
fn find(program: &str, folder: &Path, path: &OsStr) -> Result<PathBuf, String> {
    if program.contains('/') {
        let file = folder.join(program);
        return match (file.is_file(), is_executable(&file)) {
            (true, true) => Ok(file),
            (true, false) => Err(format!(
                "{} is not executable: set its permissions with chmod",
                file.display()
            )),
            (false, _) => Err(format!("there is no program {}", file.display())),
        };
    }
    // A relative folder in PATH would depend on the folder of the handler.
    let mut files = std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program));
    files.find(|file| file.is_file() && is_executable(file)).ok_or_else(|| {
        format!(
            "there is no program {program:?} in {}: write its path, or add \"PATH\" to `env` to pass \
             on the consumer's",
            path.display()
        )
    })
}

fn is_executable(file: &Path) -> bool {
    access(file, Access::EXEC_OK).is_ok()
}
