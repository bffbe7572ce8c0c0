//! Clients that make their own ids and remember which were acknowledged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use posthaste_testkit::wait_until;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

/// What the clients send. Its client's id is in a column of the row that it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Event,
    Order,
    /// Its text is a number, growing with each message of one sender, and the client's id.
    Message,
}

/// How long a client waits after a refusal; less than `Retry-After` says.
const PAUSE: Duration = Duration::from_millis(50);

/// What the clients saw.
#[derive(Default)]
pub struct Seen {
    pub sent: BTreeSet<Uuid>,
    pub acknowledged: BTreeSet<Uuid>,
    pub refused: u64,
    /// What the last refusal said.
    pub last_refusal: String,
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
        Self::of(Kind::Event, base, clients, usize::MAX)
    }

    /// `clients` clients post `kind`, at most `most` in all. What is not acknowledged is sent again under its id.
    pub fn of(kind: Kind, base: &str, clients: usize, most: usize) -> Self {
        let (base, address) = watch::channel(base.to_owned());
        let (stop, stopped) = watch::channel(false);
        let seen = Arc::<Mutex<Seen>>::default();
        let begun = Arc::<AtomicUsize>::default();
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let client = Client {
                kind,
                sender: format!("sender-{number}"),
                http: reqwest::Client::builder()
                    .timeout(Duration::from_secs(40))
                    .build()
                    .unwrap(),
                address: address.clone(),
                stopped: stopped.clone(),
                seen: seen.clone(),
            };
            let begun = begun.clone();
            tasks.spawn(async move {
                while !client.is_stopped() && begun.fetch_add(1, Ordering::Relaxed) < most {
                    client.send_one().await;
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

    /// What the last refusal said.
    pub fn last_refusal(&self) -> String {
        self.seen.lock().unwrap().last_refusal.clone()
    }

    /// Waits until `more` further ones are acknowledged.
    pub async fn acknowledge(&self, more: usize) -> Result<()> {
        self.reach(self.acknowledged() + more, Duration::from_secs(180)).await
    }

    /// Waits until `goal` are acknowledged in all.
    pub async fn reach(&self, goal: usize, limit: Duration) -> Result<()> {
        wait_until(&format!("{goal} to be acknowledged"), limit, || async {
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

struct Client {
    kind: Kind,
    sender: String,
    http: reqwest::Client,
    address: watch::Receiver<String>,
    stopped: watch::Receiver<bool>,
    seen: Arc<Mutex<Seen>>,
}

impl Client {
    fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    async fn send_one(&self) {
        let id = Uuid::now_v7();
        let number = {
            let mut seen = self.seen.lock().unwrap();
            seen.sent.insert(id);
            seen.sent.len()
        };
        while !self.post(id, number).await && !self.is_stopped() {
            // A pause that the stop ends.
            drop(tokio::time::timeout(PAUSE, self.stopped.clone().wait_for(|&stop| stop)).await);
        }
    }

    /// Whether it was acknowledged.
    async fn post(&self, id: Uuid, number: usize) -> bool {
        let base = self.address.borrow().clone();
        let (path, body) = match self.kind {
            Kind::Event => (
                "/api/events",
                json!({"user_id": id, "event_type": "torture", "message": "still there?", "event_id": id}),
            ),
            Kind::Order => (
                "/api/v1/orders",
                json!({"orderId": id, "userId": "user-456", "totalAmount": "99.99", "idempotencyKey": id, "items": []}),
            ),
            Kind::Message => (
                "/api/v1/messages/send",
                json!({"sender": self.sender, "content": format!("{number} {id}")}),
            ),
        };
        let mut request = self.http.post(format!("{base}{path}")).json(&body);
        if self.kind == Kind::Message {
            request = request.header("Idempotency-Key", id.to_string());
        }
        let Ok(answer) = request.send().await else {
            self.seen.lock().unwrap().unanswered += 1;
            return false;
        };
        let status = answer.status();
        if status.is_success() {
            self.seen.lock().unwrap().acknowledged.insert(id);
            return true;
        }
        // 409: the request before, whose answer did not come, is still at work under the same key.
        if status != 409 || self.kind == Kind::Event {
            assert_eq!(status, 503, "only 'not now' may be refused with");
            assert!(answer.headers().contains_key("retry-after"));
        }
        let said = answer.text().await.unwrap_or_default();
        let mut seen = self.seen.lock().unwrap();
        seen.refused += 1;
        seen.last_refusal = format!("{status} {said}");
        false
    }
}
