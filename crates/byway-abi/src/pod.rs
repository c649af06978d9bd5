//! Lets userspace put these types into maps.

macro_rules! pod {
    ($($type:ty),* $(,)?) => {$(
        // SAFETY: `#[repr(C)]`, free of padding (asserted beside each type), and any bytes make a valid value.
        unsafe impl aya::Pod for $type {}
    )*};
}

pod!(
    crate::Target,
    crate::GroupKey,
    crate::NextHop,
    crate::NextHopHealth,
    crate::HealthCheck,
    crate::NextHopCounters,
    crate::Counters,
    crate::ExceptionCounters,
    crate::sources::TableInfos,
    crate::AttachmentCounters,
    crate::Group,
    crate::RuleRecord,
    crate::SetRecord,
    crate::NeighbourKey,
    crate::ProgramKey,
    crate::ProgramRecord,
    crate::reply::Way,
    crate::reply::FlowCounters,
);
