//! Pools: where resources come from, and what one of them is by default, at least and at most.
//!
//! Clients ask for settings of a new resource by the pool: its capabilities are defined by four instances of the resource's
//! own class of settings, which belong to no machine. The same four are found by name, `InstanceID LIKE '%\Default'`.

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pool {
    /// Processors.
    Processor,
    /// Memory.
    Memory,
    /// IDE controllers.
    Ide,
    /// SCSI controllers.
    Scsi,
    /// Drives for disk images.
    Drive,
    /// Disk images.
    Disk,
    /// Network adapters.
    Adapter,
    /// Connections of network adapters.
    Connection,
    /// Serial ports.
    Serial,
}

/// What the settings of a pool define: the last part of their `InstanceID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Range {
    /// What a resource is if nothing is said about it.
    Default,
    /// The least.
    Minimum,
    /// The most.
    Maximum,
    /// The step between two values.
    Increment,
}

impl Pool {
    /// All pools.
    pub const ALL: [Self; 9] = [
        Pool::Processor,
        Pool::Memory,
        Pool::Ide,
        Pool::Scsi,
        Pool::Drive,
        Pool::Disk,
        Pool::Adapter,
        Pool::Connection,
        Pool::Serial,
    ];

    /// The class of the pool.
    pub fn class(self) -> &'static str {
        match self {
            Pool::Processor => "Msvm_ProcessorPool",
            _ => "Msvm_ResourcePool",
        }
    }

    /// The class of settings of its resources.
    pub fn settings_class(self) -> &'static str {
        match self {
            Pool::Processor => "Msvm_ProcessorSettingData",
            Pool::Memory => "Msvm_MemorySettingData",
            Pool::Ide | Pool::Scsi | Pool::Drive => "Msvm_ResourceAllocationSettingData",
            Pool::Disk => "Msvm_StorageAllocationSettingData",
            Pool::Adapter => "Msvm_SyntheticEthernetPortSettingData",
            Pool::Connection => "Msvm_EthernetPortAllocationSettingData",
            Pool::Serial => "Msvm_SerialPortSettingData",
        }
    }

    /// Its identity: fixed, and the same on all hosts.
    pub fn guid(self) -> &'static str {
        match self {
            Pool::Processor => "B637F347-6A0E-4DEC-AF52-BD70CB80A21D",
            Pool::Memory => "4764334E-E001-4176-82EE-5594EC9B530E",
            Pool::Ide => "6B5FAF8E-19A7-4C1B-9A4F-2A1D4A0F5E01",
            Pool::Scsi => "6B5FAF8E-19A7-4C1B-9A4F-2A1D4A0F5E02",
            Pool::Drive => "6B5FAF8E-19A7-4C1B-9A4F-2A1D4A0F5E03",
            Pool::Disk => "6B5FAF8E-19A7-4C1B-9A4F-2A1D4A0F5E04",
            Pool::Adapter => "6B5FAF8E-19A7-4C1B-9A4F-2A1D4A0F5E05",
            Pool::Connection => "6B5FAF8E-19A7-4C1B-9A4F-2A1D4A0F5E06",
            Pool::Serial => "6B5FAF8E-19A7-4C1B-9A4F-2A1D4A0F5E07",
        }
    }
}

impl Range {
    /// All of them, in the order of answers.
    pub const ALL: [Self; 4] = [Range::Default, Range::Minimum, Range::Maximum, Range::Increment];

    /// How it ends an `InstanceID`.
    pub fn name(self) -> &'static str {
        match self {
            Range::Default => "Default",
            Range::Minimum => "Minimum",
            Range::Maximum => "Maximum",
            Range::Increment => "Increment",
        }
    }
}
