//! `bramble-wire ADDRESS`: joins standard input and output with a TCP address. QEMU starts one for every connection that
//! a guest makes to this machine. Decides nothing.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        eprintln!("usage: bramble-wire ADDRESS");
        return ExitCode::from(2);
    };
    match join(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("bramble-wire {address}: {err}");
            ExitCode::FAILURE
        }
    }
}

fn join(address: &str) -> io::Result<()> {
    let mut to = TcpStream::connect(address)?;
    to.set_nodelay(true)?;
    let mut from = to.try_clone()?;
    std::thread::spawn(move || {
        // However it ends, the other side is told that nothing more comes.
        drop(pass(&mut io::stdin().lock(), &mut to));
        drop(to.shutdown(Shutdown::Write));
    });
    // When the answer has ended the connection has.
    pass(&mut from, &mut io::stdout().lock())
}

fn pass(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = [0; 64 * 1024];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..n])?;
        to.flush()?;
    }
}
