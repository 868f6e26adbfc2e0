//! Signatures of requests in the manner of Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks>, `spec/standard-webhooks.md`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use reqwest::header::HeaderName;
use sha2::Sha256;

use crate::declared::environment::{Template, Variables};

/// The header that names the request: the job and its attempt, joined by `_`. There is no full stop
/// in it, as those separate the parts of what is signed.
pub(super) const ID: HeaderName = HeaderName::from_static("webhook-id");

/// The header with the time of the request, in seconds since 1970.
pub(super) const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");

/// The header with the version of the scheme and the signature.
pub(super) const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The fewest bytes of a key, which the specification asks for.
const MIN: usize = 24;

/// The prefix of a secret that is written in base64.
const PREFIX: &str = "whsec_";

/// A key with which requests are signed. It is never shown.
pub(super) struct Secret(Hmac<Sha256>);

impl Secret {
    /// The secret that a declaration takes from the environment.
    ///
    /// # Errors
    /// When it takes none from there, or it is no secret. The error does not show it.
    pub(super) fn from_template(
        template: &Template,
        variables: Variables<'_>,
    ) -> Result<Self, String> {
        if !template.has_variable() {
            return Err(
                "it has to come from the environment, such as \"${WEBHOOK_SECRET}\"".to_owned(),
            );
        }
        Self::new(&template.fill(variables)?)
    }

    /// The key is what `whsec_` is followed by, in base64; the bytes of any other text as they are.
    fn new(text: &str) -> Result<Self, String> {
        let key = match text.strip_prefix(PREFIX) {
            Some(encoded) => STANDARD
                .decode(encoded)
                .map_err(|_| format!("what follows {PREFIX} is not base64"))?,
            None => text.as_bytes().to_vec(),
        };
        if key.len() < MIN {
            return Err(format!(
                "the secret is too short: {} bytes, at least {MIN} are needed; \
                 `openssl rand -base64 32` makes one to put after {PREFIX}",
                key.len()
            ));
        }
        let mac = Hmac::new_from_slice(&key).map_err(|error| error.to_string())?;
        Ok(Self(mac))
    }

    /// The value of the header with the signature.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let signed = format!("{id}.{timestamp}.{body}");
        let mac = self.0.clone().chain_update(signed).finalize();
        format!("v1,{}", STANDARD.encode(mac.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_signed_as_the_libraries_of_standard_webhooks_do_it() {
        // The example of those libraries.
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
            .ok()
            .unwrap();
        let signed = secret.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            "{\"test\": 2432232314}",
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_is_base64_after_its_prefix_and_plain_text_without() {
        let sign = |text| Secret::new(text).ok().unwrap().sign("a_1", 1, "null");
        let plain = "0123456789abcdef01234567";
        let encoded = format!("whsec_{}", STANDARD.encode(plain));
        assert_eq!(sign(plain), sign(&encoded));
        assert_ne!(sign(plain), sign("0123456789abcdef01234568"));
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_shown() {
        for text in ["whsec_", "whsec_s3cret!", "whsec_czNjcmV0", "s3cret"] {
            let error = Secret::new(text).err().unwrap();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
