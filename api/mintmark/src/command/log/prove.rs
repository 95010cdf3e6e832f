//! `mintmark log prove`

use std::fs;
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ca_core::log::entry::Entry;
use ca_core::log::reading::{Logged, entry};
use ca_core::log::search::{IdQuery, Query, search};
use ca_core::log::tree::{
    ConsistencyProof, Hash, Head, InclusionProof, TileReader, consistency_proof, inclusion_proof,
};
use ca_core::serial::Serial;
use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::entries::EntryView;
use super::{Place, Verifier, read_checkpoint};
use crate::certificate;
use crate::cli::{Output, ProveLog};
use crate::exit::Failure;
use crate::output::{Rows, Screen};
use crate::pem;

/// Writes a proof that was checked as whoever gets it will check it.
pub(super) async fn prove(arguments: &ProveLog, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let place = Place::open(&arguments.place)?;
    let verifier = place.verifier().await?;
    match &arguments.from {
        Some(older) => prove_growth(arguments, &place, &verifier, older, screen),
        None => prove_inclusion(arguments, &place, &verifier, screen),
    }
}

fn prove_inclusion(
    arguments: &ProveLog,
    place: &Place,
    verifier: &Verifier,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let checkpoint = place.newest()?;
    let head = verifier.key.verify(&checkpoint).map_err(Failure::failed)?.head();
    let logged = wanted(arguments, place)?;
    let index = logged.index;
    if index >= head.size {
        return Err(Failure::failed(format!(
            "entry {index} is in the log, and its newest signed head is over the {} before it; try again in a \
             second",
            head.size
        )));
    }
    let tiles = TileReader::new(place.log.path(), head.size);
    let path = inclusion_proof(index, head.size, &tiles).map_err(Failure::failed)?;
    let proof = InclusionProof { extra: None, index, path, checkpoint };
    proof.verify(Hash::leaf(&logged.bytes), &verifier.key).map_err(damaged)?;
    if let Some(file) = &arguments.entry {
        write(file, &logged.bytes)?;
    }
    let shown = Inclusion {
        entry: EntryView::of(index, &logged.entry),
        entry_bytes: STANDARD.encode(&logged.bytes),
        tree_size: head.size,
        key: verifier.key.vkey(),
        key_from: &verifier.from,
        proof: proof.to_string(),
    };
    let what = match &logged.entry {
        Entry::Issuance(record) => record.id.as_str().to_owned(),
        Entry::Opening(opening) => format!("the opening of run {}", opening.writer),
    };
    let mut rows = vec![("Entry", index.to_string()), ("Of", what)];
    rows.extend(arguments.entry.iter().map(|file| ("Entry file", file.display().to_string())));
    show(arguments, screen, (&shown, &shown.proof), rows, (head, verifier))
}

/// What was proven to be in the log, as programs see it.
#[derive(Serialize)]
struct Inclusion<'a> {
    entry: EntryView,
    /// In base64.
    entry_bytes: String,
    tree_size: u64,
    key: String,
    key_from: &'a str,
    proof: String,
}

/// The entry that the proof is to be about.
fn wanted(arguments: &ProveLog, place: &Place) -> Result<Logged, Failure> {
    if let Some(index) = arguments.index {
        return at(place, index);
    }
    let (query, digest, what) = match (&arguments.certificate, &arguments.token) {
        (Some(file), _) => certificate_query(file)?,
        (_, Some(file)) => token_query(file)?,
        _ => {
            let serial = arguments.serial.expect("clap wants one of them");
            (by_serial(serial), None, format!("certificate of serial number {serial}"))
        }
    };
    let mut found = None;
    search::<Failure>(&place.log, &query, true, |index, record| {
        if digest.is_some_and(|digest| digest != record.digest) {
            return Ok(ControlFlow::Continue(()));
        }
        found = Some(index);
        Ok(ControlFlow::Break(()))
    })?;
    match found {
        Some(index) => at(place, index),
        None => Err(Failure::failed(format!(
            "the log in {} has no record of this {what}{}",
            place.log.path().display(),
            match place.log.pruned()? {
                0 => String::new(),
                first => format!("; records before entry {first} were removed"),
            }
        ))),
    }
}

fn at(place: &Place, index: u64) -> Result<Logged, Failure> {
    entry(&place.log, index)?.ok_or_else(|| {
        Failure::failed(format!("the log has no entry {index}, or its record was removed"))
    })
}

/// What to look for, the digest that the record must have, and what it is, for people.
type Wanted = (Query, Option<[u8; 32]>, String);

fn by_serial(serial: Serial) -> Query {
    Query { serial: Some(serial), ..Query::default() }
}

fn certificate_query(file: &Path) -> Result<Wanted, Failure> {
    let certificates = pem::read(file, pem::CERTIFICATE).map_err(Failure::failed)?;
    let der = certificates.first().map_or(&[][..], |der| &der[..]);
    let named = |error| Failure::failed(format!("{}: {error}", file.display()));
    let signed = certificate::signed_part(der).map_err(named)?;
    let serial = certificate::serial_number(der).map_err(named)?;
    let serial: [u8; Serial::LENGTH] = serial[..].try_into().map_err(|_| {
        let reason = "its serial number has not 20 bytes, as those of Mintmark have";
        Failure::failed(format!("{} is not in the log: {reason}", file.display()))
    })?;
    Ok((by_serial(Serial::from_bytes(serial)), Some(sha256(signed)), "certificate".to_owned()))
}

/// A token's record has no serial number: it is looked for among those of its subject.
fn token_query(file: &Path) -> Result<Wanted, Failure> {
    let text = Zeroizing::new(pem::read_text(file, "token").map_err(Failure::failed)?);
    let none =
        |reason: &str| Failure::failed(format!("{} holds no JWT-SVID: {reason}", file.display()));
    let signed = text.trim().rsplit_once('.').map(|(signed, _)| signed);
    let signed = signed.ok_or_else(|| none("it is no JWS"))?;
    let (_, claims) = signed.split_once('.').ok_or_else(|| none("it is no JWS"))?;
    let claims = URL_SAFE_NO_PAD.decode(claims).ok();
    let claims = claims.and_then(|claims| serde_json::from_slice::<Value>(&claims).ok());
    let subject = claims.as_ref().and_then(|claims| claims["sub"].as_str());
    let subject = subject.ok_or_else(|| none("its claims have no subject"))?;
    let id = IdQuery::parse(subject).map_err(|error| none(&error))?;
    let query = Query { id: Some(id), ..Query::default() };
    Ok((query, Some(sha256(signed.as_bytes())), "token".to_owned()))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// What was proven to have only grown, as programs see it.
#[derive(Serialize)]
struct Growth<'a> {
    old_size: u64,
    tree_size: u64,
    key: String,
    key_from: &'a str,
    proof: String,
}

fn prove_growth(
    arguments: &ProveLog,
    place: &Place,
    verifier: &Verifier,
    older: &Path,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let old = read_checkpoint(older)?;
    let named = |error| Failure::failed(format!("{}: {error}", older.display()));
    let old_size = verifier.key.verify(&old).map_err(named)?.head().size;
    let new = place.newest()?;
    let head = verifier.key.verify(&new).map_err(Failure::failed)?.head();
    let tiles = TileReader::new(place.log.path(), head.size);
    let path = consistency_proof(old_size, head.size, &tiles)
        .map_err(|error| Failure::failed(format!("{}: {error}", older.display())))?;
    let proof = ConsistencyProof { path, old, new };
    proof.verify(&verifier.key).map_err(damaged)?;
    let shown = Growth {
        old_size,
        tree_size: head.size,
        key: verifier.key.vkey(),
        key_from: &verifier.from,
        proof: proof.to_string(),
    };
    let rows = vec![("Older tree", format!("{old_size} entries, {}", older.display()))];
    show(arguments, screen, (&shown, &shown.proof), rows, (head, verifier))
}

/// A proof that its own receiver would refuse is not given out.
fn damaged(error: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("the log cannot prove it: {error}; look with `mintmark log verify`"))
}

/// Writes the proof to its file and shows what was proven, or prints the proof alone.
fn show(
    arguments: &ProveLog,
    screen: &mut Screen<'_>,
    (shown, proof): (&impl Serialize, &str),
    mut rows: Rows,
    (head, verifier): (Head, &Verifier),
) -> Result<(), Failure> {
    if let Some(file) = &arguments.write {
        write(file, proof.as_bytes())?;
        rows.push(("Tree", format!("{} entries, root {}", head.size, head.root)));
        rows.push(("Verifier key", verifier.key.vkey()));
        rows.push(("Key from", verifier.from.clone()));
        rows.push(("Proof", file.display().to_string()));
        return screen.show(shown, rows);
    }
    match screen.form() {
        Output::Json => screen.json(shown),
        Output::Table => {
            if verifier.is_own {
                // The proof stands alone on standard output. Nobody misses the note.
                let note = format!("note: the proof was checked with the key of {}", verifier.from);
                let _ = writeln!(io::stderr(), "{note}");
            }
            screen.text(proof)
        }
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    fs::write(path, content)
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}
