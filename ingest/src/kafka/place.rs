use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use crate::kafka::error::KafkaSourceError;

/// The next message of every partition that was read at all, by topic and partition.
///
/// As text `topic/0=17,1=4;other/0=9`: topics have no other characters than letters, digits, `.`, `_`
/// and `-`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place(BTreeMap<Arc<str>, BTreeMap<i32, i64>>);

impl Place {
    pub(crate) fn next(&self, topic: &str, partition: i32) -> Option<i64> {
        self.0.get(topic)?.get(&partition).copied()
    }

    /// The place after a message is behind it; one is never left again.
    pub(crate) fn pass(&mut self, topic: &Arc<str>, partition: i32, next: i64) {
        let partitions = match self.0.get_mut(topic) {
            Some(partitions) => partitions,
            None => self.0.entry(Arc::clone(topic)).or_default(),
        };
        let offset = partitions.entry(partition).or_insert(next);
        *offset = next.max(*offset);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, i32, i64)> {
        self.0.iter().flat_map(|(t, partitions)| partitions.iter().map(move |(p, o)| (t, *p, *o)))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (topic, partitions)) in self.0.iter().enumerate() {
            write!(f, "{}{topic}/", if at == 0 { "" } else { ";" })?;
            for (at, (partition, offset)) in partitions.iter().enumerate() {
                write!(f, "{}{partition}={offset}", if at == 0 { "" } else { "," })?;
            }
        }
        Ok(())
    }
}

impl FromStr for Place {
    type Err = KafkaSourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut place = Self::default();
            for topic in text.split(';').filter(|t| !t.is_empty()) {
                let (topic, partitions) = topic.split_once('/')?;
                let topic = Arc::from(topic);
                for partition in partitions.split(',') {
                    let (partition, offset) = partition.split_once('=')?;
                    place.pass(&topic, partition.parse().ok()?, offset.parse().ok()?);
                }
            }
            Some(place)
        };
        parse().ok_or_else(|| KafkaSourceError::Place { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_is_pinned_and_reads_back() {
        let text = "his.db.orders/0=17,1=4,10=0;his.transaction/0=9";
        let place: Place = text.parse().unwrap();
        assert_eq!(place.to_string(), text);
        assert_eq!(place.next("his.db.orders", 10), Some(0));
        assert_eq!(place.next("his.db.orders", 2), None);
        assert_eq!("".parse::<Place>().unwrap(), Place::default());
        for wrong in ["x", "x/", "x/0", "x/0=", "x/a=1", "x/0=1;y"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
