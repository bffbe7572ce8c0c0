//! What counts as the same message when other clients write it.

use anyhow::{Result, ensure};
use posthaste_testkit::{TestDatabase, servers, wait_until};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::shop::{LIMIT, Shop, topic};
use crate::transport;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_known_by_source_and_id_or_by_their_place() -> Result<()> {
    let event: fn(&'static str, &'static str) -> Vec<(&'static str, &'static str)> =
        |id, source| vec![("ce_id", id), ("ce_source", source)];
    let records = [
        (event("1", "/a"), 1),
        (event("1", "/b"), 2),
        (event("1", "/a"), 1),
        (event("1", "/b"), 99),
        // An id alone counts together with the bytes.
        (vec![("event_id", "1")], 3),
        (vec![("event_id", "1")], 4),
        (vec![("event_id", "1")], 3),
        // Each record without any is one of its own.
        (vec![], 5),
        (vec![], 5),
    ];
    let database = TestDatabase::sqlite()?;
    let shop = Shop::open(&database, &transport()?, &topic()).await?;
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", servers::kafka()?)
        .create()?;
    let send = async |headers: &[(&str, &str)], n: i64| -> Result<()> {
        let body = format!(r#"{{"n":{n}}}"#);
        let headers = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header {
                key,
                value: Some(*value),
            })
        });
        let record = FutureRecord::to(&shop.topic).key("k").payload(&body).headers(headers);
        producer.send(record, LIMIT).await.map_err(|(error, _)| error)?;
        Ok(())
    };
    for (headers, n) in &records {
        send(headers, *n).await?;
    }
    let structured = r#"{"specversion":"1.0","id":"1","source":"/c","type":"sale","data":{"n":6}}"#;
    for _ in 0..2 {
        let headers = OwnedHeaders::new().insert(Header {
            key: "content-type",
            value: Some("application/cloudevents+json; charset=utf-8"),
        });
        let record = FutureRecord::to(&shop.topic)
            .key("k")
            .payload(structured)
            .headers(headers);
        producer.send(record, LIMIT).await.map_err(|(error, _)| error)?;
    }
    send(&[], 1000).await?;
    let engine = shop.sales();
    wait_until("the last effect", LIMIT, || async {
        shop.effects("").await.ok()?.contains(&1000).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    let mut effects = shop.effects("").await?;
    effects.sort_unstable();
    ensure!(effects == [1, 2, 3, 4, 5, 5, 6, 1000], "{effects:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_s_own_key_goes_before_an_id_and_the_place() -> Result<()> {
    let database = TestDatabase::sqlite()?;
    let shop = Shop::open(&database, &transport()?, &topic()).await?;
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", servers::kafka()?)
        .create()?;
    let one_id = || {
        OwnedHeaders::new().insert(Header {
            key: "event_id",
            value: Some("1"),
        })
    };
    for (n, key, headers) in [
        (1, "a", one_id()),
        (2, "b", one_id()),
        (3, "a", OwnedHeaders::new()),
        (1000, "last", OwnedHeaders::new()),
    ] {
        let body = format!(r#"{{"n":{n},"key":"{key}"}}"#);
        let record = FutureRecord::to(&shop.topic).key("k").payload(&body).headers(headers);
        producer.send(record, LIMIT).await.map_err(|(error, _)| error)?;
    }
    let engine = shop.keyed_sales();
    wait_until("the last effect", LIMIT, || async {
        shop.effects("").await.ok()?.contains(&1000).then_some(())
    })
    .await?;
    engine.stop(LIMIT).await;
    let mut effects = shop.effects("").await?;
    effects.sort_unstable();
    ensure!(effects == [1, 2, 1000], "{effects:?}");
    Ok(())
}
