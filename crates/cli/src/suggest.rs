//! "Did you mean …?": the known name closest to a mistyped one.

/// Candidates shown at most; more would bury the message.
const SUGGESTIONS_MAX: usize = 3;

/// The names that `typed` may have meant, best first: those that differ by a few keystrokes, or go on where it ends.
pub fn closest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let typed = typed.to_lowercase();
    // A third of the letters may be wrong, but at least one.
    let tolerance = (typed.chars().count() / 3).max(1);
    let mut found: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let distance = if !typed.is_empty() && lower.starts_with(&typed) { 1 } else { distance(&typed, &lower) };
            (distance <= tolerance).then_some((distance, name))
        })
        .collect();
    found.sort();
    found.dedup();
    found.into_iter().map(|(_, name)| name).take(SUGGESTIONS_MAX).collect()
}

/// The question for a hint, if there is anything to ask.
pub fn question<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let names = closest(typed, known);
    (!names.is_empty()).then(|| format!("did you mean {}?", names.join(" or ")))
}

/// Edits that turn one text into the other: insert, delete, replace, swap neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_names_are_found() {
        let known = ["web", "web-2", "database", "Mail"];
        let check = |typed, expected: &[&str]| assert_eq!(closest(typed, known), expected, "{typed}");
        check("wbe", &["web"]);
        check("WEB", &["web", "web-2"]);
        check("databsae", &["database"]);
        check("data", &["database"]);
        check("mial", &["Mail"]);
        check("x", &[]);
        check("", &[]);
        check("zebra", &[]);
        assert_eq!(question("we", known).as_deref(), Some("did you mean web or web-2?"));
        assert_eq!(question("zebra", known), None);
    }
}
