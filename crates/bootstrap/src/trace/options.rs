use std::str::FromStr;

use reqwest::Url;

/// The options of traces.
#[derive(Clone, Debug, clap::Args)]
pub struct TraceOptions {
    /// Collector that spans are sent to, as OTLP over HTTP, such as `http://127.0.0.1:4318`; none are
    /// made if absent. Headers for it are read from the variable `OTEL_EXPORTER_OTLP_HEADERS`
    // Parsed later, because a parse error of clap would show the whole text.
    #[arg(
        long,
        value_name = "URL",
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true
    )]
    pub otlp_endpoint: Option<String>,

    /// Share of the traces begun here that is recorded, 0 to 1; for traces begun elsewhere it was
    /// decided there
    #[arg(
        long,
        value_name = "RATIO",
        env = "OTEL_TRACES_SAMPLER_ARG",
        default_value = "1",
        value_parser = ratio
    )]
    pub trace_ratio: f64,
}

/// The URL of a collector, without `/v1/traces`.
#[derive(Debug)]
pub(super) struct Endpoint(Url);

impl Endpoint {
    /// The URL that spans are sent to.
    pub(super) fn traces(&self) -> Url {
        let mut url = self.0.clone();
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }

    /// Whether it is HTTP without TLS.
    pub(super) fn is_plain(&self) -> bool {
        self.0.scheme() == "http"
    }
}

impl FromStr for Endpoint {
    type Err = String;

    /// Errors do not show the text: it may hold a secret.
    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text)
            .map_err(|error| format!("invalid URL: {error}; write \"http://host:4318\""))?;
        if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
            return Err(
                "invalid URL: it has to begin with http:// or https:// and a host".to_owned(),
            );
        }
        // They would appear in error messages and in the list of processes.
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(
                "invalid URL: it must not have a user, a password or a query; put credentials into \
                 OTEL_EXPORTER_OTLP_HEADERS"
                    .to_owned(),
            );
        }
        Ok(Self(url))
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|ratio| (0.0..=1.0).contains(ratio));
    number.ok_or_else(|| "not a number from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_go_below_the_endpoint() {
        for (text, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            (
                "https://a.example/otlp/",
                "https://a.example/otlp/v1/traces",
            ),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.traces().as_str(), expected);
        }
    }

    #[test]
    fn what_cannot_be_a_collector_or_would_show_a_secret_is_refused() {
        for text in [
            "",
            "collector:4318",
            "ftp://a",
            "http://u:s3cret@a",
            "http://a?key=s3cret",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
        for text in ["", "-0.1", "1.1", "NaN", "half"] {
            assert!(ratio(text).is_err(), "{text:?} was taken");
        }
        assert!((ratio("0.25").unwrap() - 0.25).abs() < f64::EPSILON);
    }
}
