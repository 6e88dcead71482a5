//! Instances in strings.
//!
//! Methods of the Hyper-V namespace take settings as strings that hold one instance. Clients write them as CIM-XML
//! (`<INSTANCE CLASSNAME="…">`, with or without what DSP0201 or WMI's DTD put around it), or as MOF
//! (`instance of … { … };`). A protocol may also carry the instance as elements of its own; it then builds an
//! [`EmbeddedInstance`] itself. [`EmbeddedInstance::typed`] checks it against a schema.

mod cimxml;

use crate::mof::{self, MofError};
use crate::op::Argument;
use crate::xml::{self, XmlError};
use crate::{Instance, limit};

/// An instance as it arrived: class and values not yet checked against any schema.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddedInstance {
    /// The class, as written.
    pub class: String,
    /// The properties that were there, as written. An array is its name repeated, once for each element; a property
    /// that is there without a value is [`Argument::Null`].
    pub properties: Vec<(String, Argument)>,
}

/// A text that does not hold an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmbeddedError {
    /// More bytes than [`limit::EMBEDDED_BYTES`].
    #[error("the embedded instance is longer than {} bytes", limit::EMBEDDED_BYTES)]
    TooLong,
    /// It begins like XML and is none.
    #[error(transparent)]
    Xml(XmlError),
    /// It does not begin like XML and is no MOF either.
    #[error(transparent)]
    Mof(MofError),
    /// XML, but not of an instance.
    #[error("the embedded instance is wrong: {reason}")]
    Structure {
        /// What is wrong.
        reason: String,
    },
}

/// Reads an instance in any notation: CIM-XML, with or without wrappers, if the text begins with `<`, else MOF.
pub fn parse(text: &str) -> Result<EmbeddedInstance, EmbeddedError> {
    if text.len() > limit::EMBEDDED_BYTES {
        return Err(EmbeddedError::TooLong);
    }
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with('<') {
        cimxml::read(&xml::parse(text).map_err(EmbeddedError::Xml)?)
    } else {
        mof::parse_instance(text).map_err(EmbeddedError::Mof)
    }
}

/// Writes an instance as CIM-XML, without an XML declaration; a NULL property is there without a value, as WMI writes it.
pub fn to_cim_xml(instance: &Instance) -> String {
    let mut w = xml::Writer::new();
    cimxml::write_instance(&mut w, instance);
    w.finish()
}
