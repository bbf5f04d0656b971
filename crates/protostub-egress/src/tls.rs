//! The TLS client: rustls with ring, the web's roots and additional ones.

use std::{io, sync::Arc};

use protostub_types::SafeText;
use rustls::{CertificateError, ClientConfig, RootCertStore, client::WebPkiServerVerifier};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{chains::ShortChains, connect::Stream, error::EgressError, handshakes::Handshakes, host::Host, quota::Quota};

/// Creates a configuration with the requested roots, without ALPN, for TLS 1.2 and 1.3.
pub(crate) fn client_config(webpki_roots: bool, extra_roots_pem: &[Vec<u8>]) -> Result<ClientConfig, EgressError> {
    let mut roots = RootCertStore::empty();
    if webpki_roots {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for (n, pem) in extra_roots_pem.iter().enumerate() {
        let fail = |problem: String| EgressError::Config(format!("extra root {}: {problem}", n + 1));
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| fail(format!("the text is not PEM: {error}")))?;
            roots.add(certificate).map_err(|error| fail(format!("the certificate is not a root: {error}")))?;
        }
        if roots.len() == before {
            return Err(fail("the text has no `BEGIN CERTIFICATE` section".into()));
        }
    }
    let invalid = |error: &dyn std::error::Error| EgressError::Config(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(&error))?;
    if roots.is_empty() {
        // No server is trusted. The verifier below requires a root.
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let verifier = ShortChains(verifier.map_err(|error| invalid(&error))?);
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

/// Maximum number of bytes of a server's handshake: twice the size of its largest message.
const MAX_HANDSHAKE_BYTES: usize = 128 << 10;

/// Does the handshake on the threads of `handshakes`. The server's certificate must be for `host`.
pub(crate) async fn handshake(
    handshakes: &Handshakes,
    quota: &Quota,
    config: &Arc<ClientConfig>,
    alpn: &[&[u8]],
    host: &Host,
    target: &str,
    mut stream: Stream,
) -> Result<Box<TlsStream<Stream>>, EgressError> {
    let name = ServerName::try_from(host.bare()).map_err(|error| EgressError::invalid(host.to_string(), error))?;
    let connector = TlsConnector::from(Arc::clone(config));
    let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let handshake = async move {
        stream.limit_reading(Some(MAX_HANDSHAKE_BYTES));
        let mut tls = connector.with_alpn(alpn).connect(name, stream).await?;
        tls.get_mut().0.limit_reading(None);
        Ok(Box::new(tls))
    };
    let fail = |error| EgressError::Tls { target: target.to_owned(), problem: problem(&error) };
    handshakes.run(quota.party(), handshake).await.and_then(|outcome| outcome).map_err(fail)
}

/// Returns the message of rustls, with advice for known errors.
pub(crate) fn problem(error: &io::Error) -> SafeText {
    let text = SafeText::chain(error);
    match cause(error) {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            const ADVICE: &str =
                "no trusted root issued the certificate; if the authority is yours, add its root to `trust-roots`";
            SafeText::display(format_args!("{text}: {ADVICE}"))
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            SafeText::display(format_args!("{text}: perhaps the server does not speak TLS on this port"))
        }
        _ => text,
    }
}

/// Finds the error of rustls, which may be nested in several I/O errors.
fn cause(error: &io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| inner.downcast_ref().and_then(cause))
}
