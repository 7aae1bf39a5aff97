//! The rule of a table at a shard, and of each record.
//!
//! Hyper-parameters can be changed while a table is in use. From the first change on every record of pushed rows says by
//! which rule it is applied:
//!
//! ```text
//! delta of a record     values of its rows | the rule's bytes, if the record's tag has the bit RULE
//! ```
//!
//! A record without the bit goes by the rule that the table was created with. So each member of a chain applies a record as its
//! head did, whatever it has been told itself by then, and so do recoveries, in the order of the log.
//!
//! *Why in each record, and not a record of its own that holds from there on:* every partition would have a rule as part of its
//! state, which copies to learners, checkpoints and recoveries onto other shards would have to carry at one position with its
//! rows. 80 bytes, and only in tables whose hyper-parameters were changed, cost less than being wrong in one of them.

use windlass_wire::{DataType, TableEntry, TableSchema, UpdateRule};

use super::{chain, tables::Tables};
use crate::{
    persist::record::Record,
    update::{Accumulator, Kernel, KernelError},
};

/// Bit of a record's tag: its delta ends with the rule.
pub(super) const RULE: u16 = 8;

/// What a table's pushes are applied by.
#[derive(Debug)]
pub(super) struct TableRule {
    now: Kernels,
    /// Once hyper-parameters were changed.
    changed: Option<Box<Changed>>,
}

#[derive(Debug)]
struct Changed {
    /// The rule in force.
    bytes: [u8; UpdateRule::ENCODED_LENGTH],
    /// The kernels of the rule that the table was created with.
    first: Kernels,
}

/// One rule, for values as they are pushed and for sums of them.
#[derive(Clone, Copy, Debug)]
struct Kernels {
    pushed: Kernel,
    sums: Kernel,
}

impl Kernels {
    fn new(rule: UpdateRule, dtype: DataType) -> Result<Self, KernelError> {
        Ok(Self {
            pushed: Kernel::new(rule, dtype, dtype)?,
            sums: Kernel::new(rule, dtype, Accumulator::sum_dtype(dtype))?,
        })
    }

    /// The one for gradients of a dtype.
    fn of_gradient(&self, dtype: DataType) -> Option<Kernel> {
        [&self.pushed, &self.sums].into_iter().find(|one| one.gradient_dtype() == dtype).copied()
    }
}

impl TableRule {
    /// The rule of a schema.
    pub(super) fn new(schema: &TableSchema) -> Result<Self, KernelError> {
        let now = Kernels::new(schema.rule_at_creation(), schema.dtype)?;
        let mut rule = Self { now, changed: None };
        if schema.first_rule.is_some() {
            rule.change(schema.rule)?;
        }
        Ok(rule)
    }

    /// Goes by this rule from now on.
    pub(super) fn change(&mut self, rule: UpdateRule) -> Result<(), KernelError> {
        let first = self.changed.as_ref().map_or(self.now, |changed| changed.first);
        assert!(rule.has_state_of(first.pushed.rule()), "rows keep the state they have");
        self.now = Kernels::new(rule, self.now.pushed.table_dtype())?;
        self.changed = Some(Box::new(Changed { bytes: rule.encode(), first }));
        Ok(())
    }

    /// Applies pushed values.
    #[inline]
    pub(super) fn pushed(&self) -> &Kernel {
        &self.now.pushed
    }

    /// Applies sums of pushed values.
    #[inline]
    pub(super) fn sums(&self) -> &Kernel {
        &self.now.sums
    }

    /// What the delta of a record ends with, behind its values.
    pub(super) fn suffix(&self) -> &[u8] {
        self.changed.as_ref().map_or(&[], |changed| &changed.bytes)
    }

    /// The bit that says so.
    pub(super) fn tag(&self) -> u16 {
        if self.changed.is_some() { RULE } else { 0 }
    }

    /// The kernel that applies a record of pushed rows, and its values. `None` for one that is of no table with
    /// this schema.
    pub(super) fn of_record<'a>(&self, record: &Record<'a>) -> Option<(Kernel, &'a [u8])> {
        if record.tag() & RULE == 0 {
            let first = self.changed.as_ref().map_or(&self.now, |changed| &changed.first);
            return Some((first.of_gradient(record.dtype())?, record.delta()));
        }
        let (values, rule) = record.delta().split_last_chunk()?;
        Some((self.kernels_of(rule)?.of_gradient(record.dtype())?, values))
    }

    /// Mostly the rule in force; another one where a record was made before a change, or where this server
    /// was not told of one yet.
    fn kernels_of(&self, bytes: &[u8; UpdateRule::ENCODED_LENGTH]) -> Option<Kernels> {
        if self.changed.as_ref().is_some_and(|changed| changed.bytes == *bytes) {
            return Some(self.now);
        }
        let rule = UpdateRule::decode(bytes).ok()?;
        // A kernel of another rule would look for state that rows do not have.
        let fits = rule.has_state_of(self.now.pushed.rule());
        if fits { Kernels::new(rule, self.now.pushed.table_dtype()).ok() } else { None }
    }
}

impl Tables {
    /// Takes over what of a table can change while it is in use. Pushes of later turns go by it.
    pub(super) fn alter_table(&mut self, entry: &TableEntry) -> Result<(), String> {
        let (id, schema) = (entry.id, &entry.schema);
        self.set_consistency(id, schema.consistency);
        let Some(table) = self.by_id.get_mut(&id) else { return Ok(()) };
        if schema.first_rule.is_some() && schema.rule != table.entry.schema.rule {
            table.rule.change(schema.rule).map_err(|error| chain(&error))?;
            table.entry.schema.change_rule(schema.rule);
        }
        table.entry.schema.expiry = schema.expiry;
        Ok(())
    }
}
