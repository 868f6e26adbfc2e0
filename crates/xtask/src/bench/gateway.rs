//! Durable jobs over HTTP beside durable messages that go to NATS directly: how long one takes to be
//! stored at a moderate rate, and how many a second there can be.
//!
//! All of it on a server that syncs each write before it says so.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use test_support::{NatsServer, Service};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Settings;
use super::bare::Took;
use super::client::tell;
use super::confirmed::rate;
use super::durable::{bare_stream, bare_submit_with};
use super::figure::{Figure, Goal, Unit};
use super::job;
use super::probe::{Quantiles, histogram};
use super::stand::{Side, Stand, in_turn, rounds};

/// Connections, each of which waits for an answer before it sends the next request.
const CONNECTIONS: &str = "256";

const REQUESTS_PER_SECOND: u32 = 200;

/// Jobs for each second that a measurement should last.
const SUBMITTED_PER_SECOND: u32 = 15_000;

pub(super) async fn measure(stand: &Stand, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let mut figures = latency(stand, settings).await?;
    figures.push(throughput(stand, settings).await?);
    Ok(figures)
}

/// A gateway on a server of its own, and where it listens.
async fn gateway(stand: &Stand, nats: &NatsServer) -> anyhow::Result<(Service, String)> {
    let client = nats.connect_as("worker").await;
    client::Topology::default()
        .ensure(&client.clone().into())
        .await?;
    let mut gateway = Service::program(stand.binary("gateway")?)
        .envs(nats.env_for("gateway"))
        .args(["--listen", "127.0.0.1:0"])
        .start();
    let line = gateway
        .wait_for_line(|line| line.contains("serving http"))
        .await;
    let address = line.split_once("127.0.0.1:").context("no address")?.1;
    let port: String = address.chars().take_while(char::is_ascii_digit).collect();
    Ok((gateway, format!("127.0.0.1:{port}")))
}

/// Both get their jobs in turn, so what disturbs the machine disturbs both.
async fn latency(stand: &Stand, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let what = "gateway at 200 requests a second";
    let measured = rounds(settings, what, async |_| {
        let (bare, ours) = latency_round(stand, 4 * settings.span()).await?;
        Ok((Some(bare), ours))
    })
    .await?;
    let [p50, p99] = Figure::quantiles("gateway, durable submit", &measured);
    Ok(vec![p50.goal(Goal::AddsAtMost(1000.0)), p99])
}

async fn latency_round(stand: &Stand, span: Duration) -> anyhow::Result<(Quantiles, Quantiles)> {
    let nats = NatsServer::builder().open().start().await;
    let client = nats.connect_as("publisher").await;
    bare_stream(&client).await?;
    let (_gateway, address) = gateway(stand, &nats).await?;
    let mut connection = Connection::open(&address).await?;
    let (mut bare, mut ours) = (histogram(), histogram());
    let gap = Duration::from_secs(1) / REQUESTS_PER_SECOND / 2;
    let start = tokio::time::Instant::now();
    // Without an id: each time it is sent it is another job.
    let job = job::line("echo");
    for number in 0.. {
        let at = start + gap * number;
        if at >= start + span {
            break;
        }
        tokio::time::sleep_until(at).await;
        let began = Instant::now();
        if number % 2 == 0 {
            let answer = client
                .request(format!("bare.{number}"), job.clone())
                .await?;
            ensure!(!answer.payload.windows(7).any(|part| part == b"\"error\""));
        } else {
            connection.submit(job.clone()).await?;
        }
        let took = u64::try_from(began.elapsed().as_nanos())?;
        let side = if number % 2 == 0 {
            &mut bare
        } else {
            &mut ours
        };
        side.record(took)?;
    }
    Ok((Quantiles::of(&bare), Quantiles::of(&ours)))
}

async fn throughput(stand: &Stand, settings: &Settings) -> anyhow::Result<Figure> {
    let count = settings.count(SUBMITTED_PER_SECOND);
    let what = "gateway, durable submits over 256 connections";
    let measured = in_turn(settings, what, async |side| {
        let nats = NatsServer::builder().open().start().await;
        match side {
            Side::Bare => bare_submit_with(stand, &nats, (count / 5).max(1), CONNECTIONS).await,
            Side::Ours => {
                let (_gateway, address) = gateway(stand, &nats).await?;
                let mut command = stand.command_on(&nats, "xtask", "gateway")?;
                command.args(["bench-role", "http-load", "--address", &address]);
                command.args(["--count", &count.to_string(), "--connections", CONNECTIONS]);
                rate(command, count).await
            }
        }
    })
    .await?;
    let figure = Figure::of(what, Unit::PerSecond, &measured, |rate| *rate);
    Ok(figure.goal(Goal::AtLeast(10_000.0)))
}

/// One connection that is kept open.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    address: String,
}

impl Connection {
    async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self {
            sender,
            address: address.to_owned(),
        })
    }

    /// Submits a job, and returns when it is stored.
    async fn submit(&mut self, job: Bytes) -> anyhow::Result<()> {
        let request = Request::builder()
            .method(Method::POST)
            .uri("/v1/jobs")
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(job))?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(
            status == StatusCode::ACCEPTED,
            "a job was not stored: {status} {}",
            String::from_utf8_lossy(&body)
        );
        Ok(())
    }
}

/// Submits jobs over many connections, each as fast as it is answered.
#[derive(Args)]
pub(super) struct HttpLoad {
    #[arg(long)]
    address: String,
    #[arg(long)]
    count: u64,
    #[arg(long)]
    connections: u64,
}

impl HttpLoad {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(&self.address).await?);
        }
        let job = job::line("echo");
        let start = Instant::now();
        let mut loads = JoinSet::new();
        for (number, mut connection) in (0..).zip(connections) {
            let share = (self.count + self.connections - 1 - number) / self.connections;
            let job = job.clone();
            loads.spawn(async move {
                for _ in 0..share {
                    connection.submit(job.clone()).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(load) = loads.join_next().await {
            load??;
        }
        tell(&Took {
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}
