use encoding_rs::Encoding;

/// How text of a column is written in its bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Charset {
    /// No text at all.
    Binary,
    /// `utf8mb4` and the older `utf8mb3`; ASCII is contained.
    Utf8,
    /// UTF-16, the higher byte first; `ucs2` is contained.
    Utf16,
    /// UTF-16, the lower byte first.
    Utf16Little,
    /// UTF-32, the higher byte first.
    Utf32,
    /// One that browsers know too.
    Other(&'static Encoding),
}

/// The character set of a collation, by the numbers that MySQL and MariaDB share
/// (`information_schema.collations`). None when it is one that is not known here.
pub(crate) fn of_collation(id: u32) -> Option<Charset> {
    let other = |encoding| Some(Charset::Other(encoding));
    match id {
        // MariaDB's comparisons without padding have the numbers of those with it, shifted.
        1025..=2047 => of_collation(id - 1024),
        // MariaDB's Unicode 14 collations: the character set is in the number.
        2048..=2559 => Some(Charset::Utf8),
        2560..=3071 => Some(Charset::Utf16),
        3072..=3327 => Some(Charset::Utf32),
        63 => Some(Charset::Binary),
        11
        | 65
        | 33
        | 76
        | 83
        | 192..=215
        | 223
        | 45
        | 46
        | 224..=247
        | 255..=323
        | 576..=578
        | 608..=610 => Some(Charset::Utf8),
        35 | 90 | 128..=151 | 159 | 54 | 55 | 101..=124 | 640..=642 | 672..=674 => {
            Some(Charset::Utf16)
        }
        56 | 62 => Some(Charset::Utf16Little),
        60 | 61 | 160..=183 | 736..=738 => Some(Charset::Utf32),
        5 | 8 | 15 | 31 | 47 | 48 | 49 | 94 => other(encoding_rs::WINDOWS_1252),
        24 | 86 | 28 | 87 => other(encoding_rs::GBK),
        248..=250 => other(encoding_rs::GB18030),
        1 | 84 => other(encoding_rs::BIG5),
        13 | 88 | 95 | 96 => other(encoding_rs::SHIFT_JIS),
        12 | 91 | 97 | 98 => other(encoding_rs::EUC_JP),
        19 | 85 => other(encoding_rs::EUC_KR),
        2 | 9 | 21 | 27 | 77 => other(encoding_rs::ISO_8859_2),
        25 | 70 => other(encoding_rs::ISO_8859_7),
        16 | 71 => other(encoding_rs::ISO_8859_8),
        20 | 41 | 42 | 79 => other(encoding_rs::ISO_8859_13),
        30 | 78 => other(encoding_rs::WINDOWS_1254),
        26 | 34 | 44 | 66 | 99 => other(encoding_rs::WINDOWS_1250),
        14 | 23 | 50 | 51 | 52 => other(encoding_rs::WINDOWS_1251),
        57 | 67 => other(encoding_rs::WINDOWS_1256),
        29 | 58 | 59 => other(encoding_rs::WINDOWS_1257),
        18 | 89 => other(encoding_rs::WINDOWS_874),
        7 | 74 => other(encoding_rs::KOI8_R),
        22 | 75 => other(encoding_rs::KOI8_U),
        36 | 68 => other(encoding_rs::IBM866),
        39 | 53 => other(encoding_rs::MACINTOSH),
        // dec8, cp850, hp8, swe7, armscii8, keybcs2, macce, cp852, geostd8.
        _ => None,
    }
}

impl Charset {
    /// Appends the text in `bytes` to `out`; false when they are none, and then nothing is appended.
    pub(crate) fn append(self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let units = || bytes.as_chunks::<2>();
        match self {
            Self::Binary => out.extend_from_slice(bytes),
            Self::Utf8 => {
                if std::str::from_utf8(bytes).is_err() {
                    return false;
                }
                out.extend_from_slice(bytes);
            }
            Self::Utf16 => {
                let (units, rest) = units();
                return rest.is_empty() && utf16(units.iter().map(|u| u16::from_be_bytes(*u)), out);
            }
            Self::Utf16Little => {
                let (units, rest) = units();
                return rest.is_empty() && utf16(units.iter().map(|u| u16::from_le_bytes(*u)), out);
            }
            Self::Utf32 => {
                let (units, rest) = bytes.as_chunks::<4>();
                let characters = units.iter().map(|u| char::from_u32(u32::from_be_bytes(*u)));
                return rest.is_empty() && all(characters, out);
            }
            Self::Other(encoding) => {
                if bytes.is_ascii() {
                    out.extend_from_slice(bytes);
                    return true;
                }
                match encoding.decode_without_bom_handling_and_without_replacement(bytes) {
                    Some(text) => out.extend_from_slice(text.as_bytes()),
                    None => return false,
                }
            }
        }
        true
    }

    /// The text in `bytes`, if it is any.
    pub(crate) fn text(self, bytes: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        if self.append(bytes, &mut out) { String::from_utf8(out).ok() } else { None }
    }
}

fn utf16(units: impl Iterator<Item = u16>, out: &mut Vec<u8>) -> bool {
    all(char::decode_utf16(units).map(Result::ok), out)
}

fn all(characters: impl Iterator<Item = Option<char>>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    for character in characters {
        let Some(character) = character else {
            out.truncate(start);
            return false;
        };
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    true
}
