//! The crash explorer on the core's whole flow, and the proof that it finds what it is there to find.

mod scenario;

use std::time::{Duration, Instant};

use posthaste::failpoint::Mutant;
use posthaste_testkit::explorer::{Plan, Transport};

use scenario::{calm_shop, shop};

#[test]
fn nothing_is_lost_or_done_twice_over_a_broker() {
    let started = Instant::now();
    let report = shop(Transport::Memory).run().unwrap();
    println!("{report}in {:?}", started.elapsed());
    report.assert_clean();
    for (point, crashes) in report.crashes() {
        assert!(crashes > 0, "no run died at {point}: {report}");
    }
    for point in [
        "relay.claimed",
        "relay.checked",
        "relay.publishing",
        "relay.published",
        "relay.marking",
        "relay.marked",
        "consumer.received",
        "consumer.marked",
        "consumer.handled",
        "consumer.committing",
        "consumer.committed",
        "consumer.acknowledged",
        "consumer.settling",
        "consumer.settled",
        "consumer.queued_behind",
        "retrier.claimed",
        "retrier.handled",
        "retrier.committed",
        "retrier.failing",
        "retrier.burying",
        "retrier.buried",
    ] {
        assert!(report.hits.contains_key(point), "the scenario never comes to {point}");
    }
    let happened = |plan: Plan| report.runs.iter().any(|run| run.happened && run.plan == plan);
    for plan in [Plan::Outage, Plan::Refuse, Plan::Repeat, Plan::Swap] {
        assert!(happened(plan.clone()), "{plan} did not come about");
    }
    assert!(happened(Plan::Freeze { point: "relay.claimed" }));
    assert!(happened(Plan::Freeze { point: "relay.checked" }));
}

#[test]
fn nothing_is_lost_or_done_twice_on_queues_in_the_database() {
    let started = Instant::now();
    let report = shop(Transport::Sql).run().unwrap();
    println!("{report}in {:?}", started.elapsed());
    report.assert_clean();
    assert!(report.hits.contains_key("queue.inserted") && report.hits.contains_key("queue.committed"));
}

fn caught(mutant: Mutant) {
    // No handler fails here: what is found is found by the faults.
    let report = calm_shop(Transport::Memory)
        .mutant(mutant)
        .limit(Duration::from_secs(4))
        .run()
        .unwrap();
    println!("{mutant:?}: {report}");
    assert!(
        report.violations().next().is_some(),
        "{mutant:?} was not found: {report}"
    );
    let undisturbed = &report.runs[0];
    assert!(
        undisturbed.violations.is_empty(),
        "a plain test would have found {mutant:?}"
    );
}

#[test]
fn finds_a_mark_before_the_confirm() {
    caught(Mutant::MarkBeforeConfirm);
}

#[test]
fn finds_an_acknowledgement_before_the_commit() {
    caught(Mutant::AckBeforeCommit);
}

#[test]
fn finds_an_inbox_mark_outside_the_transaction() {
    caught(Mutant::MarkOutsideTransaction);
}

#[test]
fn finds_missing_fencing() {
    caught(Mutant::NoFencing);
}

#[test]
fn finds_a_cursor_in_place_of_a_claim() {
    caught(Mutant::Cursor);
}
