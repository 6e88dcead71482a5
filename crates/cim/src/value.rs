//! Values of properties and parameters, and their types (DSP0004, "Data types").
//!
//! NULL is not a value: wherever it is possible, the type is `Option<Value>`.

use std::fmt;

use crate::{DateTime, Instance, ObjectPath, case};

/// A value that is not NULL.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each variant is the CIM type of its name")]
pub enum Value {
    Bool(bool),
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    I8(i8),
    I16(i16),
    I32(i32),
    I64(i64),
    R32(f32),
    R64(f64),
    Char16(u16),
    String(String),
    DateTime(DateTime),
    /// A `REF`: the path of another instance.
    Reference(ObjectPath),
    /// An embedded instance; declared as a string with the qualifier EmbeddedInstance or EmbeddedObject.
    Object(Box<Instance>),
    /// An array of any of the above, all of one type, without NULLs.
    Array(Vec<Value>),
    /// An array of uint8 that is large: the pixels of a picture. As [`Value::Array`] it would take fifty times the memory.
    Octets(Vec<u8>),
}

/// The type of a value, or of the elements of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the CIM type of its name")]
pub enum CimType {
    Boolean,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    SInt8,
    SInt16,
    SInt32,
    SInt64,
    Real32,
    Real64,
    Char16,
    String,
    DateTime,
    /// A `REF`; the class it refers to stands beside it in the declaration.
    Reference,
    /// An embedded instance where it is declared with a class as its type (WMI) instead of as a string.
    Object,
}

/// A text that is no value of the wanted type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a value of type {cim_type}")]
pub struct ValueError {
    /// The text as it arrived, shortened.
    pub text: String,
    /// The type that was wanted.
    pub cim_type: CimType,
}

const TYPE_NAMES: [(CimType, &str); 16] = [
    (CimType::Boolean, "boolean"),
    (CimType::UInt8, "uint8"),
    (CimType::UInt16, "uint16"),
    (CimType::UInt32, "uint32"),
    (CimType::UInt64, "uint64"),
    (CimType::SInt8, "sint8"),
    (CimType::SInt16, "sint16"),
    (CimType::SInt32, "sint32"),
    (CimType::SInt64, "sint64"),
    (CimType::Real32, "real32"),
    (CimType::Real64, "real64"),
    (CimType::Char16, "char16"),
    (CimType::String, "string"),
    (CimType::DateTime, "datetime"),
    (CimType::Reference, "reference"),
    (CimType::Object, "object"),
];

impl CimType {
    /// The name in MOF and CIM-XML, such as `uint16`.
    pub fn name(self) -> &'static str {
        TYPE_NAMES.iter().find(|(t, _)| *t == self).map_or("", |(_, name)| name)
    }

    /// The type of this name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        TYPE_NAMES.iter().find(|(_, n)| n.eq_ignore_ascii_case(name)).map(|(t, _)| *t)
    }

    /// Whether values are whole numbers.
    pub fn is_integer(self) -> bool {
        use CimType::{SInt8, SInt16, SInt32, SInt64, UInt8, UInt16, UInt32, UInt64};
        matches!(self, UInt8 | UInt16 | UInt32 | UInt64 | SInt8 | SInt16 | SInt32 | SInt64)
    }
}

impl fmt::Display for CimType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Value {
    /// Reads a scalar from text as it arrives from a client.
    ///
    /// Numbers and booleans may have blanks around them; integers may be hexadecimal (`0x…`) and must be in range;
    /// booleans are `true`, `false`, `1` or `0` in any case; datetimes have any of four notations; references are object
    /// paths. Strings are taken as they are. Embedded instances are not scalars: `embedded` reads them.
    pub fn parse(cim_type: CimType, text: &str) -> Result<Self, ValueError> {
        let trimmed = text.trim();
        let value = match cim_type {
            CimType::String => Some(Self::String(text.to_owned())),
            CimType::Boolean => parse_bool(trimmed).map(Self::Bool),
            CimType::Real32 => trimmed.parse().ok().map(Self::R32),
            CimType::Real64 => trimmed.parse().ok().map(Self::R64),
            CimType::Char16 => parse_char(text).map(Self::Char16),
            CimType::DateTime => DateTime::parse(trimmed).ok().map(Self::DateTime),
            CimType::Reference => ObjectPath::parse(trimmed).ok().map(Self::Reference),
            CimType::Object => None,
            integer => parse_integer(trimmed).and_then(|n| Self::from_integer(integer, n)),
        };
        value.ok_or_else(|| ValueError { text: text.chars().take(60).collect(), cim_type })
    }

    /// The integer as a value of an integer type, or `None` if it is out of range or the type is none.
    pub fn from_integer(cim_type: CimType, integer: i128) -> Option<Self> {
        match cim_type {
            CimType::UInt8 => integer.try_into().ok().map(Self::U8),
            CimType::UInt16 => integer.try_into().ok().map(Self::U16),
            CimType::UInt32 => integer.try_into().ok().map(Self::U32),
            CimType::UInt64 => integer.try_into().ok().map(Self::U64),
            CimType::SInt8 => integer.try_into().ok().map(Self::I8),
            CimType::SInt16 => integer.try_into().ok().map(Self::I16),
            CimType::SInt32 => integer.try_into().ok().map(Self::I32),
            CimType::SInt64 => integer.try_into().ok().map(Self::I64),
            _ => None,
        }
    }

    /// The type of the value, or of its elements if it is an array; an empty array has none.
    pub fn cim_type(&self) -> Option<CimType> {
        Some(match self {
            Self::Bool(_) => CimType::Boolean,
            Self::U8(_) => CimType::UInt8,
            Self::U16(_) => CimType::UInt16,
            Self::U32(_) => CimType::UInt32,
            Self::U64(_) => CimType::UInt64,
            Self::I8(_) => CimType::SInt8,
            Self::I16(_) => CimType::SInt16,
            Self::I32(_) => CimType::SInt32,
            Self::I64(_) => CimType::SInt64,
            Self::R32(_) => CimType::Real32,
            Self::R64(_) => CimType::Real64,
            Self::Char16(_) => CimType::Char16,
            Self::String(_) => CimType::String,
            Self::DateTime(_) => CimType::DateTime,
            Self::Reference(_) => CimType::Reference,
            Self::Object(_) => CimType::Object,
            Self::Array(elements) => return elements.first()?.cim_type(),
            Self::Octets(_) => CimType::UInt8,
        })
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = self { Some(*b) } else { None }
    }

    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(s) = self { Some(s) } else { None }
    }

    /// The whole number, if it is an integer of any width.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(n) => n.into(),
            Self::U16(n) => n.into(),
            Self::U32(n) => n.into(),
            Self::U64(n) => n.into(),
            Self::I8(n) => n.into(),
            Self::I16(n) => n.into(),
            Self::I32(n) => n.into(),
            Self::I64(n) => n.into(),
            _ => return None,
        })
    }

    /// The whole number, if it is an integer of any width and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_integer()?.try_into().ok()
    }

    /// The number, if it is real.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::R32(n) => Some(n.into()),
            Self::R64(n) => Some(n),
            _ => None,
        }
    }

    /// The datetime, if it is one.
    pub fn as_datetime(&self) -> Option<DateTime> {
        if let Self::DateTime(d) = self { Some(*d) } else { None }
    }

    /// The path, if it is a reference.
    pub fn as_reference(&self) -> Option<&ObjectPath> {
        if let Self::Reference(path) = self { Some(path) } else { None }
    }

    /// The embedded instance, if it is one.
    pub fn as_object(&self) -> Option<&Instance> {
        if let Self::Object(instance) = self { Some(instance) } else { None }
    }

    /// The bytes of an array of uint8, in either form.
    pub fn to_octets(&self) -> Option<Vec<u8>> {
        let byte = |element: &Self| if let Self::U8(byte) = element { Some(*byte) } else { None };
        match self {
            Self::Octets(bytes) => Some(bytes.clone()),
            Self::Array(elements) => elements.iter().map(byte).collect(),
            _ => None,
        }
    }

    /// The elements, if it is an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        if let Self::Array(elements) = self { Some(elements) } else { None }
    }

    /// Whether two key values name the same thing: text without regard to case, numbers by value whatever their width,
    /// references by [`ObjectPath::same_object`]. A value against text compares with what the text says in its type,
    /// because keys arrive from clients as text.
    pub fn same_key(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::String(a), Self::String(b)) => case::eq(a, b),
            (Self::Reference(a), Self::Reference(b)) => a.same_object(b),
            (Self::String(text), typed) | (typed, Self::String(text)) => typed.is_said_by(text),
            (a, b) => match (a.as_integer(), b.as_integer()) {
                (Some(a), Some(b)) => a == b,
                _ => a == b,
            },
        }
    }

    fn is_said_by(&self, text: &str) -> bool {
        let Some(cim_type) = self.cim_type() else { return false };
        Self::parse(cim_type, text).is_ok_and(|parsed| !matches!(parsed, Self::String(_)) && parsed.same_key(self))
    }
}

impl fmt::Display for Value {
    /// The text of a scalar as CIM-XML and WS-CIM carry it (datetimes in CIM's form); elements of an array are separated
    /// by commas and an embedded instance is shown by its class, for messages only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(v) => v.fmt(f),
            Self::U8(v) => v.fmt(f),
            Self::U16(v) => v.fmt(f),
            Self::U32(v) => v.fmt(f),
            Self::U64(v) => v.fmt(f),
            Self::I8(v) => v.fmt(f),
            Self::I16(v) => v.fmt(f),
            Self::I32(v) => v.fmt(f),
            Self::I64(v) => v.fmt(f),
            Self::R32(v) => v.fmt(f),
            Self::R64(v) => v.fmt(f),
            Self::Char16(unit) => char::from_u32(u32::from(*unit)).unwrap_or(char::REPLACEMENT_CHARACTER).fmt(f),
            Self::String(v) => f.write_str(v),
            Self::DateTime(v) => v.fmt(f),
            Self::Reference(v) => v.fmt(f),
            Self::Object(v) => write!(f, "instance of {}", v.class().name),
            Self::Array(elements) => {
                for (i, element) in elements.iter().enumerate() {
                    write!(f, "{}{element}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Octets(bytes) => write!(f, "{} bytes", bytes.len()),
        }
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" => Some(true),
        "0" => Some(false),
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// Decimal or `0x` hexadecimal, with a sign.
fn parse_integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((digits, 10), |hex| (hex, 16));
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
    Some(if negative { -magnitude } else { magnitude })
}

/// One character of the basic plane.
fn parse_char(text: &str) -> Option<u16> {
    let mut units = text.encode_utf16();
    let unit = units.next()?;
    units.next().is_none().then_some(unit)
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

value_from! {
    bool => Bool, u8 => U8, u16 => U16, u32 => U32, u64 => U64, i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    f32 => R32, f64 => R64, &str => String, String => String, &String => String, DateTime => DateTime,
    ObjectPath => Reference, Instance => Object,
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(elements: Vec<T>) -> Self {
        Self::Array(elements.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Value>, const N: usize> From<[T; N]> for Value {
    fn from(elements: [T; N]) -> Self {
        Self::Array(elements.into_iter().map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds: WIRE-I3-2
    #[test]
    fn scalars_are_read_from_text() {
        fn check(cim_type: CimType, text: &str, expected: impl Into<Option<Value>>) {
            assert_eq!(Value::parse(cim_type, text).ok(), expected.into(), "{cim_type} {text:?}");
        }
        check(CimType::Boolean, " TRUE ", Value::Bool(true));
        check(CimType::Boolean, "False", Value::Bool(false));
        check(CimType::Boolean, "0", Value::Bool(false));
        check(CimType::Boolean, "yes", None);
        check(CimType::UInt8, "255", Value::U8(255));
        check(CimType::UInt8, "256", None);
        check(CimType::UInt16, "\n 3 ", Value::U16(3));
        check(CimType::UInt32, "0xffFFffFF", Value::U32(u32::MAX));
        check(CimType::UInt32, "-1", None);
        check(CimType::UInt64, "18446744073709551615", Value::U64(u64::MAX));
        check(CimType::SInt64, "-9223372036854775808", Value::I64(i64::MIN));
        check(CimType::SInt8, "+-1", None);
        check(CimType::SInt8, "", None);
        check(CimType::Real64, "1.5e3", Value::R64(1500.0));
        check(CimType::String, " as is ", Value::String(" as is ".into()));
        check(CimType::Char16, "é", Value::Char16(0xe9));
        check(CimType::Char16, "ab", None);
        check(CimType::DateTime, "PT1S", Value::DateTime(DateTime::from_interval_micros(1_000_000)));
        check(CimType::Reference, "no path", None);
        check(CimType::Object, "x", None);
    }

    #[test]
    fn keys_compare_by_what_they_say() {
        fn check(a: impl Into<Value>, b: impl Into<Value>, same: bool) {
            let (a, b) = (a.into(), b.into());
            assert_eq!((a.same_key(&b), b.same_key(&a)), (same, same), "{a:?} and {b:?}");
        }
        check("Microsoft:ABC", "microsoft:abc", true);
        check(5u16, 5u64, true);
        check(5u16, " 5", true);
        check(5u16, "x", false);
        check(true, "True", true);
        check(true, 1u8, false);
    }

    #[test]
    fn types_have_names() {
        for (cim_type, name) in TYPE_NAMES {
            assert_eq!((cim_type.name(), CimType::from_name(&name.to_uppercase())), (name, Some(cim_type)));
        }
        assert_eq!(CimType::from_name("int"), None);
    }
}
