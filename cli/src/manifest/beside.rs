//! The files that are given, what lies beside them, and the variables of whoever types the command.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The coordinator takes no larger deployment; a file may hold several.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The text of a file; `-` is standard input.
///
/// # Errors
/// In words that follow the file's name.
pub(super) fn read(file: &str) -> Result<String, String> {
    let bytes = if file == "-" { bounded(io::stdin().lock()) } else { File::open(file).and_then(bounded) };
    text(bytes.map_err(|err| match err.kind() {
        io::ErrorKind::IsADirectory => "is a directory: name the files in it".to_owned(),
        _ => format!("cannot be read: {err}"),
    })?)
}

/// The text of a file in a folder; none when it is not there.
///
/// # Errors
/// In words that follow the file's name.
pub(super) fn read_beside(folder: &Path, path: &str) -> Result<Option<String>, String> {
    match File::open(folder.join(path)).and_then(bounded) {
        Ok(bytes) => text(bytes).map(Some),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(format!("cannot be read: {err}")),
    }
}

fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    from.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes: split it"));
    }
    String::from_utf8(bytes).map_err(|err| format!("is not UTF-8 at byte {}", err.utf8_error().valid_up_to()))
}

/// The folder of a file; of standard input the current one.
pub(super) fn folder(file: &str) -> PathBuf {
    let parent = Path::new(file).parent().filter(|dir| !dir.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

/// What a folder is called, where that can be found out.
pub(super) fn folder_name(folder: &Path) -> Option<String> {
    folder.canonicalize().ok()?.file_name()?.to_str().map(str::to_owned)
}

/// The variables of the process that are texts.
pub(super) fn environment() -> BTreeMap<String, String> {
    let texts = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(texts).collect()
}
