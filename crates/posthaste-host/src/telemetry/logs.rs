//! Log lines: JSON, one line per event, or text for a terminal; secrets cut out, control characters
//! written out.

use std::fmt;
use std::io::{IsTerminal, Stderr, Stdout};

use chrono::{SecondsFormat, Utc};
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::EitherWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use super::log_fields::{Fields, Visitor};
use crate::config::Config;
use crate::redact;

/// Where lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output: a server's.
    Stdout,
    /// Standard error: a command's, whose output is its answer.
    Stderr,
}

impl<'a> MakeWriter<'a> for Target {
    type Writer = EitherWriter<Stdout, Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        match self {
            Self::Stdout => EitherWriter::A(std::io::stdout()),
            Self::Stderr => EitherWriter::B(std::io::stderr()),
        }
    }
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// One JSON object a line, else text.
    pub json: bool,
    /// Cut secrets out.
    pub redact: bool,
    /// Colour levels.
    pub colour: bool,
}

/// The layer that `config` asks for; `None` where logging is off.
pub(super) fn layer<S>(config: &Config, target: Target) -> Option<impl Layer<S> + Send + Sync + use<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    if !config.on("LOGGING_ENABLED") {
        return None;
    }
    let terminal = match target {
        Target::Stdout => std::io::stdout().is_terminal(),
        Target::Stderr => std::io::stderr().is_terminal(),
    };
    let json = match config.settings.get("LOG_FORMAT") {
        Some(format) => format.eq_ignore_ascii_case("json"),
        None => !terminal,
    };
    let format = Format {
        json,
        redact: config.on("LOG_REDACTION_ENABLED"),
        colour: terminal && config.settings.get("NO_COLOR").is_none(),
    };
    Some(layer_to(format, target).with_filter(EnvFilter::new(directives(config))))
}

/// The layer that writes lines of `format` to `writer`.
pub fn layer_to<S, W>(format: Format, writer: W) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .fmt_fields(Fields(format))
        .event_format(Lines(format))
        .with_ansi(false)
        // A full disk or a closed pipe must not stop the work; there is nobody left to tell.
        .log_internal_errors(false)
        .with_writer(writer)
}

/// `RUST_LOG`, else `LOG_LEVEL` for all targets.
fn directives(config: &Config) -> String {
    if let Some(directives) = config.settings.get("RUST_LOG") {
        // lapin warns of returned messages with their bodies; who wants to see that has to ask for it.
        return if directives.contains("lapin") {
            directives
        } else {
            format!("{directives},lapin=off")
        };
    }
    let level = config
        .settings
        .get("LOG_LEVEL")
        .unwrap_or_default()
        .to_ascii_lowercase();
    let level = match level.as_str() {
        // Set nowhere it is the default, which DEBUG changes.
        "info" if config.on("DEBUG") && !config.is_set("LOG_LEVEL") => "debug",
        "warning" => "warn",
        "critical" | "fatal" => "error",
        other => other,
    };
    match level {
        // At these levels the libraries below drown what the services say.
        "debug" | "trace" => {
            format!("{level},hyper=info,h2=info,reqwest=info,sqlx=info,sea_orm=info,opentelemetry=info,lapin=off")
        }
        // A lost database or broker is reported by the services themselves, once.
        _ => format!("{level},opentelemetry=warn,lapin=off"),
    }
}

/// Formats an event as one line.
struct Lines(Format);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut visitor = Visitor::new(self.0);
        event.record(&mut visitor);
        let correlation = match visitor.correlation.take() {
            Some(own) => Some(own),
            None => posthaste::correlation::current(),
        };
        let spans = ctx.event_scope().into_iter().flat_map(|scope| scope.from_root());
        let spans = spans.filter_map(|span| {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>()?.fields.clone();
            Some((span.name(), fields))
        });
        let line = Line {
            level: *event.metadata().level(),
            target: event.metadata().target(),
            visitor,
            correlation,
            trace: current_trace(),
            spans: spans.collect(),
        };
        let text = if self.0.json {
            line.json()
        } else {
            line.text(self.0.colour)
        };
        // One write, so that lines of several threads do not mix.
        writer.write_str(&text)
    }
}

/// Trace and span id of the running span; `None` where nothing is traced.
fn current_trace() -> Option<(String, String)> {
    // Not through `tracing::Span::current`, which may not be asked while an event is on its way.
    Context::map_current(|context| {
        let span = context.span();
        let ids = span.span_context();
        ids.is_valid()
            .then(|| (ids.trace_id().to_string(), ids.span_id().to_string()))
    })
}

struct Line<'a> {
    level: Level,
    target: &'a str,
    visitor: Visitor,
    correlation: Option<String>,
    trace: Option<(String, String)>,
    spans: Vec<(&'a str, String)>,
}

impl Line<'_> {
    fn json(self) -> String {
        let mut out = String::with_capacity(256);
        out.push_str("{\"timestamp\":\"");
        out.push_str(&Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true));
        out.push_str("\",\"level\":\"");
        out.push_str(self.level.as_str());
        out.push_str("\",\"message\":");
        redact::push_json(&mut out, self.visitor.message.as_deref().unwrap_or_default());
        out.push_str(",\"target\":");
        redact::push_json(&mut out, self.target);
        let mut pair = |name: &str, value: &str| {
            out.push_str(",\"");
            out.push_str(name);
            out.push_str("\":");
            redact::push_json(&mut out, value);
        };
        if let Some((trace, span)) = &self.trace {
            pair("trace_id", trace);
            pair("span_id", span);
        }
        if let Some(correlation) = &self.correlation {
            pair("correlation_id", correlation);
        }
        if !self.visitor.fields.is_empty() {
            out.push_str(",\"fields\":{");
            out.push_str(&self.visitor.fields);
            out.push('}');
        }
        if !self.spans.is_empty() {
            out.push_str(",\"spans\":[");
            for (n, (name, fields)) in self.spans.iter().enumerate() {
                out.push_str(if n == 0 { "{\"name\":" } else { ",{\"name\":" });
                redact::push_json(&mut out, name);
                if !fields.is_empty() {
                    out.push(',');
                    out.push_str(fields);
                }
                out.push('}');
            }
            out.push(']');
        }
        out.push_str("}\n");
        out
    }

    fn text(self, colour: bool) -> String {
        let mut out = Utc::now().format("%H:%M:%S%.3f ").to_string();
        let code = match self.level {
            Level::ERROR => "31",
            Level::WARN => "33",
            Level::INFO => "32",
            _ => "34",
        };
        if colour {
            out.push_str(&format!("\u{1b}[{code}m{:5}\u{1b}[0m ", self.level));
        } else {
            out.push_str(&format!("{:5} ", self.level));
        }
        out.push_str(self.target);
        out.push_str(": ");
        out.push_str(&redact::escape(self.visitor.message.as_deref().unwrap_or_default()));
        let mut more = |text: &str| {
            if !text.is_empty() {
                out.push(' ');
                out.push_str(text);
            }
        };
        more(&self.visitor.fields);
        for (_, fields) in &self.spans {
            more(fields);
        }
        if let Some(correlation) = &self.correlation {
            more(&format!("correlation_id={}", redact::escape(correlation)));
        }
        if let Some((trace, _)) = &self.trace {
            more(&format!("trace_id={trace}"));
        }
        out.push('\n');
        out
    }
}
