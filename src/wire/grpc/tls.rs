//! TLS between nodes: what a node shows, whom it believes, and which names a certificate is for.
//!
//! Knows files, certificates and handshakes. Does not know calls, nor who is at an address.
//! T1: both sides show a certificate that the CA signed, for use as a server's and as a client's; TLS 1.3 or nothing.
//! T2: a certificate is for the nodes whose names are among its DNS names. T3: files that cannot be used change nothing;
//! new connections use what was read last, open ones go on. T4: no session is resumed, so every connection shows its
//! certificates.

use super::socket::Socket;
use parking_lot::{Mutex, RwLock};
use quorate_model::{Clock, SystemClock};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{
    Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// The first byte of a TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;
/// The same about the same place is told once in so long.
const TELL_AGAIN: Duration = Duration::from_secs(30);
/// Places that are remembered for that.
const TOLD: usize = 256;

/// Where the certificates are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The node's certificate, and those between it and the CA if there are any.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificates of the CAs whose nodes are believed.
    pub ca: PathBuf,
}

/// Whether there is a way without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// There is none.
    Required,
    /// Peers without TLS are talked to as they are: for the time of moving a cluster to TLS.
    Permissive,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The reason.
        #[source]
        cause: io::Error,
    },
    /// A file does not hold what it should, or does not belong to the others.
    #[error("{}: {reason}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate is another node's.
    #[error("{} is not a certificate of node {name}: it needs that among its DNS names", file.display())]
    OtherName {
        /// The file.
        file: PathBuf,
        /// Name of this node.
        name: String,
    },
}

/// What a node needs for TLS. Clones share it.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    name: String,
    mode: TlsMode,
    files: TlsFiles,
    loaded: RwLock<Arc<Loaded>>,
    told: Mutex<BTreeMap<String, Instant>>,
}

/// Certificates as they were read last.
struct Loaded {
    contents: [Vec<u8>; 3],
    signed: Arc<SignedByCa>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// Why there is no connection with TLS.
pub(super) enum NoTls {
    /// The other side does not seem to speak it.
    Plain(String),
    /// It does, and the handshake failed.
    Failed(String),
}

impl Tls {
    /// Reads the certificates of the node called `name`.
    ///
    /// # Errors
    /// [`TlsError`] also when the certificate is not for this node or not signed by the CA.
    pub fn load(files: TlsFiles, mode: TlsMode, name: &str) -> Result<Self, TlsError> {
        let loaded = RwLock::new(Arc::new(Loaded::new(&files, name, read(&files)?)?));
        Ok(Self(Arc::new(Inner { name: name.to_owned(), mode, files, loaded, told: Mutex::default() })))
    }

    /// Reads the files again, and tells whether they had changed.
    ///
    /// # Errors
    /// As [`Tls::load`]; everything then stays as it was.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let Inner { name, files, loaded, .. } = &*self.0;
        let contents = read(files)?;
        if loaded.read().contents == contents {
            return Ok(false);
        }
        let new = Arc::new(Loaded::new(files, name, contents)?);
        *loaded.write() = new;
        Ok(true)
    }

    /// Name of this node.
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn is_required(&self) -> bool {
        self.0.mode == TlsMode::Required
    }

    /// The handshake of who connects. The caller bounds the time.
    pub(super) async fn dial(&self, stream: TcpStream) -> Result<Socket, NoTls> {
        let config = self.0.loaded.read().client.clone();
        // Nobody looks at it: names are compared with the certificate afterwards.
        let place = ServerName::try_from("quorate.invalid").map_err(|e| NoTls::Failed(e.to_string()))?;
        match TlsConnector::from(config).connect(place, stream).await {
            Ok(stream) => Ok(Socket::Secured(Box::new(TlsStream::Client(stream)))),
            Err(error) if speaks_other(&error) => {
                Err(NoTls::Plain(format!("it does not speak TLS, or ended the handshake: {error}")))
            }
            Err(error) => Err(NoTls::Failed(error.to_string())),
        }
    }

    /// The handshake of who was connected to. The caller bounds the time.
    pub(super) async fn answer(&self, stream: TcpStream) -> Result<Socket, String> {
        let mut first = [0];
        let count = stream.peek(&mut first).await.map_err(|e| e.to_string())?;
        if count == 0 {
            // A probe that only wanted to see whether somebody listens: nothing can come from it any more.
            return Ok(Socket::Plain(stream));
        }
        if first[0] != HANDSHAKE {
            return match self.is_required() {
                true => Err("it does not speak TLS".to_owned()),
                false => Ok(Socket::Plain(stream)),
            };
        }
        let loaded = self.0.loaded.read().clone();
        let stream = TlsAcceptor::from(loaded.server.clone()).accept(stream).await;
        let stream = TlsStream::Server(stream.map_err(|e| e.to_string())?);
        // A certificate of a mere client is none of a node.
        let (own, between) =
            stream.get_ref().1.peer_certificates().and_then(<[_]>::split_first).ok_or("no certificate")?;
        loaded.signed.check(own, between, UnixTime::now()).map_err(|e| e.to_string())?;
        Ok(Socket::Secured(Box::new(stream)))
    }

    /// Logs why `place` was refused, but not each time.
    pub(super) fn tell(&self, place: &str, reason: &str) {
        let (mut told, now) = (self.0.told.lock(), SystemClock.instant());
        told.retain(|_, at| now.duration_since(*at) < TELL_AGAIN);
        if told.len() < TOLD && !told.contains_key(place) {
            told.insert(place.to_owned(), now);
            tracing::warn!(place, reason, "refused a node for its certificate, or for having none");
        }
    }
}

/// Whether a handshake failed because the other side does not know what one is.
fn speaks_other(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(error) => matches!(error, Error::InvalidMessage(_)),
        None => matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset),
    }
}

fn read(files: &TlsFiles) -> Result<[Vec<u8>; 3], TlsError> {
    let read =
        |file: &PathBuf| std::fs::read(file).map_err(|cause| TlsError::Read { file: file.clone(), cause });
    Ok([read(&files.cert)?, read(&files.key)?, read(&files.ca)?])
}

fn unusable(file: &Path, reason: impl ToString) -> TlsError {
    TlsError::Unusable { file: file.to_owned(), reason: reason.to_string() }
}

fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| unusable(file, error))?;
    if all.is_empty() { Err(unusable(file, "it holds no certificate in PEM")) } else { Ok(all) }
}

impl Loaded {
    fn new(files: &TlsFiles, name: &str, contents: [Vec<u8>; 3]) -> Result<Self, TlsError> {
        let [cert, key, ca] = &contents;
        let chain = certificates(&files.cert, cert)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unusable(&files.key, error))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(&files.ca, ca)? {
            roots.add(root).map_err(|error| unusable(&files.ca, error))?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
        let algorithms = provider.signature_verification_algorithms;
        let signed = Arc::new(SignedByCa { roots: roots.clone(), algorithms });
        check_own(files, name, &chain, &signed)?;
        let server = server_config(&provider, roots, chain.clone(), key.clone_key());
        let server = Arc::new(server.map_err(|reason| unusable(&files.key, reason))?);
        let client = client_config(&provider, signed.clone(), chain, key);
        let client = Arc::new(client.map_err(|reason| unusable(&files.key, reason))?);
        Ok(Self { contents, signed, server, client })
    }
}

/// What no peer would take is refused before it is used.
fn check_own(
    files: &TlsFiles,
    name: &str,
    chain: &[CertificateDer<'static>],
    signed: &SignedByCa,
) -> Result<(), TlsError> {
    let Some((own, between)) = chain.split_first() else {
        return Err(unusable(&files.cert, "it holds no certificate"));
    };
    signed.check(own, between, UnixTime::now()).map_err(|error| unusable(&files.cert, error))?;
    if !PeerCertificate(own.clone()).is_for(name) {
        return Err(TlsError::OtherName { file: files.cert.clone(), name: name.to_owned() });
    }
    Ok(())
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, String> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    signed: Arc<SignedByCa>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(signed)
        .with_client_auth_cert(chain, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Takes every certificate for servers that the CA signed. Whose it is, is looked at once it is known who should be
/// there: [`PeerCertificate::is_for`].
#[derive(Debug)]
struct SignedByCa {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SignedByCa {
    fn check(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let own = ParsedCertificate::try_from(own)?;
        verify_server_cert_signed_by_trust_anchor(&own, &self.roots, between, now, self.algorithms.all)
    }
}

impl ServerCertVerifier for SignedByCa {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _revocation: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(own, between, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, own, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, own, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The certificate that the other side of a connection has shown, signed by the CA.
#[derive(Clone)]
pub(super) struct PeerCertificate(pub(super) CertificateDer<'static>);

impl PeerCertificate {
    /// Whether it is a certificate of the node called `name`.
    pub(super) fn is_for(&self, name: &str) -> bool {
        let (parsed, name) = (ParsedCertificate::try_from(&self.0), ServerName::try_from(name));
        parsed.is_ok_and(|parsed| name.is_ok_and(|name| verify_server_name(&parsed, &name).is_ok()))
    }
}
