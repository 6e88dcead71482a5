//! The one table that comes out.

use std::time::Duration;

use crate::measure::Row;
use crate::samples::Samples;

/// Headings; the first three columns are words, the others numbers.
const HEADINGS: [&str; 12] = [
    "guest",
    "snapshots by",
    "method",
    "MiB/s",
    "n",
    "pause ms",
    "total s",
    "MiB",
    "dd s",
    "x dd",
    "back s",
    "delete s",
];
/// Columns that are aligned to the left.
const WORDS: usize = 3;
/// What the columns mean.
const LEGEND: &str = "\
Pairs are median/worst of n. MiB/s: what the guest rewrites of the filled half of its memory; pause: QEMU's STOP to RESUME; total: the whole command; MiB: memory on disk.
dd: as many bytes, direct I/O, same file system, right after; x dd: median total by median dd; back: running guest to first answer, without +with turning off; delete: under the running guest.";

/// Draws it, with the meaning of its columns and what there is to say about single rows.
pub fn render(rows: &[Row]) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    lines.extend(rows.iter().map(cells));
    let widths: Vec<usize> = (0..HEADINGS.len()).map(|column| width(&lines, column)).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column < WORDS {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text.push_str(&format!("\n{LEGEND}\n"));
    for row in rows {
        let about = format!("{}, {}, {}", size(row.mib), row.name, row.load);
        row.remarks.iter().for_each(|remark| text.push_str(&format!("{about}: {remark}\n")));
        row.failure.iter().for_each(|failure| text.push_str(&format!("{about}: FAILED: {failure}\n")));
    }
    text
}

fn width(lines: &[[String; HEADINGS.len()]], column: usize) -> usize {
    lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
}

fn cells(row: &Row) -> [String; HEADINGS.len()] {
    let reached = row.reached.map_or_else(absent, |rate| format!("{rate:.0}"));
    let rate = match row.load {
        crate::measure::Load::Max => format!("max {reached}"),
        crate::measure::Load::Rate(_) => reached,
    };
    let ratio = row.total.median().zip(row.dd.median());
    let seconds = |samples: &Samples| pair(samples, |duration| format!("{:.2}", duration.as_secs_f64()));
    let back = match row.back_and_off.count() {
        0 => seconds(&row.back),
        _ => format!("{} +{}", seconds(&row.back), seconds(&row.back_and_off)),
    };
    [
        size(row.mib),
        row.name.clone(),
        if row.methods.is_empty() { absent() } else { row.methods.join(", ") },
        rate,
        row.pause.count().to_string(),
        pair(&row.pause, |duration| format!("{:.1}", duration.as_secs_f64() * 1e3)),
        seconds(&row.total),
        if row.bytes == 0 { absent() } else { (row.bytes >> 20).to_string() },
        seconds(&row.dd),
        ratio.map_or_else(absent, |(total, dd)| format!("{:.2}", total.as_secs_f64() / dd.as_secs_f64())),
        back,
        seconds(&row.delete),
    ]
}

fn pair(samples: &Samples, format: impl Fn(Duration) -> String) -> String {
    let both = samples.median().zip(samples.worst());
    both.map_or_else(absent, |(median, worst)| format!("{}/{}", format(median), format(worst)))
}

fn size(mib: u32) -> String {
    if mib.is_multiple_of(1024) { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") }
}

fn absent() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::measure::Load;

    #[test]
    fn rows_are_drawn() {
        let mut row = Row::new("somebody", 2048, Load::Rate(100));
        row.reached = Some(99.6);
        row.methods = vec!["live".to_owned(), "converged".to_owned()];
        row.bytes = 1 << 30;
        for milliseconds in [10, 30, 20] {
            let sample = Duration::from_millis(milliseconds);
            row.pause.push(sample);
            row.total.push(sample * 100);
            row.dd.push(sample * 80);
            row.back.push(sample * 10);
            row.back_and_off.push(sample * 20);
            row.delete.push(sample);
        }
        row.remarks.push("by hand".to_owned());
        let mut other = Row::new("nobody", 512, Load::Max);
        other.failure = Some("it fell over".to_owned());
        let drawn = render(&[row, other]);
        let (table, rest) = drawn.split_once(LEGEND).unwrap();
        expect![[r#"
            guest    snapshots by  method           MiB/s  n   pause ms    total s   MiB       dd s  x dd                back s   delete s
            2 GiB    somebody      live, converged    100  3  20.0/30.0  2.00/3.00  1024  1.60/2.40  1.25  0.20/0.30 +0.40/0.60  0.02/0.03
            512 MiB  nobody        -                max -  0          -          -     -          -     -                     -          -

        "#]]
        .assert_eq(table);
        expect![[r#"

            2 GiB, somebody, 100: by hand
            512 MiB, nobody, max: FAILED: it fell over
        "#]]
        .assert_eq(rest);
    }
}
