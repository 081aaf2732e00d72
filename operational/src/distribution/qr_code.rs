//! A QR code as a picture.

use png::{BitDepth, ColorType, Encoder};
use qrcode::{Color, EcLevel, QrCode};

use crate::OperationalError;

/// The margin, in modules, that readers want around a code (ISO/IEC 18004).
const QUIET_ZONE: usize = 4;

/// The code for a text as a PNG of one bit a pixel, `scale` pixels a module, with its margin. It stays
/// readable with 15 % of it lost.
///
/// # Errors
/// `Invalid` for a text longer than a code holds (2,331 bytes).
pub(crate) fn png(text: &str, scale: usize) -> Result<Vec<u8>, OperationalError> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M)
        .map_err(|_| OperationalError::invalid("the text is too long for a QR code"))?;
    let (modules, dark) = (code.width(), code.to_colors());
    let side = (modules + 2 * QUIET_ZONE) * scale;
    let mut rows = Vec::with_capacity(side * side.div_ceil(8));
    for y in 0..side {
        let mut row = vec![0xff_u8; side.div_ceil(8)];
        for x in 0..side {
            let module = |at: usize| (at / scale).checked_sub(QUIET_ZONE).filter(|&m| m < modules);
            if let (Some(x_module), Some(y_module)) = (module(x), module(y))
                && dark[y_module * modules + x_module] == Color::Dark
            {
                row[x / 8] &= !(0x80 >> (x % 8));
            }
        }
        rows.extend(row);
    }
    let side =
        u32::try_from(side).expect("a code has at most 185 modules a side, and a scale is small");
    let mut picture = Vec::new();
    let mut encoder = Encoder::new(&mut picture, side, side);
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(BitDepth::One);
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(&rows)?;
        writer.finish()
    });
    written.expect("memory takes all bytes, and there are as many rows as were announced");
    Ok(picture)
}
