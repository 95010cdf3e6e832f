//! A line on the terminal that says how far a run is.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use mintmark_loadtest::course::Window;
use mintmark_loadtest::run::Glance;

/// What is shown while a run lasts; nothing where nobody looks.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
    part: Mutex<(String, Duration)>,
}

impl Progress {
    /// Shows itself if standard error is a terminal.
    pub(crate) fn new() -> Self {
        Self { shown: io::stderr().is_terminal(), part: Mutex::default() }
    }

    /// Shows what the run is doing.
    pub(crate) fn show(&self, glance: &Glance<'_>) {
        let mut part = self.part.lock().expect("showing does not panic");
        match glance {
            Glance::Begins(name, planned) => {
                *part = ((*name).to_owned(), *planned);
                self.line(name);
            }
            Glance::Window(window) => self.line(&line(&part.0, part.1, window)),
            Glance::Checks => self.line(&format!("{}  checking the last answers", part.0)),
        }
    }

    /// Leaves the line to what comes next.
    pub(crate) fn end(&self) {
        self.line("");
    }

    fn line(&self, text: &str) {
        if self.shown {
            // Back to its beginning and clear the rest (ECMA-48 §8.3.41).
            let _ = write!(io::stderr(), "\r{text}\x1b[K");
        }
    }
}

fn line(name: &str, planned: Duration, window: &Window) -> String {
    const CELLS: f64 = 20.0;
    let part = (window.end.as_secs_f64() / planned.as_secs_f64().max(1e-9)).min(1.0);
    let full = (0..20).take_while(|cell| f64::from(*cell) < (part * CELLS).floor()).count();
    let length = (window.end - window.start).as_secs_f64().max(1e-9);
    #[expect(clippy::cast_precision_loss, reason = "shown without decimals")]
    let rate = |count: u64| count as f64 / length;
    let span = |span: Option<Duration>| {
        span.map_or("-".to_owned(), |span| format!("{:.2} ms", span.as_secs_f64() * 1e3))
    };
    format!(
        "{name}  [{}{}] {:.0}/{:.0} s  {:.0}/s of {:.0}/s  p50 {}  p99 {}  errors {}  dropped {}",
        "=".repeat(full),
        " ".repeat(20 - full),
        window.end.as_secs_f64(),
        planned.as_secs_f64(),
        rate(window.ok),
        rate(window.offered),
        span(window.p50),
        span(window.p99),
        window.errors,
        window.dropped
    )
}
