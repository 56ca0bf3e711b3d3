//! `bramble.toml`: what a person writes on a card's first partition, so that it becomes a device of their fleet.
//!
//! Decides what may be in it, and what is said of what may not: field and line, and never a value, because values may be
//! secrets. Reads and writes no file.

use std::ops::Range;

use bramble_contracts::Name;
use bramble_contracts::token::EnrollmentToken;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::preflight;

/// Stands where a secret stood.
pub(crate) const WIPED: &str = "(wiped)";
/// As many as the agent asks.
const SERVERS_MAX: usize = 8;
/// Of a whole file; a person writes less.
pub(crate) const SIZE_MAX: u64 = 64 * 1024;

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Counted from 1; absent where the whole file is meant.
    pub(crate) line: Option<usize>,
    /// In words, without values.
    pub(crate) why: String,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "bramble.toml, line {line}: {}", self.why),
            None => write!(f, "bramble.toml: {}", self.why),
        }
    }
}

impl std::error::Error for Wrong {}

/// A wireless network.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Wifi {
    /// Its name.
    pub(crate) ssid: String,
    /// Its passphrase.
    pub(crate) psk: Psk,
    /// Whose rules of the air hold.
    pub(crate) country: Option<String>,
}

/// How a wireless network is entered.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Psk {
    /// By this passphrase, or 64 hexadecimal digits.
    Secret(String),
    /// Without one.
    Open,
    /// As it is set up already: the secret was taken before.
    Kept,
}

/// The whole.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Seed {
    /// Base URL.
    pub(crate) coordinator: String,
    /// The token's text; absent where it was taken before.
    pub(crate) token: Option<String>,
    /// Name of the host, and what the device would like to be called.
    pub(crate) hostname: Option<Name>,
    /// Wireless network.
    pub(crate) wifi: Option<Wifi>,
    /// Who may come in by SSH.
    pub(crate) authorized_keys: Vec<String>,
    /// Who is asked for the time.
    pub(crate) servers: Option<Vec<String>>,
    /// Where secrets stand in the text, with their quotes.
    pub(crate) secrets: Vec<Range<usize>>,
}

/// Reads it. The text may begin with a byte order mark and end its lines as Windows does.
pub(crate) fn parse(text: &str) -> Result<Seed, Wrong> {
    let line = |at: usize| Some(text.get(..at).unwrap_or(text).matches('\n').count() + 1);
    let table = DeTable::parse(text).map_err(|err| Wrong {
        line: err.span().and_then(|span| line(span.start)),
        why: format!("this is no TOML: {}; texts stand in double quotes", err.message()),
    })?;
    let reader = Reader { text };
    let root = reader.fields(table.get_ref(), "", &["coordinator", "token", "hostname", "wifi", "ssh", "clock"])?;
    let mut secrets = vec![];

    let coordinator = reader.text(root.get("coordinator"))?;
    let Some((coordinator, at)) = coordinator else { return Err(missing("coordinator", "https://fleet.example:7980")) };
    // The value is no secret, but the check names it in another program's words.
    preflight::coordinator(&coordinator).map_err(|_| Wrong {
        line: line(at.start),
        why: "coordinator is no address such as \"https://fleet.example:7980\"; plain http is for this very machine"
            .into(),
    })?;

    let Some((token, at)) = reader.text(root.get("token"))? else {
        return Err(missing("token", "what `bramble enroll-token create` prints"));
    };
    secrets.push(at.clone());
    let token = if token == WIPED { None } else { Some(token_text(&token, line(at.start))?) };

    let hostname = reader.text(root.get("hostname"))?.map(|(name, at)| {
        let why = "hostname is no name: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends";
        name.parse::<Name>().map_err(|_| Wrong { line: line(at.start), why: why.into() })
    });
    let wifi = root.get("wifi").map(|value| reader.wifi(value, &mut secrets)).transpose()?;
    let ssh = root.get("ssh").map(|value| reader.table(value, "ssh", &["authorized_keys"])).transpose()?;
    let clock = root.get("clock").map(|value| reader.table(value, "clock", &["servers"])).transpose()?;
    let keys = ssh.as_ref().and_then(|ssh| ssh.get("authorized_keys"));
    let servers = clock.as_ref().and_then(|clock| clock.get("servers"));
    Ok(Seed {
        coordinator,
        token,
        hostname: hostname.transpose()?,
        wifi,
        authorized_keys: keys.map(|keys| reader.list(keys, ssh_key)).transpose()?.unwrap_or_default(),
        servers: servers.map(|servers| reader.servers(servers)).transpose()?,
        secrets,
    })
}

/// The same text without its secrets.
pub(crate) fn without_secrets(text: &str, secrets: &[Range<usize>]) -> String {
    let mut out = text.to_owned();
    let mut last_first: Vec<_> = secrets.to_vec();
    last_first.sort_by_key(|range| std::cmp::Reverse(range.start));
    for range in last_first {
        out.replace_range(range, &format!("\"{WIPED}\""));
    }
    out
}

fn missing(field: &str, example: &str) -> Wrong {
    Wrong { line: None, why: format!("{field} is missing: {example}") }
}

fn token_text(token: &str, line: Option<usize>) -> Result<String, Wrong> {
    let read = token.trim().parse::<EnrollmentToken>();
    let token = read.map_err(|_| Wrong {
        line,
        why: "token is not whole: copy what `bramble enroll-token create` prints, from bramble1. to its end".into(),
    })?;
    Ok(format!("{}\n", *token.reveal()))
}

type Fields<'a, 'i> = std::collections::BTreeMap<String, &'a Spanned<DeValue<'i>>>;
type Found = Option<(String, Range<usize>)>;

struct Reader<'t> {
    text: &'t str,
}

impl Reader<'_> {
    fn wrong(&self, at: usize, why: String) -> Wrong {
        Wrong { line: Some(self.text.get(..at).unwrap_or(self.text).matches('\n').count() + 1), why }
    }

    /// The fields of a table; one that is not among those known is an error.
    fn fields<'a, 'i>(&self, table: &'a DeTable<'i>, of: &str, known: &[&str]) -> Result<Fields<'a, 'i>, Wrong> {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let place = if of.is_empty() { String::new() } else { format!(" in [{of}]") };
                let why = format!("there is no field {name:?}{place}; there are {}", known.join(", "));
                return Err(self.wrong(key.span().start, why));
            }
        }
        Ok(table.iter().map(|(key, value)| (key.get_ref().to_string(), value)).collect())
    }

    fn table<'a, 'i>(
        &self,
        value: &'a Spanned<DeValue<'i>>,
        of: &str,
        known: &[&str],
    ) -> Result<Fields<'a, 'i>, Wrong> {
        match value.get_ref() {
            DeValue::Table(table) => self.fields(table, of, known),
            _ => Err(self.wrong(value.span().start, format!("{of} is a table: [{of}] on a line of its own"))),
        }
    }

    fn text(&self, value: Option<&&Spanned<DeValue<'_>>>) -> Result<Found, Wrong> {
        let Some(value) = value else { return Ok(None) };
        match value.get_ref() {
            DeValue::String(text) => Ok(Some((text.to_string(), value.span()))),
            _ => Err(self.wrong(value.span().start, "this is a text: in double quotes".into())),
        }
    }

    /// Texts, each of which has to stand a check that says why not.
    fn list(
        &self,
        value: &Spanned<DeValue<'_>>,
        check: fn(&str) -> Result<(), &'static str>,
    ) -> Result<Vec<String>, Wrong> {
        let DeValue::Array(array) = value.get_ref() else {
            return Err(self.wrong(value.span().start, "this is a list of texts: [\"…\", \"…\"]".into()));
        };
        let mut found = vec![];
        for item in array.iter() {
            let text = self.text(Some(&item))?;
            let (text, at) = text.unwrap_or_default();
            let text = text.trim().to_owned();
            check(&text).map_err(|why| self.wrong(at.start, why.into()))?;
            found.push(text);
        }
        Ok(found)
    }

    fn servers(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, Wrong> {
        let found = self.list(value, server)?;
        if found.len() > SERVERS_MAX {
            let why = format!("{} servers are too many, {SERVERS_MAX} at most", found.len());
            return Err(self.wrong(value.span().start, why));
        }
        Ok(found)
    }

    fn wifi(&self, value: &Spanned<DeValue<'_>>, secrets: &mut Vec<Range<usize>>) -> Result<Wifi, Wrong> {
        let fields = self.table(value, "wifi", &["ssid", "psk", "country"])?;
        let Some((ssid, at)) = self.text(fields.get("ssid"))? else {
            return Err(self.wrong(value.span().start, "ssid is missing in [wifi]: the name of the network".into()));
        };
        if ssid.is_empty() || ssid.len() > 32 {
            return Err(self.wrong(at.start, "ssid is 1 to 32 bytes long".into()));
        }
        let psk = match self.text(fields.get("psk"))? {
            None => Psk::Open,
            Some((psk, at)) => {
                secrets.push(at.clone());
                psk_of(&psk).map_err(|why| self.wrong(at.start, why.into()))?
            }
        };
        let country = self.text(fields.get("country"))?;
        if let Some((country, at)) = &country
            && (country.len() != 2 || !country.bytes().all(|b| b.is_ascii_uppercase()))
        {
            return Err(self.wrong(at.start, "country is two capital letters, such as \"FR\"".into()));
        }
        Ok(Wifi { ssid, psk, country: country.map(|(country, _)| country) })
    }
}

fn psk_of(text: &str) -> Result<Psk, &'static str> {
    let printable = text.bytes().all(|b| (32..127).contains(&b));
    match text.len() {
        _ if text == WIPED => Ok(Psk::Kept),
        8..=63 if printable => Ok(Psk::Secret(text.to_owned())),
        64 if text.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(Psk::Secret(text.to_owned())),
        _ => Err("psk is a passphrase of 8 to 63 plain characters, or 64 hexadecimal digits"),
    }
}

fn ssh_key(text: &str) -> Result<(), &'static str> {
    let mut parts = text.split_whitespace();
    let kind = parts.next().unwrap_or_default();
    let known = ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-", "sk-ssh-ed25519", "sk-ecdsa-sha2-"];
    let blob = parts.next().unwrap_or_default();
    let is_key = known.iter().any(|name| kind.starts_with(name))
        && blob.len() >= 64
        && blob.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
        && !text.contains(['\n', '\r', '\0']);
    if is_key {
        Ok(())
    } else {
        Err("this is no public key such as \"ssh-ed25519 AAAA… you@home\" (the .pub file's line)")
    }
}

fn server(text: &str) -> Result<(), &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    let is_server = !text.is_empty() && text.len() <= 253 && text.chars().all(fits);
    if is_server { Ok(()) } else { Err("this is no host, address or host:port") }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::Uid;
    use bramble_contracts::bytes::Sha256;

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHt0t5CzIzVzJ9b2m0m0PTTp2mYQnlmT1bW3sHcQmC0l you@home";

    fn token() -> String {
        EnrollmentToken::new(Uid::from_entropy([1; 13]), [2; 20], Sha256::of(b"x")).reveal().to_string()
    }

    fn whole() -> String {
        format!(
            "# my card\ncoordinator = \"https://fleet.example:7980\"\ntoken = \"{}\"\nhostname = \"pi-1\"\n\n\
             [wifi]\nssid = \"At home\"\npsk = \"correct horse\"\ncountry = \"FR\"\n\n\
             [ssh]\nauthorized_keys = [\"{KEY}\"]\n\n[clock]\nservers = [\"10.0.2.2\", \"ntp.example:123\"]\n",
            token()
        )
    }

    fn wrong(text: &str) -> String {
        parse(text).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_one_is_read_and_wiped() {
        let seed = parse(&whole()).unwrap_or_else(|err| panic!("{err}"));
        assert_eq!(seed.token.as_deref().map(str::trim), Some(token().as_str()));
        assert_eq!(seed.hostname.as_ref().map(ToString::to_string).as_deref(), Some("pi-1"));
        assert_eq!((seed.authorized_keys.len(), seed.servers.as_ref().map(Vec::len)), (1, Some(2)));
        let clean = without_secrets(&whole(), &seed.secrets);
        assert!(!clean.contains("bramble1.") && !clean.contains("correct horse"), "{clean}");
        assert!(clean.starts_with("# my card\n") && clean.contains("ssid = \"At home\""), "{clean}");
        let again = parse(&clean).unwrap_or_else(|err| panic!("{err}"));
        assert!(again.token.is_none() && again.wifi.is_some_and(|wifi| wifi.psk == Psk::Kept));
        assert_eq!(without_secrets(&clean, &again.secrets), clean);
    }

    #[test]
    fn as_windows_writes_it_and_with_tables_in_one_line() {
        let text = whole().replace('\n', "\r\n");
        assert!(parse(&text).is_ok());
        let inline = format!(
            "coordinator='https://f.example'\ntoken='''{}'''\nwifi = {{ ssid = 'x', psk = 'a\"b c\\d e' }}\n",
            token()
        );
        let seed = parse(&inline).unwrap_or_else(|err| panic!("{err}"));
        let clean = without_secrets(&inline, &seed.secrets);
        assert_eq!(
            clean,
            "coordinator='https://f.example'\ntoken=\"(wiped)\"\nwifi = { ssid = 'x', psk = \"(wiped)\" }\n"
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (change, to, want) in [
            ("hostname", "hostnam", "line 4: there is no field \"hostnam\""),
            ("psk =", "pks =", "line 8: there is no field \"pks\" in [wifi]"),
            ("\"pi-1\"", "\"Pi 1\"", "line 4: hostname is no name"),
            ("\"pi-1\"", "1", "line 4: this is a text"),
            ("\"FR\"", "\"fr\"", "line 9: country"),
            ("https://fleet", "http://fleet", "line 2: coordinator is no address"),
            ("[ssh]", "[ssh", "line 11: this is no TOML"),
            ("you@home\"", "you@home", "this is no TOML"),
            ("10.0.2.2", "10.0.2.2 or so", "line 15: this is no host"),
            ("coordinator =", "# coordinator =", "coordinator is missing"),
            ("token =", "# token =", "token is missing"),
        ] {
            let text = whole().replacen(change, to, 1);
            let said = wrong(&text);
            assert!(said.contains(want), "{change} → {to}: {said}");
        }
        let short = whole().replace(&KEY[12..60], "AAAA");
        assert!(wrong(&short).contains("line 12: this is no public key"), "{}", wrong(&short));
        assert!(wrong("\0\u{1}\u{fffd}garbage").starts_with("bramble.toml"));
    }

    /// Whatever is wrong with it: no secret gets into a message.
    #[test]
    fn no_message_shows_a_secret() {
        let text = whole();
        let lines: Vec<&str> = text.lines().collect();
        let secret = |line: &str| line.starts_with("token") || line.starts_with("psk");
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| secret(line)) {
            let value = line.split('"').nth(1).unwrap();
            for broken in [
                line.replace('"', ""),
                line.replacen('"', "", 1),
                line.trim_end_matches('"').to_owned(),
                line.replace("= ", ""),
                line.replace(value, &format!("{value}\\q")),
                format!("{line}\n{line}"),
                format!("[{}]", line.replace('"', "")),
                line.replace(value, &format!("{value}x{value}x{value}x{value}x{value}x{value}x{value}")),
                format!("{} = [\"{value}\"]", line.split(' ').next().unwrap()),
            ] {
                let mut changed = lines.clone();
                changed[at] = &broken;
                let said = parse(&changed.join("\n")).map(|_| String::new()).unwrap_or_else(|err| err.to_string());
                assert!(!said.contains(value) && !said.contains("correct") && !said.contains("bramble1.a"), "{said}");
            }
        }
    }
}
