use std::{collections::BTreeMap, fmt, str::FromStr};

use uuid::Uuid;

/// A place in a binlog: the end of a whole transaction.
///
/// Its text is `FILE:OFFSET`, then the GTIDs of all before it if they are known (`-` when there are
/// none), then `@` and the server whose file it is: `mysql-bin.000003:4711 0-1001-12 @1001`. When
/// transactions are prepared there (XA) and not ended, `^` and the place follow where reading has to
/// begin to have them too. In a file's name `\s` is a blank, `\h` is `^` and `\\` is `\`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) offset: u64,
    pub(crate) gtids: Option<Gtids>,
    pub(crate) server: Option<String>,
    /// From here on prepared transactions are needed.
    pub(crate) since: Option<Box<Self>>,
}

impl Place {
    /// Whether everything before `other` is before this place. GTIDs decide where both have some;
    /// else the number of the file, which orders files as their names do not, and the offset.
    pub(crate) fn reached(&self, other: &Self) -> bool {
        match (&self.gtids, &other.gtids) {
            (Some(mine), Some(theirs)) if !theirs.is_empty() => mine.contains(theirs),
            _ => (file_number(&self.file), self.offset) >= (file_number(&other.file), other.offset),
        }
    }
}

pub(crate) fn file_number(file: &str) -> u64 {
    file.rsplit('.').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What must not be in a file's name in a place's text, and what stands for it after a `\`.
const ESCAPES: [(char, char); 3] = [(' ', 's'), ('^', 'h'), ('\\', '\\')];

/// A name without its escapes; a `\` before anything else is itself.
fn unescaped(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        let next = rest.clone().next().filter(|_| character == '\\');
        match ESCAPES.iter().find(|(_, escape)| Some(*escape) == next) {
            Some((plain, _)) => {
                rest.next();
                name.push(*plain);
            }
            None => name.push(character),
        }
    }
    name
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.file.chars() {
            match ESCAPES.iter().find(|(plain, _)| *plain == character) {
                Some((_, escape)) => write!(f, "\\{escape}")?,
                None => write!(f, "{character}")?,
            }
        }
        write!(f, ":{}", self.offset)?;
        match &self.gtids {
            Some(gtids) if gtids.is_empty() => f.write_str(" -")?,
            Some(gtids) => write!(f, " {gtids}")?,
            None => {}
        }
        if let Some(server) = &self.server {
            write!(f, " @{server}")?;
        }
        if let Some(since) = &self.since {
            write!(f, " ^{since}")?;
        }
        Ok(())
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (text, since) = match text.split_once(" ^") {
            Some((_, since)) if since.contains('^') => return Err(()),
            Some((text, since)) => (text, Some(Box::new(since.parse()?))),
            None => (text, None),
        };
        let mut words = text.split(' ');
        let (file, offset) = words.next().and_then(|w| w.rsplit_once(':')).ok_or(())?;
        let offset = offset.parse().map_err(|_| ())?;
        if file.is_empty() {
            return Err(());
        }
        let mut place = Self { file: unescaped(file), offset, since, ..Self::default() };
        for word in words {
            match word.strip_prefix('@') {
                Some(server) if place.server.is_none() => place.server = Some(server.to_owned()),
                None if place.gtids.is_none() && place.server.is_none() => {
                    place.gtids = Some(if word == "-" { Gtids::default() } else { word.parse()? });
                }
                _ => return Err(()),
            }
        }
        Ok(place)
    }
}

/// Global transaction identifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gtids {
    /// The newest of each domain: server and number.
    MariaDb(BTreeMap<u32, (u32, u64)>),
    /// The numbers of each server, and of each tag of it, as ranges with both ends.
    MySql(BTreeMap<String, Vec<(u64, u64)>>),
}

impl Default for Gtids {
    fn default() -> Self {
        Self::MySql(BTreeMap::new())
    }
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gtid {
    MariaDb { domain: u32, server: u32, number: u64 },
    MySql { server: String, number: u64 },
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MariaDb { domain, server, number } => write!(f, "{domain}-{server}-{number}"),
            Self::MySql { server, number } => write!(f, "{server}:{number}"),
        }
    }
}

impl Gtids {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::MariaDb(domains) => domains.is_empty(),
            Self::MySql(servers) => servers.is_empty(),
        }
    }

    /// Whether all of `other` are here.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (_, none) if none.is_empty() => true,
            (Self::MariaDb(mine), Self::MariaDb(theirs)) => theirs
                .iter()
                .all(|(domain, (_, number))| mine.get(domain).is_some_and(|(_, n)| n >= number)),
            (Self::MySql(mine), Self::MySql(theirs)) => theirs.iter().all(|(server, ranges)| {
                let mine = mine.get(server).map_or(&[][..], Vec::as_slice);
                ranges.iter().all(|(from, to)| mine.iter().any(|(f, t)| f <= from && t >= to))
            }),
            _ => false,
        }
    }

    pub(crate) fn add(&mut self, gtid: &Gtid) {
        match (&mut *self, gtid) {
            (Self::MariaDb(domains), Gtid::MariaDb { domain, server, number }) => {
                domains.insert(*domain, (*server, *number));
            }
            (Self::MySql(servers), Gtid::MySql { server, number }) => {
                let ranges = servers.entry(server.clone()).or_default();
                // Nearly always the one after the newest.
                match ranges.last_mut() {
                    Some((_, to)) if to.checked_add(1) == Some(*number) => *to = *number,
                    _ => {
                        ranges.push((*number, *number));
                        join(ranges);
                    }
                }
            }
            (all, gtid) if all.is_empty() => {
                *all = match gtid {
                    Gtid::MariaDb { domain, server, number } => {
                        Self::MariaDb([(*domain, (*server, *number))].into())
                    }
                    Gtid::MySql { server, number } => {
                        Self::MySql([(server.clone(), vec![(*number, *number)])].into())
                    }
                };
            }
            _ => {}
        }
    }
}

/// Sorts ranges and makes one of those that touch.
fn join(ranges: &mut Vec<(u64, u64)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let touches = next.0 <= before.1.saturating_add(1);
        if touches {
            before.1 = before.1.max(next.1);
        }
        touches
    });
}

impl fmt::Display for Gtids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MariaDb(domains) => {
                for (i, (domain, (server, number))) in domains.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{domain}-{server}-{number}")?;
                }
            }
            Self::MySql(servers) => {
                for (i, (server, ranges)) in servers.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{server}")?;
                    for (from, to) in ranges {
                        if from == to {
                            write!(f, ":{from}")?;
                        } else {
                            write!(f, ":{from}-{to}")?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Gtids {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text: String = text.split_whitespace().collect();
        let mut servers = BTreeMap::new();
        let mut domains = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            if part.contains(':') {
                mysql(part, &mut servers)?;
            } else {
                let mut numbers = part.split('-');
                let mut next = || numbers.next().ok_or(());
                let domain = next()?.parse().map_err(|_| ())?;
                let server = next()?.parse().map_err(|_| ())?;
                let number = next()?.parse().map_err(|_| ())?;
                if numbers.next().is_some() {
                    return Err(());
                }
                domains.insert(domain, (server, number));
            }
        }
        servers.values_mut().for_each(join);
        match (domains.is_empty(), servers.is_empty()) {
            (true, _) => Ok(Self::MySql(servers)),
            (_, true) => Ok(Self::MariaDb(domains)),
            _ => Err(()),
        }
    }
}

/// `UUID:1-5:7`, or with tags `UUID:1-5:tag:1-3`.
fn mysql(part: &str, servers: &mut BTreeMap<String, Vec<(u64, u64)>>) -> Result<(), ()> {
    let mut words = part.split(':');
    let server = Uuid::try_parse(words.next().ok_or(())?).map_err(drop)?.to_string();
    let mut key = server.clone();
    for word in words {
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let (from, to) = word.split_once('-').unwrap_or((word, word));
            let (from, to) = (from.parse().map_err(|_| ())?, to.parse().map_err(|_| ())?);
            if from == 0 || to < from {
                return Err(());
            }
            servers.entry(key.clone()).or_default().push((from, to));
        } else {
            key = format!("{server}:{}", word.to_ascii_lowercase());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn the_stored_form_is_pinned_and_reads_back() {
        let set = format!("{SERVER}:1-5:7,{SERVER}:tag:1");
        for text in [
            "mysql-bin.000003:4711",
            "mysql-bin.000003:4711 0-1001-12,3-7-9 @1001",
            "a:b.000003:4711 - @1001",
            "mysql-bin.000003:4711 @1001",
            "mysql-bin.000003:4711 0-1001-12 @1001 ^mysql-bin.000002:4 0-1001-1",
            &format!("binlog.000003:4711 {set} @{SERVER}"),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.to_string(), text);
        }
        let place = Place {
            file: "mysql-bin.000003".to_owned(),
            offset: 4711,
            gtids: Some("0-1001-12".parse().unwrap()),
            server: Some("1001".to_owned()),
            since: None,
        };
        assert_eq!(place.to_string(), "mysql-bin.000003:4711 0-1001-12 @1001");
        for wrong in [
            "",
            "x",
            ":4",
            "a:x",
            "a:1 0-1",
            "a:1 0-1-2,x:1",
            "a:1 @1 0-1-2",
            "a:1 x:1-2",
            "a:1 ^x",
            "a:1 ^a:1 ^a:1",
        ] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn places_are_ordered_by_gtid_or_by_the_number_of_the_file() {
        let place = |text: &str| text.parse::<Place>().unwrap();
        assert!(place("a.1000000:4").reached(&place("a.999999:99")));
        assert!(!place("a.000002:4").reached(&place("a.000002:5")));
        assert!(place("a.000001:4 0-1-5").reached(&place("a.000009:4 0-2-5")));
        assert!(!place("a.000009:4 0-1-5").reached(&place("a.000001:4 0-1-5,1-1-1")));
        assert!(place("a.000009:4 0-1-5").reached(&place("a.000009:4")));
        let sets = |a: &str, b: &str| {
            place(&format!("a.1:4 {SERVER}:{a}")).reached(&place(&format!("a.9:4 {SERVER}:{b}")))
        };
        assert!(sets("1-5:7-9", "2-4:8"));
        assert!(!sets("1-5:7-9", "5-7"));
    }

    #[test]
    fn numbers_added_in_any_order_are_ranges() {
        let mut set = Gtids::default();
        for number in [1, 2, 5, 4, 3, 9] {
            set.add(&Gtid::MySql { server: SERVER.to_owned(), number });
        }
        assert_eq!(set.to_string(), format!("{SERVER}:1-5:9"));
    }
}
