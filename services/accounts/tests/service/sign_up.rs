//! Signing up, from the form to the confirmed address.

use anyhow::{Context, Result};

use serde_json::json;

use crate::mailbox::{Accounts, signup};
use crate::stage::Stage;

on_each_stage!(
    a_user_signs_up_and_confirms_the_address,
    one_address_is_one_user_however_it_is_written,
    many_at_once_make_one_user,
    a_key_used_again_after_its_life_makes_a_user_again,
);

async fn a_user_signs_up_and_confirms_the_address(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let service = &accounts.service;
    let reply = accounts.sign_up("Ann@Example.com").await?;
    assert_eq!(reply.status, 201, "{reply:?}");
    let id = reply.body["user_id"].as_str().context("an id")?.to_owned();
    let wanted = json!({"status": "SUCCESS", "message": "User onboarded successfully", "verification": "PENDING", "user_id": id});
    assert_eq!(reply.body, wanted);
    let path = format!("/users/{id}");
    assert_eq!(reply.header("location"), Some(path.as_str()));
    // At once, and not only after the worker ran.
    let reply = service.get(&path).await?;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.body["email"], "ann@example.com");
    assert_eq!(reply.body["verification_state"], "PENDING");
    let mail = accounts.mail_to("ann@example.com", 1).await?;
    assert!(
        mail.text
            .contains("\r\n\r\nhttps://accounts.example/verify-email#token="),
        "{mail:?}"
    );
    accounts.settled().await?;
    let told = accounts.told("user.registered").await?;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["user_id"], json!(id));
    // Others store it: it does not say who that is.
    assert!(
        !told[0].to_string().contains("ann@") && !told[0].to_string().contains("Lee"),
        "{told:?}"
    );

    let token = json!({"token": mail.token()?});
    let verify = "/api/v1/auth/verify-email";
    assert_eq!(service.post(verify, &token).await?.status, 204);
    assert_eq!(
        service.post(verify, &token).await?.status,
        400,
        "it is good for one use"
    );
    assert_eq!(service.get(&path).await?.body["verification_state"], "VERIFIED");
    assert_eq!(service.count("audit_events WHERE action = 'user.verify'").await?, 1);
    accounts.stop().await
}

async fn one_address_is_one_user_however_it_is_written(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    assert_eq!(accounts.sign_up("ann@b\u{fc}cher.example").await?.status, 201);
    for again in [
        "ANN@b\u{fc}cher.example",
        "ann@bu\u{308}cher.EXAMPLE",
        "Ann@xn--bcher-kva.example",
    ] {
        let reply = accounts.sign_up(again).await?;
        assert_eq!(reply.status, 409, "{again}: {reply:?}");
        assert_eq!(
            reply.body,
            json!({"status": "FAILURE", "message": "User already exists"})
        );
    }
    accounts.settled().await?;
    assert_eq!(accounts.service.count("users").await?, 1);
    assert_eq!(accounts.mails()?.len(), 1);
    accounts.stop().await
}

async fn many_at_once_make_one_user(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let attempts = (0..50).map(|n| {
        let email = if n % 2 == 0 {
            "ann@example.com"
        } else {
            "ANN@Example.com"
        };
        accounts.sign_up(email)
    });
    let mut statuses = Vec::new();
    for reply in futures_util::future::join_all(attempts).await {
        statuses.push(reply?.status);
    }
    statuses.sort_unstable();
    // Who waited more than two seconds for a core has made nothing.
    assert_eq!(statuses[0], 201);
    assert!(
        statuses[1..].iter().all(|status| [409, 503].contains(status)),
        "{statuses:?}"
    );
    let registrations = (0..12).map(|_| accounts.register("bob@example.com"));
    for reply in futures_util::future::join_all(registrations).await {
        let status = reply?.status;
        assert!([202, 503].contains(&status), "{status}");
    }
    accounts.settled().await?;
    assert_eq!(accounts.service.count("users").await?, 2);
    assert_eq!(accounts.told("user.registered").await?.len(), 2);
    accounts.stop().await
}

async fn a_key_used_again_after_its_life_makes_a_user_again(stage: Stage) -> Result<()> {
    let accounts = Accounts::start(&stage).await?;
    let service = &accounts.service;
    let key = [("Idempotency-Key", "k")];
    let by_hand =
        json!({"email": "ann@example.com", "first_name": "Ann", "last_name": "Lee", "bio": "", "is_active": true});
    let doors = [
        ("/signup", signup("bob@example.com"), 201, "/users/"),
        ("/api/v1/auth/register", signup("cid@example.com"), 202, ""),
        ("/api/v1/users", by_hand, 201, "/api/v1/users/"),
    ];
    for (path, body, status, location) in doors {
        let email = body["email"].as_str().context("an address")?;
        let mut ids = Vec::new();
        for _ in 0..2 {
            let reply = service.post_with(path, &body, &key).await?;
            assert_eq!(reply.status, status, "{path}: {reply:?}");
            accounts.settled().await?;
            let found = service.get(&format!("/api/v1/users/email/{email}")).await?;
            let id = found.body["data"]["id"].as_str().context(path)?.to_owned();
            let here = format!("{location}{id}");
            // So does a repeat say.
            let again = service.post_with(path, &body, &key).await?;
            assert_eq!(
                (again.status, &again.text, again.header("idempotent-replayed")),
                (status, &reply.text, Some("true"))
            );
            for reply in [reply, again] {
                let wanted = (!location.is_empty()).then_some(here.as_str());
                assert_eq!(reply.header("location"), wanted, "{path}: {reply:?}");
            }
            let deleted = service
                .send("DELETE", &format!("/api/v1/users/{id}"), &[], Vec::new())
                .await?;
            assert_eq!(deleted.status, 200, "{deleted:?}");
            service.store().execute("DELETE FROM idempotency_keys", vec![]).await?;
            ids.push(id);
        }
        assert_ne!(ids[0], ids[1], "another user");
    }
    // Whoever signed up was welcomed each time.
    assert_eq!(accounts.told("user.registered").await?.len(), 4);
    accounts.stop().await
}
