//! Judges a run from what both ends wrote down: the lines and receipts of the publisher, and what
//! each member printed. It is pure, knows no process, and does not trust clocks or the order in
//! which members' lines reached us: within a queue the epochs of the consume right order the
//! members, and within an epoch one member's lines are in the order in which it printed them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

/// One line of `pub --receipts`.
#[derive(Clone, Debug, Deserialize)]
pub struct Receipt {
    /// Which line of the input, from 1.
    pub line: usize,
    /// `ok`, `failed` or `unknown`.
    pub status: String,
    /// Where it was stored, `GROUP/N`.
    pub queue: Option<String>,
    /// Where in the queue.
    pub offset: Option<u64>,
    /// Why it was not stored.
    pub error: Option<Value>,
}

/// One line of `sub --format json`, as far as it is judged.
#[derive(Clone, Debug, Deserialize)]
pub struct Delivered {
    /// Its class.
    pub class: String,
    /// Its key.
    pub key: Option<String>,
    /// `GROUP/N`.
    pub queue: String,
    /// Its place in the queue.
    pub offset: u64,
    /// The epoch of the right under which it was delivered.
    pub epoch: u64,
    /// The published line.
    pub body: String,
}

/// What one member printed, in its order.
pub struct Printed {
    /// The member.
    pub member: String,
    /// Its lines.
    pub deliveries: Vec<Delivered>,
}

impl Printed {
    /// What a member printed as JSON.
    pub fn new(member: &str, lines: Vec<Value>) -> Self {
        let parse = |v: Value| serde_json::from_value(v).expect("a line of `sub --format json`");
        Self { member: member.to_owned(), deliveries: lines.into_iter().map(parse).collect() }
    }
}

/// A message that was delivered again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// Where it is stored.
    pub place: (String, u64),
    /// Who had it before.
    pub before: String,
    /// Who got it again.
    pub after: String,
}

/// What a run did. Everything but the counts is a fault, or has to be explained.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Lines whose receipt said ok.
    pub acked: usize,
    /// Different messages that were delivered.
    pub delivered: usize,
    /// Lines whose receipt said ok and that nobody got.
    pub lost: Vec<usize>,
    /// Delivered bodies that are no line of the input.
    pub foreign: Vec<(String, u64)>,
    /// Places whose delivered body, class or key is not that of the line whose receipt names them.
    pub mixed_up: Vec<(String, u64)>,
    /// Lines that are stored at more than one place.
    pub stored_twice: Vec<usize>,
    /// Messages that were delivered again.
    pub again: Vec<Again>,
    /// Lines whose first delivery came after that of a later line of the same key and group.
    pub out_of_order: Vec<usize>,
    /// Queues and epochs under which more than one member printed.
    pub shared_epochs: Vec<(String, u64)>,
    /// Queues and epochs that a member printed after a later epoch of that queue.
    pub epochs_back: Vec<(String, u64)>,
}

impl Verdict {
    /// Asserts that nothing was lost, invented, mixed up, stored twice or out of order, and that
    /// the rights were held by one member at a time. Deliveries again are left to the caller.
    #[track_caller]
    pub fn holds(&self) {
        let Self { acked, delivered, again, .. } = self;
        let clean =
            Self { acked: *acked, delivered: *delivered, again: again.clone(), ..Self::default() };
        assert_eq!(self, &clean, "left is what was found");
    }

    /// How many messages came again that `member` had had before.
    pub fn again_after(&self, member: &str) -> usize {
        self.again.iter().filter(|a| a.before == member).count()
    }
}

/// Judges the deliveries of one subscription that takes every line of `lines`. `described` says which
/// class and key a line is published with. Lines must differ from each other.
pub fn check(
    lines: &[String],
    described: impl Fn(&str) -> (String, Option<String>),
    receipts: &[Receipt],
    printed: &[Printed],
) -> Verdict {
    let line_of_body: BTreeMap<&str, usize> =
        lines.iter().enumerate().map(|(i, line)| (line.as_str(), i + 1)).collect();
    assert_eq!(line_of_body.len(), lines.len(), "lines that are told apart by their text");
    let stored: BTreeMap<(&str, u64), usize> = receipts
        .iter()
        .filter(|r| r.status == "ok")
        .filter_map(|r| Some(((r.queue.as_deref()?, r.offset?), r.line)))
        .collect();
    let acked = receipts.iter().filter(|r| r.status == "ok").count();
    let mut verdict = Verdict { acked, ..Verdict::default() };
    verdict.judge_epochs(printed);

    let mut first: BTreeMap<(&str, u64), &str> = BTreeMap::new();
    let mut place_of_line: BTreeMap<usize, (&str, u64)> = BTreeMap::new();
    let mut newest: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (member, delivered) in in_order(printed) {
        let place = (delivered.queue.as_str(), delivered.offset);
        let owned = || (delivered.queue.clone(), delivered.offset);
        let Some(line) = line_of_body.get(delivered.body.as_str()).copied() else {
            verdict.foreign.push(owned());
            continue;
        };
        let receipt_differs = stored.get(&place).is_some_and(|l| *l != line);
        let (class, key) = described(&delivered.body);
        if receipt_differs || (&delivered.class, &delivered.key) != (&class, &key) {
            verdict.mixed_up.push(owned());
        }
        if *place_of_line.entry(line).or_insert(place) != place {
            verdict.stored_twice.push(line);
        }
        if let Some(before) = first.insert(place, member) {
            let (before, after) = (before.to_owned(), member.to_owned());
            verdict.again.push(Again { place: owned(), before, after });
            continue;
        }
        if let Some(key) = &delivered.key {
            let group = delivered.queue.split('/').next().unwrap_or_default();
            let newest = newest.entry((group, key)).or_default();
            if line < *newest {
                verdict.out_of_order.push(line);
            }
            *newest = line.max(*newest);
        }
    }
    verdict.delivered = first.len();
    verdict.lost =
        stored.iter().filter(|(place, _)| !first.contains_key(*place)).map(|(_, l)| *l).collect();
    // Two receipts for one place hide each other in the map; the one that is hidden is lost.
    let named: BTreeSet<usize> = stored.values().copied().collect();
    verdict.lost.extend(
        receipts.iter().filter(|r| r.status == "ok" && !named.contains(&r.line)).map(|r| r.line),
    );
    verdict.lost.sort_unstable();
    verdict
}

/// Every delivery with its member, queue by queue in the order of the queue.
fn in_order(printed: &[Printed]) -> Vec<(&str, &Delivered)> {
    let mut all: Vec<(&str, u64, usize, &str, &Delivered)> = printed
        .iter()
        .flat_map(|p| p.deliveries.iter().enumerate().map(move |(i, d)| (p.member.as_str(), i, d)))
        .map(|(member, i, d)| (d.queue.as_str(), d.epoch, i, member, d))
        .collect();
    all.sort_by_key(|(queue, epoch, position, member, _)| (*queue, *epoch, *member, *position));
    all.into_iter().map(|(_, _, _, member, delivered)| (member, delivered)).collect()
}

impl Verdict {
    fn judge_epochs(&mut self, printed: &[Printed]) {
        let mut holders: BTreeMap<(&str, u64), BTreeSet<&str>> = BTreeMap::new();
        for member in printed {
            let mut latest: BTreeMap<&str, u64> = BTreeMap::new();
            for d in &member.deliveries {
                holders.entry((&d.queue, d.epoch)).or_default().insert(&member.member);
                let latest = latest.entry(&d.queue).or_default();
                if d.epoch < *latest {
                    self.epochs_back.push((d.queue.clone(), d.epoch));
                }
                *latest = d.epoch.max(*latest);
            }
        }
        let shared = holders.into_iter().filter(|(_, members)| members.len() > 1);
        self.shared_epochs = shared.map(|((queue, epoch), _)| (queue.to_owned(), epoch)).collect();
    }
}

/// The receipts in a file. A last line without an end is left out.
pub fn receipts(text: &str) -> Vec<Receipt> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).expect("a receipt")).collect()
}

/// Asserts that there is one receipt for each of `n` lines, in their order.
#[track_caller]
pub fn receipts_are_complete(receipts: &[Receipt], n: usize) {
    let numbers: Vec<usize> = receipts.iter().map(|r| r.line).collect();
    assert_eq!(numbers, (1..=n).collect::<Vec<_>>(), "one receipt per line, in order");
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 4] = ["k one", "k two", "k three", "j four"];

    fn receipt(line: usize) -> Receipt {
        let (queue, offset) = (Some("g/0".to_owned()), Some(line as u64 + 9));
        Receipt { line, status: "ok".into(), queue, offset, error: None }
    }

    fn got(line: usize, epoch: u64) -> Delivered {
        let body = LINES[line - 1].to_owned();
        Delivered {
            class: "c".into(),
            key: described(&body).1,
            queue: "g/0".into(),
            offset: line as u64 + 9,
            epoch,
            body,
        }
    }

    fn described(line: &str) -> (String, Option<String>) {
        ("c".to_owned(), line.split(' ').next().map(str::to_owned))
    }

    fn judge(members: &[(&str, Vec<Delivered>)]) -> Verdict {
        let lines: Vec<String> = LINES.iter().map(|l| (*l).to_owned()).collect();
        let printed: Vec<Printed> = members
            .iter()
            .map(|(m, d)| Printed { member: (*m).into(), deliveries: d.clone() })
            .collect();
        check(&lines, described, &[receipt(1), receipt(2), receipt(3), receipt(4)], &printed)
    }

    #[test]
    fn a_hand_over_in_order_holds_however_the_lines_reach_us() {
        let verdict =
            judge(&[("b", vec![got(3, 2), got(4, 2)]), ("a", vec![got(1, 1), got(2, 1)])]);
        verdict.holds();
        assert_eq!((verdict.acked, verdict.delivered, verdict.again.len()), (4, 4, 0));
    }

    #[test]
    fn other_keys_may_overtake() {
        judge(&[("a", vec![got(4, 1), got(1, 1), got(2, 1), got(3, 1)])]).holds();
    }

    #[test]
    fn a_lost_line_is_seen() {
        let verdict = judge(&[("a", vec![got(1, 1), got(2, 1), got(4, 1)])]);
        assert_eq!(verdict.lost, [3]);
    }

    #[test]
    fn two_receipts_for_one_place_are_seen() {
        let mut same = receipt(2);
        same.offset = receipt(1).offset;
        let lines: Vec<String> = LINES[..2].iter().map(|l| (*l).to_owned()).collect();
        let printed = [Printed { member: "a".into(), deliveries: vec![got(1, 1)] }];
        let verdict = check(&lines, described, &[receipt(1), same], &printed);
        assert!(!verdict.lost.is_empty());
    }

    #[test]
    fn a_body_that_nobody_published_is_seen() {
        let mut other = got(2, 1);
        other.body = "k what".into();
        let verdict = judge(&[("a", vec![got(1, 1), other, got(3, 1), got(4, 1)])]);
        assert_eq!(verdict.foreign, [("g/0".to_owned(), 11)]);
    }

    #[test]
    fn a_body_class_or_key_at_the_wrong_place_is_seen() {
        let (mut one, mut two) = (got(1, 1), got(2, 1));
        (one.offset, two.offset) = (two.offset, one.offset);
        let verdict = judge(&[("a", vec![two, one, got(3, 1), got(4, 1)])]);
        assert_eq!(verdict.mixed_up.len(), 2);
        let (mut keyless, mut other) = (got(4, 1), got(3, 1));
        keyless.key = None;
        other.class = "d".into();
        assert_eq!(judge(&[("a", vec![keyless, other])]).mixed_up.len(), 2);
    }

    #[test]
    fn a_line_that_is_stored_twice_is_seen() {
        let mut copy = got(2, 1);
        copy.offset = 99;
        let verdict = judge(&[("a", vec![got(1, 1), got(2, 1), got(3, 1), got(4, 1), copy])]);
        assert_eq!(verdict.stored_twice, [2]);
    }

    #[test]
    fn first_deliveries_out_of_order_are_seen_within_a_member_and_across() {
        let within = judge(&[("a", vec![got(2, 1), got(1, 1), got(3, 1), got(4, 1)])]);
        assert_eq!(within.out_of_order, [1]);
        let across = judge(&[("a", vec![got(3, 1), got(4, 1)]), ("b", vec![got(1, 2), got(2, 2)])]);
        assert_eq!(across.out_of_order, [1, 2]);
    }

    #[test]
    fn deliveries_again_are_put_down_to_who_had_them_before() {
        let verdict = judge(&[
            ("dead", vec![got(1, 1), got(2, 1)]),
            ("heir", vec![got(1, 2), got(2, 2), got(3, 2), got(4, 2), got(4, 2)]),
        ]);
        verdict.holds();
        assert_eq!((verdict.again_after("dead"), verdict.again_after("heir")), (2, 1));
    }

    #[test]
    fn two_members_under_one_epoch_are_seen() {
        let verdict = judge(&[("a", vec![got(1, 1)]), ("b", vec![got(2, 1)])]);
        assert_eq!(verdict.shared_epochs, [("g/0".to_owned(), 1)]);
    }

    #[test]
    fn an_epoch_that_goes_back_is_seen() {
        let verdict = judge(&[("a", vec![got(1, 2), got(2, 1)])]);
        assert_eq!(verdict.epochs_back, [("g/0".to_owned(), 1)]);
    }

    #[test]
    #[should_panic(expected = "what was found")]
    fn a_fault_does_not_hold() {
        judge(&[("a", vec![got(1, 1)])]).holds();
    }

    #[test]
    fn receipts_out_of_order_or_missing_are_seen() {
        receipts_are_complete(&[receipt(1), receipt(2)], 2);
        for bad in [vec![receipt(2), receipt(1)], vec![receipt(1), receipt(1)], vec![receipt(1)]] {
            assert!(std::panic::catch_unwind(|| receipts_are_complete(&bad, 2)).is_err());
        }
    }
}
