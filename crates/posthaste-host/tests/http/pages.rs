//! The pages for people.

use posthaste_host::http::Limits;
use serde_json::json;

use crate::client::{get_path, post_json, request, start};

#[tokio::test]
async fn the_front_page_points_on() {
    let server = start(Limits::default()).await;
    let answer = get_path(&server, "/").await;
    let expected = json!({"service": "tests", "version": "1.2.3", "docs": "/docs", "health": "/health"});
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn the_document_lists_the_routes() {
    let server = start(Limits::default()).await;
    let document = get_path(&server, "/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(document["info"]["title"], "tests");
    assert_eq!(document["info"]["version"], "1.2.3");
    assert!(document["paths"]["/notes"]["post"].is_object());
}

#[tokio::test]
async fn the_document_is_about_this_api() {
    let server = start(Limits::default()).await;
    let document = get_path(&server, "/openapi.json").await.json();
    let info = document["info"].as_object().unwrap();
    assert_eq!(
        info["license"],
        json!({"name": "MIT or Apache-2.0", "identifier": "MIT OR Apache-2.0"})
    );
    assert!(info["description"].as_str().unwrap().contains("RFC 9457"), "{info:?}");
    assert!(!info.contains_key("contact"), "{info:?}");
}

#[tokio::test]
async fn the_document_says_which_operations_ask_for_a_token() {
    let server = start(Limits::default()).await;
    let document = get_path(&server, "/openapi.json").await.json();
    let scheme = &document["components"]["securitySchemes"]["bearer"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&json!("http"), &json!("bearer")));
    let security = |path: &str, method: &str| document["paths"][path][method]["security"].clone();
    assert_eq!(security("/lenient", "post"), json!([{"bearer": []}]));
    // A 401 that is about something else.
    assert_eq!(security("/large", "post"), json!([]));
    assert_eq!(security("/notes/", "get"), json!([]));
}

#[tokio::test]
async fn the_document_knows_the_errors_and_what_may_have_any_member() {
    let server = start(Limits::default()).await;
    let document = get_path(&server, "/openapi.json").await.json();
    let broken = &document["paths"]["/broken"]["get"]["responses"];
    assert_eq!(
        broken["409"]["content"],
        json!({"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}})
    );
    assert!(broken["500"]["content"]["application/json"].is_object(), "{broken}");
    let wrong = post_json(&server, "/notes", r#"{"text": ""}"#).await.json();
    let problem = &document["components"]["schemas"]["Problem"]["properties"];
    let members = |value: &serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(members(problem), members(&wrong));
    assert_eq!(
        members(&problem["errors"]["items"]["properties"]),
        members(&wrong["errors"][0])
    );
    let note = &document["components"]["schemas"]["Note"];
    assert_eq!(note["properties"]["free"]["additionalProperties"], true, "{note}");
    assert!(note.get("additionalProperties").is_none(), "{note}");
}

#[tokio::test]
async fn the_document_says_what_the_host_takes_as_a_key_and_a_cursor() {
    let server = start(Limits::default()).await;
    let document = get_path(&server, "/openapi.json").await.json();
    let parameters = document["paths"]["/notes/"]["get"]["parameters"].as_array().unwrap();
    let schema = |name: &str| &parameters.iter().find(|one| one["name"] == name).unwrap()["schema"];
    assert_eq!(
        (&schema("cursor")["minLength"], &schema("other")["minLength"]),
        (&json!(1), &json!(null))
    );
    assert_eq!(schema("Idempotency-Key")["pattern"], "^[!-~]+$");
}

/// What `text` names in `'…'` or `"…"` behind `before`.
fn named<'t>(text: &'t str, before: &str) -> Vec<&'t str> {
    let found = text.split(before).skip(1);
    found.filter_map(|rest| rest.split(['"', '\'']).next()).collect()
}

#[tokio::test]
async fn the_viewers_work_behind_a_path() {
    const PREFIX: &str = "http://proxy.example/below/it";
    let server = start(Limits::default()).await;
    let fetch = async |url: &url::Url| {
        let path = url
            .as_str()
            .strip_prefix(PREFIX)
            .unwrap_or_else(|| panic!("{url} leads out"));
        let answer = get_path(&server, path).await;
        assert_eq!(answer.status, 200, "{url}");
        answer
    };
    for path in ["/docs", "/docs/", "/redoc", "/redoc/"] {
        let page = url::Url::parse(&format!("{PREFIX}{path}")).unwrap();
        let html = fetch(&page).await.text();
        let links = [named(&html, "src=\""), named(&html, "href=\"")].concat();
        assert!(!links.is_empty(), "{html}");
        let mut documents = 0;
        for link in links {
            let link = page.join(link).unwrap();
            let file = fetch(&link).await;
            if !link.path().ends_with("/start.js") {
                continue;
            }
            let script = file.text();
            for import in named(&script, "from '") {
                fetch(&link.join(import).unwrap()).await;
            }
            for document in named(&script, "new URL('")
                .into_iter()
                .filter(|path| path.ends_with(".json"))
            {
                let at = link.join(document).unwrap();
                let document = fetch(&at).await.json();
                let server = at.join(document["servers"][0]["url"].as_str().unwrap()).unwrap();
                assert_eq!(server.as_str(), format!("{PREFIX}/"));
                documents += 1;
            }
            assert!(named(&script, "'/").is_empty(), "{script}");
        }
        assert_eq!(documents, 1, "{path}");
    }
}

#[tokio::test]
async fn the_viewers_come_from_here_alone() {
    let server = start(Limits::default()).await;
    for path in ["/docs", "/redoc", "/docs/", "/redoc/"] {
        let page = get_path(&server, path).await;
        assert_eq!(
            (page.status, page.header("content-type")),
            (200, Some("text/html; charset=utf-8")),
            "{path}"
        );
        let policy = page.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("http"),
            "{policy}"
        );
        let html = page.text();
        assert!(!html.contains("//"), "{html}");
    }
}

#[tokio::test]
async fn files_are_compressed_and_cached() {
    let server = start(Limits::default()).await;
    for path in [
        "/docs/assets/swagger-ui-bundle.js",
        "/docs/assets/swagger-ui.css",
        "/redoc/assets/redoc.standalone.js",
    ] {
        let file = get_path(&server, path).await;
        assert_eq!(
            (file.status, file.header("content-encoding")),
            (200, Some("gzip")),
            "{path}"
        );
        assert_eq!(file.body[..2], [0x1f, 0x8b], "{path}");
        let etag = file.header("etag").unwrap();
        let again = request(&server, "GET", path, &format!("If-None-Match: \"x\", W/{etag}\r\n"), "").await;
        assert_eq!(
            (again.status, again.header("etag"), again.body.len()),
            (304, Some(etag), 0),
            "{path}"
        );
    }
}
