//! The coordinator: says what should run where, and shows what does.
//!
//! `domain` decides (pure); `store`, `mesh`, `broker` and `keys` touch the world; `background` converges;
//! `http` speaks to people and programs.

pub mod domain;
pub mod store;
