//! Why an image was not made. Decides nothing: it says what, where, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

use crate::recipe::RecipeError;

/// Why an image was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The recipe is none.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A file or folder.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was to be done.
        what: &'static str,
        /// To which.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Another program.
    #[error("{line} {what}")]
    Tool {
        /// The command line.
        line: String,
        /// What went wrong, and what it said.
        what: String,
    },
    /// The machine that builds.
    #[error("this machine cannot make images: {0}")]
    Machine(String),
    /// What was built is not as it must be.
    #[error("the image would not work: {0}")]
    Image(String),
}

impl Error {
    /// A file or folder that something cannot be done to.
    pub(crate) fn file(what: &'static str, path: &Path, source: io::Error) -> Self {
        Error::File { what, path: path.into(), source }
    }
}
