//! Files of a folder over HTTP, for one client or a few: GET, one request a connection. Decides nothing about what they are.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

const PATIENCE: Duration = Duration::from_secs(60);
const LINES_MAX: usize = 100;

/// Serves until it is dropped.
pub(super) struct Server {
    address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Server {
    pub(super) fn start(dir: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        let (address, over) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let (dir, ends) = (dir.to_owned(), Arc::clone(&over));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), dir) = (stream, dir.clone()) else { continue };
                thread::spawn(move || drop(answer(&stream, &dir)));
            }
        });
        Ok(Server { address, over })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the listener, so that it sees that it is over.
        drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(1)));
    }
}

fn answer(stream: &TcpStream, dir: &Path) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream).lines().take(LINES_MAX);
    let first = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut out = stream;
    let Some(mut file) = wanted(&first, dir).and_then(|path| File::open(path).ok()) else {
        return out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let length = file.metadata()?.len();
    write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    io::copy(&mut file, &mut out).map(drop)
}

/// A plain file below the folder.
fn wanted(line: &str, dir: &Path) -> Option<PathBuf> {
    let path = line.strip_prefix("GET /")?.split(' ').next()?.replace("%3a", ":").replace("%2b", "+");
    let plain = Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
    let path = dir.join(&path);
    // A name in the pool keeps its %3a.
    let kept = dir.join(line.strip_prefix("GET /")?.split(' ').next()?);
    [kept, path].into_iter().find(|path| plain && path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_below_the_folder_are_served() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("in/a"), "hello").unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        let server = Server::start(&dir.path().join("in")).unwrap();
        let get = |path: &str| xtask::http::get(server.address(), path).unwrap();
        assert_eq!((get("/a").status, get("/a").body.as_str()), (200, "hello"));
        for bad in ["/b", "/../secret", "/", "//secret"] {
            assert_eq!(get(bad).status, 404, "{bad}");
        }
    }
}
