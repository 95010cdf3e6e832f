//! What the process logs, down to the last detail, searched for the PIN line by line.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

static LOG: Mutex<Log> = Mutex::new(Log { text: String::new(), pin: String::new(), leak: None });

struct Log {
    /// The newest part.
    text: String,
    pin: String,
    /// The first line with the PIN.
    leak: Option<String>,
}

/// As much is kept.
const KEPT: usize = 1 << 20;

/// Begins anew, for a test whose token has this PIN.
pub(crate) fn start(pin: &str) {
    static SUBSCRIBER: Once = Once::new();
    SUBSCRIBER.call_once(|| {
        let lines = tracing_subscriber::fmt().with_ansi(false);
        lines
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_writer(ToLog)
            .init();
    });
    *log() = Log { text: String::new(), pin: pin.to_owned(), leak: None };
}

/// The line in which the PIN was logged, if it was.
pub(crate) fn leak() -> Option<String> {
    log().leak.clone()
}

/// How many lines with this were logged.
pub(crate) fn lines_with(part: &str) -> usize {
    log().text.lines().filter(|line| line.contains(part)).count()
}

fn log() -> MutexGuard<'static, Log> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

struct ToLog;

impl<'a> MakeWriter<'a> for ToLog {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for ToLog {
    /// Called with a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut log = log();
        let text = String::from_utf8_lossy(line);
        if text.contains(&log.pin) && log.leak.is_none() {
            log.leak = Some(text.clone().into_owned());
        }
        if log.text.len() > KEPT {
            log.text.clear();
        }
        log.text.push_str(&text);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
