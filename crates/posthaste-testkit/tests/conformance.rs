//! The suites on every store: one line each.

use anyhow::Result;
use posthaste_testkit::TestDatabase;
use posthaste_testkit::conformance::{handle_messages, keep_rows};

macro_rules! on_every_store {
    ($($suite:ident :: $case:ident),* $(,)?) => {$(
        mod $case {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() -> Result<()> {
                let database = TestDatabase::sqlite()?;
                $suite::$case(database.url()).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() -> Result<()> {
                let database = TestDatabase::postgres().await?;
                $suite::$case(database.url()).await
            }
        }
    )*};
}

on_every_store! {
    keep_rows::store_basics,
    keep_rows::hung_up_callers_leave_nothing_open,
    handle_messages::duplicates_have_one_effect,
    handle_messages::poison_costs_only_itself,
    handle_messages::undecodable_is_dead_as_it_came,
    handle_messages::order_per_key_through_retries,
    handle_messages::dead_letters_replay_and_discard,
    handle_messages::scheduled_messages_wait,
    handle_messages::survivors_take_over,
}

#[tokio::test]
async fn absent_database_is_unavailable() -> Result<()> {
    keep_rows::absent_database_is_unavailable().await
}
