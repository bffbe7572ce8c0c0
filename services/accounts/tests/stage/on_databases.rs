//! Tests on one database and nothing else.

/// Makes three tests of each function `async fn(Stage) -> anyhow::Result<()>`: one on SQLite, one on PostgreSQL, one on
/// MariaDB.
macro_rules! on_each_stage {
    ($($test:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                super::$test(crate::stage::Stage::of(posthaste_testkit::TestDatabase::sqlite()?)).await
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                super::$test(crate::stage::Stage::of(posthaste_testkit::TestDatabase::postgres().await?)).await
            })*
        }
        mod on_mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                super::$test(crate::stage::Stage::of(posthaste_testkit::TestDatabase::mysql().await?)).await
            })*
        }
    };
}
