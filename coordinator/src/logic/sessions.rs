//! Who is alive: which worker or member is reached by which connection, and when it was last
//! heard. A broken connection ends nothing; only silence does. The same for workers and members;
//! it does not know what a lapse means for either.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringway_proto::Time;

/// A connection, by the number that the driver gave it: each a larger one than all before, in one
/// process.
pub type Conn = u64;

#[derive(Clone, Copy, Debug)]
struct Session {
    conn: Option<Conn>,
    heard: Time,
}

/// The live sessions of one kind of peer.
#[derive(Clone, Debug)]
pub struct Sessions<K> {
    sessions: BTreeMap<K, Session>,
    /// The inverse of `Session::conn`: exactly the sessions that name the connection.
    by_conn: BTreeMap<Conn, BTreeSet<K>>,
}

impl<K> Default for Sessions<K> {
    fn default() -> Self {
        Self { sessions: BTreeMap::new(), by_conn: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Sessions<K> {
    /// A session that is known from the store and counts as heard at `heard`.
    pub fn restore(&mut self, key: K, heard: Time) {
        self.sessions.insert(key, Session { conn: None, heard });
    }

    /// The peer is reached by `conn` from now on. Returns the connection that this replaces.
    pub fn attach(&mut self, key: &K, conn: Conn, now: Time) -> Option<Conn> {
        let heard = self.sessions.get(key).map_or(now, |s| s.heard.max(now));
        let old = self.sessions.insert(key.clone(), Session { conn: Some(conn), heard });
        let old = old.and_then(|s| s.conn).filter(|old| *old != conn);
        if let Some(old) = old {
            self.unlink(old, key);
        }
        self.by_conn.entry(conn).or_default().insert(key.clone());
        old
    }

    /// Something was heard on this connection.
    pub fn heard(&mut self, conn: Conn, at: Time) {
        for key in self.by_conn.get(&conn).into_iter().flatten() {
            if let Some(session) = self.sessions.get_mut(key) {
                session.heard = session.heard.max(at);
            }
        }
    }

    /// Every session counts as heard.
    pub fn heard_all(&mut self, at: Time) {
        for session in self.sessions.values_mut() {
            session.heard = session.heard.max(at);
        }
    }

    /// The connection is gone; its sessions go on without one. Returns them.
    pub fn disconnected(&mut self, conn: Conn) -> BTreeSet<K> {
        let keys = self.by_conn.remove(&conn).unwrap_or_default();
        for key in &keys {
            if let Some(session) = self.sessions.get_mut(key) {
                session.conn = None;
            }
        }
        keys
    }

    /// The session is over. Returns the connection that it still had.
    pub fn end(&mut self, key: &K) -> Option<Conn> {
        let conn = self.sessions.remove(key)?.conn?;
        self.unlink(conn, key);
        Some(conn)
    }

    /// By which connection the peer is reached.
    pub fn conn(&self, key: &K) -> Option<Conn> {
        self.sessions.get(key)?.conn
    }

    /// Whether the peer has a session, reached or not.
    pub fn is_live(&self, key: &K) -> bool {
        self.sessions.contains_key(key)
    }

    /// Whether the peer has come by a later connection than this one: what it still says here that
    /// it would begin with is over.
    pub fn is_past(&self, key: &K, conn: Conn) -> bool {
        self.conn(key).is_some_and(|now| now > conn)
    }

    /// Whether this peer is reached by this very connection.
    pub fn is_at(&self, key: &K, conn: Conn) -> bool {
        self.conn(key) == Some(conn)
    }

    /// Who is reached by this connection.
    pub fn on(&self, conn: Conn) -> impl Iterator<Item = &K> {
        self.by_conn.get(&conn).into_iter().flatten()
    }

    /// All connections that reach someone.
    pub fn conns(&self) -> impl Iterator<Item = Conn> + '_ {
        self.by_conn.keys().copied()
    }

    /// Who has not been heard for `limit`.
    pub fn lapsed(&self, now: Time, limit: Duration) -> Vec<K> {
        let over = |s: &Session| s.heard + limit <= now;
        self.sessions.iter().filter(|(_, s)| over(s)).map(|(key, _)| key.clone()).collect()
    }

    /// When the next session lapses if nothing is heard.
    pub fn next_lapse(&self, limit: Duration) -> Option<Time> {
        self.sessions.values().map(|s| s.heard + limit).min()
    }

    fn unlink(&mut self, conn: Conn, key: &K) {
        if let Some(keys) = self.by_conn.get_mut(&conn) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_conn.remove(&conn);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(1560);

    #[test]
    fn a_broken_connection_is_not_a_lapse_but_silence_is() {
        let mut sessions = Sessions::default();
        sessions.attach(&"w1", 1, Time(0));
        sessions.heard(1, Time(300));
        assert_eq!(sessions.disconnected(1).into_iter().collect::<Vec<_>>(), ["w1"]);
        assert!(sessions.lapsed(Time(1859), LIMIT).is_empty());
        assert_eq!(sessions.next_lapse(LIMIT), Some(Time(1860)));
        assert_eq!(sessions.lapsed(Time(1860), LIMIT), ["w1"]);
    }

    #[test]
    fn what_is_heard_on_a_replaced_connection_keeps_nobody_alive() {
        let mut sessions = Sessions::default();
        sessions.attach(&"m1", 1, Time(0));
        assert_eq!(sessions.attach(&"m1", 2, Time(10)), Some(1));
        sessions.heard(1, Time(5000));
        assert_eq!(sessions.lapsed(Time(1570), LIMIT), ["m1"]);
        assert!(sessions.disconnected(1).is_empty());
        assert_eq!(sessions.conn(&"m1"), Some(2));
    }
}
