//! Judges addresses: finds those on the public Internet, and classifies all others.
//!
//! The blocks are those of the IANA special-purpose address registries (RFC 6890 and its updates).
//! A few cloud providers' metadata services are added, which lie in blocks that would otherwise be
//! allowed.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};

/// The owner of an address, as far as the address shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// A place on the public Internet.
    Public,
    /// This host itself. Reachable only with
    /// [`Grants::allow_loopback`](crate::Grants::allow_loopback).
    Loopback,
    /// A private network (RFC 1918, RFC 4193). Reachable only with
    /// [`Grants::allow_private`](crate::Grants::allow_private).
    Private,
    /// All other addresses: link-local, metadata services, multicast, documentation and so on.
    /// Never reachable.
    Special,
}

/// The judgement of an address: its scope and its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Judged {
    scope: Scope,
    block: &'static str,
}

impl Judged {
    /// The owner of the address.
    #[must_use]
    pub fn scope(self) -> Scope {
        self.scope
    }

    /// The purpose of the block and its source: `link-local, RFC 3927`.
    #[must_use]
    pub fn block(self) -> &'static str {
        self.block
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.block)
    }
}

/// Judges an address.
///
/// An IPv4 address in an IPv6 address (v4-mapped, RFC 4291) is judged as the IPv4 address. An
/// address behind NAT64 (RFC 6052) is public if its IPv4 address is public. Otherwise it is
/// special, since the prefix is for public addresses only.
///
/// ```
/// use protostub_egress::{Scope, judge};
/// assert_eq!(judge("192.0.43.8".parse()?).scope(), Scope::Public);
/// assert_eq!(judge("::ffff:10.0.0.1".parse()?).scope(), Scope::Private);
/// assert_eq!(judge("169.254.169.254".parse()?).scope(), Scope::Special);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[must_use]
pub fn judge(address: IpAddr) -> Judged {
    match address.to_canonical() {
        IpAddr::V4(address) => judge_v4(address),
        IpAddr::V6(address) => judge_v6(address),
    }
}

const PUBLIC: &str = "public";

fn judge_v4(address: Ipv4Addr) -> Judged {
    V4.iter()
        .find(|(net, ..)| net.contains(&address))
        .map_or(Judged { scope: Scope::Public, block: PUBLIC }, |&(_, scope, block)| Judged { scope, block })
}

fn judge_v6(address: Ipv6Addr) -> Judged {
    if NAT64.contains(&address) {
        let [.., a, b, c, d] = address.octets();
        return match judge_v4(Ipv4Addr::new(a, b, c, d)).scope {
            Scope::Public => Judged { scope: Scope::Public, block: "public behind NAT64, RFC 6052" },
            _ => Judged { scope: Scope::Special, block: "NAT64 of an address that is not public, RFC 6052 section 3.1" },
        };
    }
    V6.iter()
        .find(|(net, ..)| net.contains(&address))
        // Addresses that IANA has not allocated as global unicast have no owner or are a special
        // case.
        .map_or(
            Judged { scope: Scope::Special, block: "outside the global unicast block 2000::/3, RFC 4291" },
            |&(_, scope, block)| Judged { scope, block },
        )
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(head: [u16; 6], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f] = head;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, 0, 0), prefix)
}

use Scope::{Loopback, Private, Public, Special};

/// The first block that contains an address decides. An address outside all blocks is public.
const V4: &[(Ipv4Net, Scope, &str)] = &[
    (v4(127, 0, 0, 0, 8), Loopback, "loopback, RFC 1122"),
    (v4(10, 0, 0, 0, 8), Private, "private, RFC 1918"),
    (v4(172, 16, 0, 0, 12), Private, "private, RFC 1918"),
    (v4(192, 168, 0, 0, 16), Private, "private, RFC 1918"),
    (v4(0, 0, 0, 0, 8), Special, "unspecified or this network, RFC 791"),
    (v4(169, 254, 169, 254, 32), Special, "link-local and the metadata service of most clouds, RFC 3927"),
    (v4(169, 254, 0, 0, 16), Special, "link-local, RFC 3927"),
    (v4(100, 100, 100, 200, 32), Special, "the metadata service of Alibaba Cloud"),
    (v4(100, 64, 0, 0, 10), Special, "shared between carrier and customer, RFC 6598"),
    (v4(192, 0, 0, 0, 24), Special, "reserved for protocol assignments, RFC 6890"),
    (v4(192, 0, 2, 0, 24), Special, "for documentation, RFC 5737"),
    (v4(198, 51, 100, 0, 24), Special, "for documentation, RFC 5737"),
    (v4(203, 0, 113, 0, 24), Special, "for documentation, RFC 5737"),
    (v4(192, 88, 99, 0, 24), Special, "of 6to4 relays, RFC 7526"),
    (v4(198, 18, 0, 0, 15), Special, "for benchmarking, RFC 2544"),
    (v4(168, 63, 129, 16, 32), Special, "the platform's service address of Azure"),
    (v4(224, 0, 0, 0, 4), Special, "multicast, RFC 5771"),
    (v4(255, 255, 255, 255, 32), Special, "broadcast, RFC 919"),
    (v4(240, 0, 0, 0, 4), Special, "reserved, RFC 1112"),
];

/// `64:ff9b::/96`, RFC 6052. Its sibling for local use, `64:ff9b:1::/48` (RFC 8215), is special: it
/// does not define the position of the IPv4 address.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0], 96);

/// The first block that contains an address decides. An address outside all blocks is special.
const V6: &[(Ipv6Net, Scope, &str)] = &[
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), Loopback, "loopback, RFC 4291"),
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), Special, "unspecified, RFC 4291"),
    (v6([0; 6], 96), Special, "IPv4-compatible, RFC 4291"),
    (v6([0x64, 0xff9b, 1, 0, 0, 0], 48), Special, "NAT64 for local use, RFC 8215"),
    (v6([0x100, 0, 0, 0, 0, 0], 64), Special, "for discarding, RFC 6666"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32), Special, "the metadata service of AWS"),
    (
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
        Special,
        "the metadata service of Google Cloud",
    ),
    (v6([0xfc00, 0, 0, 0, 0, 0], 7), Private, "private, RFC 4193"),
    (v6([0xfe80, 0, 0, 0, 0, 0], 10), Special, "link-local, RFC 4291"),
    (v6([0xfec0, 0, 0, 0, 0, 0], 10), Special, "site-local, RFC 3879"),
    (v6([0xff00, 0, 0, 0, 0, 0], 8), Special, "multicast, RFC 4291"),
    (v6([0x2001, 0, 0, 0, 0, 0], 32), Special, "Teredo, RFC 4380"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0], 32), Special, "for documentation, RFC 3849"),
    (v6([0x2001, 0, 0, 0, 0, 0], 23), Special, "reserved for protocol assignments, RFC 2928"),
    (v6([0x2002, 0, 0, 0, 0, 0], 16), Special, "6to4, RFC 7526"),
    (v6([0x3fff, 0, 0, 0, 0, 0], 20), Special, "for documentation, RFC 9637"),
    (v6([0x2000, 0, 0, 0, 0, 0], 3), Public, PUBLIC),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_judged_by_their_block() {
        let check = |address: &str, expected: Scope| {
            let judged = judge(address.parse().unwrap());
            assert_eq!(judged.scope(), expected, "{address} is {judged}");
        };
        for address in
            ["1.1.1.1", "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "100.63.255.255", "100.128.0.0"]
        {
            check(address, Public);
        }
        for address in
            ["223.255.255.255", "198.17.255.255", "198.20.0.0", "126.255.255.255", "128.0.0.0", "169.253.0.1", "192.169.0.0"]
        {
            check(address, Public);
        }
        for address in ["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"] {
            check(address, Loopback);
        }
        for address in
            ["10.0.0.0", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "fc00::1", "fdff::1", "::ffff:10.0.0.1"]
        {
            check(address, Private);
        }
        // IPv4: the first and last address of each special block.
        for (first, last) in [
            ("0.0.0.0", "0.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.88.99.0", "192.88.99.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "239.255.255.255"),
            ("240.0.0.0", "255.255.255.255"),
        ] {
            check(first, Special);
            check(last, Special);
            check(&format!("::ffff:{first}"), Special);
            check(&format!("64:ff9b::{last}"), Special);
        }
        for metadata in ["169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"] {
            check(metadata, Special);
        }
        check("2606:4700:4700::1111", Public);
        check("2a00:1450::1", Public);
        check("3ffe::1", Public);
        for address in
            ["::", "::2", "::7f00:1", "100::1", "fe80::1", "febf::1", "fec0::1", "ff02::1", "ff0e::1", "4000::1", "5f00::1"]
        {
            check(address, Special);
        }
        for address in ["2001::1", "2001:20::1", "2001:1ff:ffff::", "2001:db8::1", "3fff::1", "2002:808:808::1", "2002:7f00:1::"]
        {
            check(address, Special);
        }
        check("2001:200::1", Public);
        check("64:ff9b::8.8.8.8", Public);
        for embedded in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0"] {
            check(&format!("64:ff9b::{embedded}"), Special);
        }
        check("64:ff9b:1::808:808", Special);
        check("64:ff9b::1:0:0", Special);
    }
}
