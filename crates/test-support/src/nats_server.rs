//! A real nats-server for each test.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use async_nats::{Client, ConnectOptions};
use nix::sys::signal::Signal;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;
use tempfile::TempDir;

use crate::build_dir::project_root;
use crate::child;
use crate::credentials::{ADMIN, Credentials, inbox_prefix};
use crate::eventually::{DEADLINE, eventually};
use crate::http::http;
use crate::monitoring::get_json;
use crate::nats_binary::nats_binary;
use crate::ports::Ports;
use crate::store_dir::store_dir_env;

const CONFIGURATION_FILE: &str = "nats.conf";

/// What every server has to read.
const BARE_CONFIGURATION: &str = "\
server_name: $NATS_SERVER_NAME
listen: $NATS_LISTEN
http: $NATS_HTTP_LISTEN
";

/// What the server reads besides when nobody has to log in: a JetStream that is as safe as that of
/// `deploy/nats.conf`. It does not say so at `jobs.server`, as that takes accounts, and those would
/// refuse a user that they do not know.
const OPEN_CONFIGURATION: &str = "\
jetstream { store_dir: $NATS_STORE_DIR, sync_interval: always, strict: true, max_file_store: 8GB
  limits { batch { max_msgs: 4000 } } }
";

/// The folder inside the server's own where it keeps what is stored.
const STORE: &str = "store";

/// Says how a [`NatsServer`] should be.
#[derive(Default)]
pub struct NatsServerBuilder {
    open: bool,
    without_jetstream: bool,
    extra_lines: String,
    seat: Option<Seat>,
}

/// The place of a server in a cluster.
pub(crate) struct Seat {
    pub(crate) name: String,
    /// The same for all servers.
    pub(crate) credentials: Credentials,
    /// What `deploy/cluster/nats.conf` reads besides.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl NatsServerBuilder {
    /// Without users: anybody may do anything.
    #[must_use]
    pub fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// Without users and without JetStream: anybody may do anything that core NATS can.
    #[must_use]
    pub fn without_jetstream(mut self) -> Self {
        self.open = true;
        self.without_jetstream = true;
        self
    }

    /// Adds lines to the configuration. A setting that stands there already is replaced.
    #[must_use]
    pub fn config(mut self, lines: &str) -> Self {
        self.extra_lines.push_str(lines);
        self.extra_lines.push('\n');
        self
    }

    /// One server of a cluster, with the configuration of `deploy/cluster/nats.conf`.
    #[must_use]
    pub(crate) fn seat(mut self, seat: Seat) -> Self {
        self.seat = Some(seat);
        self
    }

    /// Starts it, and waits until it accepts connections.
    ///
    /// # Panics
    ///
    /// When there is no nats-server, or it does not start; shows its log.
    pub async fn start(self) -> NatsServer {
        let configuration = if self.without_jetstream {
            BARE_CONFIGURATION.to_owned()
        } else if self.open {
            format!("{BARE_CONFIGURATION}{OPEN_CONFIGURATION}")
        } else if self.seat.is_some() {
            const INCLUDE: &str = "include \"../nats.conf\"\n";
            let of_cluster = deployed("cluster/nats.conf");
            assert!(of_cluster.contains(INCLUDE), "no include of nats.conf");
            of_cluster.replace(INCLUDE, &deployed("nats.conf"))
        } else {
            deployed("nats.conf")
        };
        let home = tempfile::Builder::new().prefix("nats-").tempdir();
        let home = home.expect("a temporary folder can be created");
        let mut configuration = format!("{configuration}\n{}", self.extra_lines);
        if !self.open {
            configuration = with_admin(&configuration);
        }
        fs::write(home.path().join(CONFIGURATION_FILE), configuration)
            .expect("a temporary folder can be written to");
        let (name, credentials, environment) = if let Some(seat) = self.seat {
            (seat.name, Some(seat.credentials), seat.environment)
        } else {
            let credentials = (!self.open).then(|| Credentials::random().with_admin());
            ("test".to_owned(), credentials, Vec::new())
        };
        let mut server = NatsServer {
            home,
            process: None,
            ports: None,
            name,
            credentials,
            environment,
        };
        server.start_again().await;
        server
    }
}

fn deployed(name: &str) -> String {
    let path = project_root().join("deploy").join(name);
    fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// A configuration with one more user, wherever it has the list of users of `deploy/nats.conf`.
fn with_admin(configuration: &str) -> String {
    const USERS: &str = "\n    users = [\n";
    assert!(configuration.contains(USERS), "no list of users");
    let admin = format!(
        "{USERS}{{ user: {ADMIN}, password: $NATS_ADMIN_PASSWORD, \
         permissions {{ publish: \">\", subscribe: \">\" }} }}\n"
    );
    configuration.replace(USERS, &admin)
}

/// A nats-server on ports of its own, with the configuration of `deploy/nats.conf` and passwords of
/// its own; and with one more user, `admin`, who may do everything.
///
/// What its JetStream stores lasts as long as this does, whether it is stopped or killed in between:
/// it syncs each write, as in `deploy/nats.conf`. It is killed, and its files removed, when this is
/// dropped; when a test panics its log is shown.
pub struct NatsServer {
    home: TempDir,
    process: Option<Child>,
    /// Chosen by the server at the first start, and kept from then on.
    ports: Option<Ports>,
    name: String,
    /// None when the server is open.
    credentials: Option<Credentials>,
    /// What the configuration reads besides.
    environment: Vec<(&'static str, String)>,
}

impl NatsServer {
    /// Starts one with the users and permissions of `deploy/nats.conf`, and waits until it accepts
    /// connections.
    ///
    /// # Panics
    ///
    /// When there is no nats-server, or it does not start; shows its log.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// For a server that differs from what [`NatsServer::start`] gives.
    #[must_use]
    pub fn builder() -> NatsServerBuilder {
        NatsServerBuilder::default()
    }

    /// Adds lines to the configuration, for the next start. A setting that stands there already is
    /// replaced.
    ///
    /// # Panics
    ///
    /// When the file of the configuration cannot be written.
    pub fn reconfigure(&self, lines: &str) {
        let path = self.home.path().join(CONFIGURATION_FILE);
        let mut file = File::options().append(true).open(path);
        let file = file.as_mut().expect("the configuration was written");
        writeln!(file, "{lines}").expect("the configuration can be written");
    }

    /// Starts a stopped or killed server on the ports that it had, and waits until it accepts
    /// connections.
    ///
    /// # Panics
    ///
    /// When it runs already, or does not start; shows its log.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "the server runs already");
        // Other tests' servers take free ports too. If one of them was given ours while it was
        // free, ours fails at the start, so this tries until that test is over.
        eventually(DEADLINE, "the server to get its port back", async || {
            self.try_start().await.then_some(())
        })
        .await;
    }

    /// One start; false if the ports are taken.
    async fn try_start(&mut self) -> bool {
        // A fresh folder each time: a killed server leaves its old file behind.
        let ports_folder = tempfile::tempdir_in(self.home.path())
            .expect("a folder can be made in a temporary folder");
        let log_before = self.log().len();
        let process = self.process.insert(
            self.command(&ports_folder)
                .spawn()
                .expect("a nats-server that told its version can be started"),
        );
        let started = eventually(DEADLINE, "the server to start", async || {
            if let Some(ports) = Ports::read(ports_folder.path()) {
                return Some(Some(ports));
            }
            let ended = process
                .try_wait()
                .expect("a child can be waited for")
                .is_some();
            ended.then_some(None)
        })
        .await;
        if started.is_some() {
            self.ports = started;
            return true;
        }
        self.process = None;
        let words = &self.log()[log_before..];
        assert!(
            words.contains("address already in use"),
            "nats-server did not start:\n{words}"
        );
        false
    }

    fn command(&self, ports_folder: &TempDir) -> Command {
        let binary = nats_binary().unwrap_or_else(|error| panic!("{error:#}"));
        // The server takes -1 for any free port.
        let listen = |port: Option<u16>| {
            format!(
                "127.0.0.1:{}",
                port.map_or("-1".to_owned(), |port| port.to_string())
            )
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path());
        let log = log.expect("a file can be made in a temporary folder");
        let store = store_dir_env(&self.home.path().join(STORE));
        let (store_dir, store) = store.unwrap_or_else(|error| panic!("{error:#}"));
        let mut command = Command::new(binary.path);
        command
            .arg("--config")
            .arg(self.home.path().join(CONFIGURATION_FILE))
            .arg("--ports_file_dir")
            .arg(ports_folder.path())
            .env("NATS_SERVER_NAME", &self.name)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env(store_dir, store)
            .env("NATS_LISTEN", listen(self.ports.map(|ports| ports.client)))
            .env(
                "NATS_HTTP_LISTEN",
                listen(self.ports.map(|ports| ports.monitoring)),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(credentials) = &self.credentials {
            command.envs(credentials.server_env());
        }
        command
    }

    /// Ends the server as an operator would, and waits until it is gone.
    ///
    /// # Panics
    ///
    /// When it does not run, or does not end.
    pub async fn stop(&mut self) {
        self.end_by(Signal::SIGTERM).await;
    }

    /// Ends the server as a crash would, and waits until it is gone.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub async fn kill(&mut self) {
        self.end_by(Signal::SIGKILL).await;
    }

    async fn end_by(&mut self, signal: Signal) {
        child::send(self.running(), signal);
        let process = self.process.as_mut().expect("it was just seen running");
        child::exit(process, DEADLINE, "nats-server").await;
        self.process = None;
    }

    /// Stops the server in its tracks: its connections stay open, and nothing answers.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn pause(&self) {
        child::pause(self.running());
    }

    /// Lets a paused server go on.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn resume(&self) {
        child::resume(self.running());
    }

    /// Lets every write of the server to a file fail, as on a disk that is full: its files may not grow.
    /// What it logs meanwhile is lost.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn fail_writes(&self) {
        self.limit_files(Some(1));
    }

    /// Lets it write again.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn allow_writes(&self) {
        self.limit_files(None);
    }

    fn limit_files(&self, bytes: Option<u64>) {
        let process = Pid::from_child(self.running());
        // The hard limit stays, so that anybody may lift the other one again.
        let maximum = getrlimit(Resource::Fsize).maximum;
        let limit = Rlimit {
            current: bytes.or(maximum),
            maximum,
        };
        prlimit(Some(process), Resource::Fsize, limit).expect("a limit of a child can be set");
    }

    /// Whether it runs, as far as this process knows.
    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn running(&self) -> &Child {
        self.process.as_ref().expect("the server runs")
    }

    /// The process id.
    ///
    /// # Panics
    ///
    /// When it does not run.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.running().id()
    }

    /// Where clients connect to. It stays the same when the server is started again.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.ports().client)
    }

    /// The port of [`NatsServer::url`].
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports().client
    }

    /// The root of the monitoring pages, such as `http://127.0.0.1:8222`.
    #[must_use]
    pub fn monitoring_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports().monitoring)
    }

    /// The server's own figures, from its monitoring page `/varz`.
    ///
    /// # Panics
    ///
    /// When the server does not answer.
    pub async fn varz(&self) -> Value {
        self.monitoring("/varz").await
    }

    /// Its connections with their subscriptions, from its monitoring page `/connz`.
    ///
    /// # Panics
    ///
    /// When the server does not answer.
    pub async fn connz(&self) -> Value {
        self.monitoring("/connz?subs=true").await
    }

    /// The status of its monitoring page at this path, such as `/healthz`.
    ///
    /// # Panics
    ///
    /// When the server does not answer.
    pub async fn monitoring_status(&self, path: &str) -> u16 {
        let answer = http("GET", ("127.0.0.1", self.ports().monitoring), path).await;
        answer
            .unwrap_or_else(|error| panic!("cannot read {path} of the server: {error:#}"))
            .status
    }

    async fn monitoring(&self, path: &str) -> Value {
        let page = get_json(self.ports().monitoring, path).await;
        page.unwrap_or_else(|error| panic!("cannot read {path} of the server: {error:#}"))
    }

    fn ports(&self) -> Ports {
        self.ports
            .expect("a server is handed out after its first start")
    }

    /// Options to connect as one of the users `publisher`, `worker`, `status`, `operator` and
    /// `gateway`, or as the `admin` of this test: name, password, and the inbox prefix that this
    /// user may receive replies on. Workers may not publish to the inbox of the `admin`.
    ///
    /// An open server takes any name for the inbox prefix, and asks for no password.
    ///
    /// # Panics
    ///
    /// When the server knows no such user.
    #[must_use]
    pub fn options_for(&self, user: &str) -> ConnectOptions {
        match &self.credentials {
            Some(credentials) => credentials.options_for(user),
            None => ConnectOptions::new().custom_inbox_prefix(inbox_prefix(user)),
        }
    }

    /// Connects with [`NatsServer::options_for`] the user.
    ///
    /// # Panics
    ///
    /// When the server knows no such user, or does not let it in.
    pub async fn connect_as(&self, user: &str) -> Client {
        let client = self.options_for(user).connect(self.url()).await;
        client.unwrap_or_else(|error| panic!("cannot connect as {user}: {error}"))
    }

    /// The environment with which one of our services connects as this user.
    ///
    /// # Panics
    ///
    /// When the server knows no such user.
    #[must_use]
    pub fn env_for(&self, user: &str) -> Vec<(String, String)> {
        let mut env = match &self.credentials {
            Some(credentials) => credentials.client_env(user),
            None => vec![("NATS_INBOX_PREFIX".to_owned(), inbox_prefix(user))],
        };
        env.push(("NATS_URL".to_owned(), self.url()));
        env
    }

    /// What the server logged so far.
    ///
    /// # Panics
    ///
    /// When the log cannot be read.
    #[must_use]
    pub fn log(&self) -> String {
        match fs::read(self.log_path()) {
            Ok(log) => String::from_utf8_lossy(&log).into_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => panic!("cannot read the server's log: {error}"),
        }
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("nats.log")
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            child::end(process);
        }
        if thread::panicking()
            && let Ok(log) = fs::read_to_string(self.log_path())
        {
            eprintln!("--- log of nats-server ---\n{log}--- end of the log ---");
        }
    }
}
