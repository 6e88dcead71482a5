//! A service with all its doors open, users of every kind, and a Kerberos realm around it: what the tests of outside
//! clients and of authentication share.
//!
//! | door | address |
//! | --- | --- |
//! | `loopback` | HTTP on 127.0.0.1 |
//! | `remote` | HTTP on this host's own address, which for the daemon is as far away as any other |
//! | `tls` | HTTPS on 127.0.0.1, with the certificate that the daemon makes itself |

use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};

use auth::secret::{NtHash, Password, Phc};
use auth::users::{Role, User, Users};
use vmtest::realm::Realm;
use vmtest::service::Service;

/// Name of the realm.
pub const REALM: &str = "SNAPVISOR.TEST";
/// How much clocks may differ in it: enough for a busy machine, and short enough to wait for a ticket's end.
pub const SKEW_SECONDS: u32 = 5;
/// Users of the daemon and of the realm. `off` is disabled; `bob`'s principal is not in the users file.
pub const USERS: [(&str, &str, Role); 5] = [
    ("alice", "alice's secret", Role::Administer),
    ("bob", "bob's secret", Role::Operate),
    ("reader", "reader's secret", Role::Read),
    ("off", "off's secret", Role::Administer),
    ("locked", "locked's secret", Role::Administer),
];

/// The service, and what belongs to it.
pub struct Doors {
    /// The service.
    pub service: Service,
    /// The realm that its keytab is of.
    pub realm: Realm,
    /// `127.0.0.1:PORT`
    pub loopback: String,
    /// The same, of the host's own address.
    pub remote: String,
    /// `localhost:PORT` of HTTPS.
    pub tls: String,
}

impl Doors {
    /// Opens them.
    pub fn open() -> Self {
        let users: Vec<_> = USERS.iter().map(|&(name, password, _)| (name, password)).collect();
        let realm = Realm::start(REALM, &users, SKEW_SECONDS).unwrap();
        let ours = ["HTTP/localhost", "host/localhost", "nfs/localhost"];
        realm.add_services(&ours).unwrap();
        realm.add_services(&["HTTP/elsewhere"]).unwrap();
        let keytab = realm.keytab("keytab", &ours).unwrap();
        let users_file = realm.file("users");
        write_users(&users_file);
        let (keytab, users_file) = (keytab.display().to_string(), users_file.display().to_string());
        let remote = format!("{}:0", own_address());
        let [(variable, value)] = realm.environment();
        let options = [
            ["--listen", &remote],
            ["--https-listen", "127.0.0.1:0"],
            ["--certificate-name", "localhost"],
            ["--users-file", &users_file],
            ["--keytab", &keytab],
        ];
        let service = Service::start_in(&[(variable, &value)], options.as_flattened()).unwrap();
        let find = |begin: &str| {
            let found = service.urls.iter().find_map(|url| url.strip_prefix(begin)?.strip_suffix("/wsman"));
            found.unwrap_or_else(|| panic!("no {begin} in {:?}", service.urls)).to_owned()
        };
        let loopback = find("http://127.0.0.1:");
        let tls = find("https://127.0.0.1:");
        let remote = find(&format!("http://{}:", own_address()));
        Self {
            loopback: format!("127.0.0.1:{loopback}"),
            remote: format!("{}:{remote}", own_address()),
            tls: format!("localhost:{tls}"),
            service,
            realm,
        }
    }

    /// The certificate that clients are to trust.
    pub fn certificate(&self) -> PathBuf {
        self.service.data().join("certificate.pem")
    }
}

/// An address of this host that is not loopback. Asking the kernel for the way to somewhere sends nothing.
pub fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .connect("198.51.100.1:9")
        .expect("this host has a way to other hosts, and so an address that they would see");
    socket.local_addr().unwrap().ip()
}

/// A users file with [`USERS`], who all may use NTLM, and with alice's and reader's principals.
fn write_users(path: &Path) {
    let mut users = Users::default();
    for (name, password, role) in USERS {
        let password = Password::new(password.to_owned());
        let (phc, nt_hash) = (Phc::of(&password, &[7; 16]).unwrap(), Some(NtHash::of(&password)));
        let disabled = name == "off";
        users.add(User { name: name.to_owned(), role, password: phc, nt_hash, disabled }).unwrap();
    }
    users.add_principal(&format!("alice@{REALM}"), Role::Administer).unwrap();
    users.add_principal(&format!("reader@{REALM}"), Role::Read).unwrap();
    std::fs::write(path, users.to_string()).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}
