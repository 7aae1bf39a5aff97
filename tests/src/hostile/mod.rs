//! A client that keeps to no rule: it speaks the control protocol just far enough to get a mailbox,
//! and then writes into it whatever it likes, by the transports alone.

mod cases;
mod frames;
mod session;

pub use cases::{Outcome, Tally, attack_mailbox};
pub use frames::attack_control_port;
pub use session::{Hostile, Target};
