//! Which gates a plan raises.

use super::Plan;
use super::gate::Gate;
use crate::observed::Observed;

pub fn evaluate(plan: &Plan, observed: &Observed) -> Vec<Gate> {
    Vec::new()
}

pub fn judge_approval(plan: &mut Plan) {}
