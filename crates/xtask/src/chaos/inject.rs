//! Breaks what the plan says, and makes it whole again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use test_support::Signal;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::fault::Fault;
use super::garbage;
use super::history::{Event, History, now};
use super::plan::Planned;
use super::proxy::Passage;
use super::stand::{Restarted, Stand};

/// How long the server may take to answer somebody who deletes a durable consumer.
const ANSWER: Duration = Duration::from_secs(3);

/// The streams whose durable consumers and leaders are broken.
const STREAMS: [&str; 3] = ["JOBS", "JOBS_LATER", "JOBS_STATE"];

/// Does all faults at their times, and returns when everything is whole again.
pub(super) async fn all(
    stand: &Arc<Stand>,
    history: &History,
    planned: Vec<Planned>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut faults = JoinSet::new();
    for planned in planned {
        sleep_until(start + planned.after).await;
        let (stand, history) = (Arc::clone(stand), history.clone());
        faults.spawn_local(async move {
            let from = now();
            // What is broken already, or cannot be reached, is left alone.
            if let Some(target) = one(&stand, &planned).await? {
                history.note(Event::Fault {
                    from,
                    to: now(),
                    fault: planned.fault,
                    target,
                });
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = faults.join_next().await {
        ended.context("a fault could not be done or mended")??;
    }
    Ok(())
}

/// Does one fault, mends it, and returns to what it was done; `None` if it could not be done.
async fn one(stand: &Stand, planned: &Planned) -> anyhow::Result<Option<String>> {
    let &Planned {
        fault, pick, lasts, ..
    } = planned;
    let consumer = &stand.consumers[pick % stand.consumers.len()];
    match fault {
        Fault::KillConsumer => restart(stand, consumer, Signal::SIGKILL, lasts).await,
        Fault::StopConsumer => restart(stand, consumer, Signal::SIGTERM, lasts).await,
        Fault::KillGateway => restart(stand, &stand.gateway, Signal::SIGKILL, lasts).await,
        Fault::PauseConsumer => pause(stand, consumer, lasts).await,
        Fault::PauseGateway => pause(stand, &stand.gateway, lasts).await,
        Fault::KillPublisher | Fault::PausePublisher => break_publisher(stand, fault, lasts).await,
        Fault::KillServer | Fault::StopServer | Fault::PauseServer => {
            break_server(stand, planned).await
        }
        Fault::Cut => proxy(stand, Passage::Cut, lasts).await,
        Fault::HalfOpen => proxy(stand, Passage::HalfOpen, lasts).await,
        Fault::OneWay => proxy(stand, Passage::OneWay, lasts).await,
        Fault::Delay => {
            let late = Duration::from_millis(u64::try_from(pick % 400)?);
            proxy(stand, Passage::Late(late), lasts).await
        }
        Fault::DeleteConsumer => Ok(delete_consumer(stand, pick).await),
        Fault::Garbage => {
            let (port, user, password) = stand.login().await;
            let sent = garbage::send(port, &user, &password).await;
            Ok(sent.is_ok().then(|| "all subjects".to_owned()))
        }
        Fault::StepDown => step_down(stand, pick).await,
    }
}

async fn restart(
    stand: &Stand,
    restarted: &Restarted,
    signal: Signal,
    lasts: Duration,
) -> anyhow::Result<Option<String>> {
    let Ok(mut service) = restarted.service.try_lock() else {
        return Ok(None);
    };
    if !stand.runs(restarted, &mut service).await {
        return Ok(None);
    }
    service.signal(signal);
    service.wait().await;
    sleep(lasts).await;
    restarted.start_again(&mut service);
    Ok(Some(restarted.name.clone()))
}

async fn pause(
    stand: &Stand,
    restarted: &Restarted,
    lasts: Duration,
) -> anyhow::Result<Option<String>> {
    let Ok(mut service) = restarted.service.try_lock() else {
        return Ok(None);
    };
    if !stand.runs(restarted, &mut service).await {
        return Ok(None);
    }
    service.pause();
    sleep(lasts).await;
    service.resume();
    Ok(Some(restarted.name.clone()))
}

async fn break_publisher(
    stand: &Stand,
    fault: Fault,
    lasts: Duration,
) -> anyhow::Result<Option<String>> {
    let mut publisher = stand.publisher.lock().await;
    let Some(service) = publisher.as_mut() else {
        return Ok(None);
    };
    if service.exited().is_some() {
        return Ok(None);
    }
    if fault == Fault::KillPublisher {
        service.kill().await;
    } else {
        service.pause();
        sleep(lasts).await;
        service.resume();
    }
    Ok(Some("publisher".to_owned()))
}

async fn break_server(stand: &Stand, planned: &Planned) -> anyhow::Result<Option<String>> {
    let Ok(mut servers) = stand.servers.try_lock() else {
        return Ok(None);
    };
    let number = planned.pick % servers.count();
    servers.are_whole(&stand.admin).await;
    let server = servers.get_mut(number);
    match planned.fault {
        Fault::PauseServer => {
            server.pause();
            sleep(planned.lasts).await;
            server.resume();
        }
        fault => {
            if fault == Fault::StopServer {
                server.stop().await;
            } else {
                server.kill().await;
            }
            sleep(planned.lasts).await;
            server.start_again().await;
        }
    }
    Ok(Some(format!("nats-{number}")))
}

async fn proxy(stand: &Stand, way: Passage, lasts: Duration) -> anyhow::Result<Option<String>> {
    let Ok(proxy) = stand.proxy.try_lock() else {
        return Ok(None);
    };
    proxy.set(way);
    sleep(lasts).await;
    proxy.set(Passage::Open);
    Ok(Some("proxy".to_owned()))
}

/// As an operator would do it by mistake.
async fn delete_consumer(stand: &Stand, pick: usize) -> Option<String> {
    let stream = STREAMS[pick % 2];
    let names = ask(stand, format!("$JS.API.CONSUMER.NAMES.{stream}")).await?;
    let names = names["consumers"].as_array()?;
    let name = names.get(pick % names.len().max(1))?.as_str()?;
    let deleted = ask(stand, format!("$JS.API.CONSUMER.DELETE.{stream}.{name}")).await?;
    (deleted["success"] == true).then(|| format!("{stream} {name}"))
}

async fn step_down(stand: &Stand, pick: usize) -> anyhow::Result<Option<String>> {
    let Ok(servers) = stand.servers.try_lock() else {
        return Ok(None);
    };
    let stream = STREAMS[pick % STREAMS.len()];
    servers.are_whole(&stand.admin).await;
    let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
    let done = ask(stand, subject).await;
    Ok(done
        .filter(|answer| answer["success"] == true)
        .map(|_| stream.to_owned()))
}

async fn ask(stand: &Stand, subject: String) -> Option<Value> {
    let asking = stand.admin.request(subject, bytes::Bytes::new());
    let answer = timeout(ANSWER, asking).await.ok()?.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}
