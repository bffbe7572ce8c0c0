//! `config show` and `config check`.

use anyhow::{Result, ensure};

use crate::program::Program;

#[tokio::test]
async fn shows_values_with_origins_and_no_secrets() -> Result<()> {
    let program = Program::new()?;
    std::fs::write(
        program.folder().join("posthaste.toml"),
        "log_level = 'warn'\nport = 1\n",
    )?;
    std::fs::write(program.folder().join(".env"), "PORT=2\n")?;
    let variables = [("DB_HOST", "db"), ("DB_USER", "u"), ("DB_PASSWORD", "canary")];
    let shown = program.run(&["config", "show"], &variables).await?;
    ensure!(shown.code == 0 && !shown.stdout.contains("canary"), "{shown:?}");
    let line = |name: &str| {
        let line = shown
            .stdout
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name));
        line.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    ensure!(line("PORT").as_deref() == Some("PORT 2 .env"), "{shown:?}");
    ensure!(
        line("LOG_LEVEL").as_deref() == Some("LOG_LEVEL warn posthaste.toml"),
        "{shown:?}"
    );
    ensure!(
        line("DB_PASSWORD").as_deref() == Some("DB_PASSWORD *** environment"),
        "{shown:?}"
    );
    ensure!(
        line("DATABASE_URL").as_deref() == Some("DATABASE_URL postgres://u:***@db:5432 from DB_HOST, environment"),
        "{shown:?}"
    );
    let json = program.run(&["config", "show", "--format", "json"], &[]).await?;
    let json: serde_json::Value = serde_json::from_str(&json.stdout)?;
    ensure!(
        json["BROKER_URL"]["value"] == "sql:" && json["BROKER_URL"]["origin"] == "default",
        "{json}"
    );
    Ok(())
}

#[tokio::test]
async fn check_exits_78_on_an_error() -> Result<()> {
    let program = Program::new()?;
    let fine = program.run(&["config", "check"], &[]).await?;
    ensure!(fine.code == 0, "{fine:?}");
    for (variable, part) in [
        (("LOG_FORMAT", "jsno"), "did you mean json?"),
        (("BROKER_URL", "ampq://u:canary@h"), "did you mean amqp:"),
        (("DATABASE_URL", "mysq://u:canary@h/n"), "did you mean mysql:"),
    ] {
        let checked = program.run(&["config", "check"], &[variable]).await?;
        ensure!(checked.code == 78 && checked.stderr.contains(part), "{checked:?}");
        ensure!(!checked.stderr.contains("canary"), "{checked:?}");
        let served = program.run(&["serve"], &[variable]).await?;
        ensure!(served.code == 78 && served.stderr.contains(part), "{served:?}");
    }
    let unknown = program.run(&["serve", "mesages"], &[]).await?;
    ensure!(
        unknown.code == 78 && unknown.stderr.contains("did you mean messages?"),
        "{unknown:?}"
    );
    Ok(())
}

#[tokio::test]
async fn check_refuses_what_a_service_would_and_makes_nothing() -> Result<()> {
    let program = Program::new()?;
    for variable in [
        ("ACCESS_TOKEN_SECONDS", "5"),
        ("PASSWORD_HASH_PASSES", "1"),
        ("ONBOARDING_ATTEMPTS", "0"),
        ("TRUSTED_PROXIES", "x"),
        ("MAIL_FROM", "x"),
        ("ACCOUNTS_SECRET", "canary"),
        ("INCOMING_ORDER_QUEUE", "order_dlq"),
        ("INCOMING_ORDER_QUEUE", "amq.orders"),
        ("REDIS_URL", "redis://:canary@"),
        ("BROKER_URL", "amqp://u:canary@h:99999"),
    ] {
        let checked = program.run(&["config", "check"], &[variable]).await?;
        ensure!(
            checked.code == 78 && !checked.stderr.contains("canary"),
            "{variable:?}: {checked:?}"
        );
        let made: Vec<_> = std::fs::read_dir(program.folder())?.collect();
        ensure!(made.is_empty(), "{variable:?}: {made:?}");
        let served = program.run(&["serve", "--port", "0"], &[variable]).await?;
        ensure!(
            served.code == 78 && served.stderr == checked.stderr,
            "{served:?} {checked:?}"
        );
        if program.folder().join("data").exists() {
            std::fs::remove_dir_all(program.folder().join("data"))?;
        }
    }
    // Both at once, each told.
    let wrong = [("MAIL_FROM", "x"), ("INCOMING_ORDER_QUEUE", "order_dlq")];
    let checked = program.run(&["config", "check"], &wrong).await?;
    let told = checked.stderr.contains("MAIL_FROM") && checked.stderr.contains("order_dlq");
    ensure!(checked.code == 78 && told, "{checked:?}");
    // Nobody is called: there is no such host.
    let away = [
        ("DATABASE_URL", "postgres://u@nowhere.invalid/n"),
        ("BROKER_URL", "amqp://nowhere.invalid"),
        ("REDIS_URL", "redis://nowhere.invalid"),
    ];
    let checked = program.run(&["config", "check"], &away).await?;
    ensure!(checked.code == 0, "{checked:?}");
    ensure!(program.run(&["config", "check"], &[]).await?.code == 0);
    ensure!(
        std::fs::read_dir(program.folder())?.next().is_none(),
        "something was made"
    );
    Ok(())
}

#[tokio::test]
async fn check_says_what_has_no_effect() -> Result<()> {
    let program = Program::new()?;
    std::fs::write(program.folder().join(".env"), "DB_NAME=shop\nAPP_NAME=${NAME}\n")?;
    let variables = [
        ("DB_USER", "me"),
        ("DB_PASSWORD", "canary"),
        ("RABBITMQ_USER", "me"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_SDK_DISABLED", "true"),
        ("BIND_ADDRESS", "0.0.0.0"),
        ("PUBLIC_URL", "http://myhost.test:8000"),
    ];
    let checked = program.run(&["config", "check"], &variables).await?;
    ensure!(checked.code == 0 && !checked.stdout.contains("canary"), "{checked:?}");
    for warning in [
        "warning: DB_NAME (.env), DB_USER (environment), DB_PASSWORD (environment) are not used, because DB_HOST is not \
         set; DATABASE_URL is sqlite:data/posthaste.db (default)",
        "warning: RABBITMQ_USER (environment) is not used, because RABBITMQ_HOST is not set; BROKER_URL is sql: (default)",
        "warning: APP_NAME (.env) has ${…} in it",
        "warning: OTEL_EXPORTER_OTLP_PROTOCOL=grpc (environment): write one of http/protobuf; it is ignored",
        "warning: OTEL_TRACES_EXPORTER=console (environment)",
        "warning: PUBLIC_URL is http://myhost.test: the refresh cookie has Secure",
    ] {
        ensure!(checked.stdout.contains(warning), "{warning}: {checked:?}");
    }
    ensure!(checked.stdout.ends_with("the configuration is fine\n"), "{checked:?}");

    let used = [
        ("DB_HOST", "db"),
        ("DB_USER", "me"),
        ("RABBITMQ_HOST", "mq"),
        ("RABBITMQ_USER", "me"),
        ("BIND_ADDRESS", "0.0.0.0"),
        ("PUBLIC_URL", "http://localhost:8000"),
    ];
    std::fs::remove_file(program.folder().join(".env"))?;
    let checked = program.run(&["config", "check"], &used).await?;
    ensure!(checked.stdout == "the configuration is fine\n", "{checked:?}");
    // A Service of Kubernetes that is called as our keys begin.
    let link = [
        ("RABBITMQ_PORT", "tcp://10.96.0.12:5672"),
        ("DB_PORT", "tcp://10.96.0.13:5432"),
    ];
    for command in ["check", "show"] {
        let ran = program.run(&["config", command], &link).await?;
        ensure!(ran.code == 0, "{ran:?}");
    }
    Ok(())
}
