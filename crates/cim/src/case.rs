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
    /// Hashes of the folded names with their positions in the list, in order. Comparing hashes is many times faster than
    /// comparing names, most of which begin alike.
    sorted: Vec<(u64, usize)>,
}

impl NameIndex {
    /// Indexes a list of names; of names that differ only by case, the first one wins.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut sorted: Vec<(u64, usize)> = names.enumerate().map(|(position, name)| (hash(name), position)).collect();
        sorted.sort_unstable();
        Self { sorted }
    }

    /// The position of `name`; `name_at` must give the names of the list the index was built from.
    pub fn find<'a>(&self, name: &str, name_at: impl Fn(usize) -> &'a str) -> Option<usize> {
        let wanted = hash(name);
        let start = self.sorted.partition_point(|(hash, _)| *hash < wanted);
        let alike = self.sorted.iter().skip(start).take_while(|(hash, _)| *hash == wanted);
        alike.map(|&(_, position)| position).find(|&position| eq(name_at(position), name))
    }
}

/// FNV-1a over the folded characters, so that names which are [`eq`] have the same hash.
fn hash(name: &str) -> u64 {
    let step = |hash: u64, character: u32| (hash ^ u64::from(character)).wrapping_mul(0x0100_0000_01B3);
    let basis = 0xCBF2_9CE4_8422_2325;
    if name.is_ascii() {
        return name.bytes().fold(basis, |hash, byte| step(hash, byte.to_ascii_lowercase().into()));
    }
    folded(name).fold(basis, |hash, character| step(hash, character.into()))
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
        let names = ["Name", "InstanceID", "Caption", "enabledstate", "Größe", "NAME"];
        let index = NameIndex::new(names.iter().copied());
        for (position, name) in names.iter().enumerate().take(5) {
            assert_eq!(index.find(&name.replace('e', "E").replace('ö', "Ö"), |i| names[i]), Some(position));
        }
        assert_eq!(index.find("nAmE", |i| names[i]), Some(0));
        assert_eq!(index.find("Nam", |i| names[i]), None);
        assert_eq!(NameIndex::default().find("Name", |i| names[i]), None);
    }
}
