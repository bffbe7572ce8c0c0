//! What must not be shown: secrets by the name of their field, and by their shape inside a text.

use std::borrow::Cow;

/// What a field may show of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// All of it.
    Show,
    /// The domain of an e-mail address.
    MaskEmail,
    /// Nothing.
    Hide,
}

/// What stands for a secret.
pub const HIDDEN: &str = "***";

/// Names of fields whose value is a secret, without case and separators.
const SECRETS: &[&str] = &[
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "authorization",
    "cookie",
    "setcookie",
    "apikey",
    "jwt",
    "privatekey",
    "credential",
    "credentials",
    "sessionid",
    "otp",
    "pin",
    "resetlink",
    "resetcode",
    "verificationcode",
    "verificationlink",
];
/// … and whose names end like this: `refresh_token`, `X-Api-Key`, `userPassword`.
const SECRET_ENDS: &[&str] = &[
    "password",
    "passwd",
    "secret",
    "token",
    "authorization",
    "cookie",
    "apikey",
    "privatekey",
    "credentials",
    "passphrase",
    "passwordhash",
    "tokenhash",
    "verificationhash",
];

/// What the field `name` may show.
pub fn treatment(name: &str) -> Treatment {
    // `http.request.header.authorization` is about its last part.
    let last = name.rsplit('.').next().unwrap_or(name);
    let plain: String = last
        .chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    if SECRETS.contains(&plain.as_str()) || SECRET_ENDS.iter().any(|end| plain.ends_with(end)) {
        Treatment::Hide
    } else if plain.ends_with("email") || plain.ends_with("emailaddress") {
        Treatment::MaskEmail
    } else {
        Treatment::Show
    }
}

/// `jane@example.com` → `j***@example.com`; anything else is hidden.
pub fn email(address: &str) -> String {
    match address.trim().split_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() => {
            let first: String = local.chars().take(1).collect();
            format!("{first}***@{domain}")
        }
        _ => HIDDEN.to_owned(),
    }
}

/// A secret setting as an error or `config show` may show it: a URL without its passwords, and of
/// anything else nothing.
pub fn secret_value(value: &str) -> String {
    if !value.contains(':') || value.contains(char::is_whitespace) {
        return HIDDEN.to_owned();
    }
    // A password may have anything unescaped in it, a question mark too.
    let masked = posthaste::store::mask(value);
    let Some((start, query)) = masked.split_once('?') else {
        return escape(&masked);
    };
    let query: Vec<Cow<'_, str>> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if treatment(name) != Treatment::Show => Cow::Owned(format!("{name}={HIDDEN}")),
            _ => Cow::Borrowed(pair),
        })
        .collect();
    escape(&format!("{start}?{}", query.join("&")))
}

/// `text` without the secrets that its shape gives away: passwords in URLs, bearer tokens, values of
/// secret names (`password=…`, `"token": "…"`), the local part of e-mail addresses.
pub fn text(text: &str) -> Cow<'_, str> {
    if !text.contains(['@', '=', ':']) && !text.contains("earer ") {
        return Cow::Borrowed(text);
    }
    let text = if text.contains("://") {
        without_passwords(text)
    } else {
        Cow::Borrowed(text)
    };
    let text = match after_bearer(&text) {
        Some(changed) => Cow::Owned(changed),
        None => text,
    };
    let text = match named_values(&text) {
        Some(changed) => Cow::Owned(changed),
        None => text,
    };
    match addresses(&text) {
        Some(changed) => Cow::Owned(changed),
        None => text,
    }
}

/// Every `scheme://user:password@` in `text` with its password replaced, and every `https://token@`.
fn without_passwords(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, tail) = rest.split_at(at + 3);
        out.push_str(before);
        // A password with an unescaped slash is still one: up to the last @ before a blank or quote.
        let end = tail
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>'))
            .unwrap_or(tail.len());
        let next = tail[..end].find("://").unwrap_or(end);
        rest = tail;
        if let Some(host) = after_token(before, &tail[..next]) {
            out.push_str(HIDDEN);
            rest = &tail[host..];
        } else if let Some(host) = tail[..next].rfind('@')
            && let Some(colon) = tail[..host].find(':')
        {
            out.push_str(&tail[..=colon]);
            out.push_str(HIDDEN);
            rest = &tail[host..];
        }
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn after_bearer(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("earer ") {
        let (before, tail) = rest.split_at(at + "earer ".len());
        out.push_str(before);
        let end = tail.find(|c: char| !is_token(c)).unwrap_or(tail.len());
        // "the bearer of" is no token.
        let shown = if end >= 16 { HIDDEN } else { &tail[..end] };
        out.push_str(shown);
        rest = &tail[end..];
    }
    if out.is_empty() {
        return None;
    }
    out.push_str(rest);
    Some(out)
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '+' | '/' | '=')
}

/// Hides what follows a secret name and `=` or `:`, in any mix of quotes (escaped ones too).
fn named_values(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut done = 0;
    for (at, _) in text.match_indices(['=', ':']) {
        if at < done {
            continue;
        }
        let name = text[..at].trim_end_matches(['"', '\'', '\\', ' ']);
        let from = name
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')))
            .map_or(0, |before| {
                before + name[before..].chars().next().map_or(1, char::len_utf8)
            });
        let value = text[at + 1..].trim_start_matches(' ');
        let opened = value.trim_start_matches('\\');
        let quote = opened.chars().next().filter(|c| matches!(c, '"' | '\''));
        let start = match quote {
            Some(_) => text.len() - opened.len() + 1,
            None => text.len() - value.len(),
        };
        // `password: String::new()` and `token::` are code, not values; so is nothing at all.
        if text[at + 1..].starts_with(':') || start >= text.len() {
            continue;
        }
        if treatment(&name[from..]) != Treatment::Hide {
            continue;
        }
        let length = match quote {
            Some(quote) => end_of_quoted(&text[start..], quote, opened.len() < value.len()),
            // `authorization: Bearer x` has its value after a blank.
            None if text[start..].starts_with("Bearer ") || text[start..].starts_with("Basic ") => {
                let scheme = text[start..].find(' ').map_or(0, |blank| blank + 1);
                scheme + word_end(&text[start + scheme..])
            }
            None => word_end(&text[start..]),
        };
        out.push_str(&text[done..start]);
        out.push_str(HIDDEN);
        done = start + length;
    }
    if done == 0 {
        return None;
    }
    out.push_str(&text[done..]);
    Some(out)
}

/// Where the `@` behind a token at the start of `tail` stands. Before a host of HTTP or Redis, whose URL `before` begins, a
/// user without a password is a token.
fn after_token(before: &str, tail: &str) -> Option<usize> {
    let before = before.strip_suffix("://")?.to_ascii_lowercase();
    if !["http", "https", "redis", "rediss"]
        .iter()
        .any(|scheme| before.ends_with(scheme))
    {
        return None;
    }
    let authority = &tail[..tail.find(['/', '?', '#']).unwrap_or(tail.len())];
    let (user, _) = authority.split_once('@')?;
    if user.contains(':') {
        return None;
    }
    authority.rfind('@')
}

fn word_end(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '&' | '"' | '\'' | '}' | ')' | ']'))
        .unwrap_or(text.len())
}

/// `inside`: the quotes are themselves escaped, as in JSON within a string.
fn end_of_quoted(text: &str, quote: char, inside: bool) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            if inside && c == quote {
                return at - 1;
            }
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at;
        }
    }
    text.len()
}

fn addresses(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut done = 0;
    for (at, _) in text.match_indices('@') {
        let local = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '%' | '+' | '-');
        let before = &text[done..at];
        let length: usize = before.chars().rev().take_while(|c| local(*c)).map(char::len_utf8).sum();
        let domain = &text[at + 1..];
        let domain = &domain[..domain
            .find(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '-')))
            .unwrap_or(domain.len())];
        if length == 0 || !domain.trim_matches('.').contains('.') || text[..at - length].ends_with("://") {
            continue;
        }
        let start = at - length;
        out.push_str(&text[done..start]);
        out.extend(text[start..].chars().next());
        out.push_str(HIDDEN);
        done = at;
    }
    if done == 0 {
        return None;
    }
    out.push_str(&text[done..]);
    Some(out)
}

/// Whether a character could break a line or command a terminal.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` on one line: line breaks, escape sequences and direction marks written out.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// `text` as a JSON string with the same characters written out.
pub fn push_json(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // All of them lie in the basic plane.
            c if is_unsafe(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_secret_fields_by_name() {
        for name in [
            "password",
            "userPassword",
            "access_token",
            "refresh-token",
            "Authorization",
            "set-cookie",
            "X-Api-Key",
            "http.request.header.cookie",
            "client_secret",
        ] {
            assert_eq!(treatment(name), Treatment::Hide, "{name}");
        }
        assert_eq!(treatment("user_email"), Treatment::MaskEmail);
        for name in ["message_id", "tokens_left", "key", "service", "pinned"] {
            assert_eq!(treatment(name), Treatment::Show, "{name}");
        }
    }

    #[test]
    fn cuts_secrets_out_of_texts() {
        for (before, after) in [
            ("postgres://u:p@ss/w@h/n gone", "postgres://u:***@h/n gone"),
            ("kafka://u:p@h1:9092,h2:9092", "kafka://u:***@h1:9092,h2:9092"),
            ("Authorization: Bearer abc.def", "Authorization: ***"),
            ("sent Bearer abcdefghijklmnop.x", "sent Bearer ***"),
            (r#"{"password":"a\"b","n":1}"#, r#"{"password":"***","n":1}"#),
            (
                r#"body {\"token\":\"x y\",\"n\":1}"#,
                r#"body {\"token\":\"***\",\"n\":1}"#,
            ),
            ("login password=hunter2&next=/", "login password=***&next=/"),
            ("Login { password: \"x\", n: 1 }", "Login { password: \"***\", n: 1 }"),
            ("mail to jane.doe@example.com.", "mail to j***@example.com."),
            ("nothing: here", "nothing: here"),
            ("http://localhost:8000/docs", "http://localhost:8000/docs"),
            ("at https://S3cret@h/v1 twice", "at https://***@h/v1 twice"),
            ("redis://S3cret@h:6379/0 gone", "redis://***@h:6379/0 gone"),
            ("https://u:S3cret@h gone", "https://u:***@h gone"),
            ("postgres://u@h:5432/n", "postgres://u@h:5432/n"),
        ] {
            assert_eq!(text(before), after, "{before}");
        }
    }

    #[test]
    fn shows_urls_without_passwords() {
        assert_eq!(secret_value("postgres://u:p%40@h:5432/n"), "postgres://u:***@h:5432/n");
        assert_eq!(
            secret_value("postgres://h/n?user=u&password=p"),
            "postgres://h/n?user=u&password=***"
        );
        assert_eq!(secret_value("sqlite:data/x.db"), "sqlite:data/x.db");
        assert_eq!(secret_value("hunter2"), "***");
        for url in [
            "postgres://u:p?S3cret@h/n",
            "amqp://u:p?S3cret@h",
            "u:S3cret@h",
            "amqp:u:S3cret@h",
            "http://u:S3cret@h",
            "https://S3cret@h",
            "redis://S3cret@h:6379/0",
            "http://h/v1?api_key=S3cret",
            "http://h/v1?x=1&token=S3cret",
        ] {
            assert!(!secret_value(url).contains("S3cret"), "{url}: {}", secret_value(url));
        }
    }

    #[test]
    fn keeps_a_value_on_its_line() {
        assert_eq!(
            escape("a\r\n\u{1b}[31m\u{9b}b\u{202e}"),
            "a\\r\\n\\u{1b}[31m\\u{9b}b\\u{202e}"
        );
        let mut json = String::new();
        push_json(&mut json, "a\"\\\n\u{1b}é\u{2028}");
        assert_eq!(json, "\"a\\\"\\\\\\n\\u001bé\\u2028\"");
    }
}
