//! Rule, dtypes and path to the one function that applies them.

use half::{bf16, f16};
use windlass_wire::DataType;

use super::{
    apply::{Apply, SourceOf, float, integer_add},
    integer::copy,
    path::Path,
    real::Constants,
    steps::{Adagrad, Adam, Add, Assign, Ftrl, Momentum, Sgd, constants},
    value::Value,
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
        (F32, F32) => of_rule::<f32, f32>(rule, path),
        (F32, F16) => of_rule::<f32, f16>(rule, path),
        (F32, Bf16) => of_rule::<f32, bf16>(rule, path),
        (F64, F64) => of_rule::<f64, f64>(rule, path),
        (F64, F32) => of_rule::<f64, f32>(rule, path),
        (F16, F16) => of_rule::<f16, f16>(rule, path),
        (F16, F32) => of_rule::<f16, f32>(rule, path),
        (Bf16, Bf16) => of_rule::<bf16, bf16>(rule, path),
        (Bf16, F32) => of_rule::<bf16, f32>(rule, path),
        _ if !matches!(rule, UpdateRule::Add) => return None,
        (I8, I8) => integer_add::<i8>(path),
        (I32, I32) => integer_add::<i32>(path),
        (I64, I64) => integer_add::<i64>(path),
        (U64, U64) => integer_add::<u64>(path),
        _ => return None,
    })
}

fn of_rule<V: Value, G: SourceOf<V>>(rule: &UpdateRule, path: Path) -> Apply {
    match rule {
        UpdateRule::Add => float::<V, G, Add>(path),
        UpdateRule::Assign => float::<V, G, Assign>(path),
        UpdateRule::Sgd { .. } if rule.state_width() == 0 => float::<V, G, Sgd<V::Compute>>(path),
        UpdateRule::Sgd { .. } => float::<V, G, Momentum<V::Compute>>(path),
        UpdateRule::Adagrad { .. } => float::<V, G, Adagrad<V::Compute>>(path),
        UpdateRule::Adam { .. } => float::<V, G, Adam<V::Compute>>(path),
        UpdateRule::Ftrl { .. } => float::<V, G, Ftrl<V::Compute>>(path),
    }
}

/// The rule's constants, rounded to both precisions.
pub(in super::super) fn constants_of(rule: &UpdateRule) -> Constants {
    Constants::new(constants(rule))
}
