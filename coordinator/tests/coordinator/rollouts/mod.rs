//! Rollouts over the API, with agents that take what they are told.

mod agent;
mod deployments;
mod os;
mod upgrades;
