//! The fields of spans and events as text, secrets cut out.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, FormattedFields};

use super::logs::Format;
use crate::redact::{self, Treatment};

/// Formats the fields of a span or an event: `"a":1,"b":"x"` or `a=1 b=x`.
pub(super) struct Fields(pub(super) Format);

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Visitor::new(self.0);
        fields.record(&mut visitor);
        // Of a span these are fields like the others.
        for (name, value) in [
            ("message", visitor.message.take()),
            ("correlation_id", visitor.correlation.take()),
        ] {
            if let Some(value) = value {
                visitor.push(name, Value::Text(&value));
            }
        }
        writer.write_str(&visitor.fields)
    }

    fn add_fields(&self, current: &'w mut FormattedFields<Self>, fields: &tracing::span::Record<'_>) -> fmt::Result {
        let mut visitor = Visitor::new(self.0);
        fields.record(&mut visitor);
        if !current.fields.is_empty() && !visitor.fields.is_empty() {
            current.fields.push(if self.0.json { ',' } else { ' ' });
        }
        current.fields.push_str(&visitor.fields);
        Ok(())
    }
}

enum Value<'a> {
    Text(&'a str),
    /// A number or a boolean, as it is in JSON.
    Bare(&'a str),
}

/// Collects fields as text of the chosen format.
pub(super) struct Visitor {
    format: Format,
    pub(super) message: Option<String>,
    pub(super) correlation: Option<String>,
    pub(super) fields: String,
}

impl Visitor {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            message: None,
            correlation: None,
            fields: String::new(),
        }
    }

    fn push(&mut self, name: &str, value: Value<'_>) {
        let treatment = if self.format.redact {
            redact::treatment(name)
        } else {
            Treatment::Show
        };
        let text = match (&value, treatment) {
            (_, Treatment::Hide) => redact::HIDDEN.into(),
            (Value::Text(text), Treatment::MaskEmail) => redact::email(text).into(),
            (Value::Text(text), Treatment::Show) if self.format.redact => redact::text(text),
            (Value::Text(text) | Value::Bare(text), _) => (*text).into(),
        };
        let bare = matches!(value, Value::Bare(_)) && treatment == Treatment::Show;
        if !self.fields.is_empty() {
            self.fields.push(if self.format.json { ',' } else { ' ' });
        }
        if self.format.json {
            redact::push_json(&mut self.fields, name);
            self.fields.push(':');
            if bare {
                self.fields.push_str(&text);
            } else {
                redact::push_json(&mut self.fields, &text);
            }
            return;
        }
        self.fields.push_str(name);
        self.fields.push('=');
        let quoted = text.is_empty() || text.contains(|c: char| c.is_whitespace() || c == '"');
        if quoted {
            redact::push_json(&mut self.fields, &text);
        } else {
            self.fields.push_str(&redact::escape(&text));
        }
    }

    fn text(&mut self, field: &Field, text: &str) {
        match field.name() {
            "message" => {
                let text = if self.format.redact {
                    redact::text(text)
                } else {
                    text.into()
                };
                self.message = Some(text.into_owned());
            }
            "correlation_id" => self.correlation = Some(text.to_owned()),
            // What the `log` crate's records bring along is said elsewhere.
            name if name.starts_with("log.") => {}
            name => self.push(name.strip_prefix("r#").unwrap_or(name), Value::Text(text)),
        }
    }

    fn bare(&mut self, field: &Field, text: &str) {
        self.push(field.name(), Value::Bare(text));
    }
}

impl Visit for Visitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, if value { "true" } else { "false" });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, &value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.bare(field, &value.to_string());
        } else {
            self.text(field, &value.to_string());
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, &posthaste::failure::chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        if write!(text, "{value:?}").is_err() {
            "a value that cannot be shown".clone_into(&mut text);
        }
        self.text(field, &text);
    }
}
