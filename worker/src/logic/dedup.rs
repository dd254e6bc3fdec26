//! Which batches of which producers a queue has taken. It owns sessions, sequences and the
//! offsets of the last batches, promises that a repeat inside its window is recognised, and does
//! not know epochs or seals. It is bounded: the last [`WINDOW`] batches of the last
//! [`MAX_PRODUCERS`] producers.

use std::collections::{BTreeMap, VecDeque};

use ringway_proto::limits::MAX_IN_FLIGHT_BATCHES;
use ringway_proto::{Code, Offset, ProducerId, Refusal, Sequence, Session};

/// Batches remembered of each producer. Larger than what a producer may have unanswered, so every
/// repeat finds its old offset.
pub const WINDOW: usize = 64;
const _: () = assert!(WINDOW >= MAX_IN_FLIGHT_BATCHES);
/// Producers remembered of each queue; beyond it the one that was silent longest is forgotten.
pub const MAX_PRODUCERS: usize = 10_000;

/// What one queue knows of its producers.
#[derive(Clone, Debug, Default)]
pub struct Dedup {
    producers: BTreeMap<ProducerId, Producer>,
    /// When each producer was heard last, oldest first: a count, not a time.
    by_use: BTreeMap<u64, ProducerId>,
    uses: u64,
}

#[derive(Clone, Debug)]
struct Producer {
    /// The highest session seen, also of batches that were refused.
    session: Session,
    next: Sequence,
    recent: VecDeque<Taken>,
    used: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Taken {
    base: Sequence,
    count: u32,
    at: Offset,
}

impl Dedup {
    /// The offset that this very batch was given when it was taken before.
    #[must_use]
    pub fn repeat(&self, producer: ProducerId, base: Sequence, count: u32) -> Option<Offset> {
        let recent = &self.producers.get(&producer)?.recent;
        recent.iter().rev().find(|t| t.base == base && t.count == count).map(|t| t.at)
    }

    /// Checks session and sequence of a batch that is no repeat, in this order, and remembers the
    /// session even when the sequence is refused: a late frame of an older session must not fit
    /// afterwards.
    ///
    /// # Errors
    /// [`Code::OldSession`], [`Code::UnknownProducer`], [`Code::SequenceGap`].
    pub fn check(
        &mut self,
        producer: ProducerId,
        session: Session,
        base: Sequence,
    ) -> Result<(), Refusal> {
        let Some(known) = self.producers.get_mut(&producer) else {
            if base != Sequence(0) {
                return Err(Refusal::new(
                    Code::UnknownProducer,
                    format!(
                        "sequence {base} of producer {producer}, of which nothing is known here"
                    ),
                ));
            }
            self.touch(producer, session);
            return Ok(());
        };
        if session < known.session {
            return Err(Refusal::new(
                Code::OldSession,
                format!(
                    "session {session} of producer {producer}; session {} was seen",
                    known.session
                ),
            ));
        }
        known.session = session;
        if base != known.next {
            return Err(Refusal::new(
                Code::SequenceGap,
                format!("sequence {base} of producer {producer} where {} is the next", known.next),
            ));
        }
        Ok(())
    }

    /// Takes a batch that [`Dedup::check`] let through, or that the journal holds. The window
    /// counts only batches below `durable`: the others may still be taken back.
    pub fn take(
        &mut self,
        producer: ProducerId,
        session: Session,
        base: Sequence,
        count: u32,
        at: Offset,
        durable: Offset,
    ) {
        let known = self.touch(producer, session);
        known.next = Sequence(base.0.saturating_add(u64::from(count)));
        known.recent.push_back(Taken { base, count, at });
        while known.recent.get(WINDOW).is_some_and(|t| t.at < durable) {
            known.recent.pop_front();
        }
    }

    /// Takes back every batch at or above `durable`: it did not reach the disk.
    pub fn roll_back(&mut self, durable: Offset) {
        for producer in self.producers.values_mut() {
            while let Some(last) = producer.recent.back().copied().filter(|t| t.at >= durable) {
                producer.next = last.base;
                producer.recent.pop_back();
            }
        }
    }

    fn touch(&mut self, producer: ProducerId, session: Session) -> &mut Producer {
        self.uses += 1;
        let used = self.uses;
        if !self.producers.contains_key(&producer)
            && self.producers.len() >= MAX_PRODUCERS
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.producers.remove(&oldest);
        }
        let known = self.producers.entry(producer).or_insert(Producer {
            session,
            next: Sequence(0),
            recent: VecDeque::new(),
            used,
        });
        self.by_use.remove(&known.used);
        self.by_use.insert(used, producer);
        known.used = used;
        known.session = known.session.max(session);
        known
    }

    /// What a restart must find again: of each producer that has a batch here, the next sequence
    /// and the window.
    #[cfg(test)]
    pub fn durable_view(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        self.producers
            .iter()
            .filter(|(_, p)| !p.recent.is_empty())
            .map(|(id, p)| (*id, p.next, p.recent.clone()))
            .collect::<Vec<_>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: ProducerId = ringway_proto::Uuid(7);

    fn code(r: Result<(), Refusal>) -> Option<Code> {
        r.err().map(|r| r.code)
    }

    fn take(dedup: &mut Dedup, base: u64, count: u32, at: u64) {
        dedup.check(P, Session(1), Sequence(base)).unwrap();
        dedup.take(P, Session(1), Sequence(base), count, Offset(at), Offset(at));
    }

    #[test]
    fn a_repeat_gets_its_old_offset_as_long_as_the_window_reaches() {
        let mut dedup = Dedup::default();
        for n in 0..100 {
            take(&mut dedup, n * 2, 2, n * 2 + 50);
        }
        assert_eq!(dedup.repeat(P, Sequence(198), 2), Some(Offset(248)));
        assert_eq!(dedup.repeat(P, Sequence(198), 1), None, "another batch");
        assert_eq!(dedup.repeat(P, Sequence(200 - 2 * WINDOW as u64), 2), Some(Offset(122)));
        assert_eq!(dedup.repeat(P, Sequence(0), 2), None);
    }

    #[test]
    fn a_frame_of_an_older_session_never_fits_again() {
        let mut dedup = Dedup::default();
        take(&mut dedup, 0, 1, 0);
        // Session 2 is refused for its sequence; session 1 is over all the same.
        assert_eq!(code(dedup.check(P, Session(2), Sequence(5))), Some(Code::SequenceGap));
        assert_eq!(code(dedup.check(P, Session(1), Sequence(1))), Some(Code::OldSession));
        assert_eq!(code(dedup.check(P, Session(2), Sequence(1))), None);
        let stranger = ringway_proto::Uuid(8);
        let unknown = dedup.check(stranger, Session(1), Sequence(1));
        assert_eq!(code(unknown), Some(Code::UnknownProducer));
    }

    #[test]
    fn what_did_not_reach_the_disk_is_taken_back() {
        let mut dedup = Dedup::default();
        take(&mut dedup, 0, 3, 0);
        for n in 0..100u64 {
            dedup.take(P, Session(1), Sequence(3 + n), 1, Offset(3 + n), Offset(3));
        }
        dedup.roll_back(Offset(3));
        assert_eq!(dedup.repeat(P, Sequence(0), 3), Some(Offset(0)));
        assert_eq!(dedup.repeat(P, Sequence(3), 1), None);
        assert_eq!(code(dedup.check(P, Session(1), Sequence(3))), None);
    }

    #[test]
    fn memory_is_bounded_and_the_silent_go_first() {
        let mut dedup = Dedup::default();
        for n in 0..MAX_PRODUCERS as u128 + 10 {
            let id = ringway_proto::Uuid(n);
            dedup.take(id, Session(1), Sequence(0), 1, Offset(n as u64), Offset(n as u64));
            // The first producer goes on publishing.
            dedup.check(ringway_proto::Uuid(0), Session(1), Sequence(n as u64 + 1)).unwrap();
            let (first, next) = (ringway_proto::Uuid(0), Sequence(n as u64 + 1));
            dedup.take(first, Session(1), next, 1, Offset(n as u64), Offset(n as u64));
        }
        assert_eq!(dedup.producers.len(), MAX_PRODUCERS);
        assert!(dedup.producers.contains_key(&ringway_proto::Uuid(0)));
        assert!(!dedup.producers.contains_key(&ringway_proto::Uuid(1)));
        assert_eq!(dedup.by_use.len(), MAX_PRODUCERS);
    }
}
