//! Addresses of the internet, as MariaDB shows them.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The text of an `inet6`: its longest run of zeros is left out, the first of several, be it a single
/// one; and what stands for an IPv4 address ends as one (`plugin/type_inet`, `Inet6::to_string`).
pub(crate) fn ipv6(bytes: [u8; 16]) -> String {
    let groups = Ipv6Addr::from(bytes).segments();
    let (start, length) = longest_zeros(&groups);
    let [.., a, b, c, d] = bytes;
    let v4 = Ipv4Addr::new(a, b, c, d);
    match (start, length, groups[5]) {
        (0, 6, _) => return format!("::{v4}"),
        (0, 5, 0xffff) => return format!("::ffff:{v4}"),
        _ => {}
    }
    let hex = |groups: &[u16]| -> String {
        groups.iter().map(|group| format!("{group:x}")).collect::<Vec<_>>().join(":")
    };
    if length == 0 {
        return hex(&groups);
    }
    let (before, rest) = groups.split_at(start);
    format!("{}::{}", hex(before), hex(&rest[length..]))
}

/// Where it begins, and how long it is.
fn longest_zeros(groups: &[u16; 8]) -> (usize, usize) {
    let mut longest = (0, 0);
    let mut start = 0;
    for run in groups.split_inclusive(|group| *group != 0) {
        let length = run.iter().take_while(|group| **group == 0).count();
        if length > longest.1 {
            longest = (start, length);
        }
        start += run.len();
    }
    longest
}
