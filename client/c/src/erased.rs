//! Tables whose dtype is known at run time only: values come and go as bytes.

use windlass_client::{
    Client, Element, PendingPull, Prepared, PullOptions, PushOptions, RowSelection, Table,
    TableEntry, TableKind, TableSchema, Timestamp,
};

use crate::{
    c_abi::{registered::Registered, status::WindlassStatus},
    failure::Failure,
};

/// A table.
pub(crate) trait ErasedTable {
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
}

/// A pull under way.
pub(crate) trait ErasedPull {
    fn timestamp(&self) -> Timestamp;
    fn wait_into(self: Box<Self>, into: &mut [u8]) -> Result<(), Failure>;
}

/// Rows fixed once.
pub(crate) trait ErasedPrepared {
    /// The values, when no push reads them any more: their address and how many there are.
    fn values(&mut self) -> Result<(*mut u8, usize), Failure>;
    fn push(&mut self, options: &PushOptions) -> Result<Timestamp, Failure>;
    fn pull(&mut self, options: &PullOptions) -> Result<(), Failure>;
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

    fn wait_for_workers(&self, count: u64) -> Result<(), Failure> {
        Ok(Self::wait_for_workers(self, count)?)
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

fn typed_mut<T: Element>(bytes: &mut [u8]) -> Result<&mut [T], Failure> {
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
