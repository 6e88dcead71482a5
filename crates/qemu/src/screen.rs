//! The guest's screen: what `screendump` writes, scaled, and in the form in which thumbnails travel.
//!
//! ```text
//!   screendump ─▶ PPM ─read_ppm─▶ Picture ─scaled─▶ Picture ─to_rgb565─▶ two bytes for each pixel
//! ```
//!
//! Sources: QEMU `qapi/ui.json` and `ui/ui-qmp-cmds.c`; the format is PPM's raw variant, `P6`, without comments.

/// Widest and highest screen. Of the displays that QEMU has, the largest mode is 5120 by 2160.
pub const SIDE_MAX: usize = 16_384;
/// Most pixels of a screen: more than [`crate::launch`]'s display has memory for, however few colours it shows.
pub const PIXELS_MAX: usize = 16 << 20;
/// Longest file that [`Picture::read_ppm`] takes: the pixels and a header of two short lines.
pub const PPM_BYTES_MAX: usize = PIXELS_MAX * 3 + 64;

/// A picture, rows from top to bottom.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    /// Red, green and blue of each pixel.
    bytes: Vec<u8>,
}

/// Why bytes are no picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// Another format, or a damaged header.
    #[error("the picture is not in PPM format")]
    NotPpm,
    /// Empty, or beyond [`SIDE_MAX`] or [`PIXELS_MAX`].
    #[error("the picture has an impossible size, {width} by {height} pixels")]
    Size {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// Bytes are missing, or there are too many.
    #[error("the picture has {found} bytes of pixels instead of {expected}")]
    Length {
        /// What its size takes.
        expected: usize,
        /// What there is.
        found: usize,
    },
}

impl Picture {
    /// A picture from red, green and blue of each pixel.
    ///
    /// # Errors
    /// When the size is impossible or the bytes are not as many as it takes.
    pub fn new(width: usize, height: usize, bytes: Vec<u8>) -> Result<Self, PictureError> {
        let sides = 1..=SIDE_MAX;
        if !sides.contains(&width) || !sides.contains(&height) || width * height > PIXELS_MAX {
            return Err(PictureError::Size { width, height });
        }
        let (expected, found) = (width * height * 3, bytes.len());
        if found != expected {
            return Err(PictureError::Length { expected, found });
        }
        Ok(Self { width, height, bytes })
    }

    /// Reads what `screendump` wrote.
    ///
    /// # Errors
    /// When it is anything but one whole picture.
    pub fn read_ppm(bytes: &[u8]) -> Result<Self, PictureError> {
        let mut rest = bytes.strip_prefix(b"P6").ok_or(PictureError::NotPpm)?;
        let mut number = || {
            let start = rest.iter().position(|byte| !byte.is_ascii_whitespace()).filter(|start| *start > 0)?;
            let digits = rest.get(start..)?;
            let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
            rest = digits.get(end..)?;
            std::str::from_utf8(digits.get(..end)?).ok()?.parse::<usize>().ok()
        };
        let header = number().zip(number()).zip(number());
        let ((width, height), depth) = header.ok_or(PictureError::NotPpm)?;
        let pixels = rest.get(1..).filter(|_| depth == 255).ok_or(PictureError::NotPpm)?;
        if pixels.len() > PIXELS_MAX * 3 {
            return Err(PictureError::Size { width, height });
        }
        Self::new(width, height, pixels.to_vec())
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Red, green and blue of each pixel.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The picture in another size, stretched if its shape is another one. Each new pixel is the mean of the area that it
    /// covers, by exact parts of pixels, so that nothing of the picture is lost and thin lines become grey, not holes.
    ///
    /// # Errors
    /// When the size is impossible.
    pub fn scaled(&self, width: usize, height: usize) -> Result<Self, PictureError> {
        if (width, height) == (self.width, self.height) {
            return Ok(self.clone());
        }
        // Looks at the size before there is a buffer of it.
        if !(1..=SIDE_MAX).contains(&width) || !(1..=SIDE_MAX).contains(&height) || width * height > PIXELS_MAX {
            return Err(PictureError::Size { width, height });
        }
        let columns: Vec<Vec<Part>> = (0..width).map(|at| parts(at, width, self.width)).collect();
        let mut bytes = Vec::with_capacity(width * height * 3);
        for row in 0..height {
            let rows = parts(row, height, self.height);
            for columns in &columns {
                bytes.extend(self.mean(columns, &rows));
            }
        }
        Self::new(width, height, bytes)
    }

    /// The mean colour of an area.
    fn mean(&self, columns: &[Part], rows: &[Part]) -> [u8; 3] {
        let mut sums = [0_u64; 3];
        for row in rows {
            for column in columns {
                let at = (row.at * self.width + column.at) * 3;
                let pixel = self.bytes.get(at..at + 3).unwrap_or_default();
                let weight = row.weight * column.weight;
                sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += weight * u64::from(*value));
            }
        }
        let whole = (self.width as u64) * (self.height as u64);
        sums.map(|sum| u8::try_from((sum + whole / 2) / whole).unwrap_or(u8::MAX))
    }

    /// Two bytes for each pixel, little endian: five bits of red at the top, six of green, five of blue.
    pub fn to_rgb565(&self) -> Vec<u8> {
        let pixel = |pixel: &[u8]| match pixel {
            [red, green, blue] => {
                let bits = u16::from(*red >> 3) << 11 | u16::from(*green >> 2) << 5 | u16::from(*blue >> 3);
                bits.to_le_bytes()
            }
            _ => [0; 2],
        };
        self.bytes.chunks_exact(3).flat_map(pixel).collect()
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
}

/// How much of an old pixel lies in a new one. All weights of a new pixel add up to the old number of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    at: usize,
    weight: u64,
}

/// The old pixels that the new one at `new` of `new_count` covers. Measured in units that make both whole numbers: an old
/// pixel is `new_count` long, a new one `old_count`.
fn parts(new: usize, new_count: usize, old_count: usize) -> Vec<Part> {
    let (start, end) = (new * old_count, (new + 1) * old_count);
    let covered = start / new_count..end.div_ceil(new_count);
    let part = |at: usize| {
        let overlap = end.min((at + 1) * new_count) - start.max(at * new_count);
        Part { at, weight: overlap as u64 }
    };
    covered.map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize, bytes: &[u8]) -> Picture {
        Picture::new(width, height, bytes.to_vec()).unwrap()
    }

    #[test]
    fn what_screendump_writes_is_read() {
        let read = Picture::read_ppm(b"P6\n2 1\n255\n\x01\x02\x03\n\x05\x06").unwrap();
        assert_eq!(read, picture(2, 1, &[1, 2, 3, 10, 5, 6]));
    }

    #[test]
    fn damaged_pictures_are_refused() {
        let check = |bytes: &[u8], expected: &str| {
            assert_eq!(Picture::read_ppm(bytes).unwrap_err().to_string(), expected, "{}", bytes.escape_ascii());
        };
        let not_ppm = "the picture is not in PPM format";
        check(b"", not_ppm);
        check(b"P5\n1 1\n255\n\0", not_ppm);
        check(b"P6\n1 1\n65535\n\0\0\0\0\0\0", not_ppm);
        check(b"P6\n1 x\n255\n\0\0\0", not_ppm);
        check(b"P6\n1", not_ppm);
        check(b"P6\n1 1\n255", not_ppm);
        check(b"P61 1\n255\n\0\0\0", not_ppm);
        check(b"P6\n99999999999999999999 1\n255\n", not_ppm);
        check(b"P6\n0 7\n255\n", "the picture has an impossible size, 0 by 7 pixels");
        check(b"P6\n16385 1\n255\n", "the picture has an impossible size, 16385 by 1 pixels");
        check(b"P6\n16384 16384\n255\n", "the picture has an impossible size, 16384 by 16384 pixels");
        check(b"P6\n1 1\n255\n\0\0", "the picture has 2 bytes of pixels instead of 3");
        check(b"P6\n1 1\n255\n\0\0\0\0", "the picture has 4 bytes of pixels instead of 3");
        let whole = b"P6\n2 2\n255\nabcdefghijkl";
        for length in 0..whole.len() {
            assert!(Picture::read_ppm(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_new_pixel_is_the_mean_of_its_area() {
        let check = |old: &Picture, (width, height): (usize, usize), reds: &[u8]| {
            let new = old.scaled(width, height).unwrap();
            let found: Vec<u8> = new.bytes().chunks(3).map(|pixel| pixel[0]).collect();
            assert_eq!(found, reds, "{old:?} to {width}x{height}");
        };
        let grey = |values: &[u8]| values.iter().flat_map(|value| [*value; 3]).collect::<Vec<u8>>();
        let row = picture(4, 1, &grey(&[0, 100, 200, 40]));
        check(&row, (4, 1), &[0, 100, 200, 40]);
        check(&row, (2, 1), &[50, 120]);
        check(&row, (1, 1), &[85]);
        // Each new pixel covers one old one and a third: 0*3 + 100*1, 100*2 + 200*2, 200*1 + 40*3, by four.
        check(&row, (3, 1), &[25, 150, 80]);
        check(&row, (8, 1), &[0, 0, 100, 100, 200, 200, 40, 40]);
        check(&row, (4, 2), &[0, 100, 200, 40, 0, 100, 200, 40]);
        let square = picture(2, 2, &grey(&[255, 255, 255, 254]));
        check(&square, (1, 1), &[255]);
        assert!(square.scaled(0, 1).is_err() && square.scaled(SIDE_MAX, SIDE_MAX).is_err());
    }

    #[test]
    fn colours_are_packed_little_endian() {
        let colours = picture(4, 1, &[255, 0, 0, 0, 255, 0, 0, 0, 255, 8, 4, 8]);
        assert_eq!(colours.to_rgb565(), [0x00, 0xf8, 0xe0, 0x07, 0x1f, 0x00, 0x21, 0x08]);
    }
}
