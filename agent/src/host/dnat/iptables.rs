//! Stale rules of netavark's iptables driver, the one of Debian 12.
//!
//! Finds those that netavark marked with the container's id and that are for a port of this container, and deletes them.

use std::path::Path;
use std::time::Duration;

use crate::host::cmd::{self, Bounds};
use crate::host::podman::PortLine;

const HOOK: &str = "NETAVARK-HOSTPORT-DNAT";
const BOUNDS: Bounds = Bounds { time: Duration::from_secs(10), output_bytes: 4 << 20 };

/// Deletes what is left of earlier starts of a container; what leads to the address that Podman knows of stays.
pub(super) async fn clear(container: &str, ports: &[PortLine], known: Option<&str>) {
    let rules = match iptables(&["-S"]).await {
        Ok(rules) => rules,
        Err(why) => return tracing::debug!(why, "port forwardings cannot be listed"),
    };
    for rule in stale(&rules, container, ports, known) {
        tracing::warn!(container, ?rule, "deleting a port forwarding that a cut start left behind");
        let words: Vec<&str> = std::iter::once("-D").chain(rule.iter().map(String::as_str)).collect();
        if let Err(why) = iptables(&words).await {
            tracing::warn!(container, why, "a port forwarding stays");
        }
    }
}

async fn iptables(args: &[&str]) -> Result<String, String> {
    let args: Vec<&str> = ["-w", "-t", "nat"].iter().chain(args).copied().collect();
    let done = Box::pin(cmd::run(Path::new("iptables"), &args, BOUNDS)).await.map_err(|err| err.to_string())?;
    if done.status.success() { Ok(done.stdout) } else { Err(done.stderr.trim().to_owned()) }
}

/// The rules to delete, each as what follows `-A` in the list.
fn stale(rules: &str, container: &str, ports: &[PortLine], known: Option<&str>) -> Vec<Vec<String>> {
    let rules: Vec<Vec<String>> = rules.lines().filter_map(|line| Some(words(line.strip_prefix("-A ")?))).collect();
    let mark = format!(" id: {container}");
    let marked = rules.iter().filter(|rule| rule[0] == HOOK && rule.iter().any(|word| word.ends_with(&mark)));
    let mut out: Vec<Vec<String>> = Vec::new();
    for jump in marked {
        let Some(chain) = after(jump, "-j") else { continue };
        let own = |rule: &&Vec<String>| {
            rule[0] == chain
                && after(rule, "--dport") == after(jump, "--dport")
                && after(rule, "-p") == after(jump, "-p")
        };
        // Of a container with a network only what leads elsewhere is stale.
        let elsewhere = |rule: &&Vec<String>| match (known, after(rule, "--to-destination")) {
            (None, _) => true,
            (Some(known), Some(to)) => {
                to.rsplit_once(':').is_none_or(|(address, _)| address.trim_matches(['[', ']']) != known)
            }
            (Some(_), None) => false,
        };
        let of_port = |rule: &&Vec<String>| ports.iter().any(|port| forwards(rule, port));
        out.extend(rules.iter().filter(own).filter(of_port).filter(elsewhere).cloned());
        out.extend(known.is_none().then(|| jump.clone()));
    }
    out
}

/// It is for this port, on this address of the host.
fn forwards(rule: &[String], port: &PortLine) -> bool {
    let number: Option<u16> = after(rule, "--dport").and_then(|text| text.parse().ok());
    let same_port =
        number.is_some_and(|number| port.ports().contains(&number)) && after(rule, "-p") == Some(&port.protocol);
    let at = after(rule, "-d").map(|address| address.split('/').next().unwrap_or(address));
    same_port && (port.is_on_all() || at == Some(&port.host_ip))
}

fn after<'a>(rule: &'a [String], word: &str) -> Option<&'a str> {
    let at = rule.iter().position(|one| one == word)?;
    rule.get(at + 1).map(String::as_str)
}

/// Words as a shell reads them, as far as iptables writes them.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (n, part) in line.split('"').enumerate() {
        if n % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = include_str!("../captured/iptables_nat.txt");
    const ID: &str = "b164fe662f7db5f0d28827d94eb20023900453b6a7e38818544851b7c8f3666f";

    fn port(host_ip: &str, host_port: u16) -> PortLine {
        PortLine { host_ip: host_ip.into(), host_port, range: 1, protocol: "tcp".into() }
    }

    #[test]
    fn what_a_cut_start_left_is_found_and_nothing_else() {
        let found = stale(RULES, ID, &[port("127.0.0.1", 34929)], None);
        let shown: Vec<String> = found.iter().map(|rule| rule.join(" ")).collect();
        assert_eq!(shown.len(), 4, "{shown:#?}");
        assert!(shown.iter().any(|rule| rule.ends_with("-j DNAT --to-destination 10.140.0.2:8080")), "{shown:#?}");
        assert!(shown.iter().all(|rule| rule.contains("--dport 34929")), "{shown:#?}");
        let jump = shown.last().unwrap();
        assert!(jump.contains(&format!("--comment dnat name: brt-6476-0 id: {ID} -j")), "{jump}");
    }

    #[test]
    fn others_are_left_alone() {
        assert!(stale(RULES, &"f".repeat(64), &[port("", 34929)], None).is_empty(), "another container");
        let known = stale(RULES, ID, &[port("127.0.0.1", 34929)], Some("10.140.0.2"));
        assert!(known.is_empty(), "Podman knows of this network: {known:?}");
        let moved = stale(RULES, ID, &[port("127.0.0.1", 34929)], Some("10.140.0.3"));
        assert_eq!(moved.len(), 1, "only what leads to nobody: {moved:?}");
        let other_address = stale(RULES, ID, &[port("192.0.2.1", 34929)], None);
        assert_eq!(other_address.len(), 1, "only the mark itself: {other_address:?}");
        assert!(stale("", ID, &[], None).is_empty() && stale("-A\n-A X\nrubbish", ID, &[], None).is_empty());
    }
}
