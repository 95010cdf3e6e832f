//! Peers that do what no client library does: frames of HTTP/2 (RFC 9113 §4) written out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::credulous::Credulous;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A connection whose frames are ours.
pub(crate) struct RawPeer(pub(crate) TlsStream<TcpStream>);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call, in HPACK (RFC 7541): two from the static table, the others as literals.
fn call_headers() -> Vec<u8> {
    let literal = |index: u8, value: &str| {
        [&[index, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
    };
    let content_type = [&[0x0f, 0x10][..], &[16], b"application/grpc"].concat();
    let path = literal(0x04, "/mintmark.signing.v1.Signing/Mint");
    [&[0x83, 0x86][..], &path, &literal(0x01, "signer"), &content_type].concat()
}

impl RawPeer {
    pub(crate) async fn greet(mut stream: TlsStream<TcpStream>) -> Self {
        let preface =
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &[])[..]].concat();
        stream.write_all(&preface).await.unwrap();
        Self(stream)
    }

    /// Sends a header block that does not end; says how many bytes of it were taken.
    pub(crate) async fn endless_headers(&mut self, most: usize) -> usize {
        let (mut reader, mut writer) = tokio::io::split(&mut self.0);
        let ended = async {
            let mut sink = [0; 4096];
            while reader.read(&mut sink).await.is_ok_and(|count| count > 0) {}
        };
        let part = [[0x0f, 0x10, 100].as_slice(), &[b'a'; 100]].concat().repeat(100);
        let sending = async {
            let mut sent = 0;
            let mut next = frame(HEADERS, 0, 1, &call_headers());
            while sent < most && writer.write_all(&next).await.is_ok() {
                sent += next.len();
                next = frame(CONTINUATION, 0, 1, &part);
            }
            sent
        };
        let (sent, ()) = tokio::join!(sending, ended);
        sent
    }

    /// Opens streams that say nothing; whether some were refused, or all of them with the connection.
    pub(crate) async fn idle_streams(&mut self, count: u32) -> bool {
        let (mut reader, mut writer) = tokio::io::split(&mut self.0);
        let opening = async {
            for at in 0..count {
                let open = frame(HEADERS, END_HEADERS, 2 * at + 1, &call_headers());
                if writer.write_all(&open).await.is_err() {
                    break;
                }
            }
            let _ = writer.flush().await;
            std::future::pending::<()>().await;
        };
        let refused = async {
            loop {
                let mut head = [0; 9];
                if reader.read_exact(&mut head).await.is_err() {
                    return true;
                }
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; length as usize];
                if reader.read_exact(&mut payload).await.is_err() {
                    return true;
                }
                match head[3] {
                    RST_STREAM | GOAWAY => return true,
                    DATA | HEADERS => return false,
                    _ => {}
                }
            }
        };
        let refused = tokio::time::timeout(Duration::from_secs(60), refused);
        tokio::select! {
            refused = refused => refused.unwrap_or(false),
            () = opening => unreachable!("it is pending"),
        }
    }
}

/// What a peer gets that has no certificate and asks all the same.
pub(crate) async fn without_certificate(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut settings = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    settings.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("signer.test").unwrap();
    let mut stream = TlsConnector::from(Arc::new(settings)).connect(name, stream).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await?;
    Ok(received)
}
