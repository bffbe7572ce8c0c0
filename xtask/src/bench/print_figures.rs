//! One line per measured row: posthaste, its limit, the ratio, the target.

/// Median and range of the repetitions of one figure.
pub struct Figures(Vec<f64>);

impl Figures {
    /// Of at least one value.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn text(&self) -> String {
        let (least, most) = (self.0.first(), self.0.last());
        format!(
            "{} ({}–{})",
            number(self.median()),
            number(*least.unwrap_or(&f64::NAN)),
            number(*most.unwrap_or(&f64::NAN))
        )
    }
}

/// As many digits as tell something.
fn number(value: f64) -> String {
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$}")
}

/// The table's head.
pub fn head() {
    println!("| row | posthaste | limit | ratio | target | |\n|---|---|---|---|---|---|");
}

/// A rate beside its limit; `target` is the least ratio, if one is set.
pub fn rate(row: &str, ours: &Figures, limit: &Figures, target: Option<f64>) {
    let ratio = ours.median() / limit.median();
    let wanted = target.map_or_else(|| "–".to_owned(), |target| format!("≥ {:.0} %", target * 100.0));
    let verdict = target.map_or("", |target| if ratio >= target { "met" } else { "MISSED" });
    let (ours, limit) = (ours.text(), limit.text());
    println!(
        "| {row} | {ours} | {limit} | {:.0} % | {wanted} | {verdict} |",
        ratio * 100.0
    );
}

/// A figure that must not exceed `most`; `beside` is the same of a bare server, where there is one.
pub fn bound(row: &str, ours: &Figures, beside: Option<&Figures>, most: f64) {
    let verdict = if ours.median() <= most { "met" } else { "MISSED" };
    let beside = beside.map_or_else(|| "–".to_owned(), Figures::text);
    println!("| {row} | {} | {beside} | – | ≤ {most} | {verdict} |", ours.text());
}
