//! One app's nftables table as text: written as one transaction, read from `nft -j`.
//!
//! Only tables with our own mark are ever named here. What leads where is decided in `core/mapping`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use bramble_contracts::v1::Protocol;
use serde_json::Value;

use crate::core::app::AppKey;
use crate::core::mapping::{Address, Mapping, Route};

/// Before Podman's own rules, which are at the usual -100: a port that both know is ours.
const BEFORE_PODMAN: i32 = -110;

/// How the tables of one agent begin. Agents that share a machine have different folders for their apps.
pub(super) fn mark(apps: &str) -> String {
    let hash = bramble_contracts::bytes::Sha256::of(apps.as_bytes()).to_string();
    format!("bramble-{}-", &hash[..8])
}

/// The table of one app.
pub(super) fn table(mark: &str, key: &AppKey) -> String {
    format!("{mark}{key}")
}

/// Whose table it is, if it is one of ours.
pub(super) fn key_of(mark: &str, table: &str) -> Option<AppKey> {
    AppKey::parse(table.strip_prefix(mark)?)
}

/// The transaction that makes the table say this, whatever it said before. Chains stay, so no packet misses them.
pub(super) fn script(table: &str, about: &str, mapping: &Mapping, addresses: &[Address]) -> String {
    let chains = [
        ("ports", None),
        ("local", Some(("filter", "prerouting", -300))),
        ("arriving", Some(("nat", "prerouting", BEFORE_PODMAN))),
        ("leaving", Some(("nat", "output", BEFORE_PODMAN))),
        ("returning", Some(("nat", "postrouting", 90))),
    ];
    let mut text = format!("table inet {table} {{\n comment \"{about}\"\n");
    for (chain, hook) in chains {
        let hook = hook.map(|(kind, hook, priority)| format!("type {kind} hook {hook} priority {priority};"));
        line(&mut text, &format!(" chain {chain} {{ {} }}", hook.unwrap_or_default()));
    }
    line(&mut text, &format!("}}\nflush table inet {table}\ntable inet {table} {{\n chain ports {{"));
    mapping.routes.iter().for_each(|route| line(&mut text, &format!("  {}", rule(route))));
    // Loopback works because the bridge may route to it (see `local`); nobody on the bridge may use that.
    line(&mut text, " }\n chain local {\n  iifname != \"lo\" ip daddr 127.0.0.0/8 drop\n }");
    for chain in ["arriving", "leaving"] {
        let jump = format!("fib daddr type local jump ports comment \"{}\"", mapping.spec);
        line(&mut text, &format!(" chain {chain} {{\n  {jump}\n }}"));
    }
    // An answer must come back the way the question went: from loopback, and from the container's own network. Rules of
    // their own, and no set: the kernel may fill a set a moment after the rules have changed, and a connection that begins
    // in that moment is lost.
    line(&mut text, " chain returning {");
    for Address { ip, prefix } in addresses {
        let (family, loopback) = if ip.is_ipv4() { ("ip", "127.0.0.0/8") } else { ("ip6", "::1") };
        for from in [loopback.to_owned(), format!("{}/{prefix}", network(*ip, *prefix))] {
            line(&mut text, &format!("  ct status dnat {family} saddr {from} {family} daddr {ip} masquerade"));
        }
    }
    line(&mut text, " }\n}");
    text
}

fn line(text: &mut String, add: &str) {
    writeln!(text, "{add}").expect("invariant: a string takes everything");
}

fn rule(route: &Route) -> String {
    let (family, nfproto) = if route.to.is_ipv4() { ("ip", "ipv4") } else { ("ip6", "ipv6") };
    let on = match route.host {
        Some(host) => format!("{family} daddr {host}"),
        None => format!("meta nfproto {nfproto}"),
    };
    format!("{on} {} dport {} dnat {family} to {}", word(route.protocol), route.port, route.to)
}

/// As nftables and people write it.
pub(super) fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn network(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

/// Reads `nft -j list table`. A table that does not look as we write it leads nowhere, so that it is written anew.
pub(super) fn read(json: &str) -> Option<Mapping> {
    let all: Value = serde_json::from_str(json).ok()?;
    let items = all["nftables"].as_array()?;
    let rules = |chain: &str| items.iter().filter_map(|i| i.get("rule")).filter(|r| r["chain"] == chain).collect();
    let (ports, local): (Vec<&Value>, Vec<&Value>) = (rules("ports"), rules("local"));
    let (arriving, leaving, returning): (Vec<&Value>, Vec<&Value>, Vec<&Value>) =
        (rules("arriving"), rules("leaving"), rules("returning"));
    let spec = arriving.first().and_then(|rule| rule["comment"].as_str()).unwrap_or_default().to_owned();
    let routes: Option<BTreeSet<Route>> = ports.iter().map(|rule| read_rule(rule)).collect();
    let routes = routes.unwrap_or_default();
    let behind: BTreeSet<IpAddr> = routes.iter().map(|route| route.to.ip()).collect();
    let jumps = arriving.len() == 1 && leaving.len() == 1 && leaving[0]["comment"] == spec;
    let whole = jumps && local.len() == 1 && returning.len() >= 2 * behind.len();
    Some(Mapping { spec, routes: if whole { routes } else { BTreeSet::new() } })
}

fn read_rule(rule: &Value) -> Option<Route> {
    let parts = rule["expr"].as_array()?;
    let payload = |field: &str| {
        let of_field = |part: &&Value| part["match"]["left"]["payload"]["field"] == field;
        parts.iter().find(of_field).map(|part| &part["match"])
    };
    let port = payload("dport")?;
    let protocol = match port["left"]["payload"]["protocol"].as_str()? {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let host = match payload("daddr") {
        Some(host) => Some(host["right"].as_str()?.parse().ok()?),
        None => None,
    };
    let dnat = parts.iter().find_map(|part| part.get("dnat"))?;
    let to = SocketAddr::new(dnat["addr"].as_str()?.parse().ok()?, number(&dnat["port"])?);
    Some(Route { protocol, port: number(&port["right"])?, host, to })
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64()?.try_into().ok()
}

/// Reads `nft -j list tables`: the names of all of family `inet`.
pub(super) fn read_tables(json: &str) -> Option<BTreeSet<String>> {
    let all: Value = serde_json::from_str(json).ok()?;
    let tables = all["nftables"].as_array()?.iter().filter_map(|item| item.get("table"));
    let names = tables.filter(|table| table["family"] == "inet").filter_map(|table| table["name"].as_str());
    Some(names.map(String::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn mapping() -> Mapping {
        let route = |protocol, port, host: Option<&str>, to: &str| Route {
            protocol,
            port,
            host: host.map(|host| host.parse().unwrap()),
            to: to.parse().unwrap(),
        };
        let routes = [
            route(Protocol::Tcp, 8080, None, "10.50.0.5:80"),
            route(Protocol::Tcp, 8080, None, "[fd50::5]:80"),
            route(Protocol::Udp, 8053, Some("127.0.0.1"), "10.50.0.5:53"),
            route(Protocol::Udp, 8053, Some("::1"), "[fd50::5]:53"),
        ];
        Mapping { spec: SPEC.into(), routes: routes.into() }
    }

    #[test]
    fn a_captured_table_is_read() {
        assert_eq!(read(include_str!("../captured/nft_table.json")), Some(mapping()));
    }

    #[test]
    fn a_table_that_somebody_changed_leads_nowhere() {
        let whole: Value = serde_json::from_str(include_str!("../captured/nft_table.json")).unwrap();
        let rules: Vec<usize> = (0..whole["nftables"].as_array().unwrap().len())
            .filter(|i| whole["nftables"][i]["rule"].is_object())
            .collect();
        assert_eq!(rules.len(), 11);
        for gone in rules {
            let mut less = whole.clone();
            less["nftables"].as_array_mut().unwrap().remove(gone);
            let read = read(&less.to_string()).unwrap();
            assert_ne!(read, mapping(), "without {}", whole["nftables"][gone]);
        }
        assert_eq!(read("nonsense"), None);
    }

    #[test]
    fn the_transaction_replaces_every_rule_and_no_chain() {
        let addresses = [("10.50.0.5", 24), ("fd50::5", 64)];
        let addresses = addresses.map(|(ip, prefix)| Address { ip: ip.parse().unwrap(), prefix });
        let text = script("bramble-x-default.web", "web", &mapping(), &addresses);
        assert_eq!(text.matches("flush table inet bramble-x-default.web\n").count(), 1);
        assert!(!text.contains("delete") && !text.contains("flush ruleset"), "{text}");
        assert!(text.contains("  ip6 daddr ::1 udp dport 8053 dnat ip6 to [fd50::5]:53\n"), "{text}");
        for from in ["ip saddr 127.0.0.0/8 ip daddr 10.50.0.5", "ip saddr 10.50.0.0/24 ip daddr 10.50.0.5"] {
            assert!(text.contains(&format!("  ct status dnat {from} masquerade\n")), "{text}");
        }
        for from in ["ip6 saddr ::1 ip6 daddr fd50::5", "ip6 saddr fd50::/64 ip6 daddr fd50::5"] {
            assert!(text.contains(&format!("  ct status dnat {from} masquerade\n")), "{text}");
        }
        assert_eq!(text.matches('{').count(), 12, "no sets: {text}");
    }

    #[test]
    fn tables_of_agents_on_one_machine_are_told_apart() {
        let (one, two) = (mark("/a/apps"), mark("/b/apps"));
        let key = AppKey::parse("default.web").unwrap();
        assert_ne!(one, two);
        assert_eq!(key_of(&one, &table(&one, &key)), Some(key.clone()));
        assert_eq!(key_of(&one, &table(&two, &key)), None);
        assert_eq!(key_of(&one, "filter"), None);
        let json = r#"{"nftables":[{"metainfo":{}},{"table":{"family":"inet","name":"a","handle":1}},
            {"table":{"family":"ip","name":"nat","handle":2}}]}"#;
        assert_eq!(read_tables(json), Some(["a".to_owned()].into()));
    }
}
