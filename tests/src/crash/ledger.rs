//! What a client sent to servers whose power goes, what was acknowledged as durable, and what the rows must
//! hold for that.

use std::{collections::BTreeMap, time::Duration};

use windlass_client::{
    Client, ClientOptions, Consistency, Durability, Element, PendingPush, PullOptions, PushOptions,
    RequestError, Table, TableSchema, WorkerClock, WorkerRank, chain,
};
use windlass_engine::table::piece_of;
use windlass_wire::map::mix;

use super::random::Random;

/// Partitions of the servers that are pushed to.
pub const PARTITIONS: u32 = 8;
/// Pushes that wait for their answers at once.
const WINDOW: usize = 6;
/// Width of the rows of which a few make a piece that is longer than a block of a checkpoint.
const WIDE: u32 = 36 << 10;

/// A table, and what is special about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// Each push in the log.
    Dense,
    Sparse,
    /// The log has images of its rows.
    Imaged,
    /// A few rows of one piece are longer than a block.
    Wide,
    /// Rows with optimiser state: where it is lost, the next push shows it.
    Adagrad,
    /// With a worker's clock.
    Clocked,
}

use Subject::{Adagrad, Clocked, Dense, Imaged, Sparse, Wide};

const SUBJECTS: [Subject; 6] = [Dense, Sparse, Imaged, Wide, Adagrad, Clocked];

impl Subject {
    const fn rows(self) -> u64 {
        if matches!(self, Wide) { 4 } else { 96 }
    }

    const fn width(self) -> u32 {
        if matches!(self, Wide) { WIDE } else { 2 }
    }

    fn schema(self) -> TableSchema {
        let schema = match self {
            Sparse | Wide => TableSchema::sparse(f64::DTYPE, self.width()),
            _ => TableSchema::dense(f64::DTYPE, self.rows(), self.width()),
        };
        let durability = Durability::Sync {};
        match self {
            Imaged => {
                TableSchema { durability: Durability::Interval { milliseconds: 3 }, ..schema }
            }
            Adagrad => {
                let rule = "adagrad:lr=1".parse().expect("a rule");
                TableSchema { durability, rule, ..schema }
            }
            Clocked => {
                let consistency = Consistency::Bounded { tau: 1 };
                TableSchema { durability, consistency, ..schema }
            }
            _ => TableSchema { durability, ..schema },
        }
    }

    /// What a value is after so many pushes of one.
    fn value_after(self, pushes: u64) -> f64 {
        match self {
            Adagrad => -(1..=pushes).map(|number| 1.0 / (number as f64).sqrt()).sum::<f64>(),
            _ => pushes as f64,
        }
    }

    /// Sparse keys are far from each other, two of which are of one partition; wide ones of one piece.
    fn key_of(self, row: u64) -> u64 {
        let is_key = |key: &u64| match self {
            Wide => mix(*key) % u64::from(PARTITIONS) == 3 && piece_of(*key) == 77,
            _ => mix(*key) % u64::from(PARTITIONS) == row / 2 % u64::from(PARTITIONS),
        };
        match self {
            Sparse | Wide => (0..).map(|salt| row << 32 | salt).find(is_key).expect("some are"),
            _ => row,
        }
    }
}

/// What is known of one row, or of the worker's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    /// Pushes that were sent, and how many of them are durable for certain.
    sent: u64,
    kept: u64,
}

/// A push under way.
#[derive(Debug)]
struct Under {
    subject: Subject,
    first: u64,
    /// Pushes of the row up to this one.
    sent: u64,
    push: PendingPush<f64>,
    is_durable: bool,
}

/// A connected client, and its tables.
#[derive(Debug)]
pub struct Tables {
    /// The client.
    pub client: Client,
    tables: BTreeMap<Subject, Table<f64>>,
    pending: Vec<Under>,
}

impl Tables {
    /// Connects as the worker of rank 0; `None` when the servers are gone.
    #[must_use]
    pub fn open(address: &str, retry_for: Duration, timeout: Duration) -> Option<Self> {
        let rank = Some(WorkerRank(0));
        let options = ClientOptions { retry_for, timeout, rank, ..ClientOptions::default() };
        let client = Client::connect_with(address, options).ok()?;
        let open = |subject: Subject| {
            let name = format!("{subject:?}").to_lowercase();
            let table = client.create_table::<f64>(&name, &subject.schema()).ok()?;
            Some((subject, table))
        };
        let tables = SUBJECTS.into_iter().map(open).collect::<Option<_>>()?;
        Some(Self { client, tables, pending: Vec::new() })
    }

    /// Ends as a killed process does: the worker has not left.
    pub fn vanish(self) {
        drop((self.tables, self.pending));
        self.client.vanish();
    }
}

/// What rows must hold.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    known: BTreeMap<(Subject, u64), Known>,
    clock: Known,
    keys: BTreeMap<(Subject, u64), u64>,
    /// Pushes acknowledged as durable.
    pub promised: u64,
    /// What failed last.
    pub failure: Option<String>,
}

impl Ledger {
    /// Sends one push, or ends a round; false when that failed.
    pub fn push(&mut self, tables: &mut Tables, random: &mut Random) -> bool {
        if random.one_in(50) {
            return self.advance(tables);
        }
        let subject = match random.below(41) {
            0 => Wide,
            at => [Dense, Sparse, Imaged, Adagrad, Clocked][usize::try_from(at).expect("few") % 5],
        };
        let first = random.below(subject.rows() / 2) * 2;
        let keys = [first, first + 1].map(|row| self.key(subject, row));
        // A turn sums what it finds: of rows with state one push is sent at a time.
        if subject == Adagrad && !self.settle(tables, 0) {
            return false;
        }
        // Both rows in one partition, and so in one record: they stay equal.
        let mut sent = 0;
        for row in [first, first + 1] {
            let known = self.known.entry((subject, row)).or_default();
            known.sent += 1;
            sent = known.sent;
        }
        let is_durable = subject != Imaged || random.one_in(4);
        let options =
            PushOptions { sync: is_durable && subject == Imaged, ..PushOptions::default() };
        let ones = vec![1.0; 2 * subject.width() as usize];
        match tables.tables[&subject].push(&keys, &ones, &options) {
            Ok(push) => tables.pending.push(Under { subject, first, sent, push, is_durable }),
            Err(error) => return self.fail(subject, &error),
        }
        self.settle(tables, if subject == Adagrad { 0 } else { WINDOW })
    }

    /// Waits until no more than so many pushes are under way; false when one failed.
    pub fn settle(&mut self, tables: &mut Tables, most: usize) -> bool {
        while tables.pending.len() > most {
            let Under { subject, first, sent, push, is_durable } = tables.pending.remove(0);
            if let Err(error) = push.wait() {
                // What was sent behind it says nothing of it.
                for under in tables.pending.drain(..) {
                    let _ = under.push.wait();
                }
                return self.fail(subject, &error);
            }
            if is_durable {
                self.promised += 1;
                for row in [first, first + 1] {
                    // Those before it were carried out, and are on disk no later.
                    self.known.entry((subject, row)).or_default().kept = sent;
                }
            }
        }
        true
    }

    /// An end of a round that was not acknowledged may be known in some partitions, and show as soon as
    /// those are reached.
    fn advance(&mut self, tables: &mut Tables) -> bool {
        let next = tables.client.clock().0 + 1;
        self.clock.sent = next.max(self.clock.sent);
        let advanced =
            tables.client.advance_clock().and_then(|timestamp| tables.client.wait(timestamp));
        match advanced {
            Ok(()) => self.clock.kept = next,
            Err(error) => return self.fail(Clocked, &error),
        }
        true
    }

    fn fail(&mut self, subject: Subject, error: &RequestError) -> bool {
        self.failure = Some(format!("{subject:?}: {}", chain(error)));
        false
    }

    /// Compares all rows and the clock; false when they could not be read because the power went.
    ///
    /// # Panics
    /// When one is not what it must be.
    pub fn compare(&mut self, tables: &Tables) -> bool {
        let WorkerClock(clock) = tables.client.clock();
        assert!((self.clock.kept..=self.clock.sent).contains(&clock), "{clock}, {:?}", self.clock);
        self.clock.kept = clock;
        for subject in SUBJECTS {
            let keys: Vec<u64> = (0..subject.rows()).map(|row| self.key(subject, row)).collect();
            let pulled = tables.tables[&subject].pull(&keys, &PullOptions::default());
            let Ok(values) = pulled.and_then(windlass_client::PendingPull::wait) else {
                return false;
            };
            for (row, values) in (0..).zip(values.chunks_exact(subject.width() as usize)) {
                self.compare_row(subject, row, values);
            }
            for first in (0..subject.rows()).step_by(2) {
                let pair = [first, first + 1].map(|row| self.known[&(subject, row)]);
                assert_eq!(pair[0], pair[1], "half a push: rows from {first} of {subject:?}");
            }
        }
        true
    }

    fn compare_row(&mut self, subject: Subject, row: u64, values: &[f64]) {
        let known = self.known.entry((subject, row)).or_default();
        let what = format!("row {row} of {subject:?}: {}, {known:?}", values[0]);
        assert!(values.iter().all(|value| *value == values[0]), "half a row: {what}");
        let is_after = |pushes: &u64| (subject.value_after(*pushes) - values[0]).abs() < 1e-6;
        // A little beyond, to tell what was doubled from what is wrong.
        let found = (0..=known.sent + WINDOW as u64).find(is_after);
        let found = found.unwrap_or_else(|| panic!("no number of pushes makes this: {what}"));
        assert!(found >= known.kept, "lost: {what}");
        assert!(found <= known.sent, "doubled: {what}");
        *known = Known { sent: found, kept: found };
    }

    fn key(&mut self, subject: Subject, row: u64) -> u64 {
        *self.keys.entry((subject, row)).or_insert_with(|| subject.key_of(row))
    }
}
