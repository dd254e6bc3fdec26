//! What a running journal promises: answers after syncs, group commit, and what a disk that fails
//! or is full does to it.

use super::*;

#[tokio::test]
async fn what_was_acked_is_read_back_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let (journal, report, seen) = open(dir.path(), options(&disk)).unwrap();
    assert!((report.clean, report.cut, seen.len()) == (true, None, 0));

    let mut records: Vec<Record> = (0..5).map(|n| record(n, 10 * n as usize)).collect();
    let cursor = Bytes::from_static(b"cursor");
    records.push(Record::control(QueueId::from(3), Epoch(6), WallTime(1), cursor));
    let mut places = append(&journal, records[..2].to_vec()).await.unwrap();
    places.extend(append(&journal, records[2..].to_vec()).await.unwrap());
    for (record, at) in records.iter().zip(&places) {
        let (header, body) = journal.read(*at).unwrap();
        assert_eq!(as_record(&header, body), *record);
    }
    journal.close().await.unwrap();
    assert_eq!(journal.close().await, Ok(()));
    assert_eq!(append(&journal, vec![record(9, 1)]).await, Err(JournalError::Closed));

    let mut seen = Vec::new();
    let again = recover(dir.path(), &options(&disk), &mut collect(&mut seen)).unwrap().report;
    assert_eq!((again.uuid, again.clean, again.cut, again.frames), (report.uuid, true, None, 6));
    assert_eq!(seen, records.into_iter().zip(places).collect::<Vec<_>>());
}

#[tokio::test]
async fn no_ack_precedes_its_sync() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let (journal, ..) = open(dir.path(), options(&disk)).unwrap();
    disk.set(|s| s.log.clear());
    for n in 0..300 {
        let disk = disk.clone();
        let check = move |result: Result<Vec<Location>, JournalError>| {
            let mut state = disk.state();
            let synced = state.synced;
            let is_synced = |at: &Location| at.position + u64::from(at.length) <= synced;
            let acked = result.is_ok_and(|places| places.iter().all(is_synced));
            state.log.extend(acked.then_some(Event::Acked));
        };
        journal.append(vec![record(n, 100)], Box::new(check)).await;
    }
    assert_eq!(append(&journal, Vec::new()).await, Ok(Vec::new()));
    let state = disk.state();
    assert_eq!(state.log.iter().filter(|e| **e == Event::Acked).count(), 300);
    for pair in state.log.windows(2) {
        assert!(pair != [Event::Written, Event::Acked], "acked what was written and not synced");
    }
}

#[tokio::test]
async fn what_waits_while_a_sync_runs_is_one_next_round() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let (journal, ..) = open(dir.path(), options(&disk)).unwrap();
    let begun = disk.state().syncs_begun;
    disk.set(|s| s.hold_syncs = true);
    let order = Arc::new(Mutex::new(Vec::new()));
    for n in 0..100 {
        let order = order.clone();
        let note = move |result: Result<_, _>| {
            result.unwrap();
            order.lock().unwrap().push(n);
        };
        journal.append(vec![record(n, 50)], Box::new(note)).await;
        if n == 0 {
            disk.wait_until(|s| s.syncs_begun == begun + 1);
        }
    }
    assert!(order.lock().unwrap().is_empty());
    disk.set(|s| s.hold_syncs = false);
    disk.wait_until(|s| s.syncs_begun == begun + 2);
    journal.close().await.unwrap();
    assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
    // The first, the other 99, and the clean-shutdown mark.
    assert_eq!(journal.stats().rounds.load(Ordering::Relaxed), 3);
    assert_eq!(journal.stats().records.load(Ordering::Relaxed), 100);
}

#[tokio::test]
async fn append_waits_while_the_inbox_is_full_and_nothing_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let bound = Options { inbox_bytes: 1000, ..options(&disk) };
    let (journal, ..) = open(dir.path(), bound).unwrap();
    disk.set(|s| s.hold_syncs = true);
    let (sender, answers) = mpsc::channel();
    let note = move || {
        let sender = sender.clone();
        Box::new(move |result: Result<Vec<Location>, _>| sender.send(result.unwrap()).unwrap())
    };
    journal.append(vec![record(0, 800)], note()).await;
    let mut second = Box::pin(journal.append(vec![record(1, 800)], note()));
    let waits =
        std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx).is_pending()));
    assert!(waits.await);
    disk.set(|s| s.hold_syncs = false);
    second.await;
    // Larger than the whole inbox: goes alone.
    journal.append(vec![record(2, 5000)], note()).await;
    journal.close().await.unwrap();
    assert_eq!(answers.try_iter().count(), 3);
}

#[tokio::test]
async fn a_sync_point_is_written_once_when_the_journal_goes_idle() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let idle = Options { idle: Duration::from_millis(1), ..options(&disk) };
    let (journal, ..) = open(dir.path(), idle).unwrap();
    append(&journal, vec![record(0, 50)]).await.unwrap();
    let journal_rounds =
        |n| move |s: &DiskState| s.log.iter().filter(|e| **e == Event::Synced).count() == n;
    // The new segment's header, the record, the sync point.
    disk.wait_until(journal_rounds(3));
    append(&journal, Vec::new()).await.unwrap();
    journal.close().await.unwrap();
    // The barrier's round, at most one more sync point for it, the mark.
    let rounds = journal.stats().rounds.load(Ordering::Relaxed);
    assert!((4..=5).contains(&rounds), "{rounds}");
}

#[tokio::test]
async fn a_failed_sync_closes_the_journal_and_is_never_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let (journal, ..) = open(dir.path(), options(&disk)).unwrap();
    let kept = append(&journal, vec![record(0, 50)]).await.unwrap();
    disk.set(|s| s.fail_syncs = true);
    let failed = JournalError::Failed {
        doing: "sync segment 1".into(),
        reason: "input/output error".into(),
    };
    assert_eq!(append(&journal, vec![record(1, 50)]).await, Err(failed.clone()));
    let mut watch = journal.failed();
    assert_eq!(*watch.wait_for(Option::is_some).await.unwrap(), Some(failed.clone()));

    let begun = disk.state().syncs_begun;
    disk.set(|s| s.fail_syncs = false);
    assert_eq!(append(&journal, vec![record(2, 50)]).await, Err(failed.clone()));
    assert_eq!(journal.close().await, Err(failed));
    assert_eq!(disk.state().syncs_begun, begun);
    assert!(journal.read(kept[0]).is_ok(), "reads go on");
    // The directory is free for the next process, which finds what was acked.
    let (report, seen) = restart(dir.path(), &disk).unwrap();
    assert!(!report.clean);
    assert_eq!(seen[0], record(0, 50));
}

#[tokio::test]
async fn a_full_disk_refuses_keeps_nothing_of_it_and_goes_on_when_there_is_room() {
    // The round may stop at any byte of it, and in the header of a new segment as well.
    for (segment_bytes, room) in [(1 << 20, 0), (1 << 20, 150), (1 << 20, 400), (520, 0), (520, 70)]
    {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(TestDisk::default());
        let small = Options { segment_bytes, ..options(&disk) };
        let (journal, ..) = open(dir.path(), small).unwrap();
        append(&journal, vec![record(0, 50)]).await.unwrap();
        disk.set(|s| s.room = Some(room));
        let refused = append(&journal, vec![record(1, 60), record(2, 300)]).await;
        assert_eq!(refused, Err(JournalError::DiskFull));
        // A smaller one may still go where the larger one did not.
        disk.set(|s| s.room = None);
        let at = append(&journal, vec![record(3, 20)]).await.unwrap();
        assert_eq!(as_record_at(&journal, at[0]), record(3, 20));
        assert_eq!(*journal.failed().borrow(), None);
        journal.close().await.unwrap();
        let (report, seen) = restart(dir.path(), &disk).unwrap();
        assert_eq!((report.cut, report.clean), (None, true));
        assert_eq!(seen, [record(0, 50), record(3, 20)]);
    }
}

fn as_record_at(journal: &Journal, at: Location) -> Record {
    let (header, body) = journal.read(at).unwrap();
    as_record(&header, body)
}

#[tokio::test]
async fn a_record_over_the_bound_is_refused_and_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let (journal, ..) = open(dir.path(), options(&disk)).unwrap();
    let limit = u64::from(MAX_BODY_BYTES);
    let large = Record { body: vec![1; limit as usize + 1].into(), ..record(0, 0) };
    let refused = append(&journal, vec![record(1, 5), large]).await;
    assert_eq!(refused, Err(JournalError::TooLarge { bytes: limit + 1, limit }));
    let whole = Record { body: vec![1; limit as usize].into(), ..record(0, 0) };
    append(&journal, vec![whole.clone()]).await.unwrap();
    journal.close().await.unwrap();
    assert_eq!(restart(dir.path(), &disk).unwrap().1, [whole]);
}

#[tokio::test]
async fn the_system_disk_takes_a_round_of_more_slices_than_one_call_takes() {
    let dir = tempfile::tempdir().unwrap();
    let syncs = Arc::new(AtomicU64::new(0));
    let counted = syncs.clone();
    let options = Options {
        on_sync: Some(Arc::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        })),
        ..Options::new("w1".parse().unwrap())
    };
    let (journal, ..) = open(dir.path(), options.clone()).unwrap();
    let records: Vec<Record> = (0..3000).map(|n| record(n, n as usize % 40)).collect();
    append(&journal, records.clone()).await.unwrap();
    journal.close().await.unwrap();
    assert_eq!(syncs.load(Ordering::Relaxed), journal.stats().syncs.load(Ordering::Relaxed));
    let (journal, report, seen) = open(dir.path(), options).unwrap();
    assert!((report.clean, seen) == (true, records));
    journal.close().await.unwrap();
}

#[tokio::test]
async fn a_place_that_was_not_given_out_is_damaged_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let (journal, ..) = open(dir.path(), options(&disk)).unwrap();
    let at = append(&journal, vec![record(0, 50)]).await.unwrap()[0];
    for wrong in [
        Location { position: at.position + 8, ..at },
        Location { length: at.length - 1, ..at },
        Location { length: 3, ..at },
        Location { position: 1 << 40, ..at },
    ] {
        let read = journal.read(wrong);
        assert!(matches!(read, Err(JournalError::Damaged { .. })), "{read:?}");
    }
}
