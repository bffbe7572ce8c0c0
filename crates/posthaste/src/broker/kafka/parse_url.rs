//! `kafka://host:9092,host2:9092?partitions=3`

use crate::broker::BrokerError;
use crate::store::mask;

const PORT: u16 = 9092;
/// Of topics that are created because nobody else did.
const PARTITIONS: i32 = 3;

/// Where a cluster is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// `host:port`, separated by commas.
    pub servers: String,
    /// Partitions of a topic that does not exist yet.
    pub partitions: i32,
}

/// Reads `url`, which is `kafka:` something.
pub(super) fn parse(url: &str) -> Result<Address, BrokerError> {
    let refused = |what: &str| {
        let form = "write kafka://HOST:9092,HOST2:9092 or kafka://HOST:9092?partitions=3";
        BrokerError::Url(format!("{}: {what}; {form}", mask_all(url)))
    };
    let rest = url
        .strip_prefix("kafka://")
        .ok_or_else(|| refused("no kafka:// URL (this build speaks to Kafka without TLS)"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if rest.contains('@') {
        return Err(refused(
            "a user and password need SASL, which this build does not have; let a listener of the brokers' private network in without",
        ));
    }
    let mut partitions = PARTITIONS;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        partitions = match pair.split_once('=') {
            Some(("partitions", count)) => match count.parse() {
                Ok(count @ 1..=10_000) => count,
                _ => return Err(refused("partitions must be a number from 1 to 10000")),
            },
            _ => return Err(refused("the only parameter is partitions")),
        };
    }
    let mut servers = Vec::new();
    for server in rest.trim_end_matches('/').split(',') {
        servers.push(server_of(server.trim()).ok_or_else(|| refused("a broker is HOST or HOST:PORT"))?);
    }
    Ok(Address {
        servers: servers.join(","),
        partitions,
    })
}

fn server_of(text: &str) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of an IPv6 address without a port.
        _ if text.ends_with(']') => (text, PORT),
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
        None => (text, PORT),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.[]:%".contains(c);
    (!host.is_empty() && host.chars().all(fits)).then(|| format!("{host}:{port}"))
}

/// The `url` crate takes no list of hosts, so a password in one would not be found by it.
fn mask_all(url: &str) -> String {
    match url.split_once("://").zip(url.rsplit_once('@')) {
        Some(((scheme, _), (_, hosts))) => format!("{scheme}://***@{hosts}"),
        None => mask(url),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn hosts_ports_and_partitions_are_read() {
        for (url, servers, partitions) in [
            ("kafka://k", "k:9092", 3),
            ("kafka://k:19092/", "k:19092", 3),
            ("kafka://a:1, b,c_d.e:3?partitions=12", "a:1,b:9092,c_d.e:3", 12),
            ("kafka://[::1]:9093,[::1]", "[::1]:9093,[::1]:9092", 3),
        ] {
            let address = parse(url).unwrap();
            assert_eq!((address.servers.as_str(), address.partitions), (servers, partitions));
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_reason_and_without_the_password() {
        for (url, reason) in [
            ("kafka://user:secret@k:9092,l:9092", "SASL"),
            ("kafkas://k", "TLS"),
            ("kafka://", "HOST:PORT"),
            ("kafka://k:0", "HOST:PORT"),
            ("kafka://k:9092?acks=0", "only parameter"),
            ("kafka://k?partitions=0", "1 to 10000"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("secret"), "{error}");
        }
    }
}
