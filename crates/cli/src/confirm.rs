use std::io::Write as _;

/// Asks a question on the terminal. Returns whether the answer is yes.
pub(crate) async fn confirm(question: &str) -> anyhow::Result<bool> {
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = read.await??;
    Ok(["y", "yes"].contains(&line.trim().to_lowercase().as_str()))
}
