use std::io::Write as _;

use crate::print::counted;

/// The answer to the question whether many things are to be changed.
pub(crate) enum Answer {
    Yes,
    No,
    NothingMatches,
}

/// Asks on the terminal whether to do `verb` with so many things. Asks nothing if there are none.
pub(crate) async fn ask(verb: &str, count: u64, noun: &str) -> anyhow::Result<Answer> {
    if count == 0 {
        return Ok(Answer::NothingMatches);
    }
    let yes = confirm(&format!("{verb} {}?", counted(count, noun))).await?;
    Ok(if yes { Answer::Yes } else { Answer::No })
}

/// Asks a question on the terminal. Returns whether the answer is yes.
async fn confirm(question: &str) -> anyhow::Result<bool> {
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = read.await??;
    Ok(["y", "yes"].contains(&line.trim().to_lowercase().as_str()))
}
