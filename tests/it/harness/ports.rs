//! Ports that stay free while a server is down: below the range from which the system gives
//! ports to clients, and each handed out once per test process.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 20_000;
const END: u32 = 32_000;

/// The first of `n` ports in a row that are free for UDP and TCP on loopback.
pub fn free_ports(n: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = u32::from(n);
    // Test processes that run at the same time begin at different places.
    let begin = std::process::id().wrapping_mul(97) % (END - FIRST);
    for _ in 0..(END - FIRST) {
        let at = FIRST + (begin + NEXT.fetch_add(n, Ordering::Relaxed)) % (END - FIRST);
        if at + n < END && (at..at + n).all(is_free) {
            return at as u16;
        }
    }
    panic!("no {n} free ports between {FIRST} and {END}");
}

fn is_free(port: u32) -> bool {
    let port = port as u16;
    UdpSocket::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok()
}
