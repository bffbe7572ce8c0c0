//! What is left of a user after the deletion: the messages that named it, in the outbox and among the dead letters.

use std::time::Duration;

use contracts::{UserCreated, UserRegistered, UserUpdated};
use posthaste::{Event, Store, StoreError, erasure};
use posthaste_host::Chore;

use crate::onboard_user::SignupRequested;
use crate::users_repository;

const EVERY: Duration = Duration::from_secs(60);
/// Most users of one step: each is a look at the whole outbox.
const BATCH: i64 = 10;

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

/// Whether there may be more. A user whose messages still wait to be sent comes again the next time.
async fn erase(store: &Store) -> Result<bool, StoreError> {
    let users = users_repository::to_erase(store, BATCH).await?;
    let mut done = Vec::new();
    for user in &users {
        if erasure::blank(store, &TOPICS, &user.to_string()).await? {
            done.push(*user);
        }
    }
    let more = users.len() as i64 == BATCH && !done.is_empty();
    users_repository::erased(store, done).await?;
    Ok(more)
}
