//! A PKCS#11 module for tests that stands before a real one (SoftHSM as a rule), passes every call on
//! and behaves on demand like hardware, or like hardware that fails.
//!
//! The crate is two things. The library that programs load (`libpkcs11_proxy.so`, found by
//! [`module_path()`]) hands out the function list of PKCS#11 2.40 over the module that the variable
//! [`MODULE_VARIABLE`] names. [`Control`] is the handle of tests: a block of numbers in a file that the
//! loaded module has mapped ([`CONTROL_VARIABLE`]), so that the test may be in the same process or in
//! another one, and everything can be set and read while calls are under way. Without that file the
//! proxy changes nothing.
//!
//! Both variables are read once per process, at the first `C_GetFunctionList`. A test binary says
//! [`test_process!`] once, which names a SoftHSM directory and a control file before any thread
//! runs; a test that steers a child process gives it the two variables.
//!
//! ```no_run
//! use pkcs11_proxy::{Effect, Function, Rule, When, cryptoki_sys, testing};
//! use std::time::Duration;
//!
//! # fn main() {
//! let device = testing::device(); // this process's control, for one test at a time
//! // A device of 30 slots that takes 2 ms for a signature.
//! device.set_slots(30);
//! device.set_latency(Function::Sign, Duration::from_millis(2));
//! // The third signature from now on fails.
//! let third = When::Nth(3);
//! let lost = Effect::Fail(cryptoki_sys::CKR_DEVICE_ERROR);
//! device.add(Rule { function: Function::Sign, when: third, effect: lost }).expect("a free rule");
//! # }
//! ```
//!
//! # What a call meets, in this order
//! 1. It is counted ([`Control::calls`]), and the rules of its function see it.
//! 2. A device that is away refuses it ([`Control::remove_device`]).
//! 3. A rule may hold it ([`Effect::Hang`]).
//! 4. If its function has a latency, it gets a slot, in the order of arrival, and a time at which it
//!    ends: the moment at which the slot is free for it plus the latency.
//! 5. The real module does the work, unless a rule fails the call. That time is part of the latency.
//! 6. It waits until its end has come, and answers.
//!
//! # Whose initialisation
//! The proxy has a life cycle of its own. If the real module has been initialised by others in this
//! process (as [`softhsm::Token::fresh`] does), the proxy's `C_Initialize` succeeds all the same, and its
//! `C_Finalize` only closes the sessions that were opened through it. Otherwise both are passed on.
//!
//! # Limits
//! Calls of one process share the slots; one process at a time uses one control file. Handles of the
//! real module's sessions have to fit 48 bits. `C_WaitForSlotEvent` is not looked at.

mod block;
mod control;
mod device;
mod environment;
mod function;
mod lie;
mod locate;
mod rule;
mod slots;
mod table;
pub mod testing;
mod wait;

pub use control::{Control, ControlError};
pub use cryptoki_sys;
pub use function::Function;
pub use lie::Lie;
pub use locate::{NotBuilt, module_path};
pub use rule::{Effect, Rule, RuleId, When};

/// Names the module that calls are passed on to: an absolute path. Without it, SoftHSM in its usual
/// places ([`softhsm::find_module`]).
pub const MODULE_VARIABLE: &str = "PKCS11_PROXY_MODULE";

/// Names the control file ([`Control::create`]). Without it, the proxy changes nothing.
pub const CONTROL_VARIABLE: &str = "PKCS11_PROXY_CONTROL";
