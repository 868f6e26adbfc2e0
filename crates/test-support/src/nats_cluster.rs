//! Three nats-servers that form a cluster.

use std::net::TcpListener;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, ServerAddr};
use serde_json::{Value, json};

use crate::credentials::Credentials;
use crate::eventually::eventually;
use crate::nats_server::{NatsServer, Seat};

/// How long the servers may take until they have a leader for everything.
const ELECTION: Duration = Duration::from_secs(30);

/// How long one of them may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// Three nats-servers with the configuration of `deploy/cluster/nats.conf`, the same users and passwords,
/// and the user `admin`. See [`NatsServer`].
pub struct NatsCluster {
    servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts the servers, and waits until JetStream answers.
    ///
    /// # Panics
    ///
    /// When there is no nats-server, or they do not start.
    pub async fn start() -> Self {
        let credentials = Credentials::random().with_admin();
        let password = "RoutePassword";
        let ports = free_ports();
        let routes = ports.map(|port| format!("nats://route:{password}@127.0.0.1:{port}"));
        let routes = format!("[{}]", routes.join(", "));
        let mut servers = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            let environment = vec![
                ("NATS_CLUSTER_LISTEN", format!("127.0.0.1:{port}")),
                ("NATS_ROUTE_PASSWORD", password.to_owned()),
                ("NATS_ROUTES", routes.clone()),
            ];
            let seat = Seat {
                name: format!("nats-{number}"),
                credentials: credentials.clone(),
                environment,
            };
            servers.push(NatsServer::builder().seat(seat).start().await);
        }
        let cluster = Self { servers };
        let admin = cluster.connect_as("admin").await;
        eventually(ELECTION, "JetStream of the cluster", async || {
            let answer = ask(&admin, "$JS.API.INFO", &json!(null)).await?;
            answer.get("error").is_none().then_some(())
        })
        .await;
        cluster
    }

    /// One of the three servers, from 0.
    ///
    /// # Panics
    ///
    /// When there is no such server.
    #[must_use]
    pub fn server(&self, number: usize) -> &NatsServer {
        &self.servers[number]
    }

    /// The same, to be stopped and started.
    ///
    /// # Panics
    ///
    /// When there is no such server.
    pub fn server_mut(&mut self, number: usize) -> &mut NatsServer {
        &mut self.servers[number]
    }

    /// The addresses of all servers, as the services take them.
    #[must_use]
    pub fn urls(&self) -> String {
        let urls: Vec<_> = self.servers.iter().map(NatsServer::url).collect();
        urls.join(",")
    }

    /// The environment with which one of our services connects as this user to any of the servers.
    ///
    /// # Panics
    ///
    /// When the servers know no such user.
    #[must_use]
    pub fn env_for(&self, user: &str) -> Vec<(String, String)> {
        let mut env = self.servers[0].env_for(user);
        env.retain(|(name, _)| name != "NATS_URL");
        env.push(("NATS_URL".to_owned(), self.urls()));
        env
    }

    /// See [`NatsServer::options_for`].
    ///
    /// # Panics
    ///
    /// When the servers know no such user.
    #[must_use]
    pub fn options_for(&self, user: &str) -> ConnectOptions {
        self.servers[0].options_for(user)
    }

    /// Connects as this user to any of the servers.
    ///
    /// # Panics
    ///
    /// When the servers know no such user, or none lets it in.
    pub async fn connect_as(&self, user: &str) -> Client {
        let addresses = self.servers.iter().map(|server| {
            let address = server.url().parse::<ServerAddr>();
            address.expect("a server's address is one")
        });
        let addresses: Vec<_> = addresses.collect();
        let options = self.options_for(user).retry_on_initial_connect();
        let client = options.connect(addresses).await;
        client.unwrap_or_else(|error| panic!("cannot connect as {user}: {error}"))
    }

    /// The server that leads a stream, once there is one.
    ///
    /// # Panics
    ///
    /// When there is none in time.
    pub async fn leader_of(&self, admin: &Client, stream: &str) -> usize {
        eventually(ELECTION, "a leader", async || {
            let info = self.info(admin, stream).await?;
            let leader = info["cluster"]["leader"].as_str()?;
            leader.strip_prefix("nats-")?.parse().ok()
        })
        .await
    }

    /// Waits until a stream is stored on so many servers, and all of them have all of it.
    ///
    /// # Panics
    ///
    /// When that takes too long.
    pub async fn is_replicated(&self, admin: &Client, stream: &str, replicas: usize) {
        let what = format!("{stream} on {replicas} servers");
        eventually(ELECTION, &what, async || {
            let info = self.info(admin, stream).await?;
            let followers = info["cluster"]["replicas"].as_array();
            let followers = followers.map_or(&[][..], Vec::as_slice);
            let current = followers
                .iter()
                .filter(|peer| peer["current"] == json!(true) && peer["offline"] != json!(true));
            let desired = info["config"]["num_replicas"] == json!(replicas)
                && info["cluster"]["leader"].is_string();
            (desired && followers.len() + 1 == replicas && current.count() + 1 == replicas)
                .then_some(())
        })
        .await;
    }

    /// Has the leader of a stream hand over to another server.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub async fn step_down(&self, admin: &Client, stream: &str) {
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
        eventually(ELECTION, "a leader to step down", async || {
            let answer = ask(admin, &subject, &json!(null)).await?;
            (answer["success"] == json!(true)).then_some(())
        })
        .await;
    }

    async fn info(&self, admin: &Client, stream: &str) -> Option<Value> {
        let subject = format!("$JS.API.STREAM.INFO.{stream}");
        let info = ask(admin, &subject, &json!(null)).await?;
        info.get("error").is_none().then_some(info)
    }

    /// Waits until each server that runs finds itself, and all that it stores, in order.
    ///
    /// # Panics
    ///
    /// When that takes too long.
    pub async fn is_healthy(&self) {
        for server in self.servers.iter().filter(|server| server.is_running()) {
            eventually(ELECTION, "a healthy server", async || {
                (server.monitoring_status("/healthz").await == 200).then_some(())
            })
            .await;
        }
    }
}

/// A request to JetStream; `None` if it is not answered, as while there is no leader.
async fn ask(client: &Client, subject: &str, body: &Value) -> Option<Value> {
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let asking = client.request(subject.to_owned(), body.into());
    let answer = tokio::time::timeout(ANSWER, asking).await.ok()?.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}

/// Ports for the routes, which each server has to know of the others before they start. They are free now;
/// a server whose port is taken meanwhile does not start.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| {
        TcpListener::bind(("127.0.0.1", 0)).expect("the system has a free port for a test")
    });
    listeners.map(|listener| {
        let address = listener.local_addr();
        address.expect("a listener has an address").port()
    })
}
