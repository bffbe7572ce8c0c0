//! Whether a value is what its key takes, and if not, what would be.

use std::net::IpAddr;

use tracing_subscriber::EnvFilter;
use url::Url;

use super::keys::Kind;
use super::nearest::nearest;

/// What was expected, and the valid value that was perhaps meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub expected: String,
    pub nearest: Option<String>,
}

fn wrong(expected: impl Into<String>, nearest: Option<impl Into<String>>) -> Wrong {
    Wrong {
        expected: expected.into(),
        nearest: nearest.map(Into::into),
    }
}

/// A URL scheme and whether this build speaks it.
type Scheme = (&'static str, bool);

const DATABASES: &[Scheme] = &[
    ("sqlite", true),
    ("postgres", true),
    ("postgresql", true),
    ("mysql", true),
    ("mariadb", true),
];
const BROKERS: &[Scheme] = &[
    ("sql", true),
    ("memory", true),
    ("amqp", true),
    ("amqps", true),
    ("kafka", posthaste::broker::HAS_KAFKA),
];
const DATABASE_FORMS: &str = "write sqlite:PATH, postgres://USER:PASSWORD@HOST/NAME or mysql://USER:PASSWORD@HOST/NAME";
const BROKER_FORMS: &str = "write sql: (queues in the service's own database), amqp://USER:PASSWORD@HOST, \
    kafka://HOST:9092 or memory: (tests)";

/// Whether `value` is of `kind`.
pub(crate) fn check(kind: Kind, value: &str) -> Result<(), Wrong> {
    match kind {
        Kind::Text => Ok(()),
        Kind::Bool => boolean(value).map(drop),
        Kind::Port => port(value).map(drop),
        Kind::Address => address(value).map(drop),
        Kind::Word(words) => word(value, words).map(drop),
        Kind::Ratio => match value.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(()),
            _ => Err(wrong("write a number from 0 to 1", None::<String>)),
        },
        Kind::Millis => value
            .parse::<u32>()
            .map(drop)
            .map_err(|error| wrong(format!("write whole milliseconds ({error})"), None::<String>)),
        Kind::Number => value
            .parse::<u32>()
            .map(drop)
            .map_err(|error| wrong(format!("write a whole number ({error})"), None::<String>)),
        Kind::Directives => EnvFilter::try_new(value).map(drop).map_err(|error| {
            let level = nearest(value, super::keys::LEVELS.iter().copied());
            wrong(
                format!("write directives such as info,posthaste=debug ({error})"),
                level,
            )
        }),
        Kind::DatabaseUrl => scheme(value, DATABASES, DATABASE_FORMS).map(drop),
        Kind::BrokerUrl => scheme(value, BROKERS, BROKER_FORMS).map(drop),
        Kind::RedisUrl => scheme(
            value,
            &[("redis", true), ("rediss", true)],
            "write redis://HOST:6379, or rediss:// for TLS",
        )
        .map(drop),
        Kind::SmtpUrl => scheme(
            value,
            &[("smtp", true), ("smtps", true)],
            "write smtp://USER:PASSWORD@HOST",
        )
        .map(drop),
        Kind::HttpUrl => http_url(value).map(drop),
        Kind::BaseUrl => {
            let url = http_url(value)?;
            if url.query().is_some() || url.fragment().is_some() {
                let expected = "what stands behind ? or # is no part of a place that paths are added to";
                return Err(wrong(expected, value.split(['?', '#']).next().map(str::to_owned)));
            }
            Ok(())
        }
    }
}

fn http_url(value: &str) -> Result<Url, Wrong> {
    const FORM: &str = "write http://HOST or https://HOST, with :PORT and a path where there is one";
    let known: &[Scheme] = &[("http", true), ("https", true)];
    if !value.contains("://") {
        // A host and a port look like a scheme and something.
        let meant = format!("https://{value}");
        let is_host = !value.starts_with("http") && Url::parse(&meant).is_ok_and(|url| url.has_host());
        return Err(wrong(FORM, is_host.then_some(meant)));
    }
    scheme(value, known, FORM)?;
    match Url::parse(value) {
        Ok(url) if url.has_host() => Ok(url),
        _ => Err(wrong(FORM, None::<String>)),
    }
}

/// `true` or `false` in the ways people write them.
pub(crate) fn boolean(value: &str) -> Result<bool, Wrong> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        other => Err(wrong("write true or false", nearest(other, ["true", "false"]))),
    }
}

/// A port.
pub(crate) fn port(value: &str) -> Result<u16, Wrong> {
    value.trim().parse().map_err(|_no_port: std::num::ParseIntError| {
        let too_big = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        wrong("write a port from 0 to 65535", too_big.then_some("65535"))
    })
}

/// An IP address; `localhost` is 127.0.0.1.
pub(crate) fn address(value: &str) -> Result<IpAddr, Wrong> {
    let value = value.trim();
    if value.eq_ignore_ascii_case("localhost") {
        return Ok(IpAddr::from([127, 0, 0, 1]));
    }
    value.parse().map_err(|_no_address: std::net::AddrParseError| {
        wrong(
            "write an IP address such as 127.0.0.1 or 0.0.0.0",
            nearest(value, ["127.0.0.1", "0.0.0.0", "localhost", "::1"]),
        )
    })
}

/// One of `words`, as it is written there.
pub(crate) fn word(value: &str, words: &'static [&'static str]) -> Result<&'static str, Wrong> {
    let value = value.trim();
    match words.iter().find(|word| word.eq_ignore_ascii_case(value)) {
        Some(word) => Ok(word),
        None => Err(wrong(
            format!("write one of {}", words.join(", ")),
            nearest(value, words.iter().copied()),
        )),
    }
}

fn scheme(value: &str, known: &[Scheme], forms: &str) -> Result<Scheme, Wrong> {
    let Some((name, rest)) = value.split_once(':') else {
        return Err(wrong(forms, None::<String>));
    };
    let Some(found) = known.iter().find(|(scheme, _)| *scheme == name) else {
        let meant = nearest(name, known.iter().map(|(scheme, _)| *scheme));
        // Only the scheme: the rest may hold a password.
        return Err(wrong(forms, meant.map(|scheme| format!("{scheme}:"))));
    };
    let needs_host = !matches!(found.0, "sqlite" | "sql" | "memory");
    if needs_host && !rest.starts_with("//") {
        return Err(wrong(format!("{forms}; // is missing after {name}:"), None::<String>));
    }
    Ok(*found)
}

/// Whether this build can open the database `url`.
pub(crate) fn can_open_database(url: &str) -> Result<(), Wrong> {
    let (name, built) = scheme(url, DATABASES, DATABASE_FORMS)?;
    if !built {
        return Err(wrong(
            format!("{name} is not in this build; {DATABASE_FORMS}"),
            None::<String>,
        ));
    }
    if name == "sqlite" && url.contains(":memory:") {
        return Err(wrong(
            "a SQLite database in memory would be another one for each connection; name a file",
            None::<String>,
        ));
    }
    Ok(())
}

/// Whether this build can open the transport `url`.
pub(crate) fn can_open_broker(url: &str) -> Result<(), Wrong> {
    let (name, built) = scheme(url, BROKERS, BROKER_FORMS)?;
    if built {
        return Ok(());
    }
    Err(wrong(
        format!("{name} is not in this build; {BROKER_FORMS}"),
        None::<String>,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_nearest_valid_value() {
        let meant = |kind, value| check(kind, value).unwrap_err().nearest;
        assert_eq!(meant(Kind::Bool, "ture").as_deref(), Some("true"));
        assert_eq!(meant(Kind::Word(&["text", "json"]), "jsno").as_deref(), Some("json"));
        assert_eq!(
            meant(Kind::DatabaseUrl, "postgress://h/n").as_deref(),
            Some("postgres:")
        );
        assert_eq!(meant(Kind::Port, "80000").as_deref(), Some("65535"));
        assert_eq!(meant(Kind::Address, "127.0.0.l").as_deref(), Some("127.0.0.1"));
        let base = |value| meant(Kind::BaseUrl, value);
        assert_eq!(base("example.com").as_deref(), Some("https://example.com"));
        assert_eq!(
            base("example.com:8000/x").as_deref(),
            Some("https://example.com:8000/x")
        );
        assert_eq!(base("http://h/?x=1").as_deref(), Some("http://h/"));
        assert_eq!(base("http://h/#/").as_deref(), Some("http://h/"));
        assert_eq!(meant(Kind::HttpUrl, "htp://h").as_deref(), Some("http:"));
    }

    #[test]
    fn takes_what_people_write() {
        for (kind, value) in [
            (Kind::Bool, "ON"),
            (Kind::Port, "0"),
            (Kind::Address, "localhost"),
            (Kind::Address, "::"),
            (Kind::Word(super::super::keys::LEVELS), "WARNING"),
            (Kind::Directives, "info,posthaste=debug"),
            (Kind::DatabaseUrl, "sqlite:data/x.db"),
            (Kind::BrokerUrl, "sql:"),
            (Kind::BrokerUrl, "amqp://h"),
            (Kind::BaseUrl, "https://example.com/app"),
            (Kind::HttpUrl, "http://h:4318/v1?x=1"),
        ] {
            assert_eq!(check(kind, value), Ok(()), "{value}");
        }
    }

    #[test]
    fn says_what_this_build_lacks() {
        for url in ["sql:", "memory:", "amqp://h", "amqps://h/vhost?queue_type=quorum"] {
            assert_eq!(can_open_broker(url), Ok(()), "{url}");
        }
        assert!(can_open_database("sqlite::memory:").is_err());
        for url in ["mysql://u@h/n", "mariadb://u@h/n"] {
            assert_eq!(can_open_database(url), Ok(()), "{url}");
        }
    }
}
