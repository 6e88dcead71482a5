//! Open enumerations: what is left of a result, who may have it, and until when.
//!
//! ```text
//!   open ──▶ idle ──take──▶ busy ──▶ idle         more rows; the clock starts anew
//!              │             └────▶ (gone)       last row given, a row failed, or one that can never fit
//!              ├─release, also while busy ──▶ (gone)
//!              └─IDLE_LIMIT or crowded out ──▶ (gone)
//! ```
//!
//! Only the table is locked, and only while something is looked up in it: rows are made and written without the lock, so clients do not
//! wait for each other. A second pull on an enumeration that is busy is refused, as it cannot know which rows it would get.
//!
//! Rows are made as they are asked for, so an enumeration costs the view of the state it reads, not its rows. A context is 128 random
//! bits and works only for the principal that began it: knowing one is not enough, guessing one is not possible.

use crate::binding;
use crate::encoding::Encoding;
use crate::epr::{self, Style};
use crate::fault::{Fault, Kind};
use cim::op::{Row, Rows};
use cim::xml::Writer;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long an enumeration waits for the next pull. Clients that poll by hand need a minute; twice that covers a busy one.
pub const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// Open enumerations of one principal. Clients pull one or two at a time, and many never release; the idlest goes
/// first. One costs its place in a state that it mostly shares with the present one.
pub const MAX_PER_PRINCIPAL: usize = 1_000;
/// Open enumerations in all, so that many principals together stay bounded too.
pub const MAX_CONTEXTS: usize = 2_000;

/// What an enumeration returns for each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The instance.
    #[default]
    Object,
    /// Its address.
    Reference,
    /// Both.
    ObjectAndReference,
}

/// How a row is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// What.
    pub mode: Mode,
    /// In which style of URI.
    pub style: Style,
}

/// How much of a result one reply may carry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// Rows; at least one.
    pub rows: usize,
    /// Bytes for all rows together, in the encoding of the reply.
    pub bytes: usize,
    /// That encoding.
    pub encoding: Encoding,
}

/// Rows for one reply, written out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// The rows as XML.
    pub items: String,
    /// Whether these were the last.
    pub is_last: bool,
}

/// A result of which some rows may have been given already.
#[derive(Debug)]
pub(crate) struct Enumeration {
    rows: Rows,
    form: Form,
    /// The next row, written: what told us that the page before was not the last one, or did not fit into it.
    pending: Option<Result<String, Fault>>,
}

impl Enumeration {
    /// A result before its first row.
    pub fn new(rows: Rows, form: Form) -> Self {
        Enumeration { rows, form, pending: None }
    }

    /// The next rows. One more is made than given, to know whether the page is the last: that saves every client a round trip.
    ///
    /// A row that fails is reported when it is its turn; one that is larger than the whole allowance can never be given.
    pub fn take(&mut self, allowance: Allowance) -> Result<Page, Fault> {
        let mut items = String::new();
        let (mut used, mut count) = (0, 0);
        loop {
            let Some(next) = self.pending.take().or_else(|| self.write_next()) else {
                return Ok(Page { items, is_last: true });
            };
            let size = next.as_ref().map_or(0, |item| allowance.encoding.encoded_len(item));
            let is_full = count >= allowance.rows || used + size > allowance.bytes;
            match next {
                Ok(item) if !is_full => items.push_str(&item),
                next if count > 0 => {
                    self.pending = Some(next);
                    return Ok(Page { items, is_last: false });
                }
                Ok(_) => {
                    let reason = format!("one row takes {size} bytes, the envelope has room for {}", allowance.bytes);
                    return Err(Fault::new(Kind::EnvelopeTooLarge, reason));
                }
                Err(fault) => return Err(fault),
            }
            used += size;
            count += 1;
        }
    }

    fn write_next(&mut self) -> Option<Result<String, Fault>> {
        let row = self.rows.next()?;
        Some(row.map(|row| self.write(&row)).map_err(Fault::from))
    }

    fn write(&self, row: &Row) -> String {
        let style = self.form.style;
        let object = |w: &mut Writer| match &self.rows.projection {
            Some(names) => binding::write_projection(w, row, names, style),
            None => binding::write_instance(w, row, style),
        };
        let reference = |w: &mut Writer| w.element("a:EndpointReference", |w| epr::write(w, &row.path, style));
        let mut w = Writer::new();
        match self.form.mode {
            Mode::Object => object(&mut w),
            Mode::Reference => reference(&mut w),
            Mode::ObjectAndReference => w.element("w:Item", |w| {
                object(w);
                reference(w);
            }),
        }
        w.finish()
    }
}

/// The open enumerations of all principals.
#[derive(Debug, Default)]
pub(crate) struct Contexts {
    open: Mutex<HashMap<String, Context>>,
}

#[derive(Debug)]
struct Context {
    principal: String,
    /// Away while a pull makes rows of it.
    enumeration: Option<Enumeration>,
    expires: Duration,
}

impl Contexts {
    /// Keeps an enumeration under a fresh, unguessable name. Expired ones go; if there are still too many, the idlest goes.
    pub fn insert(&self, name: String, principal: &str, enumeration: Enumeration, now: Duration) {
        let mut open = self.lock();
        open.retain(|_, context| context.expires > now);
        let own = |context: &Context| context.principal == principal;
        if open.values().filter(|context| own(context)).count() >= MAX_PER_PRINCIPAL {
            drop_idlest(&mut open, own);
        } else if open.len() >= MAX_CONTEXTS {
            drop_idlest(&mut open, |_| true);
        }
        let principal = principal.to_owned();
        open.insert(name, Context { principal, enumeration: Some(enumeration), expires: now + IDLE_LIMIT });
    }

    /// Takes the next rows. The enumeration is over after its last row and after a fault.
    pub fn take(&self, name: &str, principal: &str, allowance: Allowance, now: Duration) -> Result<Page, Fault> {
        let mut enumeration = self.borrow(name, principal, now)?;
        let page = enumeration.take(allowance);
        let mut open = self.lock();
        if page.as_ref().map_or(true, |page| page.is_last) {
            open.remove(name);
        } else if let Some(context) = open.get_mut(name) {
            context.enumeration = Some(enumeration);
        }
        page
    }

    /// Ends an enumeration early.
    pub fn release(&self, name: &str, principal: &str, now: Duration) -> Result<(), Fault> {
        let mut open = self.lock();
        find(&mut open, name, principal, now)?;
        open.remove(name);
        Ok(())
    }

    /// An enumeration out of the table; its place stays taken.
    fn borrow(&self, name: &str, principal: &str, now: Duration) -> Result<Enumeration, Fault> {
        let mut open = self.lock();
        let context = find(&mut open, name, principal, now)?;
        context.expires = now + IDLE_LIMIT;
        context.enumeration.take().ok_or_else(|| {
            Fault::new(Kind::PullInProgress, "another pull on this enumeration is in progress; wait for its reply")
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Context>> {
        // Nothing under the lock can leave the table half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An enumeration of someone else is as unknown as one that never was.
fn find<'a>(
    open: &'a mut HashMap<String, Context>,
    name: &str,
    principal: &str,
    now: Duration,
) -> Result<&'a mut Context, Fault> {
    let is_usable = |context: &&mut Context| context.principal == principal && context.expires > now;
    open.get_mut(name).filter(is_usable).ok_or_else(|| {
        Fault::new(Kind::InvalidContext, "the enumeration is unknown, finished or expired; enumerate again")
    })
}

fn drop_idlest(open: &mut HashMap<String, Context>, may_go: impl Fn(&Context) -> bool) {
    let candidates = open.iter().filter(|(_, context)| may_go(context));
    let idlest = candidates.min_by_key(|(name, context)| (context.expires, *name)).map(|(name, _)| name.clone());
    if let Some(name) = idlest {
        open.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cim::{Instance, Schema, mof};
    use std::sync::{Arc, mpsc};

    const ALLOWANCE: Allowance = Allowance { rows: 1, bytes: 10_000, encoding: Encoding::Utf8 };
    const NOW: Duration = Duration::ZERO;

    /// An enumeration without end that does `meanwhile` before each row.
    fn endless(mut meanwhile: impl FnMut() + Send + 'static) -> Enumeration {
        let schema = Schema::new("root/toys", mof::parse_classes("class Toy { [Key] string K; };").unwrap()).unwrap();
        let instance = Instance::new(schema.class("Toy").unwrap()).with("K", "a");
        let row = Row { path: instance.path("HOST", "root/toys"), instance };
        let rows = std::iter::from_fn(move || {
            meanwhile();
            Some(Ok(row.clone()))
        });
        Enumeration::new(Rows::new(rows), Form { mode: Mode::Object, style: Style::Dmtf })
    }

    /// Nothing is locked while rows are made, or the rows here, which come back as clients, would wait for themselves.
    fn check(meanwhile: fn(&Contexts) -> Result<(), Fault>, expected: [Result<(), Kind>; 2]) {
        let contexts = Arc::new(Contexts::default());
        let (log, seen) = mpsc::channel();
        let shared = Arc::clone(&contexts);
        let rows = endless(move || log.send(meanwhile(&shared).map_err(|fault| fault.kind)).unwrap());
        contexts.insert("c".to_owned(), "alice", rows, NOW);
        assert!(!contexts.take("c", "alice", ALLOWANCE, NOW).unwrap().is_last);
        assert_eq!(seen.recv().unwrap(), expected[0]);
        let later = contexts.take("c", "alice", ALLOWANCE, NOW);
        assert_eq!(later.map(drop).map_err(|fault| fault.kind), expected[1]);
    }

    #[test]
    fn an_enumeration_in_use_can_be_released_but_not_pulled_from() {
        check(|contexts| contexts.take("c", "alice", ALLOWANCE, NOW).map(drop), [Err(Kind::PullInProgress), Ok(())]);
        check(|contexts| contexts.take("c", "bob", ALLOWANCE, NOW).map(drop), [Err(Kind::InvalidContext), Ok(())]);
        check(|contexts| contexts.release("c", "alice", NOW), [Ok(()), Err(Kind::InvalidContext)]);
    }
}
