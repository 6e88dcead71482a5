//! From tokens to queries.

use super::ast::{Associators, Comparison, Expression, Literal, Operand, Projection, Query, References, Select};
use super::lexer::{Lexer, Token};
use crate::path::PathError;
use crate::{CimType, Error, ObjectPath, Value, case, limit};

/// A text that is not a query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WqlError {
    /// More bytes than [`limit::WQL_BYTES`].
    #[error("the query is longer than {} bytes", limit::WQL_BYTES)]
    TooLong,
    /// Nested deeper than [`limit::WQL_DEPTH`].
    #[error("the query is nested deeper than {} levels", limit::WQL_DEPTH)]
    TooDeep,
    /// More comparisons than [`limit::WQL_TERMS`], or more names than [`limit::WQL_PROJECTION`].
    #[error("the query has too many terms")]
    TooManyTerms,
    /// Not a sentence of WQL.
    #[error("the query is wrong at byte {at}: expected {expected}")]
    Syntax {
        /// Offset in bytes.
        at: usize,
        /// What should have been there.
        expected: &'static str,
    },
    /// The path between the braces cannot be read.
    #[error("the source of the query cannot be used: {0}")]
    Source(PathError),
}

impl From<WqlError> for Error {
    fn from(error: WqlError) -> Self {
        Self::invalid_query(error.to_string())
    }
}

/// Reads a query.
///
/// # Errors
/// If the text is none, or exceeds a bound of [`crate::limit`].
pub fn parse(text: &str) -> Result<Query, WqlError> {
    if text.len() > limit::WQL_BYTES {
        return Err(WqlError::TooLong);
    }
    let mut lexer = Lexer::new(text);
    let (at, token) = lexer.next()?;
    let mut parser = Parser { lexer, at, token, terms: 0 };
    let query = if parser.eat_word("select")? {
        Query::Select(parser.select()?)
    } else if parser.eat_word("associators")? {
        parser.association_query(true)?
    } else if parser.eat_word("references")? {
        parser.association_query(false)?
    } else {
        return Err(parser.wrong("SELECT, ASSOCIATORS OF or REFERENCES OF"));
    };
    match parser.token {
        Token::End => Ok(query),
        _ => Err(parser.wrong("the end of the query")),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// Where the token begins that is read next.
    at: usize,
    token: Token<'a>,
    terms: usize,
}

/// Words that cannot be names.
const RESERVED: [&str; 10] = ["select", "from", "where", "within", "and", "or", "not", "like", "is", "isa"];

impl<'a> Parser<'a> {
    fn select(&mut self) -> Result<Select, WqlError> {
        let projection = self.projection()?;
        self.word("from", "FROM")?;
        let class = self.name("a class name after FROM")?.to_owned();
        let within_seconds = if self.eat_word("within")? { Some(self.seconds()?) } else { None };
        let condition = if self.eat_word("where")? { Some(self.disjunction(0)?) } else { None };
        Ok(Select { projection, class, within_seconds, condition })
    }

    fn projection(&mut self) -> Result<Projection, WqlError> {
        if self.eat_symbol("*")? {
            return Ok(Projection::All);
        }
        let mut names = Vec::new();
        loop {
            names.push(self.name("* or the name of a property")?.to_owned());
            if names.len() > limit::WQL_PROJECTION {
                return Err(WqlError::TooManyTerms);
            }
            if !self.eat_symbol(",")? {
                return Ok(Projection::Names(names));
            }
        }
    }

    fn seconds(&mut self) -> Result<f64, WqlError> {
        let seconds = match self.token {
            Token::Number(text) => text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0),
            _ => None,
        };
        let seconds = seconds.ok_or_else(|| self.wrong("a number of seconds after WITHIN"))?;
        self.advance()?;
        Ok(seconds)
    }

    fn disjunction(&mut self, depth: usize) -> Result<Expression, WqlError> {
        let mut parts = vec![self.conjunction(depth)?];
        while self.eat_word("or")? {
            parts.push(self.conjunction(depth)?);
        }
        Ok(only(&mut parts).unwrap_or(Expression::Or(parts)))
    }

    fn conjunction(&mut self, depth: usize) -> Result<Expression, WqlError> {
        let mut parts = vec![self.factor(depth)?];
        while self.eat_word("and")? {
            parts.push(self.factor(depth)?);
        }
        Ok(only(&mut parts).unwrap_or(Expression::And(parts)))
    }

    fn factor(&mut self, depth: usize) -> Result<Expression, WqlError> {
        if depth >= limit::WQL_DEPTH {
            return Err(WqlError::TooDeep);
        }
        if self.eat_word("not")? {
            return Ok(Expression::Not(Box::new(self.factor(depth + 1)?)));
        }
        if self.eat_symbol("(")? {
            let inner = self.disjunction(depth + 1)?;
            if !self.eat_symbol(")")? {
                return Err(self.wrong("a closing parenthesis"));
            }
            return Ok(inner);
        }
        self.terms += 1;
        if self.terms > limit::WQL_TERMS {
            return Err(WqlError::TooManyTerms);
        }
        self.term()
    }

    fn term(&mut self) -> Result<Expression, WqlError> {
        let left = self.operand()?;
        if let Operand::Name(name) = &left
            && let Some(test) = self.named_test(name)?
        {
            return Ok(test);
        }
        let comparison = self.comparison()?;
        let right = self.operand()?;
        Ok(match (left, comparison, right) {
            (Operand::Name(name), Comparison::Equal, Operand::Literal(Literal::Null)) => Expression::IsNull { name },
            (Operand::Name(name), Comparison::NotEqual, Operand::Literal(Literal::Null)) => {
                Expression::Not(Box::new(Expression::IsNull { name }))
            }
            (left, comparison, right) => Expression::Compare { left, comparison, right },
        })
    }

    /// What only a name can stand in front of: IS NULL, LIKE, ISA.
    fn named_test(&mut self, name: &str) -> Result<Option<Expression>, WqlError> {
        let name = name.to_owned();
        if self.eat_word("is")? {
            let negated = self.eat_word("not")?;
            self.word("null", "NULL")?;
            return Ok(Some(negate_if(negated, Expression::IsNull { name })));
        }
        let negated = self.eat_word("not")?;
        if self.eat_word("like")? {
            let pattern = self.text("a pattern in quotes after LIKE")?;
            return Ok(Some(negate_if(negated, Expression::Like { name, pattern })));
        }
        if negated {
            return Err(self.wrong("LIKE after NOT"));
        }
        if self.eat_word("isa")? {
            let class = match self.token {
                Token::Word(class) => self.advance().map(|()| class.to_owned())?,
                _ => self.text("a class name after ISA")?,
            };
            return Ok(Some(Expression::Isa { name, class }));
        }
        Ok(None)
    }

    fn operand(&mut self) -> Result<Operand, WqlError> {
        const EXPECTED: &str = "a property or a literal";
        let literal = match &mut self.token {
            Token::Text(text) => Literal::String(std::mem::take(text)),
            Token::Number(text) => {
                match Value::parse(CimType::UInt64, text).or_else(|_| Value::parse(CimType::SInt64, text)) {
                    Ok(integer) => Literal::Integer(integer.as_integer().unwrap_or_default()),
                    Err(_) => Literal::Real(text.parse().map_err(|_| self.wrong(EXPECTED))?),
                }
            }
            Token::Word(word) if case::eq(word, "true") => Literal::Boolean(true),
            Token::Word(word) if case::eq(word, "false") => Literal::Boolean(false),
            Token::Word(word) if case::eq(word, "null") => Literal::Null,
            _ => return Ok(Operand::Name(self.name(EXPECTED)?.to_owned())),
        };
        self.advance()?;
        Ok(Operand::Literal(literal))
    }

    fn comparison(&mut self) -> Result<Comparison, WqlError> {
        let comparison = match self.token {
            Token::Symbol("=") => Comparison::Equal,
            Token::Symbol("!=" | "<>") => Comparison::NotEqual,
            Token::Symbol("<") => Comparison::Less,
            Token::Symbol("<=") => Comparison::LessOrEqual,
            Token::Symbol(">") => Comparison::Greater,
            Token::Symbol(">=") => Comparison::GreaterOrEqual,
            _ => return Err(self.wrong("an operator")),
        };
        self.advance()?;
        Ok(comparison)
    }

    /// What follows ASSOCIATORS or REFERENCES. The clauses stand side by side in any order, without AND between them.
    fn association_query(&mut self, associators: bool) -> Result<Query, WqlError> {
        self.word("of", "OF")?;
        let Token::Braced(path) = self.token else { return Err(self.wrong("an object path in braces")) };
        let source = ObjectPath::parse(path).map_err(WqlError::Source)?;
        self.advance()?;
        let mut clauses = Clauses::default();
        if self.eat_word("where")? {
            while self.token != Token::End {
                self.clause(associators, &mut clauses)?;
            }
        }
        let Clauses { association_class, result_class, role, result_role, keys_only, class_definitions_only } = clauses;
        Ok(if associators {
            let query = Associators {
                source,
                association_class,
                result_class,
                role,
                result_role,
                keys_only,
                class_definitions_only,
            };
            Query::Associators(query)
        } else {
            Query::References(References { source, result_class, role, keys_only, class_definitions_only })
        })
    }

    fn clause(&mut self, associators: bool, clauses: &mut Clauses) -> Result<(), WqlError> {
        const EXPECTED: &str = "AssocClass, ResultClass, Role, ResultRole, KeysOnly or ClassDefsOnly";
        if self.eat_word("keysonly")? {
            clauses.keys_only = true;
        } else if self.eat_word("classdefsonly")? {
            clauses.class_definitions_only = true;
        } else {
            let slot = match self.token {
                Token::Word(word) if case::eq(word, "resultclass") => &mut clauses.result_class,
                Token::Word(word) if case::eq(word, "role") => &mut clauses.role,
                Token::Word(word) if associators && case::eq(word, "assocclass") => &mut clauses.association_class,
                Token::Word(word) if associators && case::eq(word, "resultrole") => &mut clauses.result_role,
                _ => return Err(self.wrong(EXPECTED)),
            };
            self.advance()?;
            if !self.eat_symbol("=")? {
                return Err(self.wrong("= in the clause"));
            }
            *slot = Some(match self.token {
                Token::Word(name) => self.advance().map(|()| name.to_owned())?,
                _ => self.text("a name after =")?,
            });
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<(), WqlError> {
        (self.at, self.token) = self.lexer.next()?;
        Ok(())
    }

    fn wrong(&self, expected: &'static str) -> WqlError {
        WqlError::Syntax { at: self.at, expected }
    }

    fn eat_word(&mut self, word: &str) -> Result<bool, WqlError> {
        let found = matches!(self.token, Token::Word(w) if case::eq(w, word));
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn word(&mut self, word: &str, expected: &'static str) -> Result<(), WqlError> {
        if self.eat_word(word)? { Ok(()) } else { Err(self.wrong(expected)) }
    }

    fn eat_symbol(&mut self, symbol: &str) -> Result<bool, WqlError> {
        let found = self.token == Token::Symbol(symbol);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn name(&mut self, expected: &'static str) -> Result<&'a str, WqlError> {
        match self.token {
            Token::Word(word) if !RESERVED.iter().any(|reserved| case::eq(reserved, word)) => {
                self.advance()?;
                Ok(word)
            }
            _ => Err(self.wrong(expected)),
        }
    }

    fn text(&mut self, expected: &'static str) -> Result<String, WqlError> {
        let Token::Text(text) = &mut self.token else { return Err(self.wrong(expected)) };
        let text = std::mem::take(text);
        self.advance()?;
        Ok(text)
    }
}

#[derive(Default)]
struct Clauses {
    association_class: Option<String>,
    result_class: Option<String>,
    role: Option<String>,
    result_role: Option<String>,
    keys_only: bool,
    class_definitions_only: bool,
}

/// The only part, taken out; `None` if there are several.
fn only(parts: &mut Vec<Expression>) -> Option<Expression> {
    if parts.len() == 1 { parts.pop() } else { None }
}

fn negate_if(negated: bool, expression: Expression) -> Expression {
    if negated { Expression::Not(Box::new(expression)) } else { expression }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// Shows a condition in prefix form.
    fn show(expression: &Expression) -> String {
        let all = |parts: &[Expression]| parts.iter().map(show).collect::<Vec<_>>().join(" ");
        let operand = |operand: &Operand| match operand {
            Operand::Name(name) => name.clone(),
            Operand::Literal(literal) => format!("{literal:?}"),
        };
        match expression {
            Expression::And(parts) => format!("(and {})", all(parts)),
            Expression::Or(parts) => format!("(or {})", all(parts)),
            Expression::Not(inner) => format!("(not {})", show(inner)),
            Expression::Compare { left, comparison, right } => {
                format!("({comparison:?} {} {})", operand(left), operand(right))
            }
            other => format!("{other:?}"),
        }
    }

    fn check(text: &str, expected: Expect) {
        let shown = match parse(text) {
            Ok(Query::Select(select)) => {
                let condition = select.condition.as_ref().map_or("everything".to_owned(), show);
                let within = select.within_seconds.map_or(String::new(), |seconds| format!(" within {seconds}"));
                format!("{:?} from {}{within}: {condition}", select.projection, select.class)
            }
            Ok(Query::Associators(q)) => {
                let through =
                    [q.association_class, q.result_class, q.role, q.result_role].map(Option::unwrap_or_default);
                format!(
                    "associators of {} {through:?} keys {} classes {}",
                    q.source, q.keys_only, q.class_definitions_only
                )
            }
            Ok(Query::References(q)) => {
                let through = [q.result_class, q.role].map(Option::unwrap_or_default);
                format!(
                    "references of {} {through:?} keys {} classes {}",
                    q.source, q.keys_only, q.class_definitions_only
                )
            }
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&shown);
    }

    /// Holds: WIRE-G1-1, WIRE-G2-1, WIRE-G2-2
    #[test]
    fn selections() {
        check("select * from Msvm_ComputerSystem", expect!["All from Msvm_ComputerSystem: everything"]);
        check(" SELECT a , b,c FROM X  ", expect![[r#"Names(["a", "b", "c"]) from X: everything"#]]);
        check(
            "select * from X where Name='it\\'s' and (a <> 5 or not b>=0x1F) AND c != TRUE",
            expect![[
                r#"All from X: (and (Equal Name String("it's")) (or (NotEqual a Integer(5)) (not (GreaterOrEqual b Integer(31)))) (NotEqual c Boolean(true)))"#
            ]],
        );
        check(
            r#"select * from X where D = "Microsoft:A\B\\C" "#,
            expect![[r#"All from X: (Equal D String("Microsoft:A\\B\\C"))"#]],
        );
        check(
            "select * from X where a like 'b%' or a is not null or a not like \"c\" or a = null",
            expect![[
                r#"All from X: (or Like { name: "a", pattern: "b%" } (not IsNull { name: "a" }) (not Like { name: "a", pattern: "c" }) IsNull { name: "a" })"#
            ]],
        );
        check(
            "select * from X where Description = 'x' and Name != __SERVER",
            expect![[r#"All from X: (and (Equal Description String("x")) (NotEqual Name __SERVER))"#]],
        );
        check(
            "select * from X where 5 < a and a < -1.5e-3",
            expect!["All from X: (and (Less Integer(5) a) (Less a Real(-0.0015)))"],
        );
        check(
            "select * from X where a=1 or b=2 and c=3 or not not d=4",
            expect![
                "All from X: (or (Equal a Integer(1)) (and (Equal b Integer(2)) (Equal c Integer(3))) (not (not (Equal d Integer(4)))))"
            ],
        );
        check(
            "SELECT * FROM __InstanceModificationEvent WITHIN 2.5 WHERE TargetInstance ISA 'Msvm_ConcreteJob' AND TargetInstance.JobState=7",
            expect![[
                r#"All from __InstanceModificationEvent within 2.5: (and Isa { name: "TargetInstance", class: "Msvm_ConcreteJob" } (Equal TargetInstance.JobState Integer(7)))"#
            ]],
        );
    }

    /// Holds: WIRE-G7-1
    #[test]
    fn association_queries() {
        check(
            r#"associators of {Msvm_ComputerSystem.Name="a}b\\c",CreationClassName='Msvm_ComputerSystem'} where AssocClass = A resultClass=B Role=c RESULTROLE = d KeysOnly"#,
            expect![[
                r#"associators of Msvm_ComputerSystem.Name="a}b\\c",CreationClassName="Msvm_ComputerSystem" ["A", "B", "c", "d"] keys true classes false"#
            ]],
        );
        check(
            r#"REFERENCES OF {\\H\root\v2:A.K='1'} WHERE ResultClass = B"#,
            expect![[r#"references of \\H\root\v2:A.K="1" ["B", ""] keys false classes false"#]],
        );
        check("associators of {A=@}", expect![[r#"associators of A=@ ["", "", "", ""] keys false classes false"#]]);
        check(
            "associators of {A.K='1'} where",
            expect![[r#"associators of A.K="1" ["", "", "", ""] keys false classes false"#]],
        );
    }

    #[test]
    fn other_texts_are_refused() {
        check("", expect!["the query is wrong at byte 0: expected SELECT, ASSOCIATORS OF or REFERENCES OF"]);
        check(
            "drop table x",
            expect!["the query is wrong at byte 0: expected SELECT, ASSOCIATORS OF or REFERENCES OF"],
        );
        check("select from X", expect!["the query is wrong at byte 7: expected * or the name of a property"]);
        check("select * X", expect!["the query is wrong at byte 9: expected FROM"]);
        check("select * from X where", expect!["the query is wrong at byte 21: expected a property or a literal"]);
        check("select * from X where a", expect!["the query is wrong at byte 23: expected an operator"]);
        check("select * from X where a = ", expect!["the query is wrong at byte 26: expected a property or a literal"]);
        check("select * from X where a = 'b", expect!["the query is wrong at byte 26: expected a closing quote"]);
        check("select * from X where (a = 1", expect!["the query is wrong at byte 28: expected a closing parenthesis"]);
        check("select * from X where a = 1 b", expect!["the query is wrong at byte 28: expected the end of the query"]);
        check(
            "select * from X where a = 12x",
            expect!["the query is wrong at byte 26: expected a property or a literal"],
        );
        check(
            "select * from X where a ~ 1",
            expect!["the query is wrong at byte 24: expected a word, a literal or an operator"],
        );
        check(
            "select * from X within -1",
            expect!["the query is wrong at byte 23: expected a number of seconds after WITHIN"],
        );
        check("associators of Msvm_X", expect!["the query is wrong at byte 15: expected an object path in braces"]);
        check(
            "associators of {Msvm_X.}",
            expect!["the source of the query cannot be used: the object path is wrong at byte 7: expected a key name"],
        );
        check("associators of {A.K=1", expect!["the query is wrong at byte 15: expected a closing brace"]);
        check(
            "references of {A.K=1} where AssocClass = B",
            expect![
                "the query is wrong at byte 28: expected AssocClass, ResultClass, Role, ResultRole, KeysOnly or ClassDefsOnly"
            ],
        );
        check(
            "select é from X where ü = '😀' nonsense",
            expect!["the query is wrong at byte 35: expected the end of the query"],
        );
    }

    #[test]
    fn queries_are_bounded() {
        check(
            &format!("select * from X where {}a=1", "(".repeat(40)),
            expect!["the query is nested deeper than 32 levels"],
        );
        check(
            &format!("select * from X where {}a=1", "not ".repeat(40)),
            expect!["the query is nested deeper than 32 levels"],
        );
        check(
            &format!("select * from X where a=1{}", " or a=1".repeat(2_000)),
            expect!["the query has too many terms"],
        );
        check(&format!("select a{} from X", ",a".repeat(600)), expect!["the query has too many terms"]);
        check(&" ".repeat(70_000), expect!["the query is longer than 65536 bytes"]);
    }
}
