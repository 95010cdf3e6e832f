//! What a message may hold, looked at before any of it is decoded.
//!
//! A message that is decoded takes more memory than its bytes: an item that is two bytes on the wire becomes a hundred,
//! an empty text twenty-four. So what a message repeats is counted in its bytes first, and a message that repeats more
//! than may be is never decoded. [`Codec`] does so wherever a message of `mintmark.signing.v1` is read.

use std::marker::PhantomData;

use bytes::Buf as _;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::signing::v1::{FollowRequest, FollowResponse, MintRequest, MintResponse};

/// Most items of a `MintRequest`.
pub const MOST_ITEMS: usize = 1024;
/// Most DNS names and audiences of all items of a `MintRequest` together.
pub const MOST_NAMES: usize = 16 * 1024;

/// A message whose bytes can be looked at before they are decoded.
pub trait Bounded: Message + Default {
    /// Looks at the bytes of a message.
    ///
    /// # Errors
    /// With what the stream is to end, if they hold more than may be.
    fn check(_bytes: &[u8]) -> Result<(), Status> {
        Ok(())
    }
}

impl Bounded for FollowRequest {}
// The signer is trusted by those who read its answers.
impl Bounded for MintResponse {}
impl Bounded for FollowResponse {}

impl Bounded for MintRequest {
    fn check(bytes: &[u8]) -> Result<(), Status> {
        let Counted { items, names } = Counted::of(bytes);
        let too_many = |text| Err(Status::invalid_argument(text));
        if items > MOST_ITEMS {
            return too_many(format!("a message has {items} items; {MOST_ITEMS} are allowed"));
        }
        if names > MOST_NAMES {
            return too_many(format!(
                "a message has {names} DNS names and audiences; {MOST_NAMES} are allowed"
            ));
        }
        Ok(())
    }
}

/// What a `MintRequest` repeats.
#[derive(Debug, Default, Clone, Copy)]
struct Counted {
    items: usize,
    names: usize,
}

/// Fields by their numbers in `signing.proto`.
mod field {
    pub(super) const X509: u32 = 1;
    pub(super) const JWT: u32 = 2;
    pub(super) const AUDIENCE: u32 = 4;
    pub(super) const NAMED: u32 = 6;
    pub(super) const DNS_NAMES: u32 = 2;
}

impl Counted {
    fn of(message: &[u8]) -> Self {
        let mut counted = Self::default();
        each(message, |number, item| match number {
            field::X509 => {
                counted.items += 1;
                each(item, |number, named| {
                    // One that comes twice is merged: all of its names are kept.
                    if number == field::NAMED {
                        counted.names += count(named, field::DNS_NAMES);
                    }
                });
            }
            field::JWT => {
                counted.items += 1;
                counted.names += count(item, field::AUDIENCE);
            }
            _ => {}
        });
        counted
    }
}

fn count(message: &[u8], wanted: u32) -> usize {
    let mut count = 0;
    each(message, |number, _| count += usize::from(number == wanted));
    count
}

/// Hands over each field that has bytes of its own, by its number, as far as the message can be read. Where it cannot,
/// decoding ends too, and says so.
fn each<'a>(mut message: &'a [u8], mut look: impl FnMut(u32, &'a [u8])) {
    while let Ok((number, wire_type)) = decode_key(&mut message) {
        if wire_type != WireType::LengthDelimited {
            match skip_field(wire_type, number, &mut message, DecodeContext::default()) {
                Ok(()) => continue,
                Err(_) => return,
            }
        }
        let length = decode_varint(&mut message).ok().and_then(|length| length.try_into().ok());
        let Some((content, rest)) = length.and_then(|length| message.split_at_checked(length))
        else {
            return;
        };
        look(number, content);
        message = rest;
    }
}

/// As [`ProstCodec`], for messages that are looked at first.
#[derive(Debug, Clone)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Bounded + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Checked<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Checked(ProstCodec::<T, U>::default().decoder())
    }
}

/// Decodes what has been looked at.
#[derive(Debug, Clone)]
pub struct Checked<U>(ProstDecoder<U>);

impl<U: Bounded> Decoder for Checked<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // A message lies in one piece: tonic gathers it before it asks.
        if buffer.chunk().len() != buffer.remaining() {
            return Err(Status::internal("a message is not in one piece"));
        }
        U::check(buffer.chunk())?;
        self.0.decode(buffer)
    }
}
