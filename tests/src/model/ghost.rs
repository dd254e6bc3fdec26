//! What has happened that the promises are about, and the checks that a step must pass. It sees
//! events only and changes nothing that the parts do.

use std::collections::{BTreeMap, BTreeSet};

use ringway_proto::{Epoch, Offset, QueueId};

use super::parts::{Event, Share};

/// What happened to a queue.
#[derive(Clone, Default, Debug)]
pub struct Log {
    /// Where the messages are whose publish is acked, in their order.
    pub acked: Vec<Offset>,
    /// The newest epoch that a worker opened it under, and which worker.
    pub opened: Option<(Epoch, u8)>,
}

/// What happened to one key of a queue and the right to it.
#[derive(Clone, Default, Debug)]
pub struct Past {
    /// The newest epoch of the right that a worker confirmed, and that of the copy that it is in.
    pub raised: (Epoch, Epoch),
    /// Who held it under which epoch, from the newest confirmed one on.
    pub holders: BTreeMap<Epoch, u8>,
    /// Epochs that began because a holder lost the right.
    pub forced: BTreeSet<Epoch>,
    /// Messages that were handed out: these many, in order.
    pub handed: u64,
    /// Messages that an application is done with, under which epoch, if that counted.
    pub settled: BTreeMap<Offset, Epoch>,
    /// Messages whose ack was confirmed, under which epoch.
    pub confirmed: BTreeMap<Offset, Epoch>,
}

impl Past {
    /// Whether a holder lost the right between these epochs.
    #[must_use]
    pub fn was_forced(&self, one: Epoch, other: Epoch) -> bool {
        let (from, to) = (one.min(other), one.max(other));
        self.forced.iter().any(|epoch| from < *epoch && *epoch <= to)
    }
}

/// What happened.
#[derive(Clone, Default, Debug)]
pub struct Ghost {
    /// By the index of the queue.
    pub queues: BTreeMap<u8, Log>,
    /// By what is held.
    pub shares: BTreeMap<Share, Past>,
}

impl Ghost {
    fn log(&mut self, queue: QueueId) -> &mut Log {
        self.queues.entry(queue.index as u8).or_default()
    }

    fn of(&mut self, share: Share) -> &mut Past {
        self.shares.entry(share).or_default()
    }

    /// Takes what happened in one step.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub fn take(&mut self, events: &[Event]) -> Result<(), String> {
        events.iter().try_for_each(|event| self.take_one(event))
    }

    fn take_one(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Wrong(text) => Err(text.clone()),
            Event::Right { share, epoch, forced } => {
                if *forced {
                    self.of(*share).forced.insert(*epoch);
                }
                Ok(())
            }
            Event::Granted { share, epoch, process } => {
                let past = self.of(*share);
                if past.raised.0 < *epoch {
                    return Err(format!(
                        "I5: process {process} is granted {share} under {epoch}, which no worker \
                         confirmed"
                    ));
                }
                holds(past, *share, *epoch, *process)
            }
            Event::Raised { share, epoch, copy } => {
                let past = self.of(*share);
                if past.raised.0 < *epoch {
                    past.raised = (*epoch, *copy);
                    past.holders = past.holders.split_off(epoch);
                }
                Ok(())
            }
            Event::Acted { share, epoch, copy, process, acked } => {
                let past = self.of(*share);
                let (raised, newest_copy) = past.raised;
                if *epoch < raised && (*acked || *copy >= newest_copy) {
                    let what = if *acked { "acks" } else { "opens" };
                    return Err(format!(
                        "I5: process {process} {what} {share} under {epoch}, and {raised} was \
                         confirmed"
                    ));
                }
                holds(past, *share, *epoch, *process)
            }
            Event::QueueOpened { queue, epoch, worker } => {
                let past = self.log(*queue);
                match past.opened {
                    Some((known, by)) if known == *epoch && by != *worker => {
                        Err(format!("I9: workers {by} and {worker} lead {queue} under {epoch}"))
                    }
                    Some((known, _)) if known >= *epoch => Ok(()),
                    _ => {
                        past.opened = Some((*epoch, *worker));
                        Ok(())
                    }
                }
            }
            Event::Accepted { queue, epoch } => {
                let newest = self.log(*queue).opened.map_or(Epoch(0), |(epoch, _)| epoch);
                if *epoch < newest {
                    return Err(format!(
                        "I9: {queue} takes a message under {epoch}, and is open under {newest}"
                    ));
                }
                Ok(())
            }
            Event::Published { queue, number, offset } => {
                let acked = &mut self.log(*queue).acked;
                match acked.get(*number as usize) {
                    Some(known) if known == offset => Ok(()),
                    None if acked.len() as u64 == *number => {
                        acked.push(*offset);
                        Ok(())
                    }
                    known => Err(format!(
                        "I6: message {number} of {queue} is acked at {offset}, and before at \
                         {known:?}"
                    )),
                }
            }
            Event::HandedOut { share, epoch, offset, before } => {
                self.handed_out(*share, *epoch, *offset, *before)
            }
            Event::Settled { share, epoch, offset } => {
                self.of(*share).settled.insert(*offset, *epoch);
                Ok(())
            }
            Event::Confirmed { share, epoch, offset } => {
                self.of(*share).confirmed.insert(*offset, *epoch);
                Ok(())
            }
        }
    }

    fn handed_out(
        &mut self,
        share: Share,
        epoch: Epoch,
        offset: Offset,
        before: u64,
    ) -> Result<(), String> {
        let past = self.of(share);
        // A process that lost the right may have had it in its buffer.
        if past.confirmed.get(&offset).is_some_and(|confirmed| *confirmed <= epoch) {
            return Err(format!(
                "I8: message {offset} of {share} is handed out under {epoch}, its ack was confirmed"
            ));
        }
        if let Some(settled) = past.settled.get(&offset)
            && !past.was_forced(*settled, epoch)
        {
            return Err(format!(
                "I7: message {offset} of {share} is handed out under {epoch}; it was acked under \
                 {settled}, and nobody lost the right"
            ));
        }
        if before > past.handed {
            return Err(format!(
                "I4: message {offset} of {share} is handed out first, {} is the next of its key",
                past.handed
            ));
        }
        past.handed = past.handed.max(before + 1);
        Ok(())
    }
}

fn holds(past: &mut Past, share: Share, epoch: Epoch, process: u8) -> Result<(), String> {
    if epoch < past.raised.0 {
        // It learns of it late, which changes nothing.
        return Ok(());
    }
    let first = *past.holders.entry(epoch).or_insert(process);
    if first != process {
        return Err(format!("I5: processes {first} and {process} hold {share} under {epoch}"));
    }
    Ok(())
}
