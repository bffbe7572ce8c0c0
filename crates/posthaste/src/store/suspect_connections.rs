//! Connections that may be dead without knowing it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When a database last kept us waiting to the end of a deadline. Its connections may be dead without
/// knowing: until they have proved otherwise, each is asked before it goes back to its pool.
static LAST_SILENCE: Mutex<Option<Instant>> = Mutex::new(None);
const SUSPICION: Duration = Duration::from_secs(300);

pub(super) fn note_silence() {
    *LAST_SILENCE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
}

fn recently_silent() -> bool {
    let last = *LAST_SILENCE.lock().unwrap_or_else(PoisonError::into_inner);
    last.is_some_and(|at| at.elapsed() < SUSPICION)
}

/// How long a connection that is suspected may take to answer.
const PROOF: Duration = Duration::from_secs(2);

/// Whether a connection may go back to its pool. The pool's own question at this point would wait for a dead one as
/// long as TCP does, and it counts until then.
pub(super) async fn still_answers(connection: &mut impl sqlx::Connection) -> Result<bool, sqlx::Error> {
    if recently_silent() {
        let silent = |_elapsed| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
        tokio::time::timeout(PROOF, connection.ping()).await.map_err(silent)??;
    }
    Ok(true)
}
