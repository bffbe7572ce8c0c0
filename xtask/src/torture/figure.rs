//! What a scenario measured, beside its limit.

use std::fmt;

/// One measured value.
#[derive(Clone, Debug)]
pub struct Figure {
    transport: &'static str,
    what: String,
    measured: f64,
    unit: &'static str,
    limit: Option<f64>,
}

impl Figure {
    /// `measured` has to be below `limit`, both in `unit`.
    pub fn below(transport: &'static str, what: &str, measured: f64, limit: f64, unit: &'static str) -> Self {
        Self {
            limit: Some(limit),
            ..Self::seen(transport, what, measured, unit)
        }
    }

    /// `measured` has no limit, and explains another figure.
    pub fn seen(transport: &'static str, what: &str, measured: f64, unit: &'static str) -> Self {
        Self {
            transport,
            what: what.to_owned(),
            measured,
            unit,
            limit: None,
        }
    }

    /// Whether it is below its limit, if it has one.
    pub fn holds(&self) -> bool {
        self.limit.is_none_or(|limit| self.measured < limit)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.measured < 10.0 { 3 } else { 1 };
        let (transport, what, unit) = (self.transport, &self.what, self.unit);
        write!(f, "{transport} · {what}: {:.digits$} {unit} · ", self.measured)?;
        match self.limit {
            Some(limit) => write!(f, "< {limit} {unit} · {}", if self.holds() { "ok" } else { "FAILED" }),
            None => f.write_str("– · ok"),
        }
    }
}

/// Median and worst of `delays`, in the unit they are in.
pub fn median_and_worst(mut delays: Vec<f64>) -> (f64, f64) {
    delays.sort_unstable_by(f64::total_cmp);
    let middle = delays.get(delays.len() / 2).copied();
    (middle.unwrap_or(f64::NAN), delays.last().copied().unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::{Figure, median_and_worst};

    #[test]
    fn a_figure_at_or_above_its_limit_and_none_at_all_fail() {
        let holds = |measured| Figure::below("sql:", "delay", measured, 1.0, "s").holds();
        assert!(holds(0.99));
        assert!(!holds(1.0) && !holds(f64::NAN));
        assert!(Figure::seen("sql:", "delay", f64::INFINITY, "s").holds());
    }

    #[test]
    fn nothing_measured_is_no_figure() {
        assert_eq!(median_and_worst(vec![3.0, 1.0, 2.0]), (2.0, 3.0));
        assert!(median_and_worst(Vec::new()).1.is_nan());
    }
}
