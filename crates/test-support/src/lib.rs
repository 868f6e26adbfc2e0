//! For tests and development only: a real nats-server for each test, and our services as child
//! processes.
//!
//! ```no_run
//! # async fn a_consumer_starts() {
//! use test_support::{NatsServer, Service, Signal};
//!
//! let nats = NatsServer::start().await;
//! let mut consumer = Service::named("consumer").envs(nats.env_for("worker")).start();
//! consumer.wait_for_line(|line| line.contains("ready")).await;
//! consumer.signal(Signal::SIGTERM);
//! assert!(consumer.wait().await.success());
//! # }
//! ```
//!
//! Whatever a test starts is ended and removed when it is dropped, and shows its log when the test
//! panics. The functions for tests panic where a test could only unwrap; those that `cargo xtask`
//! uses too return an error.

mod build_dir;
mod cargo;
mod child;
mod credentials;
mod eventually;
mod file_lock;
mod http;
mod lane;
mod metrics;
mod monitoring;
mod nats_binary;
mod nats_cluster;
mod nats_server;
mod pip;
mod ports;
mod python;
mod service;
mod store_dir;

pub use build_dir::{BuildDir, SERVICES, build_services, example, package_of, project_root};
pub use cargo::cargo;
pub use credentials::Credentials;
pub use eventually::{DEADLINE, eventually};
pub use http::{HttpAnswer, http, http_post};
pub use lane::{bury, put, put_record};
pub use metrics::Metrics;
pub use nats_binary::{Lookup, NatsBinary, nats_binary};
pub use nats_cluster::NatsCluster;
pub use nats_server::{NatsServer, NatsServerBuilder};
pub use nix::sys::signal::Signal;
pub use ports::Ports;
pub use python::{python, python_with, try_python_with};
pub use service::{Line, Service, ServiceBuilder, Stream};
pub use store_dir::store_dir_env;
