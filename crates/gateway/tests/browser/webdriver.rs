//! Chromium, as far as these tests need it, over the W3C protocol `WebDriver`: JSON over HTTP, so
//! that the client of the other tests does.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{DEADLINE, Service, eventually};

use crate::system::http;

/// How a reference to an element is marked in an answer.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

const MISSING: &str = "chromedriver cannot be started: these tests need a browser. Install the \
                       Debian packages: apt-get install chromium chromium-driver";

/// A window of Chromium.
pub(crate) struct Browser {
    http: reqwest::Client,
    session: String,
    /// The gateway that it looks at.
    pub(crate) base: String,
}

/// How the browser is set up.
#[derive(Clone, Copy)]
pub(crate) struct Look {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) dark: bool,
    pub(crate) script: bool,
}

pub(crate) const DESK: Look = Look {
    width: 1280,
    height: 900,
    dark: false,
    script: true,
};

pub(crate) const PHONE: Look = Look {
    width: 360,
    height: 740,
    ..DESK
};

/// Runs something in a browser before this gateway, and ends the browser however that ends.
pub(crate) async fn in_browser(base: &str, look: Look, test: impl AsyncFnOnce(&Browser)) {
    let profile = tempfile::tempdir().unwrap();
    assert!(
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path)
                .any(|folder| folder.join("chromedriver").is_file())),
        "{MISSING}"
    );
    let (_driver, port) = start_driver().await;
    let browser = Browser::open(&port, base, look, &profile).await;
    let result = AssertUnwindSafe(test(&browser)).catch_unwind().await;
    if result.is_err() {
        eprintln!("--- what the browser says ---\n{:#?}", browser.log().await);
        eprintln!("--- the page ---\n{}", browser.source().await);
    }
    browser.close().await;
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Starts chromedriver; returns its port, too. It takes a free port of IPv6, and gives up if another program has the
/// same port of IPv4.
async fn start_driver() -> (Service, String) {
    const STARTED: &str = "started successfully on port ";
    for _ in 0..10 {
        let mut driver = Service::program("chromedriver").arg("--port=0").start();
        let told = |line: &str| line.contains(STARTED) || line.contains("port not available");
        let line = driver.wait_for_line(told).await;
        if let Some((_, port)) = line.split_once(STARTED) {
            return (driver, port.trim_end_matches('.').to_owned());
        }
    }
    panic!("chromedriver has found no free port");
}

impl Browser {
    async fn open(port: &str, base: &str, look: Look, profile: &TempDir) -> Self {
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--no-first-run".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--window-size={},{}", look.width, look.height),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        // Chromium's own sandbox does not work for root, as whom tests run in a container.
        if rustix::process::geteuid().is_root() {
            arguments.push("--no-sandbox".to_owned());
        }
        let mut options = json!({"args": arguments});
        if !look.script {
            options["prefs"] = json!({"profile.managed_default_content_settings.javascript": 2});
        }
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let driver = format!("http://127.0.0.1:{port}/session");
        let http = http();
        let opened = ask(&http, reqwest::Method::POST, &driver, Some(&capabilities)).await;
        let opened = opened.unwrap_or_else(|error| panic!("no browser: {error}; {MISSING}"));
        let id = opened["sessionId"].as_str().unwrap();
        let browser = Self {
            http,
            session: format!("{driver}/{id}"),
            base: base.to_owned(),
        };
        // A window may not be made as narrow as a phone, but it can be told to be one.
        let metrics = json!({
            "width": look.width, "height": look.height, "deviceScaleFactor": 1, "mobile": false,
        });
        browser
            .devtools("Emulation.setDeviceMetricsOverride", &metrics)
            .await;
        let scheme = if look.dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.devtools("Emulation.setEmulatedMedia", &media).await;
        browser
    }

    async fn close(self) {
        let closed = ask(&self.http, reqwest::Method::DELETE, &self.session, None).await;
        closed.expect("the browser closes");
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        let address = format!("{}/{path}", self.session);
        ask(&self.http, reqwest::Method::POST, &address, Some(body)).await
    }

    async fn devtools(&self, command: &str, parameters: &Value) {
        let body = json!({"cmd": command, "params": parameters});
        self.post("goog/cdp/execute", &body).await.unwrap();
    }

    /// Opens a page of the gateway.
    pub(crate) async fn open_page(&self, path: &str) {
        let address = format!("{}{path}", self.base);
        self.post("url", &json!({"url": address})).await.unwrap();
    }

    /// Runs a function body in the page, and gives what it returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.try_run(script).await.unwrap()
    }

    async fn try_run(&self, script: &str) -> Result<Value, String> {
        let body = json!({"script": script, "args": []});
        self.post("execute/sync", &body).await
    }

    /// The address of the page without the gateway's own.
    pub(crate) async fn path(&self) -> String {
        let path = self.run("return location.pathname + location.search").await;
        path.as_str().unwrap().to_owned()
    }

    /// The text of the first element that a selector finds, as a person reads it.
    pub(crate) async fn text(&self, selector: &str) -> Option<String> {
        let script = format!(
            "const found = document.querySelector({}); return found && found.innerText",
            json!(selector)
        );
        // Between two pages there is none.
        let text = self.try_run(&script).await.ok()?;
        text.as_str().map(str::to_owned)
    }

    /// What stands in a field.
    pub(crate) async fn value(&self, selector: &str) -> String {
        let selector = json!(selector);
        let script = format!("return document.querySelector({selector}).value");
        self.run(&script).await.as_str().unwrap().to_owned()
    }

    /// Waits until the text of an element is as wanted, and returns it.
    pub(crate) async fn wait_for(&self, selector: &str, wanted: impl Fn(&str) -> bool) -> String {
        let what = format!("the text of {selector} that was asked for");
        eventually(DEADLINE, &what, async || {
            self.text(selector).await.filter(|text| wanted(text))
        })
        .await
    }

    async fn element(&self, selector: &str) -> String {
        let body = json!({"using": "css selector", "value": selector});
        let what = format!("an element {selector}");
        let found = eventually(DEADLINE, &what, async || {
            self.post("element", &body).await.ok()
        })
        .await;
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    /// Clicks an element, as a person does: it has to be seen.
    pub(crate) async fn click(&self, selector: &str) {
        let what = format!("a click on {selector}");
        eventually(DEADLINE, &what, async || {
            let element = self.element(selector).await;
            let path = format!("element/{element}/click");
            self.post(&path, &json!({})).await.ok()
        })
        .await;
    }

    /// Replaces the text of a field by typing.
    pub(crate) async fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        let clear = format!("element/{element}/clear");
        self.post(&clear, &json!({})).await.unwrap();
        self.keys_to(&element, text).await;
    }

    async fn keys_to(&self, element: &str, text: &str) {
        let path = format!("element/{element}/value");
        self.post(&path, &json!({"text": text})).await.unwrap();
    }

    /// Presses keys, wherever the focus is.
    pub(crate) async fn press(&self, key: &str) {
        let key = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": key}]});
        self.post("actions", &actions).await.unwrap();
    }

    /// What the page has logged since it was asked last: errors, and what the policy forbade.
    pub(crate) async fn log(&self) -> Vec<Value> {
        let log = self
            .post("se/log", &json!({"type": "browser"}))
            .await
            .unwrap();
        log.as_array().unwrap().clone()
    }

    async fn source(&self) -> String {
        let source = self
            .try_run("return document.documentElement.outerHTML")
            .await;
        source.map_or_else(|error| error, |source| source.to_string())
    }

    /// A picture of the page, as PNG.
    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        use base64::Engine as _;

        let address = format!("{}/screenshot", self.session);
        let picture = ask(&self.http, reqwest::Method::GET, &address, None).await;
        let picture = picture.unwrap();
        let engine = base64::engine::general_purpose::STANDARD;
        engine.decode(picture.as_str().unwrap()).unwrap()
    }
}

/// Asks the driver, and gives the value in its answer, or its error.
async fn ask(
    http: &reqwest::Client,
    method: reqwest::Method,
    address: &str,
    body: Option<&Value>,
) -> Result<Value, String> {
    let mut request = http.request(method, address);
    if let Some(body) = body {
        request = request.body(body.to_string());
    }
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let ok = answer.status().is_success();
    let body = answer.bytes().await.map_err(|error| error.to_string())?;
    let mut answer: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let value = answer["value"].take();
    if ok {
        Ok(value)
    } else {
        Err(value.to_string())
    }
}
