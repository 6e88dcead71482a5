//! Open enumerations: what is left of a result, who may have it, and until when.
//!
//! ```text
//!   open ──▶ idle ──take──▶ idle          more rows; the clock starts anew
//!              │      └───▶ (gone)        last row given, a row failed, or one that can never fit
//!              ├─release──▶ (gone)
//!              └─IDLE_LIMIT or crowded out ──▶ (gone)
//! ```
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
use std::time::Duration;

/// How long an enumeration waits for the next pull. Clients that poll by hand need a minute; twice that covers a busy one.
pub const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// Open enumerations of one principal. Clients pull one or two at a time, and many never release; the idlest goes first.
pub const MAX_PER_PRINCIPAL: usize = 200;
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
    open: HashMap<String, Context>,
}

#[derive(Debug)]
struct Context {
    principal: String,
    enumeration: Enumeration,
    expires: Duration,
}

impl Contexts {
    /// Keeps an enumeration under a fresh, unguessable name. Expired ones go; if there are still too many, the idlest goes.
    pub fn insert(&mut self, name: String, principal: &str, enumeration: Enumeration, now: Duration) {
        self.open.retain(|_, context| context.expires > now);
        let own = |context: &Context| context.principal == principal;
        if self.open.values().filter(|context| own(context)).count() >= MAX_PER_PRINCIPAL {
            self.drop_idlest(own);
        } else if self.open.len() >= MAX_CONTEXTS {
            self.drop_idlest(|_| true);
        }
        let context = Context { principal: principal.to_owned(), enumeration, expires: now + IDLE_LIMIT };
        self.open.insert(name, context);
    }

    /// Takes the next rows. The enumeration is over after its last row and after a fault.
    pub fn take(&mut self, name: &str, principal: &str, allowance: Allowance, now: Duration) -> Result<Page, Fault> {
        let context = self.find(name, principal, now)?;
        context.expires = now + IDLE_LIMIT;
        let page = context.enumeration.take(allowance);
        if page.as_ref().map_or(true, |page| page.is_last) {
            self.open.remove(name);
        }
        page
    }

    /// Ends an enumeration early.
    pub fn release(&mut self, name: &str, principal: &str, now: Duration) -> Result<(), Fault> {
        self.find(name, principal, now)?;
        self.open.remove(name);
        Ok(())
    }

    /// An enumeration of someone else is as unknown as one that never was.
    fn find(&mut self, name: &str, principal: &str, now: Duration) -> Result<&mut Context, Fault> {
        let is_usable = |context: &&mut Context| context.principal == principal && context.expires > now;
        self.open.get_mut(name).filter(is_usable).ok_or_else(|| {
            Fault::new(Kind::InvalidContext, "the enumeration is unknown, finished or expired; enumerate again")
        })
    }

    fn drop_idlest(&mut self, may_go: impl Fn(&Context) -> bool) {
        let candidates = self.open.iter().filter(|(_, context)| may_go(context));
        let idlest = candidates.min_by_key(|(name, context)| (context.expires, *name)).map(|(name, _)| name.clone());
        if let Some(name) = idlest {
            self.open.remove(&name);
        }
    }
}
