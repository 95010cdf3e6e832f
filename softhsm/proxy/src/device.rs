//! What a call meets on its way to the real module, and the life of sessions.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cryptoki_sys::{
    CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID, CKR_CRYPTOKI_ALREADY_INITIALIZED,
    CKR_CRYPTOKI_NOT_INITIALIZED, CKR_GENERAL_ERROR, CKR_OK, CKR_SESSION_COUNT,
    CKR_SESSION_HANDLE_INVALID,
};

use crate::block::Block;
use crate::rule::{Verdict, nanoseconds};
use crate::slots::Slots;
use crate::table::Target;
use crate::{Effect, Function};

/// The one device of this process.
pub(crate) struct Device {
    target: Target,
    block: &'static Block,
    slots: Slots,
    /// Read by calls that are inside the real module, written by what must not happen beside them.
    life: RwLock<Option<Life>>,
    /// Those opened through us, and where.
    sessions: Mutex<HashMap<CK_SESSION_HANDLE, CK_SLOT_ID>>,
    /// The removal after which the sessions were closed.
    settled: AtomicU64,
    /// Counts what ends all sessions: a start of the library, a removal. Written with `life`.
    epoch: AtomicU64,
    /// The epoch in which the library was started last.
    started: AtomicU64,
}

/// The handles that clients have bear the low bits of the epoch above the real module's own, so that
/// a handle of the past is known as such even if the real module counts from 1 again.
const EPOCH_SHIFT: u32 = 48;
const EPOCH_MASK: u64 = 0xffff;

/// The time between `C_Initialize` and `C_Finalize`.
#[derive(Debug, Clone, Copy)]
struct Life {
    /// The real module was initialised by us: we finalise it.
    ours: bool,
    /// The last removal from which the device was back when this life began.
    knows: u64,
}

/// What became of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    /// What the caller is told.
    pub(crate) told: CK_RV,
    /// Whether the real module did it.
    pub(crate) done: bool,
    /// Which bit to flip, modulo the length.
    pub(crate) corrupt: Option<u64>,
}

impl Device {
    pub(crate) fn new(target: Target, block: &'static Block) -> Self {
        // What the process before this one had under way ended with it.
        for gauge in [&block.sessions, &block.signing, &block.hanging] {
            gauge.clear();
        }
        Self {
            target,
            block,
            slots: Slots::default(),
            life: RwLock::new(None),
            sessions: Mutex::new(HashMap::new()),
            settled: AtomicU64::new(block.removals()),
            epoch: AtomicU64::new(0),
            started: AtomicU64::new(0),
        }
    }

    pub(crate) fn block(&self) -> &'static Block {
        self.block
    }

    /// Takes a call through all that the crate's page names.
    pub(crate) fn call(&self, function: Function, real: impl FnOnce(&Target) -> CK_RV) -> Outcome {
        let verdict = self.block.arrive(function);
        let effect = verdict.map(|verdict| verdict.effect);
        let removals = self.block.removals();
        if let Err(told) = self.admit(function) {
            return Outcome { told, done: false, corrupt: None };
        }
        if let Some(Effect::Hang(time)) = effect {
            self.block.hang(nanoseconds(time));
        }
        let turn = self.slots.book(self.block, function);
        let answer = match effect {
            Some(Effect::Fail(code)) if !function.ends_operation() => Err(code),
            _ => self.inside(real),
        };
        self.slots.wait(self.block, function, turn);
        self.outcome(function, verdict, answer, removals)
    }

    /// As [`call`](Self::call), in a session.
    pub(crate) fn call_in(
        &self,
        function: Function,
        session: CK_SESSION_HANDLE,
        real: impl FnOnce(&Target, CK_SESSION_HANDLE) -> CK_RV,
    ) -> Outcome {
        self.call(function, |target| match self.real_session(session) {
            Ok(session) => real(target, session),
            Err(code) => code,
        })
    }

    fn outcome(
        &self,
        function: Function,
        verdict: Option<Verdict>,
        answer: Result<CK_RV, CK_RV>,
        removals: u64,
    ) -> Outcome {
        let done = answer == Ok(CKR_OK);
        let answer = answer.unwrap_or_else(|code| code);
        if function.touches_token() && self.block.removals() != removals {
            // Removed on the way, even if it is back by now.
            return Outcome { told: self.block.away_code(), done, corrupt: None };
        }
        match verdict.map(|verdict| (verdict.effect, verdict.random)) {
            Some((Effect::Fail(told) | Effect::Lose(told), _)) => {
                Outcome { told, done, corrupt: None }
            }
            Some((Effect::Corrupt, random)) => {
                Outcome { told: answer, done, corrupt: Some(random) }
            }
            _ => Outcome { told: answer, done, corrupt: None },
        }
    }

    /// Calls the real module, or says why that cannot be.
    fn inside(&self, real: impl FnOnce(&Target) -> CK_RV) -> Result<CK_RV, CK_RV> {
        let life = self.reading();
        life.ok_or(CKR_CRYPTOKI_NOT_INITIALIZED)?;
        Ok(real(&self.target))
    }

    /// Refuses a call while the device is away, after closing the sessions that went with it.
    fn admit(&self, function: Function) -> Result<(), CK_RV> {
        let life = *self.reading();
        let life = life.ok_or(CKR_CRYPTOKI_NOT_INITIALIZED)?;
        if !function.touches_token() {
            return Ok(());
        }
        let removals = self.block.removals();
        let away = self.block.is_away();
        if self.settled.load(Acquire) < removals {
            self.settle(removals, away);
        }
        let waits = self.block.needs_initialize.load(Relaxed) != 0 && life.knows < removals;
        if away || waits { Err(self.block.away_code()) } else { Ok(()) }
    }

    /// Closes all sessions in the real module, when no call is inside it.
    fn settle(&self, removals: u64, away: bool) {
        let life = if away {
            // Another caller does it: this one is refused without waiting for those inside.
            let Ok(life) = self.life.try_write() else { return };
            life
        } else {
            self.writing()
        };
        if life.is_some() && self.settled.load(Acquire) < removals {
            self.close_sessions();
            self.epoch.fetch_add(1, Release);
            self.settled.store(removals, Release);
        }
    }

    fn close_sessions(&self) {
        for (session, _) in self.sessions().drain() {
            self.target.close(session);
            self.block.sessions.leave();
        }
    }

    fn reading(&self) -> RwLockReadGuard<'_, Option<Life>> {
        self.life.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> RwLockWriteGuard<'_, Option<Life>> {
        self.life.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<CK_SESSION_HANDLE, CK_SLOT_ID>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The library's life.
impl Device {
    pub(crate) fn initialize(&self, real: impl FnOnce(&Target) -> CK_RV) -> CK_RV {
        if let Some(code) = self.refusal(Function::Initialize) {
            return code;
        }
        let mut life = self.writing();
        if life.is_some() {
            return CKR_CRYPTOKI_ALREADY_INITIALIZED;
        }
        let ours = match real(&self.target) {
            CKR_OK => true,
            CKR_CRYPTOKI_ALREADY_INITIALIZED => false,
            code => return code,
        };
        let removals = self.block.removals();
        let knows = if self.block.is_away() { removals.saturating_sub(1) } else { removals };
        self.started.store(self.epoch.fetch_add(1, Release) + 1, Release);
        *life = Some(Life { ours, knows });
        self.settled.store(removals, Release);
        CKR_OK
    }

    pub(crate) fn finalize(&self, real: impl FnOnce(&Target) -> CK_RV) -> CK_RV {
        if let Some(code) = self.refusal(Function::Finalize) {
            return code;
        }
        let mut life = self.writing();
        let Some(current) = *life else { return CKR_CRYPTOKI_NOT_INITIALIZED };
        self.close_sessions();
        let answer = if current.ours { real(&self.target) } else { CKR_OK };
        if answer == CKR_OK {
            *life = None;
        }
        answer
    }

    /// A rule's answer to a call that has no more than that: the two of this life.
    fn refusal(&self, function: Function) -> Option<CK_RV> {
        match self.block.arrive(function)?.effect {
            Effect::Fail(code) | Effect::Lose(code) => Some(code),
            Effect::Hang(time) => {
                self.block.hang(nanoseconds(time));
                None
            }
            Effect::Corrupt => None,
        }
    }
}

/// Sessions.
impl Device {
    /// `real` opens a session and says which.
    pub(crate) fn open_session(
        &self,
        slot: CK_SLOT_ID,
        real: impl FnOnce(&Target) -> Result<CK_SESSION_HANDLE, CK_RV>,
    ) -> Result<CK_SESSION_HANDLE, CK_RV> {
        let mut opened = None;
        let outcome = self.call(Function::OpenSession, |target| {
            if !self.block.sessions.enter(self.block.session_limit.load(Relaxed)) {
                return CKR_SESSION_COUNT;
            }
            match real(target) {
                Ok(session) if session >> EPOCH_SHIFT != 0 => {
                    target.close(session);
                    self.block.sessions.leave();
                    CKR_GENERAL_ERROR
                }
                Ok(session) => {
                    opened = Some(self.handle(session));
                    self.sessions().insert(session, slot);
                    CKR_OK
                }
                Err(code) => {
                    self.block.sessions.leave();
                    code
                }
            }
        });
        match opened {
            Some(handle) if outcome.told == CKR_OK => Ok(handle),
            Some(handle) => {
                // Nobody would close what nobody has.
                let _ = self.inside(|target| self.close(target, handle));
                Err(outcome.told)
            }
            None => Err(outcome.told),
        }
    }

    pub(crate) fn close_session(&self, handle: CK_SESSION_HANDLE) -> CK_RV {
        self.call(Function::CloseSession, |target| self.close(target, handle)).told
    }

    pub(crate) fn close_all_sessions(
        &self,
        slot: CK_SLOT_ID,
        real: impl FnOnce(&Target) -> CK_RV,
    ) -> CK_RV {
        let close = |target: &Target| {
            let answer = real(target);
            if answer == CKR_OK {
                let mut sessions = self.sessions();
                sessions.extract_if(|_, at| *at == slot).for_each(|_| self.block.sessions.leave());
            }
            answer
        };
        self.call(Function::CloseAllSessions, close).told
    }

    /// Called inside, as are the three below.
    fn close(&self, target: &Target, handle: CK_SESSION_HANDLE) -> CK_RV {
        let session = match self.real_session(handle) {
            Ok(session) => session,
            Err(code) => return code,
        };
        // Forgotten first: once it is closed, its number may be another's.
        let known = self.sessions().remove(&session);
        let answer = target.close(session);
        match known {
            Some(_) if answer == CKR_OK => self.block.sessions.leave(),
            Some(slot) => drop(self.sessions().insert(session, slot)),
            None => {}
        }
        answer
    }

    /// The handle that a client gets.
    fn handle(&self, session: CK_SESSION_HANDLE) -> CK_SESSION_HANDLE {
        (self.epoch.load(Acquire) & EPOCH_MASK) << EPOCH_SHIFT | session
    }

    /// The real module's handle, if this one is of the present.
    fn real_session(&self, handle: CK_SESSION_HANDLE) -> Result<CK_SESSION_HANDLE, CK_RV> {
        let epoch = self.epoch.load(Acquire);
        let age = epoch.wrapping_sub(handle >> EPOCH_SHIFT) & EPOCH_MASK;
        if age == 0 {
            return Ok(handle & !(EPOCH_MASK << EPOCH_SHIFT));
        }
        if age > epoch - self.started.load(Acquire) {
            self.block.strays.fetch_add(1, Relaxed);
        }
        Err(CKR_SESSION_HANDLE_INVALID)
    }
}

/// Signatures.
impl Device {
    /// As [`call`](Self::call), seen by the gauge if it signs.
    pub(crate) fn sign(
        &self,
        function: Function,
        session: CK_SESSION_HANDLE,
        real: impl FnOnce(&Target, CK_SESSION_HANDLE) -> CK_RV,
    ) -> Outcome {
        if function != Function::Sign {
            return self.call_in(function, session, real);
        }
        self.block.signing.enter(0);
        let outcome = self.call_in(function, session, real);
        self.block.signing.leave();
        outcome
    }

    /// Whether a slot shows a token.
    pub(crate) fn is_away(&self) -> bool {
        self.block.is_away()
    }
}
