//! A message, its header, and its route.

use windlass_transport::LocalSlice;
use windlass_wire::{
    Aggregation, RequestHeader, RequestKind, RowRange, Rows, WorkerClock, filter::ValueCoding,
};

use super::{
    Cluster, Session,
    clock::Clocks,
    link::{Answer, Held},
    memory::RegionId,
    requests::{NOBODY, RequestId},
    tables::{TableIndex, Tables},
};
use crate::config::PushOptions;

/// The values of one message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values<'a> {
    None,
    Inline(&'a [u8]),
    At {
        region: RegionId,
        offset: u64,
        held: Held,
    },
    /// In the message, written straight from the caller's registered memory.
    Lent {
        region: RegionId,
        offset: u64,
        local: LocalSlice,
    },
}

/// One message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) request: RequestId,
    /// Places are filled in once it is known which link it goes by.
    pub(super) header: RequestHeader,
    /// Its keys as numbers, and the bytes that are sent for them.
    pub(super) list: &'a [u64],
    pub(super) keys: &'a [u8],
    pub(super) values: Values<'a>,
    /// Region and offset that pulled rows are written to.
    pub(super) reply: Option<(RegionId, u64)>,
}

impl Message<'static> {
    /// A header alone, of which no user waits to hear.
    pub(super) fn bare(header: RequestHeader) -> Self {
        Self { request: NOBODY, header, list: &[], keys: &[], values: Values::None, reply: None }
    }
}

/// A link as it was chosen: by the routes of this generation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) link: usize,
    pub(super) generation: u64,
}

/// Where the values of a push are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// In memory of the caller, copied before the call returns.
    Plain(&'a [u8]),
    /// In a registered region, which stays untouched until the push is done.
    Registered { region: RegionId, offset: u64 },
}

/// Which replica of a partition keys are sorted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replica {
    Head,
    /// The last that holds all that was committed.
    Tail,
    /// One of those that do, always the same while it can be reached.
    Any,
    /// The last of the chain, asked to answer only while it is that.
    Strong,
}

/// The rows of one message.
#[derive(Clone, Copy)]
pub(super) enum PartRows<'a> {
    Range(RowRange),
    Keys(&'a [u64]),
}

impl<'a> PartRows<'a> {
    /// The keys; none of a range.
    pub(super) fn keys(self) -> &'a [u64] {
        match self {
            Self::Range(_) => &[],
            Self::Keys(keys) => keys,
        }
    }
}

impl Message<'_> {
    pub(super) fn held(&self) -> Held {
        let coding = self.header.coding.map(|coding| coding.filters.values);
        if let (Some(coding), Some((region, offset))) = (coding, self.reply)
            && coding != ValueCoding::Plain
        {
            let len = u32::try_from(self.header.values_len())
                .unwrap_or_else(|_| unreachable!("pulls are bounded"));
            return Held::Answer(Answer { region, offset, coding, len });
        }
        match self.values {
            Values::At { held, .. } => held,
            Values::Lent { region, offset, .. } => Held::Lent { region, offset },
            Values::None | Values::Inline(_) => Held::Nothing,
        }
    }
}

impl Session {
    /// The header of a message of a push.
    pub(super) fn push_header(
        &mut self,
        tables: &Tables,
        clocks: &Clocks,
        cluster: &Cluster,
        table: TableIndex,
        rows: PartRows<'_>,
        options: &PushOptions,
    ) -> RequestHeader {
        let mut header = self.header(tables, clocks, cluster, RequestKind::Push, table, options);
        match rows {
            PartRows::Range(range) => {
                header.rows = Rows::Range { first: range.start };
                header.row_count = count_of(range.count());
            }
            PartRows::Keys(keys) => header.row_count = count_of(keys.len() as u64),
        }
        header
    }

    /// A header for this table; rows and values are filled in by the caller.
    pub(super) fn header(
        &mut self,
        tables: &Tables,
        clocks: &Clocks,
        cluster: &Cluster,
        kind: RequestKind,
        table: TableIndex,
        options: &PushOptions,
    ) -> RequestHeader {
        self.sequence = self.sequence.next();
        let entry = &tables[table].entry;
        let clock = match entry.schema.aggregation {
            // Of the round that this worker is in.
            Aggregation::Rounds { .. } if kind.pushes() => WorkerClock(clocks.own.0 + 1),
            _ => options.clock.unwrap_or(clocks.own),
        };
        RequestHeader {
            kind,
            sync: options.sync,
            resumes: false,
            strong: false,
            dtype: entry.schema.dtype,
            table: entry.id,
            sequence: self.sequence,
            epoch: cluster.map.epoch,
            clock,
            rows: Rows::Keys,
            row_count: 0,
            width: entry.schema.width,
            coding: None,
            values: None,
            reply: None,
        }
    }

    pub(super) fn clock_header(
        &mut self,
        tables: &Tables,
        clocks: &Clocks,
        cluster: &Cluster,
        table: TableIndex,
    ) -> RequestHeader {
        let options = PushOptions { clock: Some(clocks.own), ..PushOptions::default() };
        self.header(tables, clocks, cluster, RequestKind::AdvanceClock, table, &options)
    }
}

impl Cluster {
    /// The route by a link, as of now.
    #[inline]
    pub(super) fn route(&self, link: usize) -> Route {
        Route { link, generation: self.generation }
    }
}

pub(super) fn count_of(rows: u64) -> u32 {
    u32::try_from(rows).unwrap_or_else(|_| unreachable!("parts are bounded"))
}

/// A length or offset within memory of this process.
#[expect(clippy::cast_possible_truncation, reason = "the transport asserts a 64-bit target")]
pub(super) const fn index(value: u64) -> usize {
    value as usize
}
