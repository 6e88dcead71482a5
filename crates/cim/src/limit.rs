//! Every bound of this crate, with its reason. A reader of outside bytes refuses what exceeds one; it never truncates.

/// Bytes of one XML document. Windows' default for MaxEnvelopeSize is 500 kB; twice that leaves room for UTF-16 decoded.
pub const XML_BYTES: usize = 1024 * 1024;
/// Nested elements. A SOAP body with an embedded instance in an EPR in a parameter needs about 12.
pub const XML_DEPTH: usize = 32;
/// Elements of one document. A method call with 100 disks of 50 properties each, twice over.
pub const XML_ELEMENTS: usize = 20_000;
/// Attributes of one element, namespace declarations included. A SOAP envelope declares about ten prefixes.
pub const XML_ATTRIBUTES: usize = 64;

/// Bytes of an object path. Device ids nest a quoted path at most once; 500 bytes are the longest seen.
pub const PATH_BYTES: usize = 8 * 1024;
/// Paths within the keys of paths. An association has references as keys, and those point to plain instances.
pub const PATH_DEPTH: usize = 4;
/// Keys of one path. Devices have four.
pub const PATH_KEYS: usize = 32;

/// Bytes of one query. Clients that name hundreds of instances in one WHERE stay below a tenth of it.
pub const WQL_BYTES: usize = 64 * 1024;
/// Parentheses and NOTs within each other. People write three.
pub const WQL_DEPTH: usize = 32;
/// Comparisons of one query: the work done for each row that is looked at.
pub const WQL_TERMS: usize = 2_000;
/// Names in a projection. The largest class has about 100 properties.
pub const WQL_PROJECTION: usize = 512;

/// Seconds after WITHIN. A client that asks for less than an event a day is told sooner.
pub const EVENT_INTERVAL_SECONDS: f64 = 86_400.0;

/// Bytes of one MOF text. The whole Hyper-V namespace is about 1 MB.
pub const MOF_BYTES: usize = 8 * 1024 * 1024;
/// Instances within instances in a MOF value or an embedded XML instance. Settings within settings are two deep.
pub const EMBEDDED_DEPTH: usize = 8;
/// Bytes of an instance in a string, in any notation. A settings object with every property filled is about 20 kB.
pub const EMBEDDED_BYTES: usize = 256 * 1024;

/// Elements of one array value as it arrives from outside. Calls that pass hundreds of resources exist, thousands do not.
pub const ARRAY_ELEMENTS: usize = 4_096;
/// Superclasses above one class. The CIM schema stays below ten.
pub const CLASS_DEPTH: usize = 64;
