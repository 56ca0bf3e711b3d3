//! `bramble.toml` for virtual Pis. Decides what stands in it; what may stand in it is `bramble-bootstrap`'s matter.

/// What a seed says.
#[derive(Debug, Clone, Default)]
pub struct Seed {
    /// Base URL.
    pub coordinator: String,
    /// An enrolment token.
    pub token: String,
    /// Name of the device.
    pub hostname: String,
    /// Who may come in by SSH.
    pub keys: Vec<String>,
}

impl Seed {
    /// The file's text. Nobody is asked for the time: a virtual Pi reaches no time server.
    #[must_use]
    pub fn text(&self) -> String {
        let keys: Vec<String> = self.keys.iter().map(|key| format!("{:?}", key.trim())).collect();
        format!(
            "coordinator = \"{}\"\ntoken = \"{}\"\nhostname = \"{}\"\n\n[ssh]\nauthorized_keys = [{}]\n\n\
             [clock]\nservers = []\n",
            self.coordinator,
            self.token,
            self.hostname,
            keys.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_toml() {
        let seed = Seed {
            coordinator: "https://10.0.2.100:7980".into(),
            token: "bramble1.x".into(),
            hostname: "pi-1".into(),
            keys: vec!["ssh-ed25519 AAAA me@here\n".into()],
        };
        let text = seed.text();
        assert!(text.contains("authorized_keys = [\"ssh-ed25519 AAAA me@here\"]"), "{text}");
        assert!(text.starts_with("coordinator = \"https://10.0.2.100:7980\"\ntoken = \"bramble1.x\"\n"), "{text}");
    }
}
