use super::*;

const ABOUT: About = About {
    name: "tester",
    prefix: "TESTER",
    version: "1.2.3",
    inbox_prefix: "_INBOX_tester",
    monitor_port: 1,
};

/// A listener that occupies an address.
fn taken() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn start(wanted: Option<MonitorAddress>, about: &About) -> anyhow::Result<Monitor> {
    let health = Health::default();
    let monitor = Monitor::new(*about, "tester-1", &health);
    let shutdown = CancellationToken::new();
    monitor.start(wanted, about, &health, shutdown)?;
    Ok(monitor)
}

fn address_of(monitor: &Monitor) -> Option<SocketAddr> {
    let listening = monitor.to_log.get()?.lock().unwrap();
    match listening.as_ref()? {
        Listening::Served(address) => Some(*address),
        Listening::Failed(error) => panic!("{error}"),
    }
}

#[test]
fn an_address_that_was_given_and_is_taken_is_an_error_that_names_flag_and_variable() {
    let (_taken, address) = taken();
    let error = start(Some(MonitorAddress::At(address)), &ABOUT).unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("--monitor or TESTER_MONITOR") && error.contains(&address.to_string()),
        "{error}"
    );
}

#[test]
fn the_usual_port_gives_way_to_a_free_one_of_the_same_interface() {
    let (_taken, address) = taken();
    let about = About {
        monitor_port: address.port(),
        ..ABOUT
    };
    let served = address_of(&start(None, &about).unwrap()).unwrap();
    assert!(served.ip().is_loopback(), "{served}");
    assert_ne!(served.port(), address.port());
}

#[test]
fn off_serves_nothing() {
    let monitor = start(Some(MonitorAddress::Off), &ABOUT).unwrap();
    assert_eq!(address_of(&monitor), None);
    assert_eq!("off".parse(), Ok(MonitorAddress::Off));
    for bad in ["", "on", "9470", ":9470", "localhost:9470", "127.0.0.1"] {
        assert!(bad.parse::<MonitorAddress>().is_err(), "{bad:?} was taken");
    }
}

#[derive(Debug)]
struct Example;

impl Collector for Example {
    fn encode(&self, encoder: prometheus_client::encoding::DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::new(encoder);
        families.counter(
            "example_jobs_total",
            "Jobs",
            [([("kind", "a\"\\\nb")], 3_u64)],
        )?;
        families.gauge::<0, u64>("example_nothing", "Nothing", [])?;
        let times = Times {
            sum: 2.75,
            buckets: vec![(0.1, 1), (1.0, 2)],
            above: 4,
        };
        families.histogram("example_run_seconds", "Time", [([("kind", "b")], times)])
    }
}

#[test]
fn a_scrape_reads_as_open_metrics_and_labels_are_escaped() {
    let monitor = Monitor::new(ABOUT, "tester-1", &Health::default());
    monitor.register(Example);
    let text = monitor.scrape().unwrap();
    let own = text.split_once("# HELP example").unwrap().1;
    insta::assert_snapshot!(own);
    assert!(
        text.contains("jobs_build_info{service=\"tester\",version=\"1.2.3\",name=\"tester-1\"} 1")
    );
    let read = test_support::Metrics::parse(&text);
    assert_eq!(
        read.get("example_jobs_total{kind=\"a\\\"\\\\\\nb\"}"),
        Some(3.0)
    );
}

#[tokio::test]
async fn pages_can_only_be_read_and_readiness_follows_health_and_shutdown() {
    let health = Health::default();
    let monitor = Monitor::new(ABOUT, "tester-1", &health);
    let shutdown = CancellationToken::new();
    let wanted = MonitorAddress::At("127.0.0.1:0".parse().unwrap());
    let started = monitor.start(Some(wanted), &ABOUT, &health, shutdown.clone());
    started.unwrap();
    let address = address_of(&monitor).unwrap();
    let ask = async |method: &str, path: &str| {
        let answer = test_support::http(method, address, path).await.unwrap();
        (answer.status, answer.body)
    };

    assert_eq!(ask("GET", "/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(
        ask("GET", "/readyz").await,
        (503, "not started yet\n".to_owned())
    );
    let server = test_support::NatsServer::builder().open().start().await;
    let options = connection::Options::new().servers(&server.url()).unwrap();
    let identity = connection::Identity {
        instance: "tester-1".to_owned(),
        inbox_prefix: "_INBOX".to_owned(),
    };
    let nats = connection::Nats::connect(&options, &identity, &health, "jobs").await;
    let _nats = nats.unwrap();
    let deadline = test_support::DEADLINE;
    test_support::eventually(deadline, "readiness", async || {
        (ask("GET", "/readyz").await.0 == 200).then_some(())
    })
    .await;
    shutdown.cancel();
    assert_eq!(ask("GET", "/readyz").await, (503, "stopping\n".to_owned()));

    assert_eq!(ask("HEAD", "/metrics").await, (200, String::new()));
    assert_eq!(ask("POST", "/metrics").await.0, 405);
    assert_eq!(ask("GET", "/").await.0, 404);
    let endless = format!("/{}", "a".repeat(100_000));
    assert!(matches!(
        test_support::http("GET", address, &endless)
            .await
            .map(|answer| answer.status),
        Err(_) | Ok(414 | 431)
    ));
}

#[tokio::test]
async fn silent_connections_do_not_keep_others_out() {
    let wanted = MonitorAddress::At("127.0.0.1:0".parse().unwrap());
    let monitor = start(Some(wanted), &ABOUT).unwrap();
    let address = address_of(&monitor).unwrap();
    let silent: Vec<_> = (0..33)
        .map(|_| std::net::TcpStream::connect(address).unwrap())
        .collect();
    // One more than are served at a time: this waits until some of them time out.
    let answer = test_support::http("GET", address, "/livez").await.unwrap();
    assert_eq!(answer.status, 200);
    drop(silent);
}

#[tokio::test]
async fn it_answers_while_every_thread_of_the_service_is_busy() {
    use std::io::{Read as _, Write as _};

    let wanted = MonitorAddress::At("127.0.0.1:0".parse().unwrap());
    let monitor = start(Some(wanted), &ABOUT).unwrap();
    // This reads without awaiting, and so keeps the only thread of the runtime busy.
    let mut stream = std::net::TcpStream::connect(address_of(&monitor).unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
}
