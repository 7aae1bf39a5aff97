//! What a table is: its schema as users give it, and its encoding.

use crate::{
    codec::{DecodeError, Reader, Wire},
    dtype::DataType,
    expiry::{Expiry, ExpiryError},
    ids::TableId,
    initializer::{Initializer, InitializerError},
    request::WIDTH_MAX,
    rule::{RuleError, UpdateRule},
};

/// Whether rows are numbered without gaps or named by any key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// Rows `0..rows`, all present from the start, pulled by one-sided reads.
    Dense {
        /// Number of rows.
        rows: u64,
    },
    /// Any 64-bit key; a row is made by the first push to it.
    Sparse {},
}

/// Which pushes a pull may miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Every worker's pushes of the rounds before: bulk synchronous.
    Sequential {},
    /// All but those of the last `tau` rounds: stale synchronous.
    Bounded {
        /// The bound in rounds.
        tau: u64,
    },
    /// Whatever has arrived.
    Eventual {},
}

/// What an acknowledged push has survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is in the memory of every live replica.
    Memory {},
    /// As `Memory`, and on disk within so many milliseconds.
    Interval {
        /// Milliseconds, from 1.
        milliseconds: u32,
    },
    /// It is on disk on every live replica.
    Sync {},
}

/// What happens to pushed values that are NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFinitePolicy {
    /// They are applied like any other value.
    Accept {},
    /// The whole push is refused. What is looked at is what is pushed: finite values whose sum, or what the
    /// rule makes of them, is more than the dtype holds are applied, and make their row infinite.
    Reject {},
}

/// How pushes of one clock are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// Each turn's sum is applied.
    Immediate {},
    /// Pushes of one worker clock are summed until `quorum` workers contributed, then applied once.
    Rounds {
        /// How many workers close a round; zero for all.
        quorum: u32,
        /// Whether a late push is added to the next round (or dropped).
        fold_late: bool,
    },
}

/// A table's schema.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSchema {
    /// Element type.
    pub dtype: DataType,
    /// Values per row, from 1.
    pub width: u32,
    /// Dense or sparse.
    pub kind: TableKind,
    /// How a push changes a row.
    pub rule: UpdateRule,
    /// The rule that the table was created with, if hyper-parameters were changed since.
    pub first_rule: Option<Box<UpdateRule>>,
    /// Staleness of pulls.
    pub consistency: Consistency,
    /// Servers that hold each partition, from 1.
    pub replicas: u8,
    /// When a push is acknowledged.
    pub durability: Durability,
    /// NaN policy.
    pub not_finite: NotFinitePolicy,
    /// Turn or round.
    pub aggregation: Aggregation,
    /// What rows of a sparse table begin with.
    pub initializer: Initializer,
    /// Which rows of a sparse table go by themselves.
    pub expiry: Expiry,
}

/// Most replicas of a partition.
pub const REPLICAS_MAX: u8 = 8;

/// Most rows of a dense table.
pub const DENSE_ROWS_MAX: u64 = 1 << 40;

/// Most bytes of a table's name.
pub const TABLE_NAME_LEN_MAX: usize = 255;

/// Why a schema or a table's name is not valid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SchemaError {
    /// The name is empty, too long or has control characters.
    #[error(
        "table name {name} is not valid: use 1 to {TABLE_NAME_LEN_MAX} bytes without control characters"
    )]
    Name {
        /// The name in quotes, or its start and its length.
        name: String,
    },
    /// The width is out of bounds.
    #[error("width {width} is not valid: use 1 to {WIDTH_MAX} values per row")]
    Width {
        /// The width.
        width: u32,
    },
    /// The number of rows is out of bounds.
    #[error(
        "{rows} rows are not valid for a dense table: use 1 to {DENSE_ROWS_MAX}, or a sparse table"
    )]
    Rows {
        /// The rows.
        rows: u64,
    },
    /// The number of replicas is out of bounds.
    #[error("{replicas} replicas are not valid: use 1 to {REPLICAS_MAX}")]
    Replicas {
        /// The replicas.
        replicas: u8,
    },
    /// The write-back interval is zero.
    #[error("a durability interval of 0 ms is not valid: use at least 1 ms, or sync")]
    Interval,
    /// The rule's hyper-parameters or dtype are not valid.
    #[error("the update rule is not valid")]
    Rule {
        /// Why.
        source: RuleError,
    },
    /// What rows begin with is not valid.
    #[error("the initializer is not valid")]
    Initializer {
        /// Why.
        source: InitializerError,
    },
    /// Rows cannot go by themselves.
    #[error("the expiry is not valid")]
    Expiry {
        /// Why.
        source: ExpiryError,
    },
    /// Rows are too large for one request.
    #[error("a row of {bytes} bytes is too large: the most is {max} bytes")]
    RowTooLarge {
        /// Bytes of a row.
        bytes: u64,
        /// Most bytes of a row.
        max: u64,
    },
}

/// Most bytes of one row: a row always fits one request.
pub const ROW_LEN_MAX: u64 = crate::request::VALUES_LEN_MAX / 4;

impl TableSchema {
    /// A dense table of `rows` rows with the rule `add`, one replica, in memory.
    #[must_use]
    pub fn dense(dtype: DataType, rows: u64, width: u32) -> Self {
        Self {
            dtype,
            width,
            kind: TableKind::Dense { rows },
            rule: UpdateRule::Add,
            first_rule: None,
            consistency: Consistency::Eventual {},
            replicas: 1,
            durability: Durability::Memory {},
            not_finite: NotFinitePolicy::Accept {},
            aggregation: Aggregation::Immediate {},
            initializer: Initializer::Zero {},
            expiry: Expiry::default(),
        }
    }

    /// A sparse table with the rule `add`, one replica, in memory.
    #[must_use]
    pub fn sparse(dtype: DataType, width: u32) -> Self {
        Self { kind: TableKind::Sparse {}, ..Self::dense(dtype, 1, width) }
    }

    /// Has pushes go by a rule with other hyper-parameters.
    pub fn change_rule(&mut self, rule: UpdateRule) {
        self.first_rule.get_or_insert(Box::new(self.rule));
        self.rule = rule;
    }

    /// The rule that the table was created with.
    #[must_use]
    pub fn rule_at_creation(&self) -> UpdateRule {
        self.first_rule.as_deref().copied().unwrap_or(self.rule)
    }

    /// Bytes of one row's values.
    #[must_use]
    pub fn row_len(&self) -> u64 {
        u64::from(self.width) * self.dtype.size() as u64
    }

    /// Bytes of the optimiser's state values of one row.
    #[must_use]
    pub fn state_planes_len(&self) -> u64 {
        let value = UpdateRule::state_value_size(self.dtype) as u64;
        self.rule.state_width() as u64 * u64::from(self.width) * value
    }

    /// Bytes of one row's state as it is saved: its state values, and its row word if the rule has one.
    #[must_use]
    pub fn state_len(&self) -> u64 {
        self.state_planes_len() + if self.rule.row_word().is_some() { 4 } else { 0 }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first that is out of its bounds.
    pub fn validate(&self) -> Result<(), SchemaError> {
        if self.width == 0 || self.width > WIDTH_MAX {
            return Err(SchemaError::Width { width: self.width });
        }
        if self.row_len() > ROW_LEN_MAX {
            return Err(SchemaError::RowTooLarge { bytes: self.row_len(), max: ROW_LEN_MAX });
        }
        if let TableKind::Dense { rows } = self.kind
            && (rows == 0 || rows > DENSE_ROWS_MAX)
        {
            return Err(SchemaError::Rows { rows });
        }
        if self.replicas == 0 || self.replicas > REPLICAS_MAX {
            return Err(SchemaError::Replicas { replicas: self.replicas });
        }
        if self.durability == (Durability::Interval { milliseconds: 0 }) {
            return Err(SchemaError::Interval);
        }
        for rule in [self.rule, self.rule_at_creation()] {
            rule.validate().map_err(|source| SchemaError::Rule { source })?;
            if !rule.has_state_of(&self.rule) {
                let source = RuleError::State { rule: rule.name() };
                return Err(SchemaError::Rule { source });
            }
        }
        self.rule.check_dtype(self.dtype).map_err(|source| SchemaError::Rule { source })?;
        match self.kind {
            TableKind::Dense { .. } if !self.initializer.is_zero() => Err(InitializerError::Dense),
            _ => self.initializer.validate(self.dtype),
        }
        .map_err(|source| SchemaError::Initializer { source })?;
        if matches!(self.kind, TableKind::Dense { .. }) && !self.expiry.is_never() {
            return Err(SchemaError::Expiry { source: ExpiryError::Dense });
        }
        Ok(())
    }
}

/// Checks a table's name.
///
/// # Errors
/// When it is empty, too long or has control characters.
pub fn validate_table_name(name: &str) -> Result<(), SchemaError> {
    let valid =
        !name.is_empty() && name.len() <= TABLE_NAME_LEN_MAX && !name.chars().any(char::is_control);
    if valid { Ok(()) } else { Err(SchemaError::Name { name: shown(name) }) }
}

/// A name that is told to somebody, who may have sent one of any length.
fn shown(name: &str) -> String {
    const SHOWN_MAX: usize = 32;
    match name.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) if name.len() > TABLE_NAME_LEN_MAX => {
            format!("{:?}... of {} bytes", &name[..end], name.len())
        }
        _ => format!("{name:?}"),
    }
}

/// A table as the catalogue holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct TableEntry {
    /// Its number.
    pub id: TableId,
    /// Its name.
    pub name: String,
    /// Its schema.
    pub schema: TableSchema,
}

crate::codec::wire_enum!(TableKind { 0 => Dense { rows }, 1 => Sparse {} });
crate::codec::wire_enum!(Consistency { 0 => Sequential {}, 1 => Bounded { tau }, 2 => Eventual {} });
crate::codec::wire_enum!(Durability { 0 => Memory {}, 1 => Interval { milliseconds }, 2 => Sync {} });
crate::codec::wire_enum!(NotFinitePolicy { 0 => Accept {}, 1 => Reject {} });
crate::codec::wire_enum!(Aggregation { 0 => Immediate {}, 1 => Rounds { quorum, fold_late } });
crate::codec::wire_struct!(TableEntry { id, name, schema });

impl Wire for DataType {
    fn encode(&self, into: &mut Vec<u8>) {
        into.push(*self as u8);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = u8::decode(from)?;
        Self::from_number(number)
            .ok_or(DecodeError::Unknown { field: "dtype", value: u64::from(number) })
    }
}

/// Byte of the first rule's encoding that says what follows; of a rule by itself it is zero.
const FOLLOWS_AT: usize = 2;

/// The rule at creation follows: it is another one.
const ANOTHER_RULE: u8 = 1;

/// The initializer follows: it is not zero.
const INITIALIZER: u8 = 2;

/// The expiry follows: rows go by themselves.
const EXPIRY: u8 = 4;

/// The fields in their order; `rule` is followed by the rule at creation where that is another one, then by the
/// initializer where that is not zero, then by the expiry where rows go by themselves.
impl Wire for TableSchema {
    fn encode(&self, into: &mut Vec<u8>) {
        self.dtype.encode(into);
        self.width.encode(into);
        self.kind.encode(into);
        let rule_at = into.len();
        Wire::encode(&self.rule, into);
        let another_rule = u8::from(self.first_rule.is_some()) * ANOTHER_RULE;
        let initializer = u8::from(!self.initializer.is_zero()) * INITIALIZER;
        let expiry = u8::from(!self.expiry.is_never()) * EXPIRY;
        into[rule_at + FOLLOWS_AT] = another_rule | initializer | expiry;
        self.first_rule.iter().for_each(|first| Wire::encode(first.as_ref(), into));
        if !self.initializer.is_zero() {
            self.initializer.encode(into);
        }
        if !self.expiry.is_never() {
            self.expiry.encode(into);
        }
        self.consistency.encode(into);
        self.replicas.encode(into);
        self.durability.encode(into);
        self.not_finite.encode(into);
        self.aggregation.encode(into);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (dtype, width, kind) = (Wire::decode(from)?, Wire::decode(from)?, Wire::decode(from)?);
        let mut rule: [u8; UpdateRule::PLAIN_LENGTH] = from.array()?;
        let follows = std::mem::take(&mut rule[FOLLOWS_AT]);
        if follows & !(ANOTHER_RULE | INITIALIZER | EXPIRY) != 0 {
            return Err(DecodeError::Unknown { field: "rule", value: u64::from(follows) });
        }
        let rule = UpdateRule::decode_behind(rule, from)?;
        let first_rule = match follows & ANOTHER_RULE {
            0 => None,
            _ => Some(Box::new(Wire::decode(from)?)),
        };
        let initializer = match follows & INITIALIZER {
            0 => Initializer::Zero {},
            _ => match Wire::decode(from)? {
                Initializer::Zero {} => {
                    return Err(DecodeError::Unknown { field: "initializer", value: 0 });
                }
                initializer => initializer,
            },
        };
        let expiry = match follows & EXPIRY {
            0 => Expiry::default(),
            _ => Wire::decode(from)?,
        };
        if follows & EXPIRY != 0 && expiry.is_never() {
            return Err(DecodeError::Unknown { field: "expiry", value: 0 });
        }
        Ok(Self {
            dtype,
            width,
            kind,
            rule,
            first_rule,
            consistency: Wire::decode(from)?,
            replicas: Wire::decode(from)?,
            durability: Wire::decode(from)?,
            not_finite: Wire::decode(from)?,
            aggregation: Wire::decode(from)?,
            initializer,
            expiry,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_round_trip() {
        let schema = TableSchema {
            durability: Durability::Interval { milliseconds: 20 },
            aggregation: Aggregation::Rounds { quorum: 3, fold_late: true },
            initializer: "normal:0,0.02,seed=3".parse().unwrap(),
            expiry: "age:2h,rows:5000".parse().unwrap(),
            ..TableSchema::sparse(DataType::Bf16, 128)
        };
        assert_eq!(TableSchema::from_bytes(&schema.to_bytes()), Ok(schema));
    }

    #[test]
    fn a_changed_rule_and_the_first_one_round_trip() {
        let rule = |text: &str| text.parse::<UpdateRule>().unwrap();
        let mut schema = TableSchema {
            rule: rule("sgd:lr=0.5,momentum=0.5"),
            ..TableSchema::sparse(DataType::F32, 4)
        };
        let plain = schema.to_bytes();
        schema.change_rule(rule("sgd:lr=0.25,momentum=0.5"));
        schema.change_rule(rule("sgd:lr=0.125,momentum=0.5"));
        assert_eq!(schema.rule_at_creation(), rule("sgd:lr=0.5,momentum=0.5"));
        assert_eq!(schema.validate(), Ok(()));
        let bytes = schema.to_bytes();
        assert_eq!(bytes.len(), plain.len() + UpdateRule::PLAIN_LENGTH);
        assert_eq!(TableSchema::from_bytes(&bytes), Ok(schema.clone()));
        schema.initializer = Initializer::Constant { value: 0.5 };
        assert_eq!(TableSchema::from_bytes(&schema.to_bytes()), Ok(schema.clone()));
        schema.first_rule = Some(Box::new(rule("sgd:lr=0.5")));
        assert!(schema.validate().is_err(), "rows of the one lack the state of the other");
    }

    #[test]
    fn invalid_schemas_are_refused() {
        assert!(TableSchema::dense(DataType::F32, 0, 1).validate().is_err());
        assert!(TableSchema::dense(DataType::F32, 1, 0).validate().is_err());
        assert!(TableSchema::dense(DataType::F32, 1, WIDTH_MAX).validate().is_err());
        assert!(TableSchema::sparse(DataType::U64, 3).validate().is_ok());
        let constant =
            |schema| TableSchema { initializer: "constant:1".parse().unwrap(), ..schema };
        assert!(constant(TableSchema::sparse(DataType::U64, 3)).validate().is_ok());
        assert!(constant(TableSchema::dense(DataType::F32, 1, 1)).validate().is_err());
        assert!(validate_table_name("").is_err());
        assert!(validate_table_name("embedding/0").is_ok());
    }

    #[test]
    fn a_name_that_is_refused_is_told_in_a_line() {
        let told = |name: &str| validate_table_name(name).unwrap_err().to_string();
        assert!(told("a\nb").starts_with(r#"table name "a\nb" is not valid"#));
        let long = told(&"ä".repeat(500_000));
        assert!(long.contains("... of 1000000 bytes is not valid"), "{long}");
        assert!(long.len() < 200, "{} bytes", long.len());
        assert!(told(&"\u{1}".repeat(TABLE_NAME_LEN_MAX + 1)).len() < 400);
    }
}
