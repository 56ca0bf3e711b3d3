//! A real registry of images on loopback, behind a link that can be slow: Debian's `docker-registry`.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use xtask::run::Cmd;

use crate::case::Case;
use crate::clock::soon;
use crate::coordinator::free_port;
use crate::device::Device;
use crate::manifest;
use crate::process::{Line, Proc};
use crate::proxy::Proxy;

/// One registry. It ends with this.
#[derive(Debug)]
pub struct Registry {
    _proc: Proc,
    server: SocketAddr,
    link: Proxy,
    dir: PathBuf,
}

impl Registry {
    /// Runs on a free port of loopback, without TLS.
    ///
    /// # Panics
    /// When it cannot be fetched or started.
    #[must_use]
    pub fn start(case: &Arc<Case>) -> Self {
        let program = xtask::prepare::docker_registry().unwrap_or_else(|err| panic!("{err:#}"));
        let dir = case.subdir("registry");
        let server: SocketAddr = (Ipv4Addr::LOCALHOST, free_port(case)).into();
        let config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {}/data }} }}\n\
             http: {{ addr: \"{server}\" }}\n",
            dir.display()
        );
        let file = dir.join("config.yml");
        std::fs::write(&file, config).expect("the case's folder can be written");
        let line = Line::new(&program).args(["serve".to_owned(), file.display().to_string()]);
        let proc = Proc::new("registry", &case.logs(), line);
        proc.start();
        soon("the registry to answer", || TcpStream::connect(server).map(drop).map_err(|err| err.to_string()));
        let link = Proxy::to(server);
        let conf = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", link.address());
        std::fs::write(dir.join("registries.conf"), conf).expect("the case's folder can be written");
        Self { _proc: proc, server, link, dir }
    }

    /// Lines for `[podman]` of a device that pulls from here.
    #[must_use]
    pub fn settings(&self) -> String {
        format!("registries_conf = {:?}\n", self.dir.join("registries.conf").display().to_string())
    }

    /// The link that devices reach it by.
    #[must_use]
    pub fn link(&self) -> &Proxy {
        &self.link
    }

    /// What devices call an image of that name.
    #[must_use]
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.link.address())
    }

    /// Puts a version of the demo image here, with a layer of its own, made in a device's store and gone from there. Gives
    /// its name.
    ///
    /// # Panics
    /// When Podman cannot.
    pub fn publish(&self, from: &Device, version: u32) -> String {
        let there = format!("{}/hello:{version}", self.server);
        let context = self.dir.join(format!("context-{version}"));
        std::fs::create_dir_all(&context).expect("the case's folder can be written");
        std::fs::write(context.join("mark"), version.to_string()).expect("the case's folder can be written");
        let containerfile = format!("FROM {}\nCOPY mark /data/mark\n", manifest::image(version));
        std::fs::write(context.join("Containerfile"), containerfile).expect("the case's folder can be written");
        let run = |cmd: Cmd| cmd.check().unwrap_or_else(|err| panic!("{err}"));
        run(from.podman().args(["build", "--quiet", "--tag", &there]).arg(&context));
        run(from.podman().args(["push", "--quiet", "--tls-verify=false", &there]));
        run(from.podman().args(["rmi", "--force", &there]));
        self.image(&format!("hello:{version}"))
    }
}
