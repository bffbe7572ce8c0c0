//! The API's document against the API.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::program::{LIMIT, Program};
use crate::serve_and_stop::{api_of, keep_log};

/// Whether the answer is that of a guard that saw no token.
fn is_guarded(reply: &reqwest::Response) -> bool {
    reply.status() == 401 && reply.headers().contains_key("www-authenticate")
}

#[tokio::test]
async fn an_operation_asks_for_a_token_exactly_where_the_document_says_so() -> Result<()> {
    let program = Program::new()?;
    let enforced = [("POSTHASTE_AUTH", "enforced")];
    let mut child = program.command(&["--port", "0"], &enforced).spawn()?;
    let api = api_of(&mut child).await?;
    drop(keep_log(&mut child)?);
    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    let document: Value = client.get(format!("{api}openapi.json")).send().await?.json().await?;
    let schemes = document["components"]["securitySchemes"]
        .as_object()
        .context("schemes")?;
    let (mut guarded, mut open) = (0, 0);
    for (path, operations) in document["paths"].as_object().context("paths")? {
        let operations = operations.as_object().context("operations")?;
        for (method, operation) in operations.iter().filter(|(_, member)| member["responses"].is_object()) {
            let security = operation["security"]
                .as_array()
                .with_context(|| format!("{method} {path}"))?;
            for name in security.iter().filter_map(Value::as_object).flat_map(|one| one.keys()) {
                ensure!(schemes.contains_key(name), "{method} {path}: {name}");
            }
            // Where a token may be left out, a change may still need another proof.
            let optional = security.contains(&json!({}));
            if optional && method != "get" {
                continue;
            }
            let asks = !security.is_empty() && !optional;
            let mut url = path.trim_start_matches('/').to_owned();
            while let (Some(start), Some(end)) = (url.find('{'), url.find('}')) {
                url.replace_range(start..=end, "01939a3e-7c4b-7b5e-9d6f-2f1f1e5a0c11");
            }
            let request = client.request(method.to_ascii_uppercase().parse()?, format!("{api}{url}"));
            let request = match operation.get("requestBody") {
                Some(_) => request.header("Content-Type", "application/json").body("{}"),
                None => request,
            };
            let reply = request.send().await?;
            ensure!(
                is_guarded(&reply) == asks,
                "{method} {path} has security {security:?} and answers {reply:?}"
            );
            *if asks { &mut guarded } else { &mut open } += 1;
        }
    }
    ensure!(guarded > 5 && open > 5, "{guarded} {open}");
    child.kill().await.context("kill")
}
