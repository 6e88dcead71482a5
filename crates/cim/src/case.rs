//! Comparing names and strings without regard to case.
//!
//! CIM names are ASCII in practice and take the fast way; display names of machines may hold any letter, so other text
//! is compared by the simple lower-case mapping of each character. Nothing here allocates.

use std::cmp::Ordering;

/// Whether two texts are the same when case is ignored.
pub fn eq(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || (!(a.is_ascii() && b.is_ascii()) && folded(a).eq(folded(b)))
}

/// The order of two texts when case is ignored; consistent with [`eq`].
pub fn cmp(a: &str, b: &str) -> Ordering {
    // Names are looked up for every property of every row, so ASCII is compared byte by byte.
    for (at, (x, y)) in a.bytes().zip(b.bytes()).enumerate() {
        if !(x.is_ascii() && y.is_ascii()) {
            // Everything before is ASCII, so this is the beginning of a character in both.
            return folded(a.get(at..).unwrap_or_default()).cmp(folded(b.get(at..).unwrap_or_default()));
        }
        match x.to_ascii_lowercase().cmp(&y.to_ascii_lowercase()) {
            Ordering::Equal => {}
            different => return different,
        }
    }
    a.len().cmp(&b.len())
}

/// The characters of a text as they take part in comparisons.
pub fn folded(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().flat_map(char::to_lowercase)
}

/// The folded text as a key for maps.
pub fn key(text: &str) -> String {
    // Classes are looked up a few dozen times for each request, and their names are ASCII.
    if text.is_ascii() { text.to_ascii_lowercase() } else { folded(text).collect() }
}

/// Positions of names in a list, found without regard to case in logarithmic time and without allocating.
#[derive(Debug, Clone, Default)]
pub struct NameIndex {
    /// Positions in the list, in the order of the folded names.
    sorted: Vec<usize>,
}

impl NameIndex {
    /// Indexes a list of names; of names that differ only by case, one wins.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let names: Vec<&str> = names.collect();
        let mut sorted: Vec<usize> = (0..names.len()).collect();
        sorted.sort_by(|&a, &b| cmp(names[a], names[b]));
        Self { sorted }
    }

    /// The position of `name`; `name_at` must give the names of the list the index was built from.
    pub fn find<'a>(&self, name: &str, name_at: impl Fn(usize) -> &'a str) -> Option<usize> {
        let found = self.sorted.binary_search_by(|&position| cmp(name_at(position), name)).ok()?;
        self.sorted.get(found).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_ignored_in_any_script() {
        fn check(a: &str, b: &str, same: bool) {
            assert_eq!(eq(a, b), same, "{a} and {b}");
            assert_eq!(cmp(a, b) == Ordering::Equal, same, "{a} and {b}");
            assert_eq!(key(a) == key(b), same, "{a} and {b}");
        }
        check("Msvm_Memory", "MSVM_MEMORY", true);
        check("a", "b", false);
        check("a", "ab", false);
        check("", "", true);
        check("ÄÖ", "äö", true);
        check("Ä", "A", false);
        check("xK", "x\u{212a}", true);
        check("aÄ", "aäb", false);
        check("ПРОБА", "проба", true);
    }

    #[test]
    fn an_index_finds_every_name_and_no_other() {
        let names = ["Name", "InstanceID", "Caption", "enabledstate"];
        let index = NameIndex::new(names.iter().copied());
        for (position, name) in names.iter().enumerate() {
            assert_eq!(index.find(&name.to_uppercase(), |i| names[i]), Some(position));
        }
        assert_eq!(index.find("Nam", |i| names[i]), None);
        assert_eq!(NameIndex::default().find("Name", |i| names[i]), None);
    }
}
