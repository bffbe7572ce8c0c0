//! What fails for a moment costs nobody a sign-up; what comes again has no second effect.

use anyhow::{Context, Result, ensure};
use posthaste::dead_letter::{self, Selection};
use posthaste_testkit::wait_until;
use serde_json::json;

use crate::mailbox::{Accounts, LIMIT, signup};
use crate::stage::Stage;

on_each_stage!(
    a_transient_failure_is_tried_again_and_ends_well,
    what_comes_again_has_no_second_effect,
    what_was_given_up_can_be_replayed,
    whoever_registers_while_the_address_is_given_up_has_a_password,
    a_token_is_good_for_one_user_one_use_and_a_day,
);

async fn a_transient_failure_is_tried_again_and_ends_well(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let service = &accounts.service;
    // The worker cannot write what it has to tell.
    service
        .refuse_rows("outbox_messages", "topic", "user.registered")
        .await?;
    let reply = accounts.sign_up("ann@example.com").await?;
    assert_eq!(reply.status, 201, "{reply:?}");
    let parked = "inbox_messages WHERE status IN ('retrying', 'waiting') AND attempts >= 3";
    wait_until("three attempts", LIMIT, || async {
        (service.count(parked).await.ok()? == 1).then_some(())
    })
    .await?;
    let id = reply.body["user_id"].as_str().context("an id")?;
    assert_eq!(
        service.get(&format!("/users/{id}")).await?.body["verification_state"],
        "PENDING"
    );
    service.accept_rows("outbox_messages").await?;
    accounts.mail_to("ann@example.com", 1).await?;
    accounts.settled().await?;
    assert_eq!(service.count("inbox_messages WHERE status = 'dead'").await?, 0);
    assert_eq!(accounts.told("user.registered").await?.len(), 1);
    accounts.stop().await
}

async fn what_comes_again_has_no_second_effect(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let service = &accounts.service;
    accounts.sign_up("ann@example.com").await?;
    accounts.mail_to("ann@example.com", 1).await?;
    accounts.settled().await?;
    // As if the process had died after the transport had the messages and before they were marked.
    let unmark = "UPDATE outbox_messages SET status = 'pending', published_at = NULL \
        WHERE topic IN ('user_onboarding_queue', 'user_mail_queue')";
    service.store().execute(unmark, vec![]).await?;
    // And as if somebody had put the sign-up into the queue by hand, without its id.
    let sql = "SELECT body FROM outbox_messages WHERE topic = 'user_onboarding_queue'";
    let body: Vec<u8> = service
        .store()
        .query(sql, vec![])
        .await?
        .first()
        .context("a message")?
        .get("body")?;
    accounts.put("user_onboarding_queue", &body).await?;
    let mail = accounts.mail;
    accounts.service.stop().await?;
    let accounts = Accounts::start_in(mail, &stage, &[]).await?;
    accounts
        .count_is("inbox_messages WHERE subscription = 'accounts.onboard_user'", 2)
        .await?;
    accounts.settled().await?;
    assert_eq!(accounts.service.count("users").await?, 1);
    assert_eq!(accounts.mails()?.len(), 1);
    assert_eq!(accounts.told("user.registered").await?.len(), 1);
    accounts.stop().await
}

async fn what_was_given_up_can_be_replayed(stage: Stage) -> Result<()> {
    let accounts =
        Accounts::start_with(&stage, &[("ONBOARDING_ATTEMPTS", "4"), ("ONBOARDING_RETRY_MS", "200")]).await?;
    let service = &accounts.service;
    service
        .refuse_rows("outbox_messages", "topic", "user_mail_queue")
        .await?;
    accounts.sign_up("ann@example.com").await?;
    accounts
        .count_is("inbox_messages WHERE status = 'dead' AND attempts = 4", 1)
        .await?;
    service.accept_rows("outbox_messages").await?;
    ensure!(dead_letter::replay(service.store(), &Selection::default()).await? == 1);
    accounts.mail_to("ann@example.com", 1).await?;
    accounts.settled().await?;
    assert_eq!(service.count("inbox_messages WHERE status = 'dead'").await?, 0);
    accounts.stop().await
}

async fn whoever_registers_while_the_address_is_given_up_has_a_password(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let service = &accounts.service;
    let first = accounts.sign_up("ann@example.com").await?;
    let first = first.body["user_id"].as_str().context("an id")?.to_owned();
    accounts.mail_to("ann@example.com", 1).await?;
    accounts.settled().await?;
    // The worker comes to the registration only after the address is free. MySQL refuses no rows where it has such a one.
    let tidy = "DELETE FROM outbox_messages WHERE topic = 'user_mail_queue'";
    service.store().execute(tidy, vec![]).await?;
    service
        .refuse_rows("outbox_messages", "topic", "user_mail_queue")
        .await?;
    let password = "seventeen brass lanterns";
    let mut again = signup("ann@example.com");
    again["password"] = json!(password);
    let reply = service.post("/api/v1/auth/register", &again).await?;
    assert_eq!(reply.status, 202, "{reply:?}");
    let parked = "inbox_messages WHERE status IN ('retrying', 'waiting') AND subscription = 'accounts.onboard_user'";
    accounts.count_is(parked, 1).await?;
    let path = format!("/api/v1/users/{first}");
    assert_eq!(service.send("DELETE", &path, &[], Vec::new()).await?.status, 200);
    service.accept_rows("outbox_messages").await?;

    let token = accounts.mail_to("ann@example.com", 2).await?.token()?;
    let verified = service
        .post("/api/v1/auth/verify-email", &json!({"token": token}))
        .await?;
    assert_eq!(verified.status, 204, "{verified:?}");
    let login = json!({"email": "ann@example.com", "password": password});
    let signed_in = service.post("/api/v1/auth/login", &login).await?;
    assert_eq!(signed_in.status, 200, "{signed_in:?}");
    // Nor is a hash kept where the address stays another's.
    assert_eq!(accounts.register("ann@example.com").await?.status, 202);
    accounts.mail_to("ann@example.com", 3).await?;
    accounts.settled().await?;
    assert_eq!(service.count("waiting_passwords").await?, 0);
    let everything = posthaste_testkit::dump_database(service.store()).await?;
    assert_eq!(
        everything.matches("$argon2id$").count(),
        1,
        "in its row and in no message"
    );
    accounts.stop().await
}

async fn a_token_is_good_for_one_user_one_use_and_a_day(stage: Stage) -> Result<()> {
    let accounts = Accounts::start_with(&stage, &[("POSTHASTE_AUTH", "enforced")]).await?;
    let service = &accounts.service;
    let verify = "/api/v1/auth/verify-email";
    let mut ids = Vec::new();
    let mut tokens = Vec::new();
    for email in ["ann@example.com", "bob@example.com", "eve@example.com"] {
        let reply = accounts.sign_up(email).await?;
        ids.push(reply.body["user_id"].as_str().context("an id")?.to_owned());
        tokens.push(accounts.mail_to(email, 1).await?.token()?);
    }
    let put = async |id: &str, token: &str| {
        let body = json!({"token": token}).to_string().into_bytes();
        service
            .send(
                "PUT",
                &format!("/users/{id}"),
                &[("Content-Type", "application/json")],
                body,
            )
            .await
    };
    // Another one's, and one bit off.
    assert_eq!(put(&ids[0], &tokens[1]).await?.status, 401);
    let mut off = tokens[0].clone();
    let last = off.pop().context("a token")?;
    off.push(if last == 'A' { 'B' } else { 'A' });
    let refused = put(&ids[0], &off).await?;
    assert_eq!(
        (refused.status, refused.header("www-authenticate")),
        (401, Some("Bearer")),
        "{refused:?}"
    );
    assert_eq!(service.post(verify, &json!({"token": off})).await?.status, 400);

    let right = put(&ids[0], &tokens[0]).await?;
    assert_eq!(
        (right.status, &right.body["message"]),
        (200, &json!("User verified successfully")),
        "{right:?}"
    );
    // Its answer may have been lost; that it was used late matters no more.
    let late = "UPDATE users SET verification_expires_at = created_at WHERE id = $1";
    let id = service.store().dialect().uuid(ids[0].parse()?);
    service.store().execute(late, vec![id]).await?;
    let repeated = put(&ids[0], &tokens[0]).await?;
    assert_eq!(
        (repeated.status, &repeated.body["message"]),
        (200, &json!("User already verified")),
        "{repeated:?}"
    );
    assert_eq!(put(&ids[1], &tokens[0]).await?.status, 401, "another one's");
    assert_eq!(
        service.post(verify, &json!({"token": tokens[0]})).await?.status,
        400,
        "used"
    );

    let id = service.store().dialect().uuid(ids[1].parse()?);
    service.store().execute(late, vec![id]).await?;
    assert_eq!(
        service.post(verify, &json!({"token": tokens[1]})).await?.status,
        400,
        "too late"
    );

    // Of many at once one counts.
    let token = json!({"token": tokens[2]});
    let mut statuses = Vec::new();
    for reply in futures_util::future::join_all((0..8).map(|_| service.post(verify, &token))).await {
        statuses.push(reply?.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 400, 400, 400, 400, 400, 400, 400]);

    let path = format!("/users/{}", ids[1]);
    let strange = service.send("PUT", &path, &[], Vec::new()).await?;
    assert_eq!(strange.status, 401, "{strange:?}");

    // Where the guard is open nobody needs a token, and one that is of no use does no harm.
    let mail = accounts.mail;
    accounts.service.stop().await?;
    let accounts = Accounts::start_in(mail, &stage, &[]).await?;
    let service = &accounts.service;
    let body = json!({"token": tokens[1]}).to_string().into_bytes();
    let open = service
        .send("PUT", &path, &[("Content-Type", "application/json")], body)
        .await?;
    assert_eq!(
        (open.status, &open.body["message"]),
        (200, &json!("User verified successfully")),
        "{open:?}"
    );
    let again = service.send("PUT", &path, &[], Vec::new()).await?;
    assert_eq!(
        (again.status, &again.body["message"]),
        (200, &json!("User already verified")),
        "{again:?}"
    );
    let nobody = service
        .send("PUT", "/users/01a1fe2f-4398-7518-bd75-79dc635da6ab", &[], Vec::new())
        .await?;
    assert_eq!(nobody.status, 404);
    accounts.stop().await
}
