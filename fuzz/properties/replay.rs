//! Ordinary tests go through a corpus with this.

use std::fs;
use std::path::Path;

/// A folder that has moved away must not pass for a folder of good files.
const FEWEST: usize = 10;

/// Hands every file of a folder, seen from the crate whose test it is, to a property, and holds its verdict against the
/// file's name.
pub(crate) fn replay(folder: &str, holds: fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is checked in") {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().expect("a file of a folder").to_string_lossy().into_owned();
        let accepted = holds(&fs::read(&path).expect("a readable file"));
        assert!(accepted || !name.starts_with("good-"), "{name} is refused");
        assert!(!accepted || !name.starts_with("bad-"), "{name} is accepted");
        count += 1;
    }
    assert!(count >= FEWEST, "{} holds {count} files only", folder.display());
}
