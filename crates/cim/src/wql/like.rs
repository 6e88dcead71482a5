//! LIKE patterns.

use crate::case;

/// A compiled pattern. `%` stands for any text, `_` for one character, `[a-f]` for one of a set and `[^a-f]` for one that
/// is not; a set of one, as in `[%]`, takes a special character literally. Case does not matter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pattern(Vec<Piece>);

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    AnyText,
    AnyOne,
    One(char),
    Set { ranges: Vec<(char, char)>, negated: bool },
}

impl Pattern {
    pub(super) fn new(pattern: &str) -> Self {
        let chars: Vec<char> = case::folded(pattern).collect();
        let mut pieces = Vec::new();
        let mut rest = chars.as_slice();
        while let Some((&first, tail)) = rest.split_first() {
            rest = tail;
            pieces.push(match first {
                '%' => Piece::AnyText,
                '_' => Piece::AnyOne,
                '[' => match set(tail) {
                    Some((piece, after)) => {
                        rest = after;
                        piece
                    }
                    None => Piece::One('['),
                },
                c => Piece::One(c),
            });
        }
        Self(pieces)
    }

    /// Whether the whole text fits. Takes at most text length times pattern length steps: only the last `%` seen is
    /// ever tried again, because an earlier one could not do better.
    pub(super) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = case::folded(text).collect();
        let (mut at, mut piece) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while let Some(&c) = text.get(at) {
            match self.0.get(piece) {
                Some(Piece::AnyText) => {
                    piece += 1;
                    retry = Some((piece, at));
                }
                Some(one) if one.fits(c) => {
                    piece += 1;
                    at += 1;
                }
                _ => match &mut retry {
                    Some((after_any, taken)) => {
                        *taken += 1;
                        (piece, at) = (*after_any, *taken);
                    }
                    None => return false,
                },
            }
        }
        self.0.iter().skip(piece).all(|rest| *rest == Piece::AnyText)
    }
}

impl Piece {
    fn fits(&self, c: char) -> bool {
        match self {
            Self::AnyText | Self::AnyOne => true,
            Self::One(one) => *one == c,
            Self::Set { ranges, negated } => ranges.iter().any(|(low, high)| (low..=high).contains(&&c)) != *negated,
        }
    }
}

/// Reads a set behind its opening bracket; `None` if it is not closed or empty.
fn set(after_bracket: &[char]) -> Option<(Piece, &[char])> {
    let negated = after_bracket.first() == Some(&'^');
    let body = after_bracket.get(usize::from(negated)..)?;
    let end = body.iter().skip(1).position(|c| *c == ']')? + 1;
    let (mut members, after) = body.split_at_checked(end)?;
    let mut ranges = Vec::new();
    while let Some((&low, rest)) = members.split_first() {
        members = rest;
        // A dash between two characters makes a range; elsewhere it is itself.
        let high = match rest {
            ['-', high, ..] => {
                members = rest.get(2..).unwrap_or_default();
                *high
            }
            _ => low,
        };
        ranges.push((low, high));
    }
    Some((Piece::Set { ranges, negated }, after.get(1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds: WIRE-G1-1
    #[test]
    fn patterns() {
        fn check(pattern: &str, fits: &[&str], others: &[&str]) {
            let compiled = Pattern::new(pattern);
            for text in fits {
                assert!(compiled.matches(text), "{text} is like {pattern}");
            }
            for text in others {
                assert!(!compiled.matches(text), "{text} is not like {pattern}");
            }
        }
        check("Microsoft:%", &["microsoft:", "MICROSOFT:ABC\\0"], &["Microsoft", "x:Microsoft:"]);
        check("%a%b%", &["ab", "xaxbx", "aab", "aba b"], &["ba", "a", ""]);
        check("%ab", &["ab", "aab", "abab"], &["aba", "b"]);
        check("a_c", &["abc", "a%c", "aÜc"], &["ac", "abbc"]);
        check("", &[""], &["a"]);
        check("%", &["", "a"], &[]);
        check("[a-c]x[^a-c]", &["bxd", "BXD"], &["dxd", "bxb", "bx"]);
        check("100[%]", &["100%"], &["1000", "100"]);
        check("[_]", &["_"], &["a"]);
        check("[]]", &["]"], &["["]);
        check("[a-]", &["a", "-"], &["b"]);
        check("[ab", &["[ab"], &["a"]);
        check("[]", &["[]"], &[]);
        check("ÄÖ%", &["äöü"], &["aou"]);
    }

    #[test]
    fn hostile_patterns_end() {
        let pattern = Pattern::new(&"%a".repeat(1_000));
        assert!(!pattern.matches(&"a".repeat(999)));
        assert!(pattern.matches(&"a".repeat(1_000)));
    }
}
