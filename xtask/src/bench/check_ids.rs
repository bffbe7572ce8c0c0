//! What makes a run void: every accepted id must be recorded exactly once, and nothing else.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use uuid::Uuid;

/// Compares the ids that were accepted with those that were recorded: number, distinct number, membership.
///
/// # Errors
/// When an id is missing, doubled or foreign: the run is void.
pub fn check(accepted: &BTreeSet<Uuid>, recorded: &[Uuid]) -> Result<()> {
    let distinct: BTreeSet<Uuid> = recorded.iter().copied().collect();
    let doubled = recorded.len() - distinct.len();
    let lost = accepted.difference(&distinct).count();
    let foreign = distinct.difference(accepted).count();
    ensure!(
        doubled + lost + foreign == 0,
        "void: of {} accepted events {lost} lost, {doubled} doubled, {foreign} never sent",
        accepted.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;
    use uuid::Uuid;

    #[test]
    fn each_accepted_id_is_recorded_exactly_once() {
        let [one, two, other] = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
        let accepted = [one, two].into();
        check(&accepted, &[two, one]).unwrap();
        for wrong in [vec![one], vec![one, two, two], vec![one, other], vec![one, one]] {
            assert!(check(&accepted, &wrong).is_err(), "{wrong:?}");
        }
    }
}
