//! Virtual Pis: real images, flashed onto a card of their own, really booted under QEMU, reset, frozen, and cut off from
//! power, network and time. This library is the harness; the cases are in `tests/`.
//!
//! Decides how a virtual board behaves between two boots (`board`, and `firmware`, which is the Raspberry Pi's own way
//! from `autoboot.txt` to a kernel), how a test speaks with a guest (`control`, `serial`) and with its card (`card`),
//! and that one guest runs at a time and none is left behind. Decides nothing about what is right: that is what the
//! cases say.
//!
//! ```no_run
//! use bramble_fleet_tests::case::Case;
//! use bramble_qemu_tests::{Setup, VirtualPi, image};
//!
//! let case = Case::new("a-name-for-logs");
//! let pi = VirtualPi::new(&case, "pi-1", &image::for_tests(), &Setup::default());
//! pi.boot();                                            // flashed, powered, answering
//! pi.ok("systemctl is-active systemd-journald");
//! pi.cut_power();
//! assert!(pi.card().text(1, "autoboot.txt").unwrap().contains("boot_partition=2"));
//! pi.boot();
//! ```

pub mod apt;
pub mod board;
pub mod campaign;
pub mod canary;
pub mod card;
mod clock;
mod control;
pub mod firmware;
pub mod harm;
pub mod image;
pub mod member;
mod pi;
pub mod qemu;
pub mod sample;
pub mod serial;
mod turn;
pub mod upgrade;

pub use clock::Clock;
pub use control::Said;
pub use pi::{BOOT, Hang, Setup, VirtualPi, wire_program};
pub use turn::Turn;
