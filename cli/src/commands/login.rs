//! `login` and `whoami`: a token is tried before it is kept.

use bramble_contracts::api::Me;

use super::{Session, ask};
use crate::{
    args::Global,
    client::Client,
    config::{self, ConfigError, File, Secret},
    exit::{Exit, Failure},
    output::{Printed, note, say},
};

/// Tries the token and keeps it.
pub(super) async fn login(global: Global) -> Result<Exit, Failure> {
    let path = config::path()?;
    // A damaged file is what `login` is told to mend.
    let before = File::load().unwrap_or_default();
    let api = global.api.or(before.api).ok_or(ConfigError::NoApi)?;
    let token = match global.token {
        Some(token) => Secret::new(&token),
        None => ask::token()?,
    };
    let ca = global.ca.or(before.ca).map(std::path::absolute).transpose()?;
    let tenant = global.tenant.or(before.tenant);
    let client = Client::new(&api, ca.as_deref(), Some(token.clone()), tenant.clone().unwrap_or_default())?;
    let me: Me = client.get(&["me"], &vec![]).await?;
    let file = File { api: Some(client.api().to_owned()), ca, tenant, token: Some(token) };
    file.save(&path)?;
    note(&format!("Logged in to {} as {}. Kept in {}.", client.api(), me.subject, path.display()));
    Ok(Exit::Done)
}

/// Shows whose token it is.
pub(super) async fn whoami(s: &Session) -> Result<Exit, Failure> {
    let me: Me = s.client.get(&["me"], &vec![]).await?;
    if s.format.print(&me)? == Printed::No {
        let rights = me.rights.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(" ");
        let (api, tenant) = (s.client.api(), s.client.tenant());
        say(&format!(
            "{} at {api}\ntenant       {tenant}\ncoordinator  {}\nrights       {rights}\n",
            me.subject, me.coordinator
        ))?;
    }
    Ok(Exit::Done)
}
