//! Which program this is: its version and the machines it was made for.
//!
//! Decided when it is built: `BRAMBLE_VERSION` where that is set, else the package's version. It stands in the binary behind
//! a mark, so that `strings` finds it in one that cannot run any more.

use std::hint::black_box;

use bramble_contracts::release::Target;
use bramble_contracts::v1::AgentVersion;

/// Stands in every agent before its version.
pub const MARK: &str = "bramble-agent version ";
const NUMBER: &str = match option_env!("BRAMBLE_VERSION") {
    Some(given) => given,
    None => env!("CARGO_PKG_VERSION"),
};

/// The mark and the number. Read at run time only, so that there is but one of it.
#[used]
static STAMP: [u8; MARK.len() + NUMBER.len()] = stamp();

const fn stamp() -> [u8; MARK.len() + NUMBER.len()] {
    let mut out = [0; MARK.len() + NUMBER.len()];
    let mut at = 0;
    while at < out.len() {
        out[at] = if at < MARK.len() { MARK.as_bytes()[at] } else { NUMBER.as_bytes()[at - MARK.len()] };
        at += 1;
    }
    out
}

/// Its version, as text.
pub fn text() -> &'static str {
    std::str::from_utf8(&black_box(&STAMP)[MARK.len()..]).expect("invariant: a version is text")
}

/// Its version.
pub fn number() -> AgentVersion {
    text().parse().expect("invariant: the version that this was built with is a version")
}

/// The machines it was made for.
pub fn target() -> Target {
    env!("BRAMBLE_TARGET").parse().expect("invariant: the compiler's target is a target")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_itself() {
        assert_eq!(number().to_string(), text());
        assert!(target().as_str().contains(std::env::consts::ARCH), "{}", target());
    }
}
