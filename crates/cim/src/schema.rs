//! The classes of one namespace.

use std::collections::HashMap;
use std::sync::Arc;

use crate::case::{self, NameIndex};
use crate::class::{Class, Declaration};
use crate::limit;

/// The classes of one namespace, complete with inherited members. Built once at start and shared from then on.
#[derive(Debug, Clone)]
pub struct Schema {
    namespace: String,
    /// In the order of declaration.
    classes: Vec<Arc<Class>>,
    index: NameIndex,
    /// For each class the positions of itself and all classes below it.
    families: Vec<Vec<usize>>,
}

/// Declarations that do not make a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Two declarations of one class.
    #[error("class {class} is declared twice")]
    Duplicate {
        /// The class.
        class: String,
    },
    /// A superclass that nobody declares.
    #[error("class {class} inherits from {superclass}, which is not declared")]
    UnknownSuperclass {
        /// The class.
        class: String,
        /// What it says it inherits from.
        superclass: String,
    },
    /// A class that inherits from itself, or a chain longer than [`limit::CLASS_DEPTH`].
    #[error("the chain of superclasses of {class} does not end")]
    Endless {
        /// The class.
        class: String,
    },
}

impl Schema {
    /// Puts declarations together. A superclass may be declared after its subclasses.
    pub fn new(namespace: &str, declarations: Vec<Declaration>) -> Result<Self, SchemaError> {
        let mut by_name = HashMap::with_capacity(declarations.len());
        for (position, declaration) in declarations.iter().enumerate() {
            if by_name.insert(case::key(&declaration.name), position).is_some() {
                return Err(SchemaError::Duplicate { class: declaration.name.clone() });
            }
        }
        let superclasses = superclass_positions(&declarations, &by_name)?;
        let mut waiting: Vec<Option<Declaration>> = declarations.into_iter().map(Some).collect();
        let mut done: Vec<Option<Arc<Class>>> = vec![None; waiting.len()];
        for position in 0..waiting.len() {
            for step in chain_from_top(position, &superclasses, &waiting)? {
                let superclass = superclasses[step].and_then(|s| done[s].clone());
                if let Some(declaration) = waiting[step].take() {
                    done[step] = Some(Arc::new(Class::complete(declaration, superclass.as_deref())));
                }
            }
        }
        let classes: Vec<Arc<Class>> = done.into_iter().flatten().collect();
        let mut families = vec![Vec::new(); classes.len()];
        for position in 0..classes.len() {
            let mut ancestor = Some(position);
            while let Some(at) = ancestor {
                families[at].push(position);
                ancestor = superclasses[at];
            }
        }
        let index = NameIndex::new(classes.iter().map(|class| class.name.as_str()));
        Ok(Self { namespace: crate::path::normalized_namespace(namespace), classes, index, families })
    }

    /// The namespace with backslashes, such as `root\virtualization\v2`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A class by name.
    pub fn class(&self, name: &str) -> Option<&Arc<Class>> {
        self.classes.get(self.position(name)?)
    }

    /// All classes in the order of declaration.
    pub fn classes(&self) -> impl Iterator<Item = &Arc<Class>> {
        self.classes.iter()
    }

    /// Whether `class` is `ancestor` or inherits from it; false if either is unknown.
    pub fn is_a(&self, class: &str, ancestor: &str) -> bool {
        self.class(class).is_some_and(|class| class.is_a(ancestor))
    }

    /// The class and all classes below it, in the order of declaration; empty if it is unknown.
    pub fn family(&self, name: &str) -> impl Iterator<Item = &Arc<Class>> {
        let members = self.position(name).and_then(|at| self.families.get(at));
        members.into_iter().flatten().filter_map(|&at| self.classes.get(at))
    }

    /// The classes that inherit directly from this one.
    pub fn subclasses<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<Class>> {
        self.family(name).filter(move |class| class.superclass.as_deref().is_some_and(|s| case::eq(s, name)))
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.index.find(name, |position| self.classes[position].name.as_str())
    }
}

/// For each declaration the position of its superclass.
fn superclass_positions(
    declarations: &[Declaration],
    by_name: &HashMap<String, usize>,
) -> Result<Vec<Option<usize>>, SchemaError> {
    let position = |declaration: &Declaration| {
        let Some(superclass) = &declaration.superclass else { return Ok(None) };
        by_name.get(&case::key(superclass)).copied().map(Some).ok_or_else(|| SchemaError::UnknownSuperclass {
            class: declaration.name.clone(),
            superclass: superclass.clone(),
        })
    };
    declarations.iter().map(position).collect()
}

/// The classes to complete so that this one is complete, topmost first.
fn chain_from_top(
    position: usize,
    superclasses: &[Option<usize>],
    waiting: &[Option<Declaration>],
) -> Result<Vec<usize>, SchemaError> {
    let mut chain = Vec::new();
    let mut next = Some(position);
    while let Some((at, declaration)) = next.and_then(|at| Some((at, waiting[at].as_ref()?))) {
        if chain.len() >= limit::CLASS_DEPTH {
            return Err(SchemaError::Endless { class: declaration.name.clone() });
        }
        chain.push(at);
        next = superclasses[at];
    }
    chain.reverse();
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mof;

    const TREE: &str = r#"
        class Leaf : Middle { [Description("own")] string Name; uint32 Stop(); boolean Extra; };
        class Middle : Top { string Caption; [Description("other")] uint32 Stop(); };
        [Abstract, Association] class Top {
            [Key, MaxLen(5), Description("first")] string Name = "x"; [Values {"Off", "On"}] uint16 State;
            uint32 Start([In] string How);
        };
        class Other : Top {};"#;

    fn schema(classes: &str) -> Result<Schema, SchemaError> {
        Schema::new("root/v2", mof::parse_classes(classes).unwrap())
    }

    #[test]
    fn classes_have_what_they_inherit() {
        let schema = schema(TREE).unwrap();
        let leaf = schema.class("LEAF").unwrap();
        let names: Vec<&str> = leaf.properties().iter().map(|p| p.name.as_str()).collect();
        assert_eq!(
            names,
            ["Name", "State", "Caption", "Extra"],
            "inherited properties come first and keep their place"
        );
        let methods: Vec<(&str, &str)> = leaf.methods().iter().map(|m| (m.name.as_str(), m.origin.as_str())).collect();
        assert_eq!(methods, [("Start", "Top"), ("Stop", "Middle")]);
        assert_eq!(leaf.ancestors, ["Middle", "Top"]);
        assert_eq!((leaf.is_abstract, leaf.is_association), (false, true), "only Association is inherited");

        let name = leaf.property("name").unwrap();
        assert_eq!((name.is_key, name.origin.as_str()), (true, "Top"));
        assert_eq!(name.qualifiers.text("description"), Some("own"), "its own qualifier wins");
        assert_eq!(name.qualifiers.get("MaxLen").and_then(crate::Value::as_u64), Some(5), "others are inherited");
        assert_eq!(name.default, Some("x".into()));
        assert_eq!(leaf.keys().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["Name"]);
        let labels = leaf.property("State").unwrap().qualifiers.value_map();
        assert_eq!(labels, [("0".to_owned(), "Off"), ("1".to_owned(), "On")]);
        assert!(leaf.method("stop").is_some() && leaf.method("nothing").is_none());
    }

    #[test]
    fn the_tree_can_be_asked() {
        let schema = schema(TREE).unwrap();
        fn names<'a>(classes: impl Iterator<Item = &'a Arc<Class>>) -> Vec<&'a str> {
            classes.map(|class| class.name.as_str()).collect()
        }
        assert_eq!(names(schema.family("top")), ["Leaf", "Middle", "Top", "Other"]);
        assert_eq!(names(schema.subclasses("TOP")), ["Middle", "Other"]);
        assert_eq!(names(schema.family("nothing")), [""; 0]);
        assert!(schema.is_a("leaf", "TOP") && schema.is_a("Leaf", "Leaf") && !schema.is_a("Top", "Leaf"));
        assert!(!schema.is_a("nothing", "Top") && !schema.is_a("Top", "nothing"));
        assert_eq!(schema.namespace(), r"root\v2");
    }

    #[test]
    fn wrong_trees_are_refused() {
        fn check(classes: &str, message: &str) {
            assert_eq!(schema(classes).unwrap_err().to_string(), message);
        }
        check("class A {}; class a {};", "class a is declared twice");
        check("class A : B {};", "class A inherits from B, which is not declared");
        check("class A : B {}; class B : A {};", "the chain of superclasses of A does not end");
        check("class A : A {};", "the chain of superclasses of A does not end");
    }
}
