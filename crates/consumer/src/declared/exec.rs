mod declaration;

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::anyhow;
use bootstrap::trace::{TRACEPARENT, TRACESTATE};
use common::JobKind;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, Command};
use tokio::time::timeout;
use tracing::warn;

pub(super) use self::declaration::Declaration;
use self::declaration::{ExitCode, Input};
use super::arguments::Argument;
use super::process_group::ProcessGroup;
use super::result::Form;
use super::size::Size;
use super::standard_error::StandardError;
use crate::any_handler::{AnyHandler, Call, CallError, Payload, Returned};
use crate::handler::{Attempt, Failure};
use crate::keep::Keep;

/// How long processes left behind by a program may keep its output open before they are killed, and
/// how long the output is read after that.
const LINGER: Duration = Duration::from_millis(500);

/// Runs a program for each job.
pub(super) struct Exec {
    kind: JobKind,
    /// The program as it was declared.
    name: String,
    program: PathBuf,
    arguments: Vec<Argument>,
    /// Whether the arguments use the payload.
    read_payload: bool,
    variables: Vec<(String, OsString)>,
    dir: PathBuf,
    input: Input,
    result: Form,
    success_codes: Vec<ExitCode>,
    transient_codes: Vec<ExitCode>,
    max_output: Size,
    timeout: Option<Duration>,
    keep: Option<Keep>,
}

impl AnyHandler for Exec {
    fn call<'a>(&'a self, payload: Payload<'a>, attempt: Attempt, wanted: bool) -> Call<'a> {
        Call::pending_if_wanted(wanted, async move {
            let payload = payload.unwrap_or(RawValue::NULL);
            let arguments = self.arguments(payload)?;
            let input = self.input(payload)?;
            self.run(arguments, input, attempt)
                .await
                .map_err(CallError::Failed)
        })
    }

    fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    fn keep(&self) -> Option<Keep> {
        self.keep
    }
}

/// The output is over its limit.
struct TooMuch;

impl Exec {
    fn arguments(&self, payload: &RawValue) -> Result<Vec<String>, CallError> {
        let payload = if self.read_payload {
            serde_json::from_str(payload.get())
                .map_err(|error| CallError::InvalidPayload(format!("field `payload`: {error}")))?
        } else {
            Value::Null
        };
        let filled = self
            .arguments
            .iter()
            .map(|argument| argument.fill(&payload));
        filled
            .collect::<Result<_, _>>()
            .map_err(CallError::InvalidPayload)
    }

    /// Standard input of the program; `None` for none.
    fn input(&self, payload: &RawValue) -> Result<Option<String>, CallError> {
        match self.input {
            Input::Json => Ok(Some(payload.get().to_owned())),
            Input::Text => serde_json::from_str(payload.get())
                .map(Some)
                .map_err(|error| {
                    CallError::InvalidPayload(format!(
                        "field `payload`: {error}, because the handler passes it on as text"
                    ))
                }),
            Input::None => Ok(None),
        }
    }

    async fn run(
        &self,
        arguments: Vec<String>,
        input: Option<String>,
        attempt: Attempt,
    ) -> Result<Returned, Failure> {
        let mut span = attempt.call(|| self.executable().into());
        let piped_if = |wanted| {
            if wanted {
                Stdio::piped()
            } else {
                Stdio::null()
            }
        };
        let mut command = Command::new(&self.program);
        command
            // Programs show this name in their messages, and some choose their function by it.
            .arg0(&self.name)
            .args(arguments)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("JOB_ID", attempt.id.to_string())
            .env("JOB_ATTEMPT", attempt.number.to_string())
            .env("JOB_KIND", self.kind.as_str())
            .current_dir(&self.dir)
            .stdin(piped_if(input.is_some()))
            .stdout(piped_if(self.result != Form::None))
            .stderr(Stdio::piped());
        if let Some(trace) = span.context() {
            command.env(TRACEPARENT.to_uppercase(), trace.traceparent());
            if let Some(state) = trace.tracestate() {
                command.env(TRACESTATE.to_uppercase(), state);
            }
        }
        // From here on, dropping this future kills the group.
        let group = ProcessGroup::spawn(&mut command).map_err(|error| {
            let failure = self.not_started(error);
            span.answered(Some(failure.code()));
            failure
        })?;

        let mut output = Vec::new();
        let mut said = StandardError::new(attempt.id, self.kind.as_str());
        let status = self
            .attend(group, input, &mut output, &mut said, attempt)
            .await;
        said.finish();
        if span.is_recorded() {
            span.set("process.executable.name", self.executable());
            let code = status.as_ref().ok().and_then(ExitStatus::code);
            if let Some(code) = code {
                span.set("process.exit.code", i64::from(code));
            }
        }
        let judged = status.and_then(|status| self.judge(status, &said));
        span.answered(judged.as_ref().err().map(Failure::code));
        judged?;
        self.result.read("standard output", &output)
    }

    /// The file name of the program.
    fn executable(&self) -> String {
        let name = self.program.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Writes and reads the pipes of a program until it exits, then kills what is left of its group.
    async fn attend(
        &self,
        mut group: ProcessGroup,
        input: Option<String>,
        output: &mut Vec<u8>,
        said: &mut StandardError<'_>,
        attempt: Attempt,
    ) -> Result<ExitStatus, Failure> {
        let (stdin, stdout, stderr) = group.take_pipes();
        let mut talk = pin!(async {
            let write = async {
                if let (Some(stdin), Some(input)) = (stdin, input) {
                    write(stdin, &input).await;
                }
                Ok(())
            };
            let read = async {
                match stdout {
                    Some(stdout) => read(stdout, output, self.max_output.get()).await,
                    None => Ok(()),
                }
            };
            let hear = async {
                if let Some(stderr) = stderr {
                    said.read(stderr).await;
                }
                Ok(())
            };
            tokio::try_join!(write, read, hear)
                .map(drop)
                .map_err(|TooMuch| self.said_too_much())
        });
        let unknown = |error| {
            Failure::transient(anyhow::Error::new(error).context("cannot wait for the program"))
        };
        tokio::select! {
            biased;
            // A program may close its pipes before it exits.
            talked = &mut talk => {
                talked?;
                group.leader_exited().await.map_err(unknown)?;
            }
            exited = group.leader_exited() => {
                exited.map_err(unknown)?;
                if let Ok(talked) = timeout(LINGER, &mut talk).await {
                    talked?;
                } else {
                    warn!(
                        job.id = %attempt.id, job.kind = %self.kind,
                        "the program left processes behind that keep its output open: killing them"
                    );
                    group.kill();
                    // A process that left the group may keep it open; it is not waited for.
                    timeout(LINGER, &mut talk).await.unwrap_or(Ok(()))?;
                }
            }
        }
        group.end().await.map_err(unknown)
    }

    fn judge(&self, status: ExitStatus, said: &StandardError<'_>) -> Result<(), Failure> {
        let code = status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .map(ExitCode);
        if code.is_some_and(|code| self.success_codes.contains(&code)) {
            return Ok(());
        }
        // ExitStatus writes "exit status: 3" or "signal: 9 (SIGKILL)".
        let tail = said.tail();
        let name = &self.name;
        let error = if tail.is_empty() {
            anyhow!("{name}: {status}")
        } else {
            anyhow!("{name}: {status}: {tail}")
        };
        match code {
            Some(code) if !self.transient_codes.contains(&code) => Err(Failure::permanent(error)),
            // Without a code it was killed, for example because memory ran out or the machine stops:
            // another attempt may succeed.
            _ => Err(Failure::transient(error)),
        }
    }

    fn said_too_much(&self) -> Failure {
        Failure::permanent(anyhow!(
            "{}: standard output is over the limit of {} (`max-output`); the program was killed",
            self.name,
            self.max_output
        ))
    }

    fn not_started(&self, error: io::Error) -> Failure {
        let too_long = error.kind() == ErrorKind::ArgumentListTooLong;
        let error =
            anyhow::Error::new(error).context(format!("cannot start {}", self.program.display()));
        // The program was there when the consumer started. It may be back at the next attempt, or be
        // there for another consumer.
        if too_long {
            Failure::permanent(error)
        } else {
            Failure::transient(error)
        }
    }
}

async fn write(mut stdin: ChildStdin, input: &str) {
    // An error is no failure: a program may close its input unread.
    let _ = stdin.write_all(input.as_bytes()).await;
}

async fn read(
    mut pipe: impl AsyncRead + Unpin,
    output: &mut Vec<u8>,
    limit: usize,
) -> Result<(), TooMuch> {
    let mut buffer = vec![0; 8192];
    // An error counts as the end of the pipe.
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        if output.len() + length > limit {
            return Err(TooMuch);
        }
        output.extend_from_slice(&buffer[..length]);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
