//! No input makes a reader of this crate panic, and what a reader accepts survives being written and read again.
//!
//! Sentences of every notation are damaged in ways a fixed seed decides, and every damaged text is given to every reader.
//! A failure prints the text; the same text fails again, because nothing here depends on chance or time.

#![cfg(test)]

use crate::{DateTime, Instance, ObjectPath, Schema, embedded, mof, wql, xml};

/// Damaged texts tried: about a second without optimisation.
const ROUNDS: usize = 20_000;

const SENTENCES: [&str; 10] = [
    r#"select a, b from X within 2.5 where Name = 'it\'s' and (A <> 5 or not b >= 0x1F) and c like '[a-c]%_[^x]' and d is not null"#,
    r#"select * from X where Inner isa "X" and __PATH = '\\\\H\\root:X.Name="1"' or __CLASS != __SERVER"#,
    r#"associators of {\\H\root\v2:A.X="a\\b",Y=5} where AssocClass = B ResultRole=c KeysOnly"#,
    r#"\\HOST\root\virtualization\v2:C.K="\\\\H\\r:D.E=\"x\"",N=-5,B=TRUE"#,
    "20250102030405.123456+060",
    "P1DT2H3M4.5S",
    "2025-01-02T03:04:05.678+01:00",
    r#"<?xml version="1.0"?><CIM xmlns="d" xmlns:p="n"><INSTANCE CLASSNAME="X"><PROPERTY NAME="c" p:x="&#65;"><VALUE>a &amp;<![CDATA[<z>]]></VALUE></PROPERTY><PROPERTY.REFERENCE NAME="R"><VALUE.REFERENCE><INSTANCENAME CLASSNAME="X"><KEYBINDING NAME="Name"><KEYVALUE>1</KEYVALUE></KEYBINDING></INSTANCENAME></VALUE.REFERENCE></PROPERTY.REFERENCE></INSTANCE></CIM>"#,
    r#"[Abstract, Description("a\x41\n" "b")] class A : B { [Key] string K = "x"; uint16 S[] = {1, 0x2}; uint32 M([In(false), Out] B REF C[]); };"#,
    r#"instance of X { A = 5; c = "s\\"; L = {"x", NULL}; Inner = instance of X { Name = 'c'; }; };"#,
];

/// What damage puts in: the characters that mean something to a reader, and some that are hard on anyone.
const SPLINTERS: [&str; 24] = [
    "'",
    "\"",
    "\\",
    "{",
    "}",
    "(",
    ")",
    "<",
    ">",
    "&",
    "[",
    "]",
    "%",
    "=",
    ",",
    ".",
    "-",
    "not ",
    "<a>",
    "]]>",
    "é",
    "😀",
    "\0",
    "99999999999999999999",
];

/// Marsaglia's xorshift: enough disorder for damage, and the same on every machine.
struct Disorder(u64);

impl Disorder {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    fn damaged(&mut self, text: &str) -> String {
        let mut chars: Vec<char> = text.chars().collect();
        for _ in 0..=self.below(4) {
            let at = self.below(chars.len() + 1);
            match self.below(4) {
                0 => drop(chars.drain(at..(at + 1).min(chars.len()))),
                1 => chars.truncate(at),
                2 => drop(chars.splice(at..at, SPLINTERS[self.below(SPLINTERS.len())].chars())),
                _ => {
                    let other: Vec<char> = SENTENCES[self.below(SENTENCES.len())].chars().collect();
                    let from = self.below(other.len());
                    let piece = other[from..(from + 20).min(other.len())].to_vec();
                    drop(chars.splice(at..at, piece));
                }
            }
        }
        chars.into_iter().collect()
    }
}

fn schema() -> Schema {
    let classes = r#"class X {
        [Key] string Name; uint8 A; real64 b; string c; datetime d; string L[]; [EmbeddedInstance("X")] string Inner; X REF R;
    };"#;
    Schema::new("root", mof::parse_classes(classes).unwrap()).unwrap()
}

/// Gives a text to every reader; true if one accepted it.
fn check(schema: &Schema, instance: &Instance, text: &str) -> bool {
    let mut accepted = xml::parse(text).is_ok();
    if let Ok(query) = wql::parse(text) {
        accepted = true;
        if let wql::Query::Select(select) = query
            && let Ok(filter) = select.resolve(schema, "H")
        {
            filter.matches(instance);
            filter.key_equalities();
        }
    }
    if let Ok(path) = ObjectPath::parse(text) {
        accepted = true;
        let printed = path.to_string();
        assert_eq!(ObjectPath::parse(&printed).map(|again| again.to_string()), Ok(printed), "{text:?}");
    }
    if let Ok(datetime) = DateTime::parse(text) {
        accepted = true;
        assert_eq!(DateTime::parse(&datetime.to_string()), Ok(datetime), "{text:?}");
        assert_eq!(DateTime::parse(&datetime.to_xml()), Ok(datetime), "{text:?}");
    }
    if let Ok(classes) = mof::parse_classes(text) {
        accepted = true;
        let printed: String = classes.iter().map(mof::print_class).collect();
        assert_eq!(mof::parse_classes(&printed), Ok(classes), "{text:?}");
    }
    if let Ok(embedded) = embedded::parse(text) {
        accepted = true;
        if let Ok(typed) = embedded.typed(schema) {
            let written = embedded::to_cim_xml(&typed);
            assert!(embedded::parse(&written).is_ok_and(|again| again.typed(schema).is_ok()), "{text:?}");
            assert!(mof::parse_instance(&mof::print_instance(&typed)).is_ok(), "{text:?}");
        }
    }
    accepted
}

#[test]
fn damaged_text_is_refused_or_survives_a_round_trip() {
    let schema = schema();
    let instance = Instance::new(schema.class("X").unwrap()).with("Name", "it's").with("c", "abcd").with("A", 5u8);
    let mut disorder = Disorder(0x5eed);
    for sentence in SENTENCES {
        assert!(check(&schema, &instance, sentence), "undamaged, every sentence is accepted: {sentence}");
    }
    for round in 0..ROUNDS {
        let text = disorder.damaged(SENTENCES[round % SENTENCES.len()]);
        check(&schema, &instance, &text);
    }
}
