//! Block nodes: what they are called, how they are made, and which of them is live.
//!
//! Every layer is two nodes, the format and the file below it, both named after the layer's id. So the graph of any QEMU of
//! ours can be read back as layers, by any later process. Nothing is ever probed: the driver is always given, and so is
//! `backing`, even when there is none, because QEMU would else open whatever the file's header names.

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
pub fn query() -> Command {
    Command::new("query-named-block-nodes").arg("flat", true)
}

/// The block nodes of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    nodes: std::collections::BTreeMap<String, Node>,
}

/// One block node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Driver, such as `qcow2`.
    pub driver: String,
    /// File name as QEMU gives it.
    pub file: PathBuf,
    /// Name of the node it reads through to.
    pub backing: Option<String>,
    /// Whether it is open for reading only.
    pub read_only: bool,
}

impl Graph {
    /// From the answers to [`query`] and to `query-block`. Nodes that are not as expected are left out.
    pub fn read(named: &Value) -> Self {
        let entries = named.as_array().into_iter().flatten().take(NODES_MAX);
        Self { nodes: entries.filter_map(read_node).collect() }
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The node of a layer.
    pub fn layer(&self, id: Uuid) -> Option<&Node> {
        self.node(&node_name(id))
    }

    /// Names from `top` downwards along the backing links.
    pub fn chain(&self, top: &str) -> Vec<&str> {
        let mut names = Vec::new();
        let mut next = self.nodes.get_key_value(top);
        while let Some((name, node)) = next {
            if names.len() == self.nodes.len() {
                break;
            }
            names.push(name.as_str());
            next = node.backing.as_ref().and_then(|backing| self.nodes.get_key_value(backing));
        }
        names
    }

    /// Whether `upper` reads through to `lower` directly.
    pub fn is_backed_by(&self, upper: &Layer, lower: &Layer) -> bool {
        self.layer(upper.id).and_then(|node| node.backing.as_deref()) == Some(&lower.node())
    }

    /// Whether all these overlays lie on their parents, which is to say that the switch has happened.
    pub fn is_switched(&self, overlays: &[Overlay]) -> bool {
        !overlays.is_empty() && overlays.iter().all(|overlay| self.is_backed_by(&overlay.layer, &overlay.parent))
    }
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
    let file = json!({
        "driver": "file", "node-name": file_node_name(layer.id), "filename": path_text(&layer.path),
        "read-only": read_only, "auto-read-only": false, "discard": "unmap", "cache": cache, "aio": aio,
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

fn read_node(entry: &Value) -> Option<(String, Node)> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let node = Node {
        driver: text("drv")?.to_owned(),
        file: PathBuf::from(text("file")?),
        backing: None,
        read_only: entry.get("ro").and_then(Value::as_bool).unwrap_or(false),
    };
    Some((text("node-name")?.to_owned(), node))
}
