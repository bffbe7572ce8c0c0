//! What is left of a user after the deletion: the messages that named it, in the outbox and among the dead letters.

use std::time::Duration;

use contracts::{UserCreated, UserRegistered, UserUpdated};
use posthaste::{Event, Store, StoreError, erasure};
use posthaste_host::Chore;

use crate::onboard_user::SignupRequested;
use crate::users_repository;

const EVERY: Duration = Duration::from_secs(60);
/// How often users whose messages were blanked are looked at again.
const AGAIN_EVERY: Duration = Duration::from_secs(60 * 60);
/// For how long, in microseconds: two days. What lay in a queue meanwhile may have become a dead letter.
const AGAIN_FOR: i64 = 2 * 24 * 60 * 60 * 1_000_000;
/// Most users that one step is done with: each is a look at the whole outbox.
const BATCH: usize = 10;
/// Most users that one step looks at: those that have to wait are in nobody's way.
const LOOKED_AT: i64 = 1000;

/// The messages with an address or a name in them; the events had them in earlier versions. All have the user's id as key.
const TOPICS: [&str; 5] = [
    SignupRequested::TOPIC,
    "user_onboarding_queue_dlq",
    UserRegistered::TOPIC,
    UserCreated::TOPIC,
    UserUpdated::TOPIC,
];

/// What workers do.
pub(crate) const CHORE: Chore = Chore {
    name: "erasure of deleted users",
    every: EVERY,
    step: |context| Box::pin(async move { erase(&context.store).await }),
};

/// What workers do more rarely.
pub(crate) const SECOND_LOOK: Chore = Chore {
    name: "second look at deleted users",
    every: AGAIN_EVERY,
    step: |context| Box::pin(async move { look_again(&context.store).await }),
};

/// Whether there may be more. A user whose messages still wait to be sent or handled comes again the next time.
async fn erase(store: &Store) -> Result<bool, StoreError> {
    let mut done = Vec::new();
    for user in users_repository::to_erase(store, LOOKED_AT).await? {
        if erasure::blank(store, &TOPICS, &user.to_string()).await? {
            done.push(user);
        }
        if done.len() == BATCH {
            break;
        }
    }
    let more = done.len() == BATCH;
    users_repository::erased(store, done).await?;
    Ok(more)
}

/// Blanks what has come since. Where something waits the user counts as not erased, and comes again until nothing does.
/// All in one step: there is no mark of who was looked at.
async fn look_again(store: &Store) -> Result<bool, StoreError> {
    let mut after = None;
    loop {
        let users = users_repository::erased_lately(store, AGAIN_FOR, after, LOOKED_AT).await?;
        let mut waiting = Vec::new();
        for user in &users {
            if !erasure::blank(store, &TOPICS, &user.to_string()).await? {
                waiting.push(*user);
            }
        }
        users_repository::not_erased(store, waiting).await?;
        match users.last() {
            Some(last) => after = Some(*last),
            None => return Ok(false),
        }
    }
}
