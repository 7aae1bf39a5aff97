//! The kernel of one table: its rule, dtypes and processor turned into one function pointer.
#![allow(unsafe_code)]

use windlass_wire::{
    DataType,
    rule::{RuleError, UpdateRule},
};

use super::kernels::{apply::Apply, path::Path, select::select, steps::Constants};

pub use super::kernels::apply::Run;

/// Applies one update rule to contiguous rows; chosen when a table is made, called for every push.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    apply: Apply,
    constants: Constants,
    rule: UpdateRule,
    table: DataType,
    gradient: DataType,
    path: Path,
}

impl Kernel {
    /// The fastest kernel of this processor for values of dtype `table` and gradients of dtype
    /// `gradient`: the same one, or `f32` for any float table, or `f16` or `bf16` for an `f32` table.
    ///
    /// # Errors
    /// [`KernelError`] where the rule is not valid or does not take these dtypes.
    pub fn new(rule: UpdateRule, table: DataType, gradient: DataType) -> Result<Self, KernelError> {
        Self::on(rule, table, gradient, Path::best())
    }

    /// As [`Kernel::new`], by this path: for tests and benchmarks.
    ///
    /// # Errors
    /// [`KernelError`], also where this processor lacks the path.
    pub fn on(
        rule: UpdateRule,
        table: DataType,
        gradient: DataType,
        path: Path,
    ) -> Result<Self, KernelError> {
        rule.validate()?;
        rule.check_dtype(table)?;
        if !path.is_available() {
            return Err(KernelError::Path { path });
        }
        let apply = select(&rule, table, gradient, path)
            .ok_or(KernelError::Gradient { table, gradient })?;
        Ok(Self { apply, constants: Constants::new(&rule), rule, table, gradient, path })
    }

    /// Applies the rule to a run of rows: `run.rows * run.width` values by one indirect call.
    ///
    /// # Safety
    /// Everything that [`Run`] asks for.
    #[inline]
    pub unsafe fn apply(&self, run: &Run) {
        // SAFETY: the caller promises the run, and the path was available when this was made.
        unsafe { (self.apply)(&self.constants, run) }
    }

    /// The rule.
    #[must_use]
    pub const fn rule(&self) -> &UpdateRule {
        &self.rule
    }

    /// The dtype of the values.
    #[must_use]
    pub const fn table_dtype(&self) -> DataType {
        self.table
    }

    /// The dtype of the gradients.
    #[must_use]
    pub const fn gradient_dtype(&self) -> DataType {
        self.gradient
    }

    /// The vector instructions used.
    #[must_use]
    pub const fn path(&self) -> Path {
        self.path
    }
}

/// Why there is no kernel.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum KernelError {
    /// The rule itself.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// Gradients of this dtype cannot be applied.
    #[error("{gradient} gradients cannot be applied to {table} values; push {table} values")]
    Gradient {
        /// Dtype of the table.
        table: DataType,
        /// Dtype of the gradients.
        gradient: DataType,
    },
    /// The processor lacks the instructions.
    #[error("this processor has no {path} instructions; let the path be chosen")]
    Path {
        /// The path asked for.
        path: Path,
    },
}
