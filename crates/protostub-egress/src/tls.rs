//! TLS as a client: rustls with ring, the web's roots and further ones.

use std::{io, sync::Arc};

use protostub_types::SafeText;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    connect::Stream,
    error::{EgressError, chain},
    host::Host,
};

/// A configuration with the roots asked for and no ALPN, for TLS 1.2 and 1.3.
pub(crate) fn client_config(webpki_roots: bool, extra_roots_pem: &[Vec<u8>]) -> Result<ClientConfig, EgressError> {
    let mut roots = RootCertStore::empty();
    if webpki_roots {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for (n, pem) in extra_roots_pem.iter().enumerate() {
        let fail = |problem: String| EgressError::Config(format!("extra root {}: {problem}", n + 1));
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| fail(format!("it is no PEM: {error}")))?;
            roots.add(certificate).map_err(|error| fail(format!("it is no root certificate: {error}")))?;
        }
        if roots.len() == before {
            return Err(fail("it has no `BEGIN CERTIFICATE` section".into()));
        }
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| EgressError::Config(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Does the handshake with a server whose certificate has to be for `host`.
pub(crate) async fn handshake(
    config: &Arc<ClientConfig>,
    alpn: &[&[u8]],
    host: &Host,
    target: &str,
    stream: Stream,
) -> Result<Box<TlsStream<Stream>>, EgressError> {
    let name = ServerName::try_from(host.bare()).map_err(|error| EgressError::invalid(host.to_string(), error))?;
    let config = if alpn.is_empty() {
        Arc::clone(config)
    } else {
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    };
    let fail = |error| EgressError::Tls { target: target.to_owned(), problem: problem(&error) };
    TlsConnector::from(config).connect(name, stream).await.map(Box::new).map_err(fail)
}

/// Whether an error is one of TLS.
pub(crate) fn is_tls(error: &io::Error) -> bool {
    cause(error).is_some()
}

/// What rustls said, and what to do where that is known.
pub(crate) fn problem(error: &io::Error) -> SafeText {
    let text = chain(error);
    match cause(error) {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            const ADVICE: &str = "no root that is trusted here issued it; if its authority is yours, add that to the extra roots";
            SafeText::display(format_args!("{text}: {ADVICE}"))
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            SafeText::display(format_args!("{text}: the server may not speak TLS on this port"))
        }
        _ => text,
    }
}

/// What rustls said, also if it was packed into one I/O error after the other.
fn cause(error: &io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| inner.downcast_ref().and_then(cause))
}
