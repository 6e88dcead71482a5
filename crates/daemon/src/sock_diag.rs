//! Asking the kernel for one socket by its addresses (Linux `sock_diag(7)`), whose cost does not grow with their number.
//!
//! ```text
//!   nlmsghdr 16 │ inet_diag_req_v2 56: family, protocol, …, states, inet_diag_sockid 48
//!   nlmsghdr 16 │ inet_diag_msg 72: family, state, timer, retrans, inet_diag_sockid 48, expires, rqueue, wqueue, uid, …
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`
const REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// `TCP_ESTABLISHED`. Where no connection fits, the kernel answers with a listening socket that does.
const ESTABLISHED: u8 = 1;
/// Length of the header of a netlink message.
const HEADER: usize = 16;
/// Where in `inet_diag_msg` the uid stands.
const UID_AT: usize = 64;
/// More than an answer without attributes needs.
const ANSWER_BYTES_MAX: usize = 4096;
/// The kernel answers within the send call; the limit is for one that does not know the question.
const PATIENCE: Duration = Duration::from_secs(1);

/// The uid that owns the established socket from `local` to `remote`; `None` if there is none.
///
/// # Errors
/// When the kernel does not answer such questions, or not to us.
pub fn owner_of(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    sendto(&socket, &question(local, remote), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    let (read, _) = recv(&socket, answer.as_mut_slice(), RecvFlags::empty())?;
    answer.truncate(read);
    understand(&answer, local, remote).unwrap_or_else(|| Err(io::ErrorKind::InvalidData.into()))
}

fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut body = vec![family, IPPROTO_TCP, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(socket_id(local, remote));
    // Any interface, and no cookie, which is all bits set.
    body.extend([0, 0, 0, 0]);
    body.extend([0xff; 8]);
    let length = u32::try_from(HEADER + body.len()).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Sequence number and sender: there is one question on this socket.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The part of `inet_diag_sockid` that names a connection: ports and addresses in network order.
fn socket_id(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut id = [local.port().to_be_bytes(), remote.port().to_be_bytes()].concat();
    for address in [local.ip(), remote.ip()] {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => bytes = address.octets(),
        }
        id.extend(bytes);
    }
    id
}

/// What the answer says; `None` if it is none.
fn understand(answer: &[u8], local: SocketAddr, remote: SocketAddr) -> Option<io::Result<Option<u32>>> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let body = answer.get(HEADER..)?;
    if kind == ERROR {
        let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?).checked_neg()?;
        let gone = code == rustix::io::Errno::NOENT.raw_os_error();
        return Some(if gone { Ok(None) } else { Err(io::Error::from_raw_os_error(code)) });
    }
    let id = socket_id(local, remote);
    let is_it = kind == BY_FAMILY && body.get(1) == Some(&ESTABLISHED) && body.get(4..4 + id.len())? == id;
    let uid = u32::from_ne_bytes(body.get(UID_AT..UID_AT + 4)?.try_into().ok()?);
    Some(Ok(is_it.then_some(uid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_are_found_and_listeners_are_not() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = std::net::TcpListener::bind(any).unwrap();
            let server = listener.local_addr().unwrap();
            let client = std::net::TcpStream::connect(server).unwrap();
            let local = client.local_addr().unwrap();
            let own = rustix::process::geteuid().as_raw();
            assert_eq!(owner_of(local, server).unwrap(), Some(own));
            assert_eq!(owner_of(server, SocketAddr::new(local.ip(), 1)).unwrap(), None, "only a listener fits");
            assert_eq!(owner_of(SocketAddr::new(local.ip(), 1), server).unwrap(), None);
        }
    }

    #[test]
    fn an_answer_about_something_else_is_none() {
        let (local, remote) = (address("127.0.0.1:5"), address("127.0.0.1:6"));
        let message = |state: u8, id: Vec<u8>| {
            let mut message = vec![0; HEADER + 72];
            message[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
            message[HEADER + 1] = state;
            message[HEADER + 4..HEADER + 4 + id.len()].copy_from_slice(&id);
            message[HEADER + UID_AT] = 7;
            message
        };
        let check = |message: &[u8], expected: Option<Option<u32>>| {
            assert_eq!(understand(message, local, remote).map(Result::unwrap), expected);
        };
        check(&message(1, socket_id(local, remote)), Some(Some(7)));
        check(&message(6, socket_id(local, remote)), Some(None));
        check(&message(1, socket_id(remote, local)), Some(None));
        check(&message(1, socket_id(local, remote))[..40], None);
        check(b"", None);
    }
}
