//! `mintmark key destroy`

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use ca_core::authority::{KeyVerdict, Verdict, expired_keys};
use ca_core::clock::Timestamp;
use ca_core::key::{ExpiredKey, KeyError, KeyName, KeyStore};
use serde::Serialize;

use super::list::Store;
use super::{Chosen, close, no_key};
use crate::cli::{DestroyKeys, Output};
use crate::exit::Failure;
use crate::output::{Screen, columns};

/// What was done, as programs see it.
#[derive(Serialize)]
struct Report {
    store: Store,
    dry_run: bool,
    keys: Vec<Judged>,
}

#[derive(Serialize)]
struct Judged {
    name: String,
    state: &'static str,
    destroyable: bool,
    /// Why it stays.
    reason: Option<String>,
    /// When it may be destroyed, if nothing but time has to pass.
    destroyable_after: Option<String>,
    /// What the store said when it was destroyed.
    destroyed: Option<String>,
    /// What it said when it did not do so.
    not_destroyed: Option<String>,
}

/// Shows the verdict on each key, and destroys those that nothing needs if it may.
pub(super) async fn destroy(
    arguments: &DestroyKeys,
    now: Timestamp,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    if screen.form() == Output::Json && !arguments.dry_run && !arguments.yes {
        let text =
            "nobody is asked with --output json; say --yes, or --dry-run to see what would happen";
        return Err(Failure::Usage(text.to_owned()));
    }
    let chosen = Chosen::load(&arguments.place)?;
    let record = chosen.record().await?;
    let store = chosen.open().await.map_err(Failure::failed)?;
    // Later entries take nothing back: what is retired, or old, stays so.
    let ledger = record.ledger().await?;
    let verdicts = expired_keys(&ledger, &*store, now).await.map_err(Failure::failed)?;
    let verdicts = asked_for(arguments, verdicts, &*store)?;
    let expired: Vec<ExpiredKey> = verdicts.iter().filter_map(expired).cloned().collect();
    let mut report = Report {
        store: Store::of(&chosen, store.description()),
        dry_run: arguments.dry_run,
        keys: verdicts.into_iter().map(Judged::of).collect(),
    };
    if screen.form() == Output::Table {
        screen.text(&table(&report))?;
    }
    let outcome = match arguments.dry_run {
        true => Ok(()),
        false => carry_out(arguments, &expired, &*store, &mut report, screen).await,
    };
    close((record, store)).await;
    if screen.form() == Output::Json {
        screen.json(&report)?;
    }
    outcome
}

/// The verdicts on the keys that were named, or on all.
fn asked_for(
    arguments: &DestroyKeys,
    verdicts: Vec<KeyVerdict>,
    store: &dyn KeyStore,
) -> Result<Vec<KeyVerdict>, Failure> {
    let names = &arguments.names;
    let is_there = |name: &KeyName| verdicts.iter().any(|verdict| verdict.name == *name);
    if let Some(missing) = names.iter().find(|name| !is_there(name)) {
        return Err(no_key(missing, store));
    }
    let wanted = |verdict: &KeyVerdict| names.is_empty() || names.contains(&verdict.name);
    Ok(verdicts.into_iter().filter(wanted).collect())
}

fn expired(verdict: &KeyVerdict) -> Option<&ExpiredKey> {
    match &verdict.verdict {
        Verdict::Destroyable(expired) => Some(expired),
        Verdict::Kept { .. } => None,
    }
}

async fn carry_out(
    arguments: &DestroyKeys,
    expired: &[ExpiredKey],
    store: &dyn KeyStore,
    report: &mut Report,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    // Whoever names a key means it: that it stays is no success, and the others can wait.
    if let Some(kept) =
        report.keys.iter().find(|key| !arguments.names.is_empty() && !key.destroyable)
    {
        let reason = kept.reason.as_deref().unwrap_or_default();
        return Err(Failure::failed(format!(
            "nothing was destroyed: key {} stays: {reason}",
            kept.name
        )));
    }
    if expired.is_empty() {
        return note(screen, "\nnothing to destroy\n");
    }
    if !arguments.yes {
        let count = expired.len();
        let answered = tokio::task::spawn_blocking(move || confirm(count)).await;
        answered.map_err(Failure::failed)??;
    }
    destroy_each(expired, store, report, screen).await
}

/// Destroys one after the other. That one does not go says nothing of the next.
async fn destroy_each(
    expired: &[ExpiredKey],
    store: &dyn KeyStore,
    report: &mut Report,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    for key in expired {
        let answer = store.destroy(key).await;
        // A store that is away, or refuses the PIN, is asked no more.
        let is_over =
            matches!(answer, Err(KeyError::Credentials { .. } | KeyError::Unavailable { .. }));
        let (destroyed, refused) = match answer {
            Ok(answer) => (Some(answer), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let name = key.name();
        if let Some(judged) = report.keys.iter_mut().find(|judged| judged.name == name.as_str()) {
            judged.destroyed.clone_from(&destroyed);
            judged.not_destroyed.clone_from(&refused);
        }
        let refused = refused.map(|reason| format!("not destroyed: {reason}"));
        note(screen, &format!("\n{name}: {}\n", destroyed.or(refused).unwrap_or_default()))?;
        if is_over {
            break;
        }
    }
    all_gone(expired.len(), report)
}

/// Says how many stay, and why the first of them does.
fn all_gone(wanted: usize, report: &Report) -> Result<(), Failure> {
    let gone = report.keys.iter().filter(|key| key.destroyed.is_some()).count();
    if gone == wanted {
        return Ok(());
    }
    let first = report.keys.iter().find_map(|key| key.not_destroyed.as_deref()).unwrap_or_default();
    let left = wanted - gone;
    Err(Failure::failed(format!("{left} of {wanted} keys were not destroyed; the first: {first}")))
}

/// Tells people; programs get the report.
fn note(screen: &mut Screen<'_>, text: &str) -> Result<(), Failure> {
    match screen.form() {
        Output::Table => screen.text(text),
        Output::Json => Ok(()),
    }
}

/// Asks the person at the terminal. Whatever is no terminal cannot answer.
fn confirm(count: usize) -> Result<(), Failure> {
    let input = io::stdin();
    if !input.is_terminal() {
        let text = "nobody is at a terminal to be asked; say --yes to destroy them, or --dry-run to leave it at the list";
        return Err(Failure::Usage(text.to_owned()));
    }
    let mut answer = String::new();
    write!(io::stderr(), "\nDestroy {count} for good? There is no way back. Type \"yes\": ")
        .and_then(|()| input.lock().read_line(&mut answer))
        .map_err(Failure::failed)?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was destroyed")),
    }
}

impl Judged {
    fn of(verdict: KeyVerdict) -> Self {
        let (name, state) = (verdict.name.to_string(), verdict.standing.name());
        let (destroyable, reason, until) = match verdict.verdict {
            Verdict::Destroyable(_) => (true, None, None),
            Verdict::Kept { reason, until } => (false, Some(reason), until),
        };
        let destroyable_after = until.map(|until| until.to_string());
        Self {
            name,
            state,
            destroyable,
            reason,
            destroyable_after,
            destroyed: None,
            not_destroyed: None,
        }
    }
}

fn table(report: &Report) -> String {
    let line = |key: &Judged| {
        let verdict = if key.destroyable { "destroyable" } else { "stays" };
        let reason = key.reason.clone().unwrap_or_default();
        [key.name.clone(), key.state.to_owned(), verdict.to_owned(), reason]
    };
    let rows = report.keys.iter().map(line).collect();
    format!("{}\n\n{}\n", report.store.place, columns(["Key", "State", "Verdict", "Why"], rows))
}
