//! A client that does nothing but wait: envelopes made beforehand, replies looked through for a few words.
//!
//! The client of the command line reads every property, and would be measured along with the daemon.

use std::io::{Read, Write};
use std::net::TcpStream;

use vmtest::service::{Error, Result};

use crate::tool::io;

/// The namespace.
const BASE: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/";
/// The largest envelope we say we take.
const ENVELOPE: usize = 16 << 20;
/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// An HTTP connection that is kept.
pub struct Client {
    stream: TcpStream,
    host: String,
    /// The body of the last reply.
    body: Vec<u8>,
}

impl Client {
    /// Connects to `http://HOST:PORT/wsman`.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(url: &str) -> Result<Self> {
        let host = url.trim_start_matches("http://").split('/').next().unwrap_or_default().to_owned();
        let stream = TcpStream::connect(&host).map_err(io(format!("connecting to {url}")))?;
        stream.set_nodelay(true).map_err(io("setting up the connection"))?;
        Ok(Self { stream, host, body: Vec::new() })
    }

    /// Sends an envelope and waits for the whole reply.
    ///
    /// # Errors
    /// If there is none, or it is a fault.
    pub fn ask(&mut self, envelope: &str) -> Result<Reply<'_>> {
        let head = format!(
            "POST /wsman HTTP/1.1\r\nHost: {}\r\nContent-Type: application/soap+xml;charset=UTF-8\r\nContent-Length: {}\r\n\r\n",
            self.host,
            envelope.len()
        );
        let message = [head.as_bytes(), envelope.as_bytes()].concat();
        self.stream.write_all(&message).map_err(io("sending a request"))?;
        let status = self.receive().map_err(io("reading a reply"))?;
        let reply = Reply(String::from_utf8_lossy(&self.body));
        match status.as_str() {
            "200" => Ok(reply),
            _ => {
                Err(Error::Other(format!("status {status}: {}", reply.between("<f:Message>", "<").unwrap_or_default())))
            }
        }
    }

    /// Reads head and body; gives the status.
    fn receive(&mut self) -> std::io::Result<String> {
        self.body.clear();
        let mut chunk = vec![0; CHUNK];
        let end = loop {
            if let Some(at) = self.body.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            self.more(&mut chunk)?;
        };
        let head = String::from_utf8_lossy(self.body.get(..end).unwrap_or_default()).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or_default();
        self.body.drain(..end + 4);
        while self.body.len() < length {
            self.more(&mut chunk)?;
        }
        Ok(head.split(' ').nth(1).unwrap_or_default().to_owned())
    }

    fn more(&mut self, chunk: &mut [u8]) -> std::io::Result<()> {
        let count = self.stream.read(chunk)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.body.extend_from_slice(chunk.get(..count).unwrap_or_default());
        Ok(())
    }
}

/// The envelope of a reply.
pub struct Reply<'a>(std::borrow::Cow<'a, str>);

impl Reply<'_> {
    /// The enumeration context, unless the enumeration is over.
    pub fn context(&self) -> Option<String> {
        self.between("<n:EnumerationContext>", "<").filter(|context| !context.is_empty()).map(str::to_owned)
    }

    /// How many rows are in it.
    pub fn rows(&self, class: &str) -> usize {
        self.0.matches(&format!("</p:{class}>")).count()
    }

    /// Bytes of the envelope.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    fn between(&self, before: &str, after: &str) -> Option<&str> {
        self.0.split_once(before).and_then(|(_, rest)| rest.split_once(after)).map(|(text, _)| text)
    }
}

/// The envelope of a Get.
pub fn get(class: &str, key: &str, value: &str) -> String {
    let selectors = format!(r#"<w:SelectorSet><w:Selector Name="{key}">{value}</w:Selector></w:SelectorSet>"#);
    envelope("http://schemas.xmlsoap.org/ws/2004/09/transfer/Get", class, &selectors, "")
}

/// The envelope of a WQL query; rows come with the reply.
pub fn query(wql: &str, rows: usize) -> String {
    let wql = wql.replace('<', "&lt;");
    let body = format!(
        r#"<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>{rows}</w:MaxElements><w:Filter Dialect="http://schemas.microsoft.com/wbem/wsman/1/WQL">{wql}</w:Filter></n:Enumerate>"#
    );
    envelope("http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate", "*", "", &body)
}

/// The envelope of a Pull.
pub fn pull(context: &str, rows: usize) -> String {
    let body = format!(
        "<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext><n:MaxElements>{rows}</n:MaxElements></n:Pull>"
    );
    envelope("http://schemas.xmlsoap.org/ws/2004/09/enumeration/Pull", "*", "", &body)
}

fn envelope(action: &str, class: &str, header: &str, body: &str) -> String {
    format!(
        r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:n="http://schemas.xmlsoap.org/ws/2004/09/enumeration"><s:Header><a:Action s:mustUnderstand="true">{action}</a:Action><a:To s:mustUnderstand="true">http://localhost:5985/wsman</a:To><w:ResourceURI s:mustUnderstand="true">{BASE}{class}</w:ResourceURI><a:MessageID s:mustUnderstand="true">uuid:9A2C6F3E-0A52-4B4D-8E0C-0D4C0B1D2E3F</a:MessageID><a:ReplyTo><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo><w:MaxEnvelopeSize>{ENVELOPE}</w:MaxEnvelopeSize><w:OperationTimeout>PT60S</w:OperationTimeout>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"#
    )
}
