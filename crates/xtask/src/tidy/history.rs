//! The rule about commits: a subject says which area it changes.

use super::Violation;

/// Checks lines of `<id> <subject>`.
pub fn subjects(log: &str) -> Vec<Violation> {
    let commits = log.lines().filter_map(|line| line.split_once(' '));
    let bad = commits.filter(|(_, subject)| !has_area(subject));
    let violation = |(id, subject): (&str, &str)| Violation {
        path: id.to_owned(),
        line: 1,
        rule: "commit-subject",
        advice: format!("begin with the area and a colon, as in `ledger: ...`, not {subject:?}"),
    };
    bad.map(violation).collect()
}

/// One or more areas, separated by commas, then a colon, a blank and what was done.
fn has_area(subject: &str) -> bool {
    let is_area = |area: &str| {
        !area.is_empty() && area.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._/".contains(c))
    };
    match subject.split_once(": ") {
        Some((areas, rest)) => areas.split(", ").all(is_area) && !rest.trim().is_empty(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_begins_with_its_area() {
        #[track_caller]
        fn check(subject: &str, good: bool) {
            assert_eq!(subjects(&format!("abc123 {subject}\n")).is_empty(), good, "{subject:?}");
        }
        check("cim: add datetime", true);
        check("cim, wsman: move limits", true);
        check("guest-agent: say ready", true);
        check("add datetime", false);
        check("Fix: datetime", false);
        check("cim: ", false);
        check("my area: x", false);
    }
}
