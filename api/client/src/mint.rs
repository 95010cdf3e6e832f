//! Asking for SVIDs over a `Mint` stream: batches go in, answers come out as they are ready, each beside what the caller
//! gave with its item.
//!
//! There is no task and no channel for an item: a batch is one message, and who reads the answers does all else. An
//! item is answered once. If the stream ends first, [`NotMinted::Lost`] is the answer; the signer may have minted for it all
//! the same, and whoever asks again asks for another SVID.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ca_core::clock::Timestamp;
use mintmark_proto::signing::v1::{
    Failure, JwtItem, JwtResult, MintRequest, MintResponse, X509Item, X509Result, jwt_result,
    x509_result,
};
use prost::Message as _;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Status, Streaming};
use zeroize::Zeroizing;

use crate::signer::{LARGEST_MESSAGE, Signer};

/// Most items of a message.
const MOST_ITEMS: usize = 1024;
/// What an item takes in a message beside its own bytes: a tag and a length, and the request id that it has not yet.
const FRAMING: usize = 17;
/// What items may take of a message; the rest is for framing, and for the name of an instance.
const LARGEST_ITEM: usize = LARGEST_MESSAGE - 1024;

/// What is asked for at once. Of each item the stream sets `request_id`; the tag comes back with its answer.
#[derive(Debug)]
pub struct Batch<T> {
    /// X509-SVIDs.
    pub x509: Vec<(T, X509Item)>,
    /// JWT-SVIDs.
    pub jwt: Vec<(T, JwtItem)>,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { x509: Vec::new(), jwt: Vec::new() }
    }
}

impl<T> Batch<T> {
    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.x509.len() + self.jwt.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was given with the items.
    pub fn into_tags(self) -> impl Iterator<Item = T> {
        let x509 = self.x509.into_iter().map(|(tag, _)| tag);
        x509.chain(self.jwt.into_iter().map(|(tag, _)| tag))
    }
}

/// What came of one item.
#[derive(Debug)]
pub struct Answer<T> {
    /// What was given with it.
    pub tag: T,
    /// The SVID, or why there is none.
    pub outcome: Result<Svid, NotMinted>,
}

/// What was minted.
pub enum Svid {
    /// A certificate.
    X509 {
        /// DER.
        leaf: Bytes,
        /// DER of the CA certificates that follow it, in order, without the root.
        intermediates: Arc<[Bytes]>,
        /// The last second in which it is valid.
        expires_at: Timestamp,
    },
    /// A bearer token.
    Jwt {
        /// JWS Compact Serialization.
        token: Zeroizing<String>,
        /// The last second in which it is valid.
        expires_at: Timestamp,
    },
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, expires_at) = match self {
            Self::X509 { expires_at, .. } => ("X509", expires_at),
            Self::Jwt { expires_at, .. } => ("Jwt", expires_at),
        };
        f.debug_struct(name).field("expires_at", expires_at).finish_non_exhaustive()
    }
}

/// Why there is no SVID.
#[derive(Debug, Clone, Error)]
pub enum NotMinted {
    /// The signer says so.
    #[error("{}", .0.text)]
    Failed(Failure),
    /// The stream has ended, and nobody knows what became of the item.
    #[error("the stream ended before an answer: {}", .0.message())]
    Lost(Arc<Status>),
    /// The signer's answer holds nothing.
    #[error("the signer's answer holds no SVID")]
    Empty,
}

/// A batch that was not sent, whole.
#[derive(Debug, Error)]
#[error("{why}")]
pub struct NotSent<T> {
    /// Why.
    pub why: Why,
    /// What was not sent.
    pub batch: Batch<T>,
}

/// Why a batch was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Why {
    /// As many items as may are unanswered.
    #[error("as many items as may are unanswered; wait for answers")]
    Full,
    /// The batch has more items than may be unanswered at all.
    #[error("the batch has more items than may be unanswered at once; send it in parts")]
    TooMany,
    /// An item is larger than any message may be.
    #[error("an item is larger than {LARGEST_MESSAGE} bytes, which no signer reads")]
    TooLarge,
    /// The stream has ended.
    #[error("the stream has ended; open another")]
    Ended,
}

impl Signer {
    /// Opens a stream on which at most `most` items are unanswered at once. `instance` tells processes apart that share
    /// this front end's name, in the signer's log; it may be empty.
    ///
    /// # Errors
    /// The signer's or the connection's. A connection has room for eight streams; a ninth waits for one of them to end.
    pub async fn mint<T>(
        &self,
        instance: &str,
        most: usize,
    ) -> Result<(Sender<T>, Answers<T>), Status> {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        // No message without an item: the bound on items is one on messages.
        let (messages, mut sent) = mpsc::channel(most);
        let requests = futures_util::stream::poll_fn(move |context| sent.poll_recv(context));
        let stream = self.client().mint(requests).await?.into_inner();
        let shared = Arc::new(Shared {
            most,
            room: Semaphore::new(most),
            waiting: Mutex::new(Waiting::new(instance)),
        });
        let sender = Sender { shared: Arc::clone(&shared), messages };
        Ok((sender, Answers { shared, stream: Some(stream), ended: None }))
    }
}

/// Where batches go in. Once it is gone, the stream ends with its last answer.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    messages: mpsc::Sender<MintRequest>,
}

impl<T> Sender<T> {
    /// Sends a batch, if there is room for all of it. Never blocks.
    ///
    /// # Errors
    /// Why it was not sent, with the batch.
    pub fn try_send(&self, batch: Batch<T>) -> Result<(), NotSent<T>> {
        let Some(permits) = self.permits(&batch) else {
            return Err(NotSent { why: Why::TooMany, batch });
        };
        match self.shared.room.try_acquire_many(permits) {
            Ok(room) => self.sent(batch).map(|()| room.forget()),
            Err(tokio::sync::TryAcquireError::NoPermits) => Err(NotSent { why: Why::Full, batch }),
            Err(tokio::sync::TryAcquireError::Closed) => Err(NotSent { why: Why::Ended, batch }),
        }
    }

    /// Sends a batch as soon as there is room for all of it; who came first is first.
    ///
    /// # Errors
    /// Why it was not sent, with the batch.
    pub async fn send(&self, batch: Batch<T>) -> Result<(), NotSent<T>> {
        let Some(permits) = self.permits(&batch) else {
            return Err(NotSent { why: Why::TooMany, batch });
        };
        match self.shared.room.acquire_many(permits).await {
            Ok(room) => self.sent(batch).map(|()| room.forget()),
            Err(_) => Err(NotSent { why: Why::Ended, batch }),
        }
    }

    fn permits(&self, batch: &Batch<T>) -> Option<u32> {
        u32::try_from(batch.len()).ok().filter(|_| batch.len() <= self.shared.most)
    }

    /// Hands over what there is room for.
    fn sent(&self, batch: Batch<T>) -> Result<(), NotSent<T>> {
        let x509 = batch.x509.iter().map(|(_, item)| item.encoded_len());
        let sizes = x509.chain(batch.jwt.iter().map(|(_, item)| item.encoded_len()));
        let (all, largest) = sizes
            .fold((0, 0), |(all, largest), size| (all + size + FRAMING, usize::max(largest, size)));
        if largest > LARGEST_ITEM {
            return Err(NotSent { why: Why::TooLarge, batch });
        }
        let mut waiting = self.shared.waiting();
        if waiting.over {
            drop(waiting);
            return Err(NotSent { why: Why::Ended, batch });
        }
        let whole = batch.len() <= MOST_ITEMS && all <= LARGEST_ITEM;
        for message in waiting.messages(batch, whole) {
            // Where nobody takes it any more, the end of the answers answers its items. The lock is held until then: the
            // message that names the instance is the first.
            let _ = self.messages.try_send(message);
        }
        Ok(())
    }
}

/// Where answers come out. The stream lives as long as this: what is unanswered when it is dropped has no answer.
#[derive(Debug)]
pub struct Answers<T> {
    shared: Arc<Shared<T>>,
    stream: Option<Streaming<MintResponse>>,
    ended: Option<Arc<Status>>,
}

impl<T> Answers<T> {
    /// The next answers, as many as came together; nothing once the stream has ended and every item has its answer.
    /// May be dropped before it is ready without losing any.
    pub async fn next(&mut self) -> Option<Vec<Answer<T>>> {
        let mut answers = Vec::new();
        loop {
            let stream = self.stream.as_mut()?;
            let end = match stream.message().await {
                Ok(Some(message)) => match self.shared.answered(message, &mut answers) {
                    Ok(()) if answers.is_empty() => continue,
                    Ok(()) => return Some(answers),
                    Err(unasked) => Status::from_error(Box::new(unasked)),
                },
                Ok(None) => Status::from_error(Box::new(EndedEarly)),
                Err(status) => status,
            };
            self.end(end, &mut answers);
            return (!answers.is_empty()).then_some(answers);
        }
    }

    /// With what the stream ended: an error of [`EndedEarly`] where the signer ended it without one, which is what follows
    /// when the [`Sender`] is dropped.
    #[must_use]
    pub fn ended(&self) -> Option<&Status> {
        self.ended.as_deref()
    }

    fn end(&mut self, status: Status, answers: &mut Vec<Answer<T>>) {
        self.stream = None;
        let status = Arc::clone(self.ended.insert(Arc::new(status)));
        let lost = |tag| Answer { tag, outcome: Err(NotMinted::Lost(Arc::clone(&status))) };
        answers.extend(self.shared.end().into_iter().map(lost));
    }
}

impl<T> Drop for Answers<T> {
    fn drop(&mut self) {
        drop(self.shared.end());
    }
}

/// The signer ended a stream on which items were unanswered, and did not say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the signer has ended the stream")]
pub struct EndedEarly;

/// The signer answered what nobody has asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the signer answered an item that does not wait for an answer")]
struct Unasked;

/// What both ends of a stream have.
#[derive(Debug)]
struct Shared<T> {
    most: usize,
    room: Semaphore,
    waiting: Mutex<Waiting<T>>,
}

impl<T> Shared<T> {
    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the answers of a message, each with what was given with its item.
    fn answered(&self, message: MintResponse, answers: &mut Vec<Answer<T>>) -> Result<(), Unasked> {
        let MintResponse { x509, jwt, intermediates } = message;
        let intermediates: Arc<[Bytes]> = intermediates.into();
        answers.reserve(x509.len() + jwt.len());
        let mut waiting = self.waiting();
        for X509Result { request_id, outcome } in x509 {
            let tag = waiting.take(request_id, Kind::X509).ok_or(Unasked)?;
            answers.push(Answer { tag, outcome: x509_outcome(outcome, &intermediates) });
        }
        for JwtResult { request_id, outcome } in jwt {
            let tag = waiting.take(request_id, Kind::Jwt).ok_or(Unasked)?;
            answers.push(Answer { tag, outcome: jwt_outcome(outcome) });
        }
        drop(waiting);
        self.room.add_permits(answers.len());
        Ok(())
    }

    /// Nothing more is sent; what was given with the items that have no answer.
    fn end(&self) -> Vec<T> {
        self.room.close();
        let mut waiting = self.waiting();
        waiting.over = true;
        waiting.free.clear();
        waiting.slots.drain(..).filter_map(|slot| slot.waits).map(|(_, tag)| tag).collect()
    }
}

fn x509_outcome(
    outcome: Option<x509_result::Outcome>,
    intermediates: &Arc<[Bytes]>,
) -> Result<Svid, NotMinted> {
    match outcome {
        Some(x509_result::Outcome::Svid(svid)) if !svid.leaf.is_empty() => Ok(Svid::X509 {
            leaf: svid.leaf,
            intermediates: Arc::clone(intermediates),
            expires_at: Timestamp::from_unix(svid.expires_at),
        }),
        Some(x509_result::Outcome::Failure(failure)) => Err(NotMinted::Failed(failure)),
        _ => Err(NotMinted::Empty),
    }
}

fn jwt_outcome(outcome: Option<jwt_result::Outcome>) -> Result<Svid, NotMinted> {
    match outcome {
        Some(jwt_result::Outcome::Svid(svid)) if !svid.token.is_empty() => Ok(Svid::Jwt {
            token: Zeroizing::new(svid.token),
            expires_at: Timestamp::from_unix(svid.expires_at),
        }),
        Some(jwt_result::Outcome::Failure(failure)) => Err(NotMinted::Failed(failure)),
        _ => Err(NotMinted::Empty),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    X509,
    Jwt,
}

/// The items that wait for an answer, each in a slot. A request id is the slot's place, and above it how often it was
/// used before: an answer that comes twice meets nobody else's item.
#[derive(Debug)]
struct Waiting<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    over: bool,
    /// Until the first message has taken it.
    instance: String,
}

#[derive(Debug)]
struct Slot<T> {
    turn: u32,
    waits: Option<(Kind, T)>,
}

impl<T> Waiting<T> {
    fn new(instance: &str) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), over: false, instance: instance.to_owned() }
    }

    /// As few messages as the items have room in: one, if that is known.
    fn messages(&mut self, batch: Batch<T>, whole: bool) -> Vec<MintRequest> {
        let mut parts = Vec::with_capacity(1);
        if batch.is_empty() {
            return parts;
        }
        let mut part = MintRequest {
            x509: Vec::with_capacity(batch.x509.len().min(MOST_ITEMS)),
            jwt: Vec::with_capacity(batch.jwt.len().min(MOST_ITEMS)),
            instance_id: std::mem::take(&mut self.instance),
            ..MintRequest::default()
        };
        let mut size = 0;
        let mut make_room = |part: &mut MintRequest, item: &dyn Fn() -> usize| {
            if whole {
                return;
            }
            let (items, item) = (part.x509.len() + part.jwt.len(), item() + FRAMING);
            size += item;
            if items == MOST_ITEMS || (items > 0 && size > LARGEST_ITEM) {
                parts.push(std::mem::take(part));
                size = item;
            }
        };
        for (tag, mut item) in batch.x509 {
            make_room(&mut part, &|| item.encoded_len());
            item.request_id = self.put(Kind::X509, tag);
            part.x509.push(item);
        }
        for (tag, mut item) in batch.jwt {
            make_room(&mut part, &|| item.encoded_len());
            item.request_id = self.put(Kind::Jwt, tag);
            part.jwt.push(item);
        }
        parts.push(part);
        parts
    }

    fn put(&mut self, kind: Kind, tag: T) -> u64 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { turn: 0, waits: None });
            u32::try_from(self.slots.len() - 1).expect("a batch has at most so many items")
        });
        let slot = &mut self.slots[place as usize];
        slot.waits = Some((kind, tag));
        u64::from(slot.turn) << 32 | u64::from(place)
    }

    fn take(&mut self, request_id: u64, kind: Kind) -> Option<T> {
        let place = u32::try_from(request_id & u64::from(u32::MAX)).ok()?;
        let slot = self.slots.get_mut(place as usize)?;
        if u64::from(slot.turn) != request_id >> 32 || slot.waits.as_ref()?.0 != kind {
            return None;
        }
        let (_, tag) = slot.waits.take()?;
        slot.turn = slot.turn.wrapping_add(1);
        self.free.push(place);
        Some(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(most: usize) -> Shared<char> {
        let waiting = Mutex::new(Waiting::new("i"));
        Shared { most, room: Semaphore::new(most), waiting }
    }

    /// Sends these, and says under which ids.
    fn asked(shared: &Shared<char>, x509: &str, jwt: &str) -> Vec<u64> {
        let x509 = x509.chars().map(|tag| (tag, X509Item::default())).collect();
        let jwt = jwt.chars().map(|tag| (tag, JwtItem::default())).collect();
        let parts = shared.waiting().messages(Batch { x509, jwt }, true);
        let ids = parts.iter().flat_map(|part| {
            let x509 = part.x509.iter().map(|item| item.request_id);
            x509.chain(part.jwt.iter().map(|item| item.request_id))
        });
        ids.collect()
    }

    fn message(x509: &[u64], jwt: &[u64]) -> MintResponse {
        let x509 = x509.iter().map(|&request_id| X509Result { request_id, outcome: None });
        let jwt = jwt.iter().map(|&request_id| JwtResult { request_id, outcome: None });
        MintResponse { x509: x509.collect(), jwt: jwt.collect(), intermediates: Vec::new() }
    }

    /// Who was answered, and whether all of the message made sense.
    fn answered(shared: &Shared<char>, message: MintResponse) -> (String, bool) {
        let mut answers = Vec::new();
        let good = shared.answered(message, &mut answers).is_ok();
        assert!(answers.iter().all(|answer| matches!(answer.outcome, Err(NotMinted::Empty))));
        (answers.into_iter().map(|answer| answer.tag).collect(), good)
    }

    #[test]
    fn an_answer_that_nobody_waits_for_is_nobodys_and_loses_none_of_its_neighbours() {
        let shared = shared(9);
        let ids = asked(&shared, "ab", "c");
        assert_eq!(answered(&shared, message(&[ids[1]], &[ids[2]])), ("bc".to_owned(), true));
        // Once more, when its slot has somebody else.
        let again = asked(&shared, "de", "");
        assert_eq!(answered(&shared, message(&[ids[0], ids[1]], &[])), ("a".to_owned(), false));
        // Of the other kind, and of no item at all.
        assert_eq!(answered(&shared, message(&[], &[again[0]])), (String::new(), false));
        assert_eq!(answered(&shared, message(&[u64::MAX], &[])), (String::new(), false));
        let mut left = shared.end();
        left.sort_unstable();
        assert_eq!(left, ['d', 'e']);
        assert_eq!(answered(&shared, message(&[again[0]], &[])), (String::new(), false));
    }

    #[test]
    fn the_first_message_alone_names_the_instance_and_none_is_too_long() {
        let mut waiting = Waiting::new("i");
        assert!(waiting.messages(Batch::default(), true).is_empty());
        let x509 = (0..2_000).map(|tag| (tag, X509Item::default())).collect();
        let jwt = (0..100).map(|tag| (tag, JwtItem::default())).collect();
        let parts = waiting.messages(Batch { x509, jwt }, false);
        let sizes: Vec<_> = parts.iter().map(|part| (part.x509.len(), part.jwt.len())).collect();
        assert_eq!(sizes, [(1024, 0), (976, 48), (0, 52)]);
        let names: Vec<_> = parts.iter().map(|part| &*part.instance_id).collect();
        assert_eq!(names, ["i", "", ""]);
    }
}
