//! A boot that did not come as far as it should: says what failed, for whoever looks at the console or at the card.
//!
//! Who calls this boots the device again afterwards. Decides only what is said.

use std::path::Path;
use std::time::Duration;

use crate::first_boot;
use crate::process::output;

const ASK: &[&str] = &["list-units", "--state=failed", "--plain", "--no-legend", "--no-pager", "--full"];

/// Says it, and waits for so many seconds.
pub(crate) fn run(root: &Path, wait_secs: u32) {
    let failed = output(Path::new("/usr/bin/systemctl"), ASK).map(|listed| units(&listed)).unwrap_or_default();
    let what = if failed.is_empty() { "nothing says why".to_owned() } else { failed.join(", ") };
    let text = format!("this device is not as it should be ({what}); the next boot is in {wait_secs} s");
    println!("bramble: {text}");
    first_boot::add_result(root, &text);
    std::thread::sleep(Duration::from_secs(wait_secs.into()));
}

fn units(listed: &str) -> Vec<String> {
    listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_units_are_the_first_column() {
        let listed =
            "var-lib-bramble.mount loaded failed failed State\nsystemd-fsck@dev-vg0-state.service loaded failed\n";
        assert_eq!(units(listed), ["var-lib-bramble.mount", "systemd-fsck@dev-vg0-state.service"]);
    }
}
