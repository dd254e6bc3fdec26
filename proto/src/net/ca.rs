//! A certificate authority of the cluster's own, in a directory: one certificate per role and a
//! token for clients. It promises that a directory is complete or refused, that keys and token
//! are readable by their owner alone, and that what exists is never overwritten. It does not know
//! who uses the files.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};

use super::hello::Role;
use super::tls::TlsError;

/// What [`init_dir`] found or did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Created {
    /// The directory was made.
    New,
    /// It was there and complete; nothing was changed.
    Existing,
}

/// Every file of a complete directory. The CA's certificate comes last and is written last, since
/// nothing works without it.
const FILES: [&str; 9] = [
    "ca.key",
    "coordinator.pem",
    "coordinator.key",
    "worker.pem",
    "worker.key",
    "client.pem",
    "client.key",
    "client.token",
    "ca.pem",
];

const VALID_FOR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from this long ago, for machines whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);
/// Length of the client token before it is written in hex, in bytes.
const TOKEN_BYTES: usize = 32;

/// Makes `dir` a directory of certificates, or finds that it is one.
///
/// # Errors
/// [`TlsError::Incomplete`] for a directory with other or only some of the files, which is left
/// as it is; else what the file system says.
pub fn init_dir(dir: &Path) -> Result<Created, TlsError> {
    if inspect(dir)? == State::Complete {
        return Ok(Created::Existing);
    }
    // Made beside it and moved at the end: a crash on the way leaves nothing that looks complete.
    let stage = stage_beside(dir)?;
    let moved = fill(&stage).and_then(|()| move_into(&stage, dir));
    if moved.is_err() || stage.exists() {
        let _ = fs::remove_dir_all(&stage);
    }
    match moved {
        Ok(()) => Ok(Created::New),
        // Another process was quicker; what it made is as good.
        Err(_) if inspect(dir)? == State::Complete => Ok(Created::Existing),
        Err(e) => Err(e),
    }
}

#[derive(PartialEq, Eq)]
enum State {
    Absent,
    Empty,
    Complete,
}

fn inspect(dir: &Path) -> Result<State, TlsError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(State::Absent),
        Err(e) => return Err(TlsError::unreadable(dir, &e)),
    };
    let missing: Vec<&str> = FILES.into_iter().filter(|file| !dir.join(file).is_file()).collect();
    if missing.is_empty() {
        return Ok(State::Complete);
    }
    match entries.into_iter().next() {
        None => Ok(State::Empty),
        Some(_) => Err(TlsError::Incomplete {
            dir: dir.to_owned(),
            missing: missing.iter().map(|file| (*file).to_owned()).collect(),
        }),
    }
}

/// A fresh directory next to `dir`, so that moving it there is one step of the file system.
fn stage_beside(dir: &Path) -> Result<PathBuf, TlsError> {
    let full = std::path::absolute(dir).map_err(|e| TlsError::unwritable(dir, &e))?;
    let parent = full.parent().unwrap_or(Path::new("/")).to_owned();
    fs::create_dir_all(&parent).map_err(|e| TlsError::unwritable(&parent, &e))?;
    let stage = parent.join(format!(".ringway-tls-{}", hex(&rand::random::<[u8; 8]>())));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&stage)
        .map_err(|e| TlsError::unwritable(&stage, &e))?;
    Ok(stage)
}

fn move_into(stage: &Path, dir: &Path) -> Result<(), TlsError> {
    if inspect(dir)? == State::Absent {
        return fs::rename(stage, dir).map_err(|e| TlsError::unwritable(dir, &e));
    }
    // A directory that somebody made, perhaps the one they stand in, stays the same directory.
    for file in FILES {
        fs::rename(stage.join(file), dir.join(file)).map_err(|e| TlsError::unwritable(dir, &e))?;
    }
    Ok(())
}

fn fill(dir: &Path) -> Result<(), TlsError> {
    let generate = |e: rcgen::Error| TlsError::Generate { cause: e.to_string() };
    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(generate)?;
    let ca_params = ca_params();
    let ca = ca_params.self_signed(&ca_key).map_err(generate)?;
    write(dir, "ca.key", &ca_key.serialize_pem())?;
    let issuer = Issuer::from_params(&ca_params, &ca_key);
    for role in Role::ALL {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(generate)?;
        let params = role_params(role).map_err(generate)?;
        let certificate = params.signed_by(&key, &issuer).map_err(generate)?;
        write(dir, &format!("{role}.pem"), &certificate.pem())?;
        write(dir, &format!("{role}.key"), &key.serialize_pem())?;
    }
    write(dir, "client.token", &format!("{}\n", hex(&rand::random::<[u8; TOKEN_BYTES]>())))?;
    write(dir, "ca.pem", &ca.pem())
}

fn ca_params() -> CertificateParams {
    let mut params = dated(CertificateParams::default());
    // Each CA has a name of its own, so that people can tell two of them apart.
    let name = format!("Ringway CA {}", hex(&rand::random::<[u8; 4]>()));
    params.distinguished_name = named(&name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn role_params(role: Role) -> Result<CertificateParams, rcgen::Error> {
    let mut params = dated(CertificateParams::new(vec![role.dns_name().to_owned()])?);
    params.distinguished_name = named(role.dns_name());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Servers dial each other under the same certificate that they listen with.
    params.extended_key_usages = match role {
        Role::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Role::Coordinator | Role::Worker => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
    };
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn dated(mut params: CertificateParams) -> CertificateParams {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + VALID_FOR).into();
    let mut serial = rand::random::<[u8; 16]>();
    // A serial number is positive (RFC 5280, 4.1.2.2), and not zero.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Certificates are public; everything else is for the owner alone.
fn write(dir: &Path, file: &str, text: &str) -> Result<(), TlsError> {
    let path = dir.join(file);
    let mode = if file.ends_with(".pem") { 0o644 } else { 0o600 };
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&path)
        .and_then(|mut out| out.write_all(text.as_bytes()))
        .map_err(|e| TlsError::unwritable(&path, &e))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_complete_directory_is_left_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("deep/tls");
        assert_eq!(init_dir(&dir).unwrap(), Created::New);
        let before: Vec<Vec<u8>> = FILES.map(|file| fs::read(dir.join(file)).unwrap()).into();
        assert_eq!(init_dir(&dir).unwrap(), Created::Existing);
        let after: Vec<Vec<u8>> = FILES.map(|file| fs::read(dir.join(file)).unwrap()).into();
        assert_eq!(before, after);
        assert_eq!(fs::read_dir(dir.parent().unwrap()).unwrap().count(), 1, "no stage is left");
    }

    #[test]
    fn keys_and_token_are_for_the_owner_alone() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("tls");
        init_dir(&dir).unwrap();
        assert_eq!(mode(&dir), 0o700);
        for file in FILES {
            let expected = if file.ends_with(".pem") { 0o644 } else { 0o600 };
            assert_eq!(mode(&dir.join(file)) & 0o077 & !expected, 0, "{file}");
        }
        let token = fs::read_to_string(dir.join("client.token")).unwrap();
        assert_eq!(token.trim().len(), 2 * TOKEN_BYTES);
    }

    #[test]
    fn an_empty_directory_is_filled_and_a_foreign_one_refused() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(init_dir(home.path()).unwrap(), Created::New);

        fs::remove_file(home.path().join("worker.key")).unwrap();
        let TlsError::Incomplete { missing, .. } = init_dir(home.path()).unwrap_err() else {
            panic!("an incomplete directory was accepted");
        };
        assert_eq!(missing, ["worker.key"]);

        let foreign = tempfile::tempdir().unwrap();
        fs::write(foreign.path().join("notes.txt"), "mine").unwrap();
        assert!(matches!(init_dir(foreign.path()), Err(TlsError::Incomplete { .. })));
        assert_eq!(fs::read_dir(foreign.path()).unwrap().count(), 1);
    }
}
