//! Clients that make their own event ids and remember which were acknowledged.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use posthaste::{Store, StoreOptions};
use posthaste_testkit::wait_until;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

/// What the clients saw.
#[derive(Default)]
pub struct Seen {
    pub acknowledged: BTreeSet<Uuid>,
    pub refused: u64,
    pub unanswered: u64,
}

/// Running clients.
pub struct Load {
    seen: Arc<Mutex<Seen>>,
    base: watch::Sender<String>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Load {
    /// `clients` clients post events, one after the other, to whatever base address is set.
    pub fn start(base: &str, clients: usize) -> Self {
        let (base, address) = watch::channel(base.to_owned());
        let (stop, stopped) = watch::channel(false);
        let seen = Arc::<Mutex<Seen>>::default();
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (address, stopped, seen) = (address.clone(), stopped.clone(), seen.clone());
            tasks.spawn(async move {
                let http = reqwest::Client::builder()
                    .timeout(Duration::from_secs(40))
                    .build()
                    .unwrap();
                while !*stopped.borrow() {
                    let url = format!("{}/api/events", address.borrow().clone());
                    post(&http, &url, &seen).await;
                }
            });
        }
        Self {
            seen,
            base,
            stop,
            clients: tasks,
        }
    }

    /// Sends the clients to another process.
    pub fn redirect(&self, base: &str) {
        self.base.send_replace(base.to_owned());
    }

    pub fn acknowledged(&self) -> usize {
        self.seen.lock().unwrap().acknowledged.len()
    }

    pub fn refused(&self) -> u64 {
        self.seen.lock().unwrap().refused
    }

    /// Waits until `more` further events are acknowledged.
    pub async fn acknowledge(&self, more: usize) -> Result<()> {
        let goal = self.acknowledged() + more;
        wait_until("more acknowledged events", Duration::from_secs(60), || async {
            (self.acknowledged() >= goal).then_some(())
        })
        .await
    }

    /// Ends the clients after the answer each waits for.
    pub async fn finish(mut self) -> Seen {
        self.stop.send_replace(true);
        while self.clients.join_next().await.is_some() {}
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

async fn post(http: &reqwest::Client, url: &str, seen: &Mutex<Seen>) {
    let id = Uuid::now_v7();
    let body = serde_json::json!({
        "user_id": Uuid::new_v4(), "event_type": "torture", "message": "still there?", "event_id": id,
    });
    let answer = http.post(url).json(&body).send().await;
    let mut seen = seen.lock().unwrap();
    match answer {
        Ok(answer) if answer.status() == 202 => {
            seen.acknowledged.insert(id);
        }
        Ok(answer) => {
            assert_eq!(answer.status(), 503, "only 'not now' may be refused with");
            assert!(answer.headers().contains_key("retry-after"));
            seen.refused += 1;
        }
        Err(_no_answer) => seen.unanswered += 1,
    }
}

/// Waits until every acknowledged event is one row of `processed_events` and nothing is left over.
pub async fn expect_all_processed(database: &str, seen: &Seen) -> Result<()> {
    let store = Store::open(database, StoreOptions::default())?;
    let count = async |sql: &str| -> Result<i64> { Ok(store.query(sql, vec![]).await?[0].get("n")?) };
    wait_until("every queue to be empty", Duration::from_secs(60), || async {
        let left = count("SELECT (SELECT COUNT(*) FROM queue_messages) + (SELECT COUNT(*) FROM outbox_messages WHERE status = 'pending') \
            + (SELECT COUNT(*) FROM inbox_messages WHERE status = 'parked') AS n").await.ok()?;
        (left == 0).then_some(())
    })
    .await?;
    let rows = store.query("SELECT id FROM processed_events", vec![]).await?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.uuid("id")).collect::<Result<_, _>>()?;
    let distinct: BTreeSet<Uuid> = ids.iter().copied().collect();
    let lost = seen.acknowledged.difference(&distinct).count();
    let dead = count("SELECT COUNT(*) AS n FROM inbox_messages WHERE status = 'dead'").await?;
    println!(
        "{} acknowledged, {} refused, {} unanswered; {} rows, {lost} lost, {dead} dead",
        seen.acknowledged.len(),
        seen.refused,
        seen.unanswered,
        ids.len()
    );
    ensure!(lost == 0, "{lost} acknowledged events are not in processed_events");
    ensure!(distinct.len() == ids.len(), "an event has two rows");
    ensure!(dead == 0, "{dead} events are dead");
    ensure!(
        ids.len() as u64 <= seen.acknowledged.len() as u64 + seen.unanswered + seen.refused,
        "rows nobody sent"
    );
    store.close().await;
    Ok(())
}
