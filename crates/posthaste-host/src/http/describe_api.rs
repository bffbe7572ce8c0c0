//! The API's document: what the services say of their routes, completed with what holds for all of them.

use serde_json::{Map, Value, json};
use utoipa::openapi::{Info, License, OpenApi};

/// How a token is sent; every process has it.
const BEARER: &str = "bearer";
const PROBLEM: &str = "#/components/schemas/Problem";

const ABOUT: &str = "Paths work with and without a slash at their end. Errors are `application/problem+json` (RFC 9457) \
    and carry the `correlation_id` that the log lines of the request have. Where an `Idempotency-Key` is taken, a \
    repeat gets the first answer.";

/// `document` as JSON text.
///
/// Added are: what this API is, where it is (beside the document, so that a proxy may put a path in front), how tokens
/// are sent, which operations ask for one, and the body of errors. An operation that documents a 401 asks for a token
/// unless its own `security(…)` says otherwise; an operation that documents none asks for none.
pub(super) fn describe(title: &str, version: &str, license: Option<&str>, mut document: OpenApi) -> String {
    let mut info = Info::new(title, version);
    info.description = Some(ABOUT.to_owned());
    info.license = license.map(|expression| {
        let mut license = License::new(expression.replace(" OR ", " or "));
        license.identifier = Some(expression.to_owned());
        license
    });
    document.info = info;
    let mut document = serde_json::to_value(document).unwrap_or_else(|error| {
        tracing::error!(%error, "the API document cannot be written");
        json!({})
    });
    document["servers"] = json!([{ "url": "./" }]);
    document["components"]["schemas"]["Problem"] = problem();
    document["components"]["securitySchemes"][BEARER] = json!({
        "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "An access token.",
    });
    let schemes = document["components"]["securitySchemes"].as_object();
    let any: Vec<Value> = schemes
        .into_iter()
        .flat_map(Map::keys)
        .map(|scheme| json!({ scheme: [] }))
        .collect();
    let paths = document["paths"].as_object_mut();
    for item in paths
        .into_iter()
        .flat_map(Map::values_mut)
        .filter_map(Value::as_object_mut)
    {
        // A path has members that are no operations, none of which has responses.
        for operation in item.values_mut().filter(|member| member["responses"].is_object()) {
            secure(operation, &any);
            explain_errors(operation);
            bound_parameters(operation);
        }
    }
    open_objects(&mut document);
    document.to_string()
}

/// Says whether `operation` asks for a token, by `any` of the schemes.
fn secure(operation: &mut Value, any: &[Value]) {
    let security = match operation.get("security") {
        // How utoipa writes `security(())`.
        Some(none) if *none == json!([{}]) => json!([]),
        Some(own) => own.clone(),
        None if operation["responses"].get("401").is_some() => any.into(),
        None => json!([]),
    };
    operation["security"] = security;
}

/// Gives the errors of `operation` the body that all of ours have.
fn explain_errors(operation: &mut Value) {
    let responses = operation["responses"].as_object_mut();
    for (status, response) in responses.into_iter().flatten() {
        if status.starts_with(['4', '5']) && response.get("content").is_none() {
            response["content"] = json!({ "application/problem+json": { "schema": { "$ref": PROBLEM } } });
        }
    }
}

/// Says of the parameters that the host itself reads what they may be.
fn bound_parameters(operation: &mut Value) {
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        let words = match parameter["name"].as_str() {
            Some("Idempotency-Key") => json!({ "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" }),
            Some("cursor") => json!({ "minLength": 1 }),
            _ => continue,
        };
        if let (Some(schema), Value::Object(words)) = (parameter["schema"].as_object_mut(), words) {
            schema.extend(words);
        }
    }
}

/// An object without any declared member may have any; without this word generators make a type of no members.
fn open_objects(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let is_object = match members.get("type") {
                Some(Value::String(kind)) => kind == "object",
                Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
                _ => false,
            };
            let declared = ["properties", "additionalProperties", "$ref", "allOf", "anyOf", "oneOf"];
            if is_object && !declared.iter().any(|word| members.contains_key(*word)) {
                members.insert("additionalProperties".to_owned(), true.into());
            }
            let examples = ["example", "examples", "default"];
            for (_, member) in members
                .iter_mut()
                .filter(|(name, _)| !examples.contains(&name.as_str()))
            {
                open_objects(member);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(open_objects),
        _ => {}
    }
}

/// As [`super::ApiError`] is written.
fn problem() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "type": "object",
        "description": "What went wrong (RFC 9457).",
        "required": ["type", "title", "status"],
        "properties": {
            "type": { "type": "string", "example": "about:blank" },
            "title": text("The same for every error of its kind."),
            "status": { "type": "integer", "description": "The status of the answer.", "example": 422 },
            "detail": text("What happened this time, for a person."),
            "correlation_id": text("Under this id the request stands in the log."),
            "errors": {
                "type": "array",
                "description": "The parts of the request that are not valid.",
                "items": {
                    "type": "object",
                    "required": ["pointer", "loc", "msg", "type"],
                    "properties": {
                        "pointer": { "type": "string", "description": "Which member (RFC 6901).", "example": "#/email" },
                        "loc": {
                            "type": "array",
                            "items": { "type": "string" },
                            "description": "The same in parts, the first of which is body, query, path or header.",
                        },
                        "msg": text("What is wrong with it."),
                        "type": { "type": "string", "description": "The kind of fault.", "example": "missing" },
                    },
                },
            },
        },
    })
}
