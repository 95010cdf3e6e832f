//! Peers that do what no client library does: frames of HTTP/2 (RFC 9113 §4) written out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::credulous::Credulous;
use crate::stage::Shown;

/// `SETTINGS_INITIAL_WINDOW_SIZE` of nothing: answers cannot leave.
pub(crate) const NO_WINDOW: &[u8] = &[0, 4, 0, 0, 0, 0];

/// One of a byte: each answer begins to leave.
pub(crate) const WINDOW_OF_A_BYTE: &[u8] = &[0, 4, 0, 0, 0, 1];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// `SETTINGS_INITIAL_WINDOW_SIZE`, as a setting begins.
const INITIAL_WINDOW: [u8; 2] = [0, 4];
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection whose frames are ours.
pub(crate) struct RawPeer(pub(crate) TlsStream<TcpStream>);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call, in HPACK (RFC 7541): two from the static table, the others as literals.
fn call_headers(method: &str) -> Vec<u8> {
    let literal = |index: u8, value: &str| {
        [&[index, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
    };
    let content_type = [&[0x0f, 0x10][..], &[16], b"application/grpc"].concat();
    let path = literal(0x04, &format!("/mintmark.signing.v1.Signing/{method}"));
    [&[0x83, 0x86][..], &path, &literal(0x01, "signer"), &content_type].concat()
}

impl RawPeer {
    pub(crate) async fn greet(mut stream: TlsStream<TcpStream>, settings: &[u8]) -> Self {
        stream.write_all(&greeting(settings)).await.unwrap();
        Self(stream)
    }

    pub(crate) async fn greet_in_pieces(mut stream: TlsStream<TcpStream>) -> Self {
        for byte in greeting(&[]) {
            stream.write_all(&[byte]).await.unwrap();
            stream.flush().await.unwrap();
        }
        Self(stream)
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.0.write_all(&frame(kind, flags, stream, payload)).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Begins a call.
    pub(crate) async fn call(&mut self, method: &str, stream: u32) {
        self.send(HEADERS, END_HEADERS, stream, &call_headers(method)).await;
    }

    /// Goes on with it: bytes of messages with their heads, wherever they are cut.
    pub(crate) async fn say(&mut self, stream: u32, bytes: &[u8]) {
        for part in bytes.chunks(16 * 1024) {
            self.send(DATA, 0, stream, part).await;
        }
    }

    /// Begins calls and gives them up at once; says whether the server ended the connection.
    pub(crate) async fn resets(&mut self, count: u32) -> bool {
        let open = |stream| frame(HEADERS, END_HEADERS, stream, &call_headers("Mint"));
        let cancel = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        let (mut reader, mut writer) = tokio::io::split(&mut self.0);
        let resetting = async {
            for stream in (0..count).map(|at| 2 * at + 1) {
                let both = [open(stream), cancel(stream)].concat();
                if writer.write_all(&both).await.is_err() {
                    return;
                }
            }
            let _ = writer.flush().await;
        };
        let ended = async {
            while let Ok((kind, ..)) = next_frame(&mut reader).await {
                if kind == GOAWAY {
                    break;
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(60), ended);
        tokio::join!(resetting, ended).1.is_ok()
    }

    /// Whether the server ends that call within that time, or the connection.
    pub(crate) async fn ends(&mut self, stream: u32, within: Duration) -> bool {
        let ends = async {
            while let Ok((kind, flags, of, _)) = next_frame(&mut self.0).await {
                let end = kind == RST_STREAM || kind == HEADERS && flags & END_STREAM != 0;
                if of == stream && end || kind == GOAWAY {
                    return;
                }
            }
        };
        tokio::time::timeout(within, ends).await.is_ok()
    }

    /// The first bytes of an answer.
    pub(crate) async fn answer(&mut self) -> Vec<u8> {
        loop {
            if let (DATA, _, _, payload) = next_frame(&mut self.0).await.unwrap() {
                return payload;
            }
        }
    }

    /// How much may be sent on a stream before it is read: what the server's settings say, which come first.
    pub(crate) async fn window(&mut self) -> usize {
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()) as usize;
        let (mut of_stream, mut is_all) = (65_535, false);
        while !is_all {
            match next_frame(&mut self.0).await.unwrap() {
                (SETTINGS, 0, _, settings) => {
                    let mut settings = settings.chunks(6);
                    let window = settings.find(|setting| setting[..2] == INITIAL_WINDOW);
                    of_stream = window.map_or(of_stream, |setting| number(&setting[2..]));
                    // They hold from then on.
                    self.send(SETTINGS, ACK, 0, &[]).await;
                }
                // The connection's window comes after them.
                (WINDOW_UPDATE, _, 0, _) => is_all = true,
                _ => {}
            }
        }
        of_stream
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
            let mut next = frame(HEADERS, 0, 1, &call_headers("Mint"));
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
                let open = frame(HEADERS, END_HEADERS, 2 * at + 1, &call_headers("Mint"));
                if writer.write_all(&open).await.is_err() {
                    break;
                }
            }
            let _ = writer.flush().await;
            std::future::pending::<()>().await;
        };
        let refused = async {
            // It may end the connection too.
            while let Ok((kind, ..)) = next_frame(&mut reader).await {
                if kind == RST_STREAM || kind == GOAWAY {
                    break;
                }
            }
            true
        };
        let refused = tokio::time::timeout(Duration::from_secs(60), refused);
        tokio::select! {
            refused = refused => refused.unwrap_or(false),
            () = opening => unreachable!("it is pending"),
        }
    }
}

/// The next frame: its type, flags, stream and payload.
async fn next_frame(
    reader: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    reader.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    reader.read_exact(&mut payload).await?;
    Ok((kind, flags, u32::from_be_bytes(stream), payload))
}

/// What a connection begins with.
fn greeting(settings: &[u8]) -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, settings)[..]].concat()
}

/// A message with its head.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
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

/// Connects twice as a client that would resume any session; whether each handshake was a whole one, and how many
/// tickets came.
pub(crate) async fn eager(address: SocketAddr, shown: &Shown) -> Vec<(bool, u32)> {
    let mut settings = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_client_auth_cert(shown.chain.clone(), shown.private.clone_key())
        .unwrap();
    settings.alpn_protocols = vec![b"h2".to_vec()];
    settings.enable_early_data = true;
    let connector = TlsConnector::from(Arc::new(settings));
    let mut seen = Vec::new();
    for _ in 0..2 {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("signer.test").unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        let mut peer = RawPeer::greet(stream, &[]).await;
        // A ticket would come before the first frame.
        next_frame(&mut peer.0).await.unwrap();
        let tls = peer.0.get_ref().1;
        let whole = tls.handshake_kind() == Some(rustls::HandshakeKind::Full);
        seen.push((whole, tls.tls13_tickets_received()));
    }
    seen
}
