//! What every journal must do, run against each of them.

use super::{Journal, MemoryJournal, SledJournal, Store, Write};
use std::sync::Arc;

fn put(key: &[u8], value: &[u8]) -> Write {
    Write::Put(key.to_vec(), value.to_vec())
}

fn each(test: impl Fn(Arc<dyn Journal>)) {
    test(Arc::new(MemoryJournal::default()));
    let directory = tempfile::tempdir().unwrap();
    test(Arc::new(SledJournal::open(directory.path()).unwrap()));
}

#[test]
fn a_batch_is_applied_whole_and_read_back_in_order() {
    each(|journal| {
        journal
            .apply(&[put(b"b", b"2"), put(b"a", b"1"), put(b"c", b"3")])
            .unwrap();
        journal
            .apply(&[Write::Delete(b"b".to_vec()), put(b"a", b"new")])
            .unwrap();
        let all = journal.scan(b"a", b"z", 10).unwrap();
        assert_eq!(
            all,
            vec![(b"a".to_vec(), b"new".to_vec()), (b"c".to_vec(), b"3".to_vec())]
        );
        assert_eq!(
            journal.scan(b"a", b"c", 10).unwrap().len(),
            1,
            "the end is not included"
        );
        assert_eq!(journal.scan(b"a", b"z", 1).unwrap().len(), 1, "the limit holds");
        assert_eq!(journal.get(b"b").unwrap(), None);
        journal.flush().unwrap();
    });
}

#[tokio::test]
async fn what_was_durable_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = Store::open(Arc::new(SledJournal::open(directory.path()).unwrap())).unwrap();
        let sequence = store.apply(vec![put(b"rx", b"kept")]).unwrap();
        store.durable(sequence).await.unwrap();
    }
    let journal = SledJournal::open(directory.path()).unwrap();
    let store = Store::open(Arc::new(journal)).unwrap();
    assert_eq!(store.get(b"rx").unwrap().as_deref(), Some(&b"kept"[..]));
}

#[tokio::test]
async fn a_failed_flush_poisons_the_journal() {
    struct Broken(MemoryJournal, std::sync::atomic::AtomicBool);
    impl Journal for Broken {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, super::JournalError> {
            self.0.get(key)
        }
        fn scan(&self, from: &[u8], to: &[u8], n: usize) -> Result<Vec<super::Record>, super::JournalError> {
            self.0.scan(from, to, n)
        }
        fn apply(&self, writes: &[Write]) -> Result<(), super::JournalError> {
            self.0.apply(writes)
        }
        fn flush(&self) -> Result<(), super::JournalError> {
            if self.1.swap(true, std::sync::atomic::Ordering::SeqCst) {
                let cause = "no space left on device".to_owned();
                return Err(super::JournalError::Io {
                    path: self.path(),
                    operation: "written",
                    cause,
                });
            }
            Ok(())
        }
        fn mark(&self, sequence: u64) -> Result<(), super::JournalError> {
            self.0.mark(sequence)
        }
        fn marked(&self) -> Result<Option<u64>, super::JournalError> {
            self.0.marked()
        }
        fn path(&self) -> std::path::PathBuf {
            "broken".into()
        }
    }
    let store = Store::open(Arc::new(Broken(MemoryJournal::default(), false.into()))).unwrap();
    let sequence = store.apply(vec![put(b"rx", b"1")]).unwrap();
    let error = store.durable(sequence).await.unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    assert!(
        store.apply(vec![put(b"ry", b"2")]).is_err(),
        "nothing more is taken"
    );
}

#[test]
fn a_newer_format_and_a_lost_format_record_are_refused() {
    let newer = MemoryJournal::default();
    newer
        .apply(&[put(
            b"mformat",
            &super::record::seal(b"mformat", &99_u32.to_le_bytes()),
        )])
        .unwrap();
    let error = Store::open(Arc::new(newer)).err().unwrap();
    assert!(error.to_string().contains("format 99"), "{error}");
    let lost = MemoryJournal::default();
    lost.apply(&[put(b"rx", b"1")]).unwrap();
    assert!(Store::open(Arc::new(lost)).err().unwrap().is_damage());
}

#[tokio::test]
async fn a_journal_that_went_back_to_an_older_state_is_found_out() {
    let directory = tempfile::tempdir().unwrap();
    let older = tempfile::tempdir().unwrap();
    for value in [b"1", b"2"] {
        let store = Store::open(Arc::new(SledJournal::open(directory.path()).unwrap())).unwrap();
        let sequence = store.apply(vec![put(b"rx", value)]).unwrap();
        store.durable(sequence).await.unwrap();
        drop(store);
        if value == b"1" {
            std::fs::copy(directory.path().join("db"), older.path().join("db")).unwrap();
        }
    }
    std::fs::copy(older.path().join("db"), directory.path().join("db")).unwrap();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("snap.") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let opened = SledJournal::open(directory.path()).and_then(|journal| Store::open(Arc::new(journal)));
    assert!(opened.err().unwrap().is_damage());
}
