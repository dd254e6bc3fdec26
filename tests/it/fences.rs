//! The lines that the compiler does not draw: what decides imports nothing that acts, only
//! `proto::net` knows QUIC and TLS, and the crates know each other one way.

use std::path::{Path, PathBuf};

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// The lines of code below `dir` that hold one of `words`; comments do not count.
fn offending(dir: &str, words: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files = sources(&root.join(dir));
    assert!(!files.is_empty(), "no sources in {dir}");
    let mut found = Vec::new();
    for file in files {
        if dir == "proto/src" && file.strip_prefix(root.join("proto/src/net")).is_ok() {
            continue;
        }
        for (n, line) in std::fs::read_to_string(&file).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(word) = words.iter().find(|w| code.contains(**w)) {
                found.push(format!("{}:{}: {word}", file.display(), n + 1));
            }
        }
    }
    found
}

#[test]
fn what_decides_imports_nothing_that_acts() {
    let acts = [
        "tokio",
        "quinn",
        "rustls",
        "std::fs",
        "std::net",
        "std::thread",
        "std::sync::mpsc",
        "Instant::now",
        "SystemTime",
        "rand::",
        "async fn",
        "HashMap",
        "proto::net",
    ];
    for logic in ["coordinator/src/logic", "worker/src/logic", "client/src/logic"] {
        assert_eq!(offending(logic, &acts), Vec::<String>::new());
    }
}

#[test]
fn only_proto_net_knows_quic_and_tls() {
    let transport = ["quinn", "rustls", "tokio", "Instant::now", "SystemTime"];
    assert_eq!(offending("proto/src", &transport), Vec::<String>::new());
    for role in ["coordinator/src", "worker/src", "client/src"] {
        assert_eq!(offending(role, &["quinn::", "rustls::"]), Vec::<String>::new());
    }
}

#[test]
fn the_roles_do_not_know_each_other() {
    let roles = ["coordinator", "worker", "client"];
    for role in roles {
        let others: Vec<String> =
            roles.iter().filter(|r| **r != role).map(|r| format!("ringway_{r}::")).collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        assert_eq!(offending(&format!("{role}/src"), &others), Vec::<String>::new());
    }
}
