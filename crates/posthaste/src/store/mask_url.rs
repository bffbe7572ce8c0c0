//! URLs as banners, logs and errors may show them.

/// `url` with its passwords replaced: before the host, and in the query. It need not be a URL that anybody can read:
/// whoever mistypes one is told so, and not with the password.
pub fn mask(url: &str) -> String {
    let (login, rest) = match without_password(url) {
        Some((login, rest)) => (login, rest),
        None => (String::new(), url),
    };
    let (start, query) = match rest.split_once('?') {
        Some((start, query)) => (start, Some(query)),
        None => (rest, None),
    };
    let mut shown = login + start;
    for (n, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        shown.push(if n == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if is_secret(name) => {
                shown.push_str(name);
                shown.push_str("=***");
            }
            _ => shown.push_str(pair),
        }
    }
    shown
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "passwd", "pwd", "secret", "token", "key"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// What stands up to the last `@`, its password replaced, and what follows. A password may have anything unescaped in it
/// (`/`, `?`, `@`), so everything from the first `:` after the scheme to the last `@` is one.
fn without_password(url: &str) -> Option<(String, &str)> {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, url),
    };
    if let Some(scheme) = scheme
        && let Some(host) = after_token(scheme, rest)
    {
        return Some((format!("{scheme}://***"), host));
    }
    let at = rest.rfind('@')?;
    let (login, host) = rest.split_at(at);
    let (user, _password) = login.split_once(':')?;
    match scheme {
        Some(scheme) => Some((format!("{scheme}://{user}:***"), host)),
        // A file may be called so.
        None if user == "sqlite" => None,
        None => Some((format!("{user}:***"), host)),
    }
}

/// What follows a token in `rest`, from the `@` on. Before a host of HTTP or Redis a user without a password is one.
fn after_token<'u>(scheme: &str, rest: &'u str) -> Option<&'u str> {
    let schemes = ["http", "https", "redis", "rediss"];
    if !schemes.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return None;
    }
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let (user, _) = authority.split_once('@')?;
    if user.contains(':') {
        return None;
    }
    authority.rfind('@').map(|at| &rest[at..])
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn shows_everything_but_passwords() {
        for (url, shown) in [
            ("postgres://u:p%40@h:5432/n?x=1", "postgres://u:***@h:5432/n?x=1"),
            ("amqp://u:p@h:99999", "amqp://u:***@h:99999"),
            ("redis://:p@", "redis://:***@"),
            ("kafka://u:p@h1:9092,h2:9092", "kafka://u:***@h1:9092,h2:9092"),
            ("mysql://u:p@ss/w@h/n", "mysql://u:***@h/n"),
            ("postgres://h/n?user=u&password=p", "postgres://h/n?user=u&password=***"),
            ("postgres://u@h:5432/n", "postgres://u@h:5432/n"),
            ("sqlite:data/a@b.db", "sqlite:data/a@b.db"),
            ("sql:", "sql:"),
            ("postgres://u:p?S3cret@h/n", "postgres://u:***@h/n"),
            ("postgres://u:p?a=b&S3cret@h/n?x=1", "postgres://u:***@h/n?x=1"),
            ("smtp://u:p@S3cret@h", "smtp://u:***@h"),
            ("u:S3cret@h", "u:***@h"),
            ("amqp:u:S3cret@h", "amqp:***@h"),
            ("http://h:4318/?api_key=S3cret", "http://h:4318/?api_key=***"),
            ("http://h/?mail=a@b", "http://h/?mail=a@b"),
            ("https://S3cret@h/v1?x=1", "https://***@h/v1?x=1"),
            ("HTTP://S3cret@h:8080/a@b", "HTTP://***@h:8080/a@b"),
            ("redis://S3cret@h:6379/0", "redis://***@h:6379/0"),
            ("rediss://S3cret@h", "rediss://***@h"),
            ("https://u:S3cret@h", "https://u:***@h"),
        ] {
            assert_eq!(mask(url), shown);
        }
    }
}
