//! While packages are written no service is started or restarted: the new ones come with the boot on trial, and apps run on.
//!
//! By Debian's own switch, `policy-rc.d`, on root: whoever cuts the power puts root back, and the switch with it. One that
//! is there already is kept aside and comes back.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

const SWITCH: &str = "usr/sbin/policy-rc.d";
const ASIDE: &str = "usr/sbin/policy-rc.d.bramble-kept";
const NOTHING_STARTS: &str =
    "#!/bin/sh\n# Written by bramble-agent while packages are written, and removed after.\nexit 101\n";

/// In force until it is ended.
#[derive(Debug)]
pub(super) struct Quiet(PathBuf);

impl Quiet {
    /// From now on.
    pub(super) fn begin(root: &Path) -> io::Result<Self> {
        let (switch, aside) = (root.join(SWITCH), root.join(ASIDE));
        if switch.exists() && !aside.exists() {
            fs::rename(&switch, &aside)?;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&switch);
        file?.write_all(NOTHING_STARTS.as_bytes())?;
        Ok(Self(root.to_owned()))
    }

    /// No longer.
    pub(super) fn end(self) -> io::Result<()> {
        let (switch, aside) = (self.0.join(SWITCH), self.0.join(ASIDE));
        if aside.exists() { fs::rename(aside, switch) } else { fs::remove_file(switch) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_switch_comes_and_goes_and_that_of_the_machine_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let switch = dir.path().join(SWITCH);
        fs::create_dir_all(switch.parent().unwrap()).unwrap();
        let quiet = Quiet::begin(dir.path()).unwrap();
        assert_eq!(fs::metadata(&switch).unwrap().permissions().mode() & 0o777, 0o755);
        quiet.end().unwrap();
        assert!(!switch.exists());
        fs::write(&switch, "theirs").unwrap();
        let quiet = Quiet::begin(dir.path()).unwrap();
        assert!(fs::read_to_string(&switch).unwrap().contains("exit 101"));
        quiet.end().unwrap();
        assert_eq!(fs::read_to_string(&switch).unwrap(), "theirs");
        assert!(!dir.path().join(ASIDE).exists());
    }
}
