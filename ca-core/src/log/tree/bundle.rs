//! Bundles of entries (C2SP tlog-tiles, "Log entries"): each entry after its length, a big-endian `uint16`.

use thiserror::Error;

/// Why entries cannot be bundled, or a bundle cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BundleError {
    /// The entry is longer than a bundle can say.
    #[error("an entry of {0} bytes fits no bundle; 65535 is the most")]
    TooLong(usize),
    /// The bundle ends within an entry.
    #[error("the bundle is cut off within entry {0}, counted from 0; get it again")]
    CutOff(usize),
}

/// Appends an entry to a bundle.
///
/// # Errors
/// [`BundleError::TooLong`].
pub fn write_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), BundleError> {
    let length = u16::try_from(entry.len()).map_err(|_| BundleError::TooLong(entry.len()))?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// The entries of a bundle, in order.
///
/// # Errors
/// [`BundleError::CutOff`].
pub fn read_entries(bundle: &[u8]) -> Result<Vec<&[u8]>, BundleError> {
    let (mut entries, mut rest) = (Vec::new(), bundle);
    while !rest.is_empty() {
        let (entry, after) = split_entry(rest).ok_or(BundleError::CutOff(entries.len()))?;
        entries.push(entry);
        rest = after;
    }
    Ok(entries)
}

fn split_entry(bundle: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bundle.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_entry_too_long_for_its_length_is_refused() {
        let mut bundle = Vec::new();
        assert_eq!(write_entry(&mut bundle, &[0; 65_535]), Ok(()));
        assert_eq!(write_entry(&mut bundle, &[0; 65_536]), Err(BundleError::TooLong(65_536)));
        assert_eq!(bundle.len(), 65_537);
    }

    proptest! {
        #[test]
        fn entries_are_read_back_and_a_cut_is_seen(
            entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
        ) {
            let mut bundle = Vec::new();
            for entry in &entries {
                write_entry(&mut bundle, entry).unwrap();
            }
            prop_assert_eq!(read_entries(&bundle).unwrap(), entries.clone());
            if !entries.is_empty() {
                prop_assert!(read_entries(&bundle[..bundle.len() - 1]).is_err());
            }
        }

        #[test]
        fn no_bytes_make_the_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = read_entries(&bytes);
        }
    }
}
