//! Requests as fast as they are answered, by `wrk`.

use std::path::Path;

use vmtest::service::{Error, Result};

use crate::tool::{io, run};

/// Connections that are kept.
const CONNECTIONS: &str = "8";

/// Posts the envelopes in turn for some seconds, on the given processor; gives requests per second.
///
/// # Errors
/// If `wrk` is not there, or a reply was a fault.
pub fn rate(directory: &Path, url: &str, core: usize, seconds: u64, envelopes: &[String]) -> Result<f64> {
    let script = directory.join("load.lua");
    std::fs::write(&script, lua(envelopes)).map_err(io("writing the script for wrk"))?;
    let (core, duration) = (core.to_string(), format!("{seconds}s"));
    let script = script.display().to_string();
    let wrk = ["-c", &core, "wrk", "-t", "1", "-c", CONNECTIONS, "-d", &duration, "-s", &script, url];
    let told = run("taskset", &wrk)?;
    if told.contains("Non-2xx") || told.contains("Socket errors") {
        return Err(Error::Other(format!("not every request was answered: {told}")));
    }
    let rate =
        told.lines().find_map(|line| line.strip_prefix("Requests/sec:")).and_then(|rate| rate.trim().parse().ok());
    rate.ok_or_else(|| Error::Other(format!("wrk told no rate: {told}")))
}

fn lua(envelopes: &[String]) -> String {
    let bodies: String = envelopes.iter().map(|envelope| format!("[==[{envelope}]==],\n")).collect();
    format!(
        "wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/soap+xml;charset=UTF-8'\n\
         local bodies = {{\n{bodies}}}\nlocal at = 0\n\
         request = function() at = at % #bodies + 1; return wrk.format(nil, nil, nil, bodies[at]) end\n"
    )
}
