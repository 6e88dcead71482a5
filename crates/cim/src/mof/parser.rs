//! From tokens to declarations and instances.

use super::MofError;
use super::lexer::{Lexer, Token};
use crate::class::{DataType, Declaration, Method, Parameter, Property, Qualifier, Qualifiers};
use crate::embedded::EmbeddedInstance;
use crate::op::Argument;
use crate::{CimType, Value, limit};

/// Reads the class declarations of a MOF file.
///
/// # Errors
/// With line and column if the text is something else or exceeds [`limit::MOF_BYTES`].
pub fn parse_classes(text: &str) -> Result<Vec<Declaration>, MofError> {
    let mut parser = Parser::new(text, limit::MOF_BYTES)?;
    let mut classes = Vec::new();
    while parser.token != Token::End {
        classes.push(parser.class()?);
    }
    Ok(classes)
}

/// Reads one instance.
///
/// # Errors
/// With line and column if the text is something else or exceeds [`limit::EMBEDDED_BYTES`].
pub fn parse_instance(text: &str) -> Result<EmbeddedInstance, MofError> {
    let mut parser = Parser::new(text, limit::EMBEDDED_BYTES)?;
    let instance = parser.instance(0)?;
    parser.eat(';')?;
    match parser.token {
        Token::End => Ok(instance),
        _ => Err(parser.expected("the end of the text")),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token to be read next.
    token: Token<'a>,
}

/// A value as written.
enum Literal {
    Null,
    Boolean(bool),
    Number(String),
    Text(String),
    Instance(EmbeddedInstance),
    Array(Vec<Literal>),
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, bytes: usize) -> Result<Self, MofError> {
        let mut lexer = Lexer::new(text);
        if text.len() > bytes {
            return Err(lexer.wrong(format!("the text is longer than {bytes} bytes")));
        }
        let token = lexer.next()?;
        Ok(Self { lexer, token })
    }

    fn class(&mut self) -> Result<Declaration, MofError> {
        let qualifiers = self.qualifiers(0)?;
        self.keyword("class")?;
        let name = self.name("a class name")?.to_owned();
        let superclass = if self.eat(':')? { Some(self.name("a superclass")?.to_owned()) } else { None };
        let mut class = Declaration { name, superclass, qualifiers, properties: Vec::new(), methods: Vec::new() };
        self.expect('{')?;
        while !self.eat('}')? {
            self.member(&mut class)?;
        }
        self.expect(';')?;
        Ok(class)
    }

    /// A property or a method: they differ only after their name.
    fn member(&mut self, class: &mut Declaration) -> Result<(), MofError> {
        let qualifiers = self.qualifiers(0)?;
        let is_void = self.is_keyword("void");
        let data_type = if is_void { self.advance().map(|_| None)? } else { Some(self.data_type(&qualifiers)?) };
        let name = self.name("the name of a property or method")?.to_owned();
        let origin = class.name.clone();
        let returns = data_type.as_ref().map(|data_type| data_type.cim_type);
        // DSP0004, annex A: what a method returns is of an intrinsic type.
        if returns != Some(CimType::Reference) && self.eat('(')? {
            let parameters = self.parameters()?;
            class.methods.push(Method { name, returns, parameters, origin, qualifiers });
        } else {
            let mut data_type = data_type.ok_or_else(|| self.expected("( after the name of a void method"))?;
            data_type.is_array = self.array_mark()?;
            let default = if self.eat('=')? { self.default_value(&data_type)? } else { None };
            let is_key = qualifiers.flag("Key");
            class.properties.push(Property { name, data_type, is_key, default, origin, qualifiers });
        }
        self.expect(';')
    }

    fn parameters(&mut self) -> Result<Vec<Parameter>, MofError> {
        let mut parameters = Vec::new();
        if self.eat(')')? {
            return Ok(parameters);
        }
        loop {
            let qualifiers = self.qualifiers(0)?;
            let mut data_type = self.data_type(&qualifiers)?;
            let name = self.name("the name of a parameter")?.to_owned();
            data_type.is_array = self.array_mark()?;
            // DSP0004: a parameter is an input unless it says otherwise.
            let is_in = qualifiers.get("In").and_then(Value::as_bool).unwrap_or(true);
            let is_out = qualifiers.flag("Out");
            parameters.push(Parameter { name, data_type, is_in, is_out, qualifiers });
            if self.eat(')')? {
                return Ok(parameters);
            }
            self.expect(',')?;
        }
    }

    /// A type: one of CIM's, or a class and `REF`.
    fn data_type(&mut self, qualifiers: &Qualifiers) -> Result<DataType, MofError> {
        let name = self.name("a type")?;
        if self.is_keyword("ref") {
            self.advance()?;
            return Ok(DataType { reference_class: Some(name.to_owned()), ..DataType::scalar(CimType::Reference) });
        }
        let Some(cim_type) = CimType::from_name(name) else {
            return Err(self.expected("REF after a class name"));
        };
        let any_class = || qualifiers.flag("EmbeddedObject").then(String::new);
        let embedded_class = qualifiers.text("EmbeddedInstance").map(str::to_owned).or_else(any_class);
        Ok(DataType { embedded_class, ..DataType::scalar(cim_type) })
    }

    /// `[]`, or `[n]`, whose size has no meaning to us.
    fn array_mark(&mut self) -> Result<bool, MofError> {
        if !self.eat('[')? {
            return Ok(false);
        }
        if matches!(self.token, Token::Number(_)) {
            self.advance()?;
        }
        self.expect(']')?;
        Ok(true)
    }

    fn default_value(&mut self, data_type: &DataType) -> Result<Option<Value>, MofError> {
        let literal = self.literal(0)?;
        let scalar = |literal: Literal| match literal {
            Literal::Boolean(b) => Value::parse(data_type.cim_type, if b { "true" } else { "false" }).ok(),
            Literal::Number(text) | Literal::Text(text) => Value::parse(data_type.cim_type, &text).ok(),
            Literal::Null | Literal::Instance(_) | Literal::Array(_) => None,
        };
        let value = match literal {
            Literal::Null => return Ok(None),
            Literal::Array(elements) if data_type.is_array => {
                elements.into_iter().map(scalar).collect::<Option<Vec<Value>>>().map(Value::Array)
            }
            literal if !data_type.is_array => scalar(literal),
            _ => None,
        };
        value.map(Some).ok_or_else(|| self.lexer.wrong(format!("the value before this is not of type {data_type}")))
    }

    /// `depth` counts the instances around them.
    fn qualifiers(&mut self, depth: usize) -> Result<Qualifiers, MofError> {
        let mut qualifiers = Qualifiers::default();
        if !self.eat('[')? {
            return Ok(qualifiers);
        }
        loop {
            let name = self.name("a qualifier")?.to_owned();
            let value = match self.token {
                Token::Symbol('(') => {
                    self.advance()?;
                    let literal = self.literal(depth)?;
                    self.expect(')')?;
                    literal
                }
                Token::Symbol('{') => self.literal(depth)?,
                _ => Literal::Boolean(true),
            };
            // A qualifier that is NULL says nothing.
            if let Some(value) = self.qualifier_value(value)? {
                qualifiers.0.push(Qualifier { name, value });
            }
            if self.eat(':')? {
                while matches!(self.token, Token::Name(_)) {
                    self.advance()?;
                }
            }
            if self.eat(']')? {
                return Ok(qualifiers);
            }
            self.expect(',')?;
        }
    }

    fn qualifier_value(&self, literal: Literal) -> Result<Option<Value>, MofError> {
        Ok(Some(match literal {
            Literal::Null => return Ok(None),
            Literal::Boolean(b) => Value::Bool(b),
            Literal::Text(text) => Value::String(text),
            Literal::Number(text) => [CimType::SInt64, CimType::UInt64, CimType::Real64]
                .into_iter()
                .find_map(|cim_type| Value::parse(cim_type, &text).ok())
                .ok_or_else(|| self.lexer.wrong(format!("{text} before this is not a number")))?,
            Literal::Array(elements) => {
                let values = elements.into_iter().map(|element| self.qualifier_value(element));
                Value::Array(values.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
            }
            Literal::Instance(_) => return Err(self.lexer.wrong("a qualifier cannot hold an instance")),
        }))
    }

    fn instance(&mut self, depth: usize) -> Result<EmbeddedInstance, MofError> {
        if depth >= limit::EMBEDDED_DEPTH {
            return Err(self.lexer.wrong(format!("instances are nested deeper than {}", limit::EMBEDDED_DEPTH)));
        }
        self.qualifiers(depth)?;
        self.keyword("instance")?;
        self.keyword("of")?;
        let class = self.name("a class name")?.to_owned();
        let mut properties = Vec::new();
        self.expect('{')?;
        while !self.eat('}')? {
            self.qualifiers(depth)?;
            let name = self.name("the name of a property")?.to_owned();
            self.expect('=')?;
            let literals = match self.literal(depth)? {
                Literal::Array(elements) => elements,
                scalar => vec![scalar],
            };
            properties.extend(literals.into_iter().map(|literal| (name.clone(), argument(literal))));
            self.expect(';')?;
        }
        Ok(EmbeddedInstance { class, properties })
    }

    /// A value; `depth` counts the instances around it.
    fn literal(&mut self, depth: usize) -> Result<Literal, MofError> {
        if !self.eat('{')? {
            return self.scalar_literal(depth);
        }
        let mut elements = Vec::new();
        if self.eat('}')? {
            return Ok(Literal::Array(elements));
        }
        loop {
            elements.push(self.scalar_literal(depth)?);
            if elements.len() > limit::ARRAY_ELEMENTS {
                return Err(self.lexer.wrong(format!("an array has more than {} elements", limit::ARRAY_ELEMENTS)));
            }
            if self.eat('}')? {
                return Ok(Literal::Array(elements));
            }
            self.expect(',')?;
        }
    }

    fn scalar_literal(&mut self, depth: usize) -> Result<Literal, MofError> {
        let literal = match &self.token {
            Token::Number(text) => Literal::Number((*text).to_owned()),
            Token::Char(c) => Literal::Text(c.to_string()),
            Token::Text(_) => return self.joined_text().map(Literal::Text),
            Token::Name(_) if self.is_keyword("instance") => return self.instance(depth + 1).map(Literal::Instance),
            Token::Name(name) if name.eq_ignore_ascii_case("true") => Literal::Boolean(true),
            Token::Name(name) if name.eq_ignore_ascii_case("false") => Literal::Boolean(false),
            Token::Name(name) if name.eq_ignore_ascii_case("null") => Literal::Null,
            _ => return Err(self.expected("a value")),
        };
        self.advance()?;
        Ok(literal)
    }

    /// Texts that stand side by side are one.
    fn joined_text(&mut self) -> Result<String, MofError> {
        let mut joined = String::new();
        while let Token::Text(text) = &self.token {
            joined.push_str(text);
            self.advance()?;
        }
        Ok(joined)
    }

    fn advance(&mut self) -> Result<Token<'a>, MofError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn eat(&mut self, symbol: char) -> Result<bool, MofError> {
        let found = self.token == Token::Symbol(symbol);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect(&mut self, symbol: char) -> Result<(), MofError> {
        if self.eat(symbol)? { Ok(()) } else { Err(self.expected(&format!("{symbol:?}"))) }
    }

    fn is_keyword(&self, keyword: &str) -> bool {
        matches!(self.token, Token::Name(name) if name.eq_ignore_ascii_case(keyword))
    }

    fn keyword(&mut self, keyword: &str) -> Result<(), MofError> {
        if !self.is_keyword(keyword) {
            return Err(self.expected(keyword));
        }
        self.advance().map(|_| ())
    }

    fn name(&mut self, what: &str) -> Result<&'a str, MofError> {
        match self.token {
            Token::Name(name) => self.advance().map(|_| name),
            _ => Err(self.expected(what)),
        }
    }

    fn expected(&self, what: &str) -> MofError {
        let found = match &self.token {
            Token::Name(text) | Token::Number(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
            Token::Text(_) => "a text".to_owned(),
            Token::Char(_) => "a character".to_owned(),
            Token::Symbol(symbol) => format!("{symbol:?}"),
            Token::End => "the end of the text".to_owned(),
        };
        self.lexer.wrong(format!("expected {what}, found {found}"))
    }
}

fn argument(literal: Literal) -> Argument {
    match literal {
        Literal::Boolean(b) => Argument::Text(b.to_string()),
        Literal::Number(text) | Literal::Text(text) => Argument::Text(text),
        Literal::Instance(instance) => Argument::Instance(instance),
        // Arrays do not stand in arrays, and the caller has taken the outer one apart.
        Literal::Null | Literal::Array(_) => Argument::Null,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::mof::print_class;

    fn check_classes(text: &str, expected: Expect) {
        let shown = match parse_classes(text) {
            Ok(classes) => {
                let printed: String = classes.iter().map(print_class).collect();
                assert_eq!(parse_classes(&printed), Ok(classes), "printed classes read back:\n{printed}");
                printed
            }
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&shown);
    }

    fn check_instance(text: &str, expected: Expect) {
        let shown = match parse_instance(text) {
            Ok(instance) => {
                let properties = instance.properties.iter().map(|(name, value)| format!("{name}: {value:?}\n"));
                format!("{}\n{}", instance.class, properties.collect::<String>())
            }
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn classes_are_read() {
        check_classes(
            r#"#pragma locale ("en")
            // A comment.
            [Abstract, Description("one " /* between */ "two"), Version("2.0") : ToSubclass Restricted]
            class CIM_Base {
                [key, MaxLen(256)] string InstanceID;
                [ValueMap{"0", "1"}, Values{"Off", "On"}] UINT16 State[] = {0, 0x1};
                boolean Flag = TRUE;
                datetime When = NULL;
                [EmbeddedInstance("CIM_Other")] string Settings;
            };
            class Derived : CIM_Base {
                CIM_Base ref Other;
                uint32 Change([In] string Name, [In(false), Out] CIM_Base REF Results[], [Out] uint8 Both[3]);
                void Stop();
            };"#,
            expect![[r#"
                [Abstract, Description("one two"), Version("2.0")]
                class CIM_Base {
                    [key, MaxLen(256)]
                    string InstanceID;
                    [ValueMap {"0", "1"}, Values {"Off", "On"}]
                    uint16 State[] = {0, 1};
                    boolean Flag = TRUE;
                    datetime When;
                    [EmbeddedInstance("CIM_Other")]
                    string Settings;
                };
                class Derived : CIM_Base {
                    CIM_Base REF Other;
                    uint32 Change(
                        [In]
                        string Name,
                        [In(FALSE), Out]
                        CIM_Base REF Results[],
                        [Out]
                        uint8 Both[]);
                    void Stop();
                };
            "#]],
        );
        check_classes("", expect![]);
    }

    #[test]
    fn errors_have_positions() {
        check_classes("class {", expect!["MOF line 1, column 7: expected a class name, found '{'"]);
        check_classes(
            "class A {\n  striing B;\n};",
            expect![[r#"MOF line 2, column 11: expected REF after a class name, found "B""#]],
        );
        check_classes(
            "class A {\n  uint8 é = 256;\n};",
            expect!["MOF line 2, column 16: the value before this is not of type uint8"],
        );
        check_classes("class A { A ref B(); };", expect!["MOF line 1, column 18: expected ';', found '('"]);
        check_classes("class A { string B }", expect!["MOF line 1, column 20: expected ';', found '}'"]);
        check_classes(
            "class A { string B = \"x\ny\"; };",
            expect!["MOF line 1, column 22: the text does not end on its line"],
        );
        check_classes(
            "class A { string B = \"\\q\"; };",
            expect![[r#"MOF line 1, column 22: a backslash in a text needs one of b t n f r x " ' \ after it"#]],
        );
        check_classes("/* class A {};", expect!["MOF line 1, column 1: the comment does not end"]);
        check_classes("class A { uint32 M(string X; };", expect!["MOF line 1, column 28: expected ',', found ';'"]);
        check_classes(
            "class A { void B; };",
            expect!["MOF line 1, column 17: expected ( after the name of a void method, found ';'"],
        );
        check_classes("instance of A {};", expect![[r#"MOF line 1, column 1: expected class, found "instance""#]]);
    }

    #[test]
    fn instances_are_read() {
        check_instance(
            r#"instance of A { N = 5; T = "a\\b\"\x41\n"; B = TRUE; L = {"x", "y"}; E = {}; Z = NULL;
               I = instance of B { K = 'c'; }; };"#,
            expect![[r#"
                A
                N: Text("5")
                T: Text("a\\b\"A\n")
                B: Text("true")
                L: Text("x")
                L: Text("y")
                Z: Null
                I: Instance(EmbeddedInstance { class: "B", properties: [("K", Text("c"))] })
            "#]],
        );
        check_instance("instance of A { N = 5 };", expect!["MOF line 1, column 23: expected ';', found '}'"]);
        check_instance("instance of A { N = {{5}}; };", expect!["MOF line 1, column 22: expected a value, found '{'"]);
        check_instance(
            "instance of A {}; x",
            expect![[r#"MOF line 1, column 19: expected the end of the text, found "x""#]],
        );
        check_instance(
            &"instance of A { N = ".repeat(20),
            expect!["MOF line 1, column 161: instances are nested deeper than 8"],
        );
        // In a qualifier an instance is wrong at any depth, which must not be found out on the way back from all of them.
        check_instance(
            &"instance of A {[Q(".repeat(10_000),
            expect!["MOF line 1, column 145: instances are nested deeper than 8"],
        );
        check_classes(
            &format!("[Q({}", "instance of A {[Q{".repeat(10_000)),
            expect!["MOF line 1, column 130: instances are nested deeper than 8"],
        );
    }
}
