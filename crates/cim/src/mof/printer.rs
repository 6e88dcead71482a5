//! From classes and instances to MOF text.

use std::fmt::Write;

use crate::class::{DataType, Declaration, Method, Property, Qualifiers};
use crate::{Instance, Value};

/// A class as MOF, ending in a line feed.
pub fn print_class(class: &Declaration) -> String {
    let mut out = String::new();
    push_qualifiers(&mut out, "", &class.qualifiers, "\n");
    out.push_str("class ");
    out.push_str(&class.name);
    if let Some(superclass) = &class.superclass {
        out.push_str(" : ");
        out.push_str(superclass);
    }
    out.push_str(" {\n");
    for property in &class.properties {
        push_property(&mut out, property);
    }
    for method in &class.methods {
        push_method(&mut out, method);
    }
    out.push_str("};\n");
    out
}

/// An instance as MOF, without properties that are NULL, ending in a semicolon.
pub fn print_instance(instance: &Instance) -> String {
    let mut out = String::new();
    push_instance(&mut out, instance);
    out.push(';');
    out
}

fn push_property(out: &mut String, property: &Property) {
    push_qualifiers(out, "    ", &property.qualifiers, "\n");
    out.push_str("    ");
    push_typed_name(out, &property.data_type, &property.name);
    if let Some(default) = &property.default {
        out.push_str(" = ");
        push_value(out, default);
    }
    out.push_str(";\n");
}

fn push_method(out: &mut String, method: &Method) {
    push_qualifiers(out, "    ", &method.qualifiers, "\n");
    let returns = method.returns.map_or("void", crate::CimType::name);
    push(out, format_args!("    {returns} {}(", method.name));
    for (i, parameter) in method.parameters.iter().enumerate() {
        out.push_str(if i == 0 { "\n" } else { ",\n" });
        push_qualifiers(out, "        ", &parameter.qualifiers, "\n");
        out.push_str("        ");
        push_typed_name(out, &parameter.data_type, &parameter.name);
    }
    out.push_str(");\n");
}

fn push_typed_name(out: &mut String, data_type: &DataType, name: &str) {
    let scalar = DataType { is_array: false, ..data_type.clone() };
    push(out, format_args!("{scalar} {name}{}", if data_type.is_array { "[]" } else { "" }));
}

fn push_qualifiers(out: &mut String, indent: &str, qualifiers: &Qualifiers, end: &str) {
    if qualifiers.0.is_empty() {
        return;
    }
    out.push_str(indent);
    for (i, qualifier) in qualifiers.0.iter().enumerate() {
        out.push_str(if i == 0 { "[" } else { ", " });
        out.push_str(&qualifier.name);
        match &qualifier.value {
            Value::Bool(true) => {}
            array @ Value::Array(_) => {
                out.push(' ');
                push_value(out, array);
            }
            scalar => {
                out.push('(');
                push_value(out, scalar);
                out.push(')');
            }
        }
    }
    out.push(']');
    out.push_str(end);
}

fn push_instance(out: &mut String, instance: &Instance) {
    push(out, format_args!("instance of {} {{", instance.class().name));
    for (property, value) in instance.properties() {
        if let Some(value) = value {
            push(out, format_args!("\n    {} = ", property.name));
            push_value(out, value);
            out.push(';');
        }
    }
    out.push_str("\n}");
}

fn push_value(out: &mut String, value: &Value) {
    match value {
        Value::Bool(b) => out.push_str(if *b { "TRUE" } else { "FALSE" }),
        Value::Array(elements) => {
            out.push('{');
            for (i, element) in elements.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                push_value(out, element);
            }
            out.push('}');
        }
        Value::Object(instance) => push_instance(out, instance),
        Value::Octets(bytes) => {
            let texts: Vec<String> = bytes.iter().map(u8::to_string).collect();
            push(out, format_args!("{{{}}}", texts.join(", ")));
        }
        number if number.as_integer().is_some() || number.as_f64().is_some() => push(out, format_args!("{number}")),
        text => push_text(out, &text.to_string()),
    }
}

fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() && u32::from(c) <= 0xff => push(out, format_args!("\\x{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    let written = out.write_fmt(arguments);
    debug_assert!(written.is_ok(), "writing to a string cannot fail");
}
