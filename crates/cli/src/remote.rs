//! Which service is meant, and how we get in: the options of the command line made into a channel.

use crate::args::{Global, Remote, Transport};
use crate::error::{Error, Kind, Result};
use crate::http::{Connection, Target};
use crate::login::{Channel, Credentials};
use crate::tls::{Trust, parse_fingerprint};
use crate::{password, session};

/// A channel to the service that the options name; nothing is sent yet, but a password may be asked for.
///
/// # Errors
/// When the options make no sense, or there is no password.
pub fn channel(global: &Global) -> Result<Channel> {
    let remote = &global.remote;
    let target = match &remote.host {
        Some(host) => host_target(host, remote.transport)?,
        None => session::target(global.url.as_deref())?,
    };
    let trust = trust(remote)?;
    let credentials = match (&target, &remote.user) {
        (Target::Tcp { .. }, Some(user)) => {
            let password = password::obtain(user, remote.password_file.as_deref())?;
            Some(Credentials { user: user.clone(), password })
        }
        // The kernel tells the daemon who is at the other end of its own socket.
        _ => None,
    };
    Ok(Channel::new(Connection::new(target, trust), credentials))
}

fn host_target(host: &str, transport: Transport) -> Result<Target> {
    let scheme = match transport {
        Transport::Http => "http",
        Transport::Https => "https",
    };
    let is_bare_ipv6 = host.parse::<std::net::Ipv6Addr>().is_ok();
    let url = if is_bare_ipv6 { format!("{scheme}://[{host}]") } else { format!("{scheme}://{host}") };
    let target = url.parse().ok().filter(|_| !host.contains('/'));
    target.ok_or_else(|| Error::new(Kind::Usage, format!("{host} is not a host: write NAME or NAME:PORT")))
}

fn trust(remote: &Remote) -> Result<Trust> {
    let Some(fingerprint) = &remote.fingerprint else {
        return Ok(remote.ca_file.clone().map_or(Trust::System, Trust::Authorities));
    };
    let wrong = || {
        Error::new(Kind::Usage, format!("{fingerprint} is not a SHA-256 fingerprint: it has 64 hexadecimal digits"))
            .hint("`openssl x509 -noout -fingerprint -sha256` prints it")
    };
    parse_fingerprint(fingerprint).map(Trust::Fingerprint).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read() {
        let check = |host: &str, transport, expected: Option<&str>| {
            let target = host_target(host, transport).ok().map(|target| target.to_string());
            assert_eq!(target.as_deref(), expected, "{host}");
        };
        check("hv1", Transport::Http, Some("http://hv1:5985/wsman"));
        check("hv1.example", Transport::Https, Some("https://hv1.example:5986/wsman"));
        check("hv1:80", Transport::Http, Some("http://hv1:80/wsman"));
        check("2001:db8::1", Transport::Https, Some("https://[2001:db8::1]:5986/wsman"));
        check("[::1]:99", Transport::Http, Some("http://[::1]:99/wsman"));
        check("hv1/path", Transport::Http, None);
        check("a b", Transport::Http, None);
        check("", Transport::Http, None);
    }
}
