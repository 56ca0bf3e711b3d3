//! One full value of every message, with every field filled: what the golden files freeze.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "fixtures: each test file uses its part")]

pub mod os;
pub mod release;

use bramble_contracts::{
    DeviceId, Generation, Revision, Uid,
    boot::{ArmedWatchdog, BootRecord, Outcome, Slot, SlotBy, Tryboot, Why},
    bytes::{Fixed, Sha256},
    signed::{self, Role},
    stamp::Stamp,
    trust::{TrustDocument, TrustedKey},
    v1,
    v1::{
        AgentVersion, Command, ContainerReport, ContainerRole, ContainerState, Deployment, DesiredApp, DesiredDocument,
        DeviceFacts, ExecArgs, FrameBody, Health, Heartbeat, ImagePin, Instance, LogArgs, LogCursor, LogLine, LogPart,
        LogPlace, LogRest, LogSpan, LogWindow, Manifest, Phase, Refusal, RefusalKind, RenewReply, RenewRequest,
        ReplyFrame, SessionArgs, SignedTime, Status, Terminal, TerminalSize, TimeRequest, Verb,
    },
    v2::{ClockReport, ClockVerdict, CommandInput, Input, Report, Stage, StageName, StageState},
};
use ed25519_dalek::SigningKey;

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub fn device() -> DeviceId {
    DeviceId::from_entropy([0x42; 13])
}

pub fn manifest() -> Manifest {
    serde_json::from_str(include_str!("../../golden/v1/manifest.json")).expect("the golden manifest reads")
}

pub fn deployment() -> Deployment {
    manifest().into()
}

pub fn desired() -> DesiredDocument {
    DesiredDocument {
        device: device(),
        generation: Generation(7),
        tenant: "default".parse().unwrap(),
        name: "pi-1".parse().unwrap(),
        labels: [("site".parse().unwrap(), "paris".parse().unwrap())].into(),
        apps: vec![DesiredApp {
            uid: Uid::from_entropy([0x17; 13]),
            revision: Revision(3),
            deployment: deployment(),
            pins: vec![ImagePin {
                image: "docker.io/library/nginx:1.27".parse().unwrap(),
                digest: Sha256::of(b"image"),
            }],
        }],
    }
}

pub fn heartbeat() -> Heartbeat {
    Heartbeat {
        session: Fixed([9; 8]),
        instance: Instance::B,
        seq: u32::MAX,
        uptime_ms: 400 * 86_400_000,
        generation: Generation(1 << 40),
        version: AgentVersion { major: 300, minor: 400, patch: 500 },
        newest_document: 1,
        health: Health::Degraded,
    }
}

fn container() -> ContainerReport {
    ContainerReport {
        name: "web".parse().unwrap(),
        role: ContainerRole::Main,
        id: "ab".repeat(32),
        state: ContainerState::Exited,
        exit_code: Some(-1),
        oom_killed: true,
        restarts: 3,
        started_at_ms: 1_790_000_000_000,
        image_digest: format!("sha256:{}", Sha256::of(b"image")),
        healthy: Some(false),
        last_lines: vec!["listening on :80".into(), "out of memory".into()],
    }
}

pub fn report_v1() -> v1::Report {
    v1::Report {
        device: device(),
        session: Fixed([9; 8]),
        instance: Instance::A,
        seq: 12,
        generation: Generation(7),
        newest_document: 1,
        trust_version: 1,
        agent: AgentVersion { major: 0, minor: 1, patch: 0 },
        health: Health::Progressing,
        facts: DeviceFacts {
            hostname: "pi-1".into(),
            model: "Raspberry Pi 4 Model B Rev 1.4".into(),
            arch: "aarch64".into(),
            os: "Debian GNU/Linux 13 (trixie)".into(),
            kernel: "6.12.0".into(),
            boot_id: "2f1c".into(),
            podman: "5.4.2".into(),
            memory_bytes: 4 << 30,
            cpus: 4,
            disk_free_bytes: 20 << 30,
            disk_total_bytes: 32 << 30,
        },
        apps: vec![v1::AppReport {
            uid: Uid::from_entropy([0x17; 13]),
            tenant: "default".parse().unwrap(),
            deployment: "web".parse().unwrap(),
            revision: Revision(3),
            running_revision: Some(Revision(2)),
            running_hash: Some(Sha256::of(b"spec")),
            status: Status::Trial,
            phase: Phase::CrashLoop,
            reason: "container web exited with 1; next start in 8s".into(),
            last_downtime_ms: Some(412),
            containers: vec![container()],
        }],
        refused: vec![Refusal {
            number: 4,
            kind: RefusalKind::Forked,
            detail: "generation 7 is held with other content".into(),
            generation: Some(Generation(7)),
            times: 2,
        }],
        alarms: vec!["state/desired is damaged; the previous one is used".into()],
    }
}

pub fn report() -> Report {
    let mut report = Report::from(report_v1());
    report.clock = ClockReport {
        verdict: ClockVerdict::Skewed,
        skew_ms: Some(-94_608_000_000),
        sources: "the coordinator".into(),
        detail: "clock skew -94608000s; enable systemd-timesyncd or chrony".into(),
    };
    let stage = |name, state, took_ms| Stage { name, state, took_ms, detail: String::new() };
    report.apps[0].stages = vec![
        stage(StageName::Preparing, StageState::Passed, Some(1_200)),
        stage(StageName::Stopping, StageState::Skipped, None),
        Stage { detail: "http :80/ answered 500".into(), ..stage(StageName::Probing, StageState::Failed, Some(9_000)) },
        stage(StageName::Running, StageState::Waiting, None),
    ];
    report
}

/// The newest phase.
pub fn report_waiting() -> Report {
    let mut report = report();
    report.apps[0].phase = Phase::Waiting;
    report.apps[0].reason = "waits for deployment db to be healthy".into();
    report
}

pub fn commands() -> Vec<Command> {
    let (tenant, deployment) = ("default".parse().unwrap(), "web".parse().unwrap());
    let logs = Verb::Logs(LogArgs {
        tenant,
        deployment,
        container: Some("web".parse().unwrap()),
        tail: 100,
        since: Some("5m".parse().unwrap()),
        follow: true,
    });
    let exec = Verb::Exec(ExecArgs {
        tenant: "default".parse().unwrap(),
        deployment: "web".parse().unwrap(),
        container: None,
        argv: vec!["sh".into(), "-c".into(), "id".into()],
        tty: Some((80, 24)),
        timeout: "60s".parse().unwrap(),
    });
    let session = Verb::Session(SessionArgs {
        tenant: "default".parse().unwrap(),
        deployment: "web".parse().unwrap(),
        container: Some("web".parse().unwrap()),
        argv: vec!["sh".into()],
        terminal: Some(Terminal { name: "xterm-256color".into(), size: TerminalSize { columns: 80, rows: 24 } }),
        idle: "10m".parse().unwrap(),
        timeout: "8h".parse().unwrap(),
    });
    let cursor = |segment| LogCursor {
        container: "web".parse().unwrap(),
        place: LogPlace { life: 7, segment, offset: 10_234, lines: 120, skip: 1 },
    };
    let log = Verb::Log(LogWindow {
        tenant: "default".parse().unwrap(),
        deployment: "web".parse().unwrap(),
        container: None,
        span: LogSpan::On { from: vec![cursor(3)], to: vec![cursor(4)] },
        wait: Some("30s".parse().unwrap()),
        bytes: 262_144,
    });
    [Verb::Desired, logs, exec, session, log]
        .into_iter()
        .map(|verb| Command { device: device(), session: Fixed([9; 8]), counter: 5, expires_uptime_ms: 99_000, verb })
        .collect()
}

pub fn inputs() -> Vec<CommandInput> {
    let size = TerminalSize { columns: 132, rows: 43 };
    let all =
        [Input::Bytes(b"ls\r".to_vec()), Input::End, Input::Resize(size), Input::GoOn { frames: 300 }, Input::HangUp];
    let of = |(input, counter)| CommandInput { device: device(), session: Fixed([9; 8]), command: 5, counter, input };
    all.into_iter().zip(1..).map(of).collect()
}

pub fn input_v1() -> v1::CommandInput {
    v1::CommandInput {
        device: device(),
        session: Fixed([9; 8]),
        command: 5,
        counter: 2,
        bytes: b"ls\r".to_vec(),
        resize: Some((132, 43)),
    }
}

pub fn frames() -> Vec<ReplyFrame> {
    let line = FrameBody::Line {
        container: "web".parse().unwrap(),
        at_ms: 1_790_000_000_123,
        stderr: true,
        text: "grüß dich".into(),
    };
    let web: bramble_contracts::Name = "web".parse().unwrap();
    let place = LogPlace { life: 7, segment: 3, offset: 10_234, lines: 120, skip: 1 };
    let cursor = LogCursor { container: web.clone(), place };
    let log_line =
        LogLine { at: Stamp(1_790_000_000_123_456_789), stderr: false, text: "grüß dich".into(), next: place };
    [
        FrameBody::Stdout(b"out".to_vec()),
        FrameBody::Stderr(vec![0xff, 0]),
        line,
        FrameBody::Skipped(17),
        FrameBody::Document(vec![1, 2, 3]),
        FrameBody::End { exit_code: Some(137) },
        FrameBody::Refused { why: "no such container".into() },
        FrameBody::Taken(300),
        FrameBody::Log(LogPart::Span { from: vec![cursor.clone()], to: vec![] }),
        FrameBody::Log(LogPart::Lines { container: web.clone(), lines: vec![log_line] }),
        FrameBody::Log(LogPart::Gap { container: web, lines: Some(1_000), to: cursor.place }),
        FrameBody::Log(LogPart::Rest(LogRest::Gone)),
    ]
    .into_iter()
    .zip(0..)
    .map(|(body, seq)| ReplyFrame { seq, body })
    .collect()
}

pub fn trust() -> TrustDocument {
    let key = |role, seed| TrustedKey { role, key: signed::public_key(&key(seed)) };
    TrustDocument {
        version: 2,
        root_threshold: 1,
        keys: vec![key(Role::Root, 1), key(Role::Fleet, 2), key(Role::Release, 3), key(Role::Time, 4)],
        ca_bundle: "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".into(),
        coordinators: vec!["https://bramble.example:7980".into()],
        brokers: vec!["tls://bramble.example:7981".into()],
    }
}

pub fn renew() -> (RenewRequest, RenewReply) {
    let reply =
        RenewReply { jwt: Some("eyJ0".into()), trust: vec![vec![0xB9, 0]], refused: Some("quarantined".into()) };
    (RenewRequest { trust_version: 1 }, reply)
}

pub fn time() -> (TimeRequest, SignedTime) {
    let nonce = Fixed([0x5a; 16]);
    (TimeRequest { nonce }, SignedTime { device: device(), nonce, unix_ms: 1_790_000_000_123 })
}

pub fn boot() -> BootRecord {
    BootRecord {
        format: BootRecord::FORMAT,
        slot: Slot::A,
        slot_by: SlotBy::Firmware,
        tryboot: Tryboot::Clear,
        autoboot: Some(Slot::A),
        outcome: Outcome::RolledBack { why: Why::TrialsUsedUp },
        watchdog: Some(ArmedWatchdog {
            device: "watchdog0".into(),
            identity: "i6300ESB timer".into(),
            timeout_s: Some(180),
        }),
        trouble: vec!["the note on the state volume could not be written".into()],
    }
}
