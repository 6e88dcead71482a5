//! Instances in strings.
//!
//! Methods of the Hyper-V namespace take settings as strings that hold one instance. Clients write them as CIM-XML
//! (`<INSTANCE CLASSNAME="…">`, with or without what DSP0201 or WMI's DTD put around it), or as MOF
//! (`instance of … { … };`). A protocol may also carry the instance as elements of its own; it then builds an
//! [`EmbeddedInstance`] itself.

use crate::op::Argument;

/// An instance as it arrived: class and values not yet checked against any schema.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddedInstance {
    /// The class, as written.
    pub class: String,
    /// The properties that were there, as written. An array is its name repeated, once for each element; a property
    /// that is there without a value is [`Argument::Null`].
    pub properties: Vec<(String, Argument)>,
}
