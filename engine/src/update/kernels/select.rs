//! Rule, dtypes and path to the one function that applies them.

use half::{bf16, f16};
use windlass_wire::DataType;

use super::{
    apply::{Apply, float, integer_add},
    integer::copy,
    pairs::{Of, Pair},
    path::Path,
    steps::{Adagrad, Adam, Add, Assign, Ftrl, Momentum, Rmsprop, RmspropMomentum, Sgd},
};
use crate::update::UpdateRule;

/// The function for this table, or `None` where the rule does not take these dtypes.
pub(in super::super) fn select(
    rule: &UpdateRule,
    table: DataType,
    gradient: DataType,
    path: Path,
) -> Option<Apply> {
    use DataType::{Bf16, F16, F32, F64, I8, I32, I64, U64};
    if matches!(rule, UpdateRule::Assign) && table == gradient {
        return Some(match table.size() {
            1 => copy::<1>,
            2 => copy::<2>,
            4 => copy::<4>,
            _ => copy::<8>,
        });
    }
    Some(match (table, gradient) {
        (F32, F32) => of_rule::<Of<f32, f32>>(rule, path),
        (F32, F16) => of_rule::<Of<f32, f16>>(rule, path),
        (F32, Bf16) => of_rule::<Of<f32, bf16>>(rule, path),
        (F64, F64) => of_rule::<Of<f64, f64>>(rule, path),
        (F64, F32) => of_rule::<Of<f64, f32>>(rule, path),
        (F16, F16) => of_rule::<Of<f16, f16>>(rule, path),
        (F16, F32) => of_rule::<Of<f16, f32>>(rule, path),
        (Bf16, Bf16) => of_rule::<Of<bf16, bf16>>(rule, path),
        (Bf16, F32) => of_rule::<Of<bf16, f32>>(rule, path),
        _ if !matches!(rule, UpdateRule::Add) => return None,
        (I8, I8) => integer_add::<i8>(path),
        (I32, I32) => integer_add::<i32>(path),
        (I64, I64) => integer_add::<i64>(path),
        (U64, U64) => integer_add::<u64>(path),
        _ => return None,
    })
}

fn of_rule<P: Pair>(rule: &UpdateRule, path: Path) -> Apply {
    match rule {
        UpdateRule::Add => float::<P, Add>(path),
        UpdateRule::Assign => float::<P, Assign>(path),
        UpdateRule::Sgd { .. } if rule.state_width() == 0 => float::<P, Sgd>(path),
        UpdateRule::Sgd { .. } => float::<P, Momentum>(path),
        UpdateRule::Adagrad { .. } => float::<P, Adagrad>(path),
        UpdateRule::Adam { .. } => float::<P, Adam>(path),
        UpdateRule::Ftrl { .. } => float::<P, Ftrl>(path),
        UpdateRule::Rmsprop { .. } if rule.state_width() == 1 => float::<P, Rmsprop>(path),
        UpdateRule::Rmsprop { .. } => float::<P, RmspropMomentum>(path),
    }
}
