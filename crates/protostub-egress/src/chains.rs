//! Reduces a server's certificate chain to the one path that it should be.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::EndEntityCert;

/// Maximum number of intermediate certificates. Chains of the web have fewer; some servers send
/// more than their chain.
const MAX_INTERMEDIATES: usize = 10;

/// Verifies as webpki does, but along one path only.
///
/// webpki tries every path from the server's certificate to a root. Certificates that fit each
/// other in many ways make that take seconds. Here, the issuer's name of each certificate leads to
/// the first intermediate with that name, and that is the path. It has one signature per
/// certificate.
#[derive(Debug)]
pub(crate) struct ShortChains(pub(crate) Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ShortChains {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if intermediates.len() > MAX_INTERMEDIATES {
            let sent = intermediates.len();
            return Err(Error::General(format!(
                "the server sent {sent} intermediate certificates, and at most {MAX_INTERMEDIATES} are allowed"
            )));
        }
        let path = path(end_entity, intermediates);
        self.0.verify_server_cert(end_entity, &path, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The intermediates from the server's certificate upwards. Certificates that name themselves as
/// their issuer are left out: the roots are the operator's choice. Unreadable ones are left out
/// too.
fn path<'a>(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    let names = |der: &CertificateDer<'_>| {
        let parsed = EndEntityCert::try_from(der).ok()?;
        Some((parsed.subject().to_vec(), parsed.issuer().to_vec()))
    };
    let mut candidates: Vec<_> =
        intermediates.iter().filter_map(|der| names(der).map(|(subject, issuer)| (subject, issuer, der))).collect();
    candidates.retain(|(subject, issuer, _)| subject != issuer);
    let Some((_, mut wanted)) = names(end_entity) else { return Vec::new() };
    let mut path = Vec::new();
    while let Some(index) = candidates.iter().position(|(subject, ..)| *subject == wanted) {
        let (_, issuer, der) = candidates.remove(index);
        path.push(der.clone());
        wanted = issuer;
    }
    path
}
