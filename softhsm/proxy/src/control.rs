//! The handle by which tests set and read everything.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use cryptoki_sys::{CK_ATTRIBUTE_TYPE, CK_MECHANISM_TYPE, CK_RV};

use crate::block::{Block, LIES, MARK, MOST_SLOTS, Mapping, RULES};
use crate::rule::nanoseconds;
use crate::{Function, Lie, Rule, RuleId, wait};

/// Why there is no control, or no more room in it.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The file failed.
    #[error("cannot use the control file {path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another program or another build wrote it.
    #[error("{0} is not a control file of this build; make it anew with Control::create")]
    OtherLayout(PathBuf),
    /// All places are taken.
    #[error("there is room for {0} of these at once; remove one first")]
    Full(usize),
}

/// The control of a proxy: what is set here holds for the calls that arrive from now on.
#[derive(Debug)]
pub struct Control {
    block: Mapping,
    path: PathBuf,
}

/// Which file.
impl Control {
    /// Makes a control file without faults, mode 0600. An older one of that name is replaced; who has
    /// it mapped keeps it.
    ///
    /// # Errors
    /// [`ControlError::File`].
    pub fn create(path: &Path) -> Result<Self, ControlError> {
        let at = |source| ControlError::File { path: path.to_owned(), source };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(at(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(at)?;
        file.set_len(size_of::<Block>() as u64).map_err(at)?;
        let block = Mapping::of(&file).map_err(at)?;
        block.mark.store(MARK, Release);
        Ok(Self { block, path: path.to_owned() })
    }

    /// Opens the control file that [`create`](Self::create) made, in this process or another one.
    ///
    /// # Errors
    /// [`ControlError::File`], [`ControlError::OtherLayout`].
    pub fn open(path: &Path) -> Result<Self, ControlError> {
        let at = |source| ControlError::File { path: path.to_owned(), source };
        let file = File::options().read(true).write(true).open(path).map_err(at)?;
        let other = || ControlError::OtherLayout(path.to_owned());
        if file.metadata().map_err(at)?.len() != size_of::<Block>() as u64 {
            return Err(other());
        }
        let block = Mapping::of(&file).map_err(at)?;
        if block.mark.load(Acquire) != MARK {
            return Err(other());
        }
        Ok(Self { block, path: path.to_owned() })
    }

    /// The file, for another process's [`CONTROL_VARIABLE`](crate::CONTROL_VARIABLE).
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The block itself, for the module.
    pub(crate) fn into_block(self) -> Mapping {
        self.block
    }

    /// Takes back everything that was set, brings the device back, releases held calls and sets the
    /// counters to 0. Sessions that were lost stay lost.
    pub fn reset(&self) {
        self.clear_rules();
        self.clear_lies();
        for latency in &self.block.latencies {
            latency.store(0, Relaxed);
        }
        for hidden in &self.block.hidden_mechanisms {
            hidden.store(0, Relaxed);
        }
        self.set_slots(0);
        self.set_seed(0);
        self.set_session_limit(0);
        self.set_needs_initialize(false);
        self.restore_device();
        self.set_removal_code(0);
        self.release();
        for calls in &self.block.calls {
            calls.store(0, Relaxed);
        }
        self.block.strays.store(0, Relaxed);
        self.block.sessions.restart();
        self.block.signing.restart();
    }
}

/// Speed.
impl Control {
    /// How long a call of this function takes, the real module's work included (when that takes
    /// longer, so does the call). Zero: as long as the real module needs. [`Function::SignLength`] is what
    /// a client pays for asking a signature's length first.
    pub fn set_latency(&self, function: Function, latency: Duration) {
        self.block.latencies[function.index()].store(nanoseconds(latency), Relaxed);
        self.settings_changed();
    }

    /// On how many calls the device works at once; the others wait in the order of their arrival.
    /// Functions without a latency take no slot. 0 (at first) and more than 4096: no limit. Changing slots or latency
    /// lets calls in a slot finish as they were, and starts with all slots free.
    pub fn set_slots(&self, slots: u32) {
        let slots = if slots > MOST_SLOTS { 0 } else { slots };
        self.block.slots.store(slots, Relaxed);
        self.settings_changed();
    }

    fn settings_changed(&self) {
        self.block.setting.fetch_add(1, Release);
        wait::ring(&self.block.bell);
    }
}

/// Faults of calls.
impl Control {
    /// Sets one more rule, 16 at most.
    ///
    /// # Errors
    /// [`ControlError::Full`].
    pub fn add(&self, rule: Rule) -> Result<RuleId, ControlError> {
        let place = self.block.rules.iter().position(|cell| cell.take(rule));
        place.map(RuleId).ok_or(ControlError::Full(RULES))
    }

    /// Takes a rule back; its place may be another rule's from then on.
    pub fn remove(&self, rule: RuleId) {
        self.block.rules[rule.0].free();
    }

    /// Takes all rules back.
    pub fn clear_rules(&self) {
        self.block.rules.iter().for_each(|cell| cell.free());
    }

    /// How often a rule has fired; kept after it was removed until another one has its place.
    #[must_use]
    pub fn fired(&self, rule: RuleId) -> u64 {
        self.block.rules[rule.0].fired()
    }

    /// What [`When::Chance`](crate::When::Chance) and the bits of [`Effect::Corrupt`](crate::Effect::Corrupt)
    /// are drawn from.
    pub fn set_seed(&self, seed: u64) {
        self.block.seed.store(seed, Relaxed);
    }

    /// Lets every call go on that [`Effect::Hang`](crate::Effect::Hang) holds now.
    pub fn release(&self) {
        self.block.releases.fetch_add(1, Release);
        wait::ring(&self.block.bell);
    }

    /// How many calls are held now.
    #[must_use]
    pub fn hanging(&self) -> u64 {
        self.block.hanging.now()
    }
}

/// The device as a whole.
impl Control {
    /// Takes the device away for this time: no slot has a token, and every call that touches one
    /// answers the [removal code](Self::set_removal_code), as do those under way. All sessions are
    /// gone for good, with their login: afterwards their handles are invalid. With a time of zero the
    /// sessions alone are lost. `Duration::MAX`: until [`restore_device`](Self::restore_device).
    pub fn remove_device(&self, time: Duration) {
        self.remove_device_until(wait::now().saturating_add(nanoseconds(time)));
    }

    /// As [`remove_device`](Self::remove_device), until an instant in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn remove_device_until(&self, instant: u64) {
        self.block.away_until.store(instant, Release);
        self.block.removals.fetch_add(1, Release);
    }

    /// Brings the device back at once.
    pub fn restore_device(&self) {
        self.block.away_until.store(0, Release);
    }

    /// What calls answer while the device is away; 0 (at first) for `CKR_DEVICE_REMOVED`.
    pub fn set_removal_code(&self, code: CK_RV) {
        self.block.away_code.store(code, Relaxed);
    }

    /// Whether a device that came back goes on answering the removal code until the library has been
    /// initialised again, as many a vendor's library does. At first it does not.
    pub fn set_needs_initialize(&self, needs: bool) {
        self.block.needs_initialize.store(u32::from(needs), Relaxed);
    }

    /// How many sessions may be open at once, counting those opened through the proxy; beyond that
    /// `C_OpenSession` answers `CKR_SESSION_COUNT`. 0 (at first) for no limit.
    pub fn set_session_limit(&self, sessions: u64) {
        self.block.session_limit.store(sessions, Relaxed);
    }

    /// Hides a mechanism, 8 at most: it is not listed, has no description, and neither signs nor makes
    /// keys.
    ///
    /// # Errors
    /// [`ControlError::Full`].
    pub fn hide_mechanism(&self, mechanism: CK_MECHANISM_TYPE) -> Result<(), ControlError> {
        let value = mechanism.wrapping_add(1);
        let place = self
            .block
            .hidden_mechanisms
            .iter()
            .find(|hidden| hidden.compare_exchange(0, value, Relaxed, Relaxed).is_ok());
        place.map(|_| ()).ok_or(ControlError::Full(LIES))
    }

    /// Tells a lie about this attribute of every private key, 8 at most; of two about one attribute the
    /// first holds.
    ///
    /// # Errors
    /// [`ControlError::Full`].
    pub fn lie(&self, attribute: CK_ATTRIBUTE_TYPE, lie: Lie) -> Result<(), ControlError> {
        let told = self.block.lies.iter().any(|cell| cell.take(attribute, lie));
        told.then_some(()).ok_or(ControlError::Full(LIES))
    }

    /// Takes back all lies about attributes.
    pub fn clear_lies(&self) {
        self.block.lies.iter().for_each(|cell| cell.free());
    }
}

/// Counters.
impl Control {
    /// How often a function was called, failed calls included.
    #[must_use]
    pub fn calls(&self, function: Function) -> u64 {
        self.block.calls[function.index()].load(Relaxed)
    }

    /// The sessions that are open now through the proxy. Those of a process that was killed are
    /// counted until the next one loads the proxy.
    #[must_use]
    pub fn sessions_open(&self) -> u64 {
        self.block.sessions.now()
    }

    /// The most sessions that were open at once.
    #[must_use]
    pub fn most_sessions(&self) -> u64 {
        self.block.sessions.most()
    }

    /// The calls with a session's handle of before the last `C_Initialize`. The proxy refuses them; a
    /// real module may count its handles from 1 again and take such a call for another session's. A
    /// client that starts its library anew has to make none.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.block.strays.load(Relaxed)
    }

    /// The calls of `C_Sign` that are under way, without those that ask for the length.
    #[must_use]
    pub fn signing(&self) -> u64 {
        self.block.signing.now()
    }

    /// The most calls of `C_Sign` that were under way at once.
    #[must_use]
    pub fn most_signing(&self) -> u64 {
        self.block.signing.most()
    }
}
