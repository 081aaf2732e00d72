use std::sync::Arc;

/// A message as it came, owned.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// When it was written, in microseconds since 1970.
    pub(crate) micros: i64,
    /// Key and value, one after the other.
    bytes: Box<[u8]>,
    /// How much of it is the key, if there is one.
    key: Option<usize>,
    has_value: bool,
    /// The key its row had before, where the row is one that got another key.
    pub(crate) old_key: Option<Box<[u8]>>,
}

impl Record {
    pub(crate) fn new(
        topic: Arc<str>,
        (partition, offset): (i32, i64),
        micros: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Self {
        let bytes = [key.unwrap_or_default(), value.unwrap_or_default()].concat();
        Self {
            topic,
            partition,
            offset,
            micros,
            bytes: bytes.into_boxed_slice(),
            key: key.map(<[u8]>::len),
            has_value: value.is_some(),
            old_key: None,
        }
    }

    /// A message that was put aside: its [`Self::place`], and what [`Self::framed`] made of it.
    pub(crate) fn kept(place: &str, framed: &[u8]) -> Option<Self> {
        let mut parts = place.rsplitn(3, '/');
        let offset = parts.next()?.parse().ok()?;
        let partition = parts.next()?.parse().ok()?;
        let topic = Arc::from(parts.next()?);
        let (length, bytes) = framed.split_first_chunk()?;
        let (key, value) = match u32::from_be_bytes(*length) {
            u32::MAX => (None, bytes),
            length => {
                let (key, value) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
                (Some(key), value)
            }
        };
        let value = Some(value).filter(|value| !value.is_empty());
        Some(Self::new(topic, (partition, offset), 0, key, value))
    }

    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.bytes.get(..self.key?)
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.has_value.then(|| self.bytes.get(self.key.unwrap_or(0)..)).flatten()
    }

    /// Bytes of memory it takes, about.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }

    /// Its place: topic, partition and offset.
    pub(crate) fn place(&self) -> String {
        format!("{}/{}/{}", self.topic, self.partition, self.offset)
    }

    /// Key and value in one: the length of the key in four bytes, the highest first, all ones where
    /// there is none; the key; the value.
    pub(crate) fn framed(&self) -> Vec<u8> {
        let length = self.key.map_or(u32::MAX, |k| u32::try_from(k).unwrap_or(u32::MAX));
        [&length.to_be_bytes()[..], &self.bytes].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_message_is_the_message() {
        for (key, value) in
            [(Some(&b"k"[..]), Some(&b"value"[..])), (None, Some(b"v")), (Some(b""), None)]
        {
            let record = Record::new(Arc::from("a/b.c"), (3, 17), 5, key, value);
            let kept = Record::kept(&record.place(), &record.framed()).unwrap();
            assert_eq!((kept.key(), kept.value(), kept.place()), (key, value, record.place()));
        }
        assert!(Record::kept("t/0/x", b"\xff\xff\xff\xff").is_none());
        assert!(Record::kept("t/0/1", b"\0\0\0\x02k").is_none());
    }
}
