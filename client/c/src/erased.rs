//! Tables whose dtype is known at run time only: values come and go as bytes.

use windlass_client::{
    Client, Element, PendingPull, Prepared, PullOptions, PushOptions, RowSelection, RowWord, Scan,
    ScanBatch, ScanColumns, ScanCursor, ScanOptions, Table, TableEntry, TableKind, TableSchema,
    Timestamp,
};

use crate::{
    bags::ErasedBags,
    c_abi::{registered::Registered, scan::WindlassScanBatch, status::WindlassStatus},
    failure::Failure,
    sparsify::ErasedSparsify,
};

/// A table.
pub(crate) trait ErasedTable: ErasedBags + ErasedSparsify {
    fn entry(&self) -> TableEntry;
    fn wait_for_workers(&self, count: u64) -> Result<(), Failure>;
    fn push(
        &self,
        rows: RowSelection<'_>,
        values: &[u8],
        options: &PushOptions,
    ) -> Result<Timestamp, Failure>;
    fn push_buffer(
        &self,
        rows: RowSelection<'_>,
        buffer: &Registered,
        first_value: usize,
        options: &PushOptions,
    ) -> Result<Timestamp, Failure>;
    fn pull_into(
        &self,
        rows: RowSelection<'_>,
        into: &mut [u8],
        options: &PullOptions,
    ) -> Result<(), Failure>;
    fn start_pull(
        &self,
        rows: RowSelection<'_>,
        options: &PullOptions,
    ) -> Result<Box<dyn ErasedPull>, Failure>;
    fn prepare(&self, rows: RowSelection<'_>) -> Result<Box<dyn ErasedPrepared>, Failure>;
    fn remove(&self, keys: &[u64]) -> Result<u64, Failure>;
    fn remove_below(&self, norm: f64) -> Result<u64, Failure>;
    fn scan(
        &self,
        cursor: Option<ScanCursor>,
        options: &ScanOptions,
    ) -> Result<Box<dyn ErasedScan>, Failure>;
}

/// A pull under way.
pub(crate) trait ErasedPull {
    fn timestamp(&self) -> Timestamp;
    fn wait_into(self: Box<Self>, into: &mut [u8]) -> Result<(), Failure>;
}

/// Calls `$body` with the Rust type of a dtype.
macro_rules! with_element {
    ($dtype:expr, $element:ident => $body:expr) => {{
        use windlass_client::DataType;
        match $dtype {
            DataType::F32 => {
                type $element = f32;
                $body
            }
            DataType::F64 => {
                type $element = f64;
                $body
            }
            DataType::F16 => {
                type $element = half::f16;
                $body
            }
            DataType::Bf16 => {
                type $element = half::bf16;
                $body
            }
            DataType::I8 => {
                type $element = i8;
                $body
            }
            DataType::I32 => {
                type $element = i32;
                $body
            }
            DataType::I64 => {
                type $element = i64;
                $body
            }
            DataType::U64 => {
                type $element = u64;
                $body
            }
        }
    }};
}
pub(crate) use with_element;

/// Creates a table, or opens the equal one.
pub(crate) fn create_table(
    client: &Client,
    name: &str,
    schema: &TableSchema,
) -> Result<Box<dyn ErasedTable>, Failure> {
    with_element!(schema.dtype, T => Ok(Box::new(client.create_table::<T>(name, schema)?)))
}

/// Opens a table with the dtype it has.
pub(crate) fn open_table(client: &Client, name: &str) -> Result<Box<dyn ErasedTable>, Failure> {
    let dtype = client.table_entry(name)?.schema.dtype;
    with_element!(dtype, T => Ok(Box::new(client.open_table::<T>(name)?)))
}

/// Whether pulls of the table may overtake pushes made before them: one-sided ones do.
pub(crate) fn pulls_overtake(table: &dyn ErasedTable) -> bool {
    matches!(table.entry().schema.kind, TableKind::Dense { .. })
}

impl<T: Element> ErasedTable for Table<T> {
    fn entry(&self) -> TableEntry {
        Self::entry(self)
    }

    fn push(
        &self,
        rows: RowSelection<'_>,
        values: &[u8],
        options: &PushOptions,
    ) -> Result<Timestamp, Failure> {
        Ok(Self::push(self, rows, typed(values)?, options)?.timestamp())
    }

    fn push_buffer(
        &self,
        rows: RowSelection<'_>,
        buffer: &Registered,
        first_value: usize,
        options: &PushOptions,
    ) -> Result<Timestamp, Failure> {
        if buffer.dtype() != T::DTYPE {
            let text = format!("the table holds {}, the buffer {}", T::DTYPE, buffer.dtype());
            return Err(Failure::new(WindlassStatus::WrongDtype, text));
        }
        buffer.push(self, rows, first_value, options)
    }

    fn pull_into(
        &self,
        rows: RowSelection<'_>,
        into: &mut [u8],
        options: &PullOptions,
    ) -> Result<(), Failure> {
        Ok(Self::pull_into(self, rows, typed_mut(into)?, options)?)
    }

    fn start_pull(
        &self,
        rows: RowSelection<'_>,
        options: &PullOptions,
    ) -> Result<Box<dyn ErasedPull>, Failure> {
        Ok(Box::new(self.pull(rows, options)?))
    }

    fn prepare(&self, rows: RowSelection<'_>) -> Result<Box<dyn ErasedPrepared>, Failure> {
        Ok(Box::new(Self::prepare(self, rows)?))
    }

    fn remove(&self, keys: &[u64]) -> Result<u64, Failure> {
        Ok(Self::remove(self, keys)?)
    }

    fn remove_below(&self, norm: f64) -> Result<u64, Failure> {
        Ok(Self::remove_below(self, norm)?)
    }

    fn wait_for_workers(&self, count: u64) -> Result<(), Failure> {
        Ok(Self::wait_for_workers(self, count)?)
    }

    fn scan(
        &self,
        cursor: Option<ScanCursor>,
        options: &ScanOptions,
    ) -> Result<Box<dyn ErasedScan>, Failure> {
        let scan = match cursor {
            Some(cursor) => self.scan_from(cursor, options)?,
            None => Self::scan(self, options)?,
        };
        let (schema, columns) = (self.schema(), options.columns);
        Ok(Box::new(Scanned { schema, columns, scan, batch: ScanBatch::default() }))
    }
}

/// A scan under way.
pub(crate) trait ErasedScan {
    /// Takes in the next rows; false at the end.
    fn next(&mut self) -> Result<bool, Failure>;
    /// Those rows, where they lie until the next are taken in.
    fn batch(&self) -> WindlassScanBatch;
    fn cursor(&self) -> ScanCursor;
}

/// A scan with the rows that it brought last.
struct Scanned<T: Element> {
    schema: TableSchema,
    columns: ScanColumns,
    scan: Scan<T>,
    batch: ScanBatch<T>,
}

impl<T: Element> ErasedScan for Scanned<T> {
    fn next(&mut self) -> Result<bool, Failure> {
        Ok(self.scan.next_into(&mut self.batch)?)
    }

    fn batch(&self) -> WindlassScanBatch {
        let Self { schema, columns, batch, .. } = self;
        let given = |is_given: bool, at: *const std::ffi::c_void| {
            if is_given { at } else { std::ptr::null() }
        };
        WindlassScanBatch {
            size: size_of::<WindlassScanBatch>(),
            row_count: batch.keys.len(),
            keys: batch.keys.as_ptr(),
            values: given(*columns != ScanColumns::Keys, batch.values.as_ptr().cast()),
            state: given(*columns == ScanColumns::State, batch.state.as_ptr().cast()),
            state_len: batch.state_len,
            state_planes: u32::try_from(schema.rule.state_width()).unwrap_or(u32::MAX),
            row_word: match schema.rule.row_word() {
                None => 0,
                Some(RowWord::Steps) => 1,
                Some(RowWord::Number(_)) => 2,
            },
        }
    }

    fn cursor(&self) -> ScanCursor {
        self.scan.cursor()
    }
}

impl<T: Element> ErasedPull for PendingPull<T> {
    fn timestamp(&self) -> Timestamp {
        Self::timestamp(self)
    }

    fn wait_into(self: Box<Self>, into: &mut [u8]) -> Result<(), Failure> {
        Ok(Self::wait_into(*self, typed_mut(into)?)?)
    }
}

/// Rows fixed once.
pub(crate) trait ErasedPrepared {
    /// The values, when no push reads them any more: their address and how many there are.
    fn values(&mut self) -> Result<(*mut u8, usize), Failure>;
    fn push(&mut self, options: &PushOptions) -> Result<Timestamp, Failure>;
    fn pull(&mut self, options: &PullOptions) -> Result<(), Failure>;
}

impl<T: Element> ErasedPrepared for Prepared<T> {
    fn values(&mut self) -> Result<(*mut u8, usize), Failure> {
        let values = self.values_mut()?;
        Ok((values.as_mut_ptr().cast(), values.len()))
    }

    fn push(&mut self, options: &PushOptions) -> Result<Timestamp, Failure> {
        Ok(Self::push(self, options)?)
    }

    fn pull(&mut self, options: &PullOptions) -> Result<(), Failure> {
        Self::pull(self, options)?;
        Ok(())
    }
}

/// Bytes as values; the number of bytes is a multiple of their size.
pub(crate) fn typed<T: Element>(bytes: &[u8]) -> Result<&[T], Failure> {
    if bytes.is_empty() {
        return Ok(&[]);
    }
    bytemuck::try_cast_slice(bytes).map_err(|_| misaligned::<T>())
}

pub(crate) fn typed_mut<T: Element>(bytes: &mut [u8]) -> Result<&mut [T], Failure> {
    if bytes.is_empty() {
        return Ok(&mut []);
    }
    bytemuck::try_cast_slice_mut(bytes).map_err(|_| misaligned::<T>())
}

fn misaligned<T: Element>() -> Failure {
    Failure::argument(format!(
        "values of {} must be aligned to {} bytes",
        T::DTYPE,
        align_of::<T>()
    ))
}
