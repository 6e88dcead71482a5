//! Object paths: the names of instances and classes, and the text of a `REF`.
//!
//! WMI writes `\\HOST\root\virtualization\v2:Msvm_Memory.CreationClassName="Msvm_Memory",DeviceID="Microsoft:…\\…"`.
//! Host and namespace may be missing, `\\.\` is this host, a class alone names the class, and `Class=@` names the only
//! instance of a class without keys. Inside quotes a backslash and a quote are written with a backslash before them.

use std::fmt;

use crate::{CimType, Value, case, limit};

/// The path of an instance or of a class.
///
/// `==` compares exactly as written; [`ObjectPath::same_object`] compares what is meant.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectPath {
    /// The host's name; `None` when the path does not say.
    pub host: Option<String>,
    /// The namespace with backslashes, such as `root\virtualization\v2`; `None` when the path does not say.
    pub namespace: Option<String>,
    /// The class.
    pub class: String,
    /// The keys in the order they are written. Empty for a class and for a singleton. In `Class="value"` the only key has
    /// an empty name.
    pub keys: Vec<(String, Value)>,
    /// Whether it ends in `=@`: the one instance of a class without keys.
    pub is_singleton: bool,
}

/// A text that is not an object path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Longer than [`limit::PATH_BYTES`].
    #[error("the object path is longer than {} bytes", limit::PATH_BYTES)]
    TooLong,
    /// More keys than [`limit::PATH_KEYS`], or deeper than [`limit::PATH_DEPTH`].
    #[error("the object path has too many keys")]
    TooManyKeys,
    /// Not a path.
    #[error("the object path is wrong at byte {at}: expected {expected}")]
    Syntax {
        /// Offset in bytes.
        at: usize,
        /// What should have been there.
        expected: &'static str,
    },
}

impl ObjectPath {
    /// The path of a class, to which keys can be added.
    pub fn new(class: impl Into<String>) -> Self {
        Self { host: None, namespace: None, class: class.into(), keys: Vec::new(), is_singleton: false }
    }

    /// The path with a host.
    pub fn with_host(self, host: impl Into<String>) -> Self {
        Self { host: Some(host.into()), ..self }
    }

    /// The path with a namespace; slashes become backslashes.
    pub fn with_namespace(self, namespace: &str) -> Self {
        Self { namespace: Some(normalized_namespace(namespace)), ..self }
    }

    /// The path with one more key.
    pub fn with_key(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.keys.push((name.into(), value.into()));
        self
    }

    /// Reads a path. Namespaces may be written with slashes; they come out with backslashes.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > limit::PATH_BYTES {
            return Err(PathError::TooLong);
        }
        parse_nested(text, 0)
    }

    /// The value of a key.
    pub fn key(&self, name: &str) -> Option<&Value> {
        self.keys.iter().find(|(n, _)| case::eq(n, name)).map(|(_, value)| value)
    }

    /// Whether this names a class, not an instance.
    pub fn is_class(&self) -> bool {
        self.keys.is_empty() && !self.is_singleton
    }

    /// Whether both name the same object: case, the order of keys and the width of numbers do not matter, and a host or
    /// namespace that is missing (or `.`) fits any.
    pub fn same_object(&self, other: &Self) -> bool {
        let hosts_fit = match (self.known_host(), other.known_host()) {
            (Some(a), Some(b)) => case::eq(a, b),
            _ => true,
        };
        let namespaces_fit = match (&self.namespace, &other.namespace) {
            (Some(a), Some(b)) => same_namespace(a, b),
            _ => true,
        };
        hosts_fit
            && namespaces_fit
            && case::eq(&self.class, &other.class)
            && self.is_singleton == other.is_singleton
            && self.keys.len() == other.keys.len()
            && self.keys.iter().all(|(name, value)| other.key(name).is_some_and(|theirs| theirs.same_key(value)))
    }

    /// The path without host and namespace, as `__RELPATH` gives it.
    pub fn relative(&self) -> Self {
        Self { host: None, namespace: None, ..self.clone() }
    }

    fn known_host(&self) -> Option<&str> {
        self.host.as_deref().filter(|host| *host != ".")
    }
}

/// Whether two namespaces are the same, written with slashes or backslashes and in any case.
pub fn same_namespace(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (namespace_steps(a), namespace_steps(b));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if case::eq(a, b) => {}
            _ => return false,
        }
    }
}

/// The namespace with single backslashes between its steps and none at its ends.
pub fn normalized_namespace(namespace: &str) -> String {
    namespace_steps(namespace).collect::<Vec<_>>().join("\\")
}

/// Clients that escape once too often double the backslashes, so empty steps do not count.
fn namespace_steps(namespace: &str) -> impl Iterator<Item = &str> {
    namespace.split(['\\', '/']).filter(|step| !step.is_empty())
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, &self.namespace) {
            (Some(host), Some(namespace)) => write!(f, "\\\\{host}\\{namespace}:")?,
            (None, Some(namespace)) => write!(f, "{namespace}:")?,
            // A host without a namespace cannot be written, and means nothing either.
            (_, None) => {}
        }
        f.write_str(&self.class)?;
        if self.is_singleton {
            return f.write_str("=@");
        }
        for (i, (name, value)) in self.keys.iter().enumerate() {
            match (i, name.as_str()) {
                (0, "") => f.write_str("=")?,
                (0, name) => write!(f, ".{name}=")?,
                (_, name) => write!(f, ",{name}=")?,
            }
            match value {
                Value::Bool(true) => f.write_str("TRUE")?,
                Value::Bool(false) => f.write_str("FALSE")?,
                number if number.as_integer().is_some() => write!(f, "{number}")?,
                text => write!(f, "\"{}\"", Escaped(&text.to_string()))?,
            }
        }
        Ok(())
    }
}

/// Text as it stands between the quotes of a key.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if matches!(c, '\\' | '"') {
                f.write_str("\\")?;
            }
            fmt::Write::write_char(f, c)?;
        }
        Ok(())
    }
}

fn parse_nested(text: &str, depth: usize) -> Result<ObjectPath, PathError> {
    if depth >= limit::PATH_DEPTH {
        return Err(PathError::TooManyKeys);
    }
    let mut scanner = Scanner { text, at: 0 };
    let (host, namespace) = scanner.host_and_namespace()?;
    let class = scanner.name("a class name")?.to_owned();
    let mut path = ObjectPath { host, namespace, class, keys: Vec::new(), is_singleton: false };
    if scanner.eat("=@") {
        path.is_singleton = true;
    } else if scanner.eat("=") {
        // A single key may be given without its name; the reader who knows the class adds it.
        path.keys.push((String::new(), scanner.key_value(depth)?));
    } else if scanner.eat(".") {
        loop {
            let at = scanner.at;
            let name = scanner.name("a key name")?.to_owned();
            if path.key(&name).is_some() {
                return Err(PathError::Syntax { at, expected: "a key that was not given before" });
            }
            scanner.expect("=", "= after the key name")?;
            let value = scanner.key_value(depth)?;
            path.keys.push((name, value));
            if path.keys.len() > limit::PATH_KEYS {
                return Err(PathError::TooManyKeys);
            }
            if !scanner.eat(",") {
                break;
            }
        }
    }
    if scanner.rest().trim().is_empty() { Ok(path) } else { Err(scanner.wrong("the end of the path")) }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn wrong(&self, expected: &'static str) -> PathError {
        PathError::Syntax { at: self.at, expected }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip_blanks();
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn expect(&mut self, token: &str, expected: &'static str) -> Result<(), PathError> {
        if self.eat(token) { Ok(()) } else { Err(self.wrong(expected)) }
    }

    fn skip_blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn name(&mut self, expected: &'static str) -> Result<&'a str, PathError> {
        self.skip_blanks();
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let name = rest.get(..end).filter(|name| !name.is_empty()).ok_or_else(|| self.wrong(expected))?;
        self.at += end;
        Ok(name)
    }

    /// Reads `\\host\namespace:` or `namespace:` or nothing.
    fn host_and_namespace(&mut self) -> Result<(Option<String>, Option<String>), PathError> {
        self.skip_blanks();
        let rest = self.rest();
        let has_host = rest.starts_with("\\\\") || rest.starts_with("//");
        // The colon that ends the namespace stands before any quote; later ones belong to keys.
        let colon = rest.find([':', '"', '=']).filter(|&at| rest.get(at..).is_some_and(|r| r.starts_with(':')));
        let Some(prefix) = colon.and_then(|at| rest.get(..at)) else {
            return if has_host { Err(self.wrong("a namespace and a colon after the host")) } else { Ok((None, None)) };
        };
        let (host, namespace) = if has_host {
            let after_slashes = prefix.trim_start_matches(['\\', '/']);
            let split = after_slashes.split_once(['\\', '/']);
            let (host, namespace) = split.ok_or_else(|| self.wrong("a namespace after the host"))?;
            (Some(host), namespace)
        } else {
            (None, prefix)
        };
        let is_step = |step: &str| step.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
        let namespace = normalized_namespace(namespace);
        if !host.is_none_or(is_step) || namespace.is_empty() || !namespace.split('\\').all(is_step) {
            return Err(self.wrong("a namespace before the colon"));
        }
        self.at += prefix.len() + 1;
        Ok((host.map(str::to_owned), Some(namespace)))
    }

    fn key_value(&mut self, depth: usize) -> Result<Value, PathError> {
        self.skip_blanks();
        if let Some(quote @ ('"' | '\'')) = self.rest().chars().next() {
            let text = self.quoted(quote)?;
            // Text with host, namespace and class in front is a reference; nothing else a key holds looks like that.
            let is_reference = text.starts_with("\\\\") && text.contains(':');
            return Ok(match parse_nested(&text, depth + 1) {
                Ok(path) if is_reference => Value::Reference(path),
                Err(PathError::TooManyKeys) if is_reference => return Err(PathError::TooManyKeys),
                _ => Value::String(text),
            });
        }
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-'))).unwrap_or(rest.len());
        let word = rest.get(..end).unwrap_or_default();
        let value = [CimType::UInt64, CimType::SInt64, CimType::Boolean]
            .into_iter()
            .find_map(|cim_type| Value::parse(cim_type, word).ok())
            .ok_or_else(|| self.wrong("a quoted text, a number, TRUE or FALSE"))?;
        self.at += end;
        Ok(value)
    }

    fn quoted(&mut self, quote: char) -> Result<String, PathError> {
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next_if(|(_, next)| matches!(next, '\\' | '"' | '\'')) {
                    Some((_, escaped)) => text.push(escaped),
                    // Clients forget to double backslashes; a lone one is meant as it stands.
                    None => text.push('\\'),
                },
                c if c == quote => {
                    self.at += at + c.len_utf8();
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err(self.wrong("a closing quote"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_written() {
        /// `canonical` is how the path prints; it reads back as the same path.
        fn check(text: &str, canonical: &str) {
            let path = ObjectPath::parse(text).unwrap();
            assert_eq!(path.to_string(), canonical);
            assert_eq!(ObjectPath::parse(canonical).unwrap().to_string(), canonical);
        }
        check(r#"\\HOST\root\virtualization\v2:C.K="v",N=5"#, r#"\\HOST\root\virtualization\v2:C.K="v",N=5"#);
        check(r#"\\.\root/virtualization/v2:C.K="v""#, r#"\\.\root\virtualization\v2:C.K="v""#);
        check(r#"\\\\HOST\\root\\v2:C.K="v""#, r#"\\HOST\root\v2:C.K="v""#);
        check(r#"//HOST/root/cimv2:C.K='v'"#, r#"\\HOST\root\cimv2:C.K="v""#);
        check(r#"root\cimv2:C.K="a:b=c,d""#, r#"root\cimv2:C.K="a:b=c,d""#);
        check(r#"C.K="v""#, r#"C.K="v""#);
        check("C", "C");
        check(r"\\H\root\cimv2:C", r"\\H\root\cimv2:C");
        check("C=@", "C=@");
        check("C='v'", "C=\"v\"");
        check(r#" C . K = "v" , L = true "#, r#"C.K="v",L=TRUE"#);
        check(r#"C.K="Microsoft:A\\B\\0\\L""#, r#"C.K="Microsoft:A\\B\\0\\L""#);
        check(r#"C.K="Microsoft:A\B""#, r#"C.K="Microsoft:A\\B""#);
        check(r#"C.K="say \"hi\"""#, r#"C.K="say \"hi\"""#);
        check("C.K=-5", "C.K=-5");
        check(r#"A.X="\\\\H\\root\\v2:C.K=\"a\\\\b\"",Y="z""#, r#"A.X="\\\\H\\root\\v2:C.K=\"a\\\\b\"",Y="z""#);
    }

    #[test]
    fn references_in_keys_are_paths() {
        let path = ObjectPath::parse(r#"A.X="\\\\H\\root\\v2:C.K=\"a\\\\b\"""#).unwrap();
        let inner = path.key("x").and_then(Value::as_reference).unwrap();
        assert_eq!(inner.key("k").and_then(Value::as_str), Some(r"a\b"));
    }

    /// Holds: SNAP-1-9
    #[test]
    fn the_same_object_has_many_names() {
        fn check(a: &str, b: &str, same: bool) {
            let (a, b) = (ObjectPath::parse(a).unwrap(), ObjectPath::parse(b).unwrap());
            assert_eq!((a.same_object(&b), b.same_object(&a)), (same, same), "{a} and {b}");
        }
        check(r#"\\HOST\ROOT\v2:C.K="V",L=1"#, r#"\\host\root/V2:c.l=1,k="v""#, true);
        check(r#"\\HOST\root:C.K="v""#, r#"\\.\root:C.K="v""#, true);
        check(r#"\\HOST\root:C.K="v""#, r#"C.K="v""#, true);
        check(r#"\\HOST\root:C.K="v""#, r#"\\OTHER\root:C.K="v""#, false);
        check(r#"root\a:C.K="v""#, r#"root\b:C.K="v""#, false);
        check(r#"C.K="v""#, r#"C.K="w""#, false);
        check(r#"C.K="v""#, r#"C.K="v",L=1"#, false);
        check("C", "C=@", false);
        check(r#"C.K="5""#, "C.K=5", true);
    }

    #[test]
    fn other_texts_are_refused_with_a_position() {
        fn check(text: &str, message: &str) {
            assert_eq!(ObjectPath::parse(text).unwrap_err().to_string(), message);
        }
        check("", "the object path is wrong at byte 0: expected a class name");
        check("C.K", "the object path is wrong at byte 3: expected = after the key name");
        check("C.K=\"v", "the object path is wrong at byte 4: expected a closing quote");
        check("C.K=v", "the object path is wrong at byte 4: expected a quoted text, a number, TRUE or FALSE");
        check("C.K=1 x", "the object path is wrong at byte 6: expected the end of the path");
        check(r"\\H", "the object path is wrong at byte 0: expected a namespace and a colon after the host");
        check(r"\\H\:C", "the object path is wrong at byte 0: expected a namespace before the colon");
        check("a b:C", "the object path is wrong at byte 0: expected a namespace before the colon");
        check(&"C".repeat(9_000), "the object path is longer than 8192 bytes");
        check("C.K=1,k=2", "the object path is wrong at byte 6: expected a key that was not given before");
        let many: Vec<String> = (0..40).map(|key| format!("K{key}=1")).collect();
        check(&format!("C.{}", many.join(",")), "the object path has too many keys");
    }
}
