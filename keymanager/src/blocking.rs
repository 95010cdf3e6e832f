//! The way off the runtime for file and device calls that may block.

use ca_core::key::KeyError;

/// Runs `work` on one of tokio's blocking threads. Dropping the future does not stop it.
pub(crate) async fn run<T: Send + 'static>(
    place: &str,
    work: impl FnOnce() -> Result<T, KeyError> + Send + 'static,
) -> Result<T, KeyError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The runtime is shutting down, or `work` panicked and has printed why.
        Err(stopped) => Err(KeyError::Unavailable {
            place: place.to_owned(),
            reason: format!("the call was broken off: {stopped}"),
        }),
    }
}
