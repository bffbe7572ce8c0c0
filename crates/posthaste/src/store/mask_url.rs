//! URLs as banners, logs and errors may show them.

/// `url` with its passwords replaced: before the host, and in the query. It need not be a URL that anybody can read:
/// whoever mistypes one is told so, and not with the password.
pub fn mask(url: &str) -> String {
    let (start, query) = match url.split_once('?') {
        Some((start, query)) => (start, Some(query)),
        None => (url, None),
    };
    let mut shown = without_password(start);
    for (n, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        shown.push(if n == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if name.to_ascii_lowercase().ends_with("password") => {
                shown.push_str(name);
                shown.push_str("=***");
            }
            _ => shown.push_str(pair),
        }
    }
    shown
}

fn without_password(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        // A password with an unescaped @ or slash is still one.
        let (login, host) = rest.rsplit_once('@')?;
        let (user, _password) = login.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{host}"))
    };
    hidden().unwrap_or_else(|| url.to_owned())
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
        ] {
            assert_eq!(mask(url), shown);
        }
    }
}
