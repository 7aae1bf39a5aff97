//! Windlass servers inside the trainer's own process.
