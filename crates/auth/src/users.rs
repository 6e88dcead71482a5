//! The users file: who may do what, and how each proves who it is.
//!
//! ```text
//! snapvisor-users 1
//! # A comment.
//! user alice administer password=$argon2id$… nt=00112233445566778899aabbccddeeff
//! user bob read password=$argon2id$… disabled
//! kerberos alice@EXAMPLE.ORG operate
//! ```
//! One line for each user and each Kerberos principal; what stands in comments stays. `nt` is there only for users who may
//! use NTLM: it is worth as much as the password to whoever reads it, so the file must not be readable by others.
//! Names of users are compared without regard to case, as Windows does; principals are compared exactly.

use std::collections::BTreeMap;
use std::fmt;

use crate::secret::{NtHash, Password, Phc, SecretError, pretend_to_verify};

/// First line of the file: what it is, and the version of its form.
const HEAD: &str = "snapvisor-users 1";
/// Users and principals: more than any team has, and few enough to read the file whenever it changes.
pub const ENTRIES_MAX: usize = 10_000;
/// Longest file, in bytes: as many lines as there may be entries, of usual length, and comments.
pub const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest name of a user, in bytes. Windows allows 20 characters for local users, mail addresses 64.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest Kerberos principal, in bytes.
pub const PRINCIPAL_BYTES_MAX: usize = 256;

/// What somebody may do. Each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look at machines, snapshots and jobs.
    Read,
    /// Take, apply and delete snapshots; start and stop machines.
    Operate,
    /// Define and delete machines, and everything else.
    Administer,
}

impl Role {
    const ALL: [Self; 3] = [Self::Read, Self::Operate, Self::Administer];

    /// The word of the file and of the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Administer => "administer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Role {
    type Err = UsersError;

    fn from_str(text: &str) -> Result<Self, UsersError> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| UsersError::Role(text.to_owned()))
    }
}

/// Somebody who logs in with a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name, as it was given.
    pub name: String,
    /// What he may do.
    pub role: Role,
    /// For Basic.
    pub password: Phc,
    /// For NTLM, if he may use it.
    pub nt_hash: Option<NtHash>,
    /// Whether he is kept out for now.
    pub disabled: bool,
}

/// Why the users file cannot be read or changed so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsersError {
    /// Another file, or of a later version.
    #[error("this is not a users file that we can read: its first line is not `{HEAD}`")]
    Head,
    /// Too long.
    #[error("the users file has more than {FILE_BYTES_MAX} bytes or {ENTRIES_MAX} entries")]
    TooLong,
    /// A line that makes no sense.
    #[error("line {line} of the users file is wrong: {error}")]
    Line {
        /// Counted from one.
        line: usize,
        /// What is wrong with it.
        error: Box<UsersError>,
    },
    /// Not `user` or `kerberos`, or a field is missing or unknown.
    #[error("expected `user NAME ROLE password=HASH [nt=HASH] [disabled]` or `kerberos NAME@REALM ROLE`")]
    Form,
    /// A name that cannot be one.
    #[error("{0:?} cannot be a user name: use letters, digits, `.`, `_` and `-`, at most {NAME_BYTES_MAX} bytes")]
    Name(String),
    /// A principal that cannot be one.
    #[error("{0:?} is not a Kerberos principal: write name@REALM, at most {PRINCIPAL_BYTES_MAX} bytes")]
    Principal(String),
    /// There is one already.
    #[error("{0} is there already")]
    Exists(String),
    /// There is none.
    #[error("there is no user or principal {0}")]
    Missing(String),
    /// It is a principal, which has no password and cannot be disabled.
    #[error("{0} is a Kerberos principal and has a role only: remove it to keep it out")]
    RoleOnly(String),
    /// Not a role.
    #[error("{0:?} is not a role: use read, operate or administer")]
    Role(String),
    /// A secret that cannot be one.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// The file's content.
#[derive(Clone, Debug, Default)]
pub struct Users {
    lines: Vec<Line>,
    /// Position in `lines` by [`fold`]ed name.
    users: BTreeMap<String, usize>,
    /// Position in `lines` by principal.
    principals: BTreeMap<String, usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    User(User),
    Kerberos { principal: String, role: Role },
    Comment(String),
}

impl Users {
    /// Reads the file.
    ///
    /// # Errors
    /// When a line makes no sense; nothing is passed over, because a typing error must not let anybody in or keep
    /// anybody out unnoticed.
    pub fn parse(text: &str) -> Result<Self, UsersError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(UsersError::TooLong);
        }
        let mut lines = text.lines();
        if lines.next().map(str::trim_end) != Some(HEAD) {
            return Err(UsersError::Head);
        }
        let mut users = Self::default();
        for (index, line) in lines.enumerate() {
            let added = parse_line(line).and_then(|line| users.push(line));
            added.map_err(|error| UsersError::Line { line: index + 2, error: Box::new(error) })?;
        }
        Ok(users)
    }

    /// The user of this name, in any case.
    pub fn find(&self, name: &str) -> Option<&User> {
        match self.lines.get(*self.users.get(&fold(name))?)? {
            Line::User(user) => Some(user),
            _ => None,
        }
    }

    /// All users, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.lines.iter().filter_map(|line| if let Line::User(user) = line { Some(user) } else { None })
    }

    /// All Kerberos principals and their roles, in the file's order.
    pub fn principals(&self) -> impl Iterator<Item = (&str, Role)> {
        self.lines.iter().filter_map(|line| match line {
            Line::Kerberos { principal, role } => Some((principal.as_str(), *role)),
            _ => None,
        })
    }

    /// What a Kerberos principal may do.
    pub fn role_of_principal(&self, principal: &str) -> Option<Role> {
        match self.lines.get(*self.principals.get(principal)?)? {
            Line::Kerberos { role, .. } => Some(*role),
            _ => None,
        }
    }

    /// The user who has this password and is not disabled. Takes the same time whether there is such a user or not.
    pub fn verify(&self, name: &str, password: &Password) -> Option<&User> {
        let user = self.find(name);
        let is_right = match user {
            Some(user) => user.password.verify(password),
            None => {
                pretend_to_verify(password);
                false
            }
        };
        user.filter(|user| is_right && !user.disabled)
    }

    /// Adds a user.
    ///
    /// # Errors
    /// When the name is taken or cannot be one, or there are too many.
    pub fn add(&mut self, user: User) -> Result<(), UsersError> {
        check_name(&user.name)?;
        self.push(Line::User(user))
    }

    /// Adds a Kerberos principal.
    ///
    /// # Errors
    /// When it is there already or cannot be one, or there are too many.
    pub fn add_principal(&mut self, principal: &str, role: Role) -> Result<(), UsersError> {
        check_principal(principal)?;
        self.push(Line::Kerberos { principal: principal.to_owned(), role })
    }

    /// Changes a user, but not the name: `change` gets the entry.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut User)) -> Result<(), UsersError> {
        // What is wrong if there is none; a principal has nothing that could be changed here.
        let missing = match self.role_of_principal(name) {
            Some(_) => UsersError::RoleOnly,
            None => UsersError::Missing,
        };
        let Some(Line::User(user)) = self.users.get(&fold(name)).and_then(|&at| self.lines.get_mut(at)) else {
            return Err(missing(name.to_owned()));
        };
        let name = user.name.clone();
        change(user);
        user.name = name;
        Ok(())
    }

    /// Removes a user, or a principal.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn remove(&mut self, name: &str) -> Result<(), UsersError> {
        let at = self.users.get(&fold(name)).or_else(|| self.principals.get(name)).copied();
        let at = at.ok_or_else(|| UsersError::Missing(name.to_owned()))?;
        let mut lines = std::mem::take(self).lines;
        lines.remove(at);
        lines.into_iter().try_for_each(|line| self.push(line))
    }

    fn push(&mut self, line: Line) -> Result<(), UsersError> {
        let at = self.lines.len();
        let (index, key, name) = match &line {
            Line::User(user) => (&mut self.users, fold(&user.name), &user.name),
            Line::Kerberos { principal, .. } => (&mut self.principals, principal.clone(), principal),
            Line::Comment(_) => {
                self.lines.push(line);
                return Ok(());
            }
        };
        if index.contains_key(&key) {
            return Err(UsersError::Exists(name.clone()));
        }
        index.insert(key, at);
        self.lines.push(line);
        if self.users.len() + self.principals.len() > ENTRIES_MAX { Err(UsersError::TooLong) } else { Ok(()) }
    }
}

/// The file, as [`Users::parse`] reads it.
impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}")?;
        for line in &self.lines {
            match line {
                Line::Comment(text) => writeln!(f, "{text}")?,
                Line::Kerberos { principal, role } => writeln!(f, "kerberos {principal} {role}")?,
                Line::User(user) => {
                    write!(f, "user {} {} password={}", user.name, user.role, user.password.as_str())?;
                    if let Some(hash) = &user.nt_hash {
                        write!(f, " nt={}", hash.to_hex())?;
                    }
                    writeln!(f, "{}", if user.disabled { " disabled" } else { "" })?;
                }
            }
        }
        Ok(())
    }
}

/// The user in `user`, `HOST\user`, `.\user` and `user@host`. We know only users of our own, so where the client thinks
/// that they are at home does not matter; Windows outside a domain does the same.
pub fn local_name(name: &str) -> &str {
    let name = name.rsplit_once('\\').map_or(name, |(_, user)| user);
    name.split_once('@').map_or(name, |(user, _)| user)
}

/// A name as it is compared.
pub fn fold(name: &str) -> String {
    name.to_lowercase()
}

fn parse_line(line: &str) -> Result<Line, UsersError> {
    let mut fields = line.split_ascii_whitespace();
    let line = match fields.next() {
        None => return Ok(Line::Comment(String::new())),
        Some(word) if word.starts_with('#') => return Ok(Line::Comment(line.trim().to_owned())),
        Some("kerberos") => {
            let principal = fields.next().ok_or(UsersError::Form)?;
            check_principal(principal)?;
            let role = fields.next().ok_or(UsersError::Form)?.parse()?;
            Line::Kerberos { principal: principal.to_owned(), role }
        }
        Some("user") => {
            let name = fields.next().ok_or(UsersError::Form)?;
            check_name(name)?;
            let role = fields.next().ok_or(UsersError::Form)?.parse()?;
            let phc = fields.next().and_then(|field| field.strip_prefix("password=")).ok_or(UsersError::Form)?;
            let password = Phc::parse(phc)?;
            let mut rest = fields.by_ref().peekable();
            let nt_hash = rest.next_if(|field| field.starts_with("nt="));
            let nt_hash = nt_hash.and_then(|field| field.strip_prefix("nt=")).map(NtHash::parse).transpose()?;
            let disabled = rest.next_if_eq(&"disabled").is_some();
            if rest.next().is_some() {
                return Err(UsersError::Form);
            }
            return Ok(Line::User(User { name: name.to_owned(), role, password, nt_hash, disabled }));
        }
        Some(_) => return Err(UsersError::Form),
    };
    if fields.next().is_some() { Err(UsersError::Form) } else { Ok(line) }
}

/// No blanks, which end a field, and none of `\ @ :`, which part names from domains and passwords.
fn check_name(name: &str) -> Result<(), UsersError> {
    let is_fine = |c: char| c.is_alphanumeric() || "._-".contains(c);
    let is_name = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(is_fine);
    if is_name { Ok(()) } else { Err(UsersError::Name(name.to_owned())) }
}

fn check_principal(principal: &str) -> Result<(), UsersError> {
    let has_realm = principal.rsplit_once('@').is_some_and(|(name, realm)| !name.is_empty() && !realm.is_empty());
    let is_fine = |c: char| !c.is_control() && !c.is_whitespace();
    if has_realm && principal.len() <= PRINCIPAL_BYTES_MAX && principal.chars().all(is_fine) {
        return Ok(());
    }
    Err(UsersError::Principal(principal.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHC: &str = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$9sTbSlTio3Biev89thdrlKKiCaYsjjYVJxGAL3swxpQ";

    fn user(name: &str) -> User {
        let password = Phc::parse(PHC).unwrap();
        User { name: name.to_owned(), role: Role::Read, password, nt_hash: None, disabled: false }
    }

    #[test]
    fn what_is_printed_is_what_was_read() {
        let text = format!(
            "{HEAD}\n# Who may do what.\n\nuser Jörg administer password={PHC} nt=00112233445566778899aabbccddeeff\n\
             user bob read password={PHC} disabled\nkerberos host/a.example@EXAMPLE.ORG operate\n"
        );
        let users = Users::parse(&text).unwrap();
        assert_eq!(users.to_string(), text);
        assert_eq!(users.find("JÖRG").map(|user| user.role), Some(Role::Administer));
        assert!(users.find("bob").is_some_and(|user| user.disabled));
        assert_eq!(users.role_of_principal("host/a.example@EXAMPLE.ORG"), Some(Role::Operate));
        assert_eq!(users.role_of_principal("HOST/a.example@EXAMPLE.ORG"), None);
        assert_eq!(users.iter().count() + users.principals().count(), 3);
        assert!(!format!("{users:?}").contains("argon2id"));
    }

    #[test]
    fn wrong_lines_are_named() {
        let check = |line: &str, expected: &str| {
            let text = format!("{HEAD}\n# First.\n{line}\n");
            let message = Users::parse(&text).map_or_else(|error| error.to_string(), |_| "read".to_owned());
            assert!(message.starts_with(expected), "{line}: {message}");
        };
        let wrong = "line 3 of the users file is wrong";
        let form = format!("{wrong}: expected `user NAME ROLE");
        check("user", &form);
        check("user alice read", &form);
        check(&format!("user alice read nt=x password={PHC}"), &form);
        check(&format!("user alice read password={PHC} Disabled"), &form);
        check(&format!("user alice read password={PHC} disabled disabled"), &form);
        check("group a", &form);
        check("kerberos alice@A read more", &form);
        check(&format!("user alice root password={PHC}"), &format!("{wrong}: \"root\" is not a role"));
        check(&format!("user a\\b read password={PHC}"), &format!("{wrong}: \"a\\\\b\" cannot be a user name"));
        check("user alice read password=plain", &format!("{wrong}: a password hash is"));
        check(&format!("user alice read password={PHC} nt=12"), &format!("{wrong}: an NT hash is"));
        check("kerberos alice read", &format!("{wrong}: \"alice\" is not a Kerberos principal"));
        check(&format!("user alice read password={PHC}"), "read");
    }

    #[test]
    fn other_files_are_refused() {
        let check = |text: &str, expected| assert_eq!(Users::parse(text).err(), Some(expected));
        check("", UsersError::Head);
        check("snapvisor-users 2\n", UsersError::Head);
        check(&format!("{HEAD}\n{}", "#\n".repeat(FILE_BYTES_MAX)), UsersError::TooLong);
        let many: String = (0..=ENTRIES_MAX).map(|index| format!("kerberos u{index}@R read\n")).collect();
        let error = Users::parse(&format!("{HEAD}\n{many}")).unwrap_err();
        assert_eq!(error, UsersError::Line { line: ENTRIES_MAX + 2, error: Box::new(UsersError::TooLong) });
    }

    #[test]
    fn users_come_change_and_go() {
        let mut users = Users::parse(&format!("{HEAD}\n# kept\n")).unwrap();
        users.add(user("alice")).unwrap();
        assert_eq!(users.add(user("ALICE")), Err(UsersError::Exists("ALICE".to_owned())));
        assert_eq!(users.add(user("a b")), Err(UsersError::Name("a b".to_owned())));
        users.add(user("bob")).unwrap();
        users.add_principal("alice@R", Role::Operate).unwrap();
        assert_eq!(users.add_principal("alice@R", Role::Read), Err(UsersError::Exists("alice@R".to_owned())));
        users.change("Alice", |user| (user.role, user.name) = (Role::Operate, "mallory".to_owned())).unwrap();
        assert_eq!(users.find("alice").map(|user| user.role), Some(Role::Operate));
        users.remove("ALICE").unwrap();
        assert_eq!(users.remove("alice"), Err(UsersError::Missing("alice".to_owned())));
        assert!(users.find("bob").is_some(), "places moved");
        users.remove("alice@R").unwrap();
        assert_eq!(users.to_string(), format!("{HEAD}\n# kept\nuser bob read password={PHC}\n"));
    }

    #[test]
    fn damaged_files_never_panic() {
        let text = format!("{HEAD}\nuser alice read password={PHC} nt=00112233445566778899aabbccddeeff disabled\n");
        for at in 0..text.len() {
            let _ = Users::parse(&text[..at]);
            for other in ["\0", " ", "é", "\n", "$"] {
                let _ = Users::parse(&format!("{}{other}{}", &text[..at], &text[at + 1..]));
            }
        }
    }
}
