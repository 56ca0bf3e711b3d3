//! The coordinator: says what should run where, and shows what does.
//!
//! `domain` decides (pure); `store`, `mesh`, `broker` and `keys` touch the world; `background` converges;
//! `http` speaks to people and programs.

pub mod background;
pub mod broker;
pub mod clock;
pub mod config;
pub mod domain;
pub mod http;
pub mod keys;
pub mod mesh;
pub mod store;
