//! The namespaces and their classes, read from MOF once at start.

use std::sync::Arc;

use cim::{Schema, mof};

/// Where Hyper-V's classes live.
pub const VIRTUALIZATION: &str = r"root\virtualization\v2";

/// Where Windows tells about the host.
pub const CIMV2: &str = r"root\cimv2";

/// MOF of [`VIRTUALIZATION`]: name of the file for messages, and its text. Superclasses come first.
const FILES: [(&str, &str); 6] = [
    ("cim.mof", include_str!("../schema/cim.mof")),
    ("setting.mof", include_str!("../schema/setting.mof")),
    ("system.mof", include_str!("../schema/system.mof")),
    ("device.mof", include_str!("../schema/device.mof")),
    ("other.mof", include_str!("../schema/other.mof")),
    ("association.mof", include_str!("../schema/association.mof")),
];

/// MOF of [`CIMV2`].
const CIMV2_FILES: [(&str, &str); 1] = [("cimv2.mof", include_str!("../schema/cimv2.mof"))];

/// The namespaces served here.
#[derive(Debug)]
pub struct Namespaces {
    virtualization: Arc<Schema>,
    cimv2: Arc<Schema>,
}

impl Namespaces {
    /// Reads the schemas that are part of this program.
    ///
    /// # Panics
    /// If they cannot be read; they are constants, and every test reads them.
    pub fn load() -> Self {
        Self { virtualization: Arc::new(read(VIRTUALIZATION, &FILES)), cimv2: Arc::new(read(CIMV2, &CIMV2_FILES)) }
    }

    /// `root\virtualization\v2`.
    pub fn virtualization(&self) -> &Arc<Schema> {
        &self.virtualization
    }

    /// A namespace by name, written with slashes or backslashes, in any case.
    pub fn find(&self, namespace: &str) -> Option<&Arc<Schema>> {
        [&self.virtualization, &self.cimv2]
            .into_iter()
            .find(|schema| cim::path::same_namespace(schema.namespace(), namespace))
    }
}

fn read(namespace: &str, files: &[(&str, &str)]) -> Schema {
    let mut declarations = Vec::new();
    for (name, text) in files {
        match mof::parse_classes(text) {
            Ok(classes) => declarations.extend(classes),
            Err(error) => panic!("{name}, a part of this program, cannot be read: {error}"),
        }
    }
    Schema::new(namespace, declarations).expect("the classes fit together, every test reads them")
}
