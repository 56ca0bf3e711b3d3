//! `agent.toml` as this program writes it: what was set by hand stays, what is asked for changes.

use std::path::Path;

use anyhow::Context as _;
use bramble_contracts::Name;
use toml::{Table, Value};

/// Where the agent reads its settings.
pub(crate) const PATH: &str = "etc/bramble/agent.toml";
/// Where the token lies until it is spent.
pub(crate) const TOKEN: &str = "/etc/bramble/enroll.token";

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Base URL of the coordinator.
    pub(crate) coordinator: &'a str,
    /// What the device would like to be called.
    pub(crate) name: Option<&'a Name>,
    /// Who is asked for the time.
    pub(crate) servers: Option<&'a [String]>,
}

/// The new text, from the one that is there (empty when none is).
pub(crate) fn text(held: &str, path: &Path, wish: &Wanted<'_>) -> anyhow::Result<String> {
    let mut table: Table =
        held.parse().with_context(|| format!("{} is there and cannot be read; mend or remove it", path.display()))?;
    let before = table.clone();
    let mut set = |name: &str, value: String| table.insert(name.to_owned(), Value::String(value));
    set("coordinator", wish.coordinator.to_owned());
    set("token_file", TOKEN.to_owned());
    if let Some(name) = wish.name {
        set("name", name.to_string());
    }
    let podman = within(&mut table, "podman", path)?;
    // Its unit runs `bramble-agent podman`, which hears what is set here; earlier versions named the socket instead.
    podman.remove("socket");
    podman.insert("separate".to_owned(), Value::Boolean(true));
    if let Some(servers) = wish.servers {
        let servers = servers.iter().cloned().map(Value::String).collect();
        within(&mut table, "clock", path)?.insert("servers".to_owned(), Value::Array(servers));
    }
    if table == before {
        return Ok(held.to_owned());
    }
    let text = toml::to_string(&table).context("cannot write the settings as TOML")?;
    Ok(format!("# Settings of the Bramble agent. `systemctl restart 'bramble-agent@*'` after a change.\n{text}"))
}

fn within<'a>(table: &'a mut Table, name: &str, path: &Path) -> anyhow::Result<&'a mut Table> {
    let value = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
    value.as_table_mut().with_context(|| format!("{}: {name} is not a table", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_by_hand_stays() {
        let path = Path::new("agent.toml");
        let name = "pi-1".parse().unwrap();
        let wish = Wanted { coordinator: "https://fleet.example", name: Some(&name), servers: None };
        let first = text("", path, &wish).unwrap();
        assert_eq!(text(&first, path, &wish).unwrap(), first, "nothing to do the second time");
        let by_hand =
            "heartbeat_secs = 30\n\n[podman]\nsocket = \"/run/bramble/podman.sock\"\nprogram = \"/opt/podman\"";
        let mended = first.replace("[podman]", by_hand);
        let again =
            text(&mended, path, &Wanted { coordinator: "https://moved.example", servers: Some(&[]), ..wish }).unwrap();
        let table: Table = again.parse().unwrap();
        assert_eq!(table["coordinator"].as_str(), Some("https://moved.example"));
        assert_eq!(table["clock"]["servers"].as_array().map(Vec::len), Some(0));
        assert_eq!(table["heartbeat_secs"].as_integer(), Some(30));
        assert_eq!(table["podman"]["program"].as_str(), Some("/opt/podman"));
        assert_eq!(table["podman"].get("socket"), None, "of an earlier version");
        assert_eq!(table["podman"]["separate"].as_bool(), Some(true));
        assert!(text("not = = toml", path, &wish).is_err());
    }
}
