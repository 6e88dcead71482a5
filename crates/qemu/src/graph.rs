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

/// Has QEMU write what it holds of a top layer's tables to the file. No command does just that; reopening a node with the options
/// that it has begins with it (`bdrv_reopen_prepare` in `block.c`, QEMU 6.1 and later).
pub fn flush(top: &Layer, below: Option<&Layer>, io: DiskIo) -> Command {
    let mut node = with_backing(top, false, io, below.map_or(Value::Null, |below| below.node().into()));
    node["file"] = file_node_name(top.id).into();
    Command::new("blockdev-reopen").arg("options", vec![node])
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

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn layer(number: u128, format: Format) -> Layer {
        Layer { id: Uuid::from_u128(number), path: format!("/d/{number},\"").into(), format }
    }

    #[test]
    fn names_fit_and_differ() {
        let ids = [0, 1, u128::MAX, 0x1234_5678_9abc_4def_8123_4567_89ab_cdef].map(Uuid::from_u128);
        let names: BTreeSet<_> = ids.iter().flat_map(|id| [node_name(*id), file_node_name(*id)]).collect();
        assert_eq!(names.len(), 8);
        assert!(names.iter().all(|name| name.len() == NODE_NAME_CHARS_MAX));
        assert_eq!(node_name(ids[3]), "L123456789abcdef123456789abcdef");
    }

    #[test]
    fn every_layer_of_a_chain_is_spelled_out() {
        let chain = [layer(2, Format::Qcow2), layer(1, Format::Raw)];
        let tree = chain_blockdev(&chain, false, DiskIo::DirectIoUring).unwrap();
        expect![[r#"
            {
              "auto-read-only": false,
              "backing": {
                "auto-read-only": false,
                "cache": {
                  "direct": true,
                  "no-flush": false
                },
                "detect-zeroes": "off",
                "discard": "unmap",
                "driver": "raw",
                "file": {
                  "aio": "io_uring",
                  "auto-read-only": true,
                  "cache": {
                    "direct": true,
                    "no-flush": false
                  },
                  "discard": "unmap",
                  "driver": "file",
                  "filename": "/d/1,\"",
                  "node-name": "F000000000000000000000000000001",
                  "read-only": false
                },
                "node-name": "L000000000000000000000000000001",
                "read-only": true
              },
              "cache": {
                "direct": true,
                "no-flush": false
              },
              "detect-zeroes": "off",
              "discard": "unmap",
              "driver": "qcow2",
              "file": {
                "aio": "io_uring",
                "auto-read-only": false,
                "cache": {
                  "direct": true,
                  "no-flush": false
                },
                "discard": "unmap",
                "driver": "file",
                "filename": "/d/2,\"",
                "node-name": "F000000000000000000000000000002",
                "read-only": false
              },
              "node-name": "L000000000000000000000000000002",
              "read-only": false
            }"#]]
        .assert_eq(&format!("{tree:#}"));
        assert_eq!(blockdev(&chain[0], false, DiskIo::Buffered)["backing"], Value::Null);
        assert_eq!(chain_blockdev(&[], false, DiskIo::Buffered), None);
    }

    /// Node 1 is the device; a commit job's filter (4) lies on layer 2, which lies on layer 1; layer 3 is not in use.
    #[test]
    fn chains_are_read_through_filters() {
        let [one, two, three] = [1, 2, 3].map(|number| layer(number, Format::Qcow2));
        let nodes = json!([
            { "id": 1, "type": "block-backend", "name": "/machine/disk" },
            { "id": 2, "type": "block-driver", "name": two.node() },
            { "id": 3, "type": "block-driver", "name": one.node() },
            { "id": 4, "type": "block-driver", "name": "#block123" },
            { "id": 5, "type": "block-driver", "name": three.node() },
            { "id": 6, "type": "block-job", "name": "merge" },
            { "id": "odd" },
        ]);
        let edges = json!([
            { "name": "root", "parent": 1, "child": 4 },
            { "name": "backing", "parent": 4, "child": 2 },
            { "name": "backing", "parent": 2, "child": 3 },
            { "name": "backing", "parent": 5, "child": 3 },
            { "name": "main node", "parent": 6, "child": 4 },
            { "name": "backing", "parent": 2 },
        ]);
        let graph = Graph::read(&json!({ "nodes": nodes, "edges": edges }));
        assert_eq!(graph.chains(), [[two.node(), one.node()]]);
        assert!(graph.has(&three) && graph.chain_of(&three).is_empty());
        let overlay = |layer: &Layer| [Overlay { layer: layer.clone(), parent: one.clone() }];
        assert!(graph.is_switched(&overlay(&two)));
        assert!(!graph.is_switched(&overlay(&three)));
        assert!(!graph.is_switched(&[]));
    }

    #[test]
    fn a_graph_in_circles_ends() {
        let [one, two] = [1, 2].map(|number| layer(number, Format::Qcow2));
        let node = |id: u64, name: String| json!({ "id": id, "type": "block-driver", "name": name });
        let edge = |parent: u64, child: u64| json!({ "name": "backing", "parent": parent, "child": child });
        let root = json!({ "name": "root", "parent": 1, "child": 2 });
        let nodes = [node(1, one.node()), node(2, two.node()), node(3, "#a".into()), node(4, "#b".into())];
        for edges in [[edge(1, 2), edge(2, 1)], [edge(2, 3), edge(3, 4)], [edge(3, 4), edge(4, 3)]] {
            let edges: Vec<_> = edges.into_iter().chain([root.clone()]).collect();
            let graph = Graph::read(&json!({ "nodes": nodes, "edges": edges }));
            assert!(graph.chain(&two.node()).len() <= nodes.len() + 1);
            assert!(graph.chain("#a").len() <= nodes.len() + 1);
        }
        assert_eq!(Graph::read(&json!("odd")), Graph::default());
    }
}
