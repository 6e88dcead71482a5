//! `Msvm_ProcessorSettingData` and `Msvm_MemorySettingData`: how much of each.

use cim::Instance;

/// The processors, as one resource.
pub fn processor(fresh: Instance, processors: u32) -> Instance {
    let count = u64::from(processors);
    fresh
        .with("ElementName", "Processor")
        .with("VirtualQuantity", count)
        .with("HwThreadsPerCore", 1u64)
        .with("MaxProcessorsPerNumaNode", count)
        .with("MaxNumaNodesPerSocket", 1u64)
}

/// The memory, all of it from the start: there is no ballooning here.
pub fn memory(fresh: Instance, mib: u64) -> Instance {
    fresh
        .with("ElementName", "Memory")
        .with("VirtualQuantity", mib)
        .with("Reservation", mib)
        .with("Limit", mib)
        .with("Weight", 5000u32)
        .with("TargetMemoryBuffer", 0u32)
        .with("MaxMemoryBlocksPerNumaNode", mib)
        .with("SgxSize", 0u64)
}
