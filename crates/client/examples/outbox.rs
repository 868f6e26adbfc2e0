//! A transactional outbox: an application that writes to its own database submits each job exactly once.
//!
//! The application stores the order and its job in one transaction. A relay submits the jobs of the
//! outbox and deletes what is stored. If it is killed between the two, it submits the job again: the job
//! has the same id, and so it is not stored twice. This holds as long as the record of the job is kept
//! (`--keep-outcomes` of the consumers, one hour unless set otherwise).
//!
//! ```text
//! cargo run -p nats-jobs-client --example outbox -- orders.db place "a book"
//! NATS_USER=application NATS_PASSWORD=DevelopmentOnlyApplicationPassword \
//!     cargo run -p nats-jobs-client --example outbox -- orders.db relay
//! ```
//!
//! For tests, `OUTBOX_PAUSE` names a step after which the program says so and waits to be killed:
//! `inserted`, `committed`, `submitted` or `deleted`.

use std::time::Duration;

use client::{Client, Draft, Job, NewJob, Options};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

/// How many jobs the relay reads at a time.
const PAGE: usize = 500;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Any kind would do; this one is built in.
#[derive(Serialize, Deserialize)]
struct Confirm {
    order: i64,
    item: String,
}

impl Job for Confirm {
    const KIND: &'static str = "echo";
    type Output = Self;
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [path, "place", item] => place(&mut open(path)?, item),
        [path, "relay"] => relay(&open(path)?).await,
        _ => Err("usage: outbox DATABASE place ITEM | outbox DATABASE relay".into()),
    }
}

fn open(path: &str) -> Result<Connection> {
    let database = Connection::open(path)?;
    database.busy_timeout(Duration::from_secs(10))?;
    database.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY, item TEXT NOT NULL);
         CREATE TABLE IF NOT EXISTS outbox (id TEXT PRIMARY KEY, job BLOB NOT NULL) STRICT;",
    )?;
    Ok(database)
}

/// Places an order. The order and its job are stored together or not at all.
fn place(database: &mut Connection, item: &str) -> Result<()> {
    let transaction = database.transaction()?;
    transaction.execute("INSERT INTO orders (item) VALUES (?1)", [item])?;
    let order = transaction.last_insert_rowid();
    let item = item.to_owned();
    let job = Draft::new(Confirm { order, item }).into_job()?;
    let row = (job.id.to_string(), job.payload.as_ref());
    transaction.execute("INSERT INTO outbox (id, job) VALUES (?1, ?2)", row)?;
    pause_after("inserted");
    transaction.commit()?;
    pause_after("committed");
    println!("order {order}: job {}", job.id);
    Ok(())
}

/// Submits all jobs of the outbox. A service would do this in a loop.
async fn relay(database: &Connection) -> Result<()> {
    let jobs = Client::connect(Options::from_env()?).await?;
    loop {
        let mut rows = database.prepare_cached("SELECT id, job FROM outbox LIMIT ?1")?;
        let rows = rows.query_map([PAGE], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let page: Vec<(String, Vec<u8>)> = rows.collect::<std::result::Result<_, _>>()?;
        if page.is_empty() {
            return Ok(());
        }
        for (id, job) in page {
            // Whether the job is stored now or was before makes no difference here.
            let job = NewJob::decode(job.into())?;
            jobs.submit_job(&job).await?;
            pause_after("submitted");
            database.execute("DELETE FROM outbox WHERE id = ?1", [&id])?;
            pause_after("deleted");
            println!("submitted job {id}");
        }
    }
}

/// Waits to be killed, if a test wants that after this step.
fn pause_after(step: &str) {
    if std::env::var("OUTBOX_PAUSE").is_ok_and(|wanted| wanted == step) {
        println!("paused: {step}");
        std::thread::park();
    }
}
