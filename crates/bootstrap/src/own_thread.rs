use std::future::Future;

use anyhow::Context as _;

/// Runs work on a thread and a runtime of its own, which nothing else can keep busy.
///
/// # Errors
/// When there can be no runtime or no thread; the error names the thread.
pub fn on_own_thread<F: Future<Output = ()>>(
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> anyhow::Result<()> {
    let failed = || format!("cannot start the thread {name}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .with_context(failed)?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(work()))
        .with_context(failed)?;
    Ok(())
}
