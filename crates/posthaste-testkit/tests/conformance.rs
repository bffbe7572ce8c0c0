//! The suites on every store and transport: one line each.

use anyhow::Result;
use posthaste_testkit::conformance::{At, carry_messages, handle_messages, identify_messages, keep_rows};
use posthaste_testkit::{TestDatabase, servers};

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

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_mysql() -> Result<()> {
                let database = TestDatabase::mysql().await?;
                $suite::$case(database.url()).await
            }
        }
    )*};
}

/// `$name`: the database of the test and the URL of the transport.
macro_rules! on_transport {
    ($name:ident, $database:expr, $transport:expr, [$($suite:ident :: $case:ident),* $(,)?]) => {
        mod $name {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() -> Result<()> {
                    let database = $database;
                    $suite::$case(&At::new(database.url(), $transport)).await
                }
            )*
        }
    };
}

macro_rules! on_every_transport {
    ($($suite:ident :: $case:ident),* $(,)?) => {
        on_transport!(sql_on_sqlite, TestDatabase::sqlite()?, "sql:", [$($suite::$case),*, handle_messages::rows_written_by_hand, identify_messages::rows_written_by_hand_are_told_apart]);
        on_transport!(sql_on_postgres, TestDatabase::postgres().await?, "sql:", [$($suite::$case),*, handle_messages::rows_written_by_hand, identify_messages::rows_written_by_hand_are_told_apart]);
        on_transport!(sql_on_mysql, TestDatabase::mysql().await?, "sql:", [$($suite::$case),*, handle_messages::rows_written_by_hand, identify_messages::rows_written_by_hand_are_told_apart]);
        on_transport!(memory_on_sqlite, TestDatabase::sqlite()?, "memory:", [$($suite::$case),*]);
        on_transport!(kafka_on_sqlite, TestDatabase::sqlite()?, &kafka()?, [$($suite::$case),*]);
        on_transport!(kafka_on_postgres, TestDatabase::postgres().await?, &kafka()?, [$($suite::$case),*]);
        on_transport!(rabbitmq_on_sqlite, TestDatabase::sqlite()?, &servers::rabbitmq()?, [$($suite::$case),*]);
        on_transport!(rabbitmq_on_postgres, TestDatabase::postgres().await?, &servers::rabbitmq()?, [$($suite::$case),*]);
    };
}

fn kafka() -> Result<String> {
    Ok(format!("kafka://{}", servers::kafka()?))
}

on_every_store! {
    keep_rows::store_basics,
    keep_rows::hung_up_callers_leave_nothing_open,
    keep_rows::keys_are_compared_byte_by_byte,
    keep_rows::a_refused_request_leaves_its_key_free,
}

on_every_transport! {
    carry_messages::attributes_survive,
    carry_messages::single_publishes_are_confirmed,
    carry_messages::unsettled_deliveries_come_again,
    carry_messages::readers_hand_over,
    handle_messages::duplicates_have_one_effect,
    handle_messages::poison_costs_only_itself,
    handle_messages::acts_outside_are_marked,
    handle_messages::undecodable_is_dead_as_it_came,
    handle_messages::order_per_key_through_retries,
    handle_messages::a_long_queue_behind_one_key_drains,
    handle_messages::dead_letters_replay_and_discard,
    handle_messages::scheduled_messages_wait,
    handle_messages::survivors_take_over,
    identify_messages::other_bytes_are_no_repeat,
    identify_messages::a_retried_message_keeps_its_identity,
    identify_messages::a_discarded_message_may_be_corrected,
}

#[tokio::test]
async fn absent_database_is_unavailable() -> Result<()> {
    keep_rows::absent_database_is_unavailable().await
}
