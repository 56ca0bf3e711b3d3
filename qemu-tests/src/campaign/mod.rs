//! Power cuts in the middle of an OS upgrade, at any write. A whole upgrade is recorded once, write by write, below the
//! guest; a cut is then a card made of the recording up to some write, given power. So a cut costs the boot that follows
//! it and no more, hits moments that no timer would, and may lose what had not been flushed, as cards do.
//!
//! Decides where to cut (`cut`) and what must be so afterwards (`upgrade`). What is emulated: the machine and its card;
//! time passes more slowly than on a device. Not known: what a real card does to writes that *were* flushed.

pub mod cut;
mod recording;
pub mod rows;
mod tape;
mod upgrade;

pub use recording::{Recorder, Recording};
pub use tape::Kept;
pub use upgrade::{Ending, Upgrade, record, survive};
