//! Who gets through with which certificate, and who does not.

use super::channels::{Lane, Target, connect};
use super::identity::stamp;
use super::tests::{cluster, fill, member};
use super::*;
use crate::meta::{
    Answer, HelloAnswer, HelloRequest, JoinAnswer, JoinRequest, Proposal, ProposalAnswer, Question,
};
use crate::write::AppendRequest;
use crate::write::write_client::WriteClient;
use crate::{Calls, MetaHandler, Transport, TransportError, raft};
use async_trait::async_trait;
use quorate_model::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(30);

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        // Of two CAs of one name the wrong one would be tried.
        let name = key.public_key_pem();
        params.distinguished_name.push(DnType::CommonName, &name[40..70]);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key, both PEM.
    fn sign(&self, names: &[&str], uses: &[ExtendedKeyUsagePurpose]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = uses.to_vec();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Files of one node.
struct Files(TempDir);

impl Files {
    fn new(cert: &(String, String), trusted: &[&Ca]) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write(cert, trusted);
        files
    }

    fn write(&self, (cert, key): &(String, String), trusted: &[&Ca]) {
        let paths = self.paths();
        std::fs::write(paths.cert, cert).unwrap();
        std::fs::write(paths.key, key).unwrap();
        std::fs::write(paths.ca, trusted.iter().map(|ca| ca.pem.as_str()).collect::<String>()).unwrap();
    }

    fn paths(&self) -> TlsFiles {
        let path = |name: &str| Path::join(self.0.path(), name);
        TlsFiles { cert: path("cert.pem"), key: path("key.pem"), ca: path("ca.pem") }
    }

    fn load(&self, name: &str) -> Result<Tls, TlsError> {
        Tls::load(self.paths(), TlsMode::Required, name)
    }
}

/// TLS of a node with a certificate of `ca`, which trusts `trusted`.
fn tls(name: &str, ca: &Ca, trusted: &[&Ca]) -> Option<Tls> {
    Some(Files::new(&ca.sign(&[name], &[]), trusted).load(name).unwrap())
}

fn permissive(name: &str, ca: &Ca) -> Option<Tls> {
    let files = Files::new(&ca.sign(&[name], &[]), &[ca]);
    Some(Tls::load(files.paths(), TlsMode::Permissive, name).unwrap())
}

/// Says that it is n2.
struct NamedN2;

#[async_trait]
impl MetaHandler for NamedN2 {
    async fn hello(&self, _request: HelloRequest) -> HelloAnswer {
        HelloAnswer { name: "n2".to_owned(), ..HelloAnswer::default() }
    }

    async fn join(&self, _request: JoinRequest) -> JoinAnswer {
        JoinAnswer::default()
    }

    async fn propose(&self, _request: Proposal) -> Result<ProposalAnswer, String> {
        Ok(ProposalAnswer::default())
    }

    async fn consult(&self, _question: Question) -> Result<Answer, String> {
        Ok(Answer::default())
    }
}

/// Node 2, called n2, until it is dropped.
struct Listening {
    address: String,
    peers: Peers,
    stop: CancellationToken,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Listening {
    async fn start(tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (inbox, stop) = (member(NodeId(2)), CancellationToken::new());
        fill(&inbox, 2);
        inbox.set_meta(Arc::new(NamedN2));
        let until = stop.clone();
        tokio::spawn(async move {
            let (_ready, readiness) = watch::channel(true);
            serve(listener, inbox, tls, readiness, Duration::ZERO, until).await.unwrap();
        });
        let peers = Peers::default();
        peers.set_named(NodeId(2), "n2", address.clone());
        Self { address, peers, stop }
    }

    fn calls(&self, tls: Option<Tls>) -> GrpcCalls {
        GrpcCalls::new(cluster(7), self.peers.clone(), timing()).with_tls(tls)
    }

    /// A write, a request of Raft and a question who is there.
    async fn all(&self, tls: Option<Tls>) -> [Result<(), String>; 3] {
        let calls = self.calls(tls.clone());
        let raft = Grpc::new(cluster(7), self.peers.clone(), timing()).with_tls(tls);
        let ballot = raft::request::Message::Vote(raft::Ballot::default());
        let text = |error: TransportError| error.to_string();
        let hello = HelloRequest { name: "n1".to_owned(), ..HelloRequest::default() };
        [
            calls.append(NodeId(2), AppendRequest::default(), LONG).await.map(drop).map_err(text),
            raft.call(NodeId(2), 1, ballot, LONG).await.map(drop).map_err(text),
            calls.hello(&self.address, hello, LONG).await.map(drop),
        ]
    }

    /// None of them comes through.
    #[track_caller]
    fn check_refused(answers: &[Result<(), String>; 3], reasons: &[&str]) {
        for answer in answers {
            let refused = answer.as_ref().expect_err("it came through");
            assert!(reasons.iter().any(|reason| refused.contains(reason)), "{refused}");
        }
    }
}

/// No pause, so that each attempt is made.
fn timing() -> Timing {
    Timing { pause: Duration::ZERO, connect: LONG, ..Timing::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_ca_talk() {
    let ca = Ca::new();
    let place = Listening::start(tls("n2", &ca, &[&ca])).await;
    assert_eq!(place.all(tls("n1", &ca, &[&ca])).await, [Ok(()), Ok(()), Ok(())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_ca_is_refused_by_both_sides() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let place = Listening::start(tls("n2", &ours, &[&ours])).await;
    let refused = place.all(tls("n1", &theirs, &[&ours, &theirs])).await;
    // The end may come before the reason: who connects is done with its handshake first.
    Listening::check_refused(
        &refused,
        &["UnknownCA", "DecryptError", "reset", "broke", "closed", "Broken pipe"],
    );
    let place = Listening::start(tls("n2", &theirs, &[&ours, &theirs])).await;
    Listening::check_refused(&place.all(tls("n1", &ours, &[&ours])).await, &["UnknownIssuer"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_must_be_the_node_that_was_asked_for() {
    let ca = Ca::new();
    let place = Listening::start(tls("n3", &ca, &[&ca])).await;
    let [append, raft, hello] = place.all(tls("n1", &ca, &[&ca])).await;
    for refused in [append, raft] {
        let refused = refused.unwrap_err();
        assert!(
            refused.contains("cannot be reached") && refused.contains("no certificate of node n2"),
            "{refused}"
        );
    }
    assert!(hello.unwrap_err().contains("it says that it is n2 and has no certificate"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_must_be_the_node_that_it_says() {
    let ca = Ca::new();
    let place = Listening::start(tls("n2", &ca, &[&ca])).await;
    let own = tls("n1", &ca, &[&ca]);
    let calls = place.calls(own.clone());
    let named = |name: &str| HelloRequest { name: name.to_owned(), ..HelloRequest::default() };
    let refused = calls.hello(&place.address, named("n9"), LONG).await.unwrap_err();
    assert!(refused.contains("not for node n9"), "{refused}");
    let target = Target { address: place.address.clone(), name: None };
    for (from, expected) in [(Some("n1"), None), (Some("n9"), Some("not for node n9")), (None, Some("none"))]
    {
        let connection = connect(&target, &timing(), Lane::Small.windows(), own.as_ref()).await.unwrap();
        let mut request = tonic::Request::new(AppendRequest::default());
        stamp(request.metadata_mut(), &cluster(7), NodeId(2), from).unwrap();
        let answered = WriteClient::new(connection.channel).append(request).await;
        match (answered, expected) {
            (Ok(_), None) => {}
            (Err(status), Some(part)) => assert!(status.message().contains(part), "{status}"),
            (answered, _) => panic!("{answered:?} to {from:?}"),
        }
    }
}

/// Whether the listener of n2 says anything to who shows this certificate.
async fn is_answered(place: &Listening, ca: &Ca, shown: Option<(String, String)>) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        Some((cert, key)) => {
            let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(vec![cert], key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(&place.address).await.unwrap();
    let name = ServerName::try_from("n2").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    // HTTP/2 begins with the settings of the server.
    let mut first = [0; 9];
    stream.read_exact(&mut first).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_certificates_of_nodes_are_answered() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let (ca, other) = (Ca::new(), Ca::new());
    let place = Listening::start(tls("n2", &ca, &[&ca])).await;
    assert!(is_answered(&place, &ca, Some(ca.sign(&["n1"], &[]))).await);
    assert!(is_answered(&place, &ca, Some(ca.sign(&["n1"], &[ServerAuth, ClientAuth]))).await);
    assert!(
        !is_answered(&place, &ca, Some(ca.sign(&["grafana"], &[ClientAuth]))).await,
        "a client of the CA"
    );
    assert!(!is_answered(&place, &ca, Some(other.sign(&["n1"], &[]))).await, "another CA");
    assert!(!is_answered(&place, &ca, None).await, "no certificate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tls_nobody_gets_through_unless_that_is_allowed() {
    let ca = Ca::new();
    let strict = Listening::start(tls("n2", &ca, &[&ca])).await;
    let [append, raft, hello] = strict.all(None).await;
    assert!(append.is_err() && raft.is_err() && hello.is_err());
    let plain = Listening::start(None).await;
    Listening::check_refused(&plain.all(tls("n1", &ca, &[&ca])).await, &["does not speak TLS"]);

    let through = [Ok(()), Ok(()), Ok(())];
    assert_eq!(plain.all(permissive("n1", &ca)).await, through);
    let open = Listening::start(permissive("n2", &ca)).await;
    assert_eq!(open.all(None).await, through);
    assert_eq!(open.all(tls("n1", &ca, &[&ca])).await, through);
    let stranger = Ca::new();
    let refused = open.all(tls("n1", &stranger, &[&stranger])).await;
    Listening::check_refused(&refused, &["UnknownIssuer"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_are_used_without_ending_what_is_open() {
    let (old, new) = (Ca::new(), Ca::new());
    let files = Files::new(&old.sign(&["n2"], &[]), &[&old]);
    let own = files.load("n2").unwrap();
    let place = Listening::start(Some(own.clone())).await;
    let before = place.calls(tls("n1", &old, &[&old]));
    let append =
        async |calls: &GrpcCalls| calls.append(NodeId(2), AppendRequest::default(), LONG).await.is_ok();
    assert!(append(&before).await);
    let open = before.channels.get(NodeId(2), Lane::Small).await.unwrap();

    assert!(!own.reload().unwrap(), "nothing has changed");
    files.write(&new.sign(&["n2"], &[]), &[&new]);
    assert!(own.reload().unwrap());
    assert!(append(&before).await, "over the connection that was open");
    let still = before.channels.get(NodeId(2), Lane::Small).await.unwrap();
    assert_eq!(open.certificate.unwrap().0, still.certificate.unwrap().0);
    assert!(append(&place.calls(tls("n1", &new, &[&new]))).await);
    assert!(!append(&place.calls(tls("n1", &old, &[&old]))).await);

    std::fs::write(files.paths().key, "half of a k").unwrap();
    assert!(own.reload().is_err());
    assert!(append(&place.calls(tls("n1", &new, &[&new]))).await, "what was read before stays");
}

#[track_caller]
fn check_unusable(files: &Files, part: &str) {
    let error = files.load("n1").map(drop).unwrap_err().to_string();
    assert!(error.contains(part), "{error}");
}

#[test]
fn certificates_that_nobody_would_take_are_not_taken_at_the_start() {
    let (ca, other) = (Ca::new(), Ca::new());
    let good = ca.sign(&["localhost", "n1"], &[]);
    assert!(Files::new(&good, &[&other, &ca]).load("n1").is_ok());
    check_unusable(&Files::new(&ca.sign(&["n2"], &[]), &[&ca]), "not a certificate of node n1");
    check_unusable(&Files::new(&good, &[&other]), "cert.pem: invalid peer certificate: UnknownIssuer");
    check_unusable(&Files::new(&(good.0.clone(), ca.sign(&["n1"], &[]).1), &[&ca]), "key.pem");
    check_unusable(&Files::new(&(good.0.clone(), String::new()), &[&ca]), "key.pem");
    check_unusable(&Files::new(&good, &[]), "ca.pem: it holds no certificate");
    check_unusable(
        &Files::new(&ca.sign(&["n1"], &[ExtendedKeyUsagePurpose::ClientAuth]), &[&ca]),
        "cert.pem",
    );
    let missing = Files::new(&good, &[&ca]);
    std::fs::remove_file(missing.paths().ca).unwrap();
    check_unusable(&missing, "cannot read");
}
