//! Chains, range clocks, placement and membership as pure state machines.
