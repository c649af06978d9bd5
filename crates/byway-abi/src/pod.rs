//! Lets userspace put these types into maps.

// SAFETY: `#[repr(C)]`, free of padding (asserted beside each type), and any bytes make a valid value.
unsafe impl aya::Pod for crate::Target {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::GroupKey {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::NextHop {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::NextHopHealth {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::NextHopCounters {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::Counters {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::ExceptionCounters {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::sources::TableInfos {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::AttachmentCounters {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::Group {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::RuleRecord {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::SetRecord {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::NeighbourKey {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::ProgramKey {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::ProgramRecord {}
