//! The screen of a machine or of a snapshot: as a PNG file, or drawn in the terminal.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cim::op::Argument;
use serde_json::json;

use super::job::text;
use super::lookup::{management_service, settings_target};
use crate::args::{Picture, PictureSize};
use crate::error::{Error, Kind, Result};
use crate::output::Output;
use crate::session::Session;
use crate::show::printable;

/// Size of a picture for a file: that of a text screen, pixel for pixel.
const USUAL: PictureSize = PictureSize { width: 720, height: 400 };
/// Widest drawing in a terminal; more does not help the eye.
const COLUMNS_MAX: u16 = 240;

/// Red, green and blue.
type Colour = [u8; 3];

/// Takes the picture that belongs to these settings, and says where it went. `what` is what the user calls it.
///
/// # Errors
/// When there is no picture, or the file cannot be written.
pub fn run(session: &mut Session, id: &str, what: &str, wanted: &Picture) -> Result<Output> {
    let Some(path) = &wanted.file else { return draw(session, id) };
    let size = wanted.size.unwrap_or(USUAL);
    let pixels = fetch(session, id, size)?;
    write_png(path, size, &pixels)
        .map_err(|error| Error::new(Kind::Failed, format!("could not write {}: {error}", path.display())))?;
    let done = format!("screen of {} written to {}\n", printable(what), path.display());
    Ok(Output::new(done, json!({ "file": path, "width": size.width, "height": size.height })))
}

/// In the terminal a character is two pixels, one above the other.
fn draw(session: &mut Session, id: &str) -> Result<Output> {
    let output = io::stdout();
    let columns = rustix::termios::tcgetwinsize(&output).map(|size| size.ws_col).unwrap_or(0);
    if !output.is_terminal() || columns == 0 {
        return Err(Error::new(Kind::Usage, "the screen can only be drawn in a terminal")
            .hint("name a file to write it to, such as screen.png"));
    }
    let width = columns.min(COLUMNS_MAX);
    // A text screen has 720 by 400 pixels.
    let size = PictureSize { width, height: (u32::from(width) * 400 / 720).max(2).try_into().unwrap_or(u16::MAX) };
    let pixels = fetch(session, id, size)?;
    let text = blocks(&pixels, size.width.into());
    Ok(Output::new(text, json!({ "width": size.width, "height": size.height })))
}

fn fetch(session: &mut Session, id: &str, size: PictureSize) -> Result<Vec<Colour>> {
    let arguments = vec![
        ("TargetSystem".to_owned(), Argument::Reference(settings_target(id))),
        text("WidthPixels", &size.width.to_string()),
        text("HeightPixels", &size.height.to_string()),
    ];
    let called = session.invoke(management_service(), "GetVirtualSystemThumbnailImage", arguments)?;
    let data = called.outputs.text("ImageData").unwrap_or_default();
    let pixels = BASE64.decode(data).ok().map(|bytes| colours(&bytes));
    let expected = usize::from(size.width) * usize::from(size.height);
    pixels
        .filter(|pixels| pixels.len() == expected)
        .ok_or_else(|| Error::new(Kind::Failed, "the daemon sent something else than a picture of the size asked for"))
}

/// Two bytes for each pixel, little endian: five bits of red at the top, six of green, five of blue. The highest bits fill
/// up the low ones, so that white is white.
fn colours(bytes: &[u8]) -> Vec<Colour> {
    let colour = |bits: u16| {
        let [red, green, blue] = [bits >> 11, bits >> 5 & 0x3f, bits & 0x1f];
        [red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2]
            .map(|part| u8::try_from(part).unwrap_or(u8::MAX))
    };
    bytes
        .chunks_exact(2)
        .filter_map(|pair| <[u8; 2]>::try_from(pair).ok())
        .map(|pair| colour(u16::from_le_bytes(pair)))
        .collect()
}

fn write_png(path: &Path, size: PictureSize, pixels: &[Colour]) -> io::Result<()> {
    let file = std::fs::File::create(path)?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), size.width.into(), size.height.into());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels.as_flattened())?;
    writer.finish()?;
    Ok(())
}

/// Rows of upper half blocks: the upper pixel is the foreground, the lower one the background.
fn blocks(pixels: &[Colour], width: usize) -> String {
    let mut text = String::new();
    let rows: Vec<&[Colour]> = pixels.chunks(width.max(1)).collect();
    for pair in rows.chunks(2) {
        let (Some(upper), Some(lower)) = (pair.first(), pair.last()) else { continue };
        for ([r, g, b], [x, y, z]) in upper.iter().zip(*lower) {
            // Writing to a string cannot fail.
            let _ = write!(text, "\u{1b}[38;2;{r};{g};{b};48;2;{x};{y};{z}m▀");
        }
        text.push_str("\u{1b}[0m\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_unpacked_to_their_full_range() {
        let bytes = [0x00, 0xf8, 0xe0, 0x07, 0x1f, 0x00, 0xff, 0xff, 0x00, 0x00];
        assert_eq!(colours(&bytes), [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255; 3], [0; 3]]);
    }

    #[test]
    fn two_rows_are_one_line() {
        let drawn = blocks(&[[1, 2, 3], [4, 5, 6], [7, 8, 9]], 1);
        let line = |upper: &str, lower: &str| format!("\u{1b}[38;2;{upper};48;2;{lower}m▀\u{1b}[0m\n");
        assert_eq!(drawn, line("1;2;3", "4;5;6") + &line("7;8;9", "7;8;9"));
    }
}
