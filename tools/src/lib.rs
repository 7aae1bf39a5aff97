//! The library behind the `windlass` command.
