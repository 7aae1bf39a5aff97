//! A client that keeps to no rule: it speaks the control protocol just far enough to get a mailbox,
//! and then writes into it whatever it likes, by the transports alone.

mod cases;
mod extremes;
mod frames;
mod session;

pub use cases::{Outcome, Tally, attack_mailbox};
pub use extremes::attack_with_extremes;
pub use frames::attack_control_port;
pub use session::{Hostile, OWN_LEN, Target};
