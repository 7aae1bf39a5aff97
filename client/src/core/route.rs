//! Which link leads to which rows.

use windlass_wire::{Layout, PartitionId, RowRange, ServerId, map::shard_of};

use super::{Cluster, LinkScratch, Links, Scratch, Session, TableIndex, Tables, message::Replica};
use crate::{config::PullFrom, error::RequestError};

/// Links to one replica of each partition.
#[derive(Debug, Default)]
pub(super) struct Routes {
    links: Vec<u32>,
    /// The link that leads to all of them, if one does.
    pub(super) sole: Option<usize>,
}

impl Routes {
    pub(super) fn new(links: Vec<u32>) -> Self {
        let first = links.first().copied();
        let sole = first.filter(|first| links.iter().all(|link| link == first));
        Self { links, sole: sole.map(|link| link as usize) }
    }

    /// The link to a partition; the number of links when none leads there.
    #[inline]
    pub(super) fn link_of(&self, partition: PartitionId) -> usize {
        self.links[partition.0 as usize] as usize
    }
}

impl Cluster {
    /// Computes from the map which links lead where.
    pub(super) fn route_partitions(
        &mut self,
        session: &Session,
        links: &Links,
        scratch: &mut Scratch,
    ) {
        let nowhere = u32::try_from(links.all.len()).unwrap_or(u32::MAX);
        let link_of = |partition: PartitionId, server: Option<ServerId>| {
            let server = self.servers.iter().find(|known| Some(known.id) == server);
            server.filter(|server| !server.left).map_or(nowhere, |server| {
                let link =
                    server.first_link + usize::from(shard_of(partition, server.shard_count).0);
                u32::try_from(link).unwrap_or(nowhere)
            })
        };
        let partitions = || (0..self.map.partition_count()).map(PartitionId);
        let heads = partitions().map(|at| link_of(at, self.map.head(at))).collect();
        let tails = partitions().map(|at| link_of(at, self.map.read_tail(at))).collect();
        let strong = partitions().map(|at| link_of(at, self.map.tail(at))).collect();
        let any = partitions().map(|at| {
            let servers = self.map.any_of(at, session.id).map(|server| link_of(at, Some(server)));
            let is_open =
                |link: &u32| links.all.get(*link as usize).is_some_and(super::link::Link::is_open);
            servers.clone().find(is_open).or(servers.clone().next()).unwrap_or(nowhere)
        });
        let any = any.collect();
        self.heads = Routes::new(heads);
        self.tails = Routes::new(tails);
        self.strong = Routes::new(strong);
        self.any = Routes::new(any);
        scratch.by_link.resize_with(links.all.len() + 1, LinkScratch::default);
        self.generation += 1;
    }

    /// The replica that a pull reads.
    #[inline]
    pub(super) fn replica_of(&self, from: PullFrom) -> Replica {
        match from {
            PullFrom::Tail => Replica::Tail,
            PullFrom::Any if self.map.replicas <= 1 => Replica::Tail,
            PullFrom::Any => Replica::Any,
            PullFrom::Strong => Replica::Strong,
        }
    }

    /// The routes to one replica.
    #[inline]
    pub(super) fn routes(&self, replica: Replica) -> &Routes {
        match replica {
            Replica::Head => &self.heads,
            Replica::Tail => &self.tails,
            Replica::Any => &self.any,
            Replica::Strong => &self.strong,
        }
    }

    /// Rows from `first` on, before `end`, that one link leads to.
    pub(super) fn rows_at_one_link(
        &self,
        replica: Replica,
        layout: &Layout,
        first: u64,
        end: u64,
    ) -> (usize, RowRange) {
        let link_of = |row| self.routes(replica).link_of(layout.partition_of(row));
        let link = link_of(first);
        let mut to = layout.rows_of(layout.partition_of(first)).end;
        while to < end && link_of(to) == link {
            to = layout.rows_of(layout.partition_of(to)).end;
        }
        (link, RowRange::new(first, to.min(end)))
    }
}

impl Tables {
    /// The range that keys of a dense table are, if they are one.
    pub(crate) fn as_range(&self, table: TableIndex, keys: &[u64]) -> Option<RowRange> {
        let all = self[table].dense_rows()?;
        consecutive(keys).filter(|rows| rows.end <= all)
    }

    /// Checks a list of keys, and tells whether they ascend strictly: others have to be sorted first.
    pub(crate) fn check_keys(&self, table: TableIndex, keys: &[u64]) -> Result<bool, RequestError> {
        if self[table].rows_lost {
            return Err(RequestError::RowsLost);
        }
        if keys.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Ok(false);
        }
        match (self[table].dense_rows(), keys.last()) {
            (Some(rows), Some(&row)) if row >= rows => Err(RequestError::OutOfRange { row, rows }),
            _ => Ok(true),
        }
    }

    /// Checks a range of rows of a dense table.
    pub(super) fn check_range(
        &self,
        table: TableIndex,
        rows: RowRange,
    ) -> Result<(), RequestError> {
        let state = &self[table];
        match state.dense_rows() {
            _ if state.rows_lost => Err(RequestError::RowsLost),
            None => Err(RequestError::RangeOfSparse),
            Some(all) if rows.end > all => {
                Err(RequestError::OutOfRange { row: rows.end - 1, rows: all })
            }
            Some(_) => Ok(()),
        }
    }

    /// Checks the rows of a prepared operation, and tells whether its keys are sorted.
    pub(crate) fn check_rows(
        &self,
        table: TableIndex,
        keys: &[u64],
        range: Option<&std::ops::Range<u64>>,
    ) -> Result<bool, RequestError> {
        match range {
            Some(rows) => {
                let rows = RowRange::new(rows.start, rows.end.max(rows.start));
                self.check_range(table, rows).map(|()| true)
            }
            None => self.check_keys(table, keys),
        }
    }

    /// Checks that there is room for exactly the values of a pull.
    pub(crate) fn check_length(
        &self,
        table: TableIndex,
        expected: usize,
        found: usize,
    ) -> Result<(), RequestError> {
        if expected == found {
            return Ok(());
        }
        let width = self[table].entry.schema.width;
        let rows = expected as u64 / u64::from(width);
        Err(self.length_error(table, rows, found))
    }

    /// Values do not fit the rows.
    pub(crate) fn length_error(&self, table: TableIndex, rows: u64, found: usize) -> RequestError {
        let width = self[table].entry.schema.width;
        let expected = rows.saturating_mul(u64::from(width));
        RequestError::Length { rows, width, expected, found: found as u64 }
    }
}

/// The range that keys are, if they are one.
fn consecutive(keys: &[u64]) -> Option<RowRange> {
    let (first, last) = (*keys.first()?, *keys.last()?);
    // The last key there is has no end behind it.
    let end = last.checked_add(1)?;
    if last < first || end - first != keys.len() as u64 {
        return None;
    }
    // All of them at once, which the compiler makes vectors of.
    let strays = keys
        .iter()
        .zip(0_u64..)
        .fold(0, |strays, (key, at)| strays | (key ^ first.wrapping_add(at)));
    (strays == 0).then(|| RowRange::new(first, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_order_are_a_range_and_nothing_else() {
        assert_eq!(consecutive(&[7]), Some(RowRange::new(7, 8)));
        assert_eq!(consecutive(&[7, 8, 9]), Some(RowRange::new(7, 10)));
        let others: [&[u64]; 7] =
            [&[], &[7, 9], &[7, 8, 8, 10], &[7, 9, 8, 10], &[9, 8, 7], &[7, 7], &[u64::MAX]];
        for keys in others {
            assert_eq!(consecutive(keys), None, "{keys:?}");
        }
    }
}
