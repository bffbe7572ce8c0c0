//! What the inbox knows of messages whose identity it has: whether their bytes are the same, and how the first one stands.

use std::collections::HashMap;

use sea_orm::Value;
use uuid::Uuid;

use crate::identity::{BodyHash, Verdict, body_hash, set_aside};
use crate::message::{Message, MessageId};
use crate::store::{Row, StoreError, Tx};

/// Dead, or discarded since: of those the mark keeps the cause.
const GIVEN_UP: &str = "(status = 'dead' OR (status = 'processed' AND error IS NOT NULL))";

const STATUS: &str = "CASE WHEN status = 'processed' AND error IS NOT NULL THEN 'dead' ELSE status END AS status";

struct Known {
    status: String,
    /// `None`: a row from before hashes were kept.
    hash: Option<BodyHash>,
}

async fn judge(tx: &Tx, subscription: &str, messages: &[&Message]) -> Result<HashMap<MessageId, Verdict>, StoreError> {
    let hashes: Vec<BodyHash> = messages.iter().map(|message| body_hash(&message.body)).collect();
    let aside = messages
        .iter()
        .zip(&hashes)
        .map(|(message, hash)| set_aside(message.id, hash).0);
    let ids = messages.iter().map(|message| message.id.0).chain(aside);
    let sql = format!(
        "SELECT message_id, {STATUS}, body_hash, CASE WHEN body_hash IS NULL THEN body END AS body \
         FROM inbox_messages WHERE subscription = $1 AND message_id {{in:$2}}"
    );
    let values = vec![subscription.into(), tx.dialect().uuids(ids)];
    let mut known: HashMap<Uuid, Known> = HashMap::new();
    for row in tx.query(&sql, values).await? {
        known.insert(row.uuid("message_id")?, read(&row)?);
    }
    let verdicts = messages.iter().zip(&hashes).map(|(message, hash)| {
        let first = known.get(&message.id.0);
        let same = first.is_none_or(|first| first.hash.is_none_or(|first| first == *hash));
        let verdict = match first.map_or("", |first| first.status.as_str()) {
            _ if same || known.contains_key(&set_aside(message.id, hash).0) => Verdict::Repeat,
            "processed" => Verdict::Handled,
            "dead" => Verdict::Dead,
            _ => Verdict::Retried,
        };
        (message.id, verdict)
    });
    Ok(verdicts.collect())
}

fn read(row: &Row) -> Result<Known, StoreError> {
    let kept: Option<Vec<u8>> = row.get("body_hash")?;
    let body: Option<Vec<u8>> = row.get("body")?;
    let kept = kept.and_then(|hash| BodyHash::try_from(hash).ok());
    Ok(Known {
        status: row.get("status")?,
        hash: kept.or_else(|| body.map(|body| body_hash(&body))),
    })
}

/// How often a correction that met another one looks again.
const ROUNDS: usize = 3;

/// The verdict on each of `messages`, whose identities the inbox has. Of those that are [`Verdict::Dead`] the dead letter has
/// made way: the identity is free for its correction.
pub(crate) async fn admit(
    tx: &Tx,
    subscription: &str,
    messages: &[&Message],
) -> Result<HashMap<MessageId, Verdict>, StoreError> {
    let mut verdicts = judge(tx, subscription, messages).await?;
    let mut open: Vec<&Message> = messages.to_vec();
    for _ in 0..ROUNDS {
        open.retain(|message| verdicts.get(&message.id) == Some(&Verdict::Dead));
        let mut met = Vec::new();
        for message in open {
            if !make_way(tx, subscription, message.id).await? {
                met.push(message);
            }
        }
        if met.is_empty() {
            return Ok(verdicts);
        }
        // It was replayed, or another correction was faster.
        verdicts.extend(judge(tx, subscription, &met).await?);
        open = met;
    }
    // Whatever it is by now, this one has not got the identity.
    verdicts.extend(open.iter().map(|message| (message.id, Verdict::Retried)));
    Ok(verdicts)
}

/// Keeps the dead letter `id` under another id; `false`: it is dead no more.
async fn make_way(tx: &Tx, subscription: &str, id: MessageId) -> Result<bool, StoreError> {
    let dialect = tx.dialect();
    let sql = format!(
        "SELECT {STATUS}, body_hash, body FROM inbox_messages WHERE subscription = $1 AND message_id = $2 AND {GIVEN_UP}"
    );
    let rows = tx.query(&sql, vec![subscription.into(), dialect.uuid(id.0)]).await?;
    let Some(Known { hash: Some(hash), .. }) = rows.first().map(read).transpose()? else {
        return Ok(false);
    };
    let kept = set_aside(id, &hash);
    let sql = format!(
        "UPDATE inbox_messages SET message_id = $3, body_hash = $4 WHERE subscription = $1 AND message_id = $2 \
         AND {GIVEN_UP} AND (body_hash IS NULL OR body_hash = $4)"
    );
    let values = vec![
        subscription.into(),
        dialect.uuid(id.0),
        dialect.uuid(kept.0),
        Value::Bytes(Some(hash.to_vec())),
    ];
    if tx.execute(&sql, values).await? == 0 {
        return Ok(false);
    }
    tracing::info!(subscription, message_id = %id, dead_letter = %kept, "a correction takes over the identity of a dead letter, which is kept under another id");
    Ok(true)
}
