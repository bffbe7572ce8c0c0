//! The tests of `sessions` and `service` once more, on PostgreSQL, RabbitMQ and Redis. Those that bring their servers along
//! are in their own programs only.

/// Makes one test of each function `async fn(Stage) -> anyhow::Result<()>`.
macro_rules! on_each_stage {
    ($($test:ident),* $(,)?) => {
        mod on_servers {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() -> anyhow::Result<()> {
                super::$test(crate::stage::Stage::open().await?).await
            })*
        }
    };
}

#[path = "../stage/mod.rs"]
#[expect(dead_code, reason = "shared with the tests that need the rest of it")]
mod stage;

#[path = "../sessions/bound_growth.rs"]
mod bound_growth;
#[path = "../sessions/change_meanwhile.rs"]
mod change_meanwhile;
#[path = "../service/collide.rs"]
mod collide;
#[path = "../service/confuse_text.rs"]
mod confuse_text;
#[path = "../sessions/forge_tokens.rs"]
mod forge_tokens;
#[path = "../sessions/forger.rs"]
mod forger;
#[path = "../sessions/forgotten_password.rs"]
mod forgotten_password;
#[path = "../service/guard_doors.rs"]
mod guard_doors;
#[path = "../sessions/house.rs"]
mod house;
#[path = "../service/keep_secrets.rs"]
mod keep_secrets;
#[path = "../sessions/log_in.rs"]
mod log_in;
#[path = "../service/mailbox.rs"]
mod mailbox;
#[path = "../sessions/make_keys.rs"]
mod make_keys;
#[path = "../service/manage_users.rs"]
mod manage_users;
#[path = "../service/overload.rs"]
mod overload;
#[path = "../service/probe_doors.rs"]
mod probe_doors;
#[path = "../sessions/race_revocations.rs"]
mod race_revocations;
#[path = "../sessions/refresh_session.rs"]
mod refresh_session;
#[path = "../service/refuse_bad_input.rs"]
mod refuse_bad_input;
#[path = "../sessions/revoke.rs"]
mod revoke;
#[path = "../service/send_mail.rs"]
mod send_mail;
#[path = "../sessions/separate_process.rs"]
mod separate_process;
#[path = "../service/sign_up.rs"]
mod sign_up;
#[path = "../service/something_fails.rs"]
mod something_fails;

const STACK: stage::Stack = stage::Stack::Servers;
