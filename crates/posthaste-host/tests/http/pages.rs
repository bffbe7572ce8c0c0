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
    assert_eq!(members(&problem["errors"]["items"]["properties"]), members(&wrong["errors"][0]));
    let note = &document["components"]["schemas"]["Note"];
    assert_eq!(note["properties"]["free"]["additionalProperties"], true, "{note}");
    assert!(note.get("additionalProperties").is_none(), "{note}");
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
        for link in html.split("src=\"").skip(1).chain(html.split("href=\"").skip(1)) {
            let link = link.split('"').next().unwrap();
            assert_eq!(get_path(&server, link).await.status, 200, "{link}");
        }
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
