//! Reads a QR code from a picture, by ISO/IEC 18004: an undistorted one of versions 1 to 3 with error
//! correction level M, whose codewords are one block.

/// The text of the code, and the pixels a module has.
pub(crate) fn read(picture: &[u8]) -> (String, usize) {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(picture));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!(
        (info.color_type, info.bit_depth),
        (png::ColorType::Grayscale, png::BitDepth::Eight)
    );
    let side = usize::try_from(info.width).unwrap();
    assert_eq!(info.width, info.height);
    let first_dark = pixels.iter().position(|&p| p == 0).unwrap();
    let (x, y) = (first_dark % side, first_dark / side);
    assert_eq!(x, y, "the margin is even");
    // Four light modules stand around.
    let scale = x / 4;
    let modules = side / scale - 8;
    let dark = |row: usize, column: usize| {
        pixels[((row + 4) * scale + scale / 2) * side + (column + 4) * scale + scale / 2] == 0
    };
    (Symbol { modules, dark: &dark }.text(), scale)
}

struct Symbol<'a> {
    modules: usize,
    dark: &'a dyn Fn(usize, usize) -> bool,
}

impl Symbol<'_> {
    fn text(&self) -> String {
        let version = (self.modules - 17) / 4;
        let (data, correction) = [(16, 10), (28, 16), (44, 26)][version - 1];
        let codewords = self.codewords(self.mask());
        let block = &codewords[..data + correction];
        assert!(syndromes_are_zero(block, correction), "the code is damaged");
        segments(&block[..data])
    }

    /// The mask pattern, after a look at the level.
    fn mask(&self) -> u32 {
        let along_row = [0, 1, 2, 3, 4, 5, 7, 8].map(|column| (8, column));
        let up_column = [7, 5, 4, 3, 2, 1, 0].map(|row| (row, 8));
        let bits = along_row.into_iter().chain(up_column);
        let format =
            bits.fold(0, |all, (row, column)| all << 1 | u32::from((self.dark)(row, column)));
        let format = format ^ 0b101_0100_0001_0010;
        assert_eq!(format >> 13, 0b00, "level M");
        format >> 10 & 0b111
    }

    fn is_function(&self, row: usize, column: usize) -> bool {
        let (far, align) = (self.modules - 8, self.modules - 7);
        let finder = row < 9 && (column < 9 || column >= far) || row >= far && column < 9;
        let alignment =
            self.modules > 21 && row.abs_diff(align) <= 2 && column.abs_diff(align) <= 2;
        finder || alignment || row == 6 || column == 6
    }

    fn codewords(&self, mask: u32) -> Vec<u8> {
        let (mut bits, mut upwards) = (Vec::new(), true);
        let mut right = self.modules - 1;
        while right > 0 {
            if right == 6 {
                right = 5;
            }
            for step in 0..self.modules {
                let row = if upwards { self.modules - 1 - step } else { step };
                for column in [right, right - 1] {
                    if !self.is_function(row, column) {
                        bits.push((self.dark)(row, column) != masked(mask, row, column));
                    }
                }
            }
            upwards = !upwards;
            right = right.saturating_sub(2);
        }
        bits.chunks_exact(8)
            .map(|byte| byte.iter().fold(0, |b, &bit| b << 1 | u8::from(bit)))
            .collect()
    }
}

fn masked(mask: u32, row: usize, column: usize) -> bool {
    let (i, j) = (row, column);
    0 == match mask {
        0 => (i + j) % 2,
        1 => i % 2,
        2 => j % 3,
        3 => (i + j) % 3,
        4 => (i / 2 + j / 3) % 2,
        5 => i * j % 2 + i * j % 3,
        6 => (i * j % 2 + i * j % 3) % 2,
        _ => ((i + j) % 2 + i * j % 3) % 2,
    }
}

/// Whether a block is a word of the Reed-Solomon code: zero at each root of its generator.
fn syndromes_are_zero(block: &[u8], correction: usize) -> bool {
    let times = |mut a: u16, mut b: u16| {
        let mut product = 0;
        while b > 0 {
            if b & 1 == 1 {
                product ^= a;
            }
            a <<= 1;
            if a & 0x100 != 0 {
                a ^= 0x11d;
            }
            b >>= 1;
        }
        product
    };
    let mut root = 1;
    (0..correction).all(|_| {
        let value = block.iter().fold(0, |value, &byte| times(value, root) ^ u16::from(byte));
        root = times(root, 2);
        value == 0
    })
}

fn segments(data: &[u8]) -> String {
    const ALPHANUMERIC: &[u8; 45] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:";
    let mut bits = data.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let mut take = |count: usize| {
        let all: Vec<u8> = bits.by_ref().take(count).collect();
        (all.len() == count).then(|| all.iter().fold(0, |n: usize, &bit| n << 1 | usize::from(bit)))
    };
    let mut text = Vec::new();
    loop {
        match take(4) {
            Some(0b0100) => {
                let count = take(8).unwrap();
                text.extend((0..count).map(|_| u8::try_from(take(8).unwrap()).unwrap()));
            }
            Some(0b0010) => {
                let mut left = take(9).unwrap();
                while left > 1 {
                    let pair = take(11).unwrap();
                    text.extend([ALPHANUMERIC[pair / 45], ALPHANUMERIC[pair % 45]]);
                    left -= 2;
                }
                if left == 1 {
                    text.push(ALPHANUMERIC[take(6).unwrap()]);
                }
            }
            Some(0b0001) => {
                let mut left = take(10).unwrap();
                while left > 0 {
                    let digits = left.min(3);
                    let number = take([0, 4, 7, 10][digits]).unwrap();
                    text.extend(format!("{number:0digits$}").bytes());
                    left -= digits;
                }
            }
            Some(0) | None => return String::from_utf8(text).unwrap(),
            Some(mode) => panic!("mode {mode:04b}"),
        }
    }
}
