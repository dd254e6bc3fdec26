//! TLS settings from files: what a server shows and accepts, what a dialler trusts and proves. It
//! promises TLS 1.3 with one protocol name, no early data and no resumption, so that every
//! connection proves anew who is there. How certificates are made is not its business.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};

use super::hello::Role;
use super::verify::{Recorder, fingerprint};
use crate::refusal::{Code, Refusal};
use crate::url::{Secret, UrlAuth};

/// The protocol's name in the TLS handshake.
const ALPN: &[u8] = b"ringway/1";
/// The most that a certificate, key or token file may hold, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What is wrong with the files of certificates, keys and tokens.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there.
    #[error("there is no file {}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file or directory cannot be read.
    #[error("{} cannot be read: {cause}", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// A file or directory cannot be written.
    #[error("{} cannot be written: {cause}", path.display())]
    Unwritable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {wanted} in PEM: {cause}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// Where reading it failed.
        cause: String,
    },
    /// A certificate and a key do not belong together, or cannot be used.
    #[error("{} cannot be used with {}: {cause}", cert.display(), key.display())]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// A directory holds other files, or only some of those it should.
    #[error("{} is no complete directory of certificates: {} missing", dir.display(), list(missing))]
    Incomplete {
        /// The directory.
        dir: PathBuf,
        /// The files that are missing.
        missing: Vec<String>,
    },
    /// Certificates could not be made.
    #[error("certificates cannot be made: {cause}")]
    Generate {
        /// What went wrong.
        cause: String,
    },
}

fn list(files: &[String]) -> String {
    let verb = if files.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", files.join(", "))
}

impl TlsError {
    /// The name of the error that programs match on.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "tls-missing",
            Self::Unreadable { .. } => "tls-unreadable",
            Self::Unwritable { .. } => "tls-unwritable",
            Self::Malformed { .. } => "tls-malformed",
            Self::Mismatch { .. } => "tls-mismatch",
            Self::Incomplete { .. } => "tls-incomplete",
            Self::Generate { .. } => "tls-generate",
        }
    }

    /// One thing to do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Missing { .. } => {
                "make a directory of certificates with `ringway tls init DIR`, \
                                     or correct the path"
                    .into()
            }
            Self::Unreadable { path, .. } => {
                format!("let this user read it: `ls -l {}` shows whose it is", path.display())
            }
            Self::Unwritable { .. } => "choose a directory that this user can write".into(),
            Self::Malformed { wanted, .. } => {
                format!("put the {wanted} there as it was issued, in PEM")
            }
            Self::Mismatch { .. } => {
                "take the certificate and the key that were issued together".into()
            }
            Self::Incomplete { .. } => {
                "choose an empty directory, or remove what is left in this one".into()
            }
            Self::Generate { .. } => "try again".into(),
        }
    }

    /// The error as a refusal.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        Refusal::new(Code::InvalidOption, self.to_string()).hint(self.hint())
    }

    pub(super) fn unreadable(path: &Path, e: &io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::NotFound => Self::Missing { path: path.to_owned() },
            _ => Self::Unreadable { path: path.to_owned(), cause: e.to_string() },
        }
    }

    pub(super) fn unwritable(path: &Path, e: &io::Error) -> Self {
        Self::Unwritable { path: path.to_owned(), cause: e.to_string() }
    }
}

/// What a server shows, and whom it lets in.
#[derive(Clone)]
pub struct ServerTls {
    role: Role,
    quic: Arc<QuicServerConfig>,
    token: Option<TokenDigest>,
    dialling: ClientTls,
}

impl ServerTls {
    /// Reads `ca.pem`, the certificate and key of `role`, and `client.token` where it exists.
    ///
    /// # Errors
    /// [`TlsError`] naming the file.
    pub fn load(dir: &Path, role: Role) -> Result<Self, TlsError> {
        let ca = read_ca(&dir.join("ca.pem"))?;
        let pair = Pair::read(&dir.join(format!("{role}.pem")), &dir.join(format!("{role}.key")))?;
        let token = match read_token(&dir.join("client.token")) {
            Ok(token) => Some(TokenDigest::of(token.expose())),
            Err(TlsError::Missing { .. }) => None,
            Err(e) => return Err(e),
        };
        let quic = QuicServerConfig::try_from(server_config(&ca, &pair)?).map_err(generate)?;
        let dialling = ClientTls::new(role, ca, Some(&pair), None)?;
        Ok(Self { role, quic: Arc::new(quic), token, dialling })
    }

    /// What the server is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    pub(super) fn token(&self) -> Option<&TokenDigest> {
        self.token.as_ref()
    }

    pub(super) fn quic(&self) -> quinn::ServerConfig {
        quinn::ServerConfig::with_crypto(self.quic.clone())
    }
}

/// What a dialler trusts, and how it proves who it is.
#[derive(Clone)]
pub struct ClientTls {
    role: Role,
    config: Arc<ClientConfig>,
    verifier: Arc<WebPkiServerVerifier>,
    trusted_ca: String,
    token: Option<Secret>,
}

impl ClientTls {
    /// A client's, from its connection string. A directory with `client.pem` is used with that
    /// certificate, one without it with `client.token`.
    ///
    /// # Errors
    /// [`TlsError`] naming the file.
    pub fn from_url(auth: &UrlAuth) -> Result<Self, TlsError> {
        match auth {
            UrlAuth::Dir(dir) => {
                let ca = read_ca(&dir.join("ca.pem"))?;
                let cert = dir.join("client.pem");
                if cert.exists() {
                    let pair = Pair::read(&cert, &dir.join("client.key"))?;
                    return Self::new(Role::Client, ca, Some(&pair), None);
                }
                let token = read_token(&dir.join("client.token"))?;
                Self::new(Role::Client, ca, None, Some(token))
            }
            UrlAuth::Files { ca, cert, key } => {
                Self::new(Role::Client, read_ca(ca)?, Some(&Pair::read(cert, key)?), None)
            }
            UrlAuth::Token { ca, token } => {
                Self::new(Role::Client, read_ca(ca)?, None, Some(token.clone()))
            }
        }
    }

    /// A server's towards other servers: it proves the role that it listens with.
    #[must_use]
    pub fn from_server(tls: &ServerTls) -> Self {
        tls.dialling.clone()
    }

    /// What the dialler is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    pub(super) fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    /// The settings for one dial, with the check that remembers why it refused.
    pub(super) fn quic(
        &self,
        expect: Role,
    ) -> Result<(quinn::ClientConfig, Arc<Recorder>), TlsError> {
        let recorder =
            Recorder::new(Arc::clone(&self.verifier), expect, self.role, self.trusted_ca.clone());
        let mut config = ClientConfig::clone(&self.config);
        config.dangerous().set_certificate_verifier(recorder.clone());
        let crypto = QuicClientConfig::try_from(config).map_err(generate)?;
        Ok((quinn::ClientConfig::new(Arc::new(crypto)), recorder))
    }

    /// The same speaking another protocol, for tests of the door.
    #[cfg(test)]
    pub(super) fn with_alpn(&self, alpn: &[u8]) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![alpn.to_vec()];
        Self { config: Arc::new(config), ..self.clone() }
    }

    fn new(
        role: Role,
        ca: Ca,
        pair: Option<&Pair>,
        token: Option<Secret>,
    ) -> Result<Self, TlsError> {
        let provider = provider();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&ca.roots), provider.clone())
                .build()
                .map_err(|e| malformed(&ca.path, CA, e))?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(generate)?
            .with_root_certificates(Arc::clone(&ca.roots));
        let mut config = match pair {
            Some(pair) => builder
                .with_client_auth_cert(pair.chain.clone(), pair.key.clone_key())
                .map_err(|e| pair.mismatch(e))?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self {
            role,
            config: Arc::new(config),
            verifier,
            trusted_ca: fingerprint(&ca.certificate),
            token,
        })
    }
}

fn server_config(ca: &Ca, pair: &Pair) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    // Clients with a token have no certificate; whoever presents one must present ours.
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&ca.roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|e| malformed(&ca.path, CA, e))?;
    // The CA goes along so that a client of another cluster can say whose certificate it saw.
    let chain = pair.chain.iter().chain([&ca.certificate]).cloned().collect();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(generate)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, pair.key.clone_key())
        .map_err(|e| pair.mismatch(e))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// Named explicitly: another crate of the process may have set another default.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn generate(e: impl std::fmt::Display) -> TlsError {
    TlsError::Generate { cause: e.to_string() }
}

fn malformed(path: &Path, wanted: &'static str, e: impl std::fmt::Display) -> TlsError {
    TlsError::Malformed { path: path.to_owned(), wanted, cause: e.to_string() }
}

const CA: &str = "certificate of a CA";

struct Ca {
    path: PathBuf,
    certificate: CertificateDer<'static>,
    roots: Arc<RootCertStore>,
}

fn read_ca(path: &Path) -> Result<Ca, TlsError> {
    let certificates = read_certificates(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|e| malformed(path, CA, e))?;
    }
    let certificate = certificates
        .into_iter()
        .next()
        .ok_or_else(|| malformed(path, CA, PemError::NoItemsFound))?;
    Ok(Ca { path: path.to_owned(), certificate, roots: Arc::new(roots) })
}

/// A certificate with its key.
struct Pair {
    cert_path: PathBuf,
    key_path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Pair {
    fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = read_certificates(cert)?;
        let pem = read(key)?;
        let parsed =
            PrivateKeyDer::from_pem_slice(&pem).map_err(|e| malformed(key, "private key", e))?;
        Ok(Self { cert_path: cert.to_owned(), key_path: key.to_owned(), chain, key: parsed })
    }

    fn mismatch(&self, e: rustls::Error) -> TlsError {
        TlsError::Mismatch {
            cert: self.cert_path.clone(),
            key: self.key_path.clone(),
            cause: e.to_string(),
        }
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wanted = "certificate";
    let pem = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| malformed(path, wanted, e))?;
    if certificates.is_empty() {
        return Err(malformed(path, wanted, PemError::NoItemsFound));
    }
    Ok(certificates)
}

fn read_token(path: &Path) -> Result<Secret, TlsError> {
    let bytes = read(path)?;
    match std::str::from_utf8(&bytes).map(str::trim) {
        Ok(token) if !token.is_empty() => Ok(Secret::new(token)),
        _ => Err(TlsError::Unreadable {
            path: path.to_owned(),
            cause: "it holds no token".to_owned(),
        }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |e: io::Error| TlsError::unreadable(path, &e);
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_FILE_BYTES {
        return Err(TlsError::Unreadable {
            path: path.to_owned(),
            cause: format!("it has {size} bytes; at most {MAX_FILE_BYTES} are read"),
        });
    }
    fs::read(path).map_err(unreadable)
}

/// What a server keeps of the client token: enough to recognise it, not to show it. A random
/// token of 128 bits or more needs no slow hash.
#[derive(Clone)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Whether `token` is the one, in time that does not depend on where it differs.
    pub(super) fn matches(&self, token: &str) -> bool {
        let given = Self::of(token);
        self.0.iter().zip(given.0).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::init_dir;

    fn dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        init_dir(dir.path()).unwrap();
        dir
    }

    fn load(dir: &Path) -> Result<ServerTls, TlsError> {
        ServerTls::load(dir, Role::Worker)
    }

    #[test]
    fn a_bad_file_is_named() {
        let dir = dir();
        assert!(load(dir.path()).is_ok());

        let key = dir.path().join("worker.key");
        fs::copy(dir.path().join("client.key"), &key).unwrap();
        let e = load(dir.path()).err().unwrap();
        assert_eq!(e.code(), "tls-mismatch");
        assert!(e.to_string().contains("worker.key"), "{e}");

        fs::write(&key, "no key").unwrap();
        assert_eq!(load(dir.path()).err().unwrap().code(), "tls-malformed");
        fs::remove_file(&key).unwrap();
        assert_eq!(load(dir.path()).err().unwrap(), TlsError::Missing { path: key });
        fs::write(dir.path().join("ca.pem"), [0xff; 64]).unwrap();
        assert_eq!(load(dir.path()).err().unwrap().code(), "tls-malformed");
    }

    #[test]
    fn a_directory_without_client_certificate_is_used_with_its_token() {
        let dir = dir();
        let auth = UrlAuth::Dir(dir.path().to_owned());
        assert!(ClientTls::from_url(&auth).unwrap().token().is_none());
        fs::remove_file(dir.path().join("client.pem")).unwrap();
        let token = ClientTls::from_url(&auth).unwrap().token().cloned().unwrap();
        let server = load(dir.path()).unwrap();
        assert!(server.token().unwrap().matches(token.expose()));
        assert!(!server.token().unwrap().matches("another"));
    }
}
