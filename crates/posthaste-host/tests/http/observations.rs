//! What an operator sees of a request.

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use posthaste_host::http::Limits;
use serde_json::Value;

use crate::client::{get_path, request, start};

/// The log and the metrics of all tests in this process.
pub struct Observed {
    lines: Lines,
    metrics: PrometheusHandle,
}

pub fn observed() -> &'static Observed {
    static OBSERVED: OnceLock<Observed> = OnceLock::new();
    OBSERVED.get_or_init(|| {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing_subscriber::fmt()
            .json()
            .with_writer(move || writer.clone())
            .init();
        Observed {
            lines,
            metrics: PrometheusBuilder::new().install_recorder().unwrap(),
        }
    })
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// The log lines of the request with this id.
    fn of(&self, correlation_id: &str) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .filter(|line| line["fields"]["correlation_id"] == correlation_id)
            .collect()
    }
}

#[tokio::test]
async fn each_request_is_one_line_and_one_measurement() {
    let Observed { lines, metrics } = observed();
    let server = start(Limits::default()).await;

    request(&server, "GET", "/names/secret-name", "X-Correlation-ID: seen-1\r\n", "").await;
    request(&server, "GET", "/secret-path", "X-Correlation-ID: seen-2\r\n", "").await;
    request(&server, "GET", "/panic", "X-Correlation-ID: seen-3\r\n", "").await;
    request(&server, "BREW", "/lenient/", "X-Correlation-ID: seen-4\r\n", "").await;
    get_path(&server, "/health").await;

    let [line] = &lines.of("seen-1")[..] else {
        panic!("not one line")
    };
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["fields"]["route"], "/names/{name}");
    assert_eq!(
        (&line["fields"]["method"], &line["fields"]["status"]),
        (&"GET".into(), &200.into())
    );
    assert!(line["fields"]["duration_ms"].is_f64());
    assert_eq!(line["span"]["correlation_id"], "seen-1");
    let [line] = &lines.of("seen-2")[..] else {
        panic!("not one line")
    };
    assert_eq!(line["fields"]["route"], "unmatched");
    let [line] = &lines.of("seen-3")[..] else {
        panic!("not one line")
    };
    assert_eq!(
        (&line["level"], &line["fields"]["status"]),
        (&"ERROR".into(), &500.into())
    );
    assert_eq!(line["fields"]["panic"], "the handler's secret");
    assert!(line["fields"]["place"].as_str().unwrap().contains("client.rs"));
    let [line] = &lines.of("seen-4")[..] else {
        panic!("not one line")
    };
    assert_eq!(
        (&line["fields"]["method"], &line["fields"]["route"]),
        (&"_OTHER".into(), &"/lenient".into())
    );

    let shown = metrics.render();
    for labels in [
        r#"http_request_method="GET",http_route="/names/{name}",http_response_status_code="200",url_scheme="http""#,
        r#"http_request_method="GET",http_route="unmatched",http_response_status_code="404",url_scheme="http""#,
        r#"http_request_method="GET",http_route="/panic",http_response_status_code="500",url_scheme="http""#,
        r#"http_request_method="_OTHER",http_route="/lenient",http_response_status_code="405",url_scheme="http""#,
    ] {
        assert!(
            shown.contains(&format!("http_server_request_duration_seconds_count{{{labels}}} ")),
            "{labels}\n{shown}"
        );
    }
    assert!(
        shown.contains("http_server_active_requests{http_request_method=\"GET\""),
        "{shown}"
    );
    assert!(!shown.contains("secret"), "{shown}");
}
