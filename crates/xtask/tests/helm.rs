//! The chart deploy/helm/jobs: rendered by Helm's own library, and compared with the schemas of Kubernetes and with
//! what the services do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{JobId, KindPattern, Timestamp, subjects};
use serde_json::{Value, json};
use test_support::{DEADLINE, Metrics, NatsServer, Service, eventually, project_root};

const CHART: &str = "deploy/helm/jobs";

/// The version of Kubernetes whose schemas are used.
const KUBERNETES: &str = "1.34.0";

/// The packages that render, installed the first time; `None`, and a line, where they cannot be had.
fn packages() -> Option<Command> {
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/helm.requirements.txt");
    test_support::try_python_with(&requirements)
        .inspect_err(|error| println!("SKIPPED: Helm's library cannot be had: {error:#}"))
        .ok()
}

/// Renders the chart; the error is Helm's.
fn render(python: &mut Command, values: &Value) -> Result<Vec<Value>, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/helm.py");
    let output = python
        .arg(script)
        .arg(project_root().join(CHART))
        .arg(values.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    // 1 is for advice, such as an icon.
    let lint = told["lint"]["messages"].as_array().unwrap();
    assert!(
        lint.iter().all(|message| message["severity"] == 1),
        "{lint:?}"
    );
    let files = told["manifests"].as_object().unwrap();
    let manifests = files.iter().filter(|(name, _)| {
        let extension = Path::new(name).extension();
        extension.is_some_and(|extension| extension == "yaml")
    });
    let documents = manifests.flat_map(|(_, text)| text.as_str().unwrap().split("\n---\n"));
    let documents: Vec<Value> = documents
        .map(|it| serde_saphyr::from_str(it).unwrap())
        .collect();
    Ok(documents.into_iter().filter(|it| !it.is_null()).collect())
}

/// What has to be said in any case.
fn least() -> Value {
    json!({"gateway": {"tokens": {"secret": "jobs-tokens"}}})
}

/// Values that switch everything on.
fn everything() -> Value {
    json!({
        "image": {"registry": "registry.example.com/jobs", "tag": "1.2.3", "pullSecrets": ["registry"]},
        "nats": {
            "url": "tls://nats:4222",
            "ca": {"secret": "nats-ca"},
            "clientCertificate": {"secret": "nats-client"},
        },
        "otlpEndpoint": "http://collector:4318",
        "consumer": {
            "kinds": ["mail.*", "report", "video.>"],
            "handlers": "[handlers.\"report\"]\nexec = [\"report\", \"{payload.path}\"]\n",
            "secretEnv": ["handlers"],
            "env": {"CONSUMER_KEEP_OUTCOMES": "24h", "CONSUMER_INBOX": 2048},
            "podAnnotations": {"example.com/team": "jobs"},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "jobs", "operator": "Exists"}],
            "topologySpreadConstraints": [{
                "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            }],
            "keda": {"enabled": true, "prometheus": "http://prometheus:9090", "minReplicas": 0, "maxReplicas": 20},
        },
        "gateway": {
            "tokens": {"secret": "jobs-tokens"},
            "tls": {"secret": "gateway-tls"},
            "behindTls": true,
            "connectionsPerPeer": 0,
            "service": {"annotations": {"a": "b"}},
            "ingress": {
                "enabled": true, "className": "nginx", "host": "jobs.example.com", "tlsSecret": "ingress-tls",
                "annotations": {"a": "b"},
            },
        },
        "publisher": {"enabled": true, "env": {"PUBLISHER_INTERVAL": "100ms"}},
        "serviceMonitor": {"enabled": true, "labels": {"release": "prometheus"}},
        "alerts": {"enabled": true},
        "dashboard": {"enabled": true},
    })
}

/// Some more, each with another way of doing it.
fn variants() -> Vec<Value> {
    let creds = json!({
        "nats": {"creds": {"secret": "jobs-creds"}},
        "gateway": {"allowAnyone": true, "hostNames": ["jobs.internal"]},
        "consumer": {"handlersConfigMap": "handlers", "image": "registry.example.com/own:7"},
    });
    let only_consumers = json!({
        "gateway": {"enabled": false}, "statusService": {"enabled": false}, "consumer": {"replicas": 5},
    });
    vec![least(), everything(), creds, only_consumers]
}

/// Renders the chart with values that are right; `None` where that is not possible on this machine.
fn rendered(values: &Value) -> Option<Vec<Value>> {
    Some(render(&mut packages()?, values).unwrap())
}

fn of_kind<'a>(manifests: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let of_kind = manifests.iter().filter(|it| it["kind"] == kind);
    of_kind.collect()
}

fn container(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

/// The variables of the container of a Deployment.
fn variables(deployment: &Value) -> BTreeMap<String, Value> {
    let variables = container(deployment)["env"].as_array().unwrap();
    let variables = variables.iter().map(|variable| {
        let name = variable["name"].as_str().unwrap().to_owned();
        (name, variable.clone())
    });
    variables.collect()
}

/// The definitions of all that Kubernetes knows, in the installed packages; they allow no unknown fields.
fn definitions(python: &Command) -> Value {
    let packages = python.get_envs().find(|(name, _)| *name == "PYTHONPATH");
    let packages = PathBuf::from(packages.unwrap().1.unwrap());
    let folder = format!("kubernetes_validate/kubernetes-json-schema/v{KUBERNETES}-local-strict");
    let text = fs::read_to_string(packages.join(folder).join("_definitions.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["$defs"].take()
}

#[test]
fn kubernetes_knows_each_field_of_each_manifest() {
    let Some(python) = packages() else { return };
    let definitions = definitions(&python);
    let mut checked = 0;
    for values in variants() {
        for manifest in rendered(&values).unwrap() {
            let kind = manifest["kind"].as_str().unwrap();
            let group = match manifest["apiVersion"].as_str().unwrap() {
                "v1" => "core.v1",
                "apps/v1" => "apps.v1",
                "policy/v1" => "policy.v1",
                "networking.k8s.io/v1" => "networking.v1",
                // They are no part of Kubernetes, so it has no schemas of them.
                "keda.sh/v1alpha1" | "monitoring.coreos.com/v1" => continue,
                other => panic!("{other} is not known here"),
            };
            let schema =
                json!({"$ref": format!("#/$defs/io.k8s.api.{group}.{kind}"), "$defs": definitions});
            let schema = jsonschema::validator_for(&schema).unwrap();
            let errors: Vec<_> = schema
                .iter_errors(&manifest)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{errors:#?}\n{manifest:#}");
            checked += 1;
        }
    }
    println!("{checked} manifests are as Kubernetes {KUBERNETES} wants them");
    assert!(checked >= 20, "{checked}");
}

#[tokio::test]
async fn pods_are_locked_down_and_watched_and_get_only_variables_that_services_read() {
    for values in variants() {
        let Some(manifests) = rendered(&values) else {
            return;
        };
        for deployment in of_kind(&manifests, "Deployment") {
            let labels = &deployment["spec"]["selector"]["matchLabels"];
            let service = labels["app.kubernetes.io/component"].as_str().unwrap();
            let pod = &deployment["spec"]["template"]["spec"];
            assert_eq!(pod["automountServiceAccountToken"], false);
            let who = &pod["securityContext"];
            assert_eq!(
                (&who["runAsNonRoot"], &who["runAsUser"]),
                (&json!(true), &json!(65532))
            );
            assert_eq!(who["seccompProfile"]["type"], "RuntimeDefault");
            let container = container(deployment);
            let locked = json!({
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
            });
            assert_eq!(container["securityContext"], locked);
            assert!(container["resources"]["limits"]["memory"].is_string());

            let port = match service {
                "publisher" => 9471,
                "consumer" => 9472,
                "status-service" => 9473,
                _ => 9474,
            };
            assert_eq!(
                container["ports"][0],
                json!({"name": "monitor", "containerPort": port})
            );
            for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
                assert_eq!(
                    container[probe]["httpGet"],
                    json!({"path": path, "port": "monitor"})
                );
            }
            let variables = variables(deployment);
            let prefix = service.split('-').next().unwrap().to_uppercase();
            let grace = variables[&format!("{prefix}_GRACE")]["value"]
                .as_str()
                .unwrap();
            let grace: i64 = grace.trim_end_matches('s').parse().unwrap();
            let killed_after = pod["terminationGracePeriodSeconds"].as_i64().unwrap();
            let waits = if service == "gateway" { 5 } else { 0 };
            assert_eq!(killed_after, grace + waits + 5, "{service}");

            let mut help = Service::named(service).arg("--help").start();
            assert!(help.wait().await.success());
            let help = help.stdout().join("\n");
            for name in variables.keys() {
                assert!(
                    help.contains(&format!("[env: {name}")),
                    "{service} does not read {name}"
                );
            }
            let secret = &variables.get("NATS_PASSWORD");
            let by_name =
                secret.is_some_and(|it| it["valueFrom"]["secretKeyRef"]["name"] == "jobs-nats");
            assert_eq!(by_name, !variables.contains_key("NATS_CREDS"), "{service}");
        }
    }
}

#[test]
fn what_is_optional_is_there_only_if_it_is_switched_on() {
    let Some(manifests) = rendered(&least()) else {
        return;
    };
    let kinds = |manifests: &[Value]| {
        let mut kinds = BTreeMap::<String, usize>::new();
        for manifest in manifests {
            let kind = manifest["kind"].as_str().unwrap().to_owned();
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    };
    let expected = |kinds: &[(&str, usize)]| {
        let kinds = kinds
            .iter()
            .map(|(kind, count)| ((*kind).to_owned(), *count));
        kinds.collect::<BTreeMap<_, _>>()
    };
    let few = [
        ("Deployment", 3),
        ("PodDisruptionBudget", 2),
        ("Service", 4),
    ];
    assert_eq!(kinds(&manifests), expected(&few));
    let all = [
        ("ConfigMap", 2),
        ("Deployment", 4),
        ("Ingress", 1),
        ("PodDisruptionBudget", 2),
        ("PrometheusRule", 1),
        ("ScaledObject", 1),
        ("Service", 5),
        ("ServiceMonitor", 1),
    ];
    let manifests = rendered(&everything()).unwrap();
    assert_eq!(kinds(&manifests), expected(&all));

    // What is observed is what deploy/observe has, and not a copy that grows old.
    let read =
        |file: &str| fs::read_to_string(project_root().join("deploy/observe").join(file)).unwrap();
    let dashboards = of_kind(&manifests, "ConfigMap");
    let dashboard = dashboards
        .iter()
        .find_map(|it| it["data"]["jobs.json"].as_str());
    assert_eq!(dashboard, Some(&*read("grafana/jobs.json")));
    let alerts: Value = serde_saphyr::from_str(&read("alerts.yml")).unwrap();
    assert_eq!(of_kind(&manifests, "PrometheusRule")[0]["spec"], alerts);
    // Its Services carry the label, and each has the port of this name.
    let monitor = &of_kind(&manifests, "ServiceMonitor")[0]["spec"];
    let wanted = monitor["selector"]["matchLabels"].as_object().unwrap();
    let found = of_kind(&manifests, "Service")
        .into_iter()
        .filter(|service| {
            let labels = &service["metadata"]["labels"];
            wanted.iter().all(|(name, value)| labels[name] == *value)
        });
    let ports: Vec<_> = found
        .map(|it| it["spec"]["ports"][0]["name"].clone())
        .collect();
    assert_eq!(ports, vec![json!("monitor"); 4]);
    assert_eq!(monitor["endpoints"][0]["port"], "monitor");
}

#[test]
fn odd_values_are_refused_with_their_names() {
    let Some(mut python) = packages() else { return };
    let with = |part: &str, value: Value| {
        let mut values = least();
        values[part] = value;
        values
    };
    for (values, wanted) in [
        (json!({}), "set tokens.secret, or allowAnyone"),
        (with("consumer", json!({"replica": 3})), "replica"),
        (with("consumer", json!({"replicas": "many"})), "replicas"),
        (with("consumer", json!({"kinds": ["no spaces"]})), "kinds"),
        (with("consumer", json!({"grace": 0})), "grace"),
        (
            with("consumer", json!({"keda": {"enabled": true}})),
            "the address of Prometheus",
        ),
        (
            with("publisher", json!({"env": {"lower": "case"}})),
            "lower",
        ),
        (with("log", json!({"format": "xml"})), "format"),
    ] {
        let mut python = clone(&mut python);
        let error = render(&mut python, &values).unwrap_err();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

/// The same program again.
fn clone(command: &mut Command) -> Command {
    let mut clone = Command::new(command.get_program());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            clone.env(name, value);
        }
    }
    clone
}

/// How many replicas KEDA and the autoscaler of Kubernetes make of a query's value: rounded up, within the limits, and
/// none only if nothing is left and that is allowed.
fn replicas(scaled: &Value, jobs: f64) -> i64 {
    let spec = &scaled["spec"];
    let limit = |name: &str| spec[name].as_i64().unwrap();
    let trigger = &spec["triggers"][0];
    assert_eq!(trigger["metricType"], "AverageValue");
    let threshold: f64 = trigger["metadata"]["threshold"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let (least, most) = (limit("minReplicaCount"), limit("maxReplicaCount"));
    if jobs == 0.0 {
        return least;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a small number")]
    let wanted = (jobs / threshold).ceil() as i64;
    wanted.clamp(least.max(1), most)
}

/// The value of the query on what a status service shows: the sum over the kinds that its expression matches.
fn value_of(query: &str, metrics: &Metrics, kinds: &[&str], patterns: &[&str]) -> f64 {
    let served: Vec<KindPattern> = patterns
        .iter()
        .map(|pattern| pattern.parse().unwrap())
        .collect();
    let expression = query
        .strip_prefix("sum(max by (kind) (jobs_backlog{kind=~\"")
        .and_then(|rest| rest.strip_suffix("\"}))"))
        .unwrap();
    let of_kinds = kinds.iter().filter(|kind| {
        let matches = matches(expression, kind);
        // The regular expression means the same as the pattern that the consumers are given.
        assert_eq!(
            matches,
            served.iter().any(|pattern| pattern.matches(kind)),
            "{kind}"
        );
        matches
    });
    of_kinds
        .map(|kind| {
            metrics
                .get(&format!("jobs_backlog{{kind=\"{kind}\"}}"))
                .unwrap()
        })
        .sum()
}

/// Whether a kind matches an expression, which Prometheus anchors, with these signs: `[.]`, `[^.]+`, `.+` and `|`.
fn matches(expression: &str, kind: &str) -> bool {
    expression.split('|').any(|alternative| {
        let mut tokens = kind.split('.');
        for part in alternative.split("[.]") {
            match (part, tokens.next()) {
                (".+", Some(_)) => return true,
                ("[^.]+", Some(_)) => {}
                (part, Some(token)) if part == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    })
}

/// A status service, and what it shows when that is as wanted.
async fn shown(status: &mut Service, kind: &str, jobs: f64) -> Metrics {
    let name = format!("jobs_backlog{{kind=\"{kind}\"}}");
    status
        .scrape_until(|metrics| metrics.get(&name) == Some(jobs))
        .await
}

/// The values of the first example in the guide.
fn example_in(guide: &str) -> Option<Value> {
    let (example, _) = guide.split("\n```yaml\n").nth(1)?.split_once("```")?;
    serde_saphyr::from_str(example).ok()
}

async fn submit_to(
    publisher: &async_nats::Client,
    kind: &str,
    jobs: usize,
    run_at: Option<Timestamp>,
) -> anyhow::Result<()> {
    for _ in 0..jobs {
        let id = JobId::generate();
        let kind = kind.parse()?;
        let subject = subjects::durable_job(id, common::Priority::Normal, 1, &kind);
        let job = json!({"id": id, "kind": kind, "run_at": run_at});
        publisher.request(subject, job.to_string().into()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_burst_of_jobs_is_met_by_as_many_consumers_as_the_guide_promises() {
    const KINDS: [&str; 3] = ["mail.send", "report", "other"];
    let patterns = ["mail.*", "report"];
    // The values of the guide.
    let guide = fs::read_to_string(project_root().join("docs/guide/kubernetes.md")).unwrap();
    let mut values = example_in(&guide).unwrap();
    assert_eq!(values["consumer"]["kinds"], json!(patterns));
    values["gateway"] = least()["gateway"].clone();
    let Some(manifests) = rendered(&values) else {
        return;
    };
    let scaled = of_kind(&manifests, "ScaledObject")[0];
    let deployment = of_kind(&manifests, "Deployment");
    let deployment = deployment
        .iter()
        .find(|it| it["metadata"]["name"] == scaled["spec"]["scaleTargetRef"]["name"]);
    assert!(
        deployment.unwrap()["spec"]["replicas"].is_null(),
        "two would set it"
    );
    let metadata = &scaled["spec"]["triggers"][0]["metadata"];
    assert_eq!(metadata["ignoreNullValues"], "false");
    let query = metadata["query"].as_str().unwrap();

    let server = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let handlers = folder.path().join("handlers.toml");
    let declared = KINDS
        .map(|kind| format!("[handlers.\"{kind}\"]\nexec = [\"/bin/true\"]\nstdin = \"none\"\n"));
    fs::write(&handlers, declared.concat()).unwrap();
    let consumer = || {
        let consumer = Service::named("consumer").envs(server.env_for("worker"));
        consumer
            .args([
                "--handlers",
                handlers.to_str().unwrap(),
                "--concurrency",
                "8",
            ])
            .start()
    };
    // They have served the kinds once.
    let mut first = consumer();
    first
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    first.signal(test_support::Signal::SIGTERM);
    assert!(first.wait().await.success());

    let status = Service::named("status-service").envs(server.env_for("status"));
    let mut status = status.args(["--interval", "100ms"]).start();
    let metrics = shown(&mut status, "report", 0.0).await;
    assert_eq!(
        replicas(scaled, value_of(query, &metrics, &KINDS, &patterns)),
        0
    );

    let publisher = server.connect_as("publisher").await;
    let submit = async |kind: &str, jobs: usize, run_at: Option<Timestamp>| {
        submit_to(&publisher, kind, jobs, run_at).await.unwrap();
    };
    submit("other", 50, None).await;
    submit("mail.send", 60, None).await;
    submit("report", 40, None).await;
    let metrics = shown(&mut status, "report", 40.0).await;
    let jobs = value_of(query, &metrics, &KINDS, &patterns);
    assert_eq!(jobs.to_bits(), 100.0_f64.to_bits());
    // As the guide says.
    assert_eq!(replicas(scaled, jobs), 13);
    assert!(guide.contains("100 waiting jobs make 13 replicas, and 1,000 make 20"));
    assert_eq!(replicas(scaled, 1000.0), 20);
    assert_eq!(replicas(scaled, 1.0), 1);

    // Those that wait for their time count no more, once a consumer has put them off.
    let mut consumers = vec![consumer(), consumer()];
    let metrics = shown(&mut status, "mail.send", 0.0).await;
    let metrics = if metrics.get("jobs_backlog{kind=\"report\"}") == Some(0.0) {
        metrics
    } else {
        shown(&mut status, "report", 0.0).await
    };
    let replicas_of = |metrics| replicas(scaled, value_of(query, metrics, &KINDS, &patterns));
    assert_eq!(replicas_of(&metrics), 0);
    submit("report", 30, Some(Timestamp::now().shifted(3_600_000))).await;
    eventually(DEADLINE, "jobs that wait for their time", async || {
        let metrics = status.scrape().await;
        (metrics.get("jobs_scheduled") == Some(30.0)).then_some(())
    })
    .await;
    let metrics = shown(&mut status, "report", 0.0).await;
    assert_eq!(replicas_of(&metrics), 0);

    // To zero and back: nothing is lost.
    for consumer in &mut consumers {
        consumer.signal(test_support::Signal::SIGTERM);
        assert!(consumer.wait().await.success());
    }
    submit("report", 9, None).await;
    let metrics = shown(&mut status, "report", 9.0).await;
    assert_eq!(replicas_of(&metrics), 2);
    let _back = [consumer(), consumer()];
    shown(&mut status, "report", 0.0).await;
}
