//! `mintmark frontend …`

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ca_core::bundle::certificate_pem;
use ca_core::clock::{Clock, Timestamp};
use ca_core::csr::Csr;
use mintmark_proto::admin::v1 as wire;
use serde::Serialize;

use crate::certificate::CertificateView;
use crate::cli::{EnrollFrontEnd, Frontend, Output, Ttl};
use crate::client::AdminClient;
use crate::command::x509::{certifies, has_place, read_request, unproven};
use crate::config::Period;
use crate::delivery::{Delivered, Delivery, PrivateKey};
use crate::exit::Failure;
use crate::output::{Rows, Screen, columns};
use crate::workload::WorkloadKey;

/// Asks the server behind `socket`, and shows what it answers.
pub(super) async fn run(
    command: Frontend,
    socket: &Path,
    clock: &dyn Clock,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    match command {
        Frontend::Enroll(arguments) => enroll(*arguments, socket, clock, screen).await,
        Frontend::List(_) => list(socket, clock.now(), screen).await,
        Frontend::Show(arguments) => {
            let client = AdminClient::connect(socket).await?;
            let view = View::of(client.front_end(&arguments.name).await?, clock.now());
            screen.show(&view, view.rows())
        }
        Frontend::Withdraw(arguments) => {
            let client = AdminClient::connect(socket).await?;
            let view = View::of(client.withdraw_front_end(&arguments.name).await?, clock.now());
            screen.show(&view, view.rows())
        }
    }
}

/// Has a key certified and recorded, and delivers the SVID: into a folder, or as texts in JSON.
async fn enroll(
    arguments: EnrollFrontEnd,
    socket: &Path,
    clock: &dyn Clock,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    has_place(arguments.write.as_deref(), screen)?;
    let file = arguments.csr.as_deref();
    let given = file.map(read_request).transpose()?;
    let client = AdminClient::connect(socket).await?;
    let bundle = client.bundle().await?;
    let (csr, key) = match given {
        Some(csr) => (csr, None),
        None => made_here(&arguments, &arguments.name.id(&bundle.trust_domain))?,
    };
    let proven =
        Csr::parse(&csr).and_then(|csr| csr.verify()).map_err(|reason| unproven(file, &reason))?;

    let answer = client.enroll_front_end(request(&arguments, csr)).await?;
    let leaf = answer.cert_chain.first().map_or(&[][..], |leaf| &leaf[..]);
    certifies(leaf, proven.key.public_key())?;
    let svid = answer.cert_chain.iter().map(|der| certificate_pem(der)).collect();
    let delivery = Delivery { svid, bundle: bundle.pem(), key };
    let certificate = CertificateView::of(leaf, clock.now()).map_err(Failure::failed)?;
    let front_end = View::of(answer.front_end.unwrap_or_default(), clock.now());
    match &arguments.write {
        Some(folder) => {
            let files = delivery.write(folder).map_err(Failure::failed)?;
            show_files(&front_end, &certificate, &files, screen)
        }
        None => show_texts(&front_end, &certificate, &delivery, screen),
    }
}

fn made_here(
    arguments: &EnrollFrontEnd,
    id: &ca_core::id::SpiffeId,
) -> Result<(Vec<u8>, Option<PrivateKey>), Failure> {
    let key = WorkloadKey::generate(arguments.key_type).map_err(Failure::failed)?;
    let csr = key.request(id, &[]).map_err(Failure::failed)?;
    Ok((csr, Some(key.into_pem())))
}

fn request(arguments: &EnrollFrontEnd, csr: Vec<u8>) -> wire::EnrollFrontEndRequest {
    let rate = |rate: &ca_core::frontend::Rate| wire::Rate {
        per_second: rate.per_second(),
        burst: rate.burst(),
    };
    let classes = arguments.class_budget.iter().map(|budget| wire::ClassRate {
        class: budget.class.name().to_owned(),
        rate: Some(rate(&budget.rate)),
    });
    let terms = wire::FrontEndTerms {
        path_scopes: arguments.path_scope.iter().map(ToString::to_string).collect(),
        dns_scopes: arguments.dns_scope.iter().map(ToString::to_string).collect(),
        allow_named: arguments.allow_named,
        allow_downstream: arguments.allow_downstream,
        allow_publish: arguments.allow_publish,
        allow_admin: arguments.allow_admin,
        require_csr: arguments.require_csr,
        max_ttl_seconds: Ttl::seconds(arguments.max_ttl).unsigned_abs(),
        key_types: arguments.allow_key.iter().map(ToString::to_string).collect(),
        budget: arguments.budget.as_ref().map(rate),
        class_budgets: classes.collect(),
    };
    wire::EnrollFrontEndRequest {
        name: arguments.name.to_string(),
        csr: csr.into(),
        terms: Some(terms),
        replace: arguments.replace,
        again: arguments.again,
    }
}

fn show_files(
    front_end: &View,
    certificate: &CertificateView,
    files: &Delivered,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Enrolled<'a> {
        front_end: &'a View,
        certificate: &'a CertificateView,
        files: &'a Delivered,
    }
    let mut rows = front_end.rows();
    rows.push(("SVID", files.svid.display().to_string()));
    rows.push(("SVID ends", certificate.not_after.clone()));
    rows.extend(files.key.as_ref().map(|key| ("Private key", key.display().to_string())));
    rows.push(("Bundle", files.bundle.display().to_string()));
    screen.show(&Enrolled { front_end, certificate, files }, rows)
}

/// Without a folder no key was made here, so none is printed.
fn show_texts(
    front_end: &View,
    certificate: &CertificateView,
    delivery: &Delivery,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Enrolled<'a> {
        front_end: &'a View,
        certificate: &'a CertificateView,
        svid: &'a str,
        bundle: &'a str,
    }
    let (svid, bundle) = (delivery.svid.as_str(), delivery.bundle.as_str());
    screen.json(&Enrolled { front_end, certificate, svid, bundle })
}

async fn list(socket: &Path, now: Timestamp, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let client = AdminClient::connect(socket).await?;
    let views: Vec<View> =
        client.front_ends().await?.into_iter().map(|found| View::of(found, now)).collect();
    if screen.form() == Output::Json {
        return screen.json(&views);
    }
    let row = |view: &View| {
        [
            view.name.clone(),
            view.state.to_owned(),
            view.live().to_string(),
            listed(&view.grants),
            listed(&view.path_scopes),
        ]
    };
    let headings = ["Front end", "State", "Keys", "May", "Path scopes"];
    let table = columns(headings, views.iter().map(row).collect());
    screen.text(&format!("{table}\n"))
}

/// A front end, as programs see it.
#[derive(Serialize)]
struct View {
    name: String,
    spiffe_id: String,
    state: &'static str,
    path_scopes: Vec<String>,
    dns_scopes: Vec<String>,
    grants: Vec<&'static str>,
    require_csr: bool,
    max_ttl_seconds: u32,
    key_types: Vec<String>,
    /// Items a second, and at once: `1000/2000`.
    budget: Option<String>,
    class_budgets: BTreeMap<String, String>,
    enrolled_at: String,
    withdrawn_at: Option<String>,
    revision: u64,
    keys: Vec<KeyView>,
}

#[derive(Serialize)]
struct KeyView {
    sha256: String,
    serial_number: String,
    enrolled_at: String,
    expires_at: String,
    /// Whether it opens something.
    live: bool,
    renewed_from: Option<String>,
}

impl View {
    fn of(found: wire::FrontEnd, now: Timestamp) -> Self {
        let terms = found.terms.unwrap_or_default();
        let withdrawn = found.withdrawn_at != 0;
        let rate = |rate: wire::Rate| format!("{}/{}", rate.per_second, rate.burst);
        let classes = terms.class_budgets.into_iter();
        let grants = [
            (terms.allow_named, "named"),
            (terms.allow_downstream, "downstream"),
            (terms.allow_publish, "publish"),
            (terms.allow_admin, "admin"),
        ];
        Self {
            name: found.name,
            spiffe_id: found.spiffe_id,
            state: if withdrawn { "withdrawn" } else { "enrolled" },
            path_scopes: terms.path_scopes,
            dns_scopes: terms.dns_scopes,
            grants: grants.into_iter().filter_map(|(on, name)| on.then_some(name)).collect(),
            require_csr: terms.require_csr,
            max_ttl_seconds: terms.max_ttl_seconds,
            key_types: terms.key_types,
            budget: terms.budget.map(rate),
            class_budgets: classes
                .map(|budget| (budget.class, rate(budget.rate.unwrap_or_default())))
                .collect(),
            enrolled_at: instant(found.enrolled_at),
            withdrawn_at: withdrawn.then(|| instant(found.withdrawn_at)),
            revision: found.revision,
            keys: found.keys.iter().map(|key| KeyView::of(key, withdrawn, now)).collect(),
        }
    }

    fn live(&self) -> usize {
        self.keys.iter().filter(|key| key.live).count()
    }

    fn rows(&self) -> Rows {
        let proof = if self.require_csr {
            "a CSR for each key"
        } else {
            "its word that a workload has its key"
        };
        let longest = Duration::from_secs(self.max_ttl_seconds.into());
        let mut rows = vec![
            ("Front end", self.name.clone()),
            ("SPIFFE ID", self.spiffe_id.clone()),
            ("State", self.state.to_owned()),
            ("Enrolled", self.enrolled_at.clone()),
        ];
        rows.extend(self.withdrawn_at.clone().map(|since| ("Withdrawn", since)));
        rows.extend([
            ("Path scopes", self.path_scopes.join("\n")),
            ("DNS scopes", shown(&self.dns_scopes, "\n")),
            ("May", listed(&self.grants)),
            ("Gives", proof.to_owned()),
            ("Longest life", Period(longest).to_string()),
            ("Kinds of key", self.key_types.join(", ")),
            ("Budget", self.budget.clone().unwrap_or_else(|| "-".to_owned())),
        ]);
        let classes = self.class_budgets.iter().map(|(class, rate)| format!("{class} {rate}"));
        let classes: Vec<String> = classes.collect();
        rows.extend(Some(("By class", classes.join("\n"))).filter(|(_, text)| !text.is_empty()));
        let keys: Vec<String> = self.keys.iter().map(KeyView::line).collect();
        rows.push(("Keys", shown(&keys, "\n")));
        rows
    }
}

impl KeyView {
    fn of(key: &wire::FrontEndKey, withdrawn: bool, now: Timestamp) -> Self {
        let renewed_from = Some(&key.renewed_from).filter(|key| !key.is_empty());
        Self {
            sha256: hexadecimal(&key.sha256),
            serial_number: hexadecimal(&key.serial),
            enrolled_at: instant(key.enrolled_at),
            expires_at: instant(key.not_after),
            live: !withdrawn && key.not_after >= now.unix(),
            renewed_from: renewed_from.map(|key| hexadecimal(key)),
        }
    }

    fn line(&self) -> String {
        let state = if self.live { "until" } else { "ended, was until" };
        format!("{} {state} {}", self.sha256, self.expires_at)
    }
}

fn instant(seconds: i64) -> String {
    Timestamp::from_unix(seconds).to_string()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn listed(texts: &[impl AsRef<str>]) -> String {
    shown(texts, ", ")
}

fn shown(texts: &[impl AsRef<str>], between: &str) -> String {
    if texts.is_empty() {
        return "-".to_owned();
    }
    texts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(between)
}
