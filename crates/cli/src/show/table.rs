//! Aligned columns under a head line, two blanks between them. Numbers go to the right.

use super::{printable, push_padded, width};

/// Where the text of a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers and sizes.
    Right,
}

/// A table in the making.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns and no rows.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are blank.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// The whole table; without rows only the head line. No blanks at line ends.
    pub fn render(&self) -> String {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, (title, _))| {
                let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|cell| width(cell));
                cells.chain([width(title)]).max().unwrap_or_default()
            })
            .collect();
        let mut out = String::new();
        let head = self.columns.iter().map(|(title, _)| *title);
        self.line(&mut out, &widths, head);
        for row in &self.rows {
            self.line(&mut out, &widths, row.iter().map(String::as_str));
        }
        out
    }

    fn line<'a>(&self, out: &mut String, widths: &[usize], cells: impl Iterator<Item = &'a str>) {
        let mut line = String::new();
        for ((cell, columns), (_, align)) in cells.zip(widths).zip(&self.columns) {
            if *align == Align::Right {
                push_padded(&mut line, "", columns.saturating_sub(width(cell)));
                line.push_str(cell);
            } else {
                push_padded(&mut line, cell, *columns);
            }
            line.push_str("  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// `name: value` lines with the values aligned; for showing one thing.
pub fn fields(fields: &[(&str, String)]) -> String {
    let columns = fields.iter().map(|(name, _)| width(name)).max().unwrap_or_default() + 2;
    let mut out = String::new();
    for (name, value) in fields {
        let mut lines = value.lines();
        push_padded(&mut out, &format!("{name}:"), columns);
        out.push_str(&printable(lines.next().unwrap_or_default()));
        out.truncate(out.trim_end().len());
        out.push('\n');
        for line in lines {
            push_padded(&mut out, "", columns);
            out.push_str(&printable(line));
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("NAME", Align::Left), ("CPUS", Align::Right), ("STATE", Align::Left)]);
        expect![[r#"
            NAME  CPUS  STATE
        "#]]
        .assert_eq(&table.render());
        table.row(["web".to_owned(), "2".to_owned(), "running".to_owned()]);
        table.row(["データベース".to_owned(), "128".to_owned(), String::new()]);
        table.row(["bad\tname".to_owned()]);
        expect![[r#"
            NAME          CPUS  STATE
            web              2  running
            データベース   128
            bad\u{9}name
        "#]]
        .assert_eq(&table.render());
    }

    #[test]
    fn fields_line_up() {
        let text =
            fields(&[("name", "web".to_owned()), ("snapshots", "2".to_owned()), ("notes", "one\ntwo".to_owned())]);
        expect![[r#"
            name:      web
            snapshots: 2
            notes:     one
                       two
        "#]]
        .assert_eq(&text);
    }
}
