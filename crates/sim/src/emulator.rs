//! A fake emulator process: a guest's memory, the files it has open, and a block job that outlives the daemon.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ledger::vm::Slot;

use crate::files::{Content, Files, Inode, Write};

/// What is behind one slot, as the process has it open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Names it was opened by, top first.
    pub paths: Vec<PathBuf>,
    /// The files, in the same order.
    pub inodes: Vec<Inode>,
}

/// A process.
#[derive(Clone, Debug)]
pub struct Emulator {
    /// Which files each slot has.
    pub stacks: BTreeMap<Slot, Stack>,
    /// Guest memory.
    pub memory: Content,
    /// The guest is not stopped.
    pub running: bool,
    /// The guest has run, or may have.
    pub begun: bool,
    /// The guest stands still for a migration or a job, not because somebody asked.
    pub held: bool,
}

impl Emulator {
    /// The guest writes `value` to a block of memory and of every disk.
    pub fn guest_writes(&mut self, files: &mut Files, block: u8, value: u32) {
        self.memory.insert(block, value);
        for stack in self.stacks.values() {
            if let Some(top) = stack.inodes.first() {
                files.write(*top, Write::Block(block, value));
            }
        }
    }

    /// The guest flushes its disks.
    pub fn guest_flushes(&self, files: &mut Files) {
        for top in self.stacks.values().filter_map(|stack| stack.inodes.first()) {
            files.sync(*top);
        }
    }

    /// What the guest reads from each disk.
    pub fn disks(&self, files: &Files) -> BTreeMap<Slot, Content> {
        self.stacks.iter().map(|(slot, stack)| (*slot, files.read(&stack.inodes))).collect()
    }
}

impl Stack {
    /// A new top.
    pub fn push(&mut self, path: PathBuf, inode: Inode) {
        self.paths.insert(0, path);
        self.inodes.insert(0, inode);
    }

    /// Takes one file out of the stack.
    pub fn drop_file(&mut self, path: &PathBuf) {
        if let Some(at) = self.paths.iter().position(|known| known == path) {
            self.paths.remove(at);
            self.inodes.remove(at);
        }
    }
}
