//! From an attempt to the delay before the next one, or to the dead letters.

use std::time::Duration;

use crate::failure::Failure;
use crate::invoke::{Blame, blame};

/// Exponential back-off with full jitter in its upper half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included; afterwards the message is dead. At least 1.
    pub attempts: u32,
    /// Attempts after the first that follow without a delay.
    pub immediate: u32,
    /// Delay before the first delayed attempt; doubled for each further one.
    pub first_delay: Duration,
    /// Upper bound of the delay.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 10,
            immediate: 1,
            first_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(300),
        }
    }
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try again after this time.
    After(Duration),
    /// The attempts are used up.
    Dead,
}

impl RetryPolicy {
    /// The longest delay that it can ask for.
    pub(crate) fn longest(&self) -> Duration {
        self.max_delay.max(self.first_delay)
    }

    /// What follows the `failed`th attempt (counted from 1). `jitter` in 0.0..1.0 spreads the delay
    /// over the upper half of its range, so that many failures at one moment do not return at one.
    pub fn next(&self, failed: u32, jitter: f64) -> Next {
        if failed >= self.attempts.max(1) {
            return Next::Dead;
        }
        if failed <= self.immediate {
            return Next::After(Duration::ZERO);
        }
        Next::After(back_off(
            failed - self.immediate - 1,
            self.first_delay,
            self.max_delay,
            jitter,
        ))
    }
}

/// What becomes of a message after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Tried again after this time; the attempt counts.
    Retry(Duration),
    /// Tried again after this time; the attempt does not count.
    Snooze(Duration),
    /// Given up.
    Dead,
}

/// When what failed because of the database, not of the message, is tried again.
const NOT_ITS_FAULT: Duration = Duration::from_millis(200);

/// When a message is tried again that met a database that has to be mended first.
const UNMENDED: Duration = Duration::from_secs(10);

/// Decides after `attempt` (counted from 1) ended in `failure`; `jitter` as in [`RetryPolicy::next`].
pub(crate) fn decide(failure: &Failure, attempt: u32, policy: &RetryPolicy, jitter: f64) -> Decision {
    match (failure, blame(failure)) {
        (_, Blame::Unavailable | Blame::Collision) => Decision::Snooze(NOT_ITS_FAULT),
        (_, Blame::Environment) => Decision::Snooze(UNMENDED),
        (Failure::Later(after), _) => Decision::Snooze(*after),
        (Failure::Reject(_), _) => Decision::Dead,
        (Failure::Retry(_), _) => match policy.next(attempt, jitter) {
            Next::After(after) => Decision::Retry(after),
            Next::Dead => Decision::Dead,
        },
    }
}

impl Decision {
    /// Attempts that count from now on, and the time until the next one; `None`: there is none.
    pub fn counted(self, attempt: u32) -> (u32, Option<Duration>) {
        match self {
            Self::Retry(after) => (attempt, Some(after)),
            Self::Snooze(after) => (attempt.saturating_sub(1), Some(after)),
            Self::Dead => (attempt, None),
        }
    }
}

/// How often a transaction that collided with another one is tried again before that counts as a failure.
pub(crate) const COLLISIONS: u32 = 8;

/// How long to wait before the attempt after collision `n`.
pub(crate) fn after_collision(n: u32) -> Duration {
    back_off(n, Duration::from_millis(5), Duration::from_millis(100), jitter())
}

/// `first` doubled `step` times, at most `max`, less up to half of it by `jitter` in 0.0..1.0.
pub fn back_off(step: u32, first: Duration, max: Duration, jitter: f64) -> Duration {
    let full = first
        .saturating_mul(1u32.checked_shl(step.min(31)).unwrap_or(u32::MAX))
        .min(max);
    full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

/// Randomness for delays: the random bits of a fresh UUIDv4 spare a dependency.
pub(crate) fn jitter() -> f64 {
    let bits = uuid::Uuid::new_v4().as_u128() as u32;
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts: 6,
        immediate: 1,
        first_delay: Duration::from_secs(2),
        max_delay: Duration::from_secs(10),
    };

    #[test]
    fn doubles_to_the_cap_then_dies() {
        let delays: Vec<Next> = (1..=6).map(|n| POLICY.next(n, 1.0)).collect();
        let s = |n| Next::After(Duration::from_secs(n));
        assert_eq!(delays, [s(0), s(2), s(4), s(8), s(10), Next::Dead]);
    }

    #[test]
    fn jitter_takes_at_most_half() {
        assert_eq!(POLICY.next(2, 0.0), Next::After(Duration::from_secs(1)));
    }

    #[test]
    fn only_what_the_handler_is_to_blame_for_counts() {
        use sea_orm::DbErr;

        use crate::store::StoreError;

        let failed = || Failure::from(std::io::Error::other("no"));
        let database = |of: fn(DbErr) -> StoreError| Failure::from(of(DbErr::Custom("no".to_owned())));
        let decided = |failure, attempt| decide(&failure, attempt, &POLICY, 1.0).counted(attempt);
        let s = |n| Some(Duration::from_secs(n));
        assert_eq!(decided(failed(), 1), (1, s(0)));
        assert_eq!(decided(failed(), 3), (3, s(4)));
        assert_eq!(decided(failed(), 6), (6, None));
        assert_eq!(decided(database(StoreError::Statement), 6), (6, None));
        assert_eq!(decided(Failure::Reject("no".to_owned()), 1), (1, None));
        assert_eq!(decided(Failure::Later(Duration::from_secs(77)), 6), (5, s(77)));
        assert_eq!(decided(database(StoreError::Unavailable), 6), (5, Some(NOT_ITS_FAULT)));
        assert_eq!(decided(database(StoreError::Collision), 6), (5, Some(NOT_ITS_FAULT)));
        assert_eq!(decided(database(StoreError::Environment), 6), (5, Some(UNMENDED)));
    }

    #[test]
    fn one_attempt_means_no_retry_and_huge_steps_do_not_overflow() {
        let once = RetryPolicy { attempts: 1, ..POLICY };
        assert_eq!(once.next(1, 0.5), Next::Dead);
        let long = RetryPolicy {
            attempts: u32::MAX,
            ..POLICY
        };
        assert_eq!(long.next(u32::MAX - 1, 1.0), Next::After(Duration::from_secs(10)));
    }
}
