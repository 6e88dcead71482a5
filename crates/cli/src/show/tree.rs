//! Draws a forest with box characters, with columns to the right of the drawing.
//!
//! ```text
//! clean install      2026-11-20 10:02:11  disks
//! ├─ before upgrade  2026-11-21 09:00:00  memory
//! │  └─ ● now
//! └─ experiment      2026-11-21 11:30:00  disks
//! ```

use super::{printable, push_padded, width};

/// A node and what hangs below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// What stands in the drawing.
    pub label: String,
    /// What stands to the right of it, column by column.
    pub columns: Vec<String>,
    /// What hangs below, in order.
    pub children: Vec<Node>,
}

/// The drawing, one line for each node..
pub fn render(roots: &[Node]) -> String {
    let lines = layout(roots);
    let label_columns = lines.iter().filter(|(_, node)| !node.columns.is_empty()).map(|(text, _)| width(text)).max();
    let count = lines.iter().map(|(_, node)| node.columns.len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..count)
        .map(|index| {
            let cells = lines.iter().filter_map(|(_, node)| node.columns.get(index));
            cells.map(|cell| width(&printable(cell))).max().unwrap_or_default()
        })
        .collect();
    let mut out = String::new();
    for (text, node) in &lines {
        let mut line = String::new();
        push_padded(&mut line, text, label_columns.unwrap_or_default());
        for (cell, columns) in node.columns.iter().zip(&widths) {
            line.push_str("  ");
            push_padded(&mut line, &printable(cell), *columns);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// The nodes in drawing order, each with its branch lines and label.
fn layout(roots: &[Node]) -> Vec<(String, &Node)> {
    let mut lines = Vec::new();
    // Nodes to draw, the next one last: the branch lines in front of it and of its children.
    let mut stack: Vec<(String, String, &Node)> =
        roots.iter().rev().map(|root| (String::new(), String::new(), root)).collect();
    while let Some((branch, below, node)) = stack.pop() {
        lines.push((branch + &printable(&node.label), node));
        for (index, child) in node.children.iter().enumerate().rev() {
            let (corner, bar) =
                if index + 1 == node.children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            stack.push((format!("{below}{corner}"), format!("{below}{bar}"), child));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// Reads a forest written with two blanks per level and `|` between columns.
    fn forest(text: &str) -> Vec<Node> {
        let mut path: Vec<Node> = vec![Node::default()];
        for line in text.lines().chain(["END"]) {
            let depth = if line == "END" { 0 } else { (line.len() - line.trim_start().len()) / 2 };
            while path.len() > depth + 1 {
                let child = path.pop().unwrap();
                path.last_mut().unwrap().children.push(child);
            }
            let mut parts = line.trim_start().split('|').map(str::to_owned);
            path.push(Node { label: parts.next().unwrap(), columns: parts.collect(), children: Vec::new() });
        }
        path.swap_remove(0).children
    }

    fn check(text: &str, expected: &Expect) {
        expected.assert_eq(&render(&forest(text)));
    }

    #[test]
    fn forests_are_drawn() {
        check("", &expect![[""]]);
        check(
            "only|12:00|disks",
            &expect![[r#"
            only  12:00  disks
        "#]],
        );
        check(
            "a|1|x\n  b|2|long one\n    c|3\n      ● now\n    d|4|y\n  e|5|z\nf|6|y",
            &expect![[r#"
            a        1  x
            ├─ b     2  long one
            │  ├─ c  3
            │  │  └─ ● now
            │  └─ d  4  y
            └─ e     5  z
            f        6  y
        "#]],
        );
        check(
            "日本|1\n  b\u{7}|2",
            &expect![[r#"
            日本       1
            └─ b\u{7}  2
        "#]],
        );
    }

    #[test]
    fn a_long_chain_is_no_trouble() {
        let mut node = Node::default();
        for _ in 0..1_000 {
            node = Node { label: "s".to_owned(), columns: Vec::new(), children: vec![node] };
        }
        assert_eq!(render(&[node]).lines().count(), 1_001);
    }
}
