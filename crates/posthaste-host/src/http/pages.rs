//! What a person sees in a browser: the front page, the API's document and two viewers for it.
//!
//! Both viewers are compiled in and ask no other host for anything: scripts, styles and images come from here
//! (the content security policy says so to the browser), Swagger UI's validator badge and Redoc's telemetry are off.
//!
//! All links are relative, so that the pages work behind a proxy that puts a path in front of them.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Both viewers write style elements, hence `unsafe-inline` for styles and for nothing else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; \
    base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Makes what is relative in the document absolute: both viewers would take it as relative to their page.
const PLACE: &str = "const place = (document) => {
  const base = new URL('./', at);
  document.servers = [{ url: base.href.replace(/[/]$/, '') }];
  for (const scheme of Object.values(document.components?.securitySchemes ?? {})) {
    for (const flow of Object.values(scheme.flows ?? {})) flow.tokenUrl = new URL(flow.tokenUrl, base).href;
  }
  return document;
};
";

const SWAGGER_START: &str = "const at = new URL('../../openapi.json', document.currentScript.src);
window.ui = SwaggerUIBundle({
  url: at.href,
  responseInterceptor: (response) => {
    if (response.ok && response.url === at.href) response.text = JSON.stringify(place(JSON.parse(response.text)));
    return response;
  },
  dom_id: '#swagger-ui',
  deepLinking: true,
  persistAuthorization: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: 'BaseLayout',
});
";

const REDOC_START: &str = "import { init } from './redoc.standalone.js';
const at = new URL('../../openapi.json', import.meta.url);
const response = await fetch(at);
init(place(await response.json()), { disableTelemetry: true }, document.getElementById('api'));
";

/// All of it, for everybody.
pub(super) const OPEN_PAGES: [&str; 10] = [
    "/",
    "/docs",
    "/docs/assets/start.js",
    "/docs/assets/swagger-ui-bundle.js",
    "/docs/assets/swagger-ui.css",
    "/docs/assets/favicon-32x32.png",
    "/redoc",
    "/redoc/assets/start.js",
    "/redoc/assets/redoc.standalone.js",
    "/openapi.json",
];

/// A file of a viewer, compressed when it was added to the repository.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    gzip: &'static [u8],
}

const ASSETS: [Asset; 4] = [
    Asset {
        path: "/docs/assets/swagger-ui-bundle.js",
        content_type: JAVASCRIPT,
        gzip: include_bytes!("../../assets/swagger-ui/swagger-ui-bundle.js.gz"),
    },
    Asset {
        path: "/docs/assets/swagger-ui.css",
        content_type: "text/css; charset=utf-8",
        gzip: include_bytes!("../../assets/swagger-ui/swagger-ui.css.gz"),
    },
    Asset {
        path: "/docs/assets/favicon-32x32.png",
        content_type: "image/png",
        gzip: include_bytes!("../../assets/swagger-ui/favicon-32x32.png.gz"),
    },
    Asset {
        path: "/redoc/assets/redoc.standalone.js",
        content_type: JAVASCRIPT,
        gzip: include_bytes!("../../assets/redoc/redoc.standalone.js.gz"),
    },
];

/// `/`, `/docs`, `/redoc`, `/openapi.json` and what the viewers load.
pub(super) fn pages(title: &str, version: &str, openapi: String) -> Router {
    let front = serde_json::json!({ "service": title, "version": version, "docs": "/docs", "health": "/health" });
    let title = escape(title);
    let mut router = Router::new();
    for (path, content_type, text) in [
        ("/docs", "text/html; charset=utf-8", swagger_page(&title, "")),
        ("/docs/", "text/html; charset=utf-8", swagger_page(&title, "../")),
        ("/docs/assets/start.js", JAVASCRIPT, format!("{PLACE}{SWAGGER_START}")),
        ("/redoc", "text/html; charset=utf-8", redoc_page(&title, "")),
        ("/redoc/", "text/html; charset=utf-8", redoc_page(&title, "../")),
        ("/redoc/assets/start.js", JAVASCRIPT, format!("{PLACE}{REDOC_START}")),
        ("/openapi.json", "application/json", openapi),
    ] {
        let etag = tag(&Sha256::digest(&text)[..8]);
        router = router.route(path, file(content_type, false, etag, text.into()));
    }
    for asset in ASSETS {
        // A gzip file ends with the checksum and the length of its content.
        let etag = tag(asset.gzip.last_chunk::<8>().unwrap_or(&[0; 8]));
        router = router.route(
            asset.path,
            file(asset.content_type, true, etag, Bytes::from_static(asset.gzip)),
        );
    }
    router.route("/", get(async move || axum::Json(front.clone())))
}

/// `up` leads from where the page is to the root.
fn swagger_page(title: &str, up: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <link rel=\"stylesheet\" href=\"{up}docs/assets/swagger-ui.css\">\
         <link rel=\"icon\" type=\"image/png\" href=\"{up}docs/assets/favicon-32x32.png\"></head>\
         <body><div id=\"swagger-ui\"></div><script src=\"{up}docs/assets/swagger-ui-bundle.js\"></script>\
         <script src=\"{up}docs/assets/start.js\"></script></body></html>\n"
    )
}

/// `up` as for [`swagger_page`].
fn redoc_page(title: &str, up: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <link rel=\"icon\" type=\"image/png\" href=\"{up}docs/assets/favicon-32x32.png\"></head>\
         <body style=\"margin:0\"><div id=\"api\"></div>\
         <script type=\"module\" src=\"{up}redoc/assets/start.js\"></script></body></html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn tag(bytes: &[u8]) -> HeaderValue {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("\"{hex}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// A route that answers `content`, or 304 to who has it.
///
/// Compressed files are sent as they are even to a client that does not ask for gzip: every browser understands it,
/// nothing else loads a viewer's script, and a decompressor or a second copy of each file would only be carried about.
fn file(content_type: &'static str, gzip: bool, etag: HeaderValue, content: Bytes) -> axum::routing::MethodRouter {
    get(async move |request: Request| -> Response {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(ETAG, etag.clone());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
        let known = request
            .headers()
            .get_all(IF_NONE_MATCH)
            .iter()
            .any(|list| lists(list, &etag));
        if known {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        (headers, Body::from(content.clone())).into_response()
    })
}

/// Whether an `If-None-Match` names `etag`; the comparison is the weak one.
fn lists(list: &HeaderValue, etag: &HeaderValue) -> bool {
    let tags = list.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    tags.map(|tag| tag.strip_prefix(b"W/").unwrap_or(tag))
        .any(|tag| tag == b"*" || tag == etag.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_name_no_other_host() {
        for text in [
            &swagger_page("x", ""),
            &redoc_page("x", "../"),
            PLACE,
            SWAGGER_START,
            REDOC_START,
            PAGE_POLICY,
        ] {
            assert!(!text.contains("//") && !text.contains("http"), "{text}");
        }
        assert!(SWAGGER_START.contains("validatorUrl: null"));
        assert!(REDOC_START.contains("disableTelemetry: true"));
    }

    #[test]
    fn a_title_is_text() {
        assert!(swagger_page(&escape("<b>\"&"), "").contains("<title>&lt;b&gt;&quot;&amp;</title>"));
    }
}
