//! `ports` and `expose`: short form, long form, ranges.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use bramble_contracts::v1::{Port, Protocol};

use super::cursor::{At, Findings};
use crate::manifest::places::Place;

/// More ports of one service are refused.
const PORTS_MAX: usize = 256;

const CHOOSE: &str = "which port of the device is it to be? Write \"8080:80\"; Bramble picks none by itself";

/// The ports of a service, each with its place.
pub(super) fn ports(at: &At<'_>, f: &mut Findings) -> Vec<(Port, Place)> {
    let mut ports = vec![];
    for item in at.items(f) {
        let read = if item.is_map() { long(&item, f) } else { item.text(f).map(|text| short(&text)) };
        match read {
            Some(Ok(found)) if ports.len() + found.len() > PORTS_MAX => {
                at.wrong(f, format!("are more than {PORTS_MAX}"));
                break;
            }
            Some(Ok(found)) => ports.extend(found.into_iter().map(|port| (port, item.place()))),
            Some(Err(why)) => item.wrong(f, why),
            None => {}
        }
    }
    ports
}

/// What `expose` names: ports that the container listens on.
pub(super) fn exposed<'n>(at: &At<'n>, f: &mut Findings) -> Vec<(u16, Protocol, At<'n>)> {
    let mut ports = vec![];
    for item in at.items(f) {
        let Some(text) = item.text(f) else { continue };
        let read = protocol(&text).and_then(|(text, protocol)| Ok((range(text)?, protocol)));
        match read {
            Ok((range, _)) if ports.len() + range.len() > PORTS_MAX => {
                at.wrong(f, format!("are more than {PORTS_MAX}"));
                break;
            }
            Ok((range, protocol)) => ports.extend(range.map(|port| (port, protocol, item.clone()))),
            Err(why) => item.wrong(f, why),
        }
    }
    ports
}

/// `[ADDRESS:]HOST:CONTAINER[/PROTOCOL]`
fn short(text: &str) -> Result<Vec<Port>, String> {
    let (text, protocol) = protocol(text)?;
    let mut parts = text.rsplitn(3, ':');
    let container = range(parts.next().unwrap_or_default())?;
    let host = parts.next().filter(|host| !host.is_empty()).ok_or(CHOOSE)?;
    let host_ip = parts.next().map_or(Ok(ANY), address)?;
    pair(host, container, host_ip, protocol)
}

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| format!("{text:?} is not an address of the device, such as 127.0.0.1 or [::1]"))
}

fn protocol(text: &str) -> Result<(&str, Protocol), String> {
    match text.split_once('/') {
        None => Ok((text, Protocol::Tcp)),
        Some((text, word)) => Ok((text, word_of(word)?)),
    }
}

fn word_of(word: &str) -> Result<Protocol, String> {
    match word {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(format!("{word:?} is not a protocol that is supported: tcp and udp are")),
    }
}

fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let bad = || format!("{text:?} is not a port (1 to 65535) or a range such as 3000-3005");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |t: &str| t.parse::<u16>().ok().filter(|n| *n > 0 && t.bytes().all(|b| b.is_ascii_digit()));
    let (first, last) = (number(first).ok_or_else(bad)?, number(last).ok_or_else(bad)?);
    if first > last {
        return Err(bad());
    }
    if usize::from(last - first) >= PORTS_MAX {
        return Err(format!("{text} is a range of more than {PORTS_MAX} ports"));
    }
    Ok(first..=last)
}

fn pair(host: &str, container: RangeInclusive<u16>, host_ip: IpAddr, protocol: Protocol) -> Result<Vec<Port>, String> {
    let hosts = range(host)?;
    if hosts.len() != container.len() {
        return Err(format!(
            "a range of {} ports of the device does not fit {} of the container: both are of one length",
            hosts.len(),
            container.len()
        ));
    }
    Ok(hosts.zip(container).map(|(host, container)| Port { host, host_ip, container, protocol }).collect())
}

fn long(item: &At<'_>, f: &mut Findings) -> Option<Result<Vec<Port>, String>> {
    let (mut target, mut published, mut host_ip, mut protocol) = (None, None, Ok(ANY), Ok(Protocol::Tcp));
    for (key, value) in item.fields(f) {
        match key {
            "target" => target = value.text(f),
            "published" => published = value.text(f),
            "host_ip" => host_ip = address(&value.text(f)?),
            "protocol" => protocol = word_of(&value.text(f)?),
            "mode" => match value.text(f).as_deref() {
                Some("host" | "ingress") | None => {}
                Some(_) => value.wrong(f, "is host"),
            },
            _ => value.wrong(f, "is not supported: target, published, host_ip and protocol are"),
        }
    }
    let read = || {
        let target = range(&target.ok_or("`target`, the port of the container, is missing")?)?;
        pair(&published.ok_or(CHOOSE)?, target, host_ip?, protocol?)
    };
    Some(read())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Vec<String>, String> {
        let word = |p: Protocol| if p == Protocol::Udp { "/udp" } else { "" };
        Ok(short(text)?
            .iter()
            .map(|p| format!("{} {}:{}{}", p.host_ip, p.host, p.container, word(p.protocol)))
            .collect())
    }

    #[test]
    fn the_short_form() {
        let good: [(&str, &[&str]); 6] = [
            ("8080:80", &["0.0.0.0 8080:80"]),
            ("127.0.0.1:53:53/udp", &["127.0.0.1 53:53/udp"]),
            ("[::1]:8080:80", &["::1 8080:80"]),
            ("::1:8080:80", &["::1 8080:80"]),
            ("3000-3001:4000-4001", &["0.0.0.0 3000:4000", "0.0.0.0 3001:4001"]),
            ("[::]:80:80/tcp", &[":: 80:80"]),
        ];
        for (text, want) in good {
            assert_eq!(said(text).unwrap(), want, "{text}");
        }
        for text in ["80", "127.0.0.1::80", "80/tcp", ":80"] {
            assert_eq!(said(text).unwrap_err(), CHOOSE, "{text}");
        }
        let bad = [
            ("80:0", "\"0\" is not a port"),
            ("x:80", "\"x\" is not a port"),
            ("80:80/sctp", "\"sctp\" is not a protocol"),
            ("nas:80:80", "\"nas\" is not an address"),
            ("3000-3005:80", "a range of 6 ports of the device does not fit 1"),
            ("9-1:9-1", "\"9-1\" is not a port"),
            ("1-9999:1-9999", "more than 256 ports"),
            ("+80:80", "\"+80\" is not a port"),
        ];
        for (text, want) in bad {
            let why = said(text).unwrap_err();
            assert!(why.contains(want), "{text}: {why}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9:/\\[\\]a-zé-]{0,40}") {
            let _ = short(&text);
        }
    }
}
