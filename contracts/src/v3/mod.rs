//! Version 3 of what has changed since [`crate::v2`]: the operating system, in what a device is told and in what it says.
//! Everything else is still read and written as there.

mod desired;
mod os;
mod plan;
mod report;

pub use desired::DesiredDocument;
pub use os::{
    OsPackage, OsPackages, OsPhase, OsReport, OsSnapshot, OsUpgradeReport, OsWish, PackageChange, PackageName,
    PackageVersion, Probation, Protection, SnapshotPhase,
};
pub use plan::{OsPlan, OsRoom};
pub use report::Report;

/// The newest desired document this build reads; agents say it, coordinators write no newer one.
pub const NEWEST_DOCUMENT: u8 = 3;
