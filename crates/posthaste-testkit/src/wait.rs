//! Waiting for a condition instead of for a length of time.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long between two looks at the condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks again and again until `probe` answers `Some`, and hands that on.
///
/// # Errors
/// When `limit` has passed; the error names `what` was waited for. One probe that hangs counts as well.
pub async fn wait_until<T, F, P>(what: &str, limit: Duration, mut probe: P) -> Result<T>
where
    F: Future<Output = Option<T>>,
    P: FnMut() -> F,
{
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, probe()).await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) if Instant::now() < end => tokio::time::sleep(PAUSE.min(left)).await,
            Ok(None) | Err(_) => bail!("waited {limit:?} in vain for {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::wait_until;

    #[tokio::test]
    async fn answers_as_soon_as_the_probe_does() {
        let looks = Cell::new(0);
        let answer = wait_until("the third look", Duration::from_secs(10), || {
            looks.set(looks.get() + 1);
            std::future::ready((looks.get() == 3).then_some("seen"))
        });
        assert_eq!(answer.await.unwrap(), "seen");
    }

    #[tokio::test]
    async fn names_what_did_not_come() {
        let never = wait_until("a miracle", Duration::from_millis(30), || {
            std::future::ready(None::<()>)
        })
        .await;
        assert!(never.unwrap_err().to_string().contains("a miracle"));
    }

    #[tokio::test]
    async fn a_probe_that_hangs_does_not_hang_the_test() {
        let hung = wait_until(
            "an answer",
            Duration::from_millis(30),
            std::future::pending::<Option<()>>,
        )
        .await;
        assert!(hung.is_err());
    }
}
