//! Untyped instances as CIM-XML text, for arguments.
//!
//! Without a schema everything is written as a string; DSP0201 makes TYPE a hint and every server reads by its own declaration. A name
//! that is repeated is an array.

use cim::embedded::EmbeddedInstance;
use cim::op::Argument;
use cim::xml::Writer;

/// Writes the element `INSTANCE`.
pub(super) fn to_cim_xml(instance: &EmbeddedInstance) -> String {
    let mut w = Writer::new();
    write(&mut w, instance);
    w.finish()
}

fn write(w: &mut Writer, instance: &EmbeddedInstance) {
    w.element("INSTANCE", |w| {
        w.attribute("CLASSNAME", &instance.class);
        for (position, (name, value)) in instance.properties.iter().enumerate() {
            let same = |other: &&(String, Argument)| cim::case::eq(&other.0, name);
            if instance.properties.iter().take(position).any(|other| same(&other)) {
                continue;
            }
            let values: Vec<&Argument> = instance.properties.iter().filter(same).map(|(_, value)| value).collect();
            match (values.as_slice(), value) {
                (_, Argument::Reference(_)) => property(w, "PROPERTY.REFERENCE", name, |w| write_values(w, &values)),
                ([_], Argument::Null) => property(w, "PROPERTY", name, |_| {}),
                ([_], _) => property(w, "PROPERTY", name, |w| write_values(w, &values)),
                _ => property(w, "PROPERTY.ARRAY", name, |w| w.element("VALUE.ARRAY", |w| write_values(w, &values))),
            }
        }
    });
}

fn property(w: &mut Writer, element: &str, name: &str, content: impl FnOnce(&mut Writer)) {
    w.element(element, |w| {
        w.attribute("NAME", name);
        if element != "PROPERTY.REFERENCE" {
            w.attribute("TYPE", "string");
        }
        content(w);
    });
}

fn write_values(w: &mut Writer, values: &[&Argument]) {
    for value in values {
        match value {
            Argument::Null => {}
            Argument::Text(text) => w.leaf("VALUE", text),
            // An object path in text is what WMI itself writes for a reference.
            Argument::Reference(target) => w.leaf("VALUE", &target.to_path().to_string()),
            Argument::Instance(instance) => w.leaf("VALUE", &to_cim_xml(instance)),
        }
    }
}
