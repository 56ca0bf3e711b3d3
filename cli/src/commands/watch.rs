//! `-w`: a list followed as it changes, through broken connections and restarts of the coordinator.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;

use super::{Session, get, views::Listed};
use crate::{
    client::{ClientError, Lines, Query},
    exit::{Exit, Failure},
    output::{Printed, note, say},
};

const WAIT_FIRST: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What is known of each thing, so that only changes are shown, also after a reconnect.
struct Seen<'a> {
    session: &'a Session,
    only: Option<&'a str>,
    known: BTreeMap<String, Value>,
}

/// Shows things and their changes until interrupted.
pub(super) async fn watch<T: Listed>(
    s: &Session,
    resource: &str,
    query: &Query<'_>,
    only: Option<&str>,
) -> Result<Exit, Failure> {
    let mut seen = Seen { session: s, only, known: BTreeMap::new() };
    let mut wait = WAIT_FIRST;
    loop {
        let broke: ClientError = match s.client.watch(&[resource], query).await {
            Ok(mut lines) => {
                wait = WAIT_FIRST;
                seen.forget_gone::<T>(resource, query).await?;
                match follow::<T>(&mut lines, &mut seen).await {
                    Err(Failure::Client(err)) => err,
                    Err(other) => return Err(other),
                    Ok(()) => lines.broke_off(),
                }
            }
            Err(err) => err,
        };
        if !broke.may_pass() {
            return Err(broke.into());
        }
        let why = broke.to_string();
        let why = why.lines().next().unwrap_or_default();
        note(&format!("{why} (trying again in {:.1} s)", wait.as_secs_f32()));
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

async fn follow<T: Listed>(lines: &mut Lines, seen: &mut Seen<'_>) -> Result<(), Failure> {
    while let Some(event) = lines.event().await? {
        seen.take::<T>(&event.kind, &event.data)?;
    }
    Ok(())
}

impl Seen<'_> {
    /// What went away while nobody told us is told now: a new stream begins with what is there.
    async fn forget_gone<T: Listed>(&mut self, resource: &str, query: &Query<'_>) -> Result<(), Failure> {
        if self.known.is_empty() {
            return Ok(());
        }
        let there: Vec<T> = match self.session.client.list(&[resource], query, usize::MAX).await {
            Ok(there) => there,
            // The stream that follows will say it, too.
            Err(Failure::Client(err)) if err.may_pass() => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let there: BTreeSet<String> = there.iter().map(Listed::key).collect();
        self.known.retain(|key, _| {
            let stays = there.contains(key);
            if !stays {
                note(&format!("{key} is gone"));
            }
            stays
        });
        Ok(())
    }

    fn take<T: Listed>(&mut self, kind: &str, data: &str) -> Result<(), Failure> {
        let gone = kind == "deleted";
        let value: Value = match serde_json::from_str(data) {
            Ok(value) => value,
            Err(_) => return Ok(()),
        };
        let Ok(item) = serde_json::from_value::<T>(value.clone()) else {
            note(&format!("an event of kind {kind} cannot be read: are bramble and the coordinator of one version?"));
            return Ok(());
        };
        let key = item.key();
        if self.only.is_some_and(|only| only != key && value.get("id").and_then(Value::as_str) != Some(only)) {
            return Ok(());
        }
        if gone {
            self.known.remove(&key);
            note(&format!("{key} is gone"));
            return Ok(());
        }
        if self.known.get(&key) == Some(&value) {
            return Ok(());
        }
        let first = self.known.is_empty();
        self.known.insert(key.clone(), value);
        self.show(item, &key, first)
    }

    fn show<T: Listed>(&self, item: T, key: &str, first: bool) -> Result<(), Failure> {
        if self.session.format.print_next(&item)? == Printed::Yes {
            return Ok(());
        }
        // Laid out with all that is known, so that columns stay where they are.
        let others = self.known.iter().filter(|(k, _)| k.as_str() != key);
        let mut items: Vec<T> = others.filter_map(|(_, v)| serde_json::from_value(v.clone()).ok()).collect();
        items.push(item);
        let table = get::table(self.session.format, &items);
        Ok(say(&if first { table.render() } else { table.render_last() })?)
    }
}
