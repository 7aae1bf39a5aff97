//! Looking after the fabric of this host: what `windlass fabric {list,up,down,check}` shows and
//! does. Everything returned is plain data; nothing is printed here.

mod check;
mod finding;
mod host;
mod link;
mod netlink;

pub use check::check;
pub use finding::{Finding, Preflight, Verdict};
pub use host::{Capability, Interface, ModuleState, interfaces, module_state};
pub use link::{DownError, LinkUp, UpError, default_interface, down, up};

pub use crate::verbs::device::{DeviceInfo, GidInfo, GidKind, Link, PortInfo, devices as list};
