//! Loading credentials, which takes longer than some of those who ask have time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The longest that a load may take.
const LONGEST: Duration = Duration::from_secs(30);
/// For how long after its start a load is good for whoever asks next.
const KEPT: Duration = Duration::from_secs(60);

/// Loads by another provider, in a task: who asks and leaves, as a signature does at the end of its attempt,
/// leaves the load to the next one.
#[derive(Debug)]
pub(super) struct Unhurried {
    provider: SharedCredentialsProvider,
    /// Held by whoever waits for it; the SDK has one wait at a time, and gives the others its answer.
    load: Arc<Mutex<Option<Load>>>,
}

#[derive(Debug)]
struct Load {
    began: Instant,
    task: JoinHandle<provider::Result>,
}

impl Unhurried {
    pub(super) fn new(provider: SharedCredentialsProvider) -> Self {
        Self { provider, load: Arc::default() }
    }

    async fn wait(&self) -> provider::Result {
        let mut slot = self.load.lock().await;
        let load = slot.take().filter(|load| load.began.elapsed() < KEPT);
        // Back in its place before the wait, which may be cut short.
        let load = slot.insert(load.unwrap_or_else(|| Load::begin(self.provider.clone())));
        let answer = (&mut load.task).await;
        *slot = None;
        answer.unwrap_or_else(|error| Err(CredentialsError::unhandled(error)))
    }
}

impl ProvideCredentials for Unhurried {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.wait())
    }
}

impl Load {
    /// Ends by itself, or with the last who could ask for it.
    fn begin(provider: SharedCredentialsProvider) -> Self {
        let task = tokio::spawn(async move {
            let load = timeout(LONGEST, provider.provide_credentials()).await;
            load.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(LONGEST)))
        });
        Self { began: Instant::now(), task }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use aws_credential_types::Credentials;
    use tokio::time::sleep;

    use super::*;

    /// Takes its time, and counts how often it was asked.
    #[derive(Debug, Clone, Default)]
    struct Slow(Arc<AtomicU32>);

    impl ProvideCredentials for Slow {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(async {
                let number = self.0.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(400)).await;
                Ok(Credentials::new(format!("AKIA{number}"), "secret", None, None, "slow"))
            })
        }
    }

    #[tokio::test]
    async fn a_load_outlasts_those_who_wait_too_briefly_and_serves_the_next() {
        let slow = Slow::default();
        let provider = Unhurried::new(SharedCredentialsProvider::new(slow.clone()));
        let asked = |patience| timeout(Duration::from_millis(patience), provider.wait());
        for _ in 0..3 {
            assert!(asked(50).await.is_err(), "it was given before it was loaded");
        }
        assert_eq!(asked(2000).await.unwrap().unwrap().access_key_id(), "AKIA0");
        assert_eq!(slow.0.load(Ordering::Relaxed), 1, "each of them began a load of its own");
        assert_eq!(asked(2000).await.unwrap().unwrap().access_key_id(), "AKIA1");
    }
}
