//! The first exchange on a connection: who is there, in which role, and how it is proved. It
//! owns the two messages and the judgement; what is on the wire is a frame of
//! [`Kind::Hello`] each way, or [`Kind::Refused`] instead of the answer.

use std::fmt;

use quinn::Connection;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};

use super::error::NetError;
use super::frames::{FrameReader, FrameWriter};
use super::tls::TokenDigest;
use crate::codec;
use crate::frame::Kind;
use crate::limits::MAX_NAME_LEN;
use crate::refusal::{Code, Refusal, shorten};

/// The version of the protocol that this build speaks.
pub const PROTOCOL: u16 = 1;

/// What a process is in the cluster. It is proved by the certificate's name, or for a client by
/// its token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Decides who does what.
    Coordinator,
    /// Stores and delivers messages.
    Worker,
    /// Publishes, subscribes, administers.
    Client,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Coordinator, Self::Worker, Self::Client];

    /// The name as in file names and texts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Worker => "worker",
            Self::Client => "client",
        }
    }

    /// The DNS name that a certificate of this role is issued to.
    #[must_use]
    pub fn dns_name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator.ringway",
            Self::Worker => "worker.ringway",
            Self::Client => "client.ringway",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the dialler says first.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The version that it speaks.
    pub protocol: u16,
    /// What it says that it is.
    pub role: Role,
    /// Its id, or a client's name.
    pub name: String,
    /// What proves a client without a certificate.
    #[serde(default)]
    pub token: Option<String>,
    /// Program and version.
    #[serde(default)]
    pub agent: String,
}

/// What the acceptor answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Welcome {
    /// The version that both speak from here on.
    pub protocol: u16,
    /// What the acceptor is; its certificate proved it already.
    pub role: Role,
    /// Its id.
    pub name: String,
    /// Program and version.
    #[serde(default)]
    pub agent: String,
}

/// Program and version of this build.
pub(super) const AGENT: &str = concat!("ringway/", env!("CARGO_PKG_VERSION"));

/// The acceptor's part: reads the hello and judges it. A refusal has been sent when it returns.
pub(super) async fn receive(
    connection: &Connection,
    token: Option<&TokenDigest>,
    own_role: Role,
    own_name: &str,
) -> Result<Hello, NetError> {
    let (send, recv) = connection.accept_bi().await?;
    let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv));
    let judged = match reader.expect(Kind::Hello).await {
        Ok(bytes) => codec::decode::<Hello>(&bytes)
            .and_then(|hello| judge(&hello, connection, token).map(|()| hello)),
        Err(NetError::Protocol(refusal)) => Err(refusal),
        Err(e) => return Err(e),
    };
    match judged {
        Ok(mut hello) => {
            hello.token = None;
            let welcome = Welcome {
                protocol: PROTOCOL,
                role: own_role,
                name: own_name.to_owned(),
                agent: AGENT.to_owned(),
            };
            writer.write_control(Kind::Hello, &welcome).await?;
            writer.finish()?;
            Ok(hello)
        }
        Err(refusal) => {
            writer.refuse(&refusal).await?;
            // The dialler reads the refusal before the connection goes: a close overtakes data.
            writer.delivered().await;
            Err(NetError::Refused(refusal))
        }
    }
}

/// The dialler's part: says who it is and reads the answer.
pub(super) async fn send(connection: &Connection, hello: &Hello) -> Result<Welcome, NetError> {
    let (send, recv) = connection.open_bi().await?;
    let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv));
    writer.write_control(Kind::Hello, hello).await?;
    writer.finish()?;
    let bytes = reader.expect(Kind::Hello).await?;
    let welcome: Welcome = codec::decode(&bytes).map_err(NetError::Protocol)?;
    if welcome.protocol != PROTOCOL || welcome.name.len() > MAX_NAME_LEN {
        return Err(NetError::Protocol(unsupported(welcome.protocol)));
    }
    Ok(welcome)
}

/// Whether the dialler is what it says.
fn judge(
    hello: &Hello,
    connection: &Connection,
    token: Option<&TokenDigest>,
) -> Result<(), Refusal> {
    if hello.protocol != PROTOCOL {
        return Err(unsupported(hello.protocol));
    }
    if hello.name.is_empty()
        || hello.name.len() > MAX_NAME_LEN
        || hello.name.chars().any(char::is_control)
    {
        return Err(Refusal::new(
            Code::InvalidName,
            format!("{:?} is no name for a {}", shorten(&hello.name), hello.role),
        )
        .hint(format!("a name has 1 to {MAX_NAME_LEN} printable characters")));
    }
    match certificate(connection) {
        Some(certificate) => prove_role(&certificate, hello.role),
        None => prove_token(hello, token),
    }
}

/// The certificate that the other side presented; TLS has already checked it against the CA.
fn certificate(connection: &Connection) -> Option<CertificateDer<'static>> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.into_iter().next()
}

fn prove_role(certificate: &CertificateDer<'_>, role: Role) -> Result<(), Refusal> {
    if is_issued_to(certificate, role) {
        return Ok(());
    }
    let real = Role::ALL.into_iter().find(|role| is_issued_to(certificate, *role));
    let real = real.map_or("none of Ringway's roles".to_owned(), |role| role.dns_name().to_owned());
    Err(Refusal::new(
        Code::Forbidden,
        format!("a certificate issued to {real} cannot act as {}", role.dns_name()),
    )
    .hint(format!("start the process with {role}.pem and {role}.key of the cluster's directory")))
}

fn is_issued_to(certificate: &CertificateDer<'_>, role: Role) -> bool {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return false };
    let Ok(name) = ServerName::try_from(role.dns_name()) else { return false };
    certificate.verify_is_valid_for_subject_name(&name).is_ok()
}

fn prove_token(hello: &Hello, token: Option<&TokenDigest>) -> Result<(), Refusal> {
    if hello.role != Role::Client {
        return Err(Refusal::new(
            Code::Unauthorized,
            format!("a {} proves itself with a certificate, and presented none", hello.role),
        )
        .hint("start it with --tls-dir and the cluster's directory"));
    }
    match (&hello.token, token) {
        (Some(given), Some(token)) if token.matches(given) => Ok(()),
        (Some(_), Some(_)) => {
            Err(Refusal::new(Code::Unauthorized, "the token is not one of this cluster")
                .hint("use the token in client.token of the cluster's directory"))
        }
        (Some(_), None) => {
            Err(Refusal::new(Code::Unauthorized, "this server takes certificates, no tokens")
                .hint("connect with ?ca=PATH&cert=PATH&key=PATH"))
        }
        (None, _) => {
            Err(Refusal::new(Code::Unauthorized, "neither a certificate nor a token was presented")
                .hint("connect with ?tls=DIR, or with ?ca=PATH&token=…"))
        }
    }
}

fn unsupported(theirs: u16) -> Refusal {
    Refusal::new(
        Code::Unsupported,
        format!("the other side speaks version {theirs} of the protocol, this one {PROTOCOL}"),
    )
    .hint("bring both to the same version of Ringway")
}
