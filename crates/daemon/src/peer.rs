//! Whose socket is at the other end of a loopback TCP connection.
//!
//! TCP carries no credentials, but on one host the kernel knows the owner of both ends. It is asked for the one socket
//! ([`crate::sock_diag`]); where it may not be asked, `/proc/net/tcp` and `tcp6` list every socket of the network namespace
//! with its addresses and the uid that made it (Linux `proc_net_tcp.rst`). The client's socket is the one whose local
//! address is our remote one and the other way round. One that is not found, because the client has gone away, has no owner.

use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Lines we look at: more sockets than a host has. Keeps a flood of connections from making each one dear.
const LINES_MAX: usize = 1 << 20;

/// State 1, `TCP_ESTABLISHED`. Sockets in TIME_WAIT are listed with uid 0 and must not count.
const ESTABLISHED: &str = "01";

/// Finds the uid that owns the client's end of a connection.
///
/// # Errors
/// When the tables cannot be read.
pub fn owner_of(client: SocketAddr, server: SocketAddr) -> io::Result<Option<u32>> {
    match crate::sock_diag::owner_of(canonical(client), canonical(server)) {
        Ok(owner) => Ok(owner),
        // A kernel without the module, or a sandbox around us.
        Err(_) => listed_owner_of(client, server),
    }
}

fn listed_owner_of(client: SocketAddr, server: SocketAddr) -> io::Result<Option<u32>> {
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let file = match std::fs::File::open(table) {
            Ok(file) => file,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if let Some(uid) = find(BufReader::new(file), client, server)? {
            return Ok(Some(uid));
        }
    }
    Ok(None)
}

/// The uid in the row of the socket from `client` to `server`.
fn find(table: impl BufRead, client: SocketAddr, server: SocketAddr) -> io::Result<Option<u32>> {
    let (client, server) = (canonical(client), canonical(server));
    for line in table.lines().skip(1).take(LINES_MAX) {
        let line = line?;
        let mut fields = line.split_ascii_whitespace();
        // sl local_address rem_address st tx:rx tr:tm retrnsmt uid …
        let (local, remote, state) = (fields.nth(1), fields.next(), fields.next());
        if state == Some(ESTABLISHED)
            && local.and_then(address) == Some(client)
            && remote.and_then(address) == Some(server)
        {
            return Ok(fields.nth(3).and_then(|uid| uid.parse().ok()));
        }
    }
    Ok(None)
}

/// An address as the kernel prints it: 32-bit words in the byte order of the machine, then the port, all hexadecimal.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = ip.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(canonical(SocketAddr::new(ip, port)))
}

/// IPv4 addresses that came in an IPv6 socket as IPv4, without flow label and scope.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn check(rows: &str, client: &str, server: &str, expected: Option<u32>) {
        let table = format!("{HEAD}{rows}\n");
        let found = find(table.as_bytes(), client.parse().unwrap(), server.parse().unwrap()).unwrap();
        assert_eq!(found, expected, "{rows}");
    }

    #[test]
    fn the_row_of_the_client_is_found() {
        let row = "   2: 0100007F:D431 0100007F:1761 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1";
        check(row, "127.0.0.1:54321", "127.0.0.1:5985", Some(1000));
        check(row, "127.0.0.1:54322", "127.0.0.1:5985", None);
        check(row, "127.0.0.1:5985", "127.0.0.1:54321", None);
        let server_end =
            "   0: 0100007F:1761 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 1 1";
        check(&format!("{server_end}\n{row}"), "127.0.0.1:54321", "127.0.0.1:5985", Some(1000));
        let waiting = row.replace(" 01 ", " 06 ");
        check(&waiting, "127.0.0.1:54321", "127.0.0.1:5985", None);
    }

    #[test]
    fn both_families_are_read() {
        let six =
            "   0: 00000000000000000000000001000000:D431 00000000000000000000000001000000:1761 01 0:0 00:0 0  1001 0 1";
        check(six, "[::1]:54321", "[::1]:5985", Some(1001));
        let mapped =
            "   0: 0000000000000000FFFF00000100007F:D431 0000000000000000FFFF00000100007F:1761 01 0:0 00:0 0  7 0 1";
        check(mapped, "127.0.0.1:54321", "[::ffff:127.0.0.1]:5985", Some(7));
    }

    #[test]
    fn damaged_rows_are_passed_over() {
        for row in [
            "",
            "x",
            " 0: 0100007F 0100007F:1761 01",
            " 0: 0100007F:XXXX 0100007F:1761 01 0:0 00:0 0 5",
            "0: é0100007:D431 a 01",
        ] {
            check(row, "127.0.0.1:54321", "127.0.0.1:5985", None);
        }
    }

    #[test]
    fn our_own_connection_is_ours() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, client_address) = listener.accept().unwrap();
        let owner = owner_of(client_address, server.local_addr().unwrap()).unwrap();
        assert_eq!(owner, Some(rustix::process::geteuid().as_raw()));
        assert_eq!(listed_owner_of(client_address, server.local_addr().unwrap()).unwrap(), owner);
        drop(client);
    }
}
