//! The rules of the configuration.

use anyhow::{Context, Result, ensure};
use posthaste_host::config::{Auth, keys, show};
use posthaste_host::{Config, Sources};

const SERVICES: [&str; 2] = ["orders", "messages"];

fn environment(settings: &[(&str, &str)]) -> Sources {
    let pairs = settings
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Sources::new().environment(pairs)
}

fn load(settings: &[(&str, &str)]) -> Result<Config> {
    Ok(Config::load(environment(settings), &SERVICES)?)
}

fn refusal(sources: Sources) -> Result<String> {
    let error = Config::load(sources, &SERVICES).err().context("it was accepted")?;
    Ok(error.to_string())
}

#[test]
fn the_first_place_wins() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let env_file = folder.path().join(".env");
    std::fs::write(&env_file, "PORT=3\nLOG_LEVEL=debug\nAPP_NAME=from-env-file\n")?;
    let flag = ("PORT".to_owned(), "1".to_owned(), "--port".to_owned());
    let sources = Sources::new()
        .flags([flag])
        .environment([
            ("PORT".to_owned(), "2".to_owned()),
            ("LOG_LEVEL".to_owned(), String::new()),
        ])
        .env_file(&env_file)?
        .env_file(&folder.path().join("missing"))?
        .toml(
            "posthaste.toml",
            "port = 4\napp-name = 'x'\n[kafka]\nconsumer_group = 'g'",
        )?;
    let config = Config::load(sources, &SERVICES)?;
    ensure!(config.listen.port() == 1);
    // An empty value is none.
    ensure!(config.settings.get("LOG_LEVEL").as_deref() == Some("debug"));
    ensure!(config.settings.get("APP_NAME").as_deref() == Some("from-env-file"));
    ensure!(config.settings.get("KAFKA_CONSUMER_GROUP").as_deref() == Some("g"));
    ensure!(config.settings.get("DLQ_QUEUE").as_deref() == Some("order_dlq"));
    let lines = show::effective(&config);
    let origin = |name: &str| {
        lines
            .iter()
            .find(|line| line.name == name)
            .map(|line| line.origin.clone())
    };
    ensure!(origin("PORT").as_deref() == Some("flag --port"));
    ensure!(origin("KAFKA_CONSUMER_GROUP").as_deref() == Some("posthaste.toml"));
    ensure!(origin("DLQ_QUEUE").as_deref() == Some("default"));
    Ok(())
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_its_cure() -> Result<()> {
    let text = refusal(Sources::new().toml("posthaste.toml", "databse_url = 'sqlite:x'\nlog_level = 'inof'")?)?;
    ensure!(
        text.contains("unknown key DATABSE_URL (posthaste.toml); did you mean DATABASE_URL?"),
        "{text}"
    );
    ensure!(
        text.contains("LOG_LEVEL=inof (posthaste.toml)") && text.contains("did you mean info?"),
        "{text}"
    );
    let text = refusal(environment(&[
        ("PORT", "eighty"),
        ("DATABASE_URL", "postgress://u:hunter2@h/n"),
    ]))?;
    ensure!(text.contains("PORT=eighty (environment): write a port"), "{text}");
    ensure!(
        text.contains("did you mean postgres:?") && !text.contains("hunter2"),
        "{text}"
    );
    let broken = Sources::new()
        .toml("posthaste.toml", "port = 1\ndb_password = 'hunter2")
        .err();
    let text = broken.context("it was accepted")?.to_string();
    ensure!(
        text.contains("posthaste.toml: line 2") && !text.contains("hunter2"),
        "{text}"
    );
    Ok(())
}

#[test]
fn secrets_come_from_files_and_only_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("url");
    std::fs::write(&file, "postgres://u:hunter2@h/n\n")?;
    let path = file.to_str().context("path")?;
    let config = load(&[("DATABASE_URL_FILE", path)])?;
    ensure!(config.database_url("orders")?.value == "postgres://u:hunter2@h/n");
    let shown = show::table(&show::effective(&config));
    ensure!(
        shown.contains("postgres://u:***@h/n") && !shown.contains("hunter2"),
        "{shown}"
    );

    let both = [("DATABASE_URL_FILE", path), ("DATABASE_URL", "sqlite:x")];
    let text = refusal(environment(&both))?;
    ensure!(text.contains("DATABASE_URL") && text.contains("both set"), "{text}");
    let text = refusal(environment(&[("MQ_PASSWORD_FILE", "/nonexistent")]))?;
    ensure!(text.contains("MQ_PASSWORD_FILE=/nonexistent"), "{text}");
    Ok(())
}

#[test]
fn an_env_file_is_read_as_people_write_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(".env");
    let text = "\u{feff}PORT=9001\r\nAPP_NAME=my app\r\nMAIL_FROM=posthaste <no-reply@example.com>\r\n\
        DB_HOST=db\r\nDB_USER=me\r\nDB_PASSWORD=S3cr$t-pass\r\n";
    std::fs::write(&path, text)?;
    let config = Config::load(Sources::new().env_file(&path)?, &SERVICES)?;
    ensure!(config.listen.port() == 9001);
    ensure!(config.settings.get("APP_NAME").as_deref() == Some("my app"));
    ensure!(config.settings.get("MAIL_FROM").as_deref() == Some("posthaste <no-reply@example.com>"));
    let url = config.database_url("orders")?.value;
    ensure!(url == "postgres://me:S3cr$t-pass@db:5432", "{url}");

    std::fs::write(&path, "PORT=9001\n# fine\nhunter2\n")?;
    let error = Sources::new()
        .env_file(&path)
        .err()
        .context("it was accepted")?
        .to_string();
    ensure!(
        error.contains("line 3: write NAME=VALUE") && !error.contains("hunter2"),
        "{error}"
    );

    // A secret of its own file may have the mark, too.
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "\u{feff}hunter2\r\n")?;
    let named = secret.to_str().context("path")?;
    let config = load(&[("MQ_PASSWORD_FILE", named)])?;
    ensure!(config.settings.get("MQ_PASSWORD").as_deref() == Some("hunter2"));
    Ok(())
}

#[test]
fn the_first_place_wins_under_whatever_name() -> Result<()> {
    let load = |environment: &[(&str, &str)], toml: &str| -> Result<Config> {
        let pairs = environment
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let sources = Sources::new().environment(pairs).toml("posthaste.toml", toml)?;
        Ok(Config::load(sources, &SERVICES)?)
    };
    let config = load(&[("RABBITMQ_URL", "amqp://here")], "broker_url = 'amqp://there'")?;
    ensure!(config.broker_url("orders")?.value == "amqp://here");
    let config = load(&[("KAFKA_BOOTSTRAP_SERVERS", "here:9092")], "mq_host = 'there'")?;
    ensure!(config.broker_url("orders")?.value == "kafka://here:9092");
    // In one place the plain name goes first.
    let config = load(&[("RABBITMQ_URL", "amqp://b"), ("BROKER_URL", "amqp://a")], "")?;
    ensure!(config.broker_url("orders")?.value == "amqp://a");

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("url");
    std::fs::write(&file, "postgres://of-the-file/n\n")?;
    let path = file.to_str().context("path")?;
    let config = load(&[("DATABASE_URL_FILE", path)], "database_url = 'postgres://there/n'")?;
    ensure!(config.database_url("orders")?.value == "postgres://of-the-file/n");
    // A file that does not count need not be there.
    let config = load(
        &[("DATABASE_URL", "postgres://here/n")],
        "database_url_file = '/nonexistent'",
    )?;
    ensure!(config.database_url("orders")?.value == "postgres://here/n");
    Ok(())
}

#[test]
fn urls_are_built_from_their_parts() -> Result<()> {
    let parts = [
        ("DB_HOST", "db"),
        ("DB_NAME", "shop"),
        ("DB_USER", "me"),
        ("DB_PASSWORD", "p@ss/w:rd"),
    ];
    let url = load(&parts)?.database_url("orders")?;
    ensure!(url.value == "postgres://me:p%40ss%2Fw%3Ard@db:5432/shop", "{url:?}");
    ensure!(url.origin.to_string() == "from DB_HOST, environment", "{}", url.origin);

    for further in [("DB_PORT", "3306"), ("DB_KIND", "mysql")] {
        let url = load(&[&parts[..], &[further]].concat())?.database_url("orders")?;
        ensure!(url.value == "mysql://me:p%40ss%2Fw%3Ard@db:3306/shop", "{url:?}");
    }
    let set = load(&[("DB_HOST", "db"), ("DATABASE_URL", "sqlite:x.db")])?;
    ensure!(set.database_url("orders")?.value == "sqlite:x.db");

    for settings in [
        &[("AMQP_URL", "amqp://u:hunter2@mq:5672")][..],
        &[("RABBITMQ_URL", "amqp://u:hunter2@mq:5672")],
        &[("MQ_HOST", "mq"), ("MQ_USER", "u"), ("MQ_PASSWORD", "hunter2")],
        &[
            ("RABBITMQ_HOST", "mq"),
            ("RABBITMQ_USERNAME", "u"),
            ("RABBITMQ_PASSWORD", "hunter2"),
        ],
    ] {
        let url = load(settings)?.broker_url("orders")?;
        ensure!(url.value == "amqp://u:hunter2@mq:5672", "{url:?}");
    }
    let kafka = load(&[("KAFKA_BOOTSTRAP_SERVERS", "a:9092, b:9092")])?;
    ensure!(kafka.broker_url("orders")?.value == "kafka://a:9092,b:9092");
    ensure!(load(&[])?.broker_url("orders")?.value == "sql:");
    ensure!(load(&[])?.database_url("orders")?.value == "sqlite:data/posthaste.db");
    Ok(())
}

#[test]
fn service_links_of_kubernetes_are_not_ports() -> Result<()> {
    // Every port of ours may be the name of somebody's Service.
    let ports: Vec<&str> = keys::KEYS
        .iter()
        .map(|key| key.name)
        .filter(|name| name.ends_with("_PORT"))
        .collect();
    ensure!(ports.contains(&"RABBITMQ_PORT") && ports.contains(&"DB_PORT") && ports.contains(&"MQ_PORT"));
    for link in ["tcp://10.96.0.12:5672", "udp://10.96.0.12:53", "tcp://[fd00::12]:5672"] {
        for port in &ports {
            let service = port.trim_end_matches("_PORT");
            let names = [
                port.to_string(),
                format!("{service}_PORT_5672_TCP"),
                format!("{service}_PORT_5672_TCP_ADDR"),
                format!("{service}_SERVICE_HOST"),
                format!("{service}_SERVICE_PORT_AMQP"),
            ];
            let settings: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), link)).collect();
            let config = load(&settings)?;
            ensure!(config.database_url("orders")?.value == "sqlite:data/posthaste.db");
            ensure!(config.broker_url("orders")?.value == "sql:");
            let shown = show::table(&show::effective(&config));
            let line = shown.lines().find(|line| line.starts_with(port));
            ensure!(
                line.is_some_and(|line| line.contains("not set") && line.contains(link)),
                "{shown}"
            );
        }
    }
    // The next place is asked, and the default holds where there is none.
    let sources = environment(&[("MQ_HOST", "mq"), ("MQ_PORT", "tcp://10.96.0.12:5672")]);
    let config = Config::load(sources.clone(), &SERVICES)?;
    ensure!(config.broker_url("orders")?.value == "amqp://mq:5672");
    let config = Config::load(sources.toml("posthaste.toml", "mq_port = 5673")?, &SERVICES)?;
    ensure!(config.broker_url("orders")?.value == "amqp://mq:5673");
    // Anything else that is no port is a slip, as before.
    for (key, value) in [
        ("MQ_PORT", "tcp://mq:5672"),
        ("MQ_PORT", "http://10.0.0.1:1"),
        ("PORT", "tcp://10.0.0.1:1"),
    ] {
        refusal(environment(&[(key, value)]))?;
    }
    Ok(())
}

#[test]
fn what_stands_in_a_part_arrives_as_it_was_written() -> Result<()> {
    for part in ["a%41b", "50%off", "%", "%25", "a@:/#?&b", "%2f", "ü", " x ", "[", "\\"] {
        let check = |url: &str| -> Result<()> {
            let url = url::Url::parse(url)?;
            let name = url.path().trim_start_matches('/');
            let read = [url.username(), url.password().unwrap_or_default(), name].map(decode);
            let missing = if name.is_empty() { "" } else { part };
            ensure!(read == [part, part, missing], "{part:?}: {url}");
            Ok(())
        };
        for kind in ["postgres", "mysql"] {
            let settings = [
                ("DB_HOST", "db"),
                ("DB_KIND", kind),
                ("DB_NAME", part),
                ("DB_USER", part),
                ("DB_PASSWORD", part),
            ];
            check(&load(&settings)?.database_url("orders")?.value)?;
        }
        for family in ["MQ", "RABBITMQ"] {
            let keys = ["HOST", "USER", "PASSWORD"].map(|key| format!("{family}_{key}"));
            let settings = [(&*keys[0], "mq"), (&*keys[1], part), (&*keys[2], part)];
            check(&load(&settings)?.broker_url("orders")?.value)?;
        }
    }
    Ok(())
}

/// As the libraries that read URLs do it.
fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_service_may_have_its_own() -> Result<()> {
    let config = load(&[
        ("DATABASE_URL", "sqlite:all.db"),
        ("ORDERS_DATABASE_URL", "sqlite:orders.db"),
        ("MESSAGES_DATABASE_URL", "sqlite::memory:"),
        ("MESSAGES_BROKER_URL", "amqp://k"),
    ])?;
    ensure!(config.database_url("orders")?.value == "sqlite:orders.db");
    ensure!(config.broker_url("messages")?.value == "amqp://k");
    ensure!(
        config.check_services(&["orders"]).is_ok(),
        "orders does not need the database of messages"
    );
    let error = config
        .check_services(&SERVICES)
        .err()
        .context("a database in memory was accepted")?
        .to_string();
    ensure!(error.contains("MESSAGES_DATABASE_URL=sqlite::memory:"), "{error}");
    Ok(())
}

#[test]
fn open_to_the_world_is_said_and_never_assumed() -> Result<()> {
    ensure!(load(&[])?.auth == Auth::Open);
    let world = ("BIND_ADDRESS", "0.0.0.0");
    ensure!(load(&[world])?.auth == Auth::Enforced);
    ensure!(load(&[("POSTHASTE_AUTH", "enforced")])?.auth == Auth::Enforced);
    let open = load(&[world, ("POSTHASTE_AUTH", "open")])?;
    ensure!(open.auth == Auth::Open && open.is_openly_reachable());
    ensure!(!load(&[])?.is_openly_reachable());
    Ok(())
}
