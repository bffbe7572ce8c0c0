//! Log lines as a collector or a person reads them.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use posthaste_host::telemetry::logs::{Format, layer_to};
use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

const JSON: Format = Format {
    json: true,
    redact: true,
    colour: false,
};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What `say` logs.
fn logged(format: Format, say: impl FnOnce()) -> Result<String> {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(layer_to(format, lines.clone()));
    tracing::subscriber::with_default(subscriber, say);
    let bytes = lines.0.lock().unwrap().clone();
    Ok(String::from_utf8(bytes)?)
}

#[tokio::test]
async fn an_event_is_one_json_object_with_what_it_belongs_to() -> Result<()> {
    let text = posthaste::correlation::scope("req-7".to_owned(), async {
        logged(JSON, || {
            let span = tracing::info_span!("request", route = "/x", n = 1, late = tracing::field::Empty);
            let _in_span = span.enter();
            span.record("late", true);
            tracing::warn!(count = 3, ratio = 0.5, who = "x\ny", "line\r\n\u{1b}[31mtwo");
        })
    })
    .await?;
    ensure!(text.lines().count() == 1 && !text.contains('\u{1b}'), "{text}");
    let line: Value = serde_json::from_str(&text)?;
    ensure!(
        line["level"] == "WARN" && line["message"] == "line\r\n\u{1b}[31mtwo",
        "{text}"
    );
    ensure!(
        line["target"] == "telemetry::log_lines" && line["correlation_id"] == "req-7",
        "{text}"
    );
    ensure!(line["fields"]["count"] == 3 && line["fields"]["ratio"] == 0.5, "{text}");
    ensure!(line["fields"]["who"] == "x\ny", "{text}");
    let span = &line["spans"][0];
    ensure!(
        span["name"] == "request" && span["route"] == "/x" && span["late"] == true,
        "{text}"
    );
    let time = line["timestamp"].as_str().context("timestamp")?;
    chrono::DateTime::parse_from_rfc3339(time)?;
    Ok(())
}

#[test]
fn no_secret_is_logged_unless_redaction_is_off() -> Result<()> {
    let say = || {
        let span = tracing::info_span!("login", password = "canary", email = "canary@example.com");
        let _in_span = span.enter();
        tracing::error!(access_token = "canary", authorization = ?"canary", cookie = "canary", "api_key=canary");
        tracing::error!(
            error = "postgres://u:canary@h refused",
            body = r#"{"secret": "canary", "n": 1}"#,
            "Bearer canary-canary-canary"
        );
        tracing::info!(refresh_token = 4711, reset_token = true, "plain");
    };
    for json in [true, false] {
        let text = logged(Format { json, ..JSON }, say)?;
        ensure!(!text.contains("canary") && !text.contains("4711"), "{text}");
        ensure!(text.contains("c***@example.com") && text.contains("u:***@h"), "{text}");
        ensure!(text.lines().count() == 3, "{text}");
        let shown = logged(
            Format {
                json,
                redact: false,
                colour: false,
            },
            say,
        )?;
        ensure!(shown.matches("canary").count() > 8, "{shown}");
    }
    Ok(())
}

#[test]
fn text_stays_on_its_line() -> Result<()> {
    let format = Format { json: false, ..JSON };
    let text = logged(format, || tracing::info!(who = "a b\n", n = 1, "two\nlines \u{9b}31m"))?;
    ensure!(
        text.lines().count() == 1 && text.ends_with("lines \\u{9b}31m who=\"a b\\n\" n=1\n"),
        "{text}"
    );
    Ok(())
}
