//! `posthaste create-admin EMAIL`: the first administrator, whom no other one could make.

use std::io::{BufRead, IsTerminal};

use posthaste::StoreError;
use posthaste::failure::chain;
use posthaste::message::now;
use posthaste_host::ServiceContext;
use uuid::Uuid;

use crate::audit_repository::{self, AuditEvent, Origin};
use crate::credentials_repository;
use crate::email_address::EmailAddress;
use crate::hash_password::PasswordHashing;
use crate::password::Password;
use crate::secret_token::SecretToken;
use crate::sessions_repository;
use crate::user::Verification;
use crate::users_repository::{self, NewUser};

/// Makes the user with this address an administrator; a new one gets the password that stands in the first line of the
/// standard input, or a random one that is printed once.
///
/// # Errors
/// A sentence for the person at the terminal.
pub(crate) async fn create_admin(context: ServiceContext, email: String) -> Result<String, String> {
    let email = EmailAddress::parse(&email).map_err(|rule| format!("{email}: the address {rule}"))?;
    let known = users_repository::find_by_email(&context.store, &email).await;
    let known = known.map_err(|error| chain(&error))?;
    if let Some(user) = &known
        && !user.is_active
    {
        return Err(format!(
            "{email} is disabled; enable the user first, with PUT /api/v1/users/{}",
            user.id
        ));
    }
    if let Some(user) = &known
        && user.verification == Verification::Verified
    {
        promote(&context, user.id).await?;
        return Ok(format!(
            "{email} is an administrator now, and has to sign in again; the password stays as it was.\n"
        ));
    }
    let piped = tokio::task::spawn_blocking(read_password)
        .await
        .map_err(|error| error.to_string())?;
    let (password, printed) = match piped.map_err(|error| format!("the standard input cannot be read: {error}"))? {
        Some(password) => (password, None),
        None => {
            let made = SecretToken::new()
                .map_err(|error| error.to_string())?
                .reveal()
                .to_owned();
            (made.clone(), Some(made))
        }
    };
    let password = Password::new(&password);
    password
        .check(Some(&email))
        .map_err(|weak| format!("the password {}", weak.msg))?;
    let hashing = PasswordHashing::of(&context.settings).map_err(|error| error.to_string())?;
    let hash = hashing.hash(password).await.map_err(|error| error.to_string())?;
    match known {
        // Whoever has signed up with the address has not shown that it is theirs: their password goes.
        Some(user) => take_over(&context, user.id, &hash).await?,
        None => {
            let user = NewUser {
                id: Uuid::now_v7(),
                email: email.clone(),
                first_name: "Site".to_owned(),
                last_name: "Administrator".to_owned(),
                bio: None,
                is_active: true,
                password_hash: Some(hash),
            };
            add(&context, &user).await?;
        }
    }
    Ok(match printed {
        Some(password) => format!("{email} is an administrator. The password, shown this once: {password}\n"),
        None => format!("{email} is an administrator.\n"),
    })
}

/// The first line where something is piped in.
fn read_password() -> std::io::Result<Option<String>> {
    let input = std::io::stdin();
    if input.is_terminal() {
        return Ok(None);
    }
    let mut line = String::new();
    input.lock().read_line(&mut line)?;
    let password = line.trim_end_matches(['\r', '\n']);
    Ok((!password.is_empty()).then(|| password.to_owned()))
}

/// What the table says now is not what it said when it was looked at.
const CHANGED: &str = "the user has changed in this moment; run it again";

async fn promote(context: &ServiceContext, id: Uuid) -> Result<(), String> {
    let done = async {
        let tx = context.store.begin().await?;
        if !credentials_repository::promote(&tx, id).await? {
            return Ok(false);
        }
        // Tokens that were stolen from a user must not become an administrator's.
        sessions_repository::end_all(&tx, id, None, "promoted", now()).await?;
        audit_repository::record(&tx, event(id)).await?;
        tx.commit().await?;
        Ok(true)
    };
    finished(done.await)
}

async fn take_over(context: &ServiceContext, id: Uuid, hash: &str) -> Result<(), String> {
    let at = now();
    let done = async {
        let tx = context.store.begin().await?;
        if !credentials_repository::set_password(&tx, id, None, hash).await?
            || !users_repository::verify(&tx, id).await?
            || !credentials_repository::promote(&tx, id).await?
        {
            return Ok(false);
        }
        credentials_repository::void_resets(&tx, id).await?;
        sessions_repository::end_all(&tx, id, None, "taken over", at).await?;
        audit_repository::record(&tx, event(id)).await?;
        tx.commit().await?;
        Ok(true)
    };
    finished(done.await)
}

async fn add(context: &ServiceContext, user: &NewUser) -> Result<(), String> {
    let done = async {
        let tx = context.store.begin().await?;
        if !users_repository::claim(&tx, user).await? {
            return Ok(false);
        }
        users_repository::skip_onboarding(&tx, user.id).await?;
        users_repository::verify(&tx, user.id).await?;
        credentials_repository::promote(&tx, user.id).await?;
        audit_repository::record(&tx, event(user.id)).await?;
        tx.commit().await?;
        Ok(true)
    };
    finished(done.await)
}

fn finished(done: Result<bool, StoreError>) -> Result<(), String> {
    match done {
        Ok(true) => Ok(()),
        Ok(false) => Err(CHANGED.to_owned()),
        Err(error) => Err(chain(&error)),
    }
}

fn event(id: Uuid) -> AuditEvent {
    AuditEvent {
        action: "user.made_admin",
        actor: Some("command line".to_owned()),
        user_id: Some(id),
        origin: Origin::default(),
        detail: None,
    }
}
