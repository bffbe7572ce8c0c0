//! The URLs of a service's database and transport: set, or built from their parts.

use url::Url;

use super::error::{ConfigError, WrongValue};
use super::keys::prefix;
use super::sources::Origin;
use super::{Setting, Settings};

/// The database of `service`; the general one for `None`.
pub(super) fn database(settings: &Settings, service: Option<&str>) -> Result<(String, Setting), ConfigError> {
    if let Some(own) = own(settings, service, "_DATABASE_URL") {
        return Ok(own);
    }
    if let Some(set) = settings.set("DATABASE_URL") {
        return Ok(("DATABASE_URL".to_owned(), set));
    }
    if let Some(host) = settings.set("DB_HOST") {
        let mysql = match settings.get("DB_KIND") {
            Some(kind) => kind.eq_ignore_ascii_case("mysql"),
            None => settings.get("DB_PORT").as_deref() == Some("3306"),
        };
        let parts = Parts {
            scheme: if mysql { "mysql" } else { "postgres" },
            host: &host,
            host_key: "DB_HOST",
            port: settings.get("DB_PORT"),
            user: settings.get("DB_USER"),
            password: settings.get("DB_PASSWORD"),
            path: settings.get("DB_NAME"),
        };
        return Ok(("DATABASE_URL".to_owned(), parts.build()?));
    }
    Ok(("DATABASE_URL".to_owned(), settings.or_default("DATABASE_URL")))
}

/// The transport of `service`; the general one for `None`.
pub(super) fn broker(settings: &Settings, service: Option<&str>) -> Result<(String, Setting), ConfigError> {
    if let Some(own) = own(settings, service, "_BROKER_URL") {
        return Ok(own);
    }
    if let Some((name, set)) = settings.first(&["BROKER_URL", "AMQP_URL", "RABBITMQ_URL"]) {
        return Ok((name.to_owned(), set));
    }
    let built = match settings.first(&["MQ_HOST", "RABBITMQ_HOST", "KAFKA_BOOTSTRAP_SERVERS"]) {
        Some((host_key @ ("MQ_HOST" | "RABBITMQ_HOST"), host)) => {
            let family = host_key.trim_end_matches("_HOST");
            let part = |name: &str| settings.get(&format!("{family}_{name}"));
            let parts = Parts {
                scheme: "amqp",
                host: &host,
                host_key,
                port: part("PORT"),
                user: part("USER").or_else(|| part("USERNAME")),
                password: part("PASSWORD"),
                path: None,
            };
            parts.build()?
        }
        Some((key, servers)) => Setting {
            value: format!("kafka://{}", servers.value.replace(' ', "")),
            origin: Origin::Built(key.to_owned(), Box::new(servers.origin)),
        },
        None => settings.or_default("BROKER_URL"),
    };
    Ok(("BROKER_URL".to_owned(), built))
}

fn own(settings: &Settings, service: Option<&str>, suffix: &str) -> Option<(String, Setting)> {
    let name = format!("{}{suffix}", prefix(service?));
    settings.set(&name).map(|set| (name, set))
}

struct Parts<'a> {
    scheme: &'static str,
    host: &'a Setting,
    host_key: &'static str,
    port: Option<String>,
    user: Option<String>,
    password: Option<String>,
    path: Option<String>,
}

impl Parts<'_> {
    /// The URL with every part escaped as a URL needs it.
    fn build(self) -> Result<Setting, ConfigError> {
        let refused = |expected: String| WrongValue {
            key: self.host_key.to_owned(),
            shown: self.host.value.clone(),
            origin: self.host.origin.clone(),
            expected,
            nearest: None,
        };
        let default_port = match self.scheme {
            "mysql" => "3306",
            "amqp" => "5672",
            _ => "5432",
        };
        let port = self.port.as_deref().unwrap_or(default_port);
        // Without brackets the colons of an IPv6 address would end the host.
        let host = if self.host.value.contains(':') && !self.host.value.starts_with('[') {
            format!("[{}]", self.host.value)
        } else {
            self.host.value.clone()
        };
        let mut url = Url::parse(&format!("{}://{host}:{port}", self.scheme))
            .map_err(|error| refused(format!("write a host name ({error})")))?;
        let lone = "write a host name, nothing else";
        if let Some(user) = &self.user {
            url.set_username(&escape_percent(user))
                .map_err(|()| refused(lone.to_owned()))?;
        }
        if let Some(password) = &self.password {
            url.set_password(Some(&escape_percent(password)))
                .map_err(|()| refused(lone.to_owned()))?;
        }
        if let Some(path) = &self.path {
            match url.path_segments_mut() {
                Ok(mut segments) => {
                    segments.clear().push(path);
                }
                Err(()) => return Err(refused(lone.to_owned()).into()),
            }
        }
        Ok(Setting {
            value: url.to_string(),
            origin: Origin::Built(self.host_key.to_owned(), Box::new(self.host.origin.clone())),
        })
    }
}

/// `Url` escapes what a user or password may not hold, except `%`, which it takes for an escape that is there already.
/// Whoever reads the URL decodes it.
fn escape_percent(text: &str) -> String {
    text.replace('%', "%25")
}
