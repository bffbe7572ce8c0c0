//! One dead letter among a million is shown, replayed and discarded by its id.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use posthaste::MessageId;
use posthaste::dead_letter::{self, Selection};

use super::figure::{Figure, median_and_worst};
use super::fill_inbox::{fill, id_of};
use super::place::Place;

/// No transport is used.
const TRANSPORT: &str = "–";
const LETTERS: i64 = 1_000_000;
/// How often each is measured.
const TIMES: i64 = 21;
/// Milliseconds.
const LIMIT: f64 = 50.0;

/// Measures the library's calls and the commands.
///
/// # Errors
/// When the rows cannot be made, or one that is there is not found.
pub async fn run(place: &Place) -> Result<Vec<Figure>> {
    let columns = ["status", "attempts", "first_failed_at", "last_failed_at"];
    let values = ["'dead'", "5", "received_at", "{after:(0 - number)}"];
    fill(place, LETTERS, &columns, &values).await?;
    let store = place.store();
    let mut figures = Vec::new();

    let mut number = LETTERS / 2;
    let mut next = || {
        number += 1_000;
        id_of(number)
    };
    let (mut replays, mut discards, mut pages) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TIMES {
        for (times, replays) in [(&mut replays, true), (&mut discards, false)] {
            let selection = Selection {
                ids: vec![MessageId(next()?)],
                ..Selection::default()
            };
            let start = Instant::now();
            let count = if replays {
                dead_letter::replay(store, &selection).await?
            } else {
                dead_letter::discard(store, &selection).await?
            };
            times.push(milliseconds(start));
            ensure!(count == 1, "{count} dead letters have the id {:?}", selection.ids);
        }
        let start = Instant::now();
        let page = dead_letter::page(store, &Selection::default(), None, 50).await?;
        pages.push(milliseconds(start));
        ensure!(page.len() == 50, "a page of {}", page.len());
    }
    for (what, times) in [
        ("replay of one id", replays),
        ("discard of one id", discards),
        ("first page of the list", pages),
    ] {
        let (median, worst) = median_and_worst(times);
        let what = format!("{what} among {LETTERS}");
        figures.push(Figure::below(
            TRANSPORT,
            &format!("{what}, median"),
            median,
            LIMIT,
            "ms",
        ));
        figures.push(Figure::seen(TRANSPORT, &format!("{what}, worst"), worst, "ms"));
    }

    let [shown, replayed, discarded] = [next()?, next()?, next()?].map(|id| id.to_string());
    for (arguments, expected) in [
        (vec!["show", shown.as_str()], shown.as_str()),
        (vec!["replay", replayed.as_str()], "replayed 1"),
        (vec!["discard", "--yes", discarded.as_str()], "discarded 1"),
        (vec!["list"], "attempts"),
    ] {
        let words: Vec<&str> = std::iter::once("dead-letters").chain(arguments).collect();
        let start = Instant::now();
        let told = place.command(&words).await?;
        let taken = milliseconds(start);
        ensure!(told.contains(expected), "{} printed {told}", words.join(" "));
        let command = words.get(..2).context("no command")?.join(" ");
        figures.push(Figure::seen(
            TRANSPORT,
            &format!("the whole command `{command}`"),
            taken,
            "ms",
        ));
    }
    Ok(figures)
}

fn milliseconds(from: Instant) -> f64 {
    from.elapsed().as_secs_f64() * 1e3
}
