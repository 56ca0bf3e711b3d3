//! Stale rules in the table of netavark's nftables driver, the one of Debian 13.
//!
//! No rule there says whose it is. Stale is what leads a port of the container to an address that no container with this
//! port has; with it goes what only serves it, the jump to its chain and the marks. Containers of another store of Podman
//! are not known here: two stores that publish the same port on one machine take it from each other.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::host::cmd::{self, Bounds};
use crate::host::podman::PortLine;

const TABLE: &str = "netavark";
/// Every forwarding begins here, with a jump to the chain of its network.
const HOOK: &str = "NETAVARK-HOSTPORT-DNAT";
const BOUNDS: Bounds = Bounds { time: Duration::from_secs(10), output_bytes: 4 << 20 };

/// Deletes what is stale. Who holds which address is asked after the rules were listed, so
/// a container that starts meanwhile loses nothing, and not at all where no rule is for these ports.
pub async fn clear(ports: &[PortLine], held: impl Future<Output = Result<Vec<IpAddr>, String>>) {
    let listed = match nft(&["-j", "list", "table", "inet", TABLE], "").await {
        Ok(listed) => listed,
        Err(why) => return tracing::debug!(why, "netavark has no port forwardings in nftables"),
    };
    let rules = match read(&listed) {
        Ok(rules) => rules,
        Err(why) => return tracing::warn!(why, "port forwardings cannot be listed"),
    };
    if stale(&rules, ports, &[]).is_empty() {
        return;
    }
    let held = match held.await {
        Ok(held) => held,
        Err(why) => return tracing::warn!(why, "it is not known which port forwardings are stale; they stay"),
    };
    let stale = stale(&rules, ports, &held);
    if stale.is_empty() {
        return;
    }
    tracing::warn!(?stale, "deleting port forwardings that a cut start left behind");
    // All or none: a jump without its forwarding, and the reverse, is what netavark does not clean up.
    if let Err(why) = nft(&["-j", "-f", "-"], &deletion(&stale)).await {
        tracing::warn!(why, "port forwardings stay");
    }
}

async fn nft(args: &[&str], input: &str) -> Result<String, String> {
    let done = Box::pin(cmd::feed(Path::new("nft"), args, input, BOUNDS)).await.map_err(|err| err.to_string())?;
    if done.status.success() { Ok(done.stdout) } else { Err(done.stderr.trim().to_owned()) }
}

/// A rule about ports of the host.
#[derive(Debug)]
struct Rule {
    chain: String,
    handle: u64,
    /// The host's address it is for; none: all of them.
    host: Option<IpAddr>,
    protocol: String,
    ports: RangeInclusive<u16>,
    end: End,
}

/// What becomes of a packet.
#[derive(Debug)]
enum End {
    To(IpAddr),
    Jump(String),
}

impl Rule {
    fn to(&self) -> Option<IpAddr> {
        match self.end {
            End::To(address) => Some(address),
            End::Jump(_) => None,
        }
    }

    /// The chain of the network that it is about.
    fn network(&self) -> &str {
        match &self.end {
            End::Jump(chain) if self.chain == HOOK => chain,
            _ => &self.chain,
        }
    }

    /// It is for this port, on these addresses of the host.
    fn forwards(&self, port: &PortLine) -> bool {
        let all = port.ports();
        let same_port = all.contains(self.ports.start()) && all.contains(self.ports.end());
        let same_host = match self.host {
            Some(host) => port.host_ip.parse() == Ok(host),
            None => port.is_on_all(),
        };
        same_port && same_host && self.protocol == port.protocol
    }

    /// It does something for this forwarding.
    fn serves(&self, forwarding: &Self) -> bool {
        self.network() == forwarding.network()
            && self.host == forwarding.host
            && self.protocol == forwarding.protocol
            && self.ports.contains(forwarding.ports.start())
    }
}

/// The rules to delete.
fn stale<'a>(rules: &'a [Rule], ports: &[PortLine], held: &[IpAddr]) -> Vec<&'a Rule> {
    let own: Vec<&Rule> = rules.iter().filter(|rule| ports.iter().any(|port| rule.forwards(port))).collect();
    let (dead, rest): (Vec<&Rule>, Vec<&Rule>) =
        own.into_iter().partition(|rule| rule.to().is_some_and(|address| !held.contains(&address)));
    let alive = |jump: &Rule| rest.iter().any(|rule| rule.to().is_some() && jump.serves(rule));
    let idle = |rule: &&&Rule| rule.to().is_none() && dead.iter().any(|dead| rule.serves(dead)) && !alive(rule);
    let idle: Vec<&Rule> = rest.iter().filter(idle).copied().collect();
    [dead, idle].concat()
}

/// One transaction, for `nft -j -f`.
fn deletion(rules: &[&Rule]) -> String {
    let delete = |rule: &&Rule| {
        json!({ "delete": { "rule": {
            "family": "inet", "table": TABLE, "chain": rule.chain, "handle": rule.handle,
        } } })
    };
    json!({ "nftables": rules.iter().map(delete).collect::<Vec<_>>() }).to_string()
}

/// Reads `nft -j list table`: its rules about ports of the host. Others are not looked at.
fn read(json: &str) -> Result<Vec<Rule>, String> {
    let all: Value = serde_json::from_str(json).map_err(|err| format!("nft's list cannot be read: {err}"))?;
    let items = all["nftables"].as_array().ok_or("nft's list has no entries")?;
    Ok(items.iter().filter_map(|item| rule(item.get("rule")?)).collect())
}

fn rule(rule: &Value) -> Option<Rule> {
    let parts = rule["expr"].as_array()?;
    let payload = |field: &str| {
        let of_field = |part: &&Value| part["match"]["left"]["payload"]["field"] == field;
        parts.iter().find(of_field).map(|part| &part["match"])
    };
    let dport = payload("dport").filter(|port| port["op"] == "==")?;
    let host = match payload("daddr") {
        Some(host) if host["op"] == "==" => Some(address(&host["right"])?),
        Some(_) => return None,
        None => None,
    };
    let ports = match &dport["right"]["range"] {
        Value::Null => number(&dport["right"])?..=number(&dport["right"])?,
        range => number(&range[0])?..=number(&range[1])?,
    };
    let end = |part: &Value| match part.get("dnat") {
        Some(dnat) => address(&dnat["addr"]).map(End::To),
        None => part["jump"]["target"].as_str().map(|chain| End::Jump(chain.to_owned())),
    };
    Some(Rule {
        chain: rule["chain"].as_str()?.to_owned(),
        handle: rule["handle"].as_u64()?,
        host,
        protocol: dport["left"]["payload"]["protocol"].as_str()?.to_owned(),
        ports,
        end: parts.iter().find_map(end)?,
    })
}

fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An app on port 8080 of all addresses, at 10.88.0.2: captured on Debian 13 (nft 1.1.3), shortened.
    const LISTED: &str = include_str!("../captured/nft_netavark.json");
    const CHAIN: &str = "nv_2f259bab_10_88_0_0_nm16_dnat";

    fn port(host_ip: &str, host_port: u16, range: u16) -> PortLine {
        PortLine { host_ip: host_ip.into(), host_port, range, protocol: "tcp".into() }
    }

    fn held(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    /// What netavark adds for one port, from this handle on.
    fn forwarding(handle: u64, host: Option<&str>, dport: &Value, to: &[(&str, u16)]) -> Vec<Value> {
        let is = |protocol: &str, field: &str, right: Value| {
            json!({ "match": { "op": "==", "right": right,
                "left": { "payload": { "protocol": protocol, "field": field } } } })
        };
        let rule = |n: u64, chain: &str, from: Option<Value>, dport: Value, end: Value| {
            let host = host.map(|host| is("ip", "daddr", host.into()));
            let from = from.map(|from| is("ip", "saddr", from));
            let dport = is("tcp", "dport", dport);
            let parts: Vec<Value> = [from, host, Some(dport), Some(end)].into_iter().flatten().collect();
            json!({ "rule": { "chain": chain, "handle": handle + n, "expr": parts } })
        };
        let jump = |target: &str| json!({ "jump": { "target": target } });
        let subnet = json!({ "prefix": { "addr": "10.88.0.0", "len": 16 } });
        let mark = "NETAVARK-HOSTPORT-SETMARK";
        let mut all = vec![
            rule(0, HOOK, None, dport.clone(), jump(CHAIN)),
            rule(1, CHAIN, Some(subnet), dport.clone(), jump(mark)),
            rule(2, CHAIN, Some("127.0.0.1".into()), dport.clone(), jump(mark)),
        ];
        for (n, (address, port)) in (3..).zip(to) {
            let dnat = json!({ "dnat": { "family": "ip", "addr": address, "port": 80 } });
            all.push(rule(n, CHAIN, None, (*port).into(), dnat));
        }
        all
    }

    fn with(more: &[Vec<Value>]) -> Vec<Rule> {
        let mut all: Value = serde_json::from_str(LISTED).unwrap();
        all["nftables"].as_array_mut().unwrap().extend(more.concat());
        read(&all.to_string()).unwrap()
    }

    fn found(rules: &[Rule], port: PortLine, held: &[IpAddr]) -> Vec<u64> {
        let mut handles: Vec<u64> = stale(rules, &[port], held).iter().map(|rule| rule.handle).collect();
        handles.sort_unstable();
        handles
    }

    #[test]
    fn what_a_cut_start_left_is_found_and_nothing_else() {
        let live = found(&with(&[]), port("", 8080, 1), &[]);
        assert_eq!(live.len(), 4, "the jump, two marks, and where it leads: {live:?}");
        let twice = with(&[forwarding(1000, None, &8080.into(), &[("10.88.0.9", 8080)])]);
        assert_eq!(found(&twice, port("", 8080, 1), &held(&["10.88.0.2"])), [1003], "the newer one needs the rest");
        let alone = with(&[forwarding(1000, None, &8081.into(), &[("10.88.0.9", 8081)])]);
        assert_eq!(found(&alone, port("0.0.0.0", 8081, 1), &held(&["10.88.0.2"])), [1000, 1001, 1002, 1003]);
        let loopback = with(&[forwarding(1000, Some("127.0.0.1"), &8080.into(), &[("10.88.0.9", 8080)])]);
        assert_eq!(found(&loopback, port("127.0.0.1", 8080, 1), &[]), [1000, 1001, 1002, 1003]);
        let range = json!({ "range": [9000, 9001] });
        let range = with(&[forwarding(1000, None, &range, &[("10.88.0.9", 9000), ("10.88.0.9", 9001)])]);
        assert_eq!(found(&range, port("", 9000, 2), &held(&["10.88.0.2"])), [1000, 1001, 1002, 1003, 1004]);
    }

    #[test]
    fn others_are_left_alone() {
        let rules = with(&[
            forwarding(1000, None, &9000.into(), &[("10.88.0.4", 9000)]),
            forwarding(1010, Some("192.0.2.1"), &9000.into(), &[("10.88.0.5", 9000)]),
            forwarding(1020, None, &json!({ "range": [9100, 9101] }), &[("10.88.0.6", 9100), ("10.88.0.6", 9101)]),
        ]);
        let none: [u64; 0] = [];
        assert_eq!(found(&rules, port("", 8080, 1), &held(&["10.88.0.2"])), none, "Podman knows of it");
        assert_eq!(found(&rules, port("", 9001, 1), &[]), none, "another port");
        assert_eq!(
            found(&rules, port("192.0.2.1", 9000, 1), &[]),
            [1010, 1011, 1012, 1013],
            "another address of the host"
        );
        assert_eq!(found(&rules, port("", 9100, 1), &held(&["10.88.0.2"])), [1023], "marks of a whole range");
        let udp = PortLine { protocol: "udp".into(), ..port("", 8080, 1) };
        assert_eq!(found(&rules, udp, &[]), none, "another protocol");
        assert_eq!(found(&rules, port("", 53, 1), &[]), none);
    }

    #[test]
    fn rules_that_say_something_else_are_not_looked_at() {
        let mut not = forwarding(1000, Some("127.0.0.1"), &8080.into(), &[("10.88.0.9", 8080)]);
        for rule in &mut not {
            rule["rule"]["expr"].as_array_mut().unwrap().iter_mut().for_each(|part| part["match"]["op"] = "!=".into());
        }
        assert!(with(&[not]).iter().all(|rule| rule.handle < 1000));
        // The way to netavark's own name server.
        let dns = json!({ "rule": { "chain": HOOK, "handle": 1000, "expr": [
            { "match": { "op": "==", "left": { "payload": { "protocol": "th", "field": "dport" } }, "right": 53 } },
            { "dnat": { "family": "ip", "addr": "10.88.0.1", "port": 1053 } },
        ] } });
        assert!(found(&with(&[vec![dns]]), port("", 53, 1), &[]).is_empty());
    }

    #[test]
    fn rubbish_is_an_error() {
        assert!(read("").is_err() && read("rubbish").is_err() && read("{}").is_err());
        let odd = r#"{ "nftables": [{}, 1, { "rule": 1 }, { "rule": { "expr": [null, { "dnat": null }] } }] }"#;
        assert!(read(odd).unwrap().is_empty());
    }
}
