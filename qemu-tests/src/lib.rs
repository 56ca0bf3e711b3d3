//! Virtual Pis.
pub mod card;
pub mod firmware;
