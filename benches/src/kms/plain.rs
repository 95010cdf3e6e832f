//! The limit of a transit engine: the same request from threads that do nothing else, a connection each.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use peers::openbao::OpenBao;

/// Connections to the server, and the request.
pub(super) struct Plain {
    connections: Vec<BufReader<TcpStream>>,
    request: Vec<u8>,
}

impl Plain {
    pub(super) fn connect(server: &OpenBao, key: &str, connections: usize) -> anyhow::Result<Self> {
        let address = server.address();
        let host = address.strip_prefix("http://").context("the server speaks HTTP")?;
        let input = STANDARD.encode(digest(&SHA256, b"a message"));
        let body = format!(
            r#"{{"hash_algorithm":"sha2-256","input":"{input}","key_version":1,"marshaling_algorithm":"asn1","prehashed":true}}"#
        );
        let request = format!(
            "POST /v1/transit/sign/{key} HTTP/1.1\r\nHost: {host}\r\nX-Vault-Token: {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            server.root_token().expose(),
            body.len()
        );
        let connect = || {
            let stream = TcpStream::connect(host)?;
            stream.set_nodelay(true)?;
            anyhow::Ok(BufReader::new(stream))
        };
        let connections = (0..connections).map(|_| connect()).collect::<anyhow::Result<_>>()?;
        Ok(Self { connections, request: request.into_bytes() })
    }

    /// Signs for that long on every connection, and answers how often.
    pub(super) fn sign_for(&mut self, slice: Duration) -> u64 {
        let end = Instant::now() + slice;
        let request = &self.request;
        thread::scope(|scope| {
            let threads: Vec<_> = self
                .connections
                .iter_mut()
                .map(|connection| {
                    scope.spawn(move || {
                        let mut count = 0;
                        while Instant::now() < end {
                            ask(connection, request).expect("the server signs");
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().expect("the loop does not panic")).sum()
        })
    }
}

/// Sends the request and reads its answer, which has to be a signature.
fn ask(connection: &mut BufReader<TcpStream>, request: &[u8]) -> anyhow::Result<()> {
    connection.get_mut().write_all(request)?;
    let (mut line, mut length) = (String::new(), 0);
    connection.read_line(&mut line)?;
    anyhow::ensure!(line.starts_with("HTTP/1.1 200"), "{line}");
    loop {
        line.clear();
        connection.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse()?;
            }
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    anyhow::ensure!(body.windows(9).any(|part| part == b"vault:v1:"), "no signature");
    Ok(())
}
