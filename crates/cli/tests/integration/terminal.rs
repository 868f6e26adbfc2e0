//! What is different on a terminal: questions are asked, and views replace one another.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use test_support::{DEADLINE, eventually};

use crate::support::Desk;

/// The command on a terminal of 20 rows and 60 columns.
struct Terminal {
    command: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(desk: &Desk, args: &[&str]) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let size = Winsize {
            ws_row: 20,
            ws_col: 60,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&ours, size).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let stdio = || Stdio::from(theirs.try_clone().unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_jobs"));
        command
            .args(args)
            .env_clear()
            .envs(desk.nats.env_for("operator"))
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio());
        let command_line = command.spawn().unwrap();
        // It would keep the terminal open.
        drop(command);
        let keyboard = File::from(ours);
        let mut reader = keyboard.try_clone().unwrap();
        let screen = Arc::<Mutex<Vec<u8>>>::default();
        let written = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            // An error is the end of the command.
            while let Ok(count @ 1..) = reader.read(&mut some) {
                written.lock().unwrap().extend(&some[..count]);
            }
        });
        Self {
            command: command_line,
            keyboard,
            screen,
        }
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Waits until a text was written so often.
    async fn shows(&self, text: &str, times: usize) {
        let what = format!("{text:?} on the terminal");
        eventually(DEADLINE, &what, async || {
            (self.screen().matches(text).count() >= times).then_some(())
        })
        .await;
    }

    async fn ends(&mut self) -> i32 {
        let code = eventually(DEADLINE, "the end of the command", async || {
            self.command.try_wait().unwrap()
        })
        .await;
        code.code().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.command.kill();
        let _ = self.command.wait();
    }
}

#[tokio::test]
async fn many_dead_letters_are_touched_only_after_a_yes() {
    let desk = Desk::new().await;
    for kind in ["mail", "mail", "report"] {
        desk.bury(kind, "permanent").await;
    }
    let discard = ["dead", "discard", "--all", "--kind", "mail"];
    let mut terminal = Terminal::start(&desk, &discard);
    terminal.shows("discard 2 dead letters? [y/N] ", 1).await;
    terminal.keyboard.write_all(b"\n").unwrap();
    terminal.shows("nothing was changed", 1).await;
    assert_eq!(terminal.ends().await, 1);
    assert_eq!(desk.ask(&["dead", "list"]).await.1.lines().count(), 3);

    let mut terminal = Terminal::start(&desk, &discard);
    terminal.shows("[y/N]", 1).await;
    terminal.keyboard.write_all(b"y\n").unwrap();
    terminal.shows("2 discarded", 1).await;
    assert_eq!(terminal.ends().await, 0);
    assert_eq!(desk.ask(&["dead", "list"]).await.1.lines().count(), 1);

    let none = ["dead", "replay", "--all", "--kind", "nothing"];
    let mut terminal = Terminal::start(&desk, &none);
    terminal.shows("no dead letters match", 1).await;
    assert_eq!(terminal.ends().await, 0);
}

#[tokio::test]
async fn many_jobs_are_cancelled_only_after_a_yes() {
    let desk = Desk::new().await;
    let id = desk.submit(r#"{"kind":"mail"}"#).await;
    let cancel = ["cancel", "--state", "queued"];
    let mut terminal = Terminal::start(&desk, &cancel);
    terminal.shows("cancel 1 job? [y/N] ", 1).await;
    terminal.keyboard.write_all(b"n\n").unwrap();
    terminal.shows("nothing was changed", 1).await;
    assert_eq!(terminal.ends().await, 1);
    assert!(!desk.is_asked_to_cancel(id).await);

    let mut terminal = Terminal::start(&desk, &cancel);
    terminal.shows("[y/N]", 1).await;
    terminal.keyboard.write_all(b"y\n").unwrap();
    terminal.shows("cancellation of 1 job requested", 1).await;
    assert_eq!(terminal.ends().await, 0);
    assert!(desk.is_asked_to_cancel(id).await);
}

#[tokio::test]
async fn views_replace_one_another_and_fit() {
    let desk = Desk::new().await;
    for number in 0..30 {
        desk.submit(&format!(r#"{{"kind":"kind{number}"}}"#)).await;
    }
    let mut terminal = Terminal::start(&desk, &["top", "--interval", "100ms", "--count", "3"]);
    assert_eq!(terminal.ends().await, 0);
    terminal.shows("30 jobs wait", 3).await;
    let screen = terminal.screen();
    assert_eq!(screen.matches("\u{1b}[H").count(), 3, "{screen:?}");
    assert_eq!(screen.matches("\u{1b}[2J").count(), 1, "{screen:?}");
    let last = screen.rsplit("\u{1b}[H").next().unwrap();
    assert!(last.lines().count() < 20, "{last}");
}
