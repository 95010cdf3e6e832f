//! One `Mint` stream: what is read is admitted and refused at once, and answered as it is ready.
//!
//! All of it is done by whoever sends the answers: there is no task for a stream, a message or an item. A client that
//! does not take its answers is not read from, and one that leaves takes with it what is not signed yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ca_core::excerpt::Excerpt;
use ca_core::id::SpiffeId;
use ca_core::log::Caller;
use ca_core::mint::MintError;
use ca_core::pipeline::admission::Class;
use ca_core::pipeline::{Asked, Minted, Piece, Pipeline, Wish};
use futures_util::future::{BoxFuture, FutureExt as _, pending};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use mintmark_proto::signing::v1::{MintRequest, MintResponse, Priority};
use tokio::sync::watch;
use tonic::{Code, Status, Streaming};

use super::authorise::{Item, authorise};
use super::outbox::Outbox;
use super::seat::{Seat, Taken};
use crate::audit::Audit;
use crate::metrics::ServiceMetrics;
use crate::status::{Document, Failure};

/// The version of `mintmark.signing.v1` that is spoken here: all fields that restrict up to that one are known.
pub(crate) const VERSION: u32 = 1;
/// A stream that has so many unanswered is not read from.
const MOST_UNANSWERED: usize = 4096;
/// Small messages that are there are admitted together until they have so many items: as many as a batch has at least.
const TOGETHER: usize = 64;
/// How long a mint may take, its wait included.
const LONGEST_MINT: Duration = Duration::from_secs(20);
/// The longest name of an instance.
const LONGEST_INSTANCE: usize = 64;

/// What all streams share.
pub(super) struct Workshop {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) metrics: ServiceMetrics,
    pub(super) audit: Arc<Audit>,
}

/// Whose answer it is.
#[derive(Debug)]
struct Tag {
    request_id: u64,
    document: Document,
    id: Option<SpiffeId>,
}

type Answers = Vec<(Tag, Result<Minted, MintError>)>;

/// A stream under way.
pub(super) struct Minting {
    workshop: Arc<Workshop>,
    seat: Arc<Seat>,
    /// Nothing once nothing more is read.
    requests: Option<Streaming<MintRequest>>,
    /// Known from the first message on.
    caller: Option<Caller>,
    leaving: watch::Receiver<bool>,
    under_way: FuturesUnordered<BoxFuture<'static, Answers>>,
    unanswered: usize,
    outbox: Outbox,
    /// With what it ends, if not well.
    end: Option<Status>,
}

/// What comes next.
enum Event {
    Answered(Answers),
    Asked(Result<Option<MintRequest>, Status>),
    Leaving,
    RoomAgain,
}

impl Minting {
    pub(super) fn new(
        workshop: Arc<Workshop>,
        seat: Arc<Seat>,
        requests: Streaming<MintRequest>,
    ) -> Self {
        let leaving = seat.leaving.clone();
        Self {
            workshop,
            seat,
            requests: Some(requests),
            caller: None,
            leaving,
            under_way: FuturesUnordered::new(),
            unanswered: 0,
            outbox: Outbox::default(),
            end: None,
        }
    }

    /// The next message to send, or the end.
    pub(super) async fn next(mut self) -> Option<(Result<MintResponse, Status>, Self)> {
        loop {
            if let Some(message) = self.outbox.next() {
                return Some((Ok(message), self));
            }
            if self.requests.is_none() && self.under_way.is_empty() {
                let status = self.end.take()?;
                return Some((Err(status), self));
            }
            match self.event().await {
                Event::Answered(answers) => self.answered(answers),
                Event::Asked(Ok(Some(request))) => self.asked(request),
                Event::Asked(Ok(None)) => self.requests = None,
                Event::Asked(Err(status)) => self.unreadable(status),
                Event::Leaving => self.read_no_more(Failure::Stopping.into()),
                Event::RoomAgain => {}
            }
        }
    }

    async fn event(&mut self) -> Event {
        let room_again = self.seat.room.freed();
        let has_room = self.unanswered < MOST_UNANSWERED;
        let (requests, free) = match &mut self.requests {
            Some(requests) => (Some(requests), self.seat.room.is_free()),
            None => (None, true),
        };
        let reading = requests.is_some();
        let read = async {
            match requests {
                Some(requests) => requests.message().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(answers) = self.under_way.next(), if !self.under_way.is_empty() => {
                Event::Answered(answers)
            }
            // The sender is gone with the connection, and so is this.
            _ = self.leaving.wait_for(|leaving| *leaving), if reading => Event::Leaving,
            request = read, if reading && has_room && free => Event::Asked(request),
            () = room_again, if reading && has_room && !free => Event::RoomAgain,
        }
    }

    fn read_no_more(&mut self, status: Status) {
        self.requests = None;
        self.end = Some(status);
    }

    /// Ends the stream because the peer's messages cannot be read.
    fn unreadable(&mut self, status: Status) {
        // A connection that breaks concerns the peer alone, and is of no code that a fault of its would have.
        if status.code() == Code::Unknown || self.leaving.has_changed().is_err() {
            return self.read_no_more(status);
        }
        self.broken(Failure::Unreadable(status.into()));
    }

    /// Ends the stream for what the peer has sent.
    fn broken(&mut self, failure: Failure) {
        let caller = self.caller.clone().unwrap_or_else(|| Caller::FrontEnd {
            name: Arc::clone(self.seat.front_end.record.name().shared()),
            instance: Arc::default(),
        });
        self.workshop.audit.refused(&caller, "Mint stream", || None, &failure, Instant::now());
        self.read_no_more(failure.into());
    }

    /// Admits what may be of a message, and of those that are there already, and answers the rest. To admit a message
    /// costs as much as several items do, so small ones are better admitted together.
    fn asked(&mut self, request: MintRequest) {
        let now = Instant::now();
        let mut read = items(&request).max(1);
        let mut asked = Vec::with_capacity(read);
        self.decide(request, now, &mut asked);
        // A message without items, or with such as are refused, takes its part of a turn too.
        while read < TOGETHER
            && self.unanswered + asked.len() < MOST_UNANSWERED
            && let Some(requests) = &mut self.requests
            && let Some(next) = requests.message().now_or_never()
        {
            match next {
                Ok(Some(request)) => {
                    read += items(&request).max(1);
                    self.decide(request, now, &mut asked);
                }
                Ok(None) => self.requests = None,
                Err(status) => self.unreadable(status),
            }
        }
        let Some(caller) = self.caller.clone() else { return };
        for piece in self.workshop.pipeline.submit(asked, &caller) {
            self.unanswered += piece.items();
            let room = self.seat.room.take(piece.items());
            self.under_way.push(answers(piece, room).boxed());
        }
    }

    /// What of a message may be minted; the rest is answered.
    fn decide(&mut self, request: MintRequest, now: Instant, asked: &mut Vec<Asked<Tag>>) {
        let caller = match self.caller(&request) {
            Ok(caller) => caller,
            Err(failure) => return self.broken(failure),
        };
        for item in request.x509 {
            let (request_id, order) =
                (item.request_id, order(item.deadline_ms, item.priority, now));
            asked.extend(self.authorised(request_id, order, Item::X509(item), &caller));
        }
        for item in request.jwt {
            let (request_id, order) =
                (item.request_id, order(item.deadline_ms, item.priority, now));
            asked.extend(self.authorised(request_id, order, Item::Jwt(item), &caller));
        }
    }

    /// Who asks: the front end, and the instance that the first message names.
    fn caller(&mut self, request: &MintRequest) -> Result<Caller, Failure> {
        if let Some(caller) = &self.caller {
            return Ok(caller.clone());
        }
        if request.least_version > VERSION {
            return Err(Failure::Version(request.least_version));
        }
        let instance = request.instance_id.as_str();
        let is_of_it = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if instance.len() > LONGEST_INSTANCE || !instance.bytes().all(is_of_it) {
            return Err(Failure::InstanceId(Excerpt::of(instance)));
        }
        let name = Arc::clone(self.seat.front_end.record.name().shared());
        let caller = Caller::FrontEnd { name, instance: instance.into() };
        Ok(self.caller.insert(caller).clone())
    }

    fn authorised(
        &mut self,
        request_id: u64,
        (class, deadline): (Class, Instant),
        item: Item,
        caller: &Caller,
    ) -> Option<Asked<Tag>> {
        let document = match &item {
            Item::X509(_) => Document::X509Svid,
            Item::Jwt(_) => Document::JwtSvid,
        };
        let wish = match authorise(&self.seat.front_end, item) {
            Ok(wish) => wish,
            Err(refusal) => {
                let tag = Tag { request_id, document, id: None };
                self.failed(tag, Failure::Item(refusal), caller);
                return None;
            }
        };
        let tag = Tag { request_id, document, id: id_of(&wish) };
        match self.seat.front_end.budgets.take(class, 1, Instant::now()) {
            Ok(()) => Some(Asked { tag, wish, class, deadline }),
            Err(over) => {
                self.failed(tag, Failure::OverBudget(over), caller);
                None
            }
        }
    }

    /// Takes what is answered, and what else is by now.
    fn answered(&mut self, answers: Answers) {
        let Some(caller) = self.caller.clone() else { return };
        self.take(answers, &caller);
        while !self.outbox.is_full()
            && let Some(Some(more)) = self.under_way.next().now_or_never()
        {
            self.take(more, &caller);
        }
    }

    fn take(&mut self, answers: Answers, caller: &Caller) {
        self.unanswered -= answers.len();
        let mut minted = [0; 2];
        for (tag, answer) in answers {
            match answer {
                Ok(svid) => {
                    minted[tag.document as usize] += 1;
                    self.outbox.minted(tag.request_id, svid);
                }
                Err(error) => {
                    let failure = Failure::of_mint(tag.document, error);
                    self.failed(tag, failure, caller);
                }
            }
        }
        for document in [Document::X509Svid, Document::JwtSvid] {
            self.workshop.metrics.minted_many(document, minted[document as usize]);
        }
    }

    fn failed(&mut self, tag: Tag, failure: Failure, caller: &Caller) {
        let Tag { request_id, document, id } = tag;
        self.workshop.metrics.not_minted(document, &failure);
        let id = || id.map(|id| Excerpt::of(id.as_str()));
        self.workshop.audit.refused(caller, document.name(), id, &failure, Instant::now());
        self.outbox.failed(request_id, document, failure);
    }
}

/// The answers of a piece, which has room until then.
async fn answers(piece: Piece<Tag>, room: Taken) -> Answers {
    let late = tokio::time::sleep_until(piece.deadline().into());
    let answers = piece.answers(late).await;
    drop(room);
    answers
}

fn items(request: &MintRequest) -> usize {
    request.x509.len() + request.jwt.len()
}

/// Of which class an item is, and until when its answer is of use.
fn order(deadline_ms: u32, priority: i32, now: Instant) -> (Class, Instant) {
    let class = match Priority::try_from(priority) {
        Ok(Priority::Expiring) => Class::Expiring,
        Ok(Priority::Unspecified | Priority::New) => Class::New,
        Ok(Priority::Refresh) => Class::Refresh,
        Ok(Priority::Bulk) | Err(_) => Class::Bulk,
    };
    let within = match deadline_ms {
        0 => LONGEST_MINT,
        milliseconds => Duration::from_millis(milliseconds.into()).min(LONGEST_MINT),
    };
    (class, now + within)
}

fn id_of(wish: &Wish) -> Option<SpiffeId> {
    match wish {
        Wish::X509(grant) => Some(grant.id().clone()),
        Wish::Proven { names, .. } => Some(names.id().clone()),
        Wish::Jwt(grant) => Some(grant.id().clone()),
        Wish::Csr { .. } => None,
    }
}
