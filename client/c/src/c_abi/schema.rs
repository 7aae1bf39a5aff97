//! Schemas of tables, and the numbers in them.

use std::ffi::{CString, c_char};

use windlass_client::{
    Aggregation, Consistency, DataType, Durability, Expiry, Initializer, NotFinitePolicy,
    TableKind, TableSchema, UpdateRule,
};

use super::{
    arguments::{SizedStruct, optional_text, sized},
    status::WindlassStatus,
};
use crate::{failure::Failure, guard::c_text};

/// Types of values.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindlassDtype {
    /// float.
    F32 = 0,
    /// double.
    F64 = 1,
    /// IEEE 754 binary16, 2 bytes.
    F16 = 2,
    /// bfloat16, the upper half of a float, 2 bytes.
    Bf16 = 3,
    /// int8_t.
    I8 = 4,
    /// int32_t.
    I32 = 5,
    /// int64_t.
    I64 = 6,
    /// uint64_t.
    U64 = 7,
}

/// Kinds of tables.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindlassKind {
    /// Rows 0 to rows - 1, all there from the start, pulled by one-sided reads.
    Dense = 0,
    /// Any 64-bit key; a row is made by the first push to it and reads as zero before.
    Sparse = 1,
}

/// What an acknowledged push has survived.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindlassDurability {
    /// It is in the memory of every live replica.
    Memory = 0,
    /// As memory, and on disk within durability_interval_ms.
    Interval = 1,
    /// It is on disk on every live replica.
    Sync = 2,
}

/// What happens to pushed values that are NaN or infinite.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindlassNotFinite {
    /// They are applied like any other value.
    Accept = 0,
    /// The whole push is refused. What is looked at is what is pushed: finite values whose sum, or what the
    /// rule makes of them, is more than the dtype holds are applied, and make their row infinite.
    Reject = 1,
}

/// Which pushes a pull may miss.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindlassConsistency {
    /// Whatever has not arrived: asynchronous.
    Eventual = 0,
    /// Those of the last `staleness` rounds.
    Bounded = 1,
    /// None of the rounds before: bulk synchronous.
    Sequential = 2,
}

/// How pushes of one clock are combined.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindlassAggregation {
    /// Whatever has arrived is summed and applied.
    Immediate = 0,
    /// Pushes of one worker clock are summed until `quorum` workers contributed, then applied once.
    Rounds = 1,
}

/// What a table is. Set `size` to sizeof(windlass_schema), width, and rows for a dense table; zero
/// is a sensible default for everything else.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WindlassSchema {
    /// sizeof(windlass_schema).
    pub size: usize,
    /// A windlass_dtype.
    pub dtype: u32,
    /// Values per row, from 1.
    pub width: u32,
    /// A windlass_kind.
    pub kind: u32,
    /// Servers that hold each row, from 1; 0 means 1.
    pub replicas: u32,
    /// Rows of a dense table.
    pub rows: u64,
    /// How a push changes a row: "add", "assign", "sgd:lr=0.1,momentum=0.9", "adagrad:lr=0.1",
    /// "row-adagrad:lr=0.1", "rmsprop:decay=0.9", "adam:lr=0.001", "ftrl:alpha=0.1,l1=1"; NULL for "add".
    pub rule: *const c_char,
    /// A windlass_durability.
    pub durability: u32,
    /// Milliseconds, from 1, for WINDLASS_DURABILITY_INTERVAL.
    pub durability_interval_ms: u32,
    /// A windlass_not_finite.
    pub not_finite: u32,
    /// A windlass_consistency.
    pub consistency: u32,
    /// Rounds, for WINDLASS_CONSISTENCY_BOUNDED.
    pub staleness: u64,
    /// A windlass_aggregation.
    pub aggregation: u32,
    /// Workers that close a round, for WINDLASS_AGGREGATION_ROUNDS; 0 for all.
    pub quorum: u32,
    /// Whether a push that is late for its round is added to the next (else dropped).
    pub fold_late: u32,
    /// Zero.
    pub reserved: u32,
    /// What rows of a sparse table begin with, in pulls before and in pushes: "zero", "constant:0.5",
    /// "uniform:-0.01,0.01", "normal:0,0.02", "truncated-normal:0,0.02", the last three also with ",seed=7"; NULL
    /// for "zero".
    pub initializer: *const c_char,
    /// Which rows of a sparse table go by themselves: "never"; "age:7d", those that nothing was pushed to for that long (s,
    /// m, h or d of service); "rows:1000000", the oldest of more than that; or "age:7d,rows:1000000"; NULL for "never".
    pub expiry: *const c_char,
}

const _: () = assert!(size_of::<WindlassSchema>() == 96);

// SAFETY: `repr(C)`, begins with `size`, has no padding (96 bytes are the sum of the fields), and
// holds integers and a raw pointer only.
unsafe impl SizedStruct for WindlassSchema {
    const NAME: &'static str = "windlass_schema";
}

impl Default for WindlassSchema {
    fn default() -> Self {
        Self {
            size: 0,
            dtype: 0,
            width: 0,
            kind: 0,
            replicas: 0,
            rows: 0,
            rule: std::ptr::null(),
            durability: 0,
            durability_interval_ms: 0,
            not_finite: 0,
            consistency: 0,
            staleness: 0,
            aggregation: 0,
            quorum: 0,
            fold_late: 0,
            reserved: 0,
            initializer: std::ptr::null(),
            expiry: std::ptr::null(),
        }
    }
}

/// What C means by its schema.
///
/// # Safety
/// `given` is NULL or as its documentation says.
pub(super) unsafe fn table_schema(given: *const WindlassSchema) -> Result<TableSchema, Failure> {
    if given.is_null() {
        return Err(Failure::null(WindlassSchema::NAME));
    }
    // SAFETY: the caller's promise is the same.
    let given = unsafe { sized(given) }?;
    // SAFETY: the struct's documentation asks for NULL or a text.
    let rule = unsafe { optional_text(given.rule, "rule") }?.unwrap_or("add");
    let rule: UpdateRule = rule.parse().map_err(|error| invalid(&error))?;
    // SAFETY: as for the rule.
    let initializer = unsafe { optional_text(given.initializer, "initializer") }?.unwrap_or("zero");
    let initializer: Initializer = initializer.parse().map_err(|error| invalid(&error))?;
    // SAFETY: as for the rule.
    let expiry = unsafe { optional_text(given.expiry, "expiry") }?.unwrap_or("never");
    let expiry = expiry_of(expiry)?;
    let schema = TableSchema {
        initializer,
        expiry,
        first_rule: None,
        dtype: dtype(given.dtype)?,
        width: given.width,
        kind: match given.kind {
            0 => TableKind::Dense { rows: given.rows },
            1 => TableKind::Sparse {},
            other => return Err(unknown("kind", other)),
        },
        rule,
        consistency: consistency_of(given.consistency, given.staleness)?,
        replicas: u8::try_from(given.replicas.max(1)).unwrap_or(u8::MAX),
        durability: match given.durability {
            0 => Durability::Memory {},
            1 => Durability::Interval { milliseconds: given.durability_interval_ms },
            2 => Durability::Sync {},
            other => return Err(unknown("durability", other)),
        },
        not_finite: match given.not_finite {
            0 => NotFinitePolicy::Accept {},
            1 => NotFinitePolicy::Reject {},
            other => return Err(unknown("not_finite", other)),
        },
        aggregation: match given.aggregation {
            0 => Aggregation::Immediate {},
            1 => Aggregation::Rounds { quorum: given.quorum, fold_late: given.fold_late != 0 },
            other => return Err(unknown("aggregation", other)),
        },
    };
    schema.validate().map_err(|error| invalid(&error))?;
    Ok(schema)
}

/// What a text means as an expiry.
pub(super) fn expiry_of(text: &str) -> Result<Expiry, Failure> {
    text.parse().map_err(|error| invalid(&error))
}

/// What a schema for C points to.
#[derive(Debug)]
pub(super) struct SchemaTexts {
    rule: CString,
    initializer: CString,
    expiry: CString,
}

impl SchemaTexts {
    /// The texts of a schema.
    pub(super) fn of(schema: &TableSchema) -> Self {
        Self {
            rule: c_text(&schema.rule.to_string()),
            initializer: c_text(&schema.initializer.to_string()),
            expiry: c_text(&schema.expiry.to_string()),
        }
    }
}

/// A schema for C. `texts` are its own and have to outlive the result.
pub(super) fn c_schema(schema: &TableSchema, texts: &SchemaTexts) -> WindlassSchema {
    let mut fields = WindlassSchema {
        dtype: schema.dtype as u32,
        width: schema.width,
        replicas: u32::from(schema.replicas),
        rule: texts.rule.as_ptr(),
        initializer: texts.initializer.as_ptr(),
        expiry: texts.expiry.as_ptr(),
        ..WindlassSchema::default()
    };
    match schema.kind {
        TableKind::Dense { rows } => fields.rows = rows,
        TableKind::Sparse {} => fields.kind = WindlassKind::Sparse as u32,
    }
    match schema.durability {
        Durability::Memory {} => {}
        Durability::Interval { milliseconds } => {
            fields.durability = WindlassDurability::Interval as u32;
            fields.durability_interval_ms = milliseconds;
        }
        Durability::Sync {} => fields.durability = WindlassDurability::Sync as u32,
    }
    if schema.not_finite == (NotFinitePolicy::Reject {}) {
        fields.not_finite = WindlassNotFinite::Reject as u32;
    }
    match schema.consistency {
        Consistency::Eventual {} => {}
        Consistency::Bounded { tau } => {
            fields.consistency = WindlassConsistency::Bounded as u32;
            fields.staleness = tau;
        }
        Consistency::Sequential {} => fields.consistency = WindlassConsistency::Sequential as u32,
    }
    if let Aggregation::Rounds { quorum, fold_late } = schema.aggregation {
        fields.aggregation = WindlassAggregation::Rounds as u32;
        fields.quorum = quorum;
        fields.fold_late = u32::from(fold_late);
    }
    fields
}

/// A windlass_consistency, with the rounds of a bounded one.
pub(super) fn consistency_of(number: u32, staleness: u64) -> Result<Consistency, Failure> {
    match number {
        0 => Ok(Consistency::Eventual {}),
        1 => Ok(Consistency::Bounded { tau: staleness }),
        2 => Ok(Consistency::Sequential {}),
        other => Err(unknown("consistency", other)),
    }
}

/// A dtype by its number.
pub(super) fn dtype(number: u32) -> Result<DataType, Failure> {
    u8::try_from(number)
        .ok()
        .and_then(DataType::from_number)
        .ok_or_else(|| unknown("dtype", number))
}

fn unknown(field: &str, number: u32) -> Failure {
    Failure::argument(format!("{number} is no value of {field}: use the constants of windlass.h"))
}

fn invalid(error: &dyn std::error::Error) -> Failure {
    let mut text = error.to_string();
    if let Some(cause) = error.source() {
        text.push_str(": ");
        text.push_str(&cause.to_string());
    }
    Failure::new(WindlassStatus::InvalidSchema, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dtypes_have_the_numbers_of_the_wire() {
        let named = [
            (WindlassDtype::F32, DataType::F32),
            (WindlassDtype::F64, DataType::F64),
            (WindlassDtype::F16, DataType::F16),
            (WindlassDtype::Bf16, DataType::Bf16),
            (WindlassDtype::I8, DataType::I8),
            (WindlassDtype::I32, DataType::I32),
            (WindlassDtype::I64, DataType::I64),
            (WindlassDtype::U64, DataType::U64),
        ];
        assert_eq!(named.len(), DataType::ALL.len());
        for (here, there) in named {
            assert_eq!(here as u32, there as u32);
            assert_eq!(dtype(here as u32).unwrap(), there);
        }
        assert!(dtype(8).is_err());
        assert!(dtype(256).is_err());
    }

    #[test]
    fn schemas_survive_the_way_through_c() {
        let schema = TableSchema {
            rule: "adam:lr=0.5".parse().unwrap(),
            consistency: Consistency::Bounded { tau: 3 },
            replicas: 2,
            durability: Durability::Interval { milliseconds: 20 },
            not_finite: NotFinitePolicy::Reject {},
            aggregation: Aggregation::Rounds { quorum: 4, fold_late: true },
            initializer: "normal:0.5,2,seed=9".parse().unwrap(),
            expiry: "age:7d,rows:9".parse().unwrap(),
            ..TableSchema::sparse(DataType::F32, 7)
        };
        let texts = SchemaTexts::of(&schema);
        let mut fields = c_schema(&schema, &texts);
        fields.size = size_of::<WindlassSchema>();
        // SAFETY: a whole struct, with its size and a live text.
        assert_eq!(unsafe { table_schema(&raw const fields) }.unwrap(), schema);
    }

    #[test]
    fn older_and_newer_headers_are_understood() {
        let mut fields = WindlassSchema { width: 3, rows: 9, ..WindlassSchema::default() };
        fields.size = 32;
        fields.durability = 77;
        // SAFETY: a whole struct that says it is shorter; its rule is not looked at.
        let schema = unsafe { table_schema(&raw const fields) }.unwrap();
        assert_eq!(schema, TableSchema::dense(DataType::F32, 9, 3));

        #[repr(C)]
        struct Newer {
            known: WindlassSchema,
            field: u64,
        }
        let mut newer = Newer { known: fields, field: 0 };
        newer.known.durability = 0;
        newer.known.size = size_of::<Newer>();
        // SAFETY: a struct of the size it says.
        assert!(unsafe { table_schema((&raw const newer).cast()) }.is_ok());
        newer.field = 1;
        // SAFETY: as above.
        let failure = unsafe { table_schema((&raw const newer).cast()) }.unwrap_err();
        assert!(failure.text.contains("does not know"), "{}", failure.text);
        newer.known.size = 0;
        // SAFETY: its size is readable.
        assert!(unsafe { table_schema((&raw const newer).cast()) }.is_err());
    }
}
