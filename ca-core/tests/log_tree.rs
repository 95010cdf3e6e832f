//! The issuance log's tree with a real key and real files: what the log publishes, strangers can check.

use std::time::{Duration, Instant};

use ca_core::key::{KeyName, KeyStore, KeyType, Priority, SignError, Urgency};
use ca_core::log::tree::{
    CheckpointBody, ConsistencyProof, Hash, InclusionProof, LogKey, Origin, TileReader, Tiles,
    checkpoint, consistency_proof, inclusion_proof,
};
use keymanager::SoftwareStore;

fn urgency() -> Urgency {
    Urgency::within(Priority::Bulk, Duration::from_secs(10), Instant::now())
}

#[tokio::test]
async fn what_is_published_proves_each_entry_and_that_the_log_only_grew() {
    let store = SoftwareStore::in_memory("a.example");
    let name = KeyName::parse("mintmark/a.example/log/1").unwrap();
    let key = store.create(&name, KeyType::EcP256).await.unwrap();
    let origin = Origin::parse("a.example/mintmark/one").unwrap();
    let vkey = LogKey::new(origin.clone(), key.public_key().clone()).unwrap().vkey();

    let directory = tempfile::tempdir().unwrap();
    let entry = |index: u64| format!("entry {index}").into_bytes();
    let mut tiles = Tiles::open(directory.path(), u64::MAX).unwrap();
    let mut published = Vec::new();
    for size in [0, 1, 255, 256, 700] {
        let leaves: Vec<Hash> = (tiles.size()..size).map(|i| Hash::leaf(&entry(i))).collect();
        tiles.append(&leaves);
        tiles.flush().unwrap();
        let body = CheckpointBody { origin: origin.clone(), head: tiles.head() };
        published.push(checkpoint::sign(body, &*key, urgency()).await.unwrap());
    }

    let log = LogKey::parse(&vkey).unwrap();
    for new in &published {
        let size = new.unverified().head.size;
        let reader = TileReader::new(directory.path(), size);
        for index in [0, size / 2, size.saturating_sub(1)].into_iter().filter(|i| *i < size) {
            let path = inclusion_proof(index, size, &reader).unwrap();
            let proof = InclusionProof { extra: None, index, path, checkpoint: new.clone() };
            let read = InclusionProof::parse(&proof.to_string()).unwrap();
            assert_eq!(read.verify(Hash::leaf(&entry(index)), &log).unwrap().head().size, size);
        }
        for old in published.iter().take_while(|old| old.unverified().head.size <= size) {
            let path = consistency_proof(old.unverified().head.size, size, &reader).unwrap();
            let proof = ConsistencyProof { path, old: old.clone(), new: new.clone() };
            let read = ConsistencyProof::parse(&proof.to_string()).unwrap();
            read.verify(&log).unwrap();
        }
    }
}

#[tokio::test]
async fn a_key_that_is_not_on_p256_signs_no_checkpoint() {
    let store = SoftwareStore::in_memory("a.example");
    let name = KeyName::parse("mintmark/a.example/log/1").unwrap();
    let key = store.create(&name, KeyType::EcP384).await.unwrap();
    let origin = Origin::parse("a.example/mintmark/one").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let head = Tiles::open(directory.path(), 0).unwrap().head();
    let refused = checkpoint::sign(CheckpointBody { origin, head }, &*key, urgency()).await;
    assert!(matches!(refused, Err(SignError::Refused { .. })), "{refused:?}");
}
