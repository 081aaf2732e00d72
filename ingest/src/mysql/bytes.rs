//! Reads bytes that a server sent: whatever they are, there is an answer or they are cut short.

/// There were fewer bytes than needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short;

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Short)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u24(&mut self) -> Result<u32, Short> {
        self.array::<3>().map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]))
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of `length` bytes, at most 8, the lowest first.
    #[inline]
    pub(crate) fn little(&mut self, length: usize) -> Result<u64, Short> {
        Ok(self.take(length)?.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte)))
    }

    /// A number of `length` bytes, at most 8, the highest first.
    #[inline]
    pub(crate) fn big(&mut self, length: usize) -> Result<u64, Short> {
        Ok(self.take(length)?.iter().fold(0, |all, &byte| all << 8 | u64::from(byte)))
    }

    /// A number in MySQL's length encoding.
    pub(crate) fn packed(&mut self) -> Result<u64, Short> {
        match self.u8()? {
            small @ 0..=250 => Ok(u64::from(small)),
            252 => self.u16().map(u64::from),
            253 => self.u24().map(u64::from),
            254 => self.u64(),
            251 | 255 => Err(Short),
        }
    }

    /// Bytes after their length in MySQL's length encoding.
    pub(crate) fn packed_bytes(&mut self) -> Result<&'a [u8], Short> {
        let length = self.packed()?;
        self.take(usize::try_from(length).map_err(|_| Short)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_both_orders_and_never_past_the_end() {
        let mut bytes = Bytes::new(&[1, 2, 3, 1, 2, 3, 0xfc, 1, 2, 0xfd, 1, 2, 3, 9]);
        assert_eq!(bytes.little(3), Ok(0x03_02_01));
        assert_eq!(bytes.big(3), Ok(0x01_02_03));
        assert_eq!(bytes.packed(), Ok(0x0201));
        assert_eq!(bytes.packed(), Ok(0x03_02_01));
        assert_eq!(bytes.packed_bytes(), Err(Short));
        assert_eq!(Bytes::new(&[1]).u16(), Err(Short));
        assert_eq!(
            Bytes::new(&[0xfe, 255, 255, 255, 255, 255, 255, 255, 255]).packed_bytes(),
            Err(Short)
        );
    }
}
