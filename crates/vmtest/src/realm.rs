//! A Kerberos realm of a test's own: a KDC on loopback, its database and configuration in a temporary directory.
//!
//! ```text
//!   Realm::start ─▶ kdb5_util, kadmin.local, krb5kdc ─▶ keytab(services), environment() for whoever takes part
//! ```
//! Nothing of the system is read or written: `KRB5_CONFIG` and `KRB5_KDC_PROFILE` name files of ours. The KDC ends when
//! the realm is dropped.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::service::{Error, Result};

/// How often a port is tried: between finding a free one and the KDC's taking it another process may be quicker.
const PORT_TRIES: usize = 5;
/// Debian keeps these programs where an ordinary user's `PATH` does not lead.
const SYSTEM_PROGRAMS: &str = "/usr/sbin:/sbin:/usr/local/sbin";

/// A running realm.
pub struct Realm {
    name: String,
    directory: tempfile::TempDir,
    kdc: Child,
}

impl Realm {
    /// Makes a realm with these users, each a name and a password, and starts its KDC. Machines of the realm allow
    /// clocks to differ by `skew_seconds`, which is also how long after its end a ticket is still good.
    ///
    /// # Errors
    /// If the programs of MIT krb5 are missing or refuse.
    pub fn start(name: &str, users: &[(&str, &str)], skew_seconds: u32) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("sv-realm-").tempdir().map_err(io("making a directory"))?;
        let mut refusal = String::new();
        for _ in 0..PORT_TRIES {
            let port = free_port()?;
            write_configuration(directory.path(), name, port, skew_seconds)?;
            if !directory.path().join("principal").exists() {
                fill_database(directory.path(), name, users)?;
            }
            match start_kdc(directory.path(), name)? {
                Ok(kdc) => return Ok(Self { name: name.to_owned(), directory, kdc }),
                Err(said) => refusal = said,
            }
        }
        Err(Error::Other(format!("the KDC does not start: {refusal}")))
    }

    /// Variables for processes that take part in the realm.
    pub fn environment(&self) -> [(&'static str, PathBuf); 1] {
        [("KRB5_CONFIG", self.directory.path().join("krb5.conf"))]
    }

    /// A file of the realm's directory, for tests to keep theirs in.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Logs a user in: a ticket cache of that file name with tickets for him and these services, which last for so long.
    ///
    /// # Errors
    /// If the KDC refuses.
    pub fn log_in(&self, file: &str, user: (&str, &str), services: &[&str], seconds: u32) -> Result<PathBuf> {
        let cache = self.file(file);
        let (name, password) = user;
        let mut kinit = program("kinit", self.directory.path());
        kinit.args(["-l", &format!("{seconds}s"), "-c"]).arg(&cache).arg(name);
        kinit.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut kinit = kinit.spawn().map_err(io("running kinit; `cargo xtask setup` installs it"))?;
        if let Some(mut input) = kinit.stdin.take() {
            writeln!(input, "{password}").map_err(io("telling kinit a password"))?;
        }
        let output = kinit.wait_with_output().map_err(io("waiting for kinit"))?;
        if !output.status.success() {
            return Err(Error::Other(format!("kinit: {}", String::from_utf8_lossy(&output.stderr))));
        }
        if !services.is_empty() {
            run(program("kvno", self.directory.path()).arg("-c").arg(&cache).args(services))?;
        }
        Ok(cache)
    }

    /// Adds principals with keys that nobody knows but the KDC.
    ///
    /// # Errors
    /// If the administration program refuses.
    pub fn add_services(&self, principals: &[&str]) -> Result<()> {
        principals
            .iter()
            .try_for_each(|name| administer(self.directory.path(), &self.name, &format!("addprinc -randkey {name}")))
    }

    /// Makes new keys for these services, such as `HTTP/localhost`, and writes them into a keytab of that file name.
    ///
    /// # Errors
    /// If the administration program refuses.
    pub fn keytab(&self, file: &str, principals: &[&str]) -> Result<PathBuf> {
        let keytab = self.file(file);
        for principal in principals {
            let add = format!("ktadd -k {} {principal}", keytab.display());
            administer(self.directory.path(), &self.name, &add)?;
        }
        if keytab.exists() {
            Ok(keytab)
        } else {
            Err(Error::Other(format!("no keytab was written for {principals:?}")))
        }
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.kdc.kill();
        let _ = self.kdc.wait();
    }
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { what: what.to_owned(), source }
}

/// A loopback port that is free for both TCP and UDP at this moment.
fn free_port() -> Result<u16> {
    for _ in 0..PORT_TRIES {
        let tcp = TcpListener::bind("127.0.0.1:0").map_err(io("finding a free port"))?;
        let address = tcp.local_addr().map_err(io("finding a free port"))?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address.port());
        }
    }
    Err(Error::Other("no port is free for both TCP and UDP".into()))
}

fn write_configuration(directory: &Path, name: &str, port: u16, skew_seconds: u32) -> Result<()> {
    let client = format!(
        "[libdefaults]\n default_realm = {name}\n clockskew = {skew_seconds}\n dns_lookup_realm = false\n \
         dns_lookup_kdc = false\n dns_canonicalize_hostname = false\n rdns = false\n\
         [realms]\n {name} = {{\n  kdc = 127.0.0.1:{port}\n }}\n"
    );
    let at = directory.display();
    let server = format!(
        "[kdcdefaults]\n kdc_listen = 127.0.0.1:{port}\n kdc_tcp_listen = 127.0.0.1:{port}\n\
         [realms]\n {name} = {{\n  database_name = {at}/principal\n  key_stash_file = {at}/stash\n  \
         acl_file = {at}/acl\n }}\n[logging]\n kdc = STDERR\n"
    );
    std::fs::write(directory.join("krb5.conf"), client).map_err(io("writing krb5.conf"))?;
    std::fs::write(directory.join("kdc.conf"), server).map_err(io("writing kdc.conf"))
}

fn fill_database(directory: &Path, name: &str, users: &[(&str, &str)]) -> Result<()> {
    run(program("kdb5_util", directory).args(["create", "-s", "-r", name, "-P", "a master key for a test"]))?;
    for (user, password) in users {
        administer(directory, name, &format!("addprinc -pw \"{password}\" {user}"))?;
    }
    Ok(())
}

fn administer(directory: &Path, name: &str, query: &str) -> Result<()> {
    run(program("kadmin.local", directory).args(["-r", name, "-q", query]))
}

/// A program of MIT krb5 that sees our configuration and no other.
fn program(name: &str, directory: &Path) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:{SYSTEM_PROGRAMS}"));
    command.env("KRB5_CONFIG", directory.join("krb5.conf")).env("KRB5_KDC_PROFILE", directory.join("kdc.conf"));
    command.stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().display().to_string();
    let output = command
        .output()
        .map_err(|source| Error::Io { what: format!("running {name}; `cargo xtask setup` installs it"), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Other(format!("{name} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr))))
}

/// The KDC once it answers, or what it said before it ended.
fn start_kdc(directory: &Path, name: &str) -> Result<std::result::Result<Child, String>> {
    let mut command = program("krb5kdc", directory);
    let mut kdc = command
        .args(["-n", "-r", name])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Io { what: "running krb5kdc; `cargo xtask setup` installs it".into(), source })?;
    let Some(output) = kdc.stderr.take() else { return Err(Error::Other("the KDC has no output".into())) };
    let mut said = String::new();
    let mut lines = BufReader::new(output).lines().map_while(std::result::Result::ok);
    for line in lines.by_ref() {
        if line.contains("commencing operation") {
            // It goes on talking, and must not be held up by a full pipe.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(Ok(kdc));
        }
        said.push_str(&line);
        said.push('\n');
    }
    kdc.wait().map_err(io("waiting for the KDC"))?;
    Ok(Err(said))
}
