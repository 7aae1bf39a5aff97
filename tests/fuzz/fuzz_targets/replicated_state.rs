//! Any bytes where servers and coordinators keep or send their state: refused, or the one encoding
//! of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use windlass_replication::{
    ClusterMap, Consistency, MapLimits, RangeClock, RangeClockLimits, SessionTable,
    Stamp, Time,
    coordinator::{WorkerTimings, Workers},
};

const SESSIONS_MAX: usize = 1024;

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let mut again = Vec::new();
    let understood = match which % 6 {
        0 => ClusterMap::decode(bytes, MapLimits::default()).map(|map| map.encode(&mut again)),
        1 => SessionTable::decode(bytes, SESSIONS_MAX).map(|table| table.encode(&mut again)),
        2 => RangeClock::decode(bytes, RangeClockLimits::default())
            .map(|clock| clock.encode(&mut again)),
        3 => Stamp::decode(bytes).map(|stamp| stamp.encode(&mut again)),
        4 => Workers::decode(bytes, WorkerTimings::default(), Time(0))
            .map(|workers| workers.encode(&mut again)),
        _ => Consistency::decode(bytes).map(|consistency| consistency.encode(&mut again)),
    };
    if understood.is_ok() {
        assert_eq!(again, bytes);
    }
});
