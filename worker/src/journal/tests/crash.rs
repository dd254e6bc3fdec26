//! What a start finds after a crash, after damage, and in directories that are not its own: what
//! was acked is whole or reported, what is cut was never acked, and a refusal changes nothing.

use std::sync::LazyLock;

use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

/// A journal of one segment with five rounds, as a kill leaves it. The Sync frame of the last
/// round proves the four before it.
struct Image {
    dir: tempfile::TempDir,
    disk: Arc<TestDisk>,
    bytes: Vec<u8>,
    /// The end of each round.
    ends: Vec<usize>,
    /// What each round appended.
    rounds: Vec<Vec<Record>>,
}

impl Image {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(TestDisk::default());
        let mut rounds: Vec<Vec<Record>> =
            (0..4).map(|n| vec![record(2 * n, 30), record(2 * n + 1, 45)]).collect();
        rounds.push((8..12).map(|n| record(n, 20 * n as usize)).collect());
        let (mut ends, mut bytes) = (Vec::new(), Vec::new());
        let live = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (journal, ..) = open(live.path(), options(&disk)).unwrap();
            for round in &rounds {
                append(&journal, round.clone()).await.unwrap();
                bytes = fs::read(segment_path(live.path(), 1)).unwrap();
                ends.push(bytes.len());
            }
            copy(live.path(), dir.path());
        });
        Self { dir, disk, bytes, ends, rounds }
    }

    /// The end of what the last Sync frame proves.
    fn proven(&self) -> usize {
        self.ends[3]
    }

    fn acked(&self) -> Vec<Record> {
        self.rounds[..4].concat()
    }

    /// Puts `bytes` in place of the segment.
    fn put(&self, bytes: &[u8]) {
        fs::write(segment_path(self.dir.path(), 1), bytes).unwrap();
    }

    fn restart(&self) -> Result<(Recovered, Vec<Record>), JournalError> {
        restart(self.dir.path(), &self.disk)
    }

    /// Starts on `bytes`, whose last round is torn: all acked rounds are there, then the whole
    /// records of the last round up to the first that is not; the rest is cut and reported.
    fn check_torn(&self, bytes: &[u8], case: &str) {
        self.put(bytes);
        let (report, seen) = self.restart().unwrap_or_else(|e| panic!("{case}: {e}"));
        let all = self.rounds.concat();
        assert!(seen.len() >= self.acked().len(), "{case}: lost what was acked");
        assert_eq!(seen, all[..seen.len()], "{case}: out of sequence");
        let end = report.end.position as usize;
        assert!(end >= self.proven() && bytes[..end] == self.bytes[..end], "{case}");
        let left = bytes[end..].iter().any(|b| *b != 0) as usize * (bytes.len() - end);
        assert_eq!(report.cut.map_or(0, |c| c.bytes as usize), left, "{case}");
        assert_eq!(fs::metadata(segment_path(self.dir.path(), 1)).unwrap().len(), end as u64);
        let (again, same) = self.restart().unwrap();
        assert_eq!((again.cut, again.end, same), (None, report.end, seen), "{case}");
    }

    /// Starts on `bytes`, which are damaged: it is refused, and nothing is changed.
    fn check_damaged(&self, bytes: &[u8], flipped: usize) {
        self.put(bytes);
        let before = contents(self.dir.path());
        match self.restart() {
            Err(JournalError::Damaged { segment: 1, position, .. }) => {
                assert!(position as usize <= flipped, "byte {flipped}: named {position}");
            }
            other => panic!("byte {flipped}: {other:?}"),
        }
        assert_eq!(contents(self.dir.path()), before);
    }
}

#[test]
fn a_last_round_of_any_length_is_cut_and_what_was_acked_is_whole() {
    let image = Image::new();
    for len in image.proven()..=image.bytes.len() {
        image.check_torn(&image.bytes[..len], &format!("{len} bytes"));
    }
}

#[test]
fn a_last_round_that_lost_any_sectors_is_cut_and_what_was_acked_is_whole() {
    let image = Image::new();
    let sectors = image.bytes.len().div_ceil(512);
    for seed in 0..500 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes = image.bytes.clone();
        for sector in 0..sectors {
            if rng.random_bool(0.4) {
                let end = bytes.len().min((sector + 1) * 512);
                let start = end.min(image.proven().max(sector * 512));
                bytes[start..end].fill(0);
            }
        }
        if rng.random_bool(0.3) {
            bytes.truncate(rng.random_range(image.proven()..=image.bytes.len()));
        }
        image.check_torn(&bytes, &format!("seed {seed}"));
    }
}

#[test]
fn a_flipped_bit_is_damage_where_a_sync_is_proven_and_a_cut_above() {
    let image = Image::new();
    for at in 0..image.bytes.len() {
        let mut bytes = image.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        if at < image.proven() {
            image.check_damaged(&bytes, at);
        } else {
            image.check_torn(&bytes, &format!("byte {at}"));
        }
    }
}

#[test]
fn a_frame_copied_to_another_place_is_not_served() {
    let image = Image::new();
    // Rounds 3 and 4 have equal lengths: exchanged, every frame is whole and in a wrong place.
    let mut bytes = image.bytes.clone();
    let (third, fourth) = (image.ends[1]..image.ends[2], image.ends[2]..image.ends[3]);
    bytes[third.clone()].copy_from_slice(&image.bytes[fourth.clone()]);
    bytes[fourth].copy_from_slice(&image.bytes[third]);
    image.check_damaged(&bytes, image.ends[1]);
}

#[tokio::test]
async fn a_start_uses_up_the_clean_mark_and_goes_on_where_the_last_ended() {
    let (dir, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = Arc::new(TestDisk::default());
    for start in 0..3 {
        let (journal, report, seen) = open(dir.path(), options(&disk)).unwrap();
        assert_eq!((report.clean, report.cut), (true, None));
        assert_eq!(seen, (0..start).map(|n| record(n, 40)).collect::<Vec<_>>());
        copy(dir.path(), killed.path());
        let (report, seen) = restart(killed.path(), &disk).unwrap();
        // The first start began the directory; nothing was ever there that could be unclean.
        assert_eq!((report.clean, seen.len() as u64), (false, start));
        append(&journal, vec![record(start, 40)]).await.unwrap();
        journal.close().await.unwrap();
    }
}

/// Changes segment files; it is given the way from a number to its file.
type Change<'a> = &'a dyn Fn(&dyn Fn(u64) -> PathBuf);

#[tokio::test]
async fn segments_follow_each_other_and_a_missing_or_exchanged_or_short_one_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let small = Options { segment_bytes: 700, ..options(&disk) };
    let (journal, ..) = open(dir.path(), small.clone()).unwrap();
    let records: Vec<Record> = (0..12).map(|n| record(n, 100)).collect();
    for record in &records {
        let at = append(&journal, vec![record.clone()]).await.unwrap();
        assert!(journal.read(at[0]).is_ok());
    }
    journal.close().await.unwrap();
    let (report, seen) = restart(dir.path(), &disk).unwrap();
    assert!((report.clean, report.end.segment, seen) == (true, 7, records), "{report:?}");

    let whole = contents(dir.path());
    let check = |what: &str, change: Change<'_>| {
        change(&|number| segment_path(dir.path(), number));
        let before = contents(dir.path());
        let error = restart(dir.path(), &disk).unwrap_err();
        assert_eq!(contents(dir.path()), before, "{what}");
        for path in before.keys().filter(|path| !whole.contains_key(*path)) {
            fs::remove_file(path).unwrap();
        }
        for (path, bytes) in &whole {
            fs::write(path, bytes).unwrap();
        }
        assert!(restart(dir.path(), &disk).is_ok());
        error.to_string()
    };
    for (number, text) in [
        (1, "segment 1 of the journal is missing"),
        (3, "segment 3 of the journal is missing"),
        (7, "segment 7 of the journal is missing"),
    ] {
        let error = check("missing", &|path| fs::remove_file(path(number)).unwrap());
        assert_eq!(error, text);
    }
    let error = check("exchanged", &|path| {
        fs::rename(path(2), path(20)).unwrap();
        fs::rename(path(4), path(2)).unwrap();
        fs::rename(path(20), path(4)).unwrap();
    });
    assert_eq!(error, "segment 2 is damaged at byte 0: its header says segment 4");
    // Cut between two rounds: every frame that is left is whole.
    let error = check("short", &|path| {
        let file = File::options().write(true).open(path(2)).unwrap();
        file.set_len(64 + 104 + 184).unwrap();
    });
    assert_eq!(error, "segment 2 is damaged at byte 352: it should end at byte 640");
    let error = check("no meta", &|_| fs::remove_file(dir.path().join("meta")).unwrap());
    assert!(error.ends_with("has segments, but the file meta is missing"), "{error}");
}

#[test]
fn a_segment_of_another_journal_is_damage() {
    let (ours, theirs) = (Image::new(), Image::new());
    ours.put(&theirs.bytes);
    let error = ours.restart().unwrap_err().to_string();
    assert!(error.starts_with("segment 1 is damaged at byte 0: it belongs to journal"), "{error}");
}

#[tokio::test]
async fn one_process_at_a_time_and_only_the_worker_it_was_made_for() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(TestDisk::default());
    let (journal, ..) = open(dir.path(), options(&disk)).unwrap();
    let error = restart(dir.path(), &disk).unwrap_err();
    let holder = format!("process {}", std::process::id());
    assert_eq!(error, JournalError::InUse { dir: dir.path().to_owned(), holder });
    assert_eq!(error.refusal().code, ringway_proto::Code::InUse);
    journal.close().await.unwrap();

    let other = Options { worker: "w2".parse().unwrap(), ..options(&disk) };
    let error = open(dir.path(), other).err().unwrap().to_string();
    assert!(error.ends_with("belongs to worker w1, this is worker w2"), "{error}");
    assert!(restart(dir.path(), &disk).unwrap().0.clean, "a refused start changes nothing");
}

#[test]
fn whole_frames_that_no_sync_proves_are_written_and_synced_again_before_they_count() {
    let image = Image::new();
    image.put(&image.bytes);
    image.disk.set(|s| s.log.clear());
    image.restart().unwrap();
    let state = image.disk.state();
    assert_eq!(state.log, [Event::Written, Event::Synced]);
    assert_eq!(state.written_from as usize, image.proven());
    assert_eq!(state.synced as usize, image.bytes.len());
}

#[test]
fn a_directory_that_cannot_be_made_is_unusable() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = restart(&file.join("data"), &Arc::default()).unwrap_err();
    assert!(matches!(error, JournalError::Unusable { .. }), "{error}");
}

#[test]
fn what_a_newer_version_wrote_is_refused_and_left_alone() {
    let image = Image::new();
    let (_, meta) =
        contents(image.dir.path()).into_iter().find(|(path, _)| path.ends_with("meta")).unwrap();
    let uuid = image.restart().unwrap().0.uuid;

    // A whole frame of an unknown kind after the end.
    let end = image.bytes.len();
    let seal = frame::Seal::new(uuid, 1);
    let mut newer = frame::encode(&FrameHeader::bare(Kind::Close, 0), &[], seal, end as u64);
    newer[6] = 77;
    let crc = seal.checksum(end as u64, &newer, &[]);
    newer[8..12].copy_from_slice(&crc.to_le_bytes());
    let frame = [&image.bytes[..], &newer].concat();
    // A segment of the next version.
    let mut segment = image.bytes.clone();
    segment[8] = 2;
    let crc = crc32c::crc32c(&segment[..60]);
    segment[60..64].copy_from_slice(&crc.to_le_bytes());
    // A directory of a later format.
    let format_3 = b"ringway worker data\nformat 3\n".to_vec();

    for (bytes, meta, what) in [
        (&frame, &meta, format!("the frame at byte {end} of segment 1 was written in format 2")),
        (&segment, &meta, "segment 1 of the journal was written in format 2".into()),
        (
            &image.bytes,
            &format_3,
            format!("the data directory {} was written in format 3", image.dir.path().display()),
        ),
    ] {
        image.put(bytes);
        fs::write(image.dir.path().join("meta"), meta).unwrap();
        let before = contents(image.dir.path());
        let error = image.restart().unwrap_err();
        assert_eq!(error.to_string(), format!("{what}; this Ringway reads up to format 1"));
        assert_eq!(error.refusal().code, ringway_proto::Code::DataNewer);
        assert_eq!(contents(image.dir.path()), before);
    }
}

#[test]
fn a_start_that_was_killed_at_any_step_is_simply_done_again() {
    let whole = Image::new();
    let disk = Arc::new(TestDisk::default());
    // After `meta`, before the first segment.
    let dir = tempfile::tempdir().unwrap();
    let meta = meta::Meta { journal: Uuid(5), worker: "w1".parse().unwrap(), last_segment: 0 };
    meta.write(dir.path()).unwrap();
    assert_eq!(restart(dir.path(), &disk).unwrap().0.uuid, Uuid(5));
    // While the second segment was being made.
    let unfinished = segment_path(whole.dir.path(), 2).with_extension("seg.tmp");
    fs::write(&unfinished, b"RWSEG").unwrap();
    assert_eq!(whole.restart().unwrap().1, whole.rounds.concat());
    assert!(!unfinished.exists());
    // After it was made, before `meta` knew.
    let uuid = whole.restart().unwrap().0.uuid;
    let previous_end = whole.bytes.len() as u64;
    let header = segment::SegmentHeader { number: 2, journal: uuid, previous_end };
    segment::create(&whole.dir.path().join(SEGMENTS), &header, &*disk).unwrap();
    let (report, seen) = whole.restart().unwrap();
    assert_eq!((report.end, seen), (Position { segment: 2, position: 64 }, whole.rounds.concat()));
}

static IMAGE: LazyLock<Mutex<Image>> = LazyLock::new(|| Mutex::new(Image::new()));

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn garbage_never_panics_and_is_never_served(
        keep in 0.0..1.0f64,
        garbage in proptest::collection::vec(any::<u8>(), 0..700),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let image = IMAGE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = image.bytes[..(image.bytes.len() as f64 * keep) as usize].to_vec();
        bytes.extend(garbage);
        for (at, value) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        image.put(&bytes);
        if let Ok((_, seen)) = image.restart() {
            let all = image.rounds.concat();
            prop_assert!(seen.len() <= all.len());
            prop_assert_eq!(&seen[..], &all[..seen.len()]);
        }
    }
}
