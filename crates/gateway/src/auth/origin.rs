//! Refuses requests that a page of another site has caused.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, StatusCode, header};

use crate::http::Problem;

/// Refuses a request that changes something and comes from a page of another site. Browsers say where
/// a request comes from; programs do not.
pub(crate) fn check_origin(
    method: &Method,
    headers: &HeaderMap,
    host: Option<&str>,
) -> Result<(), Problem> {
    if method.is_safe() {
        return Ok(());
    }
    let refused = |why| Err(Problem::new(StatusCode::FORBIDDEN, why));
    if let Some(site) = headers.get("sec-fetch-site")
        && site != "same-origin"
        && site != "none"
    {
        return refused("requests that change something are not taken from pages of other sites");
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        if authority.is_none_or(|origin| Some(origin) != host) {
            return refused("the header Origin names another site than the header Host");
        }
    }
    Ok(())
}

/// Whether a header `Host` names this machine: by an IP address, as `localhost`, or by one of
/// `own_names`.
///
/// A page of another site can reach this gateway under a name of its own that resolves to this
/// machine (DNS rebinding). It needs a name for that: IP addresses cannot be rebound.
pub(super) fn names_this_machine(host: Option<&str>, own_names: &[String]) -> bool {
    let name = host.map(without_port).unwrap_or_default();
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || own_names.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// A host without its port; an IPv6 address also without its brackets.
fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn only_the_own_pages_may_change_something() {
        let allowed = |pairs: &[(&'static str, &'static str)]| {
            check_origin(&Method::POST, &headers(pairs), Some("jobs.example:8080")).is_ok()
        };
        assert!(allowed(&[]));
        assert!(allowed(&[("origin", "http://jobs.example:8080")]));
        assert!(allowed(&[
            ("origin", "https://jobs.example:8080"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(allowed(&[("sec-fetch-site", "none")]));
        for origin in [
            "http://evil.example",
            "http://jobs.example",
            "null",
            "",
            "http://jobs.example:8080.evil",
        ] {
            assert!(!allowed(&[("origin", origin)]), "{origin}");
        }
        for site in ["cross-site", "same-site", "", "Same-Origin"] {
            assert!(!allowed(&[("sec-fetch-site", site)]), "{site}");
        }
        let from_elsewhere = headers(&[("origin", "http://evil.example")]);
        assert!(check_origin(&Method::GET, &from_elsewhere, Some("a")).is_ok());
        assert!(check_origin(&Method::DELETE, &from_elsewhere, Some("a")).is_err());
    }

    #[test]
    fn only_the_own_names_name_this_machine() {
        let own_names = ["jobs.internal".to_owned()];
        let hosts = [
            "localhost",
            "localhost:8080",
            "127.0.0.1:80",
            "[::1]:8080",
            "[::1]",
            "10.0.0.7",
            "jobs.internal:1",
            "LOCALHOST",
            "a.localhost",
        ];
        for host in hosts {
            assert!(names_this_machine(Some(host), &own_names), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "",
            "127.0.0.1.evil.example",
        ] {
            assert!(!names_this_machine(Some(host), &own_names), "{host}");
        }
        assert!(!names_this_machine(None, &own_names));
    }
}
