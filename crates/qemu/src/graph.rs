//! Block nodes: what they are called, how they are made, and which of them is live.
//!
//! Every layer is two nodes, the format and the file below it, both named after the layer's id. So the graph of any QEMU of
//! ours can be read back as layers, by any later process. Nothing is ever probed: the driver is always given, and so is
//! `backing`, even when there is none, because QEMU would else open whatever the file's header names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::qmp::Command;

/// Longest node name, QEMU's `char node_name[32]` less its end.
pub const NODE_NAME_CHARS_MAX: usize = 31;

/// Most nodes read from one answer. Two for each of 184 disks with chains of a few hundred layers are far below.
pub const NODES_MAX: usize = 1 << 20;

/// Format of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Bytes of the disk, one to one.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

impl Format {
    /// QEMU's name of the driver.
    pub fn driver(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

/// An image file as a layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layer {
    /// Identity; the nodes are named after it.
    pub id: Uuid,
    /// Absolute path.
    pub path: PathBuf,
    /// Format, never probed.
    pub format: Format,
}

impl Layer {
    /// Name of the node that guests and other layers see.
    pub fn node(&self) -> String {
        node_name(self.id)
    }
}

/// How a process reaches the disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskIo {
    /// Through the page cache, with a pool of threads. Works on every file system.
    Buffered,
    /// Past the page cache, with a pool of threads.
    DirectThreads,
    /// Past the page cache, with `io_uring`.
    DirectIoUring,
}

/// A new top for a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The empty image to put on top.
    pub layer: Layer,
    /// The layer that is on top now.
    pub parent: Layer,
}

/// Name of a layer's format node: `L` and thirty of the id's 32 hexadecimal digits. Left out are the two that are the same or
/// nearly so in all random ids (version and variant), so that names are as unique as ids.
pub fn node_name(layer: Uuid) -> String {
    name_with('L', layer)
}

/// Name of a layer's file node.
pub fn file_node_name(layer: Uuid) -> String {
    name_with('F', layer)
}

/// One layer as a block device tree without what lies below: `backing` is null, to be joined by `blockdev-snapshot`, or
/// absent for a raw image.
pub fn blockdev(layer: &Layer, read_only: bool, io: DiskIo) -> Value {
    with_backing(layer, read_only, io, Value::Null)
}

/// A whole chain, top first, as one object for `-blockdev`. The layers below the top are read-only. `None` if empty.
pub fn chain_blockdev(chain: &[Layer], read_only: bool, io: DiskIo) -> Option<Value> {
    let mut below = Value::Null;
    for (depth, layer) in chain.iter().enumerate().rev() {
        below = with_backing(layer, read_only || depth > 0, io, below);
    }
    (!chain.is_empty()).then_some(below)
}

/// Adds an overlay to the graph, not yet joined to anything.
pub fn add(layer: &Layer, read_only: bool, io: DiskIo) -> Command {
    Command::with("blockdev-add", blockdev(layer, read_only, io))
}

/// Removes a node. Its file node, made in the same tree, goes with it.
pub fn remove(node: &str) -> Command {
    Command::new("blockdev-del").arg("node-name", node)
}

/// Puts all overlays on top of their parents at one moment.
pub fn switch(overlays: &[Overlay]) -> Command {
    let actions: Vec<Value> = overlays
        .iter()
        .map(|overlay| {
            let data = json!({ "node": overlay.parent.node(), "overlay": overlay.layer.node() });
            json!({ "type": "blockdev-snapshot", "data": data })
        })
        .collect();
    Command::new("transaction").arg("actions", actions)
}

/// Asks for the graph; read the answer with [`Graph::read`].
///
/// The command is for debugging by its name, but has been there unchanged since QEMU 4.0 and is the only one that tells which
/// node lies on which: the others give file names, which may be `json:` descriptions cut off at 4096 bytes.
pub fn query() -> Command {
    Command::new("x-debug-query-block-graph")
}

/// The block nodes of a process and what lies on what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    nodes: BTreeSet<String>,
    /// From a node to the one its content shines through from.
    below: BTreeMap<String, String>,
    /// Nodes that a device has open.
    roots: BTreeSet<String>,
}

impl Graph {
    /// From the answer to [`query`]. What is not as expected is left out.
    pub fn read(answer: &Value) -> Self {
        let list = |name: &str| answer.get(name).and_then(Value::as_array).into_iter().flatten().take(NODES_MAX);
        let nodes: BTreeMap<u64, (&str, &str)> = list("nodes").filter_map(read_node).collect();
        let mut graph = Self::default();
        graph
            .nodes
            .extend(nodes.values().filter(|(kind, _)| *kind == "block-driver").map(|(_, name)| (*name).to_owned()));
        for edge in list("edges") {
            let end = |name: &str| nodes.get(&edge.get(name)?.as_u64()?);
            let (Some((_, parent)), Some((_, child))) = (end("parent"), end("child")) else { continue };
            match edge.get("name").and_then(Value::as_str) {
                Some("backing") => drop(graph.below.insert((*parent).to_owned(), (*child).to_owned())),
                // A job's filter may reach its node as `file`; for nodes that have both, `backing` is what shines through.
                Some("file") => drop(graph.below.entry((*parent).to_owned()).or_insert_with(|| (*child).to_owned())),
                Some("root") => drop(graph.roots.insert((*child).to_owned())),
                _ => {}
            }
        }
        graph
    }

    /// Whether a layer's node is there.
    pub fn has(&self, layer: &Layer) -> bool {
        self.nodes.contains(&layer.node())
    }

    /// The first layer at or below a node, looking through the filters of jobs.
    fn layer_at<'a>(&'a self, node: &'a str) -> Option<&'a str> {
        let mut next = Some(node);
        for _ in 0..=self.nodes.len() {
            match next {
                Some(name) if is_layer(name) => return next,
                Some(name) => next = self.below.get(name).map(String::as_str),
                None => return None,
            }
        }
        None
    }

    /// The layers under each device, top first: which layer is live, and what it lies on.
    pub fn chains(&self) -> Vec<Vec<&str>> {
        self.roots.iter().map(|root| self.chain(root)).filter(|chain| !chain.is_empty()).collect()
    }

    /// The layers at and below a node.
    pub fn chain<'a>(&'a self, top: &'a str) -> Vec<&'a str> {
        let mut chain = Vec::new();
        let mut next = self.layer_at(top);
        while let Some(name) = next {
            if chain.len() > self.nodes.len() {
                break;
            }
            chain.push(name);
            next = self.below.get(name).and_then(|below| self.layer_at(below));
        }
        chain
    }

    /// The layers of the device that reads through this one, top first. Empty if no device does; the node may be there all the
    /// same, left over or not yet used.
    pub fn chain_of(&self, layer: &Layer) -> Vec<&str> {
        let node = layer.node();
        self.chains().into_iter().find(|chain| chain.contains(&node.as_str())).unwrap_or_default()
    }

    /// Whether devices read through these overlays, which is to say that the switch has happened. They are switched together.
    pub fn is_switched(&self, overlays: &[Overlay]) -> bool {
        overlays.iter().any(|overlay| !self.chain_of(&overlay.layer).is_empty())
    }
}

fn is_layer(node: &str) -> bool {
    node.len() == NODE_NAME_CHARS_MAX && node.starts_with('L')
}

fn name_with(letter: char, layer: Uuid) -> String {
    let digits = layer.simple().to_string();
    // Digits 12 and 16 hold version and variant.
    let kept = digits.chars().enumerate().filter(|(index, _)| *index != 12 && *index != 16).map(|(_, digit)| digit);
    std::iter::once(letter).chain(kept).collect()
}

fn with_backing(layer: &Layer, read_only: bool, io: DiskIo, backing: Value) -> Value {
    let direct = io != DiskIo::Buffered;
    let cache = json!({ "direct": direct, "no-flush": false });
    let aio = if io == DiskIo::DirectIoUring { "io_uring" } else { "threads" };
    // The file of a read-only layer is opened for reading, and QEMU opens it for writing as long as a job writes down into it.
    // With a plain `read-only` such a job is refused ("Block node is read-only").
    let file = json!({
        "driver": "file", "node-name": file_node_name(layer.id), "filename": path_text(&layer.path),
        "read-only": false, "auto-read-only": read_only, "discard": "unmap", "cache": cache, "aio": aio,
    });
    let mut node = json!({
        "driver": layer.format.driver(), "node-name": layer.node(), "file": file,
        "read-only": read_only, "auto-read-only": false, "discard": "unmap", "detect-zeroes": "off", "cache": cache,
    });
    if layer.format == Format::Qcow2 {
        node["backing"] = backing;
    }
    node
}

/// Paths reach QEMU as JSON, so they must be text. The host refuses others when an image is attached.
fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn read_node(node: &Value) -> Option<(u64, (&str, &str))> {
    let text = |name: &str| node.get(name).and_then(Value::as_str);
    Some((node.get("id")?.as_u64()?, (text("type")?, text("name")?)))
}
