//! Rule, dtypes and path to the one function that applies them.

use half::{bf16, f16};
use windlass_wire::DataType;

use super::{
    apply::{Apply, float, integer_add},
    integer::copy,
    pairs::{Of, Pair},
    path::Path,
    steps::{
        Adagrad, Adam, Add, Assign, Ftrl, Limited, Momentum, Rmsprop, RmspropMomentum, RowAdagrad,
        Sgd, Step,
    },
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
        UpdateRule::Sgd { .. } if rule.state_width() == 0 => of_step::<P, Sgd>(rule, path),
        UpdateRule::Sgd { .. } => of_step::<P, Momentum>(rule, path),
        UpdateRule::Adagrad { .. } => of_step::<P, Adagrad>(rule, path),
        UpdateRule::Adam { .. } => of_step::<P, Adam>(rule, path),
        UpdateRule::Ftrl { .. } => of_step::<P, Ftrl>(rule, path),
        UpdateRule::Rmsprop { .. } if rule.state_width() == 1 => of_step::<P, Rmsprop>(rule, path),
        UpdateRule::Rmsprop { .. } => of_step::<P, RmspropMomentum>(rule, path),
        UpdateRule::RowAdagrad { .. } => of_step::<P, RowAdagrad>(rule, path),
    }
}

/// Limits cost those nothing who set none.
fn of_step<P: Pair, S: Step>(rule: &UpdateRule, path: Path) -> Apply {
    assert_eq!(
        S::PLANES,
        rule.state_width(),
        "the kernel of {rule} has the planes of its description"
    );
    if rule.limits().is_none() { float::<P, S>(path) } else { float::<P, Limited<S>>(path) }
}
