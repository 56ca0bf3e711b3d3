//! What is done with releases and their keys where no network is: files in, files out.
//!
//! Decides: how private keys lie on a disk, and what a program says of the machines it is for.
//! Deliberately does not: send anything; `commands` does.

mod binary;
mod elf;
mod keyfile;
mod paper;

pub(crate) use binary::Binary;
pub(crate) use keyfile::{NewKey, PrivateKey, Purpose};
pub(crate) use paper::{Paper, create, replace};
