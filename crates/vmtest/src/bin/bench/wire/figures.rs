//! What was measured, several times each, and the table of it.

use std::fmt;

/// Figures in the order in which they came.
#[derive(Debug, Default)]
pub struct Figures(Vec<Figure>);

#[derive(Debug)]
struct Figure {
    name: String,
    samples: Vec<f64>,
    /// More is better; else less.
    is_rate: bool,
}

impl Figures {
    /// One more sample of something of which less is better.
    pub fn add(&mut self, name: &str, sample: f64) {
        self.push(name, sample, false);
    }

    /// One more sample of something of which more is better.
    pub fn add_rate(&mut self, name: &str, sample: f64) {
        self.push(name, sample, true);
    }

    fn push(&mut self, name: &str, sample: f64, is_rate: bool) {
        match self.0.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.samples.push(sample),
            None => self.0.push(Figure { name: name.to_owned(), samples: vec![sample], is_rate }),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|figure| figure.name.chars().count()).max().unwrap_or_default();
        writeln!(f, "  {:<width$}  {:>10}  {:>10}  {:>5}", "", "median", "worst", "n")?;
        for figure in &self.0 {
            let mut sorted = figure.samples.clone();
            sorted.sort_by(f64::total_cmp);
            let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
            let worst = if figure.is_rate { sorted.first() } else { sorted.last() };
            let worst = worst.copied().unwrap_or_default();
            let (name, n) = (&figure.name, sorted.len());
            writeln!(f, "  {name:<width$}  {:>10}  {:>10}  {n:>5}", short(median), short(worst))?;
        }
        Ok(())
    }
}

/// Three digits or more.
fn short(number: f64) -> String {
    match number.abs() {
        big if big >= 100.0 => format!("{number:.0}"),
        middle if middle >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_worst_is_the_slowest() {
        let mut figures = Figures::default();
        for sample in [3.0, 1.0, 2.0] {
            figures.add("time, ms", sample);
            figures.add_rate("rate, 1/s", sample * 1000.0);
        }
        // The bars keep the indentation, which an expectation would otherwise take for its own.
        let table: Vec<String> = figures.to_string().lines().map(|line| format!("|{line}")).collect();
        expect![[r#"
            |                 median       worst      n
            |  time, ms         2.00        3.00      3
            |  rate, 1/s        2000        1000      3"#]]
        .assert_eq(&table.join("\n"));
    }
}
