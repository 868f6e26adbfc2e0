//! TLS between the filter and a server, with the same options as the client library.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Which servers are trusted, and which certificate this client shows.
#[derive(Clone, Debug)]
pub(crate) struct TlsOptions {
    /// Whether a connection without TLS is refused.
    pub(crate) required: bool,
    /// File with the trusted certificate authorities; `None` means those of the system.
    pub(crate) ca: Option<PathBuf>,
    /// Files with this client's certificate and its key; `None` for no client certificate.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl TlsOptions {
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::new(self.config().map_err(io::Error::other)?));
        connector.connect(name, stream).await
    }

    /// Reads the files for each connection, as the library does: certificates may be renewed.
    fn config(&self) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in CertificateDer::pem_file_iter(path)? {
                    roots.add(certificate?)?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        Ok(match &self.identity {
            Some((certificate, key)) => {
                let chain =
                    CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?
            }
            None => builder.with_no_client_auth(),
        })
    }
}
