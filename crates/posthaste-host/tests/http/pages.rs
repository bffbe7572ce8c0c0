//! The pages for people.

use posthaste_host::http::Limits;
use serde_json::json;

use crate::client::{get_path, request, start};

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
