//! Quantities as people write and read them: memory sizes, file sizes, durations, moments.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;

const KIB: u64 = 1 << 10;
const UNITS: [(&str, u64); 4] = [("TiB", KIB << 30), ("GiB", KIB << 20), ("MiB", KIB << 10), ("KiB", KIB)];

/// An amount of memory, a whole number of MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySize {
    /// In MiB.
    pub mib: u64,
}

impl FromStr for MemorySize {
    type Err = String;

    /// A number with M, G or T behind it, in powers of 1024; a bare number is MiB. `MiB`, `MB` and lower case are fine.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim().to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
            "" | "M" => 1,
            "G" => KIB,
            "T" => KIB << 10,
            _ => return Err("expected a number with M or G behind it, such as 512M or 2G".to_owned()),
        };
        let number: u64 = number.parse().map_err(|_| "expected a number, such as 512M or 2G".to_owned())?;
        number.checked_mul(factor).map(|mib| Self { mib }).ok_or_else(|| "that is too much".to_owned())
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bytes(self.mib.saturating_mul(KIB << 10)))
    }
}

/// A number of bytes with a unit that keeps it short: `1.5 GiB`, `512 MiB`, `17 B`.
pub fn bytes(count: u64) -> String {
    let Some((unit, size)) = UNITS.into_iter().find(|(_, size)| count >= *size) else {
        return format!("{count} B");
    };
    let (whole, tenths) = (count / size, count % size * 10 / size);
    if whole >= 100 || tenths == 0 { format!("{whole} {unit}") } else { format!("{whole}.{tenths} {unit}") }
}

/// A duration in microseconds: `850 µs`, `12.5 ms`, `3.2 s`, `4 min 10 s`.
pub fn duration(micros: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", micros / unit, micros % unit * 10 / unit);
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{} ms", tenths(1_000)),
        1_000_000..60_000_000 => format!("{} s", tenths(1_000_000)),
        _ => format!("{} min {} s", micros / 60_000_000, micros / 1_000_000 % 60),
    }
}

/// A moment in the given time zone, to the second: `2026-11-22 18:27:43`.
pub fn moment(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sizes_are_read() {
        let check = |text: &str, expected: Result<u64, ()>| {
            assert_eq!(text.parse::<MemorySize>().map(|size| size.mib).map_err(drop), expected, "{text}");
        };
        check("512M", Ok(512));
        check("512", Ok(512));
        check("2G", Ok(2048));
        check("2 GiB", Ok(2048));
        check("1tb", Ok(1 << 20));
        check("", Err(()));
        check("G", Err(()));
        check("1.5G", Err(()));
        check("2X", Err(()));
        check("-1", Err(()));
        check("99999999999999999999", Err(()));
        check("18446744073709551615G", Err(()));
    }

    #[test]
    fn quantities_are_short() {
        let sizes = [0, 1023, 1024, 1536, 1 << 20, 1_288_490_189, 123 << 30, u64::MAX];
        assert_eq!(sizes.map(bytes).join(", "), "0 B, 1023 B, 1 KiB, 1.5 KiB, 1 MiB, 1.2 GiB, 123 GiB, 16777215 TiB");
        let times = [0, 999, 10_900, 999_999, 3_200_000, 250_000_000];
        assert_eq!(times.map(duration).join(", "), "0 µs, 999 µs, 10.9 ms, 999.9 ms, 3.2 s, 4 min 10 s");
    }
}
