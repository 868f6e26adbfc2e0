//! The dashboard in a real browser: Chromium, driven over `WebDriver`, before a gateway
//! with a NATS server, consumers and a status service of its own for each test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod driven;
mod screenshots;
mod seen;
mod system;
mod webdriver;
