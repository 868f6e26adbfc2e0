//! The certificate of the gateway.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bootstrap::Misconfigured;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::AccessOptions;

/// What encrypts connections; `None` if no certificate is configured.
///
/// # Errors
/// When a file cannot be read, or the key does not belong to the certificate.
pub(crate) fn acceptor(options: &AccessOptions) -> anyhow::Result<Option<TlsAcceptor>> {
    let (Some(cert), Some(key)) = (&options.tls_cert, &options.tls_key) else {
        return Ok(None);
    };
    let config = config(cert, key).map_err(|error| {
        anyhow::Error::new(Misconfigured(format!("--tls-cert, --tls-key: {error:#}")))
    })?;
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn config(cert: &Path, key: &Path) -> anyhow::Result<ServerConfig> {
    let unreadable = |path: &Path| format!("cannot read {}", path.display());
    let certificates = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .with_context(|| unreadable(cert))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| unreadable(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
