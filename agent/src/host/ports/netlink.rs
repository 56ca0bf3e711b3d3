//! The kernel's netlink sockets: one request at a time, its answers in order; and news of one group.
//!
//! Decides how messages and attributes lie in bytes. What they mean is in the modules that use it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;

/// `NLM_F_REQUEST`
const REQUEST: u16 = 1;
/// `NLM_F_ACK`
const ACK: u16 = 4;
/// `NLM_F_ROOT | NLM_F_MATCH`
const DUMP: u16 = 0x300;
/// `NLM_F_CREATE | NLM_F_EXCL`
const CREATE: u16 = 0x600;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
/// The kernel answers at once; one that does not is broken.
const PATIENCE_S: i64 = 5;
/// At least what the kernel puts into one datagram of a dump.
const DATAGRAM: usize = 64 * 1024;

/// One socket.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

/// What a request does, beside what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// Do it.
    Do,
    /// Make it; one that is there is an error.
    Create,
}

impl Netlink {
    /// A socket for requests.
    pub(super) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::new(PATIENCE_S, 0))?;
        Ok(Self(fd))
    }

    /// A socket that hears the news of one group, and never blocks.
    pub(super) fn listen(protocol: SockProtocol, group: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 1 << (group - 1)))?;
        Ok(Self(fd))
    }

    /// One request, and the kernel's word on it.
    pub(super) fn ask(&self, kind: u16, verb: Verb, body: &[u8]) -> io::Result<()> {
        let create = if verb == Verb::Create { CREATE } else { 0 };
        self.send(kind, REQUEST | ACK | create, body)?;
        self.answers(|_| {})
    }

    /// Everything of a kind.
    pub(super) fn dump(&self, kind: u16, body: &[u8], each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(kind, REQUEST | DUMP, body)?;
        self.answers(each)
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(HEADER + body.len()).map_err(|_| io::Error::other("a request is too long"))?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    fn answers(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut datagram = vec![0; DATAGRAM];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut datagram, MsgFlags::empty())?;
            for (kind, body) in messages(&datagram[..length]) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => return word(body),
                    _ => each(body),
                }
            }
        }
    }

    /// News that are there, each with its kind; `WouldBlock` when there are none.
    pub(super) fn news(&self) -> io::Result<Vec<(u16, Vec<u8>)>> {
        let mut datagram = vec![0; DATAGRAM];
        let length = recv(self.0.as_raw_fd(), &mut datagram, MsgFlags::empty())?;
        Ok(messages(&datagram[..length]).map(|(kind, body)| (kind, body.to_vec())).collect())
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// What an error message says; 0 is success.
fn word(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel answered with half a message")),
    }
}

fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes in a message, or inside another attribute: kind and value.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// One attribute of that kind.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// `NLA_F_NESTED`: a value that holds attributes.
pub(super) const NESTED: u16 = 0x8000;

/// Adds an attribute.
pub(super) fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("invariant: our attributes are short");
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_back_and_half_ones_end_the_reading() {
        let mut bytes = Vec::new();
        put(&mut bytes, 1, b"abc");
        put(&mut bytes, 2 | NESTED, &7u32.to_ne_bytes());
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(1, &b"abc"[..]), (2, &7u32.to_ne_bytes()[..])]);
        assert_eq!(attribute(&bytes, 2), Some(&7u32.to_ne_bytes()[..]));
        for cut in 0..bytes.len() {
            assert!(attributes(&bytes[..cut]).count() <= 2);
        }
        assert_eq!(attributes(&[0, 0, 0, 0, 0, 0]).count(), 0, "a length of nothing does not turn in circles");
    }

    #[test]
    fn the_kernel_answers() {
        let route = Netlink::open(SockProtocol::NetlinkRoute).unwrap();
        let mut links = 0;
        route.dump(18, &[0; 16], |_| links += 1).unwrap();
        assert!(links >= 1, "at least loopback");
        let refused = route.ask(18, Verb::Do, &[0; 16]).unwrap_err();
        assert!(refused.raw_os_error().is_some(), "{refused}");
    }
}
