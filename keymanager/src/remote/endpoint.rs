//! Where a KMS is reached: by TLS, or in clear on this machine.

/// Refuses a URL through which a request could be read on its way.
pub(crate) fn check(url: &str) -> Result<(), String> {
    let (secure, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err(format!("{url:?} begins neither with https:// nor http://")),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("a user or password has no place in an address".to_owned());
    }
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split(':').next().unwrap_or_default(),
    };
    if host.is_empty() {
        return Err(format!("{url:?} names no host"));
    }
    if !secure && !matches!(host, "localhost" | "127.0.0.1" | "::1") {
        return Err(format!("{url:?} is not encrypted; http:// is for this machine alone"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn clear_text_stays_on_this_machine() {
        for good in [
            "https://vault.example:8200",
            "https://vault.example",
            "http://127.0.0.1:8200",
            "http://[::1]:8200/",
            "http://localhost:8200",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "http://vault.example:8200",
            "http://127.0.0.1.example:8200",
            "http://localhost@vault.example",
            "https://user:password@vault.example",
            "vault.example:8200",
            "https://",
            "ftp://vault.example",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
