//! From what a user types to the one machine, snapshot or job that is meant.
//!
//! A GUID means what has it. A name means what is called exactly so; if nothing is, what is called so but for the case.
//! Several of one name are an error that lists them, because guessing would sooner or later hit the wrong machine.

use crate::error::{Error, Kind, Result};
use crate::suggest;

/// Candidates listed at most when a name is not unique.
const CANDIDATES_MAX: usize = 10;

/// Something that can be named.
pub trait Named {
    /// What it is, in the singular.
    const WHAT: &'static str;
    /// Its GUID.
    fn id(&self) -> &str;
    /// Its display name; empty if it has none.
    fn name(&self) -> &str;
    /// What tells it from others of the same name.
    fn details(&self) -> String;
}

/// The one thing that `typed` means.
///
/// # Errors
/// When there is none, or more than one.
pub fn one<T: Named>(typed: &str, things: Vec<T>) -> Result<T> {
    let mut things = things;
    let matches = matching(typed, &things);
    match matches.as_slice() {
        [] => Err(unknown(typed, &things)),
        [only] => Ok(things.swap_remove(*only)),
        several => {
            let what = T::WHAT;
            let error = Error::new(Kind::Usage, format!("{} {what}s are called {typed}", several.len()));
            let error = error.hint("use the GUID of the one you mean");
            let listed = several.iter().take(CANDIDATES_MAX).filter_map(|index| things.get(*index));
            Err(listed.fold(error, |error, thing| error.hint(format!("{}  {}", thing.id(), thing.details()))))
        }
    }
}

/// What is typed without the braces that some programs put around a GUID.
pub fn bare_guid(typed: &str) -> &str {
    typed.trim_matches(['{', '}'])
}

fn matching<T: Named>(typed: &str, things: &[T]) -> Vec<usize> {
    let all = |test: &dyn Fn(&T) -> bool| {
        things.iter().enumerate().filter(|(_, thing)| test(thing)).map(|(index, _)| index).collect::<Vec<_>>()
    };
    let tests: [&dyn Fn(&T) -> bool; 3] = [
        &|thing| thing.id().eq_ignore_ascii_case(bare_guid(typed)),
        &|thing| !thing.name().is_empty() && thing.name() == typed,
        &|thing| !thing.name().is_empty() && thing.name().to_lowercase() == typed.to_lowercase(),
    ];
    tests.into_iter().map(all).find(|found| !found.is_empty()).unwrap_or_default()
}

fn unknown<T: Named>(typed: &str, things: &[T]) -> Error {
    let what = T::WHAT;
    let error = Error::new(Kind::NotFound, format!("there is no {what} {typed}"));
    match suggest::question(typed, things.iter().map(Named::name).filter(|name| !name.is_empty())) {
        Some(question) => error.hint(question),
        None if things.is_empty() => error.hint(format!("there are no {what}s to choose from")),
        None => error,
    }
}

/// The one thing whose GUID is `typed` or begins so; for things without a name.
///
/// # Errors
/// When there is none, or more than one.
pub fn by_prefix<T: Named>(typed: &str, things: Vec<T>) -> Result<T> {
    let wanted = typed.to_ascii_uppercase();
    let what = T::WHAT;
    let mut found: Vec<T> =
        things.into_iter().filter(|thing| thing.id().to_ascii_uppercase().starts_with(&wanted)).collect();
    match (found.pop(), found.len()) {
        (Some(only), 0) if !typed.is_empty() => Ok(only),
        (Some(_), others) => {
            Err(Error::new(Kind::Usage, format!("{} {what}s have a GUID that begins with {typed}", others + 1))
                .hint("type more of it"))
        }
        (None, _) => Err(Error::new(Kind::NotFound, format!("there is no {what} {typed}"))
            .hint("finished jobs are forgotten after some minutes; see `snapvisor job list`")),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    struct Thing(&'static str, &'static str);

    impl Named for Thing {
        const WHAT: &'static str = "machine";
        fn id(&self) -> &str {
            self.0
        }
        fn name(&self) -> &str {
            self.1
        }
        fn details(&self) -> String {
            format!("{} running", self.1)
        }
    }

    fn things() -> Vec<Thing> {
        vec![
            Thing("AA11", "web"),
            Thing("AA22", "Web"),
            Thing("CC33", "mail"),
            Thing("DD44", "mail"),
            Thing("EE55", "Shop"),
        ]
    }

    fn text(result: Result<Thing>) -> String {
        result.map_or_else(|error| format!("{:?} {}", error.kind, error.render(false)), |thing| thing.0.to_owned())
    }

    #[test]
    fn names_are_resolved() {
        let check = |typed: &str, expected: &Expect| expected.assert_eq(&text(one(typed, things())));
        check("web", &expect!["AA11"]);
        check("Web", &expect!["AA22"]);
        check(
            "WEB",
            &expect![[r#"
            Usage error: 2 machines are called WEB
            hint: use the GUID of the one you mean
            hint: AA11  web running
            hint: AA22  Web running
        "#]],
        );
        check("shop", &expect!["EE55"]);
        check("cc33", &expect!["CC33"]);
        check(
            "mail",
            &expect![[r#"
            Usage error: 2 machines are called mail
            hint: use the GUID of the one you mean
            hint: CC33  mail running
            hint: DD44  mail running
        "#]],
        );
        check(
            "mial",
            &expect![[r#"
            NotFound error: there is no machine mial
            hint: did you mean mail?
        "#]],
        );
        check(
            "zebra",
            &expect![[r#"
            NotFound error: there is no machine zebra
        "#]],
        );
        expect![[r#"
            NotFound error: there is no machine web
            hint: there are no machines to choose from
        "#]]
        .assert_eq(&text(one("web", Vec::new())));
    }

    #[test]
    fn prefixes_are_resolved() {
        let check = |typed: &str, expected: &Expect| expected.assert_eq(&text(by_prefix(typed, things())));
        check("cc", &expect!["CC33"]);
        check(
            "AA",
            &expect![[r#"
            Usage error: 2 machines have a GUID that begins with AA
            hint: type more of it
        "#]],
        );
        check(
            "F",
            &expect![[r#"
            NotFound error: there is no machine F
            hint: finished jobs are forgotten after some minutes; see `snapvisor job list`
        "#]],
        );
        check(
            "",
            &expect![[r#"
            Usage error: 5 machines have a GUID that begins with 
            hint: type more of it
        "#]],
        );
    }
}
