//! `describe`: everything about one device, deployment or rollout, for a person who looks for a cause.

mod os;
mod rollout;

use bramble_contracts::{
    api::{Connection, DeploymentView, DeviceView, ReleaseView, RolloutView, TargetView},
    v1::{ContainerReport, ContainerState, Dependency, DeviceFacts},
    v2::{AgentReport, AppReport, ClockReport},
    v3::Report,
};

use super::{
    Session, releases,
    views::{self, Cell, connection, device_health, labels, phase, plain, status, word},
};
use crate::{
    args::{Describe, Described},
    clock,
    exit::{Exit, Failure},
    output::{Printed, Table, Tone, age, clean, clock as at, paint, pipeline, say},
};

/// Shows it.
pub(super) async fn describe(s: &Session, args: Describe) -> Result<Exit, Failure> {
    if args.watch && args.resource != Described::Rollout {
        return Err(Failure::Usage("only rollouts are watched here: `bramble get devices -w` shows the others".into()));
    }
    let text = match args.resource {
        Described::Device => {
            let view: DeviceView = s.client.get(&["devices", &args.name], &vec![]).await?;
            if s.format.print(&view)? == Printed::Yes {
                return Ok(Exit::Done);
            }
            device(&view)
        }
        Described::Deployment => {
            let view: DeploymentView = s.client.get(&["deployments", &args.name], &vec![]).await?;
            if s.format.print(&view)? == Printed::Yes {
                return Ok(Exit::Done);
            }
            deployment(&view)
        }
        Described::Release => {
            let view: ReleaseView = s.client.get(&["releases", &args.name], &vec![]).await?;
            if s.format.print(&view)? == Printed::Yes {
                return Ok(Exit::Done);
            }
            releases::page(&view)
        }
        Described::Rollout => {
            let view: RolloutView = s.client.get(&["rollouts", &args.name], &vec![]).await?;
            if s.format.print(&view)? == Printed::Yes {
                return Ok(Exit::Done);
            }
            rollout::page(&view)
        }
    };
    say(&text)?;
    if args.watch {
        let name = args.name.parse().map_err(|err: bramble_contracts::id::Invalid| Failure::Usage(err.to_string()))?;
        return super::rollout::follow(s, &name, None).await;
    }
    Ok(Exit::Done)
}

/// Grows line by line; all that comes from elsewhere is made harmless.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    pub(super) fn text(self) -> String {
        self.0
    }

    pub(super) fn head(&mut self, text: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(&paint(Tone::Strong, &clean(text)));
        self.0.push('\n');
    }

    pub(super) fn field(&mut self, name: &str, (tone, text): Cell) {
        if !text.is_empty() {
            self.0.push_str(&format!("  {name:<13}{}\n", paint(tone, &clean(text.trim_end()))));
        }
    }

    /// A field whose text has its colours already and is harmless.
    fn painted(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.0.push_str(&format!("  {name:<13}{text}\n"));
        }
    }

    fn line(&mut self, indent: usize, tone: Tone, text: &str) {
        self.0.push_str(&format!("{:indent$}{}\n", "", paint(tone, &clean(text))));
    }

    pub(super) fn table(&mut self, indent: usize, table: &Table) {
        for line in table.render().lines() {
            self.0.push_str(&format!("{:indent$}{line}\n", ""));
        }
    }
}

fn device(d: &DeviceView) -> String {
    let now = clock::now();
    let mut page = Page::default();
    page.head(d.name.as_str());
    page.field("id", plain(d.id.as_str()));
    page.field("tenant", plain(d.tenant.as_str()));
    page.field("labels", plain(labels(&d.labels)));
    page.field("state", plain(word(&d.state)));
    let (tone, state) = connection(d.connection);
    let seen = d.last_seen.as_deref().map_or("never heard".to_owned(), |t| format!("last heard {} ago", age(t, now)));
    page.field("connection", (tone, format!("{state}, {seen}")));
    page.field("health", device_health(d));
    let generations = format!("{} wanted, {} held", d.desired_generation, d.reported_generation);
    page.field("generation", plain(generations));
    page.field("on hold", (Tone::Bad, d.hold.clone().unwrap_or_default()));
    page.field("quarantine", (Tone::Bad, d.quarantine.clone().unwrap_or_default()));
    page.field("enrolled", plain(d.created.as_str()));
    match &d.report {
        Some(report) => reported(&mut page, report, d.connection),
        None => page.field("report", (Tone::Dim, "none yet".into())),
    }
    page.0
}

fn reported(page: &mut Page, report: &Report, connection: Connection) {
    let session = format!(
        "{} ({}), reads documents up to version {}, trust document {}",
        report.agent,
        report.instance.name(),
        report.newest_document,
        report.trust_version
    );
    page.field("agent", plain(session));
    program(page, &report.program);
    facts(page, &report.facts);
    if report.newest_document >= 3 {
        os::fields(page, &report.os);
    }
    clock_field(page, &report.clock);
    match connection {
        Connection::Online => {}
        Connection::Offline | Connection::Recovering | Connection::Never => {
            page.line(2, Tone::Warn, "It is not connected: what follows is its last report and may be old.");
        }
    }
    if !report.alarms.is_empty() {
        page.head("Alarms");
        for alarm in &report.alarms {
            page.line(2, Tone::Bad, &format!("- {alarm}"));
        }
    }
    if !report.refused.is_empty() {
        page.head("Messages it refused, newest last");
        let mut table = Table::new(&["NUMBER", "KIND", "TIMES", "GENERATION", "WHY"]);
        for r in &report.refused {
            table.row(vec![
                plain(r.number.to_string()),
                (Tone::Bad, word(&r.kind)),
                plain(r.times.to_string()),
                plain(r.generation.map(|g| g.to_string()).unwrap_or_default()),
                plain(r.detail.as_str()),
            ]);
        }
        page.table(2, &table);
    }
    page.head("Apps");
    if report.apps.is_empty() {
        page.line(2, Tone::Dim, "none");
    }
    for one in &report.apps {
        let (_, title) = plain(format!("{}/{}", one.tenant, one.deployment));
        page.line(2, Tone::Strong, &title);
        app(page, one);
    }
}

/// Which release the agent is, and how its last upgrade went or goes.
fn program(page: &mut Page, program: &AgentReport) {
    let target = program.target.as_ref().map(|t| format!(", for {t}")).unwrap_or_default();
    let release = match (program.release_seq, program.floor) {
        (0, 0) if target.is_empty() => String::new(),
        (0, floor) => format!("installed by hand{target}, takes none below {floor}"),
        (seq, floor) => format!("sequence {seq}{target}, takes none below {floor}"),
    };
    page.field("release", plain(release));
    let Some(upgrade) = &program.upgrade else { return };
    let (tone, status) = status(upgrade.status);
    let bytes = match upgrade.bytes_all {
        0 => String::new(),
        all if upgrade.bytes_got < all => format!(", {} of {all} bytes", upgrade.bytes_got),
        _ => String::new(),
    };
    let text =
        format!("to {}: {status}, {}{bytes} (attempt {})", upgrade.version, word(&upgrade.phase), upgrade.attempt);
    page.field("upgrade", (tone, text));
    page.field("", (Tone::Bad, upgrade.reason.clone()));
    let took = [(upgrade.took_ms, "took"), (upgrade.unmanaged_ms, "nobody managed it for")];
    let took: Vec<String> = took.iter().filter_map(|(ms, what)| ms.map(|ms| format!("{what} {ms} ms"))).collect();
    page.field("", (Tone::Dim, took.join(", ")));
}

fn clock_field(page: &mut Page, clock: &ClockReport) {
    let (tone, verdict) = views::clock(clock);
    let by = match clock.skew_ms {
        Some(ms) if !clock.sources.is_empty() => {
            format!(", {:+.1}s by {}", (ms as f64 / 100.0).round() / 10.0 + 0.0, clock.sources)
        }
        Some(_) | None => String::new(),
    };
    page.field("clock", (tone, format!("{verdict}{by}")));
    page.field("", (Tone::Plain, clock.detail.clone()));
}

fn facts(page: &mut Page, f: &DeviceFacts) {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let join = |parts: &[&str]| parts.iter().filter(|p| !p.is_empty()).copied().collect::<Vec<_>>().join(", ");
    let size = format!("{} processors, {} memory", f.cpus, gib(f.memory_bytes));
    page.field("machine", plain(join(&[&f.hostname, &f.model, &f.arch, &size])));
    let named =
        |what: &str, version: &str| if version.is_empty() { String::new() } else { format!("{what} {version}") };
    page.field("system", plain(join(&[&f.os, &named("kernel", &f.kernel), &named("podman", &f.podman)])));
    page.field("disk", plain(format!("{} of {} free", gib(f.disk_free_bytes), gib(f.disk_total_bytes))));
    page.field("boot", plain(f.boot_id.as_str()));
}

/// One app on one device: how far it is, why, its containers, and what the failed ones printed last.
fn app(page: &mut Page, a: &AppReport) {
    let (tone, status) = status(a.status);
    page.field("  status", (tone, format!("{status}, {}", phase(a.phase).1)));
    let running = match a.running_revision {
        Some(r) if r == a.revision => format!("{r}, running"),
        Some(r) => format!("{} wanted, {r} runs", a.revision),
        None => format!("{} wanted, none runs", a.revision),
    };
    page.field("  revision", plain(running));
    page.painted("  stages", &pipeline::pipeline(&pipeline::of_stages(&a.stages)));
    page.field("  reason", (Tone::Bad, a.reason.clone()));
    let downtime = a.last_downtime_ms.map(|ms| format!("{ms} ms at the last replacement"));
    page.field("  downtime", plain(downtime.unwrap_or_default()));
    if a.containers.is_empty() {
        return;
    }
    let mut table =
        Table::new(&["CONTAINER", "ROLE", "STATE", "EXIT", "RESTARTS", "HEALTHY", "STARTED", "ID", "IMAGE"]);
    for c in &a.containers {
        table.row(container(c));
    }
    page.table(4, &table);
    for c in a.containers.iter().filter(|c| !c.last_lines.is_empty()) {
        page.line(4, Tone::Plain, &format!("last lines of {}:", c.name));
        for line in &c.last_lines {
            page.line(6, Tone::Dim, &format!("| {line}"));
        }
    }
}

fn container(c: &ContainerReport) -> Vec<Cell> {
    let exit = match c.exit_code {
        Some(code) if c.oom_killed => (Tone::Bad, format!("{code} (out of memory)")),
        Some(0) => plain("0"),
        Some(code) => (Tone::Bad, code.to_string()),
        None => plain(""),
    };
    let tone = match c.state {
        ContainerState::Running => Tone::Good,
        ContainerState::Missing | ContainerState::Created | ContainerState::Exited => Tone::Plain,
        ContainerState::Unknown => Tone::Warn,
    };
    let healthy = match c.healthy {
        Some(true) => (Tone::Good, "yes".to_owned()),
        Some(false) => (Tone::Bad, "no".to_owned()),
        None => plain("-"),
    };
    vec![
        plain(c.name.as_str()),
        plain(word(&c.role)),
        (tone, word(&c.state)),
        exit,
        plain(c.restarts.to_string()),
        healthy,
        plain(at(c.started_at_ms)),
        (Tone::Dim, c.id.chars().take(12).collect()),
        (Tone::Dim, short_digest(&c.image_digest)),
    ]
}

fn short_digest(digest: &str) -> String {
    let hex = digest.rsplit(':').next().unwrap_or_default();
    hex.chars().take(12).collect()
}

fn deployment(d: &DeploymentView) -> String {
    let now = clock::now();
    let mut page = Page::default();
    let meta = &d.manifest.metadata;
    page.head(meta.name.as_str());
    page.field("uid", plain(d.uid.as_str()));
    page.field("tenant", plain(meta.tenant.as_str()));
    page.field("labels", plain(labels(&meta.labels)));
    page.field("revision", plain(format!("{}, changed {} ago", d.revision, age(&d.updated, now))));
    page.field("made", plain(d.created.as_str()));
    page.field("selector", plain(views::selector(d)));
    let s = &d.summary;
    let counts = [
        (s.confirmed, "confirmed"),
        (s.progressing, "progressing"),
        (s.failed, "failed"),
        (s.unreachable, "unreachable"),
        (s.blocked, "blocked"),
    ];
    let counts = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect::<Vec<_>>();
    page.field(
        "devices",
        plain(format!(
            "{} {}",
            s.devices,
            if counts.is_empty() { String::new() } else { format!("({})", counts.join(", ")) }
        )),
    );
    for c in &d.manifest.spec.init_containers {
        page.field("init", plain(format!("{}  {}", c.name, c.image)));
    }
    for c in &d.manifest.spec.containers {
        let ports = c.ports.iter().map(|p| format!("{}:{}→{}/{}", p.host_ip, p.host, p.container, word(&p.protocol)));
        page.field("container", plain(format!("{}  {}  {}", c.name, c.image, ports.collect::<Vec<_>>().join(" "))));
        page.field("  waits for", plain(waits(&c.depends_on)));
    }
    page.field("waits for", plain(waits(&d.manifest.spec.depends_on)));
    page.head("Devices");
    if d.devices.is_empty() {
        page.line(2, Tone::Dim, "none: no device fits the selector");
    }
    for target in &d.devices {
        on(&mut page, target);
    }
    page.0
}

/// Dependencies in words.
fn waits(dependencies: &[Dependency]) -> String {
    dependencies.iter().map(|d| format!("{} {}", d.name, d.condition.words())).collect::<Vec<_>>().join(", ")
}

fn on(page: &mut Page, t: &TargetView) {
    page.line(2, Tone::Strong, t.name.as_str());
    page.field("  connection", connection(t.connection));
    page.field("  blocked", (Tone::Bad, t.blocked.clone().unwrap_or_default()));
    if let Some(report) = &t.app {
        // The coordinator's reason says more than the device's where nothing is sent to it.
        if report.reason != t.reason {
            page.field("  note", (Tone::Warn, t.reason.clone()));
        }
        app(page, report);
    } else {
        let (tone, text) = t.status.map_or((Tone::Dim, "not reported yet".to_owned()), status);
        page.field("  status", (tone, text));
        page.field("  reason", (Tone::Warn, t.reason.clone()));
    }
}

#[cfg(test)]
mod tests;
