//! A device's store, as somebody who damages it or looks after it sees it.

use std::path::Path;

use super::{Device, PATIENCE};

impl Device {
    /// Ends supervisor and service and these containers, does something to the store, and starts both again.
    pub(crate) async fn while_down(&mut self, containers: &[&str], deed: impl FnOnce(&Path)) {
        if let Some(agent) = self.agent.take() {
            agent.shutdown().await;
        }
        for id in containers {
            self.podman.kill(id, "SIGKILL").await.unwrap();
            self.podman.wait_stopped(id, PATIENCE).await.unwrap();
        }
        if let Some(service) = self.service.take() {
            service.stop().await;
        }
        deed(&self.path("apps/store"));
        self.start_agent().await;
    }

    pub(crate) fn mended(&self) -> Option<String> {
        self.service.as_ref().unwrap().told().borrow().mended.clone()
    }

    /// Podman's command line on this device's store, which must succeed.
    pub(crate) fn podman_cli(&self, args: &[&str]) -> String {
        let done = self.podman_command().args(args).output().unwrap();
        assert!(done.status.success(), "podman {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Waits for an alarm with these words.
    pub(crate) async fn until_alarm(&self, words: &str) -> String {
        let mut alarms = self.agent().alarms();
        let found = alarms.wait_for(|all| all.iter().any(|alarm| alarm.contains(words)));
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found.unwrap().iter().find(|alarm| alarm.contains(words)).cloned().unwrap(),
            Err(_) => panic!("no alarm says {words:?}: {:?}", self.agent().alarms().borrow()),
        }
    }
}
