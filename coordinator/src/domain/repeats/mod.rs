//! Commands of init containers that are commonly not fit to be run twice.
//!
//! Init containers run again after every reboot and whenever the app is made anew. Decides: which well-known commands
//! fail then, or do once more what was meant to be done once. Warnings only, and few false ones: what is behind a
//! check, or whose failure is let pass, is not mentioned. Never shows arguments: they may hold passwords.

mod shell;

use std::collections::BTreeSet;

use bramble_contracts::{problem::FieldError, v1::DeploymentSpec};

use shell::Command;

/// What happens the second time.
enum Again {
    /// It fails.
    Fails(&'static str),
    /// It does something once more.
    Does(&'static str),
}
use Again::{Does, Fails};

/// What is to be said about the init containers.
pub fn warnings(spec: &DeploymentSpec) -> Vec<FieldError> {
    let mut found = vec![];
    for (i, container) in spec.init_containers.iter().enumerate() {
        let field = if container.command.is_empty() { "args" } else { "command" };
        let words: Vec<String> = container.command.iter().chain(&container.args).cloned().collect();
        let messages: BTreeSet<String> = commands(words).iter().flat_map(told).collect();
        let path = format!("spec.initContainers[{i}].{field}");
        found.extend(messages.into_iter().map(|message| FieldError { path: path.clone(), message }));
    }
    found
}

/// The commands that these words run: those of a script, where they start a shell.
fn commands(words: Vec<String>) -> Vec<Command> {
    let own = unwrapped(&words);
    if ["sh", "bash", "ash", "dash"].contains(&program(own)) {
        let mut options = own.iter().skip(1);
        let mut strict = false;
        while let Some(option) = options.next() {
            if !option.starts_with('-') {
                break;
            }
            strict |= option.contains('e') && !option.starts_with("--");
            if option.contains('c') && !option.starts_with("--") {
                return options.next().map(|script| shell::commands(script, strict)).unwrap_or_default();
            }
        }
        return vec![];
    }
    vec![Command { words, matters: true, ..Command::default() }]
}

/// Without what only starts another program: `sudo`, `env A=b`, `gosu user`, …
fn unwrapped(mut words: &[String]) -> &[String] {
    while let Some(first) = words.first() {
        let skip = match program(words) {
            _ if first.contains('=') && !first.starts_with('-') => 1,
            "sudo" | "env" | "exec" | "nice" | "time" | "busybox" | "command" | "doas" | "tini" | "--" => 1,
            "gosu" | "su-exec" | "timeout" | "setpriv" => 2,
            "bundle" | "poetry" | "pipenv" | "npx" | "uv" => {
                1 + usize::from(words.get(1).is_some_and(|w| w == "exec" || w == "run"))
            }
            _ => break,
        };
        words = words.get(skip..).unwrap_or_default();
    }
    words
}

/// The name of the program, without its folder.
fn program(words: &[String]) -> &str {
    words.first().map_or("", |word| word.rsplit('/').next().unwrap_or(word))
}

/// What is to be said about a command.
fn told(command: &Command) -> Vec<String> {
    if command.guarded {
        return vec![];
    }
    let mut found: Vec<(String, Again)> = vec![];
    if command.appends.iter().any(|file| !file.starts_with("/dev/") && !file.starts_with("/proc/")) {
        found.push((
            ">>".into(),
            Does("appends the same once more; write the file anew with `>`, or look first with `grep -q`"),
        ));
    }
    let words = unwrapped(&command.words);
    found.extend(of_files(words).or_else(|| of_tools(words)));
    found.extend(words.iter().skip(1).flat_map(|word| of_sql(word)));
    let say = |(name, again): (String, Again)| match again {
        Fails(_) if !command.matters => None,
        Fails(how) => {
            Some(format!("`{name}` fails the second time, and init containers run again after every reboot: {how}"))
        }
        Does(what) => Some(format!("`{name}` {what}; init containers run again after every reboot")),
    };
    found.into_iter().filter_map(say).collect()
}

/// Is one of these among the options, as a word or as one of several letters?
fn option(words: &[String], letter: char, long: &str) -> bool {
    let has =
        |word: &String| word == long || (word.starts_with('-') && !word.starts_with("--") && word.contains(letter));
    words.iter().skip(1).any(has)
}

/// Files, folders and users.
fn of_files(words: &[String]) -> Option<(String, Again)> {
    let name = program(words);
    let second = words.get(1).map_or("", String::as_str);
    let again = match name {
        "mkdir" if !option(words, 'p', "--parents") => Fails("write `mkdir -p`"),
        "ln" if !option(words, 'f', "--force") => Fails("write `ln -sfn`"),
        "rm" if !option(words, 'f', "--force") => Fails("what it removes is gone by then: write `rm -f`"),
        "mv" => Fails("what it moves is gone by then: look first with `[ -e FILE ] &&`, or use `cp`"),
        "mkfifo" | "mknod" => Fails("look first with `[ -e FILE ] ||`"),
        "useradd" | "adduser" => Fails("look first with `id NAME ||`"),
        "groupadd" | "addgroup" if !option(words, 'f', "--force") => Fails("look first with `getent group NAME ||`"),
        "git" if second == "clone" => Fails("look first with `[ -d FOLDER/.git ] ||`, then `git fetch`"),
        "tee" if option(words, 'a', "--append") => Does("appends the same once more; write the file anew"),
        "ssh-keygen" if !words.iter().any(|w| w == "-A") => {
            Fails("it asks before it overwrites a key: look first with `[ -f KEY ] ||`")
        }
        name if name.starts_with("mkfs") => {
            Does("makes the file system anew and takes everything on it away; look first with `blkid`")
        }
        _ => return None,
    };
    let name = if name == "git" { "git clone" } else { name };
    Some((name.to_owned(), again))
}

/// Databases, frameworks and keys.
fn of_tools(words: &[String]) -> Option<(String, Again)> {
    const SEED: &str = "puts the same records in once more, unless its code looks for them";
    let name = program(words);
    let second = words.get(1).map_or("", String::as_str);
    let has = |word: &str| words.iter().any(|w| w == word);
    let (said, again) = match name {
        "createdb" | "createuser" => (name, Fails("look first, or write `|| true`")),
        "initdb" | "mysql_install_db" => (name, Fails("look first whether the data folder is empty")),
        "pg_ctl" if second == "init" || second == "initdb" => {
            ("pg_ctl init", Fails("look first whether the data folder is empty"))
        }
        "mysqladmin" | "mariadb-admin" if has("create") => (name, Fails("use `CREATE DATABASE IF NOT EXISTS`")),
        "rabbitmqctl" if second == "add_user" || second == "add_vhost" => {
            ("rabbitmqctl add_…", Fails("write `|| true`"))
        }
        "influx" if second == "setup" => ("influx setup", Fails("write `|| true`")),
        "vault" if second == "operator" && has("init") => {
            ("vault operator init", Fails("look first with `vault status`"))
        }
        "openssl" if ["genrsa", "genpkey", "ecparam"].contains(&second) => ("openssl", Does(KEY)),
        "openssl" if second == "req" && (has("-new") || has("-newkey") || has("-x509")) => ("openssl req", Does(KEY)),
        _ => {
            let django = words.iter().any(|w| w.ends_with("manage.py") || w.ends_with("django-admin"));
            if django && has("createsuperuser") {
                ("createsuperuser", Fails("write `|| true`"))
            } else if django && has("loaddata") {
                ("loaddata", Does("writes over what was changed since"))
            } else {
                let task = words.iter().find(|w| {
                    ["db:seed", "db:setup", "db:reset", "db:schema:load", "migrate:fresh"].contains(&w.as_str())
                })?;
                let again = if task == "db:seed" { SEED } else { "makes the tables anew, and what is in them is gone" };
                return Some((task.clone(), Does(again)));
            }
        }
    };
    Some((said.to_owned(), again))
}

const KEY: &str =
    "makes another key each time, and what trusted the old one does not trust it; look first with `[ -f KEY ] ||`";

/// Statements in a word that is SQL.
fn of_sql(word: &str) -> Vec<(String, Again)> {
    const MADE: [&str; 9] = ["TABLE", "DATABASE", "SCHEMA", "USER", "ROLE", "INDEX", "UNIQUE", "SEQUENCE", "TYPE"];
    const HARMLESS: [&str; 5] = ["ON CONFLICT", "ON DUPLICATE KEY", "NOT EXISTS", "INSERT OR", "INSERT IGNORE"];
    let statement = |text: &str| {
        let upper = text.to_ascii_uppercase();
        let words: Vec<&str> = upper.split_whitespace().collect();
        let text = words.join(" ");
        let has = |what: &str| text.contains(what);
        match words[..] {
            ["CREATE", what, _, ..] if MADE.contains(&what) && !has("IF NOT EXISTS") => {
                Some((format!("CREATE {what}"), Fails("write IF NOT EXISTS, or look first")))
            }
            ["ALTER", "TABLE", ..] if has(" ADD ") && !has("IF NOT EXISTS") => {
                Some(("ALTER TABLE … ADD".to_owned(), Fails("write ADD COLUMN IF NOT EXISTS, or look first")))
            }
            ["DROP", what, _, ..] if MADE.contains(&what) && !has("IF EXISTS") => {
                Some((format!("DROP {what}"), Fails("write IF EXISTS")))
            }
            ["INSERT", "INTO", _, ..] if !HARMLESS.iter().any(|harmless| has(harmless)) => Some((
                "INSERT INTO".to_owned(),
                Does(
                    "puts the same row in once more, or fails on its key; write ON CONFLICT DO NOTHING or INSERT IGNORE",
                ),
            )),
            _ => None,
        }
    };
    word.split(';').filter_map(statement).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is named in the warnings about a script.
    fn named(script: &str) -> Vec<String> {
        let words = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let name = |message: String| message.split('`').nth(1).unwrap().to_owned();
        commands(words).iter().flat_map(told).map(name).collect()
    }

    #[test]
    fn what_is_commonly_wrong_is_named() {
        let cases = [
            ("mkdir /data/db", "mkdir"),
            ("mkdir -m 700 /data/db && chown app /data/db", "mkdir"),
            ("ln -s /data/x /x", "ln"),
            ("rm -r /data/cache", "rm"),
            ("mv /data/a /data/b", "mv"),
            ("useradd -u 1000 app", "useradd"),
            ("sudo -- adduser app", "adduser"),
            ("addgroup app", "addgroup"),
            ("git clone https://x /data/x", "git clone"),
            ("echo 'x y' >> /data/conf", ">>"),
            ("echo x | tee -a /data/conf", "tee"),
            ("PGPASSWORD=x createdb -h db shop", "createdb"),
            ("initdb -D /data", "initdb"),
            ("psql -c 'create table t (id int)'", "CREATE TABLE"),
            ("mysql -e \"CREATE USER 'a'@'%'; INSERT INTO t VALUES (1)\" || true", "INSERT INTO"),
            ("psql <<EOF\nALTER TABLE t ADD COLUMN x int;\nEOF", "ALTER TABLE … ADD"),
            ("bundle exec rails db:seed", "db:seed"),
            ("bin/rails db:migrate && bin/rails db:setup", "db:setup"),
            ("python manage.py migrate && python3 manage.py loaddata start", "loaddata"),
            ("python manage.py createsuperuser --noinput", "createsuperuser"),
            ("php artisan db:seed --force", "db:seed"),
            ("openssl req -x509 -newkey rsa:2048 -nodes -keyout /data/k -out /data/c", "openssl req"),
            ("openssl genrsa -out /data/k 2048", "openssl"),
            ("mkfs.ext4 /dev/sda1", "mkfs.ext4"),
            ("set -e; mkdir /data/x; touch /data/x/y", "mkdir"),
            ("influx setup --force", "influx setup"),
            ("for d in a b; do mkdir /data/$d && touch /data/$d/x; done", "mkdir"),
        ];
        for (script, want) in cases {
            assert_eq!(named(script), [want], "{script}");
        }
    }

    #[test]
    fn what_is_fit_to_be_repeated_is_left_alone() {
        for script in [
            "mkdir -p /data/a && ln -sfn /data/a /a && rm -f /data/lock && rm -rf /tmp/x",
            "[ -d /data/x ] || mkdir /data/x",
            "test -f /data/k || openssl genrsa -out /data/k 2048",
            "if [ ! -f /data/done ]; then\n  createdb x\n  echo y >> /data/list\n  touch /data/done\nfi",
            "createdb shop || true",
            "if ! [ -f x ]; then for d in a b; do mkdir $d; done; createdb x; fi",
            "id app || useradd app",
            "mkdir /data/x; exec serve",
            "psql -c 'CREATE TABLE IF NOT EXISTS t (id int); INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING'",
            "echo x > /data/conf; echo y >> /dev/stderr",
            "bin/rails db:migrate; flask db upgrade && alembic upgrade head && python manage.py migrate --noinput",
            "pip install -r requirements.txt && apk add curl && chown -R 1000 /data && cp -r /app /data",
            "openssl rand -hex 16; openssl x509 -in c -noout; git -C /data/x pull; adduser_is_no_program",
            "cp /defaults/mkdir /data/createdb # mkdir x",
            "echo 'please insert coins, then create users'",
        ] {
            assert_eq!(named(script), Vec::<String>::new(), "{script}");
        }
    }

    #[test]
    fn words_without_a_shell_and_their_place() {
        let spec: DeploymentSpec = serde_json::from_value(serde_json::json!({
            "selector": { "devices": ["a"] }, "containers": [],
            "initContainers": [
                { "name": "a", "image": "a", "command": ["createdb"], "args": ["--password=hunter2"] },
                { "name": "b", "image": "a", "args": ["sh", "-ec", "mkdir a\nmkdir b\ntrue"] },
                { "name": "c", "image": "a", "args": ["touch", "/data/seeded"] },
                { "name": "d", "image": "a", "command": ["sh", "/run.sh"] },
            ],
        }))
        .unwrap();
        let found = warnings(&spec);
        let paths: Vec<_> = found.iter().map(|w| w.path.as_str()).collect();
        assert_eq!(paths, ["spec.initContainers[0].command", "spec.initContainers[1].args"]);
        assert_eq!(
            found[1].message,
            "`mkdir` fails the second time, and init containers run again after every reboot: write `mkdir -p`"
        );
        assert!(!found[0].message.contains("hunter2"));
    }
}
