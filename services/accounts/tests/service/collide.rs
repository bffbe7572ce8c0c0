//! Transactions that the database refuses for others' sake, though it is there.

use anyhow::{Context, Result};
use posthaste_testkit::TestDatabase;

use crate::mailbox::Accounts;
use crate::stage::Stage;

/// From now on the next `times` rows for `users` are refused as if they collided. A sequence counts them, which no
/// rollback turns back.
async fn collide(accounts: &Accounts, times: u32) -> Result<()> {
    let store = accounts.service.store();
    for sql in [
        "DROP TRIGGER IF EXISTS collide ON users",
        "DROP SEQUENCE IF EXISTS collisions",
        "CREATE SEQUENCE collisions",
        &format!(
            "CREATE OR REPLACE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN \
             IF nextval(''collisions'') <= {times} THEN RAISE EXCEPTION USING ERRCODE = ''40001''; END IF; \
             RETURN NEW; END'"
        ),
        "CREATE TRIGGER collide BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION collide()",
    ] {
        store.execute(sql, vec![]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_sign_up_that_collides_is_tried_again_and_never_goes_around_the_database() -> Result<()> {
    let stage = Stage::over(TestDatabase::postgres().await?).await?;
    let accounts = Accounts::start(&stage).await?;
    let service = &accounts.service;
    collide(&accounts, 2).await?;
    let reply = accounts.sign_up("ann@example.com").await?;
    assert_eq!(reply.status, 201, "{reply:?}");
    let id = reply.body["user_id"].as_str().context("an id")?;
    let read = service.get(&format!("/users/{id}")).await?;
    assert_eq!(read.body["verification_state"], "PENDING", "at once: {read:?}");
    let sent = "outbox_messages WHERE topic = 'user_onboarding_queue'";
    assert_eq!(service.count(sent).await?, 1, "with the claim");
    accounts.mail_to("ann@example.com", 1).await?;
    accounts.settled().await?;

    collide(&accounts, 1000).await?;
    for door in [
        accounts.sign_up("bob@example.com").await?,
        accounts.register("bob@example.com").await?,
    ] {
        assert_eq!((door.status, door.header("retry-after")), (503, Some("2")), "{door:?}");
    }
    assert_eq!(service.count(sent).await?, 1);
    assert_eq!(
        service
            .count("queue_messages WHERE topic = 'user_onboarding_queue'")
            .await?,
        0
    );
    let came = "inbox_messages WHERE subscription = 'accounts.onboard_user'";
    assert_eq!(service.count(came).await?, 1, "nothing went around the database");
    accounts.stop().await?;
    stage.finish().await
}
