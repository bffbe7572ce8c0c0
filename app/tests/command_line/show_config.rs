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
