//! What goes to the journal together, and what becomes of it when the disk has no room. It owns
//! what waits for the next round, promises that a batch for which there was no room is refused and
//! nothing else is lost or overtaken, and does not know what is written nor when a disk is full.

use std::time::Duration;

use ringway_proto::{Code, Offset, Refusal};

use super::Token;

/// How long to wait before a full disk is tried again.
pub const RETRY: Duration = Duration::from_millis(250);

/// What an item of a round is, as far as a full disk is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The batch of an append.
    Batch(Token),
    /// A batch of a copy. It needs no answer: it is asked for again.
    Copied,
    /// The answer to the repeat of a batch that is at this offset.
    Repeat(Token, Offset),
    /// A control record, or something that is said once all that came before is durable.
    Other,
}

impl Part {
    fn is_batch(self) -> bool {
        matches!(self, Self::Batch(_) | Self::Copied)
    }
}

/// What waits for the next round, in order.
#[derive(Clone, Debug)]
pub struct Gathered<I> {
    items: Vec<I>,
    /// There was no room for the last round.
    was_full: bool,
}

impl<I> Default for Gathered<I> {
    fn default() -> Self {
        Self { items: Vec::new(), was_full: false }
    }
}

impl<I> Gathered<I> {
    /// One more.
    pub fn push(&mut self, item: I) {
        self.items.push(item);
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes the next round: everything, or after a full disk only what comes before the first
    /// batch, because acks may still fit where a batch does not.
    pub fn next(&mut self, part: impl Fn(&I) -> Part) -> Vec<I> {
        let was_full = std::mem::take(&mut self.was_full);
        match self.items.iter().position(|item| part(item).is_batch()) {
            Some(first) if was_full && first > 0 => {
                let rest = self.items.split_off(first);
                std::mem::replace(&mut self.items, rest)
            }
            _ => std::mem::take(&mut self.items),
        }
    }

    /// There was no room for `round`, the only one that is under way: nothing of it was written.
    /// Returns the appends that are to be refused as [`refusal`] says: all whose batches are not
    /// durable, gathered since or not, for an offset may not stay empty before a later one; and
    /// the repeats of those. What is left waits, in order. The queues have to take back what is
    /// not durable.
    #[must_use]
    pub fn put_back(
        &mut self,
        round: Vec<I>,
        part: impl Fn(&I) -> Part,
        is_durable: impl Fn(Token, Offset) -> bool,
    ) -> Vec<Token> {
        let mut refused = Vec::new();
        let gathered = std::mem::take(&mut self.items);
        for item in round.into_iter().chain(gathered) {
            match part(&item) {
                Part::Batch(token) => refused.push(token),
                Part::Repeat(token, at) if !is_durable(token, at) => refused.push(token),
                Part::Copied => {}
                Part::Repeat(..) | Part::Other => self.items.push(item),
            }
        }
        self.was_full = true;
        refused
    }
}

/// What is said to whoever publishes to a full disk.
#[must_use]
pub fn refusal() -> Refusal {
    Refusal::new(Code::DiskFull, "the worker's disk is full")
        .hint("make room on the worker's disk; it goes on by itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK: Part = Part::Other;

    fn gathered(items: &[Part]) -> Gathered<Part> {
        let mut gathered = Gathered::default();
        items.iter().for_each(|item| gathered.push(*item));
        gathered
    }

    fn next(gathered: &mut Gathered<Part>) -> Vec<Part> {
        gathered.next(|item| *item)
    }

    #[test]
    fn a_full_disk_refuses_batches_and_their_repeats_and_keeps_everything_else_in_order() {
        let (known, lost) = (Part::Repeat(3, Offset(4)), Part::Repeat(4, Offset(5)));
        let mut all = gathered(&[known, ACK, Part::Batch(5)]);
        let round = vec![Part::Batch(1), ACK, lost, Part::Copied, Part::Batch(2)];
        let refused = all.put_back(round, |item| *item, |_, at| at < Offset(5));
        assert_eq!(refused, [1, 4, 2, 5]);
        assert_eq!(next(&mut all), [ACK, known, ACK]);
    }

    #[test]
    fn after_a_full_disk_what_comes_before_the_first_batch_is_tried_alone_once() {
        let mut all = gathered(&[]);
        assert!(all.put_back(vec![ACK], |item| *item, |_, _| true).is_empty());
        all.push(Part::Batch(1));
        all.push(ACK);
        assert_eq!(next(&mut all), [ACK]);
        assert_eq!(next(&mut all), [Part::Batch(1), ACK]);
        assert!(all.is_empty());
    }

    #[test]
    fn a_batch_that_comes_first_is_tried_again() {
        let mut all = gathered(&[]);
        assert_eq!(all.put_back(vec![Part::Batch(1)], |item| *item, |_, _| true), [1]);
        all.push(Part::Batch(2));
        all.push(ACK);
        assert_eq!(next(&mut all), [Part::Batch(2), ACK]);
    }
}
