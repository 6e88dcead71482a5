//! The declaration of a class as CIM-XML (DSP0201, element `CLASS`), which MI clients and PyMI ask for before they call a method.
//!
//! Its elements are in no namespace: clients look for `CLASS` alone.

use cim::class::{Class, DataType, Method, Qualifiers};
use cim::xml::Writer;
use cim::{CimType, Value};

/// Writes the element `CLASS`.
pub(crate) fn write(w: &mut Writer, class: &Class) {
    w.element("CLASS", |w| {
        w.attribute("NAME", &class.name);
        if let Some(superclass) = &class.superclass {
            w.attribute("SUPERCLASS", superclass);
        }
        write_qualifiers(w, &class.qualifiers);
        for property in class.properties() {
            let element = name_for(&property.data_type, "PROPERTY");
            w.element(&element, |w| {
                w.attribute("NAME", &property.name);
                write_type(w, &property.data_type);
                w.attribute("CLASSORIGIN", &property.origin);
                write_qualifiers(w, &property.qualifiers);
                if let Some(default) = &property.default {
                    write_value(w, default);
                }
            });
        }
        class.methods().iter().for_each(|method| write_method(w, method));
    });
}

fn write_method(w: &mut Writer, method: &Method) {
    w.element("METHOD", |w| {
        w.attribute("NAME", &method.name);
        if let Some(returns) = method.returns {
            w.attribute("TYPE", returns.name());
        }
        w.attribute("CLASSORIGIN", &method.origin);
        write_qualifiers(w, &method.qualifiers);
        for parameter in &method.parameters {
            let element = match (parameter.data_type.is_array, parameter.data_type.cim_type) {
                (true, CimType::Reference) => "PARAMETER.REFARRAY".to_owned(),
                _ => name_for(&parameter.data_type, "PARAMETER"),
            };
            w.element(&element, |w| {
                w.attribute("NAME", &parameter.name);
                write_type(w, &parameter.data_type);
                write_qualifiers(w, &parameter.qualifiers);
            });
        }
    });
}

fn name_for(data_type: &DataType, stem: &str) -> String {
    match (data_type.is_array, data_type.cim_type) {
        (true, _) => format!("{stem}.ARRAY"),
        (false, CimType::Reference) => format!("{stem}.REFERENCE"),
        (false, _) => stem.to_owned(),
    }
}

fn write_type(w: &mut Writer, data_type: &DataType) {
    match (data_type.cim_type, &data_type.reference_class) {
        (CimType::Reference, Some(class)) => w.attribute("REFERENCECLASS", class),
        (CimType::Reference, None) => {}
        // DSP0201 has no type for objects: they are strings with an attribute that says what is in them.
        (CimType::Object, _) => w.attribute("TYPE", CimType::String.name()),
        (plain, _) => w.attribute("TYPE", plain.name()),
    }
    if data_type.is_embedded() {
        w.attribute("EmbeddedObject", if data_type.embedded_class.is_some() { "instance" } else { "object" });
    }
}

fn write_qualifiers(w: &mut Writer, qualifiers: &Qualifiers) {
    for qualifier in &qualifiers.0 {
        let cim_type = qualifier.value.cim_type().unwrap_or(CimType::String);
        w.element("QUALIFIER", |w| {
            w.attribute("NAME", &qualifier.name);
            w.attribute("TYPE", cim_type.name());
            write_value(w, &qualifier.value);
        });
    }
}

fn write_value(w: &mut Writer, value: &Value) {
    match value {
        Value::Array(elements) => w.element("VALUE.ARRAY", |w| elements.iter().for_each(|one| write_value(w, one))),
        scalar => w.leaf("VALUE", &scalar.to_string()),
    }
}
