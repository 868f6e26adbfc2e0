//! Submits a typed job, and prints its typed result.
//!
//! ```text
//! docker-compose up --build --detach
//! NATS_USER=application NATS_PASSWORD=DevelopmentOnlyApplicationPassword cargo run -p nats-jobs-client --example submit
//! ```

use client::{Client, Job, Options};
use serde::{Deserialize, Serialize};

/// The payload of the built-in kind `sha256`.
#[derive(Serialize, Deserialize)]
struct Checksum {
    text: String,
}

/// Its result.
#[derive(Serialize, Deserialize)]
struct Sha256 {
    hex: String,
}

impl Job for Checksum {
    const KIND: &'static str = "sha256";
    type Output = Sha256;
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let jobs = Client::connect(Options::from_env()?).await?;
    let text = "abc".to_owned();
    let handle = jobs.submit(Checksum { text }).await?;
    println!("{}", handle.result().await?.hex);
    Ok(())
}
