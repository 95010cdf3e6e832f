//! `mintmark x509 …`

use std::path::Path;

use ca_core::bundle::certificate_pem;
use ca_core::clock::Clock;
use ca_core::csr::{Csr, CsrError};
use ca_core::dns::DnsName;
use ca_core::key::PublicKey;
use serde::Serialize;

use crate::certificate::{self, CertificateView};
use crate::cli::{MintX509, Output};
use crate::client::AdminClient;
use crate::delivery::{Delivered, Delivery, PrivateKey};
use crate::exit::Failure;
use crate::output::Screen;
use crate::pem;
use crate::workload::WorkloadKey;

/// Mints an X.509-SVID and delivers it: into a folder, or as texts in JSON.
pub(super) async fn mint(
    arguments: MintX509,
    socket: &Path,
    clock: &dyn Clock,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    has_place(arguments.write.as_deref(), screen)?;
    let (csr, key) = request(&arguments)?;
    let proven = Csr::parse(&csr)
        .and_then(|csr| csr.verify())
        .map_err(|reason| unproven(arguments.csr.as_deref(), &reason))?;

    let client = AdminClient::connect(socket).await?;
    let chain = client.mint_x509(csr, arguments.ttl).await?.cert_chain;
    let bundle = client.bundle().await?;

    let leaf = chain.first().map_or(&[][..], |leaf| &leaf[..]);
    certifies(leaf, proven.key.public_key())?;
    let delivery = Delivery {
        svid: chain.iter().map(|der| certificate_pem(der)).collect(),
        bundle: bundle.pem(),
        key,
    };
    let view = CertificateView::of(leaf, clock.now()).map_err(Failure::failed)?;
    match &arguments.write {
        Some(folder) => {
            let files = delivery.write(folder).map_err(Failure::failed)?;
            show_files(&view, &files, screen)
        }
        None => show_texts(&view, &delivery, screen),
    }
}

/// What is delivered goes into a folder or into JSON: a table has no room for it.
pub(super) fn has_place(folder: Option<&Path>, screen: &Screen<'_>) -> Result<(), Failure> {
    if folder.is_none() && screen.form() == Output::Table {
        let advice = "say where the files go with --write DIR, or print them with --output json";
        return Err(Failure::Usage(advice.to_owned()));
    }
    Ok(())
}

/// A certificate for another key than the one that was sent is none of ours.
pub(super) fn certifies(leaf: &[u8], key: &PublicKey) -> Result<(), Failure> {
    if certificate::public_key(leaf).map_err(Failure::failed)? == key.spki() {
        return Ok(());
    }
    Err(Failure::failed("the server's certificate is for another key; nothing is kept"))
}

/// Why a CSR is not even sent, with the file that it came from.
pub(super) fn unproven(file: Option<&Path>, reason: &CsrError) -> Failure {
    let place = file.map_or_else(String::new, |file| format!(" in {}", file.display()));
    Failure::failed(format!("the CSR{place} cannot be used: {reason}"))
}

/// The CSR to send, and the key if it is made here.
fn request(arguments: &MintX509) -> Result<(Vec<u8>, Option<PrivateKey>), Failure> {
    if let Some(path) = &arguments.csr {
        return Ok((read_request(path)?, None));
    }
    let id = arguments.spiffe_id.as_ref().expect("clap wants one of --csr and --spiffe-id");
    let names = DnsName::list(arguments.dns.iter().map(String::as_str))
        .map_err(|error| Failure::Usage(format!("--dns: {error}")))?;
    let key = WorkloadKey::generate(arguments.key_type).map_err(Failure::failed)?;
    let csr = key.request(id, &names).map_err(Failure::failed)?;
    Ok((csr, Some(key.into_pem())))
}

/// The one CSR of a file.
pub(super) fn read_request(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut requests = pem::read(path, pem::REQUEST).map_err(Failure::failed)?;
    if requests.len() > 1 {
        let advice = format!("{} holds several CSRs; give one", path.display());
        return Err(Failure::failed(advice));
    }
    Ok(requests.remove(0))
}

fn show_files(
    view: &CertificateView,
    files: &Delivered,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Minted<'a> {
        certificate: &'a CertificateView,
        files: &'a Delivered,
    }
    let mut rows = view.rows();
    rows.push(("SVID", files.svid.display().to_string()));
    rows.extend(files.key.as_ref().map(|key| ("Private key", key.display().to_string())));
    rows.push(("Bundle", files.bundle.display().to_string()));
    screen.show(&Minted { certificate: view, files }, rows)
}

fn show_texts(
    view: &CertificateView,
    delivery: &Delivery,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Minted<'a> {
        certificate: &'a CertificateView,
        svid: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<&'a str>,
        bundle: &'a str,
    }
    let key = delivery.key.as_ref().map(|key| key.0.as_str());
    let (svid, bundle) = (delivery.svid.as_str(), delivery.bundle.as_str());
    screen.json(&Minted { certificate: view, svid, key, bundle })
}

/// Shows each certificate of a file.
pub(super) fn show(path: &Path, clock: &dyn Clock, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let now = clock.now();
    let views = pem::read(path, pem::CERTIFICATE)
        .map_err(Failure::failed)?
        .iter()
        .map(|der| CertificateView::of(der, now))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
    if screen.form() == Output::Json {
        return screen.json(&views);
    }
    for (index, view) in views.iter().enumerate() {
        if index > 0 {
            screen.text("\n")?;
        }
        screen.show(view, view.rows())?;
    }
    Ok(())
}
