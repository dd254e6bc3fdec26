//! Checks what the demo did from two sides that know nothing of each other: the receipts of the
//! publisher and the lines that the members printed.
//!
//! Members are separate processes, so nothing is concluded from the order in which their lines
//! reached us. Within a queue the epochs of the consume right order the members, and within one
//! epoch there is one member whose lines are in the order in which it handed them out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// One line that a member printed (`ringway sub --format json`), as far as it is checked.
#[derive(Debug, Clone, Deserialize)]
pub struct Delivered {
    /// `GROUP/N`.
    pub queue: String,
    pub offset: u64,
    /// Epoch of the consume right.
    pub epoch: u64,
    pub key: Option<String>,
    /// The published line as it was.
    pub body: String,
}

/// One line of the publisher's receipts.
#[derive(Debug, Clone, Deserialize)]
pub struct Receipt {
    /// Which input line, from 1.
    pub line: u64,
    pub status: String,
    pub queue: Option<String>,
    pub offset: Option<u64>,
}

/// What was found out about one subscription.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Lines that members printed.
    pub delivered: u64,
    /// Lines that were printed again.
    pub redelivered: u64,
    /// Acked lines that no member printed.
    pub lost: u64,
    /// Lines that were printed with other content, or at another place, than the receipt says,
    /// or that nobody published.
    pub foreign: u64,
    /// First deliveries of a key that came after a later one of the same key and group.
    pub order_violations: u64,
    /// Epochs of a queue under which more than one member printed.
    pub shared_epochs: u64,
}

/// Checks one subscription. `lines` is the input from line 1 on, `members` what each member
/// printed in its order, `wanted` says which lines the subscription's filter takes.
pub fn check(
    lines: &[&str],
    receipts: &[Receipt],
    members: &[Vec<Delivered>],
    wanted: impl Fn(&str) -> bool,
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut by_place: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for receipt in receipts {
        if let ("ok", Some(queue), Some(offset)) =
            (receipt.status.as_str(), &receipt.queue, receipt.offset)
        {
            by_place.insert((queue, offset), receipt.line);
        }
    }

    // Every delivery, in the order of its queue: epoch, then the member's own order.
    let mut holders: BTreeMap<(&str, u64), BTreeSet<usize>> = BTreeMap::new();
    let mut deliveries: Vec<(&str, u64, usize, &Delivered)> = Vec::new();
    for (member, printed) in members.iter().enumerate() {
        for (position, d) in printed.iter().enumerate() {
            holders.entry((&d.queue, d.epoch)).or_default().insert(member);
            deliveries.push((&d.queue, d.epoch, position, d));
        }
    }
    deliveries.sort_by_key(|(queue, epoch, position, _)| (*queue, *epoch, *position));
    verdict.shared_epochs = holders.values().filter(|m| m.len() > 1).count() as u64;

    let mut seen: BTreeSet<u64> = BTreeSet::new();
    let mut newest: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (queue, _, _, d) in deliveries {
        verdict.delivered += 1;
        let line = by_place.get(&(queue, d.offset)).copied();
        let Some(line) =
            line.filter(|l| lines.get(*l as usize - 1).is_some_and(|text| *text == d.body))
        else {
            verdict.foreign += 1;
            continue;
        };
        if !seen.insert(line) {
            verdict.redelivered += 1;
            continue;
        }
        if let Some(key) = &d.key {
            let group = queue.split('/').next().unwrap_or(queue);
            let newest = newest.entry((group, key)).or_insert(line);
            if line < *newest {
                verdict.order_violations += 1;
            }
            *newest = line.max(*newest);
        }
    }
    verdict.lost = by_place
        .values()
        .filter(|line| !seen.contains(line) && wanted(lines[**line as usize - 1]))
        .count() as u64;
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 3] = ["a", "b", "c"];

    fn receipt(line: u64) -> Receipt {
        Receipt { line, status: "ok".into(), queue: Some("g/0".into()), offset: Some(line - 1) }
    }

    fn delivered(line: u64, epoch: u64) -> Delivered {
        Delivered {
            queue: "g/0".into(),
            offset: line - 1,
            epoch,
            key: Some("k".into()),
            body: LINES[line as usize - 1].into(),
        }
    }

    fn verdict(members: &[Vec<Delivered>]) -> Verdict {
        check(&LINES, &[receipt(1), receipt(2), receipt(3)], members, |_| true)
    }

    #[test]
    fn a_hand_over_in_order_is_clean() {
        // The second member's lines may reach us first: its epoch is the later one.
        let second = vec![delivered(3, 2)];
        let first = vec![delivered(1, 1), delivered(2, 1)];
        assert_eq!(verdict(&[second, first]), Verdict { delivered: 3, ..Verdict::default() });
    }

    #[test]
    fn every_fault_is_seen() {
        let lost = verdict(&[vec![delivered(1, 1), delivered(3, 1)]]);
        assert_eq!(lost.lost, 1);
        let turned = verdict(&[vec![delivered(2, 1), delivered(1, 1), delivered(3, 1)]]);
        assert_eq!(turned.order_violations, 1);
        let again = verdict(&[
            vec![delivered(1, 1), delivered(2, 1)],
            vec![delivered(2, 2), delivered(3, 2)],
        ]);
        assert_eq!((again.redelivered, again.order_violations), (1, 0));
        let shared = verdict(&[vec![delivered(1, 1)], vec![delivered(2, 1), delivered(3, 1)]]);
        assert_eq!(shared.shared_epochs, 1);
        let mut other = delivered(2, 1);
        other.body = "x".into();
        assert_eq!(verdict(&[vec![delivered(1, 1), other, delivered(3, 1)]]).foreign, 1);
    }

    #[test]
    fn what_was_not_acked_may_be_missing() {
        let mut unknown = receipt(2);
        unknown.status = "unknown".into();
        unknown.queue = None;
        let v = check(&LINES, &[receipt(1), unknown], &[vec![delivered(1, 1)]], |_| true);
        assert_eq!(v.lost, 0);
    }
}
